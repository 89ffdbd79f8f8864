package main

import (
	"io/fs"
	"path"
	"strings"
)

// A card is what is known of a kind of network device for DPDK, from the documents
// of its driver.
type card struct {
	name string
	// dpdk says how DPDK drives it, and what surprises.
	dpdk string
}

// vfioTrap holds for virtual machines without an IOMMU.
const vfioTrap = "bind it to vfio-pci; in a virtual machine without an IOMMU, with enable_unsafe_noiommu_mode=1"

var (
	ena = card{"Amazon ENA", "net_ena; " + vfioTrap + "; vfio-pci with write combining is much faster; a second interface keeps SSH"}
	gve = card{"Google gVNIC", "net_gve; " + vfioTrap + "; a second interface keeps SSH"}
	// The netvsc driver of DPDK, for machines with MANA and with mlx5 alike, takes the
	// VF along by itself.
	mana   = card{"Microsoft MANA", "net_mana; stays with the kernel's mana and mana_ib modules, and needs rdma-core; DPDK has the whole device"}
	mlx5   = card{"NVIDIA ConnectX", "net_mlx5; stays with the kernel's mlx5_core, and needs rdma-core; on Azure use net_netvsc above it, not failsafe"}
	virtio = card{"virtio", "net_virtio; " + vfioTrap + "; several queues are spread only where the host offers VIRTIO_NET_F_RSS"}
	ice    = card{"Intel E810", "net_ice; bind it to vfio-pci; the DDP package of the kernel's driver should be in /lib/firmware/intel/ice/ddp"}
	netvsc = card{"Azure netvsc", "net_netvsc; bind it to uio_hv_generic (driverctl -b vmbus set-override); the VF's own driver stays with the kernel and comes along"}
	iavf   = card{"Intel VF", "net_iavf; bind it to vfio-pci; the host limits queues, and whether MAC addresses may change"}
)

// cards by PCI vendor and device, from the drivers' tables.
var cards = map[string]card{
	"1d0f:0ec2": ena, "1d0f:1ec2": ena, "1d0f:ec20": ena, "1d0f:ec21": ena,
	"1ae0:0042": gve,
	"1414:00ba": mana,
	"15b3:1013": mlx5, "15b3:1014": mlx5, "15b3:1015": mlx5, "15b3:1016": mlx5, "15b3:1017": mlx5, "15b3:1018": mlx5, "15b3:1019": mlx5,
	"15b3:101a": mlx5, "15b3:101b": mlx5, "15b3:101c": mlx5, "15b3:101d": mlx5, "15b3:101e": mlx5, "15b3:101f": mlx5, "15b3:1021": mlx5,
	"1af4:1000": virtio, "1af4:1041": virtio,
	"8086:1591": ice, "8086:1592": ice, "8086:1593": ice, "8086:1599": ice, "8086:159a": ice, "8086:159b": ice,
	"8086:1889": iavf,
}

// netvscClass is the class of network devices on Hyper-V's bus (HV_NIC_GUID in the
// kernel's include/linux/hyperv.h).
const netvscClass = "{f8615163-df3e-46c5-913f-f2d2f965ed0e}"

// cards returns a finding about each network device on the PCI bus and on Hyper-V's
// that is known, bound to whatever driver.
func (m *host) cards() (all []finding) {
	found, _ := fs.Glob(m.fs, "sys/bus/pci/devices/*")
	for _, dir := range found {
		id := strings.TrimPrefix(m.read(path.Join(dir, "vendor")), "0x") + ":" + strings.TrimPrefix(m.read(path.Join(dir, "device")), "0x")
		if c, ok := cards[id]; ok {
			all = append(all, m.card(c, id, dir))
		}
	}
	found, _ = fs.Glob(m.fs, "sys/bus/vmbus/devices/*")
	for _, dir := range found {
		if m.read(path.Join(dir, "class_id")) == netvscClass {
			all = append(all, m.card(netvsc, "VMBus", dir))
		}
	}
	return all
}

// card is the finding about the device in a directory of sysfs.
func (m *host) card(c card, id, dir string) finding {
	bound := "no driver"
	if target, err := readLink(m.fs, path.Join(dir, "driver")); err == nil {
		bound = path.Base(target)
	}
	return finding{Name: path.Base(dir), State: stateOK, Found: c.name + " (" + id + "), bound to " + bound + "; by DPDK: " + c.dpdk}
}
