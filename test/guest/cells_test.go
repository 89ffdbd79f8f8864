package guest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gotpa/tpa/internal/testnet"
)

var (
	which = flag.String("guest.cells", "", "which cells to run: short, chosen or all; none by default")
	only  = flag.String("guest.only", "", "run the cells whose names contain `TEXT`")
	table = flag.String("guest.table", "", "write the table of cells to `FILE`, between its marks")
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
	queues              int // of the server; 0 for all that are in use
	mtu                 int // when the server starts; 0 for 1500
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
	return s
}

func (c cell) dpdk() bool { return c.mode == modeVFIO || c.mode == modeUIO }

// cells is the table.
func cells() []cell {
	list := []cell{
		{kernel: "6.1", model: "virtio", mode: modeXDP, set: short},
		{kernel: "6.1", model: "virtio-mq", mode: modeXDP, set: short},
		{kernel: "6.1", model: "virtio", mode: modeXDP, mtu: 9000, set: short},
		{kernel: "6.1", model: "virtio", mode: modeUIO, set: short},
		{kernel: "6.12", model: "virtio-mq", mode: modeXDP, set: short},
		{kernel: "6.12", model: "virtio", mode: modePacket, set: short},
		{kernel: "6.12", model: "virtio-mq", mode: modeVFIO, queues: 2, set: short},
		{kernel: "6.12", model: "e1000e", mode: modeVFIO, set: short},
	}
	for _, k := range kernels {
		for _, model := range []string{"virtio", "virtio-mq", "virtio-rss", "virtio-noxc", "e1000e", "vmxnet3", "igb"} {
			set := all
			if k.name == "6.12" || k.name == "5.10" && strings.HasPrefix(model, "virtio") || k.name == "newest" && model != "e1000e" {
				set = chosen
			}
			list = append(list, cell{kernel: k.name, model: model, mode: modeXDP, set: set},
				cell{kernel: k.name, model: model, mode: modePacket, set: all})
		}
		list = append(list,
			cell{kernel: k.name, model: "virtio", mode: modeXDP, mtu: 9000, set: chosen},
			cell{kernel: k.name, model: "virtio", mode: modeAuto, mtu: 9000, set: chosen},
			cell{kernel: k.name, model: "virtio-noxc", mode: modeAuto, set: chosen},
			cell{kernel: k.name, model: "virtio-mq", mode: modeXDP, queues: 2, set: all},
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
	how     string // how the device said it runs
	failed  []string
	known   string // why it is known to fail
	took    time.Duration
	retrans uint64
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
	Mend: "make test-guest, on a Debian 12 machine that reaches Debian's archives",
}

// A boot is a guest: cells with the same kernel and the same need of an IOMMU
// share it.
type boot struct {
	kernel string
	iommu  bool
}

func TestCells(t *testing.T) {
	if *which == "" {
		t.Skip("guests take minutes: make test-guest runs them")
	}
	set, ok := sets[*which]
	if !ok {
		t.Fatalf("-guest.cells=%s: want short, chosen or all", *which)
	}
	testnet.Need(t, testnet.Root, testnet.Netns, archives)
	ctx := t.Context()
	b := &bench{t: t, dir: t.TempDir()}
	var err error
	if b.qemu, err = openEmulator(ctx); err != nil {
		t.Fatal(err)
	}
	hasDPDK := testnet.DPDK.Probe() == nil
	if b.programs, err = build(ctx, b.dir, hasDPDK); err != nil {
		t.Fatal(err)
	}
	b.base = filepath.Join(b.dir, "base")
	if err := base(ctx, b.base, b.programs); err != nil {
		t.Fatal(err)
	}
	groups := map[boot][]cell{}
	var order []boot
	for _, c := range cells() {
		if c.set > set || !strings.Contains(c.String(), *only) || c.dpdk() && !hasDPDK {
			continue
		}
		g := boot{c.kernel, c.mode == modeVFIO}
		if groups[g] == nil {
			order = append(order, g)
		}
		groups[g] = append(groups[g], c)
	}
	var results []*result
	for _, g := range order {
		name := g.kernel
		if g.iommu {
			name += "-iommu"
		}
		t.Run(name, func(t *testing.T) {
			i := slices.IndexFunc(kernels, func(k kernel) bool { return k.name == g.kernel })
			img, err := kernels[i].open(t.Context())
			if err != nil {
				testnet.Need(t, testnet.Requirement{Name: "Debian's kernel " + g.kernel, Probe: func() error { return err }, Mend: archives.Mend})
			}
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
				r := &result{cell: c, known: known(c)}
				results = append(results, r)
				began := time.Now()
				runCell(m, r)
				r.took = time.Since(began)
				fmt.Println(r)
				switch {
				case len(r.failed) > 0 && r.known == "":
					t.Errorf("%s: %s", c, strings.Join(r.failed, "\n"))
				case len(r.failed) == 0 && r.known != "":
					t.Errorf("%s passes and is listed as a known failure: take it out of known_test.go", c)
				}
			}
		})
	}
	if len(results) == 0 {
		t.Fatal("no cell was run")
	}
	if *table != "" {
		if err := writeTable(*table, results); err != nil {
			t.Fatal(err)
		}
	}
}

// Marks of the table in a document.
const (
	tableBegin = "<!-- cells: written by make test-guest TABLE=docs/nics.md -->\n"
	tableEnd   = "<!-- end of cells -->\n"
)

// writeTable puts the results between the marks of a file.
func writeTable(name string, results []*result) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no marks for the table", name)
	}
	var s strings.Builder
	s.WriteString("\n| kernel | card | by | runs as | result |\n|---|---|---|---|---|\n")
	for _, r := range results {
		outcome := "passes"
		if len(r.failed) > 0 {
			outcome = "**fails**"
			if r.known != "" {
				outcome = "**fails**: " + r.known
			}
		}
		by := r.mode
		if r.queues > 0 {
			by += fmt.Sprintf(", %d queues", r.queues)
		}
		if r.mtu > 0 {
			by += fmt.Sprintf(", MTU %d", r.mtu)
		}
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s |\n", r.kernel, r.model, by, r.how, outcome)
	}
	s.WriteString("\n")
	return os.WriteFile(name, []byte(before+tableBegin+s.String()+tableEnd+after), 0o644)
}
