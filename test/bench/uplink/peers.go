package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"berth/internal/network/netlink"
	"berth/internal/network/uplink"

	"golang.org/x/sys/unix"
)

// The addresses are slirp4netns's, which has no others.
const (
	guestPrefix = "10.0.2.100/24"
	gateway     = "10.0.2.2"
	hostIP      = "192.0.2.1"

	iperfPort, echoPort              = "5201", "5202" // of the host and of each guest
	publishedPort, publishedEchoPort = "5301", "5302" // of the host
	nobody                           = 65534
	patience                         = 10 * time.Second
)

// makeHost gives the host an address on a wire, which a default route and pasta need.
func makeHost() error {
	if err := forgetClosed(); err != nil {
		return err
	}
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Do(netlink.SetUp("lo"), netlink.CreateVeth(netlink.Veth{Name: "wire0", PeerName: "wire1"}), netlink.SetUp("wire0"), netlink.SetUp("wire1")); err != nil {
		return err
	}
	l, err := c.LinkByName("wire0")
	if err != nil {
		return err
	}
	requests := []netlink.Request{netlink.AddAddress(l.Index, netip.MustParsePrefix(hostIP+"/24"))}
	for i := range contenders {
		requests = append(requests, netlink.AddAddress(l.Index, netip.PrefixFrom(publishedAt(i), 24)))
	}
	return c.Do(append(requests, netlink.AddRoute(netlink.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.0.2.254"), Index: l.Index}))...)
}

// publishedAt is the host's address at which the ports of one peer's guest are published. It is none of the loopback's: from those
// pasta copies to the guest's own loopback, and sends no packet.
func publishedAt(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(11 + i)}) }

// forgetClosed keeps the ports of the thread's network namespace from being used up by connections in TIME-WAIT, in which the peers
// share the tuples.
func forgetClosed() error {
	return os.WriteFile("/proc/sys/net/ipv4/tcp_max_tw_buckets", []byte("100"), 0)
}

// servers are what guests connect to on the host.
type servers []*exec.Cmd

func startServers() (servers, error) {
	var all servers
	for _, cmd := range []*exec.Cmd{exec.Command("iperf3", "-s", "-p", iperfPort), exec.Command("/proc/self/exe", "serve", ":"+echoPort)} {
		if err := start(cmd); err != nil {
			all.end()
			return nil, err
		}
		all = append(all, cmd)
	}
	return all, errors.Join(listening(nil, iperfPort), listening(nil, echoPort))
}

func (all servers) end() {
	for _, cmd := range all {
		kill(cmd)
	}
}

// start starts a process that dies with this one.
func start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", cmd.Args[0], err)
	}
	return nil
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // the error is the signal
}

// listening waits for a server on the host, or in a guest.
func listening(p *peer, port string) error {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if reaches(p, "127.0.0.1:"+port) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("nobody listens at port %s", port)
		}
	}
}

// reaches reports whether an address can be connected to from the host, or from a guest.
func reaches(p *peer, address string) bool {
	argv := []string{"/proc/self/exe", "-seconds", "0", "ask", address, "1"}
	cmd := exec.Command(argv[0], argv[1:]...)
	if p != nil {
		cmd = p.inGuest(argv...)
	}
	return cmd.Run() == nil
}

// peer is one of the programs, with a guest of its own.
type peer struct {
	name      string
	guest     *exec.Cmd
	processes []*exec.Cmd
	published string // the host's address at which its guest's ports are published
	client    *uplink.Client
}

// contenders are how each is started, in a guest that is there.
var contenders = []struct {
	name  string
	start func(p *peer, mtu int) error
}{
	{"berth", (*peer).startBerth},
	{"slirp4netns", (*peer).startSlirp},
	{"pasta", (*peer).startPasta},
}

// startPeers starts all that are installed. Each publishes its ports at an address of its own.
func startPeers(mtu int) ([]*peer, error) {
	var all []*peer
	for i, c := range contenders {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), c.name) {
			continue
		}
		if _, err := exec.LookPath(c.name); err != nil && c.name != "berth" {
			fmt.Printf("%s: left out: not installed\n", c.name)
			continue
		}
		p := &peer{name: c.name, published: fmt.Sprint(publishedAt(i))}
		all = append(all, p)
		if err := p.begin(); err != nil {
			return all, err
		}
		if err := c.start(p, mtu); err != nil {
			return all, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return all, nil
}

// begin makes the guest, nobody's user namespace and network namespace, and its servers.
func (p *peer) begin() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// Whoever makes a user namespace owns it: the peers may enter theirs.
	p.guest = asNobody(exec.Command("unshare", "--user", "--map-root-user", "--net", self, "guest"))
	if err := start(p.guest); err != nil {
		return err
	}
	if err := p.loopback(); err != nil {
		return err
	}
	for _, cmd := range []*exec.Cmd{p.inGuest("iperf3", "-s", "-p", iperfPort), p.inGuest("/proc/self/exe", "serve", ":"+echoPort)} {
		if err := p.add(cmd); err != nil {
			return err
		}
	}
	return errors.Join(listening(p, iperfPort), listening(p, echoPort))
}

