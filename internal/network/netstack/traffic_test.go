package netstack

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth/internal/network/uplink"
	"berth/test/netns"

	"golang.org/x/sys/unix"
)

var mtus = []int{1500, 65520}

func TestTCPFromInside(t *testing.T) {
	worlds(t, mtus, func(t *testing.T, w *world) {
		for _, address := range []string{netns.OtherIP, netns.OtherIP6} {
			server := w.listen(w.other, "tcp", net.JoinHostPort(address, "0"), echo)
			for _, n := range []int{0, 1, 1 << 10, 5 << 20} {
				w.transfer(w.mustDial(w.guest, "tcp", server.Addr().String()), content(n))
			}
		}
		w.eventually("no connection is left", func() bool { return w.s.Status().TCP == 0 })
	})
}

// One end that has ended its direction goes on receiving.
func TestTheEndOfOneDirectionIsPassedOn(t *testing.T) {
	w := newWorld(t, 1500)
	server := w.listen(w.other, "tcp", netns.OtherIP+":0", func(c *net.TCPConn) {
		got, err := io.ReadAll(c) // ends although the connection goes on
		if err == nil {
			_, _ = fmt.Fprintf(c, "read %d", len(got))
		}
	})
	c := w.mustDial(w.guest, "tcp", server.Addr().String()).(*net.TCPConn)
	_, err := c.Write(content(100_000))
	w.must(err)
	w.must(c.CloseWrite())
	if got, err := io.ReadAll(c); string(got) != "read 100000" {
		t.Errorf("%q, %v", got, err)
	}
}

// Urgent data, which no byte stream has a place for, is left out, and what follows is not kept back by it.
func TestUrgentData(t *testing.T) {
	w := newWorld(t, 1500)
	server := w.listen(w.other, "tcp", netns.OtherIP+":0", func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "before ")
		raw, err := c.SyscallConn()
		w.must(err)
		_ = raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) })
		w.must(err)
		_, _ = io.WriteString(c, "after")
	})
	if got := w.read("tcp", server.Addr().String()); got != "before after" {
		t.Errorf("the guest reads %q", got)
	}
}

func TestFailuresArePassedOn(t *testing.T) {
	w := newWorld(t, 1500)
	// The other host becomes a router that knows no further networks.
	netns.In(t, w.other, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	for _, c := range []struct {
		summary, network, address string
		want                      []syscall.Errno
	}{
		{"A closed port refuses", "tcp", netns.OtherIP + ":9", []syscall.Errno{syscall.ECONNREFUSED}},
		{"A closed port refuses by IPv6", "tcp", "[" + netns.OtherIP6 + "]:9", []syscall.Errno{syscall.ECONNREFUSED}},
		{"A host that is not there", "tcp", "192.0.2.77:9", []syscall.Errno{syscall.EHOSTUNREACH}},
		{"A network that a router does not know", "tcp", "198.51.100.1:9", []syscall.Errno{syscall.ENETUNREACH, syscall.EHOSTUNREACH}},
		{"A broadcast address refuses", "tcp", "255.255.255.255:9", []syscall.Errno{syscall.ECONNREFUSED, syscall.ENETUNREACH, syscall.EACCES}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			if _, err := w.dial(w.guest, c.network, c.address); !isErrno(err, c.want...) {
				t.Errorf("the connection to %s fails with %v", c.address, err)
			}
		})
	}
}

