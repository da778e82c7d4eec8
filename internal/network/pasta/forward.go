package pasta

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"berth/internal/network/uplink"

	"golang.org/x/sys/unix"
)

// Forwards are sockets of the host's whose connections are carried inside.
type Forwards struct {
	u   *Uplink
	all []carrier
}

// carrier is one of them. carry returns when it is closed.
type carrier interface {
	carry()
	Close() error
}

// Forward carries the connections of sockets inside: all of them, or none. It takes the sockets.
func (u *Uplink) Forward(forwards []uplink.Forward, sockets []*os.File) (*Forwards, error) {
	defer uplink.CloseAll(sockets) // net makes copies
	fs := &Forwards{u: u}
	for i, f := range forwards {
		one, err := u.newCarrier(f, sockets[i])
		if err != nil {
			for _, c := range fs.all {
				_ = c.Close()
			}
			return nil, fmt.Errorf("cannot forward to %s/%s: %w", f.Target, f.Protocol, err)
		}
		fs.all = append(fs.all, one)
	}
	u.forwards.Add(int32(len(fs.all)))
	for _, c := range fs.all {
		go c.carry()
	}
	return fs, nil
}

// Close closes the sockets. TCP connections go on; UDP flows end, since there is no socket for their answers.
func (fs *Forwards) Close() error {
	var errs error
	for _, c := range fs.all {
		errs = errors.Join(errs, c.Close())
	}
	fs.u.forwards.Add(-int32(len(fs.all)))
	fs.all = nil
	return errs
}

func (u *Uplink) newCarrier(f uplink.Forward, socket *os.File) (carrier, error) {
	switch f.Protocol {
	case uplink.TCP:
		l, err := net.FileListener(socket)
		if err != nil {
			return nil, err
		}
		return &tcpForward{u, l, f.Target}, nil
	case uplink.UDP:
		return u.newUDPForward(f.Target, socket)
	}
	return nil, fmt.Errorf("%q is no protocol that can be forwarded", f.Protocol)
}

type tcpForward struct {
	u *Uplink
	net.Listener
	to netip.AddrPort
}

// acceptPause is how long a lack of descriptors or memory is waited for.
const acceptPause = 50 * time.Millisecond

func (f *tcpForward) carry() {
	for {
		c, err := f.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(acceptPause)
		default:
			go f.u.relay(c.(*net.TCPConn), f.to)
		}
	}
}

// relay carries between a client and a container until both have ended. The end of one direction is passed on as such; a connection that
// is reset resets the other.
func (u *Uplink) relay(client *net.TCPConn, to netip.AddrPort) {
	u.tcp.Add(1)
	defer u.tcp.Add(-1)
	defer client.Close()
	f, err := u.dial(unix.SOCK_STREAM, to)
	if err != nil {
		_ = client.SetLinger(0)
		return
	}
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		_ = client.SetLinger(0)
		return
	}
	container := c.(*net.TCPConn)
	defer container.Close()
	reset := sync.OnceFunc(func() {
		for _, c := range []*net.TCPConn{client, container} {
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	})
	carry := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			reset()
			return
		}
		_ = to.CloseWrite()
	}
	var both sync.WaitGroup
	both.Go(func() { carry(container, client) })
	both.Go(func() { carry(client, container) })
	both.Wait()
}

// udpForward has a socket inside for each client.
type udpForward struct {
	u *Uplink
	*net.UDPConn
	to netip.AddrPort

	mu    sync.Mutex // guards flows
	flows map[netip.AddrPort]*net.UDPConn
}

const (
	maxFlows = 1024             // of one forward
	idleFlow = 60 * time.Second // after which it ends
)

func (u *Uplink) newUDPForward(to netip.AddrPort, socket *os.File) (carrier, error) {
	// Of which of the host's addresses a client spoke to, the answers must come.
	level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
	if to.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	if err := unix.SetsockoptInt(int(socket.Fd()), level, option, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	const udpGRO = 104 // UDP_GRO, Linux 5.0: an uplink before this one may have had datagrams joined
	_ = unix.SetsockoptInt(int(socket.Fd()), unix.IPPROTO_UDP, udpGRO, 0)
	p, err := net.FilePacketConn(socket)
	if err != nil {
		return nil, err
	}
	return &udpForward{u: u, UDPConn: p.(*net.UDPConn), to: to, flows: map[netip.AddrPort]*net.UDPConn{}}, nil
}

func (f *udpForward) carry() {
	defer f.endFlows()
	buf, control := make([]byte, 1<<16), make([]byte, 128)
	for {
		n, controlBytes, _, from, err := f.ReadMsgUDPAddrPort(buf, control)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // an answer did not arrive
			continue
		}
		flow, err := f.flow(from, control[:controlBytes])
		if err != nil {
			continue // as what is lost on the way
		}
		_ = flow.SetReadDeadline(time.Now().Add(idleFlow))
		_, _ = flow.Write(buf[:n])
	}
}

// flow is a client's socket inside.
func (f *udpForward) flow(client netip.AddrPort, control []byte) (*net.UDPConn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if flow := f.flows[client]; flow != nil {
		return flow, nil
	}
	if len(f.flows) >= maxFlows {
		return nil, errors.New("there are too many clients")
	}
	file, err := f.u.dial(unix.SOCK_DGRAM, f.to)
	if err != nil {
		return nil, err
	}
	c, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		return nil, err
	}
	flow := c.(*net.UDPConn)
	f.flows[client] = flow
	f.u.udp.Add(1)
	go f.answer(client, flow, answerFrom(control))
	return flow, nil
}

// answer sends a container's answers to the client until it has been quiet for a while.
func (f *udpForward) answer(client netip.AddrPort, flow *net.UDPConn, control []byte) {
	defer f.end(client, flow)
	buf := make([]byte, 1<<16)
	for {
		n, err := flow.Read(buf)
		switch {
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err != nil: // nobody listens yet, or now
			continue
		}
		_ = flow.SetReadDeadline(time.Now().Add(idleFlow))
		_, _, _ = f.WriteMsgUDPAddrPort(buf[:n], control, client)
	}
}

func (f *udpForward) end(client netip.AddrPort, flow *net.UDPConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.flows, client)
	f.u.udp.Add(-1)
	_ = flow.Close()
}

func (f *udpForward) endFlows() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, flow := range f.flows {
		_ = flow.Close() // its reader takes it from the table
	}
}

// answerFrom is the control message that a datagram came with, as one that sends the answer from the address that it was for. The
// kernel's struct in_pktinfo also says by which interface; which one an answer leaves by is the routes' to say.
func answerFrom(control []byte) []byte {
	own := append([]byte(nil), control...)
	const header, index = unix.SizeofCmsghdr, 4
	if len(own) >= header+unix.SizeofInet4Pktinfo && len(own) < header+unix.SizeofInet6Pktinfo {
		clear(own[header : header+index])
	}
	return own
}
