package netstack

import (
	"net/netip"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// connected is a host's end with a socket of its own.
type connected interface {
	end() hostEnd
	receive()
}

// udpSocket is the host's end of a flow that began inside.
type udpSocket struct {
	socket
	flow *flow
	next datagram      // what write sends
	out  func(uintptr) // write, made a func once
}

func connectUDP(f *flow, to netip.AddrPort) (connected, error) {
	s, err := connectedSocket(to, 0, 0)
	if err != nil {
		return nil, err
	}
	_ = s.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), solUDP, udpGRO, 1) // older kernels have none
	})
	u := &udpSocket{socket: s, flow: f}
	u.out = u.write
	return u, nil
}

func (u *udpSocket) end() hostEnd { return u }

func (u *udpSocket) send(d datagram) {
	u.next = d
	_ = u.raw.Control(u.out) // fails when the flow has just ended
}

func (u *udpSocket) write(fd uintptr) {
	sendDatagram(int(fd), u.next.payload, u.next.segment, nil, nil)
}

// receive carries what the peer sends.
func (u *udpSocket) receive() {
	f := u.flow
	end := func() { f.s.flows.remove(f) }
	defer f.s.guard("udp flow", end)
	u.socket.receive(func(r received) {
		f.use(true)
		f.s.toGuest(f.key, r.payload, r.segment)
	}, f.refuse)
	end()
}

// toGuest sends UDP datagrams of segment bytes, or one, inside.
func (s *Stack) toGuest(key flowKey, payload []byte, segment int) {
	if segment > 0 && segment < len(payload) && s.link.udpCut && s.fits(key, segment) {
		s.sendUDP(key, payload, segment)
		return
	}
	if segment <= 0 {
		segment = len(payload)
	}
	for {
		n := min(segment, len(payload))
		if s.fits(key, n) {
			s.sendUDP(key, payload[:n], 0)
		} else {
			s.sendFragments(key, payload[:n])
		}
		if payload = payload[n:]; len(payload) == 0 {
			return
		}
	}
}

// fits reports whether a datagram with so much payload is no longer than the device's MTU.
func (s *Stack) fits(key flowKey, payload int) bool {
	head := ipv4Bytes + udpBytes
	if key.guest.Addr().Is6() {
		head = ipv6Bytes + udpBytes
	}
	return head+payload <= int(s.link.mtu)
}

func (s *Stack) sendUDP(key flowKey, payload []byte, segment int) {
	var head [headroom]byte
	n, h := udpPacket(head[:], key.peer, key.guest, len(payload))
	if segment > 0 {
		h.gsoType, h.gsoBytes = gsoUDP, uint16(segment)
	}
	s.link.send(h, head[:n], payload)
}

// sendFragments leaves a datagram that is longer than the MTU to gVisor, which cuts packets.
func (s *Stack) sendFragments(key flowKey, payload []byte) {
	local, remote := toGvisor(key.peer.Addr()), toGvisor(key.guest.Addr())
	r, err := s.ip.FindRoute(nic, local, remote, networkProtocol(key.guest.Addr()), false)
	if err != nil {
		s.link.dropped.Add(1)
		return
	}
	defer r.Release()
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: udpBytes + int(r.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(payload),
	})
	defer p.DecRef()
	length := uint16(udpBytes + len(payload))
	u := header.UDP(p.TransportHeader().Push(udpBytes))
	u.Encode(&header.UDPFields{SrcPort: key.peer.Port(), DstPort: key.guest.Port(), Length: length})
	sum := header.PseudoHeaderChecksum(udp.ProtocolNumber, local, remote, length)
	u.SetChecksum(^u.CalculateChecksum(checksum.Checksum(payload, sum)))
	p.TransportProtocolNumber = udp.ProtocolNumber
	_ = r.WritePacket(stack.NetworkHeaderParams{Protocol: udp.ProtocolNumber, TTL: hops}, p) // lost, as on any link
}

// reassembled takes a UDP datagram that has come in fragments from gVisor.
func (s *Stack) reassembled(id stack.TransportEndpointID, p *stack.PacketBuffer) bool {
	payload := p.Data().AsRange().ToSlice()
	s.flows.fromGuest(datagram{
		protocol: protocolUDP,
		from:     netip.AddrPortFrom(fromGvisor(id.RemoteAddress), id.RemotePort),
		to:       netip.AddrPortFrom(fromGvisor(id.LocalAddress), id.LocalPort),
		payload:  payload,
	})
	return true
}

func transport(protocol uint8) tcpip.TransportProtocolNumber {
	return tcpip.TransportProtocolNumber(protocol)
}