func TestResetsArePassedOn(t *testing.T) {
	w := newWorld(t, 1500)
	ended := make(chan error, 1)
	server := w.listen(w.other, "tcp", netns.OtherIP+":0", func(c *net.TCPConn) {
		var one [1]byte
		if _, err := io.ReadFull(c, one[:]); err != nil {
			ended <- err
			return
		}
		if one[0] == 'r' {
			_ = c.SetLinger(0)
			_ = c.Close()
			return
		}
		if one[0] == 'h' {
			_ = c.CloseWrite()
		}
		_, err := io.ReadFull(c, one[:])
		ended <- err
	})
	t.Run("From the peer to the guest", func(t *testing.T) {
		c := w.mustDial(w.guest, "tcp", server.Addr().String())
		_, err := c.Write([]byte("r"))
		w.must(err)
		if _, err := c.Read(make([]byte, 1)); !isErrno(err, syscall.ECONNRESET) {
			t.Errorf("the guest reads %v", err)
		}
	})
	for _, how := range []string{"x", "h"} {
		t.Run("From the guest to the peer "+how, func(t *testing.T) {
			c := w.mustDial(w.guest, "tcp", server.Addr().String())
			_, err := c.Write([]byte(how))
			w.must(err)
			if how == "h" { // the peer has ended its direction before
				if _, err := c.Read(make([]byte, 1)); err != io.EOF {
					t.Fatalf("the guest reads %v", err)
				}
			}
			w.must(c.(*net.TCPConn).SetLinger(0))
			w.must(c.Close())
			if err := <-ended; !isErrno(err, syscall.ECONNRESET) {
				t.Errorf("the peer reads %v", err)
			}
		})
	}
	t.Run("After the guest has ended its direction", func(t *testing.T) {
		hold := make(chan struct{})
		silent := w.listen(w.other, "tcp", netns.OtherIP+":0", func(c *net.TCPConn) {
			_, err := io.ReadAll(c)
			w.must(err)
			<-hold
			// The guest has closed: what comes now it answers with a reset.
			for err == nil {
				_, err = c.Write(content(1 << 16))
			}
			ended <- err
		})
		c := w.mustDial(w.guest, "tcp", silent.Addr().String())
		w.must(c.Close())
		close(hold)
		if err := <-ended; !isErrno(err, syscall.ECONNRESET, syscall.EPIPE) {
			t.Errorf("the peer writes %v", err)
		}
	})
	w.eventually("no connection is left", func() bool { return w.s.Status().TCP == 0 })
}

func TestManyConnectionsAndNoneLeft(t *testing.T) {
	w := newWorld(t, 1500)
	server := w.listen(w.other, "tcp", netns.OtherIP+":0", echo)
	before := runtime.NumGoroutine()
	var all sync.WaitGroup
	for range 200 {
		c := w.mustDial(w.guest, "tcp", server.Addr().String())
		all.Go(func() { w.transfer(c, content(50_000)) })
	}
	all.Wait()
	w.eventually("no connection is left", func() bool { return w.s.Status().TCP == 0 })
	w.eventually("no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+2 })
}

func TestUDPFromInside(t *testing.T) {
	worlds(t, mtus, func(t *testing.T, w *world) {
		for _, address := range []string{netns.OtherIP, netns.OtherIP6} {
			server := w.listenUDP(w.other, net.JoinHostPort(address, "0"), func(_ netip.AddrPort, b []byte) []byte { return b })
			c := w.mustDial(w.guest, "udp", server.LocalAddr().String())
			for _, n := range []int{0, 1, 512, 1400, 9000, 60_000} {
				w.echoes(c, content(n))
			}
			if u := w.s.Status().UDP; u == 0 {
				t.Error("no flow is counted")
			}
		}
		w.refused(w.mustDial(w.guest, "udp", netns.OtherIP+":9"))
	})
}

// refused sends datagrams until it is told that nobody is there: the kernel of the peer says so a few times a second at most.
func (w *world) refused(c net.Conn) {
	w.t.Helper()
	for range 20 {
		_, err := c.Write([]byte("anybody?"))
		if err == nil {
			w.must(c.SetReadDeadline(time.Now().Add(patience / 20)))
			_, err = c.Read(make([]byte, 1))
		}
		if isErrno(err, syscall.ECONNREFUSED) {
			return
		}
	}
	w.t.Error("nobody says that the port is closed")
}

// echoes sends a datagram, again if it is lost, until it comes back.
func (w *world) echoes(c net.Conn, b []byte) {
	w.t.Helper()
	got := make([]byte, 1<<16)
	for range 5 {
		_, err := c.Write(b)
		w.must(err)
		w.must(c.SetReadDeadline(time.Now().Add(patience / 5)))
		if n, err := c.Read(got); err == nil {
			if !bytes.Equal(got[:n], b) {
				w.t.Errorf("%d bytes have come back of %d, or others", n, len(b))
			}
			return
		}
	}
	w.t.Errorf("a datagram of %d bytes does not come back", len(b))
}

// Datagrams that the sender's kernel has joined (UDP_SEGMENT) are the same at the other end.
func TestUDPInSegments(t *testing.T) {
	worlds(t, []int{1500}, func(t *testing.T, w *world) {
		const segment, count = 1000, 40
		var mu sync.Mutex
		got := map[string]bool{}
		server := w.listenUDP(w.other, netns.OtherIP+":0", func(_ netip.AddrPort, b []byte) []byte {
			mu.Lock()
			defer mu.Unlock()
			got[string(b)] = true
			return b[:1]
		})
		c := w.mustDial(w.guest, "udp", server.LocalAddr().String()).(*net.UDPConn)
		raw, err := c.SyscallConn()
		w.must(err)
		if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), solUDP, udpSegment, segment) }); e != nil || err != nil {
			t.Skip("the kernel does not cut datagrams: ", err)
		}
		all := content(segment*count - 1)
		w.eventually("all have come", func() bool {
			_, err := c.Write(all)
			w.must(err)
			mu.Lock()
			defer mu.Unlock()
			return len(got) == count
		})
		mu.Lock()
		defer mu.Unlock()
		for i := range count {
			if want := all[i*segment : min((i+1)*segment, len(all))]; !got[string(want)] {
				t.Errorf("datagram %d has not come as it was sent", i)
			}
		}
	})
}

