package netstack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"

	"berth/internal/errdef"
	"berth/internal/network/uplink"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Forwards are sockets of the host's whose connections are carried inside.
type Forwards struct {
	s      *Stack
	inside []netip.Prefix
	all    []forward
}

// forward is one of them. carry returns when it is closed.
type forward interface {
	carry()
	close()
}

// Forward carries the connections of sockets inside: all of them, or none. It takes the sockets. inside are networks that
// uplink.Config does not name.
func (s *Stack) Forward(forwards []uplink.Forward, sockets []*os.File, inside []netip.Prefix) (*Forwards, error) {
	fs := &Forwards{s: s, inside: inside}
	for i, f := range forwards {
		one, err := s.newForward(f, sockets[i])
		if err != nil {
			uplink.CloseAll(sockets[i:])
			for _, f := range fs.all {
				f.close()
			}
			return nil, fmt.Errorf("cannot forward to %s/%s: %w", f.Target, f.Protocol, err)
		}
		fs.all = append(fs.all, one)
	}
	s.addInside(inside, 1)
	s.forwards.Add(int32(len(fs.all)))
	for _, f := range fs.all {
		go f.carry()
	}
	return fs, nil
}

// Close closes the sockets. TCP connections go on; UDP flows end, since there is no socket for their answers. A nil Forwards is closed.
func (fs *Forwards) Close() error {
	if fs == nil {
		return nil
	}
	for _, f := range fs.all {
		f.close()
	}
	fs.s.addInside(fs.inside, -1)
	fs.s.forwards.Add(-int32(len(fs.all)))
	fs.all, fs.inside = nil, nil
	return nil
}

func (s *Stack) newForward(f uplink.Forward, socket *os.File) (forward, error) {
	to := f.Target.Addr()
	if refused(to) || f.Target.Port() == 0 || s.policy.isGateway(to) || !s.policy.gateway(to.Is4()).IsValid() {
		return nil, errdef.New(errdef.Invalid, "that is no address inside")
	}
	switch f.Protocol {
	case uplink.TCP:
		return s.newTCPForward(f.Target, socket)
	case uplink.UDP:
		return s.newUDPForward(f.Target, socket)
	}
	return nil, errdef.New(errdef.Invalid, "there is no protocol %q", f.Protocol)
}

// isSocket reports as an error that a file is no socket of IPv4 or IPv6 of which an option has the value.
func isSocket(f *os.File, option, want int) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var domain, got int
	if e := raw.Control(func(fd uintptr) {
		if domain, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil {
			got, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option)
		}
	}); e != nil {
		return e
	}
	if err != nil || domain != unix.AF_INET && domain != unix.AF_INET6 || got != want {
		return errdef.New(errdef.Invalid, "the descriptor is not a fitting socket")
	}
	return nil
}

// sourceFor is the address that a client has inside: its own, unless the answer would not come here, or the target cannot
// have heard of it.
func (s *Stack) sourceFor(client netip.AddrPort, target netip.Addr) netip.AddrPort {
	a := client.Addr()
	if a.Is4() != target.Is4() || refused(a) || s.policy.isGateway(a) || s.isInside(a) {
		a = s.policy.gateway(target.Is4())
	}
	return netip.AddrPortFrom(a, client.Port())
}

// tcpForward is a listening socket.
type tcpForward struct {
	s      *Stack
	target netip.AddrPort
	socket
}

func (s *Stack) newTCPForward(target netip.AddrPort, f *os.File) (forward, error) {
	if err := isSocket(f, unix.SO_ACCEPTCONN, 1); err != nil {
		return nil, err
	}
	own, err := copySocket(f)
	return &tcpForward{s, target, own}, err
}

// acceptPause is how long a lack of descriptors or memory is waited for.
const acceptPause = 50 * time.Millisecond

