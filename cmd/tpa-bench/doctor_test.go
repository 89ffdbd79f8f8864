package main

import (
	"cmp"
	"encoding/json"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"github.com/gotpa/tpa/link/xdp"
)

func file(content string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(content + "\n")} }

// good returns a machine on which everything works.
func good() *host {
	return &host{
		fs: fstest.MapFS{
			"proc/sys/kernel/osrelease":                               file("6.1.0-40-amd64"),
			"proc/self/status":                                        file("Name:\tx\nCapEff:\t000001ffffffffff"),
			"sys/devices/system/cpu/isolated":                         file("2-3"),
			"sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": file("200"),
			"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages":   file("256"),
			"sys/class/iommu/dmar0/name":                              file(""),
			"sys/module/vfio_pci/refcnt":                              file("0"),
			"sys/bus/pci/drivers/vfio-pci/0000:3b:00.0/vendor":        file("0x8086"),
			"sys/class/net/eth0/type":                                 file("1"),
			"sys/class/net/eth0/operstate":                            file("up"),
			"sys/class/net/eth0/mtu":                                  file("1500"),
			"sys/class/net/eth0/driver":                               file("ice"),
			"sys/class/net/eth0/queues/rx-0/rps_cpus":                 file("0"),
			"sys/class/net/eth0/queues/rx-1/rps_cpus":                 file("0"),
			"sys/class/net/lo/type":                                   file("772"),
			"sys/module/vfio/parameters/enable_unsafe_noiommu_mode":   file("N"),
		},
		uid: 0, cpus: 4, gomaxprocs: 4, memlock: unix.RLIM_INFINITY, dpdk: "DPDK 22.11.11",
		queues: 2, pinned: []int{2, 3},
		ask: func(string) ethernet { return fine() },
	}
}

// fine is an interface that can do everything.
func fine() (e ethernet) {
	e.plan = &xdp.Plan{Driver: "ice", Told: true, Attach: xdp.AttachNative, ZeroCopy: true, MTU: 1500, Queues: 2, MaxQueues: 2}
	e.queues.known, e.queues.now, e.queues.most = true, 2, 2
	e.features.known, e.features.active = true, map[string]bool{"rx-checksum": true, "rx-hashing": true}
	e.rss.known, e.rss.function, e.rss.key, e.rss.queues = true, "toeplitz", 40, 2
	return e
}

