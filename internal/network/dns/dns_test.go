package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// two are two networks, and a name that is on both.
func two() []Network {
	front, back := &Table{}, &Table{}
	front.Add([]string{"web", "3f4e5d6c7b8a", "www"}, ip("172.18.0.2"))
	front.Add([]string{"Both", "www"}, ip("172.18.0.3"), ip("fd00::3"))
	front.Add([]string{"api.example.com"}, ip("172.18.0.4"))
	front.Add([]string{"six"}, ip("fd00::6"))
	back.Add([]string{"both"}, ip("172.19.0.3"))
	back.Add([]string{"db"}, ip("172.19.0.5"))
	for i := range 400 {
		back.Add([]string{"many"}, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	return []Network{{"front", front}, {"my.back", back}}
}

// serve starts a server on the loopback and looks, at the end, whether anything has been left.
func serve(t *testing.T, c Config, port uint16) *Server {
	t.Helper()
	goroutines, sockets := runtime.NumGoroutine(), openSockets(t)
	here, err := Listen(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := start(here, c, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}
		for try := 0; runtime.NumGoroutine() > goroutines || openSockets(t) > sockets; try++ {
			if try > 100 {
				buf := make([]byte, 1<<16)
				t.Fatalf("%d goroutines and %d sockets are left of %d and %d\n%s", runtime.NumGoroutine(), openSockets(t), goroutines, sockets, buf[:runtime.Stack(buf, true)])
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	return s
}

// openSockets does not count the poller's own descriptors, which come with the first that it is given.
func openSockets(t *testing.T) int {
	t.Helper()
	list, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range list {
		if what, err := os.Readlink(fd); err == nil && strings.HasPrefix(what, "socket:") {
			n++
		}
	}
	return n
}

// question is a query for a name, with an OPT record if size is not 0.
func question(id uint16, name string, kind uint16, size int) []byte {
	msg := binary.BigEndian.AppendUint16(nil, id)
	msg = append(msg, bitRecurse>>8, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	msg = appendName(msg, name)
	msg = binary.BigEndian.AppendUint16(msg, kind)
	msg = binary.BigEndian.AppendUint16(msg, classIN)
	if size == 0 {
		return msg
	}
	msg[11] = 1
	msg = append(msg, 0, 0, typeOPT)
	msg = binary.BigEndian.AppendUint16(msg, uint16(size))
	return append(msg, 0, 0, 0x80, 0, 0, 0)
}

func at(t *testing.T, s *Server) netip.AddrPort {
	t.Helper()
	port, err := s.Sockets().Port()
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(Address(), port)
}

// ask sends a message over UDP and returns the answer, or nil after a while.
func ask(t *testing.T, s *Server, msg []byte, wait time.Duration) []byte {
	t.Helper()
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(msg); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}

// say writes an answer as text: flags, code, addresses sorted.
func say(t *testing.T, asked, msg []byte) string {
	t.Helper()
	if msg == nil {
		return "nothing"
	}
	if len(msg) < headerLength || !bytes.Equal(msg[:2], asked[:2]) {
		t.Fatalf("%x is no answer to %x", msg, asked)
	}
	words := []string{fmt.Sprint(msg[3] & 0xf)}
	if msg[2] != 0x81 {
		words = append(words, fmt.Sprintf("flags %x", msg[2]))
	}
	if msg[3]&0x80 == 0 {
		words = append(words, "no RA")
	}
	var q query
	msg = bytes.Clone(msg)
	msg[2] &^= 0x80
	if code, ok := q.parse(msg); !ok || code != success {
		t.Fatalf("%x cannot be parsed: %d", msg, code)
	}
	var list []string
	next := q.end
	for range binary.BigEndian.Uint16(msg[6:]) {
		kind, seconds := binary.BigEndian.Uint16(msg[next+2:]), binary.BigEndian.Uint32(msg[next+6:])
		length := int(binary.BigEndian.Uint16(msg[next+10:]))
		if seconds != ttl {
			t.Errorf("a record lives for %d seconds", seconds)
		}
		data := msg[next+12 : next+12+length]
		next += 12 + length
		if kind == typePTR {
			list = append(list, fmt.Sprintf("%q", data))
		} else if a, ok := netip.AddrFromSlice(data); ok {
			list = append(list, a.String())
		}
	}
	slices.Sort(list)
	if q.edns {
		list = append(list, "EDNS")
	}
	return strings.Join(append(words, list...), " ")
}

func TestNamesOfTheContainersNetworks(t *testing.T) {
	s := serve(t, Config{Networks: two()}, 53)
	for _, c := range []struct {
		summary, name string
		kind          uint16
		want          string
	}{
		{"A name", "web", typeA, "0 172.18.0.2"},
		{"A name with a dot at the end is the same on the wire", "web.", typeA, "0 172.18.0.2"},
		{"In other letters", "wEb", typeA, "0 172.18.0.2"},
		{"A name that was given in other letters", "both", typeAAAA, "0 fd00::3"},
		{"A short ID", "3f4e5d6c7b8a", typeA, "0 172.18.0.2"},
		{"A name without IPv6 exists, so that libc looks no further", "web", typeAAAA, "0"},
		{"And one without IPv4", "six", typeA, "0"},
		{"An alias of two containers", "www", typeA, "0 172.18.0.2 172.18.0.3"},
		{"Both families", "both", typeANY, "0 172.18.0.3 fd00::3"},
		{"A name with dots", "api.example.com", typeA, "0 172.18.0.4"},
		{"A name on a network", "web.front", typeA, "0 172.18.0.2"},
		{"A network's name in other letters", "web.FRONT", typeA, "0 172.18.0.2"},
		{"The first network wins", "both", typeA, "0 172.18.0.3"},
		{"Unless another is named", "both.my.back", typeA, "0 172.19.0.3"},
		{"A name that the network named does not know", "web.my.back", typeA, "2"},
		{"A network that the container is not on", "web.other", typeA, "2"},
		{"A name of a network that the container is not on", "elsewhere", typeA, "2"},
		{"Part of a name", "we", typeA, "2"},
		{"The root", "", typeA, "2"},
		{"MX is the address itself", "web", 15, "0"},
		{"HTTPS is not asked elsewhere", "web", 65, "0"},
		{"An address", "2.0.18.172.in-addr.arpa", typePTR, `0 "\x03web\x05front\x00"`},
		{"An address of the second network", "5.0.19.172.in-addr.arpa", typePTR, `0 "\x02db\x02my\x04back\x00"`},
		{"An IPv6 address", "3." + strings.Repeat("0.", 27) + "0.0.D.F.IP6.arpa", typePTR, `0 "\x04Both\x05front\x00"`},
		{"An address that nobody has", "9.0.18.172.in-addr.arpa", typePTR, "2"},
		{"What is no address", "300.0.18.172.in-addr.arpa", typePTR, "2"},
		{"Too few numbers", "0.18.172.in-addr.arpa", typePTR, "2"},
	} {
		q := question(4711, c.name, c.kind, 0)
		if got := say(t, q, ask(t, s, q, time.Second)); got != c.want {
			t.Errorf("%s: %s, want %s", c.summary, got, c.want)
		}
		q = question(4712, c.name, c.kind, 1232)
		if got := say(t, q, ask(t, s, q, time.Second)); got != c.want+" EDNS" {
			t.Errorf("%s, with EDNS: %s, want %s", c.summary, got, c.want)
		}
	}
}

func TestADotWithinALabelIsNotASeparator(t *testing.T) {
	s := serve(t, Config{Networks: two()}, 53)
	q := question(1, "webxfront", typeA, 0)
	q[headerLength+4] = '.'
	if got := say(t, q, ask(t, s, q, time.Second)); got != "2" {
		t.Errorf("got %s", got)
	}
}

func TestLettersOfTheQuestionAreKept(t *testing.T) {
	s := serve(t, Config{Networks: two()}, 53)
	q := question(1, "WeB", typeA, 0)
	if got := ask(t, s, q, time.Second); !bytes.Equal(got[headerLength:len(q)], q[headerLength:]) {
		t.Errorf("%q answers %q", got, q)
	}
}

func TestAddressesComeInAnyOrder(t *testing.T) {
	s := serve(t, Config{Networks: two()}, 53)
	first := map[byte]int{}
	for range 200 {
		// libc asks for both families in turns.
		ask(t, s, question(1, "www", typeAAAA, 0), time.Second)
		q := question(1, "www", typeA, 0)
		first[ask(t, s, q, time.Second)[len(q)+15]]++
	}
	if len(first) != 2 || first[2] < 50 || first[3] < 50 {
		t.Errorf("the first address was %v", first)
	}
}

func TestLongAnswersAreCutOffOverUDPAndWholeOverTCP(t *testing.T) {
	s := serve(t, Config{Networks: two()}, 53)
	for size, want := range map[int]int{0: 512, 100: 512, 1232: 1232, 65535: maxAnswer} {
		q := question(1, "many", typeA, size)
		got := ask(t, s, q, time.Second)
		if len(got) > want || len(got) < want-30 || got[2]&(bitTruncated>>8) == 0 {
			t.Errorf("a client that takes %d bytes gets %d, %x", size, len(got), got[:headerLength])
		}
	}
	c, err := net.Dial("tcp4", at(t, s).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q := question(1, "many", typeA, 1232)
	for range 3 { // one connection, many queries
		if err := writeMessage(c, q); err != nil {
			t.Fatal(err)
		}
		got, err := readMessage(c, nil, 1<<16)
		if err != nil || got[2]&(bitTruncated>>8) != 0 || binary.BigEndian.Uint16(got[6:]) != 400 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

func TestWhatIsNoQuery(t *testing.T) {
	s := serve(t, Config{Networks: two()}, 53)
	ok := question(0x1234, "web", typeA, 1232)
	change := func(f func(m []byte) []byte) []byte { return f(bytes.Clone(ok)) }
	for _, c := range []struct {
		summary string
		msg     []byte
		code    int // -1: no answer
	}{
		{"Nothing", nil, -1},
		{"Half a header", ok[:11], -1},
		{"An answer", change(func(m []byte) []byte { m[2] |= 0x80; return m }), -1},
		{"A query that is cut off by the buffer", append(bytes.Clone(ok), make([]byte, maxQuery)...), -1},
		{"A header alone", ok[:12], formatErr},
		{"Half a name", ok[:14], formatErr},
		{"Half a type", ok[:18], formatErr},
		{"Half an OPT record", ok[:len(ok)-3], formatErr},
		{"An update", change(func(m []byte) []byte { m[2] |= 5 << 3; return m }), notImpl},
		{"No question", change(func(m []byte) []byte { m[5] = 0; return m }), formatErr},
		{"Two questions", change(func(m []byte) []byte { m[5] = 2; return m }), formatErr},
		{"More records than there are", change(func(m []byte) []byte { m[10] = 255; return m }), formatErr},
		{"A pointer in the question", change(func(m []byte) []byte { m[12] = 0xc0; m[13] = 12; return m }), formatErr},
		{"A label of 64 bytes", change(func(m []byte) []byte { m[12] = 64; return append(m, make([]byte, 80)...) }), formatErr},
		{"Two OPT records", change(func(m []byte) []byte { m[11] = 2; return append(m, m[len(m)-optLength:]...) }), formatErr},
		{"EDNS of the future", change(func(m []byte) []byte { m[len(m)-5] = 1; return m }), 0},
		{"A name of 256 bytes", func() []byte {
			m := question(0x1234, strings.TrimSuffix(strings.Repeat(strings.Repeat("x", 62)+".", 4), "."), typeA, 0)
			m[headerLength] = 63
			return slices.Insert(m, headerLength+1, 'x', 'x', 'x')
		}(), formatErr},
	} {
		got := ask(t, s, c.msg, 200*time.Millisecond)
		switch {
		case c.code < 0 && got != nil:
			t.Errorf("%s: answered with %x", c.summary, got)
		case c.code >= 0 && (got == nil || int(got[3]&0xf) != c.code || got[1] != 0x34):
			t.Errorf("%s: answered with %x", c.summary, got)
		case c.summary == "EDNS of the future" && got[len(got)-6] != 1:
			t.Errorf("%s: no BADVERS in %x", c.summary, got)
		}
	}
}

func TestForwarding(t *testing.T) {
	first := newUpstream(t, netip.MustParseAddrPort("127.0.0.1:0"))
	second := newUpstream(t, netip.AddrPortFrom(ip("127.0.0.2"), first.addr.Port()))
	path := resolvConf(t, "nameserver 127.0.0.1", "nameserver 127.0.0.2", "options timeout:1")
	s := serve(t, Config{Networks: two(), ResolvConf: path}, first.addr.Port())
	const there = "192.0.2.1"
	for _, c := range []struct {
		summary, name string
		size          int
		want          string
		both          bool // servers are asked
	}{
		{"A name", "ok.example", 0, there, false},
		{"A name without a dot", "unknown", 0, there, false},
		{"With EDNS", "ok.example", 1232, there, false},
		{"No such name is the last word", "noname.example", 0, "3", false},
		{"Failure leads to the next server", "fail.example", 0, "2", true},
		{"Refusal, too", "refuse.example", 0, "2", true},
		{"Lies do not count", "strange.example", 0, there, false},
		{"Guesses are limited", "guess.example", 0, "2", true},
		{"A server without EDNS is heard", "noedns.example", 1232, "1", true},
		{"And asked again without", "noedns.example", 0, there, false},
	} {
		before := len(second.asked())
		q := question(99, c.name, typeA, c.size)
		got := ask(t, s, q, 5*time.Second)
		switch {
		case got == nil || !bytes.Equal(got[:2], q[:2]) || !bytes.Equal(got[headerLength:headerLength+len(c.name)+6], q[headerLength:headerLength+len(c.name)+6]):
			t.Errorf("%s: %x", c.summary, got)
		case c.want == there:
			end := headerLength + len(c.name) + 6 + recordLength
			if got[3]&0xf != 0 || len(got) < end+4 || !bytes.Equal(got[end:end+4], []byte{192, 0, 2, 1}) {
				t.Errorf("%s: %x", c.summary, got)
			}
		case fmt.Sprint(got[3]&0xf) != c.want:
			t.Errorf("%s: %x", c.summary, got)
		}
		if asked := len(second.asked()) > before; asked != c.both {
			t.Errorf("%s: the second server was asked: %v", c.summary, asked)
		}
	}
	q := question(7, "OK.example", typeA, 1232)
	ask(t, s, q, time.Second)
	first.mu.Lock()
	if !bytes.Equal(first.last[2:], q[2:]) || bytes.Equal(first.last[:2], q[:2]) {
		t.Errorf("%x is passed on as %x", q, first.last)
	}
	first.mu.Unlock()
	began := time.Now()
	if got := say(t, q, ask(t, s, question(7, "silent.example", typeA, 0), 5*time.Second)); got != "2" || time.Since(began) < 1900*time.Millisecond {
		t.Errorf("two silent servers give %s after %v", got, time.Since(began))
	}
	for _, asked := range append(first.asked(), second.asked()...) {
		if strings.HasPrefix(asked, "web") {
			t.Errorf("a name of our own was asked for: %s", asked)
		}
	}
}

func TestAServerThatIsNotThereIsNotWaitedFor(t *testing.T) {
	second := newUpstream(t, netip.MustParseAddrPort("127.0.0.2:0"))
	s := serve(t, Config{ResolvConf: resolvConf(t, "nameserver 127.0.0.3", "nameserver 127.0.0.2")}, second.addr.Port())
	began := time.Now()
	q := question(1, "ok.example", typeA, 0)
	if got := ask(t, s, q, 3*time.Second); got == nil || got[3]&0xf != 0 || time.Since(began) > time.Second {
		t.Errorf("%x after %v", got, time.Since(began))
	}
}

func TestAnAnswerThatLoopsIsOnlyPassedOn(t *testing.T) {
	up := newUpstream(t, netip.MustParseAddrPort("127.0.0.1:0"))
	s := serve(t, Config{ResolvConf: resolvConf(t, "nameserver 127.0.0.1")}, up.addr.Port())
	q := question(1, "loop.example", typeA, 0)
	if got := ask(t, s, q, time.Second); len(got) != len(q)+14 {
		t.Errorf("%x", got)
	}
}

func TestTCPGoesOnOverTCP(t *testing.T) {
	up := newUpstream(t, netip.MustParseAddrPort("127.0.0.1:0"))
	s := serve(t, Config{ResolvConf: resolvConf(t, "nameserver 127.0.0.1", "options timeout:1")}, up.addr.Port())
	q := question(77, "long.example", typeA, 0)
	if got := ask(t, s, q, time.Second); got == nil || got[2]&(bitTruncated>>8) == 0 {
		t.Errorf("over UDP: %x", got)
	}
	for name, want := range map[string]int{"long.example": 3000, "claim.example": 0, "silent.example": 0} {
		c, err := net.Dial("tcp4", at(t, s).String())
		if err != nil {
			t.Fatal(err)
		}
		if err := writeMessage(c, question(77, name, typeA, 0)); err != nil {
			t.Fatal(err)
		}
		got, err := readMessage(c, nil, 1<<16)
		if err != nil || got[1] != 77 || int(binary.BigEndian.Uint16(got[6:])) != want || want == 0 && got[3]&0xf != serverFail {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		_ = c.Close()
	}
	if asked := up.asked(); !slices.Contains(asked, "long.example over tcp") {
		t.Errorf("asked: %q", asked)
	}
}

func TestGoesResolverUnderstandsTheAnswers(t *testing.T) {
	up := newUpstream(t, netip.MustParseAddrPort("127.0.0.1:0"))
	s := serve(t, Config{Networks: two(), ResolvConf: resolvConf(t, "nameserver 127.0.0.1")}, up.addr.Port())
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, at(t, s).String())
	}}
	for name, want := range map[string]int{"web.": 1, "both.": 2, "many.": 400, "ok.example.": 1} {
		got, err := r.LookupNetIP(t.Context(), "ip", name)
		if err != nil || len(got) != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, err := r.LookupAddr(t.Context(), "fd00::3"); err != nil || !slices.Equal(got, []string{"Both.front."}) {
		t.Errorf("fd00::3 is %q, %v", got, err)
	}
}

func TestInternalNetworksAskNobody(t *testing.T) {
	up := newUpstream(t, netip.MustParseAddrPort("127.0.0.1:0"))
	s := serve(t, Config{Networks: two()}, up.addr.Port())
	q := question(1, "ok.example", typeA, 0)
	if got := say(t, q, ask(t, s, q, time.Second)); got != "2" {
		t.Errorf("got %s", got)
	}
	if asked := up.asked(); asked != nil {
		t.Errorf("asked: %q", asked)
	}
	// The container joins another network.
	s.Configure(Config{ResolvConf: resolvConf(t, "nameserver 127.0.0.1")})
	if got := ask(t, s, q, time.Second); got == nil || got[3]&0xf != 0 {
		t.Errorf("got %x", got)
	}
	q = question(1, "web", typeAAAA, 0)
	if got := ask(t, s, q, time.Second); got == nil || up.asked()[1] != "web over udp" {
		t.Errorf("a name of a network that was left: %x", got)
	}
}

func TestChosenNdotsKeepsNamesWithoutADot(t *testing.T) {
	up := newUpstream(t, netip.MustParseAddrPort("127.0.0.1:0"))
	s := serve(t, Config{Ndots: true, ResolvConf: resolvConf(t, "nameserver 127.0.0.1")}, up.addr.Port())
	for _, kind := range []uint16{typeA, typeAAAA} {
		q := question(1, "unknown", kind, 0)
		if got := say(t, q, ask(t, s, q, time.Second)); got != "0" {
			t.Errorf("got %s", got)
		}
	}
	ask(t, s, question(1, "unknown", 16, 0), time.Second)
	ask(t, s, question(1, "un.known", typeA, 0), time.Second)
	if asked := up.asked(); !slices.Equal(asked, []string{"unknown over udp", "un.known over udp"}) {
		t.Errorf("asked: %q", asked)
	}
}

func TestServersGivenComeBeforeTheHosts(t *testing.T) {
	host := newUpstream(t, netip.MustParseAddrPort("127.0.0.1:0"))
	given := newUpstream(t, netip.AddrPortFrom(ip("127.0.0.2"), host.addr.Port()))
	s := serve(t, Config{
		ResolvConf: resolvConf(t, "nameserver 127.0.0.1"), Servers: []netip.Addr{Address(), ip("127.0.0.2")}, Dial: DialIn(nil),
	}, host.addr.Port())
	ask(t, s, question(1, "ok.example", typeA, 0), time.Second)
	if len(host.asked()) != 0 || len(given.asked()) != 1 {
		t.Errorf("asked: %q and %q", host.asked(), given.asked())
	}
}

func TestTheHostsFileIsReadAgainWhenItHasChanged(t *testing.T) {
	first := newUpstream(t, netip.MustParseAddrPort("127.0.0.1:0"))
	second := newUpstream(t, netip.AddrPortFrom(ip("127.0.0.2"), first.addr.Port()))
	path := resolvConf(t, "nameserver 127.0.0.1")
	s := serve(t, Config{ResolvConf: path}, first.addr.Port())
	q := question(1, "ok.example", typeA, 0)
	ask(t, s, q, time.Second)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := say(t, q, ask(t, s, q, time.Second)); got != "2" {
		t.Errorf("without the file: %s", got)
	}
	write(t, path, "# changed", "nameserver 127.0.0.2")
	ask(t, s, q, time.Second)
	if len(first.asked()) != 1 || len(second.asked()) != 1 {
		t.Errorf("asked: %q and %q", first.asked(), second.asked())
	}
}

func TestFloodsAreBoundedAndDoNotStopLocalNames(t *testing.T) {
	up := newUpstream(t, netip.MustParseAddrPort("127.0.0.1:0"))
	s := serve(t, Config{Networks: two(), ResolvConf: resolvConf(t, "nameserver 127.0.0.1")}, up.addr.Port())
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	most := 0
	for i := range 5000 {
		if _, err := c.Write(question(uint16(i), "silent.example", typeA, 0)); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			time.Sleep(time.Millisecond)
			s.mu.Lock()
			most = max(most, s.flights)
			s.mu.Unlock()
		}
	}
	if most != maxFlights || runtime.NumGoroutine() > maxFlights+50 {
		t.Errorf("%d queries are in flight, and there are %d goroutines", most, runtime.NumGoroutine())
	}
	q := question(1, "web", typeA, 0)
	if got := say(t, q, ask(t, s, q, time.Second)); got != "0 172.18.0.2" {
		t.Errorf("got %s", got)
	}
	began := time.Now()
	if err := s.Close(); err != nil || time.Since(began) > time.Second {
		t.Errorf("closing takes %v, %v", time.Since(began), err)
	}
}

func TestTCPClientsAreBoundedInNumberTimeAndLength(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for slow clients to be given up")
	}
	s := serve(t, Config{Networks: two()}, 53)
	to := at(t, s).String()
	giant, err := net.Dial("tcp4", to)
	if err != nil {
		t.Fatal(err)
	}
	defer giant.Close()
	_, _ = giant.Write([]byte{0xff, 0xff, 1, 2, 3})
	_ = giant.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := giant.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a message of 65535 bytes is awaited: %v", err)
	}
	goroutines := runtime.NumGoroutine()
	for range maxClients {
		slow, err := net.Dial("tcp4", to)
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Close()
		_, _ = slow.Write([]byte{0})
	}
	c, err := net.Dial("tcp4", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	q := question(1, "web", typeA, 0)
	if err := writeMessage(c, q); err != nil {
		t.Fatal(err)
	}
	if n := runtime.NumGoroutine() - goroutines; n > maxClients {
		t.Errorf("%d goroutines for %d clients", n, maxClients)
	}
	_ = c.SetReadDeadline(time.Now().Add(2 * clientPatience))
	got, err := readMessage(c, nil, 1<<16)
	if err != nil || say(t, q, got) != "0 172.18.0.2" {
		t.Errorf("after %v: %x, %v", time.Since(began), got, err)
	}
}

func TestSocketsOutliveTheProgram(t *testing.T) {
	sockets, err := Listen(nil)
	if err != nil {
		t.Fatal(err)
	}
	old, err := Start(sockets, Config{Networks: two()})
	if err != nil {
		t.Fatal(err)
	}
	// What a program finds after execve: other descriptors of the same sockets, which by now do not block.
	inherit := func(f *os.File) *os.File {
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), "inherited")
	}
	udp, tcp := inherit(old.Sockets().UDP), inherit(old.Sockets().TCP)
	was := at(t, old)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := FromFiles(inherit(tcp), inherit(udp)); err == nil {
		t.Error("the one is taken for the other")
	}
	sockets, err = FromFiles(udp, tcp)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Start(sockets, Config{Networks: two()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if at(t, s) != was {
		t.Error("the port has changed")
	}
	q := question(1, "web", typeA, 0)
	if got := say(t, q, ask(t, s, q, time.Second)); got != "0 172.18.0.2" {
		t.Errorf("got %s", got)
	}
}

func TestDig(t *testing.T) {
	dig, err := exec.LookPath("dig")
	if err != nil {
		t.Skip("dig is not installed")
	}
	up := newUpstream(t, netip.MustParseAddrPort("127.0.0.1:0"))
	s := serve(t, Config{Networks: two(), ResolvConf: resolvConf(t, "nameserver 127.0.0.1")}, up.addr.Port())
	for _, c := range []struct {
		args string
		want []string // of its output
	}{
		{"web", []string{"status: NOERROR", "flags: qr rd ra;", "ANSWER: 1", "EDNS: version: 0", "172.18.0.2"}},
		{"+noedns web AAAA", []string{"status: NOERROR", "ANSWER: 0"}},
		{"both.my.back", []string{"172.19.0.3"}},
		{"+dnssec +bufsize=1232 +ignore many", []string{"flags: qr tc rd ra;", "flags: do"}},
		{"many", []string{"Truncated, retrying in TCP mode", "ANSWER: 400"}},
		{"+tcp +cd web", []string{"flags: qr rd ra cd;", "ANSWER: 1"}},
		{"-x 172.18.0.2", []string{"PTR\tweb.front."}},
		{"ok.example", []string{"192.0.2.1"}},
		{"+tcp ok.example", []string{"192.0.2.1"}},
		{"long.example", []string{"Truncated, retrying in TCP mode", "ANSWER: 3000"}},
		{"+edns=1 +noednsnegotiation web", []string{"status: BADVERS"}},
		{"+opcode=notify web", []string{"status: NOTIMP"}},
	} {
		args := append([]string{"@127.0.0.11", "-p", fmt.Sprint(at(t, s).Port()), "+tries=1", "+nocookie"}, strings.Fields(c.args)...)
		out, err := exec.Command(dig, args...).CombinedOutput()
		for _, want := range c.want {
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("dig %s: %v, no %q in\n%s", c.args, err, want, out)
				break
			}
		}
	}
}

func TestManyClientsAtOnce(t *testing.T) {
	up := newUpstream(t, netip.MustParseAddrPort("127.0.0.1:0"))
	s := serve(t, Config{Networks: two(), ResolvConf: resolvConf(t, "nameserver 127.0.0.1")}, up.addr.Port())
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for j := range 20 {
				name, want := "web", byte(2)
				if (i+j)%2 == 0 {
					name, want = fmt.Sprintf("n%d-%d.example", i, j), 1
				}
				q := question(uint16(i*100+j), name, typeA, 0)
				if got := ask(t, s, q, 2*time.Second); got == nil || got[len(got)-1] != want || !bytes.Equal(got[:2], q[:2]) {
					t.Errorf("%s: %x", name, got)
				}
			}
		})
	}
	wg.Go(func() {
		for range 100 {
			s.Configure(*s.config.Load())
		}
	})
	wg.Wait()
}
