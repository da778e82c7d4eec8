package netstack

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"testing"

	"berth/internal/network/uplink"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func addr(s string) netip.Addr          { return netip.MustParseAddr(s) }
func addrPorts(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// whole is the packet of a datagram with its payload.
func whole(from, to string, payload []byte) []byte {
	var head [headroom]byte
	n, _ := udpPacket(head[:], addrPorts(from), addrPorts(to), len(payload))
	return append(head[:n:n], payload...)
}

// echoRequest is a reply made a request.
func echoRequest(from, to string) []byte {
	b := echoReply(netip.AddrPortFrom(addr(from), 0), netip.AddrPortFrom(addr(to), 7), []byte("\x00\x01data"))
	if b[0]>>4 == 4 {
		b[ipv4Bytes] = uint8(header.ICMPv4Echo)
	} else {
		b[ipv6Bytes] = uint8(header.ICMPv6EchoRequest)
	}
	return b
}

func changed(b []byte, at int, to ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[at:], to)
	return b
}

func TestAdmit(t *testing.T) {
	gateways := []netip.Addr{addr(gatewayIP), addr(gatewayIP6)}
	four := whole(guestIP+":5", "203.0.113.1:53", []byte("question"))
	six := whole("["+guestIP6+"]:5", "[2001:db8::9]:53", []byte("question"))
	for _, c := range []struct {
		summary string
		packet  []byte
		want    verdict
	}{
		{"Nothing", nil, drop},
		{"Neither IPv4 nor IPv6", []byte{0x50}, drop},
		{"UDP", four, toFlows},
		{"UDP by IPv6", six, toFlows},
		{"A packet that is cut off", four[:len(four)-1], drop},
		{"A packet that is cut off, by IPv6", six[:len(six)-1], drop},
		{"Half a header", four[:19], drop},
		{"Half a header of IPv6", six[:39], drop},
		{"Half a header of UDP", changed(four[:27], 2, 0, 27), drop},
		{"A header shorter than IPv4's", changed(four, 0, 0x44), drop},
		{"A header longer than its packet", changed(four[:28], 0, 0x4f), drop},
		{"A UDP length beyond the packet", changed(four, 24, 0xff, 0xff), drop},
		{"A UDP length shorter than its header", changed(four, 24, 0, 7), drop},
		{"Rubbish after the packet", append(bytes.Clone(four), 1, 2, 3), toFlows},
		{"The first fragment", changed(four, 6, 0x20, 0), toStack},
		{"A later fragment", changed(four, 6, 0, 1), toStack},
		{"A datagram that must not be cut", changed(four, 6, 0x40, 0), toFlows},
		{"TCP", changed(four, 9, protocolTCP), toStack},
		{"TCP by IPv6", changed(six, 6, protocolTCP), toStack},
		{"A protocol that nobody speaks", changed(four, 9, 132), toStack},
		{"An extension header", changed(six, 6, 0), drop},
		{"A fragment of IPv6", changed(six, 6, protocolFragment, 64), toStack},
		{"A fragment of an echo request of IPv6", changed(changed(six, 6, protocolFragment), ipv6Bytes, protocolICMPv6), drop},
		{"An echo request", echoRequest(guestIP, "203.0.113.1"), toFlows},
		{"An echo request by IPv6", echoRequest(guestIP6, "2001:db8::9"), toFlows},
		{"An echo request to the gateway", echoRequest(guestIP, gatewayIP), toGateway},
		{"An echo request to the gateway by IPv6", echoRequest(guestIP6, gatewayIP6), toGateway},
		{"An echo reply", changed(echoRequest(guestIP, "203.0.113.1"), ipv4Bytes, 0), drop},
		{"A redirect", changed(echoRequest(guestIP, "203.0.113.1"), ipv4Bytes, 5), drop},
		{"Destination unreachable", changed(echoRequest(guestIP, "203.0.113.1"), ipv4Bytes, 3), toStack},
		{"A neighbour solicitation", changed(echoRequest(guestIP6, "2001:db8::9"), ipv6Bytes, 135), drop},
		{"A router advertisement", changed(echoRequest(guestIP6, "2001:db8::9"), ipv6Bytes, 134), drop},
		{"From the gateway itself", whole(gatewayIP+":5", "203.0.113.1:53", nil), drop},
		{"From the loopback", whole("127.0.0.1:5", "203.0.113.1:53", nil), drop},
		{"From nobody", whole("0.0.0.0:5", "203.0.113.1:53", nil), drop},
		{"From a link-local address", whole("[fe80::1]:5", "[2001:db8::9]:53", nil), drop},
		{"From a multicast address", whole("224.0.0.1:5", "203.0.113.1:53", nil), drop},
		{"To a multicast address", whole(guestIP+":5", "224.0.0.251:5353", nil), drop},
		{"To a multicast address of IPv6", whole("["+guestIP6+"]:5", "[ff02::2]:53", nil), drop},
		{"To the loopback", whole(guestIP+":5", "127.0.0.1:53", nil), drop},
	} {
		t.Run(c.summary, func(t *testing.T) {
			d, got := admit(c.packet, gateways)
			if got != c.want {
				t.Errorf("the verdict is %d and should be %d", got, c.want)
			}
			if got == toFlows && d.protocol == protocolUDP && string(d.payload) != "question" {
				t.Errorf("the payload is %q", d.payload)
			}
		})
	}
}

