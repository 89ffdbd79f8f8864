package bpf

// Needs clang and llvm-strip, 14 or newer.
//
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go filter filter.c -- -O2 -Wall -Werror -mcpu=v2
