package virtualtime

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// clockEdits give bubbles the two clocks and the source of numbers that Step,
// Suspend, Timers and chanceEdits build on. A Go that they do not fit cannot run
// the tests.
var clockEdits = []replacement{
	{
		"src/runtime/synctest.go", "type synctestBubble struct {\n", `type synctestBubble struct {
	chance [3]uint64 // of timers, selects, and all else
	wall   int64     // how far the wall clock was moved, in nanoseconds
`,
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
		// For package virtualtime: see its functions Step, Suspend and Timers.
		"src/runtime/synctest.go", "// incActive increments", `
//go:linkname virtualtime_step github.com/gotpa/tpa/test/virtualtime.step
func virtualtime_step(wall, now int64) {
	b := getg().bubble
	b.wall += wall
	b.now += now
}

//go:linkname virtualtime_timers github.com/gotpa/tpa/test/virtualtime.timers
func virtualtime_timers() int {
	ts := &getg().bubble.timers
	return int(ts.len.Load()) - int(ts.zombies.Load())
}

// incActive increments`,
	},
	{
		"src/runtime/synctest.go", `		if next < bubble.now {
			throw("time went backwards")
		}
`, "\t\tnext = max(next, bubble.now)\n",
	},
	{
		"src/runtime/time.go", "\t\tsec = bubble.now / (1000 * 1000 * 1000)\n\t\tnsec = int32(bubble.now % (1000 * 1000 * 1000))\n",
		"\t\tsec = (bubble.now + bubble.wall) / (1000 * 1000 * 1000)\n\t\tnsec = int32((bubble.now + bubble.wall) % (1000 * 1000 * 1000))\n",
	},
	{
		"src/runtime/time.go", "\t\treturn sec, nsec, 0\n", "\t\treturn sec, nsec, bubble.now\n",
	},
}

// The runtime leaves some things to chance. These edits make them depend on the
// bubble instead: each draws from a state that starts the same in every bubble.
// Each has a state of its own: what is made once per process, such as a map that
// the first bubble to need it makes, must not change the order of timers after it.
//
// Each may be missing: then the tests run, but may differ from run to run.
var chanceEdits = []replacement{
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
		// The hash of strings and of pointers, on which the order of maps depends,
		// too: in Go 1.26 here, since Go 1.27 there.
		"src/runtime/alg.go|src/internal/runtime/maps/runtime_alg.go", "\tkey[i] = bootstrapRand()\n", "\tkey[i] = 0x9e3779b97f4a7c15 * uint64(i+1)\n",
	},
	{
		"src/runtime/alg.go|src/internal/runtime/maps/runtime_alg.go", "hashkey[i] = uintptr(bootstrapRand())\n", "hashkey[i] = 0x9e3779b9*uintptr(i+1) | 1\n",
	},
	{
		// A goroutine that ran for 10 ms, as on a loaded machine, loses its turn, and
		// so does one in a system call of 20 µs. In a bubble it has ten seconds: then
		// something else must be able to end the test.
		"src/runtime/proc.go", "func retake(now int64) uint32 {\n", `
// bubbled tells whether a goroutine in a bubble is running.
func bubbled(pp *p) bool {
	if m := pp.m.ptr(); m != nil {
		if gp := m.curg; gp != nil {
			return gp.bubble != nil
		}
	}
	return false
}

func retake(now int64) uint32 {
`,
	},
	{
		"src/runtime/proc.go", "} else if pd.schedwhen+forcePreemptNS <= now {\n", "} else if pd.schedwhen+forcePreemptNS <= now && (!bubbled(pp) || pd.schedwhen+1000*forcePreemptNS <= now) {\n",
	},
	{
		"src/runtime/proc.go", "!sysretake && int64(pd.syscalltick) != syst {\n", "!sysretake && (bubbled(pp) || int64(pd.syscalltick) != syst) {\n",
	},
	{
		// Gosched puts a goroutine into a queue that is looked at in each 61st round,
		// counted from the start of the process.
		"src/runtime/proc.go", "\tif preempted && sched.gcwaiting.Load() {\n", `	if gp.bubble != nil && !preempted {
		runqput(pp, gp, false)
	} else if preempted && sched.gcwaiting.Load() {
`,
	},
	{
		// More than 256 goroutines that are ready overflow into that queue.
		"src/runtime/synctest.go", "\tgp.bubble = bubble\n", "\tgp.bubble = bubble\n\tgp.m.p.ptr().schedtick = 0\n",
	},
	{
		// How long a goroutine has waited for a mutex, after which it is handed over.
		"src/runtime/sema.go", "func internal_sync_nanotime() int64 {\n", `func internal_sync_nanotime() int64 {
	if b := getg().bubble; b != nil {
		return b.now
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

// gVisor reads random numbers of its own in places to which no source can be
// given, such as the identification of IPv4 packets.
var gvisorEdits = []replacement{
	{"pkg/rand/rand_linux.go", "\t\"io\"\n", "\t\"io\"\n\tmathrand \"math/rand/v2\"\n"},
	{
		"pkg/rand/rand_linux.go", "var Reader io.Reader = &bufferedReader{r: bufio.NewReader(&reader{})}\n", `var Reader io.Reader = virtual{}

type virtual struct{}

func (virtual) Read(p []byte) (int, error) {
	for i := 0; i < len(p); i += 8 {
		for j, x := i, mathrand.Uint64(); j < min(i+8, len(p)); j, x = j+1, x>>8 {
			p[j] = byte(x)
		}
	}
	return len(p), nil
}
`,
	},
}

// A replacement is of a piece of text that occurs once in a file: in the first
// of the files, parted by "|", that has it.
type replacement struct{ files, old, new string }

// edit makes the edits in files, which holds edited files by their names below
// dir, and reads the others from dir. It returns the edits that do not fit.
func edit(files map[string][]byte, dir string, edits []replacement) (misfits []replacement, err error) {
	for _, e := range edits {
		fits := false
		for name := range strings.SplitSeq(e.files, "|") {
			src := files[name]
			if src == nil {
				if src, err = os.ReadFile(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
					continue
				} else if err != nil {
					return nil, err
				}
			}
			if fits = bytes.Count(src, []byte(e.old)) == 1; fits {
				files[name] = bytes.Replace(src, []byte(e.old), []byte(e.new), 1)
				break
			}
		}
		if !fits {
			misfits = append(misfits, e)
		}
	}
	return misfits, nil
}

// String tells what the edit looks for.
func (e replacement) String() string { return fmt.Sprintf("%q once in %s", e.old, e.files) }
