//go:build !virtualtime

package virtualtime

// Variables, so that no tool takes what follows a call for dead code.
var (
	step   = func(_, _ int64) { panic("virtualtime: call Main from TestMain") }
	timers = func() int { panic("virtualtime: call Main from TestMain") }
)
