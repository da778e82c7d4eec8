package netstack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// The numbers of IANA's "Assigned Internet Protocol Numbers".
const (
	protocolICMP     = 1
	protocolTCP      = 6
	protocolUDP      = 17
	protocolFragment = 44
	protocolICMPv6   = 58
)

const (
	ipv4Bytes = 20 // without options
	ipv6Bytes = 40
	udpBytes  = 8
	icmpBytes = 8
)

// datagram is what UDP and echo requests need of a packet. For echo requests the port of the source is their identifier, and the
// port of the destination 0.
type datagram struct {
	protocol uint8 // protocolUDP or protocolICMP, for both families
	from, to netip.AddrPort
	payload  []byte // of UDP what it carries; of an echo the sequence number and what follows
	segment  int    // in how many bytes of payload each it is to be cut; 0 is not at all
}

// verdict is what becomes of a packet from inside.
type verdict uint8

const (
	drop      verdict = iota
	toStack           // it is gVisor's
	toFlows           // it is a whole datagram
	toGateway         // an echo request to the gateway: gVisor's as well
)

// admit looks at a packet from inside, which may hold anything, and reads it if it is a whole datagram. What is neither for a
// stack that stands alone on a link nor for somebody behind it is dropped: what comes from addresses that nobody has, or goes to
// several, or speaks of neighbours and routers.
func admit(b []byte, gateways []netip.Addr) (datagram, verdict) {
	if len(b) == 0 {
		return datagram{}, drop
	}
	switch b[0] >> 4 {
	case 4:
		return admit4(b, gateways)
	case 6:
		return admit6(b, gateways)
	}
	return datagram{}, drop
}

func admit4(b []byte, gateways []netip.Addr) (datagram, verdict) {
	if len(b) < ipv4Bytes {
		return datagram{}, drop
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if head < ipv4Bytes || total < head || total > len(b) {
		return datagram{}, drop
	}
	from, to := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	if !mayPass(from, to, gateways) {
		return datagram{}, drop
	}
	const fragment = 0x3fff // MF and the offset
	if binary.BigEndian.Uint16(b[6:])&fragment != 0 {
		return datagram{}, toStack
	}
	body := b[head:total]
	switch b[9] {
	case protocolUDP:
		return readUDP(body, from, to)
	case protocolICMP:
		if len(body) < icmpBytes {
			return datagram{}, drop
		}
		switch header.ICMPv4Type(body[0]) {
		case header.ICMPv4Echo:
			return readEcho(body, from, to, gateways)
		case header.ICMPv4DstUnreachable, header.ICMPv4TimeExceeded, header.ICMPv4ParamProblem:
			return datagram{}, toStack
		}
		return datagram{}, drop
	}
	return datagram{}, toStack
}

func admit6(b []byte, gateways []netip.Addr) (datagram, verdict) {
	if len(b) < ipv6Bytes {
		return datagram{}, drop
	}
	end := ipv6Bytes + int(binary.BigEndian.Uint16(b[4:]))
	from, to := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	if end > len(b) || !mayPass(from, to, gateways) {
		return datagram{}, drop
	}
	body := b[ipv6Bytes:end]
	switch b[6] {
	case protocolTCP:
		return datagram{}, toStack
	case protocolUDP:
		return readUDP(body, from, to)
	case protocolFragment:
		// gVisor answers whole echo requests itself, whomever they are for.
		if len(body) < 8 || body[0] == protocolICMPv6 {
			return datagram{}, drop
		}
		return datagram{}, toStack
	case protocolICMPv6:
		if len(body) < icmpBytes {
			return datagram{}, drop
		}
		switch header.ICMPv6Type(body[0]) {
		case header.ICMPv6EchoRequest:
			return readEcho(body, from, to, gateways)
		case header.ICMPv6DstUnreachable, header.ICMPv6PacketTooBig, header.ICMPv6TimeExceeded, header.ICMPv6ParamProblem:
			return datagram{}, toStack
		}
	}
	// Other headers between IPv6's and the payload's (RFC 8200, 4.1) have no use here.
	return datagram{}, drop
}

// mayPass keeps out what no neighbour that is alone on its link has reason to send. Where a packet for an ordinary address leads is
// policy.destination's to say.
func mayPass(from, to netip.Addr, gateways []netip.Addr) bool {
	if refused(from) || to.IsMulticast() || to.IsUnspecified() || to.IsLoopback() {
		return false
	}
	known := false // the family has a gateway
	for _, g := range gateways {
		if from == g {
			return false
		}
		known = known || g.Is4() == from.Is4()
	}
	return known
}

func readUDP(body []byte, from, to netip.Addr) (datagram, verdict) {
	if len(body) < udpBytes {
		return datagram{}, drop
	}
	n := int(binary.BigEndian.Uint16(body[4:]))
	if n < udpBytes || n > len(body) {
		return datagram{}, drop
	}
	return datagram{
		protocol: protocolUDP,
		from:     netip.AddrPortFrom(from, binary.BigEndian.Uint16(body)),
		to:       netip.AddrPortFrom(to, binary.BigEndian.Uint16(body[2:])),
		payload:  body[udpBytes:n],
	}, toFlows
}

func readEcho(body []byte, from, to netip.Addr, gateways []netip.Addr) (datagram, verdict) {
	for _, g := range gateways {
		if to == g {
			return datagram{}, toGateway
		}
	}
	return datagram{
		protocol: protocolICMP,
		from:     netip.AddrPortFrom(from, binary.BigEndian.Uint16(body[4:])),
		to:       netip.AddrPortFrom(to, 0),
		payload:  body[6:],
	}, toFlows
}

// headroom is how many bytes the headers of a datagram to inside take at most.
const headroom = ipv6Bytes + udpBytes

// ipHeader writes the header of a packet of length bytes, without itself, and returns its own length.
func ipHeader(b []byte, from, to netip.Addr, protocol uint8, length int) int {
	if from.Is4() {
		h := header.IPv4(b[:ipv4Bytes])
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(ipv4Bytes + length), TTL: hops, Protocol: protocol,
			SrcAddr: toGvisor(from), DstAddr: toGvisor(to),
		})
		h.SetChecksum(^h.CalculateChecksum())
		return ipv4Bytes
	}
	header.IPv6(b[:ipv6Bytes]).Encode(&header.IPv6Fields{
		PayloadLength: uint16(length), TransportProtocol: transport(protocol), HopLimit: hops,
		SrcAddr: toGvisor(from), DstAddr: toGvisor(to),
	})
	return ipv6Bytes
}

