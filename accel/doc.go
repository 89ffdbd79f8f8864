// Package accel lets a Go program serve and dial TCP on a stack inside its own
// process, over a network queue that it polls, instead of through the kernel.
//
//	ln, err := accel.Listen("tcp", ":6379") // was net.Listen
//
// Listeners and connections are plain net.Listener and net.Conn values with
// *net.TCPAddr addresses and the errors of package net.
//
// # The runtime
//
// A Runtime owns one device and runs one shard per device queue: a poller, a
// gVisor stack and a flow table. The package-level functions use the default
// runtime, which the first call starts from the TPA_* environment variables
// (see ConfigFromEnv). Programs that want another configuration call New and
// either SetDefault or the fields ListenConfig.Runtime and Dialer.Runtime.
//
// # Fallback
//
// When acceleration cannot start, Config.Fallback decides: Auto serves through
// the kernel, logs the reason once and counts it; Never returns the error. Devices
// are opened on Linux only: elsewhere it cannot start, but with Config.Link.
//
// All functions and methods may be called by any goroutine.
package accel
