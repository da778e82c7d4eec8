package monitor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"berth/internal/errdef"
	"berth/internal/network"
	"berth/internal/network/dns"
	"berth/internal/network/netlink"
	"berth/internal/network/uplink"
	"berth/internal/program"
	"berth/internal/rootless"

	"golang.org/x/sys/unix"
)

// Without root, the networks of containers are in a network namespace of the user's, where nothing of the host's is: what leaves
// them goes through an uplink, a process that carries it as connections of its own. Each monitor of a container that may leave its
// networks is connected to it, tells it which ports to forward, and starts another when it has died.

// UplinkName is the interface by which the user's network namespace is left.
const UplinkName = "uplink0"

// The addresses on the uplink are link-local (RFC 3927): no host routes them, so that they overlap with nothing that a container wants
// to reach. Those of IPv6 are unique local ones (RFC 4193).
var uplinkAddresses = struct{ ipv4, ipv6 uplink.Addresses }{
	uplink.Addresses{Guest: netip.MustParsePrefix("169.254.77.2/30"), Gateway: netip.MustParseAddr("169.254.77.1")},
	uplink.Addresses{Guest: netip.MustParsePrefix("fd77:6265:7274:6800::2/64"), Gateway: netip.MustParseAddr("fd77:6265:7274:6800::1")},
}

const (
	uplinkMTU    = 65520
	uplinkLinger = 2 * time.Second
)

// Home is where the networks of a user without root are.
type Home struct {
	Place rootless.Place

	mu sync.Mutex // guards what follows
	ns *os.File
}

// Namespace opens the network namespace, once; it stays open as long as this process lives.
func (h *Home) Namespace() (*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ns != nil {
		return h.ns, nil
	}
	var err error
	h.ns, _, err = h.Place.Network()
	return h.ns, err
}

// hold takes the namespace from whoever had it open before.
func (h *Home) hold(ns *os.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ns = ns
}

// Networks are the networks of an instance, in the host's network namespace or at home.
func Networks(data, run string, home *Home) network.Store {
	s := network.Store{Data: data, Run: run, Reserved: []netip.Prefix{uplinkAddresses.ipv4.Guest.Masked(), uplinkAddresses.ipv6.Guest.Masked()}}
	if home != nil {
		s.Home, s.Uplink = home.Namespace, UplinkName
	}
	return s
}

func (o Options) networks() network.Store { return Networks(o.Store.Data, o.Store.Run, o.Home) }

// leaves reports whether something leaves the networks of these endpoints.
func leaves(endpoints []network.Endpoint) bool {
	for _, e := range endpoints {
		if !e.Internal {
			return true
		}
	}
	return false
}

// linkUp connects to the uplink, which it starts if there is none, unless the container is connected already, or needs none.
func (o Options) linkUp(c *connection) error {
	if o.Home == nil {
		return nil
	}
	if !leaves(c.endpoints) {
		c.linkDown()
		return nil
	}
	if c.uplink == nil {
		find := o.Program
		if find == nil {
			find = func(name string) (string, error) { return program.Path(o.Store.Data, name) }
		}
		path, err := find(uplink.Program)
		if err != nil {
			return err
		}
		config := uplink.Config{
			Run: o.Store.Run, MTU: uplinkMTU, IPv4: uplinkAddresses.ipv4, IPv6: uplinkAddresses.ipv6, HostLoopback: o.HostLoopback, Linger: uplinkLinger,
			Device: UplinkName,
		}
		if o.Uplink == UplinkPasta {
			if config.Pasta, err = Pasta(); err != nil {
				return err
			}
		}
		ns, err := o.Home.Namespace()
		if err != nil {
			return err
		}
		c.uplink, err = uplink.Ensure(uplink.Starter{
			Program: path, Config: config, Keep: ns, Started: o.Home.Place.Join,
			Device: func() (*os.File, error) { return o.makeDevice(config) },
		})
		if err != nil {
			return fmt.Errorf("cannot connect the container to the host's network: %w", err)
		}
	}
	c.host = o.hostByUplink()
	return c.forward()
}

// hostByUplink is the address by which containers reach the host: the uplink's, which stands for the host's own; pasta's stands for
// its loopback only.
func (o Options) hostByUplink() netip.Addr {
	if o.Uplink == UplinkPasta && !o.HostLoopback {
		if own, ok := uplink.HostAddress(true); ok {
			return own
		}
	}
	return uplinkAddresses.ipv4.Gateway
}

// The values of the setting rootless-uplink.
const (
	UplinkOwn   = "berth"
	UplinkPasta = "pasta"
)

