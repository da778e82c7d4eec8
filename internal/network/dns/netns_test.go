package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newNamespace makes a network namespace in which nothing is up yet, as a container's is at first.
func newNamespace(t *testing.T) *os.File {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	type result struct {
		f   *os.File
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			made <- result{nil, err}
			return
		}
		defer home.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		if err = errors.Join(err, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)); err == nil {
			runtime.UnlockOSThread()
		}
		made <- result{f, err}
	}()
	r := <-made
	if errors.Is(r.err, unix.EPERM) {
		t.Skip("may not make a network namespace")
	}
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { _ = r.f.Close() })
	return r.f
}

func enter(t *testing.T, netns *os.File, f func() error) {
	t.Helper()
	if err := within(netns, f); err != nil {
		t.Fatal(err)
	}
}

// loopbackUp is what somebody else does before Listen.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// TestAContainersNamespace has a server in the host's namespace that is known from its file, another in the container's that
// is given by --dns, both at 127.0.0.1, and a program of the container's on port 53.
func TestAContainersNamespace(t *testing.T) {
	netns := newNamespace(t)
	if _, err := Listen(netns); err == nil {
		t.Error("binds before the loopback is up, and would answer from 127.0.0.1")
	}
	enter(t, netns, loopbackUp)
	sockets, err := Listen(netns)
	if err != nil {
		t.Fatal(err)
	}
	host := newUpstream(t, netip.MustParseAddrPort("127.0.0.1:0"))
	s, err := start(sockets, Config{Networks: two(), ResolvConf: resolvConf(t, "nameserver 127.0.0.1")}, host.addr.Port())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var theirs *upstream
	enter(t, netns, func() error {
		theirs = newUpstream(t, host.addr)
		c, err := net.ListenPacket("udp4", "0.0.0.0:53")
		if err != nil {
			return err
		}
		return c.Close()
	})
	exchange := func(kind int, name string) []byte {
		f, err := DialIn(netns)(kind, at(t, s))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_ = f.SetDeadline(time.Now().Add(2 * time.Second))
		q := question(1, name, typeA, 0)
		if kind == unix.SOCK_STREAM {
			if err := writeMessage(f, q); err != nil {
				t.Fatal(err)
			}
			got, _ := readMessage(f, nil, 1<<16)
			return got
		}
		if _, err := f.Write(q); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		n, _ := f.Read(buf)
		return buf[:n]
	}
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
		if got := exchange(kind, "web"); len(got) == 0 || got[len(got)-1] != 2 {
			t.Errorf("a name of a container (kind %d): %x", kind, got)
		}
		if got := exchange(kind, "ok.example"); len(got) == 0 || got[len(got)-1] != 1 {
			t.Errorf("a name of the world (kind %d): %x", kind, got)
		}
	}
	if len(host.asked()) != 2 || len(theirs.asked()) != 0 {
		t.Errorf("asked: %q and %q", host.asked(), theirs.asked())
	}
	// An internal network with --dns.
	s.Configure(Config{Servers: []netip.Addr{ip("127.0.0.1")}, Dial: DialIn(netns)})
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
		if got := exchange(kind, "ok.example"); len(got) == 0 || got[len(got)-1] != 1 {
			t.Errorf("a name of the container's own server (kind %d): %x", kind, got)
		}
	}
	if len(host.asked()) != 2 || len(theirs.asked()) != 2 {
		t.Errorf("asked: %q and %q", host.asked(), theirs.asked())
	}
	// Nobody outside the namespace reaches the sockets.
	if c, err := net.DialTimeout("tcp4", at(t, s).String(), time.Second); err == nil {
		_ = c.Close()
		t.Error("the container's resolver answers the host")
	}
	sameNamespaceEverywhere(t)
}

// TestPort53 has the rules of network/nft as text: a program of the container's on port 53 of every address changes nothing.
func TestPort53(t *testing.T) {
	netns := newNamespace(t)
	for _, program := range []string{"nft", "dig"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	enter(t, netns, loopbackUp)
	sockets, err := Listen(netns)
	if err != nil {
		t.Fatal(err)
	}
	up := newUpstream(t, netip.MustParseAddrPort("127.0.0.1:0"))
	s, err := start(sockets, Config{Networks: two(), ResolvConf: resolvConf(t, "nameserver 127.0.0.1")}, up.addr.Port())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	run := func(args ...string) string {
		var out []byte
		enter(t, netns, func() (err error) { // a child starts in its thread's namespace
			if out, err = exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				err = fmt.Errorf("%q: %w\n%s", args, err, out)
			}
			return err
		})
		return string(out)
	}
	run("nft", fmt.Sprintf("table ip t { chain o { type nat hook output priority -100; ip daddr 127.0.0.11 meta l4proto { tcp, udp } th dport 53 dnat to %s; }; }", at(t, s)))
	enter(t, netns, func() error { _ = newUpstream(t, netip.MustParseAddrPort("0.0.0.0:53")); return nil })
	for args, want := range map[string]string{
		"+short web": "172.18.0.2", "+short ok.example": "192.0.2.1", "many": "ANSWER: 400", "long.example": "ANSWER: 3000",
		"+short -x 172.19.0.5": "db.my.back.",
	} {
		out := run(append([]string{"dig", "@127.0.0.11", "+tries=1"}, strings.Fields(args)...)...)
		if !strings.Contains(out, want) {
			t.Errorf("dig %s: no %q in\n%s", args, want, out)
		}
	}
	if out := run("dig", "@127.0.0.1", "+short", "+tries=1", "web"); out != "192.0.2.1\n" {
		t.Errorf("the container's own server says %q", out)
	}
}

// sameNamespaceEverywhere fails if a thread has been left behind in another namespace. One that belongs to nobody any more
// may take a moment to end.
func sameNamespaceEverywhere(t *testing.T) {
	t.Helper()
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for try := 0; ; try++ {
		tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil || len(tasks) == 0 {
			t.Fatal(tasks, err)
		}
		strange := 0
		for _, task := range tasks {
			if ns, err := os.Readlink(task); err == nil && ns != home {
				strange++
			}
		}
		if strange == 0 {
			return
		}
		if try == 50 {
			t.Fatalf("%d threads are in another network namespace", strange)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
