package accel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/gotpa/tpa/internal/recorder"
)

// maxRecordings is how many files of processes that died are kept.
const maxRecordings = 8

// oldRecording is added to the name of a recording that a crash left, where the
// debug socket has a name of its own.
const oldRecording = ".old"

// openRecorder makes the flight recorder. Its file lies with the debug socket and
// is removed with the runtime: one that is left is that of a crash.
func (rt *Runtime) openRecorder() {
	conns := rt.config.Record
	if conns < 0 {
		return
	}
	if conns == 0 {
		conns = recorder.DefaultConns
	}
	o := recorder.Options{Conns: conns, Program: filepath.Base(os.Args[0]), Logger: rt.log}
	var errs []error
	dirs := rt.socketDirs
	if !debugSockets {
		dirs = nil
	} else if name := rt.config.DebugSocket; name != "" && name != socketOff {
		dirs = nil
		o.Path = strings.TrimSuffix(name, ".sock") + ".rec"
		if err := os.Rename(o.Path, o.Path+oldRecording); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		r, err := recorder.New(o)
		if err == nil {
			rt.recorder = r
			return
		}
		errs = append(errs, err)
	}
	for _, dir := range dirs {
		made, err := ownDir(dir)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if made {
			rt.madeDirs = append(rt.madeDirs, dir)
		}
		removeRecordings(dir)
		for n := 1; n < 100; n++ {
			o.Path = filepath.Join(dir, fmt.Sprintf("%d.rec", os.Getpid()))
			if n > 1 {
				o.Path = filepath.Join(dir, fmt.Sprintf("%d-%d.rec", os.Getpid(), n))
			}
			r, err := recorder.New(o)
			if err == nil {
				rt.recorder = r
				return
			}
			if !errors.Is(err, fs.ErrExist) {
				errs = append(errs, err)
				break
			}
		}
	}
	// Better one that does not outlive a crash than none.
	o.Path = ""
	r, err := recorder.New(o)
	if err != nil {
		rt.log.Warn("no flight recorder", "reason", err)
		return
	}
	rt.log.Debug("the flight recorder has no file and will not outlive a crash", "reason", errors.Join(errs...))
	rt.recorder = r
}

// Recording returns a copy of what the flight recorder holds, for tpa-bench trace;
// nil without a recorder.
func (rt *Runtime) Recording() []byte {
	if rt.recorder == nil {
		return nil
	}
	return rt.recorder.Snapshot()
}

// removeRecordings removes files that crashes left, but for the newest.
func removeRecordings(dir string) {
	type left struct {
		path string
		when int64
	}
	var all []left
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), ".rec")
		stem, _, _ = strings.Cut(stem, "-")
		pid, err := strconv.Atoi(stem)
		info, infoErr := e.Info()
		if ok && err == nil && infoErr == nil && ended(pid) {
			all = append(all, left{filepath.Join(dir, e.Name()), info.ModTime().UnixNano()})
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].when > all[j].when })
	for _, l := range all[min(len(all), maxRecordings):] {
		os.Remove(l.path)
	}
}
