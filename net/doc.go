// Package tpanet adapts the TCP endpoints of a user-space stack to net.Conn and
// net.Listener. It stands in the folder net/ and is not the package net of the
// standard library; programs meet it through the values that package accel
// returns.
//
// # The way of the bytes
//
// Read copies from the stack's segments straight into the caller's buffer,
// Write from the caller's buffer straight into the stack's: one copy each way,
// no allocation in the steady state. A goroutine that has to wait parks on a
// waker which the stack asserts when a burst brought something for it: one
// wake-up per goroutine and burst.
//
// # Like package net
//
// Errors, deadlines, half-closing, keep-alive and addresses are those of package
// net over Linux: *net.OpError with the same fields and texts, and an Err that
// errors.Is matches with net.ErrClosed, os.ErrDeadlineExceeded, context errors
// and syscall error numbers. What differs is that there is no file descriptor:
// Conn and Listener have neither File nor SyscallConn. Code that looks for them
// takes its other path: go-redis does not check idle connections before use,
// gRPC cannot set TCP_USER_TIMEOUT.
//
// # Threads
//
// Every method of Conn and Listener may be called by any goroutine at any time.
// TCP announces events with its locks held; that only wakes.
package tpanet