// What is written is read back the same, and its sums are right.
func TestPackets(t *testing.T) {
	for _, ends := range [][2]string{{guestIP + ":5", "203.0.113.1:53"}, {"[" + guestIP6 + "]:5", "[2001:db8::9]:53"}} {
		from, to := addrPorts(ends[0]), addrPorts(ends[1])
		d, v := admit(whole(ends[0], ends[1], []byte("x")), []netip.Addr{addr(gatewayIP), addr(gatewayIP6)})
		if v != toFlows || d.from != from || d.to != to || string(d.payload) != "x" {
			t.Errorf("%+v, %d", d, v)
		}
		for _, b := range [][]byte{
			echoReply(from, to, []byte("\x00\x01data")),
			unreachable(from.Addr(), noHost, protocolTCP, to.Addr(), from.Addr(), [8]byte{1, 2, 3, 4}, 12),
		} {
			head, sum := ipv4Bytes, uint16(0)
			if from.Addr().Is6() {
				head, sum = ipv6Bytes, pseudoSum(from.Addr(), to.Addr(), protocolICMPv6, len(b)-ipv6Bytes)
			} else if checksum.Checksum(b[:ipv4Bytes], 0) != 0xffff {
				t.Error("the sum of the header is wrong")
			}
			if checksum.Checksum(b[head:], sum) != 0xffff {
				t.Errorf("the sum of %x is wrong", b[head:])
			}
		}
	}
}

func TestAFamilyWithoutAddressesIsDropped(t *testing.T) {
	if _, v := admit(whole("["+guestIP6+"]:5", "[2001:db8::9]:53", nil), []netip.Addr{addr(gatewayIP)}); v != drop {
		t.Errorf("the verdict is %d", v)
	}
}

func TestVnetHeader(t *testing.T) {
	h := vnetHeader{flags: vnetNeedsCsum, gsoType: gsoTCPv6, headBytes: 60, gsoBytes: 1440, csumStart: 40, csumOffset: 16}
	var b linkHeader
	if n := h.put(&b, 0, nil); n != uplink.VnetHeaderBytes {
		t.Errorf("%d bytes", n)
	}
	if got := parseVnetHeader(&b); got != h {
		t.Errorf("%+v is read as %+v", h, got)
	}
	b[1] |= gsoECN
	if got := parseVnetHeader(&b); got != h {
		t.Errorf("with ECN it is read as %+v", got)
	}
	// On a pair what is counted from the beginning of the packet is counted from Ethernet's header.
	if n := h.put(&b, uplink.EthernetBytes, []byte{0x60}); n != len(b) || b[22] != 0x86 || b[23] != 0xdd {
		t.Errorf("%d bytes, % x", n, b)
	}
	framed := h
	framed.headBytes, framed.csumStart = 74, 54
	if got := parseVnetHeader(&b); got != framed {
		t.Errorf("%+v is read as %+v", framed, got)
	}
}

// testStack is a stack whose device is a file that takes everything, and on which nothing arrives.
func testStack(t testing.TB) *Stack {
	t.Helper()
	device, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := testConfig(1500)
	s := newStack(c, io.Discard)
	s.policy.hostAddress = func(bool) (netip.Addr, bool) { return netip.Addr{}, false }
	s.link = &link{mtu: 1500, gateways: s.policy.gateways(), ended: make(chan struct{}), device: device, fd: int(device.Fd())}
	if err := s.configure(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// FuzzPacket feeds the stack with packets as they come from the device. It may refuse them, and must not stumble or keep them.
func FuzzPacket(f *testing.F) {
	head := make([]byte, uplink.VnetHeaderBytes)
	for _, b := range [][]byte{
		whole(guestIP+":5", "127.0.0.1:53", []byte("x")),
		whole("["+guestIP6+"]:5", "[::1]:53", []byte("x")),
		changed(whole(guestIP+":5", gatewayIP+":53", bytes.Repeat([]byte("x"), 64)), 9, protocolTCP),
		changed(whole(guestIP+":5", gatewayIP+":53", bytes.Repeat([]byte("x"), 64)), 6, 0x20, 0),
		changed(whole("["+guestIP6+"]:5", "["+gatewayIP6+"]:53", bytes.Repeat([]byte("x"), 64)), 6, protocolFragment),
		echoRequest(guestIP, gatewayIP), echoRequest(guestIP6, gatewayIP6),
		unreachable(addr(guestIP), noHost, protocolTCP, addr(gatewayIP), addr("203.0.113.1"), [8]byte{1, 2, 3, 4}, 12),
	} {
		f.Add(append(bytes.Clone(head), b...))
	}
	s := testStack(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < uplink.VnetHeaderBytes || len(b) > packetBytes {
			return
		}
		view := buffer.NewViewSize(packetBytes)
		n := copy(view.AsSlice(), b[uplink.VnetHeaderBytes:])
		var head linkHeader
		copy(head[:uplink.VnetHeaderBytes], b)
		if h := parseVnetHeader(&head); !s.link.take(h, view, n) {
			view.Release()
		}
		if st := s.Status(); st.UDP > s.flows.maxUDP || st.Echo > s.flows.maxEcho || int32(st.TCP) > s.tcp.max {
			t.Errorf("a table has grown beyond its bound: %+v", st)
		}
	})
}

func FuzzControl(f *testing.F) {
	f.Add(answerFrom(addr("192.0.2.1")))
	f.Add(answerFrom(addr("2001:db8::1")))
	f.Add(appendControl(nil, solUDP, udpGRO, binary.NativeEndian.AppendUint32(nil, 1200)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r received
		readControl(b, &r)
	})
}

func TestControl(t *testing.T) {
	var r received
	b := appendControl(answerFrom(addr("192.0.2.1")), solUDP, udpGRO, binary.NativeEndian.AppendUint32(nil, 1200))
	if readControl(b, &r); r.to != addr("192.0.2.1") || r.segment != 1200 {
		t.Errorf("%+v", r)
	}
}