func TestEchoRequests(t *testing.T) {
	worlds(t, []int{1500}, func(t *testing.T, w *world) {
		netns.AllowPing(t, nil)
		netns.AllowPing(t, w.guest)
		for _, c := range []struct {
			summary, address string
			answered         bool
		}{
			{"Another host", netns.OtherIP, true},
			{"Another host by IPv6", netns.OtherIP6, true},
			{"The gateway answers itself", gatewayIP, true},
			{"The gateway answers itself by IPv6", gatewayIP6, true},
			{"A multicast address does not", "224.0.0.1", false},
		} {
			t.Run(c.summary, func(t *testing.T) {
				if got := w.ping(c.address, 100); got != c.answered {
					t.Errorf("%s answers: %v", c.address, got)
				}
			})
		}
	})
}

// ping sends an echo request from inside, and again, and reports whether it was answered.
func (w *world) ping(address string, n int) bool {
	w.t.Helper()
	to := netip.MustParseAddr(address)
	family, protocol, kind := unix.AF_INET, unix.IPPROTO_ICMP, byte(8)
	if to.Is6() {
		family, protocol, kind = unix.AF_INET6, unix.IPPROTO_ICMPV6, 128
	}
	var fd int
	w.inside(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	defer unix.Close(fd)
	wait := unix.NsecToTimeval((300 * time.Millisecond).Nanoseconds())
	w.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait))
	request := append([]byte{kind, 0, 0, 0, 0, 0, 0, 7}, content(n)...)
	for range 5 {
		if err := unix.Sendto(fd, request, 0, sockaddr(netip.AddrPortFrom(to, 0))); err != nil {
			return false
		}
		got := make([]byte, 1<<16)
		m, _, err := unix.Recvfrom(fd, got, 0)
		if err == nil && m == len(request) && bytes.Equal(got[6:m], request[6:]) {
			return true
		}
		if err == nil {
			w.t.Fatalf("%s answers with %d bytes", address, m)
		}
	}
	return false
}

// What is for the gateway goes to the host: to its own address, or to its loopback where that is allowed.
func TestTheHost(t *testing.T) {
	for _, loopback := range []bool{false, true} {
		t.Run(fmt.Sprint("HostLoopback ", loopback), func(t *testing.T) {
			w := newWorld(t, 1500, func(c *uplink.Config) { c.HostLoopback = loopback })
			name := func(name string) func(*net.TCPConn) {
				return func(c *net.TCPConn) { _, _ = io.WriteString(c, name) }
			}
			for _, f := range []struct{ loopback, own, gateway string }{
				{"127.0.0.1", netns.HostIP, gatewayIP},
				{"::1", netns.HostIP6, gatewayIP6},
			} {
				private := w.listen(nil, "tcp", net.JoinHostPort(f.loopback, "0"), name("private"))
				public := w.listen(nil, "tcp", net.JoinHostPort(f.own, portOf(private.Addr())), name("public"))
				want := "public"
				if loopback {
					want = "private"
				}
				if got := w.read("tcp", net.JoinHostPort(f.gateway, portOf(public.Addr()))); got != want {
					t.Errorf("%s leads to %q", f.gateway, got)
				}
				if got := w.read("tcp", public.Addr().String()); got != "public" {
					t.Errorf("%s leads to %q", public.Addr(), got)
				}
				private2 := w.listen(nil, "tcp", net.JoinHostPort(f.loopback, "0"), name("private"))
				if got := w.read("tcp", net.JoinHostPort(f.own, portOf(private2.Addr()))); got != "" {
					t.Errorf("the host's own address leads to its loopback: %q", got)
				}
			}
			u := w.listenUDP(nil, "127.0.0.1:0", func(netip.AddrPort, []byte) []byte { return []byte("private") })
			c := w.mustDial(w.guest, "udp", net.JoinHostPort(gatewayIP, portOf(u.LocalAddr())))
			if loopback {
				w.answers(c, []byte("?"), []byte("private"))
			} else {
				w.refused(c)
			}
		})
	}
}

