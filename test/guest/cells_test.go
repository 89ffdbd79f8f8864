package guest

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/testnet"
)

var (
	which    = flag.String("guest.cells", "", "which cells to run: short, chosen or all; none by default")
	only     = flag.String("guest.only", "", "run the cells whose names match `REGEXP`")
	keep     = flag.String("guest.programs", "", "build what runs in guests in `DIR` and keep it there; go build leaves alone what is up to date")
	document = flag.String("guest.table", "", "write the table of cells to `FILE`, between its marks; rows of cells that are not run stay")
)

// Modes are ways to drive a card.
const (
	modeXDP    = "xdp"
	modePacket = "packet"
	modeAuto   = "auto" // what a program gets that names the interface only
	modeVFIO   = "vfio" // DPDK behind an IOMMU
	modeUIO    = "uio"  // DPDK without one, by uio_pci_generic
)

// How often a cell is run.
const (
	short  = iota // with every change
	chosen        // by make test-guest
	all           // by make test-guest ALL=1
)

var sets = map[string]int{"short": short, "chosen": chosen, "all": all}

// A cell is a kernel, a card and a way to drive it.
type cell struct {
	kernel, model, mode string
	queues              int    // of the server; 0 for all that are in use
	mtu                 int    // when the server starts; 0 for 1500
	vlan                int    // of a device of DPDK; 0 for none
	refused             string // a part of the reason why no server starts; "" where one does
	set                 int
}

func (c cell) String() string {
	s := fmt.Sprintf("%s/%s/%s", c.kernel, c.model, c.mode)
	if c.queues > 0 {
		s += fmt.Sprintf("/queues=%d", c.queues)
	}
	if c.mtu > 0 {
		s += fmt.Sprintf("/mtu=%d", c.mtu)
	}
	if c.vlan > 0 {
		s += fmt.Sprintf("/vlan=%d", c.vlan)
	}
	return s
}

func (c cell) dpdk() bool { return c.mode == modeVFIO || c.mode == modeUIO }

// cells is the table.
func cells() []cell {
	list := []cell{
		{kernel: "6.1", model: "virtio", mode: modeXDP, set: short},
		{kernel: "6.1", model: "virtio", mode: modeUIO, set: short},
		{kernel: "6.12", model: "virtio-mq", mode: modeVFIO, queues: 2, set: short},
	}
	for _, k := range kernels {
		for _, model := range []string{"virtio", "virtio-mq", "virtio-rss", "virtio-noxc", "e1000e", "vmxnet3", "igb"} {
			set := all
			if k.name == "6.12" || k.name == "5.10" && strings.HasPrefix(model, "virtio") || k.name == "newest" && model != "e1000e" {
				set = chosen
			}
			refused := ""
			if model == "virtio-noxc" {
				refused = "segments are larger than a chunk"
			}
			list = append(list, cell{kernel: k.name, model: model, mode: modeXDP, set: set, refused: refused},
				cell{kernel: k.name, model: model, mode: modePacket, set: all})
		}
		if k.name == "newest" { // the first kernel with zero-copy mode in virtio_net is 6.13
			list = append(list, cell{kernel: k.name, model: "virtio-dma", mode: modeXDP, set: chosen},
				cell{kernel: k.name, model: "virtio-dma", mode: modeXDP, queues: 2, set: chosen})
		}
		list = append(list,
			cell{kernel: k.name, model: "virtio", mode: modeXDP, mtu: 9000, set: chosen},
			cell{kernel: k.name, model: "virtio", mode: modeAuto, mtu: 9000, set: chosen},
			cell{kernel: k.name, model: "virtio-noxc", mode: modeAuto, set: chosen},
			cell{kernel: k.name, model: "virtio-mq", mode: modeXDP, queues: 2, set: all},
			cell{kernel: k.name, model: "virtio-rss", mode: modeXDP, queues: 2, set: chosen},
			cell{kernel: k.name, model: "vmxnet3", mode: modeXDP, mtu: 4000, set: all})
		for _, model := range []string{"virtio", "e1000e", "vmxnet3", "igb"} {
			for _, mode := range []string{modeVFIO, modeUIO} {
				set := all
				if k.name == "6.12" && mode == modeVFIO || k.name == "6.1" && mode == modeUIO {
					set = chosen
				}
				list = append(list, cell{kernel: k.name, model: model, mode: mode, set: set})
			}
		}
		for _, model := range []string{"virtio-mq", "virtio-rss", "igb", "vmxnet3"} {
			list = append(list, cell{kernel: k.name, model: model, mode: modeVFIO, queues: 2, set: all})
		}
		list = append(list, cell{kernel: k.name, model: "e1000e", mode: modeVFIO, queues: 2, set: all, refused: "the device has at most 1"})
		list = append(list, cell{kernel: k.name, model: "virtio-mq", mode: modeVFIO, queues: 4, set: all},
			cell{kernel: k.name, model: "virtio-mq", mode: modeUIO, queues: 4, set: all})
	}
	// What stands twice is the first.
	seen := map[string]bool{}
	return slices.DeleteFunc(list, func(c cell) bool {
		twice := seen[c.String()]
		seen[c.String()] = true
		return twice
	})
}

