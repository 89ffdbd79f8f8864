package link

import "fmt"

// An InterfaceError says why a kernel interface cannot be used, or is no
// longer there, and what to do about it.
type InterfaceError struct {
	// Interface is the interface's name.
	Interface string
	// Problem is what is wrong, Remedy the way out.
	Problem, Remedy string
	// Err is the cause. It wraps a syscall.Errno where there is one: EPERM, EBUSY,
	// ENODEV, EMSGSIZE, EOPNOTSUPP and others.
	Err error
}

func (e *InterfaceError) Error() string {
	return fmt.Sprintf("%s: %s (%v): %s", e.Interface, e.Problem, e.Err, e.Remedy)
}

func (e *InterfaceError) Unwrap() error { return e.Err }
