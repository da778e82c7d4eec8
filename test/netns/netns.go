// Package netns gives tests a small world of network namespaces: the test's process is a host of its own, with another host on its
// wire, and guests have what they make. All of it ends with the process. It is for tests only.
package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"berth/internal/network/netlink"

	"golang.org/x/sys/unix"
)

// The addresses on the wire. The host's default routes lead to the other host.
const (
	HostIP, OtherIP   = "192.0.2.1", "192.0.2.2"
	HostIP6, OtherIP6 = "2001:db8::1", "2001:db8::2"
)

// isolated is the variable that says that the process is a host of its own.
const isolated = "BERTH_TEST_NETNS"

// Main runs the tests of a package, a *testing.M or what wraps it, in a host of their own: TestMain's last call. Without root there
// is none, and Need skips.
func Main(m interface{ Run() int }) {
	if os.Geteuid() == 0 {
		if err := Isolate(); err != nil {
			fmt.Fprintln(os.Stderr, "netns:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// Isolate makes the process a host of its own: it executes the program again on a thread in new namespaces, which then are the
// process's. /dev/net/tun there is for everybody, as udev makes it. In the program that was executed it returns at once.
func Isolate() error {
	if os.Getenv(isolated) != "" {
		return nil
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	if err := os.MkdirAll("/dev/net", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, "mode=755"); err != nil {
		return os.NewSyscallError("mount", err)
	}
	if err := unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		return os.NewSyscallError("mknod", err)
	}
	if err := os.Chmod("/dev/net/tun", 0o666); err != nil { // whatever the umask
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return unix.Exec(self, os.Args, append(os.Environ(), isolated+"=1"))
}

// Need skips a test that needs a host of its own.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv(isolated) == "" {
		t.Skip("it needs root to make a network namespace")
	}
}

// New makes a network namespace that ends with the test.
func New(t testing.TB) *os.File {
	t.Helper()
	Need(t)
	ns, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// newNamespace makes a network namespace with its loopback up.
func newNamespace() (ns *os.File, err error) {
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = os.Open("/proc/thread-self/ns/net")
		}
		if err == nil {
			err = do(netlink.SetUp("lo"))
		}
		made <- err
	}()
	return ns, <-made
}

// In calls f on a thread in a network namespace; nil is the host's.
func In(t testing.TB, ns *os.File, f func() error) {
	t.Helper()
	var err error
	if ns == nil {
		err = f()
	} else {
		err = netlink.InNamespace(ns, f)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// do sends requests in the thread's network namespace.
func do(requests ...netlink.Request) error {
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Do(requests...)
}

// Wire returns the other host, which the process has from the first call on.
func Wire(t testing.TB) (other *os.File) {
	t.Helper()
	Need(t)
	other, err := wire()
	if err != nil {
		t.Fatal(err)
	}
	return other
}

var wire = sync.OnceValues(func() (*os.File, error) {
	other, err := newNamespace()
	if err != nil {
		return nil, err
	}
	if err := do(netlink.SetUp("lo"), netlink.CreateVeth(netlink.Veth{Name: "wire0", PeerName: "wire0", PeerNamespace: other})); err != nil {
		return nil, err
	}
	err = errors.Join(
		address(HostIP, HostIP6, OtherIP, OtherIP6),
		netlink.InNamespace(other, func() error { return address(OtherIP, OtherIP6, "", "") }))
	for _, ip := range []string{OtherIP, OtherIP6} {
		err = errors.Join(err, awaitWire(ip))
	}
	return other, err
})

// awaitWire waits until the other host refuses connections: the kernel notices a carrier, and that an address is nobody else's, when it
// has time.
func awaitWire(ip string) error {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(ip, "9"), time.Second)
		if err == nil {
			return c.Close()
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the wire does not carry to %s: %w", ip, err)
		}
	}
}

// address gives wire0 its addresses and default routes.
func address(ip, ip6, gateway, gateway6 string) error {
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer c.Close()
	l, err := c.LinkByName("wire0")
	if err != nil {
		return err
	}
	requests := []netlink.Request{
		netlink.SetUp("wire0"),
		netlink.AddAddress(l.Index, netip.MustParsePrefix(ip+"/24")),
		netlink.AddAddress(l.Index, netip.MustParsePrefix(ip6+"/64")),
	}
	if gateway != "" {
		requests = append(requests,
			netlink.AddRoute(netlink.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr(gateway), Index: l.Index}),
			netlink.AddRoute(netlink.Route{To: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr(gateway6), Index: l.Index}))
	}
	return c.Do(requests...)
}

// AllowPing lets every group send echo requests in a network namespace.
func AllowPing(t testing.TB, ns *os.File) {
	t.Helper()
	In(t, ns, func() error {
		// The thread's, not the process's: /proc/sys/net is /proc/self/net's namespace, which is that of the thread that opens it.
		err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0)
		if errors.Is(err, os.ErrNotExist) {
			t.Skip("the kernel has no ping sockets")
		}
		return err
	})
}
