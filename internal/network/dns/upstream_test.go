package dns

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// upstream is a server that behaves as the first label of the name in a query tells it to.
type upstream struct {
	t    *testing.T
	addr netip.AddrPort
	udp  *net.UDPConn
	tcp  *net.TCPListener
	wg   sync.WaitGroup

	mu   sync.Mutex
	seen []string // "name over network"
	last []byte   // the last query
}

func newUpstream(t *testing.T, at netip.AddrPort) *upstream {
	t.Helper()
	for try := 0; ; try++ {
		tcp, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		here := tcp.Addr().(*net.TCPAddr).AddrPort()
		udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(here))
		if err != nil {
			_ = tcp.Close()
			if try > 20 {
				t.Fatal(err)
			}
			continue
		}
		u := &upstream{t: t, addr: here, udp: udp, tcp: tcp}
		u.wg.Go(u.serveUDP)
		u.wg.Go(u.serveTCP)
		t.Cleanup(u.close)
		return u
	}
}

func (u *upstream) close() {
	_ = u.udp.Close()
	_ = u.tcp.Close()
	u.wg.Wait()
}

func (u *upstream) asked() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.seen...)
}

func (u *upstream) note(q *query, network string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = append(u.seen, string(q.name)+" over "+network)
	u.last = bytes.Clone(q.msg)
	what, _, _ := strings.Cut(string(q.name), ".")
	return what
}

// good is the answer 192.0.2.1, or the code given.
func good(q *query, code int) []byte {
	out := q.begin(nil, code)
	if code != success {
		return q.finish(out, 0, code)
	}
	return q.finish(append(appendRecord(out, typeA, 4), 192, 0, 2, 1), 1, code)
}

func (u *upstream) serveUDP() {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := u.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		var q query
		if _, ok := q.parse(buf[:n]); !ok {
			continue
		}
		send := func(msg []byte) { _, _ = u.udp.WriteToUDPAddrPort(msg, from) }
		id := func(msg []byte, by uint16) []byte {
			binary.BigEndian.PutUint16(msg, binary.BigEndian.Uint16(msg)+by)
			return msg
		}
		switch u.note(&q, "udp") {
		case "silent":
		case "fail":
			send(good(&q, serverFail))
		case "refuse":
			send(good(&q, refused))
		case "noname":
			send(good(&q, noName))
		case "noedns":
			if !q.edns {
				send(good(&q, success))
				continue
			}
			h := good(&q, formatErr)[:headerLength]
			copy(h[4:], make([]byte, 8))
			send(h)
		case "strange": // whatever must not be believed, and then the truth
			evil := func() []byte { m := good(&q, success); m[len(m)-1] = 66; return m }
			send(nil)
			send([]byte{1, 2, 3})
			send(id(evil(), 1))
			m := evil()
			m[2] &^= 0x80 // a query
			send(m)
			m = evil()
			m[headerLength+1] ^= 1 // another name
			send(m)
			m = evil()
			m[q.end-3] ^= 1 // another type
			send(m)
			m = evil()
			m[5] = 2 // two questions
			send(m)
			m = evil()
			m[5] = 0 // none
			send(m)
			if other, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(from)); err == nil {
				_, _ = other.Write(evil()) // from another port
				_ = other.Close()
			}
			time.Sleep(20 * time.Millisecond)
			send(good(&q, success))
		case "guess":
			for i := range uint16(2 * maxStrangers) {
				send(id(good(&q, success), i+1))
			}
		case "slow":
			time.Sleep(100 * time.Millisecond)
			send(good(&q, success))
		case "long":
			m := q.begin(nil, success)
			m[2] |= bitTruncated >> 8
			send(q.finish(m, 0, success))
		case "loop": // a name that is a pointer to itself
			m := q.begin(nil, success)
			at := len(m)
			m = append(m, 0xc0, byte(at), 0, 5, 0, 1, 0, 0, 0, 0, 0, 2, 0xc0, byte(at))
			send(q.finish(m, 1, success))
		default:
			send(good(&q, success))
		}
	}
}

func (u *upstream) serveTCP() {
	for {
		c, err := u.tcp.AcceptTCP()
		if err != nil {
			return
		}
		u.wg.Go(func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			msg, err := readMessage(c, nil, 1<<16-1)
			if err != nil {
				return
			}
			var q query
			q.parse(msg)
			switch u.note(&q, "tcp") {
			case "silent":
				_, _ = c.Read(make([]byte, 1))
			case "claim": // much is promised, and little comes
				_, _ = c.Write([]byte{0xff, 0xff, 1, 2, 3})
			case "long":
				out := q.begin(nil, success)
				for i := range 3000 {
					out = append(appendRecord(out, typeA, 4), 10, 0, byte(i>>8), byte(i))
				}
				_ = writeMessage(c, q.finish(out, 3000, success))
			default:
				_ = writeMessage(c, good(&q, success))
			}
		})
	}
}

// resolvConf writes a host's file with servers.
func resolvConf(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, path, lines...)
	return path
}

func write(t *testing.T, path string, lines ...string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}
