//go:build !linux

package netstack

import "syscall"

// Not every system has ENONET.
const errNoNet = syscall.ENETUNREACH
