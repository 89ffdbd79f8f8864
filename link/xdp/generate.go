//go:build linux

package xdp

// Needs clang and llvm-strip, 14 or newer.
//
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -tags linux filter filter.c -- -O2 -Wall -Werror -mcpu=v2
