package monitor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/network"
	"berth/internal/network/dns"
	"berth/internal/network/etcfiles"
	"berth/internal/network/netlink"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// connection is what a container on networks holds outside of itself as long as it runs, beside what package network has written
// down: sockets.
type connection struct {
	endpoints []network.Endpoint
	ports     []*os.File  // they keep published ports from others
	resolver  dns.Sockets // on a network with names
}

func networks(s state.Store) network.Store { return network.Store{Data: s.Data, Run: s.Run} }

// connect connects a container to its networks, by its network namespace.
func connect(o Options, ns *os.File) (c connection, err error) {
	cfg, store := o.Container.Config, networks(o.Store)
	defer func() {
		if err != nil {
			c.close()
			err = errors.Join(err, store.ReleaseAll(o.Container.ID, network.Ended))
		}
	}()
	for i, asked := range cfg.Networks {
		n, err := store.Load(asked.Network)
		if err != nil {
			return c, err
		}
		r, err := endpointRequest(o.Container, asked)
		if err != nil {
			return c, err
		}
		r.Interface, r.DefaultRoute = fmt.Sprintf("eth%d", i), i == 0
		if i == 0 {
			var sockets []*os.File
			if r.Ports, sockets, err = store.Reserve(n, o.Container.Name, portRequests(cfg)); err != nil {
				return c, err
			}
			c.ports = append(c.ports, sockets...)
		}
		e, _, err := store.Attach(n.Name, r, ns)
		if err != nil {
			return c, fmt.Errorf("cannot connect the container to the network %s: %w", n.Name, err)
		}
		c.endpoints = append(c.endpoints, e)
	}
	if !named(cfg) {
		return c, nil
	}
	c.resolver, err = listenForNames(ns)
	return c, err
}

// named reports whether a container's networks have names: all do but the default bridge.
func named(c container.Config) bool {
	for _, n := range c.Networks {
		if n.Network != container.NetworkBridge {
			return true
		}
	}
	return false
}

// listenForNames opens the sockets of a container's resolver, and leads its queries there.
func listenForNames(ns *os.File) (dns.Sockets, error) {
	sockets, err := dns.Listen(ns)
	if err != nil {
		return sockets, err
	}
	port, err := sockets.Port()
	if err == nil {
		err = network.LeadToResolver(ns, dns.Address(), port)
	}
	if err != nil {
		return dns.Sockets{}, errors.Join(err, sockets.Close())
	}
	return sockets, nil
}

// endpointRequest is what a container asks of one network.
func endpointRequest(c *state.Container, asked container.Endpoint) (network.Request, error) {
	r := network.Request{Container: c.ID, Name: c.Name, Aliases: asked.Aliases}
	for _, a := range []netip.Addr{asked.IPv4, asked.IPv6} {
		if a.IsValid() {
			r.Addresses = append(r.Addresses, a)
		}
	}
	if asked.MAC != "" {
		mac, err := netlink.ParseMAC(asked.MAC)
		if err != nil {
			return r, errdef.As(errdef.Invalid, err)
		}
		r.MAC = mac
	}
	return r, nil
}

func portRequests(c container.Config) []network.PortRequest {
	var all []network.PortRequest
	for _, p := range c.PublishedPorts() {
		all = append(all, network.PortRequest{
			Protocol: network.Protocol(p.Protocol), HostIP: p.HostIP, HostPort: p.HostPort, HostPortEnd: p.HostPortEnd, ContainerPort: p.ContainerPort,
		})
	}
	return all
}

// close closes the sockets.
func (c *connection) close() {
	for _, f := range c.ports {
		_ = f.Close()
	}
	c.ports = nil
	if c.resolver.UDP != nil {
		_ = c.resolver.Close()
		c.resolver = dns.Sockets{}
	}
}

// addresses are the container's own, in the order of its networks.
func (c *connection) addresses() []netip.Addr {
	var all []netip.Addr
	for _, e := range c.endpoints {
		for _, p := range e.Addresses {
			all = append(all, p.Addr())
		}
	}
	return all
}

