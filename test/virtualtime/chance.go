package virtualtime

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// The runtime leaves some things to chance. These edits make them depend on the
// bubble instead: each draws from a state that starts the same in every bubble.
// Each has a state of its own: what is made once per process, such as a map that
// the first bubble to need it makes, must not change the order of timers after it.
var edits = []struct{ file, old, new string }{
	{
		"src/runtime/synctest.go", "type synctestBubble struct {\n", "type synctestBubble struct {\n\tchance [3]uint64 // of timers, selects, and all else\n",
	},
	{
		// splitmix64. A race between Ps would only lose repeatability.
		"src/runtime/synctest.go", "// changegstatus is called when", `
// draw returns the next number of one of the bubble's states.
//
//go:nosplit
func (bubble *synctestBubble) draw(state *uint64) uint64 {
	*state += 0x9e3779b97f4a7c15
	x := *state
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// changegstatus is called when`,
	},
	{
		// Timers that fire at the same instant.
		"src/runtime/time.go", "t.rand = cheaprand()\n", `t.rand = cheaprand()
			if b := getg().bubble; b != nil {
				t.rand = uint32(b.draw(&b.chance[0]))
			}
`,
	},
	{
		// Cases of a select that are ready at once.
		"src/runtime/select.go", "j := cheaprandn(uint32(norder + 1))\n", `j := cheaprandn(uint32(norder + 1))
		if b := getg().bubble; b != nil {
			j = uint32(b.draw(&b.chance[1]) % uint64(norder+1))
		}
`,
	},
	{
		// Maps, and the top-level functions of math/rand.
		"src/runtime/rand.go", "func rand() uint64 {\n", `func rand() uint64 {
	if b := getg().bubble; b != nil {
		return b.draw(&b.chance[2])
	}
`,
	},
}

// patchRuntime returns the edited files by their names below GOROOT.
func patchRuntime(goroot string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, e := range edits {
		if files[e.file] == nil {
			src, err := os.ReadFile(filepath.Join(goroot, e.file))
			if err != nil {
				return nil, err
			}
			files[e.file] = src
		}
		if n := bytes.Count(files[e.file], []byte(e.old)); n != 1 {
			return nil, fmt.Errorf("%s has %q %d times, want once: package virtualtime does not fit this Go", filepath.Join(goroot, e.file), e.old, n)
		}
		files[e.file] = bytes.Replace(files[e.file], []byte(e.old), []byte(e.new), 1)
	}
	return files, nil
}