func TestDoctor(t *testing.T) {
	without := func(m *host, prefixes ...string) {
		files := m.fs.(fstest.MapFS)
		for name := range files {
			if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
				delete(files, name)
			}
		}
	}
	kernel := func(m *host, change func(*ethernet)) {
		m.ask = func(string) ethernet { e := fine(); change(&e); return e }
	}
	set := func(m *host, name, content string) { m.fs.(fstest.MapFS)[name] = file(content) }
	for _, tt := range []struct {
		name   string
		change func(*host)
		// troubled are the findings that are not ok, and mode and use the best.
		troubled  []string
		mode, use string
	}{
		{"all is well", func(*host) {}, nil, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"no device for DPDK", func(m *host) { without(m, "sys/bus/pci") }, nil, modeXDP, "TPA_DEV=eth0 TPA_QUEUES=2"},
		{"built without DPDK", func(m *host) { m.dpdk = "" }, []string{"DPDK"}, modeXDP, "TPA_DEV=eth0 TPA_QUEUES=2"},
		{"no IOMMU", func(m *host) { without(m, "sys/class/iommu") }, []string{"VFIO"}, modeXDP, "TPA_DEV=eth0 TPA_QUEUES=2"},
		{"no IOMMU, on purpose", func(m *host) {
			without(m, "sys/class/iommu")
			set(m, "sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y")
		}, []string{"VFIO"}, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"no IOMMU, and a kernel without the unsafe mode", func(m *host) {
			without(m, "sys/class/iommu", "sys/module/vfio/parameters", "sys/bus/pci")
		}, []string{"VFIO"}, modeXDP, "TPA_DEV=eth0 TPA_QUEUES=2"},
		{"UIO", func(m *host) {
			without(m, "sys/class/iommu", "sys/module/vfio", "sys/bus/pci")
			set(m, "sys/bus/pci/drivers/uio_pci_generic/0000:00:04.0/vendor", "0x8086")
		}, []string{"VFIO"}, modeDPDK, "TPA_DEV=0000:00:04.0"},
		{"UIO without huge pages", func(m *host) {
			without(m, "sys/class/iommu", "sys/module/vfio", "sys/bus/pci", "sys/kernel/mm")
			set(m, "sys/bus/pci/drivers/uio_pci_generic/0000:00:04.0/vendor", "0x8086")
		}, []string{"huge pages", "VFIO"}, modeXDP, "TPA_DEV=eth0 TPA_QUEUES=2"},
		{"an ordinary user", func(m *host) {
			m.uid, m.memlock, m.xdpSocket, m.dpdk = 1000, 8<<20, syscall.EPERM, ""
			set(m, "proc/self/status", "CapEff:\t0000000000000000")
		}, []string{"capabilities", "AF_XDP", "locked memory", "DPDK"}, modeKernel, ""},
		{"an old kernel", func(m *host) { set(m, "proc/sys/kernel/osrelease", "4.19.0") }, []string{"Linux"}, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"a small machine", func(m *host) {
			m.cpus, m.gomaxprocs, m.queues, m.pinned = 1, 1, 1, nil
			kernel(m, func(e *ethernet) { e.queues.now, e.queues.most, e.rss.known = 1, 1, false })
			without(m, "sys/devices", "sys/kernel/mm", "sys/bus/pci", "sys/class/net/eth0/queues/rx-1")
			set(m, "sys/class/net/eth0/operstate", "down")
		}, []string{"processors", "isolated processors", "huge pages", "interface eth0"}, modeXDP, "TPA_DEV=eth0 TPA_QUEUES=1"},
		{"more pollers than processors", func(m *host) { m.queues = 4 }, []string{"processors"}, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"more pollers than processors, floating", func(m *host) { m.queues, m.pinned = 4, nil }, []string{"processors", "isolated processors"}, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"pollers beside the isolated processors", func(m *host) { m.pinned = []int{1, 2} }, []string{"isolated processors"}, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"another XDP program", func(m *host) {
			without(m, "sys/bus/pci")
			kernel(m, func(e *ethernet) { e.attached = 7 })
			m.dpdk = ""
		}, []string{"DPDK", "eth0 XDP"}, modeKernel, ""},
		{"another XDP program, Linux 6.6", func(m *host) {
			without(m, "sys/bus/pci")
			set(m, "proc/sys/kernel/osrelease", "6.6.0")
			kernel(m, func(e *ethernet) { e.attached = 7 })
			m.dpdk = ""
		}, []string{"DPDK", "eth0 XDP"}, modePacket, "TPA_DEV=eth0"},
		{"no native XDP", func(m *host) {
			without(m, "sys/bus/pci")
			kernel(m, func(e *ethernet) {
				e.plan.Attach, e.plan.NotNative, e.plan.Remedy = xdp.AttachGeneric, "the driver does not run XDP", "use another"
			})
		}, []string{"eth0 XDP"}, modeXDP, "TPA_DEV=eth0 TPA_QUEUES=2"},
		{"no native XDP, Linux 6.6", func(m *host) {
			without(m, "sys/bus/pci")
			set(m, "proc/sys/kernel/osrelease", "6.6.0")
			kernel(m, func(e *ethernet) {
				e.plan.Attach, e.plan.NotNative, e.plan.Remedy = xdp.AttachGeneric, "the driver does not run XDP", "use another"
			})
		}, []string{"eth0 XDP"}, modePacket, "TPA_DEV=eth0"},
		{"a packet socket is faster", func(m *host) {
			without(m, "sys/bus/pci")
			kernel(m, func(e *ethernet) { e.plan.Slower = "a veth pair copies" })
		}, nil, modeXDP, "TPA_DEV=eth0 TPA_QUEUES=2"},
		{"a packet socket is faster, Linux 6.6", func(m *host) {
			without(m, "sys/bus/pci")
			set(m, "proc/sys/kernel/osrelease", "6.6.0")
			kernel(m, func(e *ethernet) { e.plan.Slower = "a veth pair copies" })
		}, nil, modePacket, "TPA_DEV=eth0"},
		{"a VLAN", func(m *host) {
			without(m, "sys/bus/pci")
			m.dpdk = ""
			kernel(m, func(e *ethernet) {
				e.plan.Attach, e.plan.Refused, e.plan.Remedy = xdp.AttachGeneric, "eth1 below joins", "use another"
			})
		}, []string{"DPDK", "eth0 XDP"}, modeKernel, ""},
		{"a VLAN, Linux 6.6", func(m *host) {
			without(m, "sys/bus/pci")
			set(m, "proc/sys/kernel/osrelease", "6.6.0")
			kernel(m, func(e *ethernet) {
				e.plan.Attach, e.plan.Refused, e.plan.Remedy = xdp.AttachGeneric, "eth1 below joins", "use another"
			})
		}, []string{"eth0 XDP"}, modePacket, "TPA_DEV=eth0"},
		{"a rootless container", func(m *host) {
			without(m, "sys/bus/pci")
			set(m, "proc/self/uid_map", "0 1000 1")
		}, []string{"capabilities"}, modeDPDK, "TPA_DEV=net_memif0,…"},
		{"a kernel before 6.3", func(m *host) {
			kernel(m, func(e *ethernet) { *e = ethernet{plan: &xdp.Plan{Driver: "ice", Attach: xdp.AttachNative}} })
		}, []string{"eth0 RSS"}, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"a kernel that answers nothing", func(m *host) { kernel(m, func(e *ethernet) { *e = ethernet{} }) }, []string{"eth0 XDP", "eth0 RSS"}, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"another hash", func(m *host) { kernel(m, func(e *ethernet) { e.rss.function = "xor" }) }, []string{"eth0 RSS"}, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"a table of one queue", func(m *host) { kernel(m, func(e *ethernet) { e.rss.queues = 1 }) }, []string{"eth0 RSS"}, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"segments joined by the interface", func(m *host) { kernel(m, func(e *ethernet) { e.features.active["rx-lro"] = true }) }, []string{"eth0 offloads"}, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"queues that are off", func(m *host) { kernel(m, func(e *ethernet) { e.queues.now, e.queues.most = 1, 8 }) }, []string{"interface eth0"}, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"no interface", func(m *host) { without(m, "sys/bus/pci", "sys/class/net/eth0"); m.dpdk = "" }, []string{"DPDK"}, modeKernel, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := good()
			tt.change(m)
			findings, best := m.examine("")
			var troubled []string
			for _, f := range findings {
				if f.State == stateOK {
					continue
				}
				troubled = append(troubled, f.Name)
				if f.Consequence == "" || f.Fix == "" {
					t.Errorf("%s: %s, without what follows and what fixes it", f.Name, f.Found)
				}
			}
			if !slices.Equal(troubled, tt.troubled) {
				t.Errorf("troubled: got %q, want %q", troubled, tt.troubled)
			}
			if best.Mode != tt.mode || best.Use != tt.use || best.Why == "" {
				t.Errorf("best: got %+v, want %s with %s", best, tt.mode, tt.use)
			}
		})
	}
}