// Pasta finds the program pasta.
func Pasta() (string, error) {
	path, err := exec.LookPath("pasta")
	if err != nil {
		err = errdef.New(errdef.Unsupported, "the setting rootless-uplink is pasta, and there is no such program: %w", err)
		return "", errdef.Hint(err, "install the package passt, or leave the setting out")
	}
	return path, nil
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// makeDevice makes the device of the uplink, at home; pasta makes its own, and needs to know where.
func (o Options) makeDevice(config uplink.Config) (device *os.File, err error) {
	ns, err := o.Home.Namespace()
	if err != nil {
		return nil, err
	}
	if config.Pasta != "" {
		return duplicate(ns)
	}
	err = netlink.InNamespace(ns, func() error {
		conn, err := netlink.Open(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer conn.Close()
		if device, err = uplink.MakeDevice(conn, UplinkName, config.MTU); err != nil {
			return err
		}
		link, err := conn.LinkByName(UplinkName)
		if err != nil {
			return err
		}
		return conn.Do(append(config.Requests(link), netlink.SetUp("lo"))...)
	})
	if err != nil && device != nil {
		err = errors.Join(err, device.Close())
	}
	return device, err
}

// linkDown ends the connection to the uplink; when it is back, the uplink has closed its copies of sockets.
func (c *connection) linkDown() {
	if c.uplink == nil {
		return
	}
	_ = c.uplink.Forward(nil, nil, nil) // or it has ended, and they are closed anyway
	_ = c.uplink.Close()
	c.uplink = nil
}

// letGo closes this process's copy of a connection that is the monitor's from now on.
func (c *connection) letGo() {
	if c.uplink != nil {
		_ = c.uplink.Close()
		c.uplink = nil
	}
}

// forward tells the uplink where the published ports lead. Those of a family that the container does not have, and those
// of an internal network, lead nowhere.
func (c *connection) forward() error {
	if c.uplink == nil {
		return nil
	}
	var forwards []uplink.Forward
	var sockets []*os.File
	var inside []netip.Prefix
	n := 0
	for _, e := range c.endpoints {
		for _, p := range e.Addresses {
			inside = append(inside, p.Masked())
		}
		for _, p := range e.Ports {
			if n == len(c.ports) {
				break // they could not be held; somebody else has them
			}
			socket := c.ports[n]
			n++
			if to, ok := e.Address(p.HostIP.Is4()); ok && !e.Internal {
				forwards = append(forwards, uplink.Forward{Protocol: uplink.Protocol(p.Protocol), Target: netip.AddrPortFrom(to, p.ContainerPort)})
				sockets = append(sockets, socket)
			}
		}
	}
	return c.uplink.Forward(forwards, sockets, inside)
}

// watchUplink starts another uplink when the container's has died, for as long as the container runs.
func (m *monitor) watchUplink() {
	m.networking.Lock()
	defer m.networking.Unlock()
	m.watchUplinkLocked()
}

func (m *monitor) watchUplinkLocked() {
	c := m.net.uplink
	if c == nil || c == m.watched {
		return
	}
	m.watched = c
	go func() {
		<-c.Ended()
		m.networking.Lock()
		defer m.networking.Unlock()
		if m.net.uplink != c { // it was closed on purpose
			return
		}
		m.net.uplink = nil
		_ = c.Close()
		var err error
		if m.net.endpoints, err = m.held(); err == nil {
			err = m.linkUp(&m.net)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "cannot start another uplink:", err)
			return
		}
		m.grown.Store(true)
		m.watchUplinkLocked()
	}()
}

// uplinkFrom takes a connection to the uplink over that another process has made.
func uplinkFrom(f *os.File, run string) (*uplink.Client, error) {
	conn, err := uplink.FromFile(f)
	if err != nil {
		return nil, errdef.As(errdef.Unavailable, fmt.Errorf("cannot take the connection to the uplink %s: %w", filepath.Join(run, "uplink.sock"), err))
	}
	return uplink.NewClient(conn, run), nil
}

// hand says what of the connection is handed on to the monitor after its start, and returns the descriptors.
func (c *connection) hand() (h Handed, fds []int) {
	if c.resolver.UDP != nil {
		h.Resolver = true
		fds = append(fds, raw(c.resolver.UDP), raw(c.resolver.TCP))
	}
	if c.uplink != nil {
		h.Uplink = true
		fds = append(fds, raw(c.uplink))
	}
	h.Kept = len(c.kept)
	for _, f := range c.kept {
		fds = append(fds, raw(f))
	}
	return h, fds
}

// takeNetworks takes what hand has handed on.
func (m *monitor) takeNetworks(h Handed, files []*os.File) (err error) {
	take := func() *os.File {
		if len(files) == 0 {
			return nil
		}
		f := files[0]
		files = files[1:]
		return f
	}
	if h.Resolver {
		if m.net.resolver, err = dns.FromFiles(take(), take()); err != nil {
			return err
		}
	}
	if h.Uplink {
		if m.net.uplink, err = uplinkFrom(take(), m.Store.Run); err != nil {
			return err
		}
	}
	m.kept = append(m.kept, files...)
	return nil
}