// loopback sets the guest's loopback up, once unshare has made its network namespace.
func (p *peer) loopback() error {
	host, err := os.Readlink("/proc/self/ns/net")
	for end := time.Now().Add(patience); err == nil; time.Sleep(20 * time.Millisecond) {
		var ns string
		if ns, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.guest.Process.Pid)); ns != host {
			break
		}
		if time.Now().After(end) {
			return errors.New("unshare does not make a network namespace")
		}
	}
	if err != nil {
		return err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.guest.Process.Pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	return netlink.InNamespace(ns, func() error {
		c, err := netlink.Open(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer c.Close()
		return errors.Join(c.Do(netlink.SetUp("lo")), forgetClosed())
	})
}

func (p *peer) add(cmd *exec.Cmd) error {
	err := start(cmd)
	if err == nil {
		p.processes = append(p.processes, cmd)
	}
	return err
}

// inGuest is a command in the guest.
func (p *peer) inGuest(argv ...string) *exec.Cmd {
	self, err := os.Executable() // nsenter's /proc/self/exe would be nsenter
	if err == nil && argv[0] == "/proc/self/exe" {
		argv[0] = self
	}
	return exec.Command("nsenter", append([]string{"-t", fmt.Sprint(p.guest.Process.Pid), "-n"}, argv...)...)
}

func (p *peer) guestCounts(argv ...string) (float64, error) {
	return counts(p.inGuest(append([]string{"/proc/self/exe", "-seconds", fmt.Sprint(*seconds)}, argv...)...))
}

// asNobody makes a command run as nobody on the host.
func asNobody(cmd *exec.Cmd) *exec.Cmd {
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd
}

func (p *peer) end() {
	if p.client != nil {
		_ = p.client.Close()
	}
	for _, cmd := range p.processes {
		kill(cmd)
	}
	if p.guest != nil && p.guest.Process != nil {
		kill(p.guest)
	}
}

// ready waits until the guest reaches the host.
func (p *peer) ready() error {
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if reaches(p, gateway+":"+echoPort) {
			return nil
		}
		if time.Now().After(end) {
			return errors.New("its guest does not reach the host")
		}
	}
}

func (p *peer) startBerth(mtu int) error {
	run, err := os.MkdirTemp("", "berth-bench-uplink-")
	if err != nil {
		return err
	}
	path, err := filepath.Abs(*program)
	if err != nil {
		return err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.guest.Process.Pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	c := uplink.Config{
		Run: run, MTU: mtu, HostLoopback: true, Linger: time.Millisecond,
		IPv4: uplink.Addresses{Guest: netip.MustParsePrefix(guestPrefix), Gateway: netip.MustParseAddr(gateway)},
	}
	p.client, err = uplink.Ensure(uplink.Starter{Program: path, Config: c, Device: func() (f *os.File, err error) {
		err = netlink.InNamespace(ns, func() error {
			f, err = makeDevice(c)
			return err
		})
		return f, err
	}})
	if err != nil {
		return err
	}
	if err := p.forward(); err != nil {
		return err
	}
	return p.ready()
}

func makeDevice(c uplink.Config) (*os.File, error) {
	f, err := uplink.MakeTUN("uplink0")
	if err != nil {
		return nil, err
	}
	n, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	l, err := n.LinkByName("uplink0")
	if err != nil {
		return nil, err
	}
	return f, n.Do(c.Requests(l)...)
}

func (p *peer) forward() error {
	var forwards []uplink.Forward
	var sockets []*os.File
	defer func() { uplink.CloseAll(sockets) }()
	for _, ports := range [][2]string{{publishedPort, iperfPort}, {publishedEchoPort, echoPort}} {
		l, err := net.Listen("tcp", p.published+":"+ports[0])
		if err != nil {
			return err
		}
		f, err := l.(*net.TCPListener).File()
		if err = errors.Join(err, l.Close()); err != nil {
			return err
		}
		target := netip.MustParseAddrPort(netip.MustParsePrefix(guestPrefix).Addr().String() + ":" + ports[1])
		forwards, sockets = append(forwards, uplink.Forward{Protocol: uplink.TCP, Target: target}), append(sockets, f)
	}
	return p.client.Forward(forwards, sockets, nil)
}

func (p *peer) startSlirp(mtu int) error {
	dir, err := os.MkdirTemp("", "berth-bench-slirp-")
	if err == nil {
		err = os.Chown(dir, nobody, nobody)
	}
	if err != nil {
		return err
	}
	api := filepath.Join(dir, "api")
	pid := fmt.Sprint(p.guest.Process.Pid)
	if err := p.add(asNobody(exec.Command("slirp4netns", "--configure", "--mtu", fmt.Sprint(mtu), "--api-socket", api, "--userns-path", "/proc/"+pid+"/ns/user", pid, "tap0"))); err != nil {
		return err
	}
	if err := p.ready(); err != nil {
		return err
	}
	for _, ports := range [][2]string{{publishedPort, iperfPort}, {publishedEchoPort, echoPort}} {
		request := fmt.Sprintf(`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":%q,"host_port":%s,"guest_port":%s}}`, p.published, ports[0], ports[1])
		if err := askSlirp(api, request); err != nil {
			return err
		}
	}
	return nil
}

func askSlirp(api, request string) error {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: api})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte(request)); err != nil {
		return err
	}
	var answer struct{ Error json.RawMessage }
	if err := json.NewDecoder(c).Decode(&answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return errors.New(string(answer.Error))
	}
	return nil
}

func (p *peer) startPasta(mtu int) error {
	pid := fmt.Sprint(p.guest.Process.Pid)
	cmd := asNobody(exec.Command("pasta", "--foreground", "--quiet", "--config-net", "--mtu", fmt.Sprint(mtu),
		"--address", "10.0.2.100", "--netmask", "24", "--gateway", gateway,
		"--tcp-ports", p.published+"/"+publishedPort+":"+iperfPort+","+publishedEchoPort+":"+echoPort,
		"--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none", "--userns", "/proc/"+pid+"/ns/user", "--netns", "/proc/"+pid+"/ns/net"))
	if err := p.add(cmd); err != nil {
		return err
	}
	return p.ready()
}
