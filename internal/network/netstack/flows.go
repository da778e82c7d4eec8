package netstack

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// flowKey names a flow by its ends as they are seen inside.
type flowKey struct {
	protocol    uint8          // protocolUDP or protocolICMP
	guest, peer netip.AddrPort // the end inside and the other one; see datagram for the ports of echo requests
}

// hostEnd is the end of a flow on the host. send is called by the link's reader only, and must not wait; close by who holds flows.mu.
type hostEnd interface {
	send(d datagram)
	close()
}

// flow is what datagrams between two ends have in common.
type flow struct {
	s    *Stack
	key  flowKey
	host hostEnd
	// fromHost says that the host's end sent first.
	fromHost bool
	used     atomic.Int64 // when, in nanoseconds since s.since
	state    atomic.Int32 // fresh, answered, assured
}

// The states of a flow and how long it may be idle are conntrack's (nf_conntrack_udp_timeout, nf_conntrack_udp_timeout_stream).
const (
	fresh    = iota // one end has sent
	answered        // the other one, too
	assured         // and the first again

	idleTimeout        = 30 * time.Second
	idleTimeoutAssured = 120 * time.Second
	idleTimeoutEcho    = 30 * time.Second

	// sweepInterval is how often idle flows are looked for, while there are flows.
	sweepInterval = 5 * time.Second
)

// use notes a datagram.
func (f *flow) use(fromHost bool) {
	f.used.Store(int64(time.Since(f.s.since)))
	switch state := f.state.Load(); {
	case state == fresh && fromHost != f.fromHost:
		f.state.Store(answered)
	case state == answered && fromHost == f.fromHost:
		f.state.Store(assured)
	}
}

func (f *flow) timeout() time.Duration {
	switch {
	case f.key.protocol == protocolICMP:
		return idleTimeoutEcho
	case f.state.Load() == assured:
		return idleTimeoutAssured
	}
	return idleTimeout
}

func (f *flow) idle() time.Duration { return time.Since(f.s.since) - time.Duration(f.used.Load()) }

// refuse tells the guest what the host has learnt of the way.
func (f *flow) refuse(err error) {
	if why, known := failureOf(err); known {
		f.s.refuse(datagram{protocol: f.key.protocol, from: f.key.guest, to: f.key.peer}, why)
	}
}

// flows are the datagrams' connections. A full table gives up an idle flow for a new one.
type flows struct {
	s        *Stack
	maxUDP   int
	maxEcho  int
	mu       sync.Mutex // guards what follows
	table    map[flowKey]*flow
	echoes   int // of the table
	sweeping bool
	closed   bool
}

func newFlows(s *Stack, l limits) *flows {
	return &flows{s: s, maxUDP: l.udp, maxEcho: l.echo, table: map[flowKey]*flow{}}
}

// limits are how many connections there may be, each with a descriptor on the host.
type limits struct{ tcp, udp, echo int }

// descriptorLimits leaves a quarter of the process's descriptors to listening sockets and clients.
func descriptorLimits() limits {
	most := 32 << 10
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil && r.Cur < uint64(most) {
		most = int(r.Cur)
	}
	return limits{tcp: most / 2, udp: most / 8, echo: min(most/8, 256)}
}

func (fs *flows) count() (udp, echo int) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return len(fs.table) - fs.echoes, fs.echoes
}

// fromGuest carries a datagram from inside. Only the link's reader calls it.
func (fs *flows) fromGuest(d datagram) {
	key := flowKey{d.protocol, d.from, d.to}
	fs.mu.Lock()
	f := fs.table[key]
	fs.mu.Unlock()
	if f == nil {
		if f = fs.open(key, d); f == nil {
			return
		}
	}
	f.use(false)
	f.host.send(d)
}

// open makes the flow of a datagram from inside, or tells its sender why there is none.
func (fs *flows) open(key flowKey, d datagram) *flow {
	to, ok := fs.s.policy.destination(key.peer.Addr())
	if !ok {
		fs.s.refuse(d, forbidden)
		return nil
	}
	f := &flow{s: fs.s, key: key}
	connect := connectUDP
	if key.protocol == protocolICMP {
		connect = connectPing
	}
	host, err := connect(f, netip.AddrPortFrom(to, key.peer.Port()))
	if err != nil {
		if why, known := failureOf(err); known {
			fs.s.refuse(d, why)
		} else {
			fs.s.link.dropped.Add(1)
		}
		return nil
	}
	f.host = host.end()
	fs.mu.Lock()
	added := fs.add(f)
	fs.mu.Unlock()
	if !added {
		f.host.close()
		return nil
	}
	go host.receive()
	return f
}