// udpSumOffset is where the sum is in UDP's header.
const udpSumOffset = 6

// hops is the time to live of our packets, which go one bridge further.
const hops = 64

// pseudoSum is the sum over the pseudo-header (RFC 768, RFC 8200, 8.1) of a payload of length bytes.
func pseudoSum(from, to netip.Addr, protocol uint8, length int) uint16 {
	return header.PseudoHeaderChecksum(transport(protocol), toGvisor(from), toGvisor(to), uint16(length))
}

// udpPacket writes the headers of a UDP datagram, whose sum is left to the kernel, and returns their length.
func udpPacket(b []byte, from, to netip.AddrPort, payload int) (headBytes int, h vnetHeader) {
	n := ipHeader(b, from.Addr(), to.Addr(), protocolUDP, udpBytes+payload)
	u := header.UDP(b[n : n+udpBytes])
	u.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: uint16(udpBytes + payload)})
	u.SetChecksum(pseudoSum(from.Addr(), to.Addr(), protocolUDP, udpBytes+payload))
	return n + udpBytes, vnetHeader{flags: vnetNeedsCsum, headBytes: uint16(n + udpBytes), csumStart: uint16(n), csumOffset: udpSumOffset}
}

// echoReply makes the reply to an echo request from its sequence number and what follows.
func echoReply(from, to netip.AddrPort, payload []byte) []byte {
	b := make([]byte, ipv6Bytes+6+len(payload))
	protocol, kind := uint8(protocolICMP), uint8(header.ICMPv4EchoReply)
	if from.Addr().Is6() {
		protocol, kind = protocolICMPv6, uint8(header.ICMPv6EchoReply)
	}
	n := ipHeader(b, from.Addr(), to.Addr(), protocol, 6+len(payload))
	b = b[:n+6+len(payload)]
	body := b[n:]
	body[0] = kind
	binary.BigEndian.PutUint16(body[4:], to.Port())
	copy(body[6:], payload)
	sumICMP(body, from.Addr(), to.Addr())
	return b
}

// sumICMP writes the checksum of an ICMP message, which that of ICMPv6 takes over its addresses, too.
func sumICMP(body []byte, from, to netip.Addr) {
	var sum uint16
	if from.Is6() {
		sum = pseudoSum(from, to, protocolICMPv6, len(body))
	}
	binary.BigEndian.PutUint16(body[2:], 0)
	binary.BigEndian.PutUint16(body[2:], ^checksum.Checksum(body, sum))
}

// failure is why a packet did not get where it should.
type failure uint8

const (
	noPort failure = iota
	noHost
	noNetwork
	forbidden
)

// failureCodes are the codes of "destination unreachable" (RFC 792, RFC 1812, 5.2.7.1; RFC 4443, 3.1).
var failureCodes = [...]struct{ v4, v6 uint8 }{
	noPort:    {uint8(header.ICMPv4PortUnreachable), uint8(header.ICMPv6PortUnreachable)},
	noHost:    {uint8(header.ICMPv4HostUnreachable), uint8(header.ICMPv6AddressUnreachable)},
	noNetwork: {uint8(header.ICMPv4NetUnreachable), uint8(header.ICMPv6NetworkUnreachable)},
	forbidden: {uint8(header.ICMPv4AdminProhibited), uint8(header.ICMPv6Prohibited)},
}

// unreachable makes the message to from that its packet to to has failed. It quotes the packet's headers, written again, with
// the first eight bytes of what it carried.
func unreachable(router netip.Addr, why failure, protocol uint8, from, to netip.Addr, first [8]byte, payload int) []byte {
	b := make([]byte, ipv6Bytes+icmpBytes+ipv6Bytes+len(first))
	protocolOuter, kind, code := uint8(protocolICMP), uint8(header.ICMPv4DstUnreachable), failureCodes[why].v4
	quotedBytes := ipv4Bytes + len(first)
	if from.Is6() {
		protocolOuter, kind, code = protocolICMPv6, uint8(header.ICMPv6DstUnreachable), failureCodes[why].v6
		quotedBytes = ipv6Bytes + len(first)
	}
	n := ipHeader(b, router, from, protocolOuter, icmpBytes+quotedBytes)
	b = b[:n+icmpBytes+quotedBytes]
	body := b[n:]
	body[0], body[1] = kind, code
	m := ipHeader(body[icmpBytes:], from, to, protocol, len(first)+payload)
	copy(body[icmpBytes+m:], first[:])
	sumICMP(body, router, from)
	return b
}