// gateway is the host as the container sees it, for --add-host NAME:host-gateway.
func (c *connection) gateway() (netip.Addr, bool) {
	for _, e := range c.endpoints {
		for _, g := range e.Gateways {
			if g.Is4() {
				return g, true
			}
		}
	}
	return netip.Addr{}, false
}

// resolverConfig is what a container's resolver answers with.
func resolverConfig(o Options, ns *os.File) (dns.Config, error) {
	store := networks(o.Store)
	config := dns.Config{}
	outside := false
	for _, asked := range o.Container.Config.Networks {
		n, err := store.Load(asked.Network)
		if err != nil {
			return config, err
		}
		outside = outside || !n.Internal
		if n.Name != container.NetworkBridge {
			config.Networks = append(config.Networks, dns.Network{Name: n.Name, Zone: store.Zone(n.Name)})
		}
	}
	if outside {
		config.ResolvConf = etcfiles.ResolvConfPath
	}
	for _, s := range o.Container.Config.DNS {
		if a, err := netip.ParseAddr(s); err == nil {
			config.Servers = append(config.Servers, a)
		}
	}
	if len(config.Servers) > 0 {
		config.Dial = dns.DialIn(ns)
	}
	_, ndots, err := resolvConf(o.Container.Config)
	config.Ndots = ndots
	return config, err
}

// serveNames starts the resolver of a container that has one, whose first process is pid.
func (m *monitor) serveNames(pid int) error {
	if m.net.resolver.UDP == nil {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	config, err := resolverConfig(m.Options, ns)
	if err == nil {
		m.names, err = dns.Start(m.net.resolver, config)
	}
	if err != nil || len(config.Servers) == 0 {
		return errors.Join(err, ns.Close())
	}
	m.namesIn = ns // the queries to --dns servers are sent from there
	return nil
}

// guard watches over the rules of the container's networks as long as it runs: somebody may remove them, as firewalld does at each
// reload, and then published ports and the separation of networks are gone (CVE-2025-54388). Of many monitors the first repairs.
func (m *monitor) guard() {
	if !m.c.Config.OwnNetwork() {
		return
	}
	var err error
	if m.watch, err = network.Watch(); err != nil {
		fmt.Fprintln(os.Stderr, "cannot watch over the rules of the container's networks:", err)
		return
	}
	watch, store := m.watch, networks(m.Store)
	m.guarding.Go(func() {
		buf := make([]byte, 4<<10)
		for {
			if _, err := watch.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return // closed
			}
			if _, err := store.Heal(); err != nil {
				fmt.Fprintln(os.Stderr, "cannot repair the rules of the container's networks:", err)
			}
		}
	})
}

// disconnect gives back what the container holds of its networks.
func (m *monitor) disconnect() error {
	var errs error
	if m.watch != nil {
		errs = m.watch.Close()
		m.guarding.Wait()
		m.watch = nil
	}
	if m.names != nil {
		errs = errors.Join(errs, m.names.Close())
		m.names, m.net.resolver = nil, dns.Sockets{}
	}
	if m.namesIn != nil {
		_ = m.namesIn.Close()
		m.namesIn = nil
	}
	m.net.close()
	return errors.Join(errs, m.release())
}

// release gives back what is written down of the container's networks; it may be repeated.
func (o Options) release() error {
	if !o.Container.Config.OwnNetwork() {
		return nil
	}
	return networks(o.Store).ReleaseAll(o.Container.ID, network.Ended)
}

