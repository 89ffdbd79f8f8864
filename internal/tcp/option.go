package tcp

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gtcp "gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// OnReuseAddressSet implements tcpip.SocketOptionsHandler.
func (e *Endpoint) OnReuseAddressSet(v bool) {
	e.mu.Lock()
	e.flags.TupleOnly = v
	e.mu.Unlock()
}

// OnReusePortSet implements tcpip.SocketOptionsHandler.
func (e *Endpoint) OnReusePortSet(v bool) {
	e.mu.Lock()
	e.flags.LoadBalanced = v
	e.mu.Unlock()
}

// OnDelayOptionSet implements tcpip.SocketOptionsHandler.
func (e *Endpoint) OnDelayOptionSet(v bool) {
	if !v {
		e.mu.Lock()
		e.output()
		e.unlock()
	}
}

// OnKeepAliveSet implements tcpip.SocketOptionsHandler.
func (e *Endpoint) OnKeepAliveSet(bool) {
	e.mu.Lock()
	e.restartKeepAlive()
	e.mu.Unlock()
}

// OnSetSendBufferSize implements tcpip.SocketOptionsHandler.
func (e *Endpoint) OnSetSendBufferSize(v int64) int64 {
	limits := e.p.options().send
	e.mu.Lock()
	e.tuned = false
	e.mu.Unlock()
	return min(max(v, int64(limits.Min)), int64(limits.Max))
}

// OnSetReceiveBufferSize implements tcpip.SocketOptionsHandler.
func (e *Endpoint) OnSetReceiveBufferSize(v, _ int64) (int64, func()) {
	limits := e.p.options().receive
	e.mu.Lock()
	e.moderate = false
	e.mu.Unlock()
	return min(max(v, int64(limits.Min)), int64(limits.Max)), nil
}

// WakeupWriters implements tcpip.SocketOptionsHandler.
func (e *Endpoint) WakeupWriters() { e.queue.Notify(waiter.WritableEvents) }

// GetAcceptConn implements tcpip.SocketOptionsHandler.
func (e *Endpoint) GetAcceptConn() bool { return e.current() == gtcp.StateListen }

// SetSockOptInt implements tcpip.Endpoint.
func (e *Endpoint) SetSockOptInt(o tcpip.SockOptInt, v int) tcpip.Error {
	e.mu.Lock()
	defer e.unlock()
	switch o {
	case tcpip.KeepaliveCountOption:
		e.keepAliveCount = v
		e.restartKeepAlive()
	case tcpip.MaxSegOption:
		if v < header.TCPMinimumMSS || v > header.TCPMaximumMSS {
			return &tcpip.ErrInvalidOptionValue{}
		}
		e.userMSS = v
	}
	return nil
}

// SetSockOpt implements tcpip.Endpoint.
func (e *Endpoint) SetSockOpt(o tcpip.SettableSocketOption) tcpip.Error {
	e.mu.Lock()
	defer e.unlock()
	switch v := o.(type) {
	case *tcpip.KeepaliveIdleOption:
		e.keepAliveIdle = time.Duration(*v)
		e.restartKeepAlive()
	case *tcpip.KeepaliveIntervalOption:
		e.keepAliveInterval = time.Duration(*v)
		e.restartKeepAlive()
	case *tcpip.TCPUserTimeoutOption:
		e.userTimeout = max(time.Duration(*v), 0)
		e.schedule()
	case *tcpip.TCPLingerTimeoutOption:
		e.finWait2 = max(time.Duration(*v), 0)
	case *tcpip.CongestionControlOption:
		if *v != "reno" && *v != "cubic" {
			return &tcpip.ErrNoSuchFile{}
		}
		e.congestion = string(*v)
	}
	return nil
}

// GetSockOptInt implements tcpip.Endpoint.
func (e *Endpoint) GetSockOptInt(o tcpip.SockOptInt) (int, tcpip.Error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch o {
	case tcpip.KeepaliveCountOption:
		return e.keepAliveCount, nil
	case tcpip.ReceiveQueueSizeOption:
		if e.current() == gtcp.StateListen {
			return 0, &tcpip.ErrInvalidEndpointState{}
		}
		return e.in.len(), nil
	case tcpip.SendQueueSizeOption:
		return e.out.len(), nil
	case tcpip.MaxSegOption:
		return e.mss, nil
	}
	return -1, &tcpip.ErrUnknownProtocolOption{}
}

// GetSockOpt implements tcpip.Endpoint.
func (e *Endpoint) GetSockOpt(o tcpip.GettableSocketOption) tcpip.Error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch v := o.(type) {
	case *tcpip.TCPInfoOption:
		*v = e.info()
	case *tcpip.KeepaliveIdleOption:
		*v = tcpip.KeepaliveIdleOption(e.keepAliveIdle)
	case *tcpip.KeepaliveIntervalOption:
		*v = tcpip.KeepaliveIntervalOption(e.keepAliveInterval)
	case *tcpip.TCPUserTimeoutOption:
		*v = tcpip.TCPUserTimeoutOption(e.userTimeout)
	case *tcpip.TCPLingerTimeoutOption:
		*v = tcpip.TCPLingerTimeoutOption(e.finWait2)
	case *tcpip.CongestionControlOption:
		*v = tcpip.CongestionControlOption(e.congestion)
	default:
		return &tcpip.ErrUnknownProtocolOption{}
	}
	return nil
}

func (e *Endpoint) info() tcpip.TCPInfoOption {
	o := tcpip.TCPInfoOption{
		State: tcpip.EndpointState(e.current()),
		RTT:   e.srtt, RTTVar: e.rttvar, RTO: e.rto,
	}
	if e.mss > 0 {
		o.SndCwnd = uint32(e.window / e.mss)
		o.SndSsthresh = uint32(min(e.threshold, 1<<30) / e.mss)
	}
	switch {
	case e.inRecovery && e.sackOK:
		o.CcState = tcpip.SACKRecovery
	case e.inRecovery:
		o.CcState = tcpip.FastRecovery
	case e.backoff > 0:
		o.CcState = tcpip.RTORecovery
	}
	return o
}
