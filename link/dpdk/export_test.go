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