// TestDoctorAsked: the best mode is that of the interface that was asked about.
func TestDoctorAsked(t *testing.T) {
	for dev, want := range map[string]best{
		"eth0":    {Mode: modeXDP, Use: "TPA_DEV=eth0 TPA_QUEUES=2"},
		"nowhere": {Mode: modeKernel},
	} {
		if _, got := good().examine(dev); got.Mode != want.Mode || got.Use != want.Use {
			t.Errorf("%s: got %+v, want %+v", dev, got, want)
		}
	}
}

// TestIsolate: the processors that doctor names are there.
func TestIsolate(t *testing.T) {
	for _, tt := range []struct {
		cpus, queues int
		want         string
	}{
		{1, 1, "use a machine with more processors"},
		{2, 1, "boot with isolcpus=1 nohz_full=1 and set TPA_CPUS=1"},
		{2, 4, "boot with isolcpus=1 nohz_full=1 and set TPA_CPUS=1"},
		{8, 2, "boot with isolcpus=6,7 nohz_full=6,7 and set TPA_CPUS=6,7"},
	} {
		if got := (&host{cpus: tt.cpus, queues: tt.queues}).isolate(); got != tt.want {
			t.Errorf("%d processors, %d queues: got %q, want %q", tt.cpus, tt.queues, got, tt.want)
		}
	}
}

