package uplink

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/internal/errdef"
	"berth/internal/network/netlink"

	"golang.org/x/sys/unix"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func address(s string) netip.Addr  { return netip.MustParseAddr(s) }

func TestConfig(t *testing.T) {
	good := Config{MTU: 1500, IPv4: Addresses{prefix("10.0.2.100/24"), address("10.0.2.2")}, IPv6: Addresses{prefix("fd00::100/64"), address("fd00::2")}}
	for _, c := range []struct {
		summary string
		change  func(*Config)
		ok      bool
	}{
		{"Both families", func(*Config) {}, true},
		{"IPv4 only", func(c *Config) { c.IPv6 = Addresses{} }, true},
		{"IPv6 only", func(c *Config) { c.IPv4 = Addresses{} }, true},
		{"Neither", func(c *Config) { c.IPv4, c.IPv6 = Addresses{}, Addresses{} }, false},
		{"A gateway outside of its subnet", func(c *Config) { c.IPv4.Gateway = address("10.0.3.2") }, false},
		{"A gateway that is the guest", func(c *Config) { c.IPv4.Gateway = address("10.0.2.100") }, false},
		{"No gateway", func(c *Config) { c.IPv4.Gateway = netip.Addr{} }, false},
		{"No guest", func(c *Config) { c.IPv4.Guest = netip.Prefix{} }, false},
		{"The families exchanged", func(c *Config) { c.IPv4, c.IPv6 = c.IPv6, c.IPv4 }, false},
		{"An MTU that IPv6 forbids", func(c *Config) { c.MTU = 1279 }, false},
		{"An MTU that no packet has", func(c *Config) { c.MTU = 65521 }, false},
	} {
		t.Run(c.summary, func(t *testing.T) {
			config := good
			c.change(&config)
			if err := config.Check(); (err == nil) != c.ok || err != nil && !errdef.Is(err, errdef.Invalid) {
				t.Errorf("%v", err)
			}
		})
	}
	var purposes []string
	for _, r := range good.Requests(netlink.Link{Name: "up", Index: 7}) {
		purposes = append(purposes, r.Purpose)
	}
	want := "set the MTU of up to 1500, set the queue of up to 2000 packets, set up up, add the address 10.0.2.100/24, add the route to 0.0.0.0/0, add the address fd00::100/64, add the route to ::/0"
	if got := strings.Join(purposes, ", "); got != want {
		t.Errorf("the device is set up so: %s", got)
	}
}

// pair is the two sides of a connection.
func pair(t *testing.T) (client, server *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*Conn
	for i, fd := range fds {
		if conns[i], err = FromFile(os.NewFile(uintptr(fd), "pair")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conns[i].Close() })
	}
	return conns[0], conns[1]
}

