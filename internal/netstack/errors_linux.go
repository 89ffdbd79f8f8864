package netstack

import "syscall"

const errNoNet = syscall.ENONET