// TestDoctorHere runs it on this machine, whatever that offers.
func TestDoctorHere(t *testing.T) {
	out, _ := command(t.Context(), "doctor")
	for _, want := range []string{"Linux", "huge pages", "AF_XDP", "Best mode now: "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	out, _ = command(t.Context(), "doctor", "--json")
	var got struct {
		Findings []finding
		Best     best
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Findings) < 8 || got.Best.Mode == "" {
		t.Errorf("--json: %v, %d findings, best mode %q", err, len(got.Findings), got.Best.Mode)
	}
}

// TestCards has each card of docs/nics.md on a machine by itself: who it is, what it is
// bound to, and what surprises.
func TestCards(t *testing.T) {
	for _, tt := range []struct{ vendor, device, driver, want, trap string }{
		{"0x1d0f", "0xec20", "ena", "Amazon ENA (1d0f:ec20), bound to ena", "write combining"},
		{"0x1d0f", "0x0ec2", "", "Amazon ENA (1d0f:0ec2), bound to no driver", "second interface"},
		{"0x1ae0", "0x0042", "gvnic", "Google gVNIC (1ae0:0042), bound to gvnic", "enable_unsafe_noiommu_mode"},
		{"0x1414", "0x00ba", "mana", "Microsoft MANA (1414:00ba), bound to mana", "mana_ib"},
		{"0x15b3", "0x101e", "mlx5_core", "NVIDIA ConnectX (15b3:101e), bound to mlx5_core", "rdma-core"},
		{"0x8086", "0x1592", "vfio-pci", "Intel E810 (8086:1592), bound to vfio-pci", "DDP"},
		{"0x8086", "0x1889", "iavf", "Intel VF (8086:1889), bound to iavf", "MAC addresses"},
		{"0x1af4", "0x1041", "virtio-pci", "virtio (1af4:1041), bound to virtio-pci", "VIRTIO_NET_F_RSS"},
		{"0x1af4", "0x1000", "uio_pci_generic", "virtio (1af4:1000), bound to uio_pci_generic", "VIRTIO_NET_F_RSS"},
		{"", netvscClass, "hv_netvsc", "Azure netvsc (VMBus), bound to hv_netvsc", "uio_hv_generic"},
		{"", "{other}", "hv_storvsc", "", ""},
		{"0x1234", "0x5678", "", "", ""}, // nobody's card
	} {
		t.Run(cmp.Or(tt.want, tt.device), func(t *testing.T) {
			m := good()
			files := m.fs.(fstest.MapFS)
			dir := "sys/bus/pci/devices/0000:00:05.0/"
			if tt.vendor == "" {
				dir = "sys/bus/vmbus/devices/f8615163-0000-1000-2000-000d3a7ce341/"
				files[dir+"class_id"] = file(tt.device)
			} else {
				files[dir+"vendor"], files[dir+"device"] = file(tt.vendor), file(tt.device)
			}
			if tt.driver != "" {
				files[dir+"driver"] = &fstest.MapFile{Data: []byte("../../../bus/drivers/" + tt.driver), Mode: fs.ModeSymlink}
			}
			got := m.cards()
			if tt.want == "" {
				if len(got) != 0 {
					t.Errorf("got %+v, want nothing", got)
				}
				return
			}
			if len(got) != 1 || !strings.HasPrefix(got[0].Found, tt.want) || !strings.Contains(got[0].Found, tt.trap) || got[0].Name != path.Base(dir) {
				t.Errorf("got %+v, want %q with %q", got, tt.want, tt.trap)
			}
		})
	}
}

// TestAskKernel asks about an interface that every kernel has.
func TestAskKernel(t *testing.T) {
	e := askKernel("lo")
	if e.attached != 0 || e.rss.known {
		t.Errorf("lo has a program or RSS: %+v", e)
	}
	if !e.features.known || len(e.features.active) == 0 {
		t.Errorf("lo: got %+v, want features", e)
	}
	if none := askKernel("no-such-interface"); none.plan != nil || none.features.known || none.queues.known {
		t.Errorf("no interface: got %+v", none)
	}
}
