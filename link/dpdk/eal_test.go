package dpdk

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestEALCheck(t *testing.T) {
	for _, tt := range []struct {
		name string
		eal  EAL
		want string // part of the error, "" for none
	}{
		{"zero", EAL{}, ""},
		{"all", EAL{HugePages: HugePagesNever, MemoryMB: 64, FilePrefix: "a-Z_9", CPUs: []int{0, 3}, ExtraArgs: []string{"--log-level=8", "--legacy-mem", "--iova-mode=pa"}}, ""},
		{"policy", EAL{HugePages: 3}, "want HugePagesAuto, HugePagesAlways or HugePagesNever"},
		{"little memory", EAL{MemoryMB: 15}, "want 16 to 65536"},
		{"much memory", EAL{MemoryMB: 65537}, "want 16 to 65536"},
		{"negative memory", EAL{MemoryMB: -1}, "want 16 to 65536"},
		{"path in prefix", EAL{FilePrefix: "../x"}, "letters, digits"},
		{"long prefix", EAL{FilePrefix: strings.Repeat("x", 33)}, "letters, digits"},
		{"CPU", EAL{CPUs: []int{-1}}, "EAL.CPUs holds -1"},
		{"plug-in", EAL{ExtraArgs: []string{"-d", "evil.so"}}, `"-d", which is refused`},
		{"plug-in in one", EAL{ExtraArgs: []string{"-devil.so"}}, "which is refused"},
		{"plug-in, long", EAL{ExtraArgs: []string{"--d=evil.so"}}, "which is refused"},
		{"plug-in behind a flag", EAL{ExtraArgs: []string{"--legacy-mem", "-d=evil.so"}}, "which is refused"},
		{"device", EAL{ExtraArgs: []string{"--vdev=net_failsafe0,exec(ls)"}}, "which is refused"},
		{"allow list", EAL{ExtraArgs: []string{"-a=0000:3b:00.0"}}, "which is refused"},
		{"memory", EAL{ExtraArgs: []string{"-m=64"}}, "which is refused"},
		{"prefix", EAL{ExtraArgs: []string{"--file-prefix=x"}}, "which is refused"},
		{"huge pages", EAL{ExtraArgs: []string{"--no-huge"}}, "which is refused"},
		{"CPUs", EAL{ExtraArgs: []string{"--lcores=0"}}, "which is refused"},
		{"abbreviation", EAL{ExtraArgs: []string{"--iova=pa"}}, "which is refused"},
		{"no dashes", EAL{ExtraArgs: []string{"iova-mode=pa"}}, "which is refused"},
		{"end of options", EAL{ExtraArgs: []string{"--"}}, "which is refused"},
		{"value in the next element", EAL{ExtraArgs: []string{"--iova-mode", "pa"}}, "needs a value"},
		{"value for a flag", EAL{ExtraArgs: []string{"--legacy-mem=yes"}}, "takes no value"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.eal.Check()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestEALArgs(t *testing.T) {
	e := EAL{MemoryMB: 128, FilePrefix: "tpa7", CPUs: []int{2, 5}, ExtraArgs: []string{"--log-level=8"}}
	for _, tt := range []struct {
		name      string
		hugePages bool
		extra     []string
		want      string
	}{
		{"huge pages", true, e.ExtraArgs, "tpa --file-prefix=tpa7 --lcores=0@(2,5) --allow=0000:00:00.0 -m 128 --in-memory --no-telemetry --log-level=8"},
		{"no huge pages", false, nil, "tpa --file-prefix=tpa7 --lcores=0@(2,5) --allow=0000:00:00.0 -m 128 --no-huge --no-shconf --iova-mode=va --no-telemetry"},
		{"telemetry", true, []string{"--telemetry"}, "tpa --file-prefix=tpa7 --lcores=0@(2,5) --allow=0000:00:00.0 -m 128 --in-memory --telemetry"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e.ExtraArgs = tt.extra
			if got := e.args(tt.hugePages); !slices.Equal(got, strings.Fields(tt.want)) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestConfigCheck(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config Config
		want   string // part of the error, "" for none
	}{
		{"virtual", Config{Device: "net_memif0,role=server"}, ""},
		{"PCI", Config{Device: "0000:3b:00.0", Queues: 256, RxRing: 65535, TxRing: 64, MTU: 65389, Staging: 65536}, ""},
		{"none", Config{}, "Config.Device is empty"},
		{"interface", Config{Device: "eth0"}, "want a virtual device"},
		{"lines", Config{Device: "net_null0\n--vdev"}, "want one line"},
		{"command", Config{Device: "net_failsafe0,exec(rm -rf /)"}, "refused"},
		{"PCI function", Config{Device: "0000:3b:00.8"}, "want a virtual device"},
		{"queues", Config{Device: "net_null0", Queues: 257}, "Config.Queues is 257: want 1 to 256"},
		{"negative queues", Config{Device: "net_null0", Queues: -1}, "Config.Queues is -1"},
		{"ring", Config{Device: "net_null0", RxRing: 65536}, "Config.RxRing is 65536"},
		{"negative ring", Config{Device: "net_null0", TxRing: -1}, "Config.TxRing is -1"},
		{"small MTU", Config{Device: "net_null0", MTU: 67}, "Config.MTU is 67: want 68 to 65389"},
		{"great MTU", Config{Device: "net_null0", MTU: 65390}, "Config.MTU is 65390"},
		{"staging", Config{Device: "net_null0", Staging: 63}, "Config.Staging is 63: want 64 to 65536"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.config.check()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	c := Config{Device: "3B:00.1,mprq_en=1"}
	if err := c.check(); err != nil || c.Device != "0000:3b:00.1,mprq_en=1" || c.Queues != 1 || c.Staging != 4096 {
		t.Errorf("got %+v, %v, want a full PCI address and defaults", c, err)
	}
}

func TestVersion(t *testing.T) {
	for _, tt := range []struct {
		version string
		ok      bool
	}{
		{"DPDK 22.11.11", true},
		{"DPDK 22.11.0-rc1", true},
		{"DPDK 23.03.0", true},
		{"DPDK 100.1.0", true},
		{"DPDK 22.07.0", false},
		{"DPDK 21.11.9", false},
		{"", false},
		{"something else", false},
	} {
		if err := checkVersion(tt.version); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrNotSupported) {
			t.Errorf("%q: got %v, want ok %v", tt.version, err, tt.ok)
		}
	}
}

func TestChooseMemory(t *testing.T) {
	const uio = "uio_pci_generic"
	for _, tt := range []struct {
		name   string
		policy Policy
		given  int // EAL.MemoryMB
		demand demand
		supply supply
		huge   bool
		mb     int
		want   string // of the error
	}{
		{"auto, enough", HugePagesAuto, 64, demand{}, supply{freeMB: 64}, true, 64, ""},
		{"auto, too few", HugePagesAuto, 64, demand{}, supply{freeMB: 63, availableMB: 64}, false, 64, ""},
		{"given, whatever is available", HugePagesAuto, 64, demand{}, supply{freeMB: 63, availableMB: 1}, false, 64, ""},
		{"an estimate near what is available", HugePagesAuto, 0, demand{mb: 200, oneQueueMB: 100, queues: 2}, supply{availableMB: 100}, false, 200, ""},
		{"always, enough", HugePagesAlways, 64, demand{}, supply{freeMB: 64}, true, 64, ""},
		{"always, too few", HugePagesAlways, 64, demand{}, supply{freeMB: 62, pages: 40}, false, 0, "sysctl vm.nr_hugepages=42"},
		{"never, enough", HugePagesNever, 64, demand{}, supply{freeMB: 64, availableMB: 64}, false, 64, ""},
		{"what the port needs", HugePagesAuto, 0, demand{mb: 200, oneQueueMB: 100, queues: 2}, supply{freeMB: 200}, true, 200, ""},
		{"many queues", HugePagesAuto, 0, demand{mb: 9000, oneQueueMB: 90, queues: 99}, supply{freeMB: 200, availableMB: 1000}, false, 0, "9000 MB are needed for 99 queues"},
		{"uio, enough", HugePagesAuto, 0, demand{mb: 100, oneQueueMB: 100, queues: 1, physical: uio}, supply{freeMB: 100}, true, 100, ""},
		{"uio, too few", HugePagesAuto, 0, demand{mb: 100, oneQueueMB: 100, queues: 1, physical: uio}, supply{freeMB: 20, pages: 10, availableMB: 1000}, false, 0, "sysctl vm.nr_hugepages=51"},
		{"uio, enough for one queue", HugePagesAuto, 0, demand{mb: 200, oneQueueMB: 100, queues: 2, physical: uio}, supply{freeMB: 150, availableMB: 1000}, true, 100, ""},
		{"uio, never", HugePagesNever, 0, demand{mb: 100, oneQueueMB: 100, queues: 1, physical: uio}, supply{freeMB: 200, availableMB: 1000}, false, 0, "TPA_HUGEPAGES"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := EAL{HugePages: tt.policy, MemoryMB: tt.given}
			huge, err := e.chooseMemory(tt.demand, tt.supply)
			if tt.want != "" {
				if !errors.Is(err, ErrNotSupported) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want ErrNotSupported with %q", err, tt.want)
				}
				return
			}
			if err != nil || huge != tt.huge || e.MemoryMB != tt.mb {
				t.Errorf("got %v with %d MB, %v; want %v with %d MB", huge, e.MemoryMB, err, tt.huge, tt.mb)
			}
		})
	}
}

func TestFreeHugePages(t *testing.T) {
	dir := t.TempDir()
	if got := freeHugePagesMB(filepath.Join(dir, "none")); got != 0 {
		t.Errorf("without the directory: %d MB", got)
	}
	for size, free := range map[string]string{"hugepages-2048kB": "7\n", "hugepages-1048576kB": "2\n", "hugepages-64kB": "nonsense", "hugepages-oddkB": "1"} {
		if err := os.Mkdir(filepath.Join(dir, size), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, size, "free_hugepages"), []byte(free), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := freeHugePagesMB(dir), 2*1024+14; got != want {
		t.Errorf("got %d MB, want %d", got, want)
	}
}

// Whatever a configuration holds, checking it does not panic, and what passes
// neither loads code nor runs any.
func FuzzCheck(f *testing.F) {
	f.Add("net_memif0,role=server,socket=/x.sock", "--iova-mode=va")
	f.Add("3b:00.0", "-d")
	f.Add("net_failsafe0,exec(ls)", "--d=evil.so")
	f.Fuzz(func(t *testing.T, device, arg string) {
		c := Config{Device: device}
		if c.check() == nil && (strings.Contains(c.Device, "exec(") || !c.isPCI() && c.name()[3] != '_') {
			t.Errorf("%q passes", device)
		}
		c.arg("socket", "")
		if (EAL{ExtraArgs: []string{arg}}).Check() != nil {
			return
		}
		name, _, _ := strings.Cut(arg, "=")
		if _, ok := extraArgs[strings.TrimPrefix(name, "--")]; !ok || !strings.HasPrefix(name, "--") {
			t.Errorf("%q passes", arg)
		}
	})
}