// read returns what a server says to the guest, or nothing.
func (w *world) read(network, address string) string {
	w.t.Helper()
	c, err := w.dial(w.guest, network, address)
	if err != nil {
		return ""
	}
	got, _ := io.ReadAll(c)
	return string(got)
}

func TestPublishedTCP(t *testing.T) {
	worlds(t, []int{1500}, func(t *testing.T, w *world) {
		serve := func(c *net.TCPConn) {
			client := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
			_, _ = fmt.Fprintln(c, client)
			echo(c)
		}
		server := w.listen(w.guest, "tcp", ":0", serve)
		to := func(ip string) uplink.Forward {
			return uplink.Forward{Protocol: uplink.TCP, Target: netip.MustParseAddrPort(net.JoinHostPort(ip, portOf(server.Addr())))}
		}
		socket, socket6, nobody := listening(t, "tcp", ":0"), listening(t, "tcp", "[::]:0"), listening(t, "tcp", ":0")
		at, at6, atNobody := port(t, socket), port(t, socket6), port(t, nobody)
		closed := uplink.Forward{Protocol: uplink.TCP, Target: netip.MustParseAddrPort(containerIP + ":9")}
		forwards, err := w.s.Forward([]uplink.Forward{to(containerIP), to(containerIP6), closed}, []*os.File{socket, socket6, nobody}, nil)
		w.must(err)
		if n := w.s.Status().Forwards; n != 3 {
			t.Errorf("%d forwards are counted", n)
		}
		for _, c := range []struct {
			summary string
			from    *os.File
			address string
			port    string
			seen    string
		}{
			{"Another host keeps its address", w.other, netns.HostIP, at, netns.OtherIP},
			{"Another host keeps its address by IPv6", w.other, netns.HostIP6, at6, netns.OtherIP6},
			{"The host has its own by its own", nil, netns.HostIP, at, netns.HostIP},
			{"The host's loopback has the gateway's", nil, "127.0.0.1", at, gatewayIP},
			{"The host's loopback has the gateway's by IPv6", nil, "::1", at6, gatewayIP6},
			{"A client of IPv4 has the gateway's of IPv6", w.other, netns.HostIP, at6, gatewayIP6},
			{"A client of IPv6 has the gateway's of IPv4", w.other, netns.HostIP6, at, gatewayIP},
			{"One inside reaches itself by the host", w.guest, netns.HostIP, at, netns.HostIP},
		} {
			t.Run(c.summary, func(t *testing.T) {
				conn := w.mustDial(c.from, "tcp", net.JoinHostPort(c.address, c.port))
				line := make([]byte, len(c.seen)+1)
				_, err := io.ReadFull(conn, line)
				if strings.TrimSpace(string(line)) != c.seen {
					t.Fatalf("the server has seen %q, %v", line, err)
				}
				w.transfer(conn, content(3<<20))
			})
		}
		t.Run("A closed port resets", func(t *testing.T) {
			conn, err := w.dial(w.other, "tcp", net.JoinHostPort(netns.HostIP, atNobody))
			if err == nil { // the reset may come sooner than Dial returns
				_, err = conn.Read(make([]byte, 1))
			}
			if !isErrno(err, syscall.ECONNRESET) {
				t.Errorf("the client reads %v", err)
			}
		})
		w.must(forwards.Close())
		if _, err := w.dial(w.other, "tcp", net.JoinHostPort(netns.HostIP, at)); !isErrno(err, syscall.ECONNREFUSED) {
			t.Errorf("a forward that has ended answers %v", err)
		}
	})
}