// More sockets than one message of the kernel's may carry, and requests that follow each other closely.
func TestRequestsCarryTheirSockets(t *testing.T) {
	client, server := pair(t)
	c := NewClient(client, "")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, n := range []int{0, 1, maxRights, maxRights + 1, 3*maxRights - 1} {
		forwards := make([]Forward, n)
		sockets := make([]*os.File, n)
		for i := range n {
			forwards[i] = Forward{TCP, netip.AddrPortFrom(address("10.0.0.1"), uint16(i))}
			sockets[i] = null
		}
		inside := []netip.Prefix{prefix("10.0.0.0/8")}
		done := make(chan error, 2)
		go func() {
			done <- c.Forward(forwards, sockets, inside)
			_, err := c.Status()
			done <- err
		}()
		r, got, err := server.Receive()
		if err != nil || r.Version != Version || len(got) != n || len(r.Forward.Forwards) != n || r.Forward.Inside[0] != inside[0] {
			t.Fatalf("%d forwards and %d sockets have come of %d: %v", len(r.Forward.Forwards), len(got), n, err)
		}
		for i, f := range got {
			if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Fatalf("socket %d would be inherited: %v", i, err)
			}
		}
		CloseAll(got)
		_ = server.Answer(AnswerTo(errdef.New(errdef.Conflict, "no")))
		if err := <-done; !errdef.Is(err, errdef.Conflict) || err.Error() != "no" {
			t.Errorf("the answer is %v", err)
		}
		if r, _, err := server.Receive(); err != nil || !r.Status {
			t.Fatalf("%+v, %v", r, err)
		}
		_ = server.Answer(Answer{Status: &Status{TCP: n}})
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestAnEndIsSeen(t *testing.T) {
	client, server := pair(t)
	c := NewClient(client, "/run/x")
	_ = server.Close()
	<-c.Ended()
	_, err := c.Status()
	if !errdef.Is(err, errdef.Unavailable) || errdef.HintOf(err) != "its last words are in /run/x/uplink.log" {
		t.Errorf("%v, %q", err, errdef.HintOf(err))
	}
}

// One that is stopped keeps nobody from going on, and what it says later is not taken for the answer to something else.
func TestAnUplinkThatDoesNotAnswer(t *testing.T) {
	client, server := pair(t)
	c := NewClient(client, "")
	c.wait = 20 * time.Millisecond
	for range 2 {
		if _, err := c.Status(); !errdef.Is(err, errdef.Unavailable) {
			t.Errorf("the client said %v", err)
		}
		_ = server.Answer(Answer{Status: &Status{}})
	}
	<-c.Ended()
}

func TestReceiveRefuses(t *testing.T) {
	for _, c := range []struct{ summary, bytes string }{
		{"A length beyond all bounds", "\xff\xff\xff\xff"},
		{"Half a length", "\x00"},
		{"Half a message", "\x00\x00\x00\x09{}"},
		{"What is no JSON", "\x00\x00\x00\x02xx"},
		{"A forward whose socket does not come", "\x00\x00\x00\x2b" + `{"Version":1,"Forward":{"Forwards":[{}   ]}}`},
	} {
		t.Run(c.summary, func(t *testing.T) {
			client, server := pair(t)
			_, _ = client.c.Write([]byte(c.bytes))
			_ = client.c.CloseWrite()
			if r, sockets, err := server.Receive(); err == nil {
				t.Errorf("%+v with %d sockets is read", r, len(sockets))
			}
		})
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x0f{\"Status\":true}"))
	f.Add([]byte("\x00\x00\x00\x2b" + `{"Version":1,"Forward":{"Forwards":[{}   ]}}` + "\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = unix.Write(fds[0], b)
			_ = unix.Close(fds[0])
		}()
		server, err := FromFile(os.NewFile(uintptr(fds[1]), "fuzz"))
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		for {
			_, sockets, err := server.Receive()
			CloseAll(sockets)
			if err != nil {
				return
			}
		}
	})
}

// Connect finds what listens, and says when nobody does: never, or no more.
func TestConnect(t *testing.T) {
	run := filepath.Join(t.TempDir(), strings.Repeat("long", 30)) // longer than a socket's address may be
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(run); !errdef.Is(err, errdef.NotFound) {
		t.Errorf("without a socket: %v", err)
	}
	for range 2 { // a stale socket is replaced
		socket, err := listen(run)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(filepath.Join(run, socketName)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("the socket has the mode %v, %v", st.Mode(), err)
		}
		go func() { // a process that dies may have a socket still, and closes it with the connection in its backlog
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(socket.Fd()), Events: unix.POLLIN}}, -1)
			_ = socket.Close()
		}()
		if _, err := Connect(run); !errdef.Is(err, errdef.NotFound) {
			t.Errorf("with a dying process: %v", err)
		}
		_ = socket.Close()
		if _, err := Connect(run); !errdef.Is(err, errdef.NotFound) || !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("with a stale socket: %v", err)
		}
	}
}

// A starter that cannot make the device starts nothing, and leaves nothing that listens.
func TestEnsureWithoutADevice(t *testing.T) {
	run := t.TempDir()
	no := errors.New("no device")
	c := Config{Run: run, MTU: 1500, IPv4: Addresses{prefix("10.0.2.100/24"), address("10.0.2.2")}}
	_, err := Ensure(Starter{Program: "/nonexistent", Config: c, Device: func() (*os.File, error) { return nil, no }})
	if !errors.Is(err, no) {
		t.Errorf("%v", err)
	}
	_, err = Ensure(Starter{Program: "/nonexistent", Config: c, Device: func() (*os.File, error) { return os.Open(os.DevNull) }})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if c, err := net.Dial("unix", filepath.Join(run, socketName)); err == nil {
		_ = c.Close()
		t.Error("somebody listens")
	}
	lock, err := TryLock(run)
	if err != nil {
		t.Fatal(err)
	}
	lock.Unlock()
}