// A result is what became of a cell.
type result struct {
	cell
	version string // of the kernel, as it names itself
	how     string // how the device said it runs
	failed  []string
	known   string // why it is known to fail
	took    time.Duration
	retrans uint64
	cut     uint64 // frames made from larger segments in software
}

func (r *result) String() string {
	state := "ok   "
	switch {
	case len(r.failed) > 0 && r.known != "":
		state = "known"
	case len(r.failed) > 0:
		state = "FAIL "
	}
	s := fmt.Sprintf("%s %-38s %5.1fs  %s", state, r.cell, r.took.Seconds(), r.how)
	if r.retrans > 0 {
		s += fmt.Sprintf(", %d segments sent again", r.retrans)
	}
	if r.cut > 0 {
		s += fmt.Sprintf(", %d frames cut in software", r.cut)
	}
	if r.known != "" {
		s += "\n      known: " + r.known
	}
	for _, f := range r.failed {
		s += "\n      " + strings.ReplaceAll(f, "\n", "\n        ")
	}
	return s
}

var archives = testnet.Requirement{
	Name: "QEMU and kernels of Debian's archives",
	Probe: func() error {
		for _, tool := range []string{"apt-get", "dpkg-deb", "xz", "zstd", "ldd", "ip", "tc", "ethtool", "/bin/busybox"} {
			if _, err := exec.LookPath(tool); err != nil {
				return err
			}
		}
		_, err := openEmulator(context.Background())
		return err
	},
	Fix: "make test-guest, on a Debian 12 machine that reaches Debian's archives",
}

// A boot is a guest: cells with the same kernel and the same need of an IOMMU
// share it.
type boot struct {
	kernel string
	iommu  bool
}

// newBench builds what guests run, or skips the test.
func newBench(t *testing.T) *bench {
	t.Helper()
	if *which == "" {
		t.Skip("guests take minutes: make test-guest runs them")
	}
	b := &bench{t: t, dir: t.TempDir(), hasDPDK: testnet.DPDK.Probe() == nil}
	var ok bool
	if b.set, ok = sets[*which]; !ok {
		t.Fatalf("-guest.cells=%s: want short, chosen or all", *which)
	}
	var err error
	if b.only, err = regexp.Compile(*only); err != nil {
		t.Fatalf("-guest.only: %v", err)
	}
	testnet.Need(t, testnet.Root, testnet.Netns, archives)
	if b.qemu, err = openEmulator(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.programs, err = build(t.Context(), cmp.Or(*keep, b.dir), b.hasDPDK); err != nil {
		t.Fatal(err)
	}
	b.base = filepath.Join(b.dir, "base")
	if err := base(t.Context(), b.base, b.programs); err != nil {
		t.Fatal(err)
	}
	return b
}

// wants tells whether a cell was asked for.
func (b *bench) wants(c cell) bool {
	return c.set <= b.set && b.only.MatchString(c.String()) && (b.hasDPDK || !c.dpdk())
}

// image returns a kernel, or skips the test where the archive cannot be reached.
func (b *bench) image(t *testing.T, name string) *image {
	t.Helper()
	img, err := kernelNamed(name).open(t.Context())
	if err != nil {
		testnet.Need(t, testnet.Requirement{Name: "Debian's kernel " + name, Probe: func() error { return err }, Fix: archives.Fix})
	}
	return img
}

func TestCells(t *testing.T) {
	b := newBench(t)
	groups := map[boot][]cell{}
	var order []boot
	for _, c := range cells() {
		if !b.wants(c) {
			continue
		}
		g := boot{c.kernel, c.mode == modeVFIO}
		if groups[g] == nil {
			order = append(order, g)
		}
		groups[g] = append(groups[g], c)
	}
	if order == nil {
		t.Skip("no cell was asked for")
	}
	for _, g := range order {
		name := g.kernel
		if g.iommu {
			name += "-iommu"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel() // much of a guest's time is that of one of its processors
			img := b.image(t, g.kernel)
			var models []string
			for _, c := range groups[g] {
				if !slices.Contains(models, c.model) {
					models = append(models, c.model)
				}
			}
			began := time.Now()
			m := b.boot(t, img, g.iommu, models)
			fmt.Printf("      Linux %s booted in %.1fs\n", img.version, time.Since(began).Seconds())
			for _, c := range groups[g] {
				r := &result{cell: c, version: img.version, known: known(c)}
				began := time.Now()
				runCell(m, r)
				r.took = time.Since(began)
				fmt.Println(r)
				b.write(t, "cells", r)
				switch {
				case len(r.failed) > 0 && r.known == "":
					t.Errorf("%s: %s", c, strings.Join(r.failed, "\n"))
				case len(r.failed) == 0 && r.known != "":
					t.Errorf("%s passes and is listed as a known failure: take it out of known_test.go", c)
				}
			}
		})
	}
}