// add takes a flow into the table, in place of an idle one if it is full. The caller holds fs.mu.
func (fs *flows) add(f *flow) bool {
	if fs.closed {
		return false
	}
	f.used.Store(int64(time.Since(fs.s.since)))
	full := len(fs.table)-fs.echoes >= fs.maxUDP
	if f.key.protocol == protocolICMP {
		full = fs.echoes >= fs.maxEcho
	}
	if full {
		fs.evict(f.key.protocol)
	}
	fs.table[f.key] = f
	if f.key.protocol == protocolICMP {
		fs.echoes++
	}
	if !fs.sweeping {
		fs.sweeping = true
		time.AfterFunc(sweepInterval, fs.sweep)
	}
	return true
}

// evict ends the flow of a protocol that has been idle longest among a few. The caller holds fs.mu.
func (fs *flows) evict(protocol uint8) {
	const few = 16
	var oldest *flow
	seen := 0
	for _, f := range fs.table { // a map's order is random
		if f.key.protocol != protocol {
			continue
		}
		if oldest == nil || f.used.Load() < oldest.used.Load() {
			oldest = f
		}
		if seen++; seen == few {
			break
		}
	}
	if oldest != nil {
		fs.drop(oldest)
	}
}

// drop ends a flow. The caller holds fs.mu.
func (fs *flows) drop(f *flow) {
	if fs.table[f.key] != f {
		return
	}
	delete(fs.table, f.key)
	if f.key.protocol == protocolICMP {
		fs.echoes--
	}
	f.host.close()
}

// remove ends a flow.
func (fs *flows) remove(f *flow) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.drop(f)
}

// sweep ends idle flows.
func (fs *flows) sweep() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.table {
		if f.idle() > f.timeout() {
			fs.drop(f)
		}
	}
	if fs.sweeping = len(fs.table) > 0; fs.sweeping {
		time.AfterFunc(sweepInterval, fs.sweep)
	}
}

func (fs *flows) closeAll() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.closed = true
	for _, f := range fs.table {
		fs.drop(f)
	}
}

// refuse tells the sender of a datagram that it does not get where it should.
func (s *Stack) refuse(d datagram, why failure) {
	var first [8]byte
	protocol := uint8(protocolUDP)
	if d.protocol == protocolUDP {
		binary.BigEndian.PutUint16(first[:], d.from.Port())
		binary.BigEndian.PutUint16(first[2:], d.to.Port())
		binary.BigEndian.PutUint16(first[4:], uint16(udpBytes+len(d.payload)))
	} else {
		protocol, first[0] = protocolICMP, uint8(header.ICMPv4Echo)
		if d.from.Addr().Is6() {
			protocol, first[0] = protocolICMPv6, uint8(header.ICMPv6EchoRequest)
		}
		binary.BigEndian.PutUint16(first[4:], d.from.Port())
		copy(first[6:], d.payload)
	}
	s.refuseQuoting(why, protocol, d.from.Addr(), d.to.Addr(), first, len(d.payload))
}

// refuseQuoting sends "destination unreachable" to from. Where a port is closed the host itself says so; otherwise the gateway does.
func (s *Stack) refuseQuoting(why failure, protocol uint8, from, to netip.Addr, first [8]byte, payload int) {
	router := to
	if why != noPort {
		router = s.policy.gateway(from.Is4())
	}
	if router.IsValid() {
		s.link.send(vnetHeader{}, unreachable(router, why, protocol, from, to, first, payload))
	}
}

// failureOf is what an errno of a host's socket says of the way or of its end.
func failureOf(err error) (failure, bool) {
	switch errnoOf(err) {
	case unix.ECONNREFUSED:
		return noPort, true
	case unix.EHOSTUNREACH, unix.EHOSTDOWN, unix.ETIMEDOUT:
		return noHost, true
	case unix.ENETUNREACH, unix.ENETDOWN, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT, unix.EINVAL:
		return noNetwork, true
	case unix.EACCES, unix.EPERM:
		return forbidden, true
	}
	return 0, false
}
