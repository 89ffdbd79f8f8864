//go:build virtualtime

package virtualtime

import _ "unsafe" // for go:linkname: the two functions are in the edited runtime

//go:linkname step
func step(wall, now int64)

//go:linkname timers
func timers() int
