package network

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"berth/internal/ident"
	"berth/internal/network/netlink"
	"berth/internal/network/nft"

	"golang.org/x/sys/unix"
)

// world is a host in a network namespace of its own, another host on the same wire, and one instance of berth on the host. The
// test's goroutine is on a thread in the host's namespace.
type world struct {
	t     testing.TB
	s     Store
	other *os.File
}

// The wire's addresses.
const (
	hostIP, otherIP   = "192.0.2.1", "192.0.2.2"
	hostIP6, otherIP6 = "2001:db8::1", "2001:db8::2"
)

// inWorld runs body on a thread in the host's namespace; all namespaces end with it.
func inWorld(t testing.TB, body func(w *world)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it needs root to make a network namespace")
	}
	if t, ok := t.(*testing.T); ok {
		t.Parallel() // most of the time is spent waiting for answers that must not come
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with the thread
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		defer close(done) // also after t.FailNow
		w := &world{t: t, s: Store{Data: t.TempDir(), Run: runRoot(t)}}
		w.other = w.namespace()
		w.wire()
		body(w)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// runRoot is on a tmpfs, as run roots are: ext4 is several times slower to make files where others were just deleted.
func runRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "berth-network-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// namespace makes a network namespace that ends with the test.
func (w *world) namespace() *os.File {
	w.t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
			made <- result{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		made <- result{f, err}
	}()
	r := <-made
	w.must(r.err)
	w.t.Cleanup(func() { r.f.Close() })
	return r.f
}

// wire connects the two hosts, and gives the other one routes to the containers: a neighbour's means.
func (w *world) wire() {
	w.t.Helper()
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	w.must(err)
	defer c.Close()
	far, err := netlink.OpenIn(w.other, unix.NETLINK_ROUTE)
	w.must(err)
	defer far.Close()
	w.must(c.Do(netlink.SetUp("lo"), netlink.CreateVeth(netlink.Veth{Name: "wire0", PeerName: "wire0", PeerNamespace: w.other})))
	near, err := c.LinkByName("wire0")
	w.must(err)
	w.must(c.Do(netlink.AddAddress(near.Index, netip.MustParsePrefix(hostIP+"/24")), netlink.AddAddress(near.Index, netip.MustParsePrefix(hostIP6+"/64"))))
	there, err := far.LinkByName("wire0")
	w.must(err)
	w.must(far.Do(
		netlink.SetUp("lo"), netlink.SetUp("wire0"),
		netlink.AddAddress(there.Index, netip.MustParsePrefix(otherIP+"/24")), netlink.AddAddress(there.Index, netip.MustParsePrefix(otherIP6+"/64")),
		netlink.AddRoute(netlink.Route{To: netip.MustParsePrefix("172.16.0.0/12"), Gateway: netip.MustParseAddr(hostIP), Index: there.Index}),
		netlink.AddRoute(netlink.Route{To: netip.MustParsePrefix("fd00::/8"), Gateway: netip.MustParseAddr(hostIP6), Index: there.Index}),
	))
}

// container is a container on one network, with a server on TCP and UDP port 80 that says its name and who asks.
type container struct {
	Endpoint
	ns *os.File
}

func (c container) ip() string {
	a, _ := c.Address(true)
	return a.String()
}

func (c container) ip6() string {
	a, _ := c.Address(false)
	return a.String()
}

// start attaches a new container. Ports are "HOSTIP:PORT:80/tcp"'s parts.
func (w *world) start(network, name string, ports ...PortRequest) container {
	w.t.Helper()
	ns := w.namespace()
	n, err := w.s.Load(network)
	w.must(err)
	published, sockets, err := w.s.Reserve(n, name, ports)
	w.must(err)
	w.t.Cleanup(func() { _ = closeAll(sockets) })
	e, _, err := w.s.Attach(network, Request{Container: ident.New(), Name: name, Interface: "eth0", Ports: published, DefaultRoute: true}, ns)
	w.must(err)
	w.serve(ns, name)
	return container{e, ns}
}

// serve answers on port 80 in a namespace (nil is the host's).
func (w *world) serve(ns *os.File, name string) { w.serveAt(ns, ":80", name) }

func (w *world) serveAt(ns *os.File, at, name string) {
	w.t.Helper()
	w.in(ns, func() error {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", at)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		w.t.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(c, name, hostOf(c.RemoteAddr()))
				c.Close()
			}
		}()
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte(name+" "+hostOf(from)+"\n"), from)
			}
		}()
		return nil
	})
}

func hostOf(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	return strings.TrimPrefix(host, "::ffff:")
}

