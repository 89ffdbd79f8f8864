//go:build !virtualtime

package virtualtime

func step(_, _ int64) { panic("virtualtime: call Main from TestMain") }

func timers() int { panic("virtualtime: call Main from TestMain") }