// writing is held while a table is written.
var writing sync.Mutex

// write writes a result into the document that was asked for, at once: a run that is
// ended leaves what it had, and one of some cells changes the rows of those.
func (b *bench) write(t *testing.T, table string, r *result) {
	t.Helper()
	if *document == "" {
		return
	}
	writing.Lock()
	defer writing.Unlock()
	if err := writeTable(*document, table, []*result{r}); err != nil {
		t.Fatal(err)
	}
}

// writeTable puts the results between the table's marks in a file. Rows of cells that
// were not run stay.
func writeTable(name, table string, results []*result) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+table+": written by make test-guest TABLE=docs/nics.md -->\n", "<!-- end of "+table+" -->\n"
	before, rest, ok := strings.Cut(string(b), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no marks for the table of %s", name, table)
	}
	const head = "| kernel | card | by | runs as | result |\n|---|---|---|---|---|\n"
	rows := map[string]string{} // by the cell
	for line := range strings.Lines(old) {
		if f := strings.SplitN(line, "|", 5); len(f) == 5 && !strings.Contains(head, line) {
			rows[strings.Join(f[:4], "|")] = line
		}
	}
	for _, r := range results {
		row := r.row()
		rows[strings.Join(strings.SplitN(row, "|", 5)[:4], "|")] = row
	}
	list := slices.Sorted(maps.Values(rows))
	return os.WriteFile(name, []byte(before+begin+"\n"+head+strings.Join(list, "")+"\n"+end+after), 0o644)
}

// row is the result's line in the table.
func (r *result) row() string {
	outcome := "passes"
	if len(r.failed) > 0 {
		outcome = "**fails**"
		if r.known != "" {
			outcome = "**fails**: " + r.known
		}
	} else if r.refused != "" {
		outcome = "refused, as it should be"
	}
	by := r.mode
	if r.queues > 0 {
		by += fmt.Sprintf(", %d queues", r.queues)
	}
	if r.vlan > 0 {
		by += ", in a VLAN"
	}
	if r.mtu > 0 {
		by += fmt.Sprintf(", MTU %d", r.mtu)
	}
	kernel := r.kernel
	if kernel == "newest" {
		kernel = "newest, " + strings.Join(strings.SplitN(r.version, ".", 3)[:2], ".")
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |\n", kernel, r.model, by, r.how, outcome)
}

// A table keeps what was not run, and replaces what was.
func TestWriteTable(t *testing.T) {
	name := filepath.Join(t.TempDir(), "doc.md")
	const text = "before\n<!-- cells: written by make test-guest TABLE=docs/nics.md -->\n%s<!-- end of cells -->\nafter\n"
	if err := os.WriteFile(name, fmt.Appendf(nil, text, ""), 0o644); err != nil {
		t.Fatal(err)
	}
	one := &result{cell: cell{kernel: "6.12", model: "virtio", mode: modeXDP}, how: "XDP native", failed: []string{"bulk"}}
	two := &result{cell: cell{kernel: "6.1", model: "igb", mode: modeVFIO, queues: 2}, how: "net_igb"}
	for _, results := range [][]*result{{one}, {two}, {{cell: one.cell, how: "XDP native"}}} {
		if err := writeTable(name, "cells", results); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	want := fmt.Sprintf(text, "\n| kernel | card | by | runs as | result |\n|---|---|---|---|---|\n"+
		"| 6.1 | igb | vfio, 2 queues | net_igb | passes |\n| 6.12 | virtio | xdp | XDP native | passes |\n\n")
	if err != nil || string(got) != want {
		t.Errorf("got %v %s\nwant %s", err, got, want)
	}
	if err := writeTable(name, "others", []*result{one}); err == nil {
		t.Error("no error for a table that is not there")
	}
}