func (f *tcpForward) carry() {
	for {
		var fd int
		var from unix.Sockaddr
		var failure error
		if err := f.raw.Read(func(listener uintptr) bool {
			fd, from, failure = unix.Accept4(int(listener), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return failure != unix.EAGAIN
		}); err != nil {
			return
		}
		switch failure {
		case nil:
			go f.connect(fd, addrPort(from))
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			time.Sleep(acceptPause)
		default: // that connection's error (accept(2)), or one that the next call has again
		}
	}
}

// connect carries a client's connection inside. A client learns that nobody is there by a reset.
func (f *tcpForward) connect(fd int, client netip.AddrPort) {
	host, err := newConn(fd)
	if err != nil {
		return
	}
	defer f.s.guard("TCP from outside", host.abort)
	if !client.IsValid() || !f.s.tcp.acquire() {
		host.abort()
		return
	}
	defer f.s.tcp.release()
	var queue waiter.Queue
	guest, err := f.s.dialInside(f.s.sourceFor(client, f.target.Addr()), f.target, &queue)
	if err != nil {
		host.abort()
		return
	}
	f.s.relay(guest, &queue, host)
}

// udpForward is a bound socket.
type udpForward struct {
	socket
	s       *Stack
	target  netip.AddrPort
	clients map[clientKey]*flow // guarded by s.flows.mu
}

// clientKey is a client and the address of the host's that it speaks to.
type clientKey struct {
	client netip.AddrPort
	to     netip.Addr
}

// client is the host's end of a flow that began at a forward.
type client struct {
	f    *udpForward
	key  clientKey
	to   unix.Sockaddr
	from []byte        // control message: the address of the host's that answers come from
	next datagram      // what write sends
	out  func(uintptr) // write, made a func once
}

func (s *Stack) newUDPForward(target netip.AddrPort, f *os.File) (forward, error) {
	if err := isSocket(f, unix.SO_TYPE, unix.SOCK_DGRAM); err != nil {
		return nil, err
	}
	own, err := copySocket(f)
	if err != nil {
		return nil, err
	}
	_ = own.raw.Control(func(fd uintptr) {
		// Each fails on a socket of the other family, and GRO on kernels before 5.0.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		_ = unix.SetsockoptInt(int(fd), solUDP, udpGRO, 1)
	})
	return &udpForward{s: s, target: target, socket: own, clients: map[clientKey]*flow{}}, nil
}

// copySocket takes a socket from its file: not every file can be waited for as ours are.
func copySocket(f *os.File) (socket, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return socket{}, err
	}
	var fd int
	if e := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); e != nil || err != nil {
		return socket{}, errors.Join(e, err)
	}
	s, err := newSocket(fd, "forward")
	if err != nil {
		return socket{}, errors.Join(err, unix.Close(fd))
	}
	return s, f.Close()
}

// close ends the forward and its flows.
func (f *udpForward) close() {
	f.socket.close()
	f.s.flows.mu.Lock()
	defer f.s.flows.mu.Unlock()
	for _, flow := range f.clients {
		f.s.flows.drop(flow)
	}
}

func (f *udpForward) carry() {
	defer f.s.guard("UDP from outside", f.close)
	f.receive(func(r received) {
		from := addrPort(r.from)
		if !from.IsValid() {
			return
		}
		flow := f.flowOf(clientKey{from, r.to}, r.from)
		if flow == nil {
			f.s.link.dropped.Add(1)
			return
		}
		flow.use(true)
		f.s.toGuest(flow.key, r.payload, r.segment)
	}, func(error) {}) // an answer to some client has not got there: to which one is not said
}

// flowOf finds or makes the flow of a client.
func (f *udpForward) flowOf(key clientKey, to unix.Sockaddr) *flow {
	f.s.flows.mu.Lock()
	defer f.s.flows.mu.Unlock()
	if flow := f.clients[key]; flow != nil {
		return flow
	}
	peer, ok := f.freePeer(f.s.sourceFor(key.client, f.target.Addr()))
	if !ok {
		return nil
	}
	c := &client{f: f, key: key, to: to, from: answerFrom(key.to)}
	c.out = c.write
	flow := &flow{s: f.s, key: flowKey{protocolUDP, f.target, peer}, host: c, fromHost: true}
	if !f.s.flows.add(flow) {
		return nil
	}
	f.clients[key] = flow
	return flow
}

// freePeer is an address that the target does not hear from yet: clients that share the gateway's may have the same port. The caller
// holds flows.mu.
func (f *udpForward) freePeer(peer netip.AddrPort) (netip.AddrPort, bool) {
	const tries, firstPort = 64, 1024
	for range tries {
		if f.s.flows.table[flowKey{protocolUDP, f.target, peer}] == nil {
			return peer, true
		}
		peer = netip.AddrPortFrom(peer.Addr(), uint16(firstPort+rand.IntN(1<<16-firstPort)))
	}
	return peer, false
}

// answerFrom is the control message that chooses the address of the host's that a datagram is sent from.
func answerFrom(a netip.Addr) []byte {
	switch {
	case !a.IsValid():
		return nil
	case a.Is4():
		var info [unix.SizeofInet4Pktinfo]byte // ipi_ifindex, ipi_spec_dst, ipi_addr
		copy(info[4:], a.AsSlice())
		return appendControl(nil, unix.IPPROTO_IP, unix.IP_PKTINFO, info[:])
	}
	var info [unix.SizeofInet6Pktinfo]byte // ipi6_addr, ipi6_ifindex
	copy(info[:], a.AsSlice())
	return appendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info[:])
}

func (c *client) send(d datagram) {
	c.next = d
	_ = c.f.raw.Control(c.out) // fails when the forward has just ended
}

func (c *client) write(fd uintptr) {
	sendDatagram(int(fd), c.next.payload, c.next.segment, c.from, c.to)
}

// close forgets the client; the socket is the forward's. The caller holds flows.mu.
func (c *client) close() { delete(c.f.clients, c.key) }
