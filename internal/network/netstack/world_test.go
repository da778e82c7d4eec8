package netstack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth/internal/network/netlink"
	"berth/internal/network/uplink"
	"berth/test/netns"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { netns.Main(m) }

// world is this process as a host, another one on its wire, and a guest behind a stack.
type world struct {
	t            testing.TB
	s            *Stack
	guest, other *os.File
	log          *bytes.Buffer
}

const (
	guestIP, gatewayIP   = "10.0.2.100", "10.0.2.2"
	guestIP6, gatewayIP6 = "fd00:2::100", "fd00:2::2"
	// containerIP is an address inside that is not the guest's.
	containerIP, containerIP6 = "10.88.0.2", "fd00:88::2"
)

func testConfig(mtu int) uplink.Config {
	return uplink.Config{
		MTU:    mtu,
		IPv4:   uplink.Addresses{Guest: netip.MustParsePrefix(guestIP + "/24"), Gateway: netip.MustParseAddr(gatewayIP)},
		IPv6:   uplink.Addresses{Guest: netip.MustParsePrefix(guestIP6 + "/64"), Gateway: netip.MustParseAddr(gatewayIP6)},
		Inside: []netip.Prefix{netip.MustParsePrefix("10.88.0.0/16"), netip.MustParsePrefix("fd00:88::/64")},
	}
}

// newWorld makes one with a TUN; change may change the configuration.
func newWorld(t testing.TB, mtu int, change ...func(*uplink.Config)) *world {
	t.Helper()
	return newWorldOn(t, tun, mtu, change...)
}

// tun and pair make the two kinds of devices.
func tun(*netlink.Conn, uplink.Config) (*os.File, error) { return uplink.MakeTUN("uplink0") }

func pair(n *netlink.Conn, c uplink.Config) (*os.File, error) {
	return uplink.MakePair(n, "uplink0", c.MTU)
}

// worlds runs a test in a world of each kind with each MTU.
func worlds(t *testing.T, mtus []int, test func(t *testing.T, w *world)) {
	for _, mtu := range mtus {
		t.Run(fmt.Sprintf("TUN, MTU %d", mtu), func(t *testing.T) { test(t, newWorldOn(t, tun, mtu)) })
		t.Run(fmt.Sprintf("pair, MTU %d", mtu), func(t *testing.T) { test(t, newWorldOn(t, pair, mtu)) })
	}
}

func newWorldOn(t testing.TB, make func(*netlink.Conn, uplink.Config) (*os.File, error), mtu int, change ...func(*uplink.Config)) *world {
	t.Helper()
	netns.Need(t)
	w := &world{t: t, other: netns.Wire(t), guest: netns.New(t), log: &bytes.Buffer{}}
	c := testConfig(mtu)
	for _, f := range change {
		f(&c)
	}
	device := w.device(c, make)
	s, err := New(device, c, w.log)
	w.must(err)
	w.s = s
	t.Cleanup(func() {
		w.must(s.Close())
		<-s.Failed()
		if w.log.Len() > 0 {
			t.Errorf("the stack's words: %s", w.log)
		}
	})
	return w
}

// device makes the guest's device, and gives the guest a container's address as well.
func (w *world) device(c uplink.Config, make func(*netlink.Conn, uplink.Config) (*os.File, error)) (f *os.File) {
	w.t.Helper()
	w.inside(func() (err error) {
		n, err := netlink.Open(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer n.Close()
		if f, err = make(n, c); err != nil {
			return err
		}
		l, err := n.LinkByName("uplink0")
		if err != nil {
			return err
		}
		requests := append(c.Requests(l),
			netlink.AddAddress(l.Index, netip.MustParsePrefix(containerIP+"/32")), netlink.AddAddress(l.Index, netip.MustParsePrefix(containerIP6+"/128")))
		return n.Do(requests...)
	})
	return f
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) inside(f func() error) { w.t.Helper(); netns.In(w.t, w.guest, f) }

// patience is how long an answer may take on a loaded machine.
const patience = 10 * time.Second

// dial connects from a namespace.
func (w *world) dial(ns *os.File, network, address string) (c net.Conn, err error) {
	netns.In(w.t, ns, func() error {
		c, err = net.DialTimeout(network, address, patience)
		return nil
	})
	if err == nil {
		w.must(c.SetDeadline(time.Now().Add(patience)))
		w.t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func (w *world) mustDial(ns *os.File, network, address string) net.Conn {
	w.t.Helper()
	c, err := w.dial(ns, network, address)
	w.must(err)
	return c
}

// listen listens in a namespace and calls serve for each connection; it returns the port.
func (w *world) listen(ns *os.File, network, address string, serve func(*net.TCPConn)) (l *net.TCPListener) {
	w.t.Helper()
	netns.In(w.t, ns, func() error {
		any, err := net.Listen(network, address)
		if err == nil {
			l = any.(*net.TCPListener)
		}
		return err
	})
	w.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				serve(c)
			}()
		}
	}()
	return l
}

// listenUDP binds in a namespace and answers each datagram with what answer makes of it.
func (w *world) listenUDP(ns *os.File, address string, answer func(from netip.AddrPort, b []byte) []byte) *net.UDPConn {
	w.t.Helper()
	var u *net.UDPConn
	netns.In(w.t, ns, func() error {
		p, err := net.ListenPacket("udp", address)
		if err == nil {
			u = p.(*net.UDPConn)
		}
		return err
	})
	w.t.Cleanup(func() { _ = u.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := u.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = u.WriteToUDPAddrPort(answer(from, b[:n]), from)
			}
		}
	}()
	return u
}

func portOf(a net.Addr) string {
	_, port, _ := net.SplitHostPort(a.String())
	return port
}

// content is n bytes that are not the same anywhere.
func content(n int) []byte {
	b := make([]byte, n)
	x := uint32(n) + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

// transfer sends bytes, ends its direction and expects the same back.
func (w *world) transfer(c net.Conn, b []byte) {
	w.t.Helper()
	var sending sync.WaitGroup
	var sent error
	sending.Go(func() {
		if _, sent = c.Write(b); sent == nil {
			sent = c.(*net.TCPConn).CloseWrite()
		}
	})
	got, err := io.ReadAll(c)
	sending.Wait()
	w.must(errors.Join(sent, err))
	if !bytes.Equal(got, b) {
		w.t.Errorf("%d bytes have come back of %d, or others", len(got), len(b))
	}
}

// eventually waits for a condition.
func (w *world) eventually(what string, condition func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("it never came that %s: %+v", what, w.s.Status())
		}
	}
}

// listening makes a socket as monitors make them for published ports.
func listening(t testing.TB, network, address string) *os.File {
	t.Helper()
	var f *os.File
	var err error
	if network == "tcp" {
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil {
			f, err = l.(*net.TCPListener).File()
			_ = l.Close()
		}
	} else {
		var p net.PacketConn
		if p, err = net.ListenPacket("udp", address); err == nil {
			f, err = p.(*net.UDPConn).File()
			_ = p.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// port is the one that a socket is bound to.
func port(t testing.TB, f *os.File) string {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var sa unix.Sockaddr
	if e := raw.Control(func(fd uintptr) { sa, err = unix.Getsockname(int(fd)) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return fmt.Sprint(addrPort(sa).Port())
}

func isErrno(err error, any ...syscall.Errno) bool {
	for _, errno := range any {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
