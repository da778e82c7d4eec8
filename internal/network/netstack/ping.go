package netstack

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// pingSocket is the host's end of a flow of echo requests: a socket that may send nothing else, for those whose group is in
// net.ipv4.ping_group_range (icmp(7)). For others echo requests lead nowhere.
type pingSocket struct {
	socket
	flow    *flow
	request []byte // what write sends
	out     func(uintptr)
}

func connectPing(f *flow, to netip.AddrPort) (connected, error) {
	s, err := connectedSocket(to, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6)
	if errno := errnoOf(err); errno == unix.EACCES {
		return nil, errPing
	}
	if err != nil {
		return nil, err
	}
	p := &pingSocket{socket: s, flow: f}
	p.out = p.write
	return p, nil
}

func (p *pingSocket) end() hostEnd { return p }

// errPing says that echo requests lead nowhere.
var errPing = errors.New("this user may not send echo requests")

// echoHead is how much of an ICMP message comes before the sequence number: type, code, sum and identifier, of which the kernel
// writes the last two itself.
const echoHead = 6

func (p *pingSocket) send(d datagram) {
	kind := uint8(header.ICMPv4Echo)
	if d.to.Addr().Is6() {
		kind = uint8(header.ICMPv6EchoRequest)
	}
	p.request = append(append(p.request[:0], kind, 0, 0, 0, 0, 0), d.payload...)
	_ = p.raw.Control(p.out) // fails when the flow has just ended
}

func (p *pingSocket) write(fd uintptr) { sendDatagram(int(fd), p.request, 0, nil, nil) }

// receive carries the replies, to which the guest's identifier is given again.
func (p *pingSocket) receive() {
	f := p.flow
	end := func() { f.s.flows.remove(f) }
	defer f.s.guard("echo flow", end)
	p.socket.receive(func(r received) {
		if len(r.payload) < icmpBytes {
			return
		}
		f.use(true)
		f.s.link.send(vnetHeader{}, echoReply(f.key.peer, f.key.guest, r.payload[echoHead:]))
	}, f.refuse)
	end()
}