// reconnect takes the sockets again that a monitor before this one has held.
func (m *monitor) reconnect(pid int) error {
	cfg, store := m.c.Config, networks(m.Store)
	for _, asked := range cfg.Networks {
		e, err := store.Endpoint(asked.Network, m.c.ID)
		if errdef.Is(err, errdef.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		m.net.endpoints = append(m.net.endpoints, e)
		ports, err := network.Hold(e.Ports)
		if err != nil {
			fmt.Fprintln(os.Stderr, err) // published all the same; somebody else has the port, too
			continue
		}
		m.net.ports = append(m.net.ports, ports...)
	}
	if !named(cfg) {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	if m.net.resolver, err = listenForNames(ns); err != nil {
		return err
	}
	return m.serveNames(pid)
}

// resolvConf is the container's /etc/resolv.conf.
func resolvConf(c container.Config) (text string, ndots bool, err error) {
	r := etcfiles.Resolver{HostPath: etcfiles.ResolvConfPath, Search: c.DNSSearch, Options: c.DNSOptions}
	for _, s := range c.DNS {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return "", false, errdef.New(errdef.Invalid, "%s is not an ip address", s)
		}
		r.Servers = append(r.Servers, a)
	}
	if r.Host, err = etcfiles.Read(r.HostPath, etcfiles.ResolvConfLimit); err != nil {
		return "", false, err
	}
	switch {
	case c.Network == container.NetworkHost:
		text, err = etcfiles.ResolvConfOnHost(r)
	case named(c):
		return etcfiles.ResolvConfOnNetwork(r, dns.Address())
	default:
		if etcfiles.OnlyStub(r.Host) {
			r.HostPath = etcfiles.ResolvedPath
			if r.Host, err = etcfiles.Read(r.HostPath, etcfiles.ResolvConfLimit); err != nil {
				return "", false, err
			}
		}
		text, err = etcfiles.ResolvConfOnBridge(r, false)
	}
	return text, false, err
}

// hostsFile is the container's /etc/hosts.
func hostsFile(c container.Config, hostname string, net *connection) (string, error) {
	var extra []etcfiles.Entry
	for _, h := range c.Hosts {
		e := etcfiles.Entry{Name: h.Name}
		if h.Address == container.HostGateway {
			gateway, ok := net.gateway()
			if !ok {
				if c.Network != container.NetworkHost {
					return "", errdef.New(errdef.Invalid, "cannot add the host %s: the container has no network on which the host has an address", h.Name)
				}
				gateway = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
			e.Addr = gateway
		} else {
			a, err := netip.ParseAddr(h.Address)
			if err != nil {
				return "", errdef.New(errdef.Invalid, "invalid IP address in add-host: %q", h.Address)
			}
			e.Addr = a
		}
		extra = append(extra, e)
	}
	if c.Network == container.NetworkHost {
		host, err := etcfiles.Read(etcfiles.HostsPath, etcfiles.HostsLimit)
		if err != nil {
			return "", err
		}
		return etcfiles.HostsOnHost(host, extra)
	}
	return etcfiles.Hosts(etcfiles.Names{Hostname: hostname, Domainname: c.Domainname, Addrs: net.addresses(), Extra: extra})
}

// writeEtc writes the container's hosts, hostname and resolv.conf, as docker makes them.
func writeEtc(s state.Store, c *state.Container, hostname string, net *connection) error {
	if hostname == "" {
		var name unix.Utsname
		if err := unix.Uname(&name); err != nil {
			return os.NewSyscallError("uname", err)
		}
		hostname = unix.ByteSliceToString(name.Nodename[:])
	}
	hosts, err := hostsFile(c.Config, hostname, net)
	if err != nil {
		return err
	}
	resolv, _, err := resolvConf(c.Config)
	if err != nil {
		return err
	}
	for _, f := range []struct{ name, text string }{{"hosts", hosts}, {"hostname", hostname + "\n"}, {"resolv.conf", resolv}} {
		// Nobody reads them but the container, which does not run, and every start writes them anew.
		if err := os.WriteFile(s.EtcFile(c.ID, f.name), []byte(f.text), 0o644); err != nil {
			return fmt.Errorf("cannot write the container's /etc/%s: %w", filepath.Base(f.name), err)
		}
	}
	return nil
}