func (w *world) in(ns *os.File, f func() error) {
	w.t.Helper()
	if ns == nil {
		w.must(f())
		return
	}
	w.must(netlink.InNamespace(ns, f))
}

// patience is how long an answer may take on this loaded machine; silence is how long none must come.
const patience, silence = 3 * time.Second, 150 * time.Millisecond

// ask asks from a namespace (nil is the host's) and returns what is answered, or "nothing".
func (w *world) ask(ns *os.File, network, address string, port int, wait time.Duration) string {
	w.t.Helper()
	answer := "nothing"
	w.in(ns, func() error {
		c, err := net.DialTimeout(network, net.JoinHostPort(address, fmt.Sprint(port)), wait)
		if err != nil {
			return nil
		}
		defer c.Close()
		w.must(c.SetDeadline(time.Now().Add(wait)))
		if network == "udp" {
			_, _ = fmt.Fprintln(c, "hello")
		}
		if line, err := bufio.NewReader(c).ReadString('\n'); err == nil {
			answer = strings.TrimSpace(line)
		}
		return nil
	})
	return answer
}

// answers checks that TCP and UDP are answered so.
func (w *world) answers(ns *os.File, address string, port int, want string) {
	w.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		if got := w.ask(ns, network, address, port, patience); got != want {
			w.t.Errorf("%s %s:%d answers %q and should answer %q", network, address, port, got, want)
		}
	}
}

// silent checks that neither TCP nor UDP is answered.
func (w *world) silent(ns *os.File, address string, port int) {
	w.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		if got := w.ask(ns, network, address, port, silence); got != "nothing" {
			w.t.Errorf("%s %s:%d answers %q", network, address, port, got)
		}
	}
}

// both is a port on TCP and UDP.
func both(hostIP string, port uint16) []PortRequest {
	var a netip.Addr
	if hostIP != "" {
		a = netip.MustParseAddr(hostIP)
	}
	return []PortRequest{{Protocol: TCP, HostIP: a, HostPort: port, ContainerPort: 80}, {Protocol: UDP, HostIP: a, HostPort: port, ContainerPort: 80}}
}

// nftText is what nft(8) shows of the instance's table, or "" where it is not installed.
func (w *world) nftText() string {
	out, _ := exec.Command("nft", "list", "table", "inet", w.s.TableName()).CombinedOutput()
	return string(out)
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func address(s string) netip.Addr  { return netip.MustParseAddr(s) }

func (w *world) create(n Network) Network {
	w.t.Helper()
	n, err := w.s.Create(n)
	w.must(err)
	return n
}

func (w *world) links() []netlink.Link {
	w.t.Helper()
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	w.must(err)
	defer c.Close()
	all, err := c.Links()
	w.must(err)
	return all
}

func mustLoad(w *world, name string) Network {
	w.t.Helper()
	n, err := w.s.Load(name)
	w.must(err)
	return n
}

func nftTable(w *world) nft.Table { return nft.Table{Name: w.s.TableName()} }

func checkSetting(path, want string) error {
	if got, err := readSetting(path); err != nil || got != want {
		return fmt.Errorf("%s is %s and should be %s: %v", path, got, want, err)
	}
	return nil
}

// routeLoopbackTo makes a namespace send packets for 127.0.0.1 out by a link to a neighbour, from the link's address.
func (w *world) routeLoopbackTo(ns *os.File, link, neighbour string) {
	w.t.Helper()
	w.in(ns, func() error {
		for _, line := range []string{
			"ip addr del 127.0.0.1/8 dev lo",
			"ip route del table local 127.0.0.0/8",
			"ip route del table local 127.0.0.1",
			"ip route add 127.0.0.0/8 via " + neighbour + " dev " + link,
		} {
			_ = exec.Command("sh", "-c", line).Run() // some of these routes are not there
		}
		return os.WriteFile("/proc/sys/net/ipv4/conf/"+link+"/route_localnet", []byte("1"), 0)
	})
}

func (w *world) addDefaultRoute(c container) {
	w.t.Helper()
	w.route(c, netip.PrefixFrom(netip.IPv4Unspecified(), 0))
}

// routeByGateway makes a container send packets for a neighbour to the gateway.
func (w *world) routeByGateway(c container, to string) {
	w.t.Helper()
	w.route(c, netip.PrefixFrom(address(to), 32))
}

func (w *world) route(c container, to netip.Prefix) {
	w.t.Helper()
	inside, err := netlink.OpenIn(c.ns, unix.NETLINK_ROUTE)
	w.must(err)
	defer inside.Close()
	l, err := inside.LinkByName("eth0")
	w.must(err)
	w.must(inside.Do(netlink.AddRoute(netlink.Route{To: to, Gateway: c.Gateways[0], Index: l.Index})))
}
