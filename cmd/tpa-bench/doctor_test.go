package main

import (
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
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
	}
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
	set := func(m *host, name, content string) { m.fs.(fstest.MapFS)[name] = file(content) }
	for _, tt := range []struct {
		name   string
		change func(*host)
		// troubled are the findings that are not ok, and mode and use the best.
		troubled  []string
		mode, use string
	}{
		{"all is well", func(*host) {}, nil, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"no device for DPDK", func(m *host) { without(m, "sys/bus/pci") }, nil, modeXDP, "TPA_DEV=xdp:eth0 TPA_QUEUES=2"},
		{"built without DPDK", func(m *host) { m.dpdk = "" }, []string{"DPDK"}, modeXDP, "TPA_DEV=xdp:eth0 TPA_QUEUES=2"},
		{"no IOMMU", func(m *host) { without(m, "sys/class/iommu") }, []string{"VFIO"}, modeXDP, "TPA_DEV=xdp:eth0 TPA_QUEUES=2"},
		{"no IOMMU, on purpose", func(m *host) {
			without(m, "sys/class/iommu")
			set(m, "sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y")
		}, []string{"VFIO"}, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"an ordinary user", func(m *host) {
			m.uid, m.memlock, m.xdpSocket, m.dpdk = 1000, 8<<20, syscall.EPERM, ""
			set(m, "proc/self/status", "CapEff:\t0000000000000000")
		}, []string{"capabilities", "AF_XDP", "locked memory", "DPDK"}, modeKernel, ""},
		{"an old kernel", func(m *host) { set(m, "proc/sys/kernel/osrelease", "4.19.0") }, []string{"Linux"}, modeDPDK, "TPA_DEV=0000:3b:00.0"},
		{"a small machine", func(m *host) {
			m.cpus, m.gomaxprocs = 1, 1
			without(m, "sys/devices", "sys/kernel/mm", "sys/bus/pci", "sys/class/net/eth0/queues/rx-1")
			set(m, "sys/class/net/eth0/operstate", "down")
		}, []string{"processors", "isolated processors", "huge pages", "interface eth0"}, modeXDP, "TPA_DEV=xdp:eth0 TPA_QUEUES=1"},
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
				if f.Consequence == "" || f.Mend == "" {
					t.Errorf("%s: %s, without what follows and what mends it", f.Name, f.Found)
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
