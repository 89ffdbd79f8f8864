//go:build dpdk && cgo && linux

package dpdk

// TrustChecksums makes the port's queues believe the checksum flags of mbufs, as
// if the offloads had been negotiated.
func (p *Port) TrustChecksums(ipv4, tcp bool) {
	for _, q := range p.queues {
		q.rx.offloads = 0
		if ipv4 {
			q.rx.offloads |= rxIPv4Checksum
		}
		if tcp {
			q.rx.offloads |= rxTCPChecksum
		}
	}
}

// MakeIPv4Checksums makes the port's queues send as if the device made IPv4
// header checksums.
func (p *Port) MakeIPv4Checksums() {
	for _, q := range p.queues {
		q.tx.offloads |= txIPv4Checksum
	}
}