func TestPublishedUDP(t *testing.T) {
	worlds(t, []int{1500}, func(t *testing.T, w *world) {
		answer := func(from netip.AddrPort, b []byte) []byte {
			return append([]byte(from.Addr().Unmap().String()+" "), b...)
		}
		server := w.listenUDP(w.guest, containerIP+":0", answer)
		server6 := w.listenUDP(w.guest, "["+containerIP6+"]:0", answer)
		socket, socket6 := listening(t, "udp", ":0"), listening(t, "udp", "[::]:0")
		at, at6 := port(t, socket), port(t, socket6)
		forwards, err := w.s.Forward([]uplink.Forward{
			{Protocol: uplink.UDP, Target: netip.MustParseAddrPort(server.LocalAddr().String())},
			{Protocol: uplink.UDP, Target: netip.MustParseAddrPort(server6.LocalAddr().String())},
		}, []*os.File{socket, socket6}, nil)
		w.must(err)
		for _, c := range []struct {
			summary string
			from    *os.File
			address string
			port    string
			seen    string
		}{
			{"Another host keeps its address", w.other, netns.HostIP, at, netns.OtherIP},
			{"Another host keeps its address by IPv6", w.other, netns.HostIP6, at6, netns.OtherIP6},
			{"The host's loopback has the gateway's", nil, "127.0.0.1", at, gatewayIP},
			{"An answer leaves from where the question came", nil, "127.0.0.9", at, gatewayIP},
			{"A client of IPv4 has the gateway's of IPv6", w.other, netns.HostIP, at6, gatewayIP6},
		} {
			t.Run(c.summary, func(t *testing.T) {
				for range 3 { // clients with the same port and address inside are told apart
					conn := w.mustDial(c.from, "udp", net.JoinHostPort(c.address, c.port))
					for _, n := range []int{0, 10, 5000} {
						b := content(n)
						w.answers(conn, b, append([]byte(c.seen+" "), b...))
					}
				}
			})
		}
		w.must(forwards.Close())
		if n := w.s.Status(); n.UDP != 0 || n.Forwards != 0 {
			t.Errorf("flows have outlived their forward: %+v", n)
		}
	})
}

// answers sends a datagram, again if it is lost, until it is answered.
func (w *world) answers(c net.Conn, b, want []byte) {
	w.t.Helper()
	got := make([]byte, 1<<16)
	for range 5 {
		_, err := c.Write(b)
		w.must(err)
		w.must(c.SetReadDeadline(time.Now().Add(patience / 5)))
		if n, err := c.Read(got); err == nil {
			if !bytes.Equal(got[:n], want) {
				w.t.Errorf("the answer is %.60q and should be %.60q", got[:n], want)
			}
			return
		}
	}
	w.t.Errorf("nothing answers to %d bytes", len(b))
}

func TestForwardsThatCannotBe(t *testing.T) {
	w := newWorld(t, 1500)
	for _, c := range []struct {
		summary, network string
		protocol         uplink.Protocol
		target           string
	}{
		{"To the gateway, which would be the host", "tcp", uplink.TCP, gatewayIP + ":80"},
		{"To a loopback", "tcp", uplink.TCP, "127.0.0.1:80"},
		{"To no port", "tcp", uplink.TCP, containerIP + ":0"},
		{"With a socket of the other protocol", "udp", uplink.TCP, containerIP + ":80"},
		{"With a socket of the other protocol, UDP", "tcp", uplink.UDP, containerIP + ":80"},
		{"By a protocol that there is not", "tcp", "sctp", containerIP + ":80"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			good, bad := listening(t, "tcp", ":0"), listening(t, c.network, ":0")
			at := port(t, good)
			_, err := w.s.Forward([]uplink.Forward{
				{Protocol: uplink.TCP, Target: netip.MustParseAddrPort(containerIP + ":80")},
				{Protocol: c.protocol, Target: netip.MustParseAddrPort(c.target)},
			}, []*os.File{good, bad}, nil)
			if err == nil {
				t.Fatal("it is forwarded")
			}
			if _, err := w.dial(nil, "tcp", "127.0.0.1:"+at); !isErrno(err, syscall.ECONNREFUSED) {
				t.Errorf("the other one is forwarded: %v", err)
			}
		})
	}
}
