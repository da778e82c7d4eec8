package netstack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"berth/test/netns"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// feed gives the stack a packet as the device's reader does, with which it must not be at the same time.
func feed(s *Stack, packet []byte) {
	view := buffer.NewViewSize(packetBytes)
	if !s.link.take(vnetHeader{}, view, copy(view.AsSlice(), packet)) {
		view.Release()
	}
}

// syn is a SYN from a port of the guest's.
func syn(port uint16, to string) []byte {
	b := make([]byte, ipv4Bytes+header.TCPMinimumSize)
	from, dest := addr(guestIP), netip.MustParseAddrPort(to)
	ipHeader(b, from, dest.Addr(), protocolTCP, header.TCPMinimumSize)
	header.TCP(b[ipv4Bytes:]).Encode(&header.TCPFields{
		SrcPort: port, DstPort: dest.Port(), SeqNum: 7, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 1000,
	})
	return b
}

// Connections that are never made fill one table, and leave it.
func TestAFloodOfSYNs(t *testing.T) {
	netns.Need(t)
	netns.Wire(t)
	s := testStack(t)
	s.dialler.patience = time.Second
	for port := range uint16(5 * maxDialling) {
		feed(s, syn(port+1, "192.0.2.77:80")) // a neighbour that is not there
	}
	if n := s.Status().TCP; n == 0 || n > maxDialling {
		t.Errorf("%d connections are being made", n)
	}
	w := &world{t: t, s: s}
	w.eventually("none is left", func() bool { return s.Status().TCP == 0 })
	w.eventually("none is remembered", func() bool {
		s.dialler.mu.Lock()
		defer s.dialler.mu.Unlock()
		return len(s.dialler.dialling) == 0
	})
}

// First fragments whose others never come are kept up to a bound (gVisor's HighFragThreshold, 4 MiB for each family).
func TestAFloodOfFragments(t *testing.T) {
	netns.Need(t)
	s := testStack(t)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	four := changed(whole(guestIP+":5", "203.0.113.1:53", content(60_000)), 6, 0x20, 0)
	six := whole("["+guestIP6+"]:5", "[2001:db8::9]:53", content(60_000))
	copy(six[6:], []byte{protocolFragment})
	copy(six[ipv6Bytes:], []byte{protocolUDP, 0, 0, 1}) // more follow
	for id := range 2000 {
		binary.BigEndian.PutUint16(four[4:], uint16(id))
		binary.BigEndian.PutUint32(six[ipv6Bytes+4:], uint32(id))
		feed(s, four)
		feed(s, six)
	}
	if after := heap(); after > before+(16<<20) {
		t.Errorf("240 MB of fragments take %d bytes", after-before)
	}
}

// A full table gives up idle flows, and takes new ones.
func TestManyUDPFlows(t *testing.T) {
	w := newWorld(t, 1500)
	w.s.flows.mu.Lock()
	w.s.flows.maxUDP = 50
	w.s.flows.mu.Unlock()
	server := w.listenUDP(w.other, netns.OtherIP+":0", func(_ netip.AddrPort, b []byte) []byte { return b })
	for i := range 200 {
		w.echoes(w.mustDial(w.guest, "udp", server.LocalAddr().String()), content(i))
		if n := w.s.Status().UDP; n > 50 {
			t.Fatalf("there are %d flows", n)
		}
	}
}

func TestFlowsEndWhenIdle(t *testing.T) {
	w := newWorld(t, 1500)
	server := w.listenUDP(w.other, netns.OtherIP+":0", func(_ netip.AddrPort, b []byte) []byte { return b })
	once, again := w.mustDial(w.guest, "udp", server.LocalAddr().String()), w.mustDial(w.guest, "udp", server.LocalAddr().String())
	w.echoes(once, []byte("x"))
	w.echoes(again, []byte("x"))
	w.echoes(again, []byte("x"))
	age := func(d time.Duration) {
		w.s.flows.mu.Lock()
		for _, f := range w.s.flows.table {
			f.used.Add(-int64(d))
		}
		w.s.flows.mu.Unlock()
		w.s.flows.sweep()
	}
	for _, c := range []struct {
		summary string
		idle    time.Duration
		left    int
	}{
		{"Both are there at first", idleTimeout - time.Second, 2},
		{"One that has had an answer ends", 2 * time.Second, 1},
		{"One that went on after it stays longer", idleTimeoutAssured - idleTimeout - 5*time.Second, 1},
		{"And ends, too", 5 * time.Second, 0},
	} {
		if age(c.idle); w.s.Status().UDP != c.left {
			t.Errorf("%s: there are %d", c.summary, w.s.Status().UDP)
		}
	}
}

func TestADefectEndsOneConnection(t *testing.T) {
	var log bytes.Buffer
	s := &Stack{log: &log}
	ended := false
	func() {
		defer s.guard("UDP flow", func() { ended = true })
		panic("defect")
	}()
	if !ended || !strings.Contains(log.String(), "UDP flow defect") || !strings.Contains(log.String(), "attack_test.go") {
		t.Errorf("%v, %s", ended, &log)
	}
}
