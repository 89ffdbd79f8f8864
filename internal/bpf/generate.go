package bpf

// Needs clang and llvm-strip, 14 or newer.
//
// Headers are read by fields and, for checksums, by words: with strict aliasing the
// compiler may think that the two have nothing to do with each other.
//
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go filter filter.c -- -O2 -Wall -Werror -mcpu=v2 -fno-strict-aliasing
