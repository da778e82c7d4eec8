package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"time"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/network"
	"berth/internal/network/dns"
	"berth/internal/network/etcfiles"
	"berth/internal/network/netlink"
	"berth/internal/network/uplink"
	"berth/internal/runtime/lifecycle"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// connection is what a container on networks holds outside of itself as long as it runs, beside what package network has written
// down: sockets.
type connection struct {
	endpoints []network.Endpoint
	published []network.Published
	ports     []*os.File  // one for each that is published: they keep it from others
	resolver  dns.Sockets // on a network with names
	kept      []*os.File  // connections to nftables that the monitor keeps a while for the command (network.Store.Keep)
	uplink    *uplink.Client
	host      netip.Addr // how the host is reached by way of the uplink
}

// sharedNetwork is the network namespace of the container id, which another one is to share.
func sharedNetwork(s state.Store, id string) (*lifecycle.Network, error) {
	p, err := s.Process(id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ns, err := p.Network()
	if err != nil {
		return nil, err
	}
	if ns != nil {
		return lifecycle.SharedNetwork(ns), nil
	}
	if _, err := s.Load(id); err != nil {
		return nil, err
	}
	if r, err := s.Record(id); err == nil && r.Status == state.Restarting {
		return nil, errdef.New(errdef.Conflict, "Container %s is restarting, wait until the container is running", id)
	}
	return nil, errdef.Hint(errdef.New(errdef.Conflict, "cannot join network of a non running container: %s", id), "berth start %s", ident.Short(id))
}

// connectIn connects a container to its networks, if it has any, when its network namespace is made. keep is for a process that ends
// soon, and hands on what it has opened.
func (c *connection) connectIn(o Options, made *lifecycle.Network, keep bool) error {
	if !o.Container.Config.OwnNetwork() {
		return nil
	}
	ns, err := made.Wait()
	if err != nil {
		return errdef.As(errdef.Unsupported, fmt.Errorf("cannot make the network namespace of the container: %w", err))
	}
	return c.connect(o, ns, keep)
}

// reserve takes the ports that the container wants published. They are on the first of its networks.
func (c *connection) reserve(o Options) (err error) {
	cfg := o.Container.Config
	if len(cfg.Networks) == 0 {
		return nil
	}
	n, err := o.networks().Load(cfg.Networks[0].Network)
	if err == nil {
		c.published, c.ports, err = o.networks().Reserve(n, o.Container.Name, PortRequests(cfg))
	}
	return err
}

// connect connects a container to its networks, by its network namespace. On an error it holds nothing.
func (c *connection) connect(o Options, ns *os.File, keep bool) (err error) {
	cfg, store := o.Container.Config, o.networks()
	if keep {
		store.Keep = func(f *os.File) { c.kept = append(c.kept, f) }
	}
	defer func() {
		if err != nil {
			c.close()
			err = errors.Join(err, store.ReleaseAll(o.Container.ID, network.Ended))
		}
	}()
	asked, err := Places(store, o.Container)
	if err != nil {
		return err
	}
	for i, place := range asked {
		n, r := place.Network, place.Request
		if i == 0 {
			r.Ports = c.published
		}
		if len(place.Ports) > 0 && n.Driver == network.DriverMacvlan && o.Notice != nil {
			o.Notice(fmt.Sprintf("published ports are discarded on the network %s: its containers are reached on all their ports, by their own addresses", n.Name))
		}
		e, changes, err := store.Attach(n.Name, r, ns)
		o.tell(changes)
		var held *network.HeldError
		if errors.As(err, &held) && o.Settle != nil {
			if err := o.Settle(held.Container); err != nil {
				return err
			}
			e, _, err = store.Attach(n.Name, r, ns)
		}
		if err != nil {
			return fmt.Errorf("cannot connect the container to the network %s: %w", n.Name, err)
		}
		c.endpoints = append(c.endpoints, e)
		TellOfFirewall(o.Notice, store, n, e)
	}
	if err := o.linkUp(c); err != nil {
		return err
	}
	if Named(cfg) {
		c.resolver, err = listenForNames(ns)
	}
	return err
}

// tell says which settings of the host were changed.
func (o Options) tell(changes []network.Change) {
	for _, c := range changes {
		if o.Notice != nil {
			o.Notice(c.String())
		}
	}
}

// TellOfFirewall says that a firewall keeps other hosts from the ports that a container has just published.
func TellOfFirewall(notice func(string), store network.Store, n network.Network, e network.Endpoint) {
	if notice == nil || !slices.ContainsFunc(e.Ports, func(p network.Published) bool { return !p.HostIP.IsLoopback() }) {
		return
	}
	switch line, err := store.Dropped(n); {
	case err != nil:
		notice("cannot find out whether a firewall keeps others from the published ports: " + err.Error())
	case line != "":
		notice(line)
	}
}

// Named reports whether a container's networks have names: all do but the default bridge.
func Named(c container.Config) bool {
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

// Place is what a container that starts has on one network.
type Place struct {
	Network network.Network
	Request network.Request
	Ports   []network.PortRequest
}

// Places are what a container that starts has on its networks: published ports on the first, and its way out by the first that leads
// somewhere.
func Places(store network.Store, c *state.Container) ([]Place, error) {
	var all []Place
	routed := false
	for i, asked := range c.Config.Networks {
		n, err := store.Load(asked.Network)
		if err != nil {
			return nil, err
		}
		r, err := EndpointRequest(c, asked)
		if err != nil {
			return nil, err
		}
		r.Interface, r.DefaultRoute = fmt.Sprintf("eth%d", i), !routed && !n.Internal
		routed = routed || r.DefaultRoute
		p := Place{Network: n, Request: r}
		if i == 0 {
			p.Ports = PortRequests(c.Config)
		}
		all = append(all, p)
	}
	return all, nil
}

// EndpointRequest is what a container asks of one network.
func EndpointRequest(c *state.Container, asked container.Endpoint) (network.Request, error) {
	r := network.Request{Container: c.ID, Name: c.Name, Aliases: asked.Aliases, LinkLocal: asked.LinkLocal}
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

// PortRequests are the ports that a container wants published.
func PortRequests(c container.Config) []network.PortRequest {
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
	c.linkDown()
	for _, f := range append(c.ports, c.kept...) {
		_ = f.Close()
	}
	c.ports, c.kept = nil, nil
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
	if c.host.IsValid() {
		return c.host, true
	}
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
	store := o.networks()
	config := dns.Config{}
	outside := false
	for _, asked := range o.Container.Config.Networks {
		n, err := store.Load(asked.Network)
		if err != nil {
			return config, err
		}
		outside = outside || !n.Internal
		if n.Name != container.NetworkBridge {
			config.Networks = append(config.Networks, dns.Network{Name: n.Name, Zone: withLinks(store.Zone(n.Name), o.Store, o.Container.Config.Links)})
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
	m.networking.Lock()
	defer m.networking.Unlock()
	return m.serveNamesLocked(pid)
}

func (m *monitor) serveNamesLocked(pid int) error {
	if m.net.resolver.UDP == nil || m.names != nil {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended already
	}
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
	m.networking.Lock()
	defer m.networking.Unlock()
	m.guardLocked()
}

func (m *monitor) guardLocked() {
	if m.watch != nil || !m.c.Config.OwnNetwork() {
		return
	}
	var err error
	if m.watch, err = m.networks().Watch(); err != nil {
		fmt.Fprintln(os.Stderr, "cannot watch over the rules of the container's networks:", err)
		return
	}
	watch, store := m.watch, m.networks()
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
	m.networking.Lock()
	defer m.networking.Unlock()
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
	held, err := m.held()
	errs = errors.Join(errs, err, m.release())
	if len(held) > 0 {
		m.fading.Add(1)
		time.AfterFunc(network.Lingering, func() {
			defer m.fading.Done()
			if err := m.networks().RemoveLinks(held); err != nil {
				fmt.Fprintln(os.Stderr, "cannot remove the interfaces of the container:", err)
			}
		})
	}
	return errs
}

// release gives back what is written down of the container's networks; it may be repeated.
func (o Options) release() error {
	if !o.Container.Config.OwnNetwork() {
		return nil
	}
	return o.networks().ReleaseAll(o.Container.ID, network.Ended)
}

// reconnect takes the sockets again that a monitor before this one has held, and makes the interfaces again that are gone.
func (m *monitor) reconnect(pid int) error {
	if len(m.c.Config.Networks) == 0 {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	store := m.networks()
	held, err := m.held()
	if err != nil {
		return err
	}
	for _, e := range held {
		if e, err = store.Restore(e, ns); err != nil {
			return fmt.Errorf("cannot connect the container to the network %s again: %w", e.Network, err)
		}
		m.net.endpoints = append(m.net.endpoints, e)
		ports, err := holdAgain(store, e.Ports)
		if err != nil {
			fmt.Fprintln(os.Stderr, err) // published all the same; somebody else has the port, too
			continue
		}
		m.net.ports = append(m.net.ports, ports...)
	}
	if err := m.open(ns); err != nil {
		return err
	}
	return m.serveNames(pid)
}

// open opens what a container, whose network namespace is ns, has besides its ports: the connection to the uplink, and the resolver's
// sockets.
func (m *monitor) open(ns *os.File) (err error) {
	if err = m.linkUp(&m.net); err == nil && Named(m.c.Config) {
		m.net.resolver, err = listenForNames(ns)
	}
	return err
}

// openInstead opens what a command that connected the container after its birth would have handed on, if it had not been killed.
func (m *monitor) openInstead(pid int) (err error) {
	if m.Home == nil || !m.c.Config.OwnNetwork() {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended already
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	if m.net.endpoints, err = m.held(); err != nil {
		return err
	}
	return m.open(ns)
}

// holdAgain takes the ports that a monitor before this one has held. It may have been killed a moment ago, and not be done with its
// descriptors.
func holdAgain(store network.Store, ports []network.Published) (held []*os.File, err error) {
	for wait := time.Millisecond; ; wait *= 2 {
		if held, err = store.Hold(ports); !errors.Is(err, unix.EADDRINUSE) || wait > time.Second {
			return held, err
		}
		time.Sleep(wait)
	}
}

// reload reads what commands can change of a container, and may have since it was last read: its name, which networks it is to be on, its
// limits and its restart policy.
func (m *monitor) reload() error {
	now, err := m.Store.Load(m.c.ID)
	if err != nil {
		return err
	}
	m.networking.Lock()
	defer m.networking.Unlock()
	m.c.Name, m.c.Config.Networks = now.Name, now.Config.Networks
	m.c.Config.Resources, m.c.Config.Restart = now.Config.Resources, now.Config.Restart
	return nil
}

// changeNetworks goes on with the networks on which a command has put the running container, or from which it has taken it.
func (m *monitor) changeNetworks() error {
	now, err := m.Store.Load(m.c.ID)
	if err != nil {
		return err
	}
	m.networking.Lock()
	defer m.networking.Unlock()
	m.mu.Lock()
	running, pid := m.running, m.process.PID
	m.mu.Unlock()
	if !running {
		return nil // the next start reads it
	}
	m.grown.Store(true)
	before := m.c.Config
	m.c.Config.Networks = now.Config.Networks
	if m.net.endpoints, err = m.held(); err != nil {
		return err
	}
	m.guardLocked()
	m.holdPorts()
	if err := m.linkUp(&m.net); err != nil {
		return err
	}
	m.watchUplinkLocked()
	err = m.rewriteHosts()
	if Named(m.c.Config) != Named(before) {
		err = errors.Join(err, m.rewriteResolvConf(before))
	}
	return errors.Join(err, m.changeNames(pid))
}

// held reads what the container holds of its networks.
func (m *monitor) held() ([]network.Endpoint, error) {
	var all []network.Endpoint
	for _, asked := range m.c.Config.Networks {
		e, err := m.networks().Endpoint(asked.Network, m.c.ID)
		if errdef.Is(err, errdef.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// holdPorts holds what is published, and nothing when nothing is any more. Ports that have only moved to another network are held on.
func (m *monitor) holdPorts() {
	var published []network.Published
	for _, e := range m.net.endpoints {
		published = append(published, e.Ports...)
	}
	switch {
	case len(published) == 0:
		for _, f := range m.net.ports {
			_ = f.Close()
		}
		m.net.ports = nil
	case len(m.net.ports) == 0:
		var err error
		if m.net.ports, err = m.networks().Hold(published); err != nil {
			fmt.Fprintln(os.Stderr, err) // published all the same; somebody else has the port, too
		}
	}
}

// changeNames makes the container's resolver answer for its networks as they are now; one that has none yet gets one.
func (m *monitor) changeNames(pid int) error {
	if m.names == nil && !Named(m.c.Config) {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended already
	}
	if err != nil {
		return err
	}
	if m.names == nil {
		defer ns.Close()
		if m.net.resolver.UDP == nil {
			if m.net.resolver, err = listenForNames(ns); err != nil {
				return err
			}
		}
		return m.serveNamesLocked(pid)
	}
	config, err := resolverConfig(m.Options, ns)
	if err != nil || len(config.Servers) == 0 {
		err = errors.Join(err, ns.Close())
	} else if m.namesIn != nil { // the queries of the server are sent from there already
		config.Dial = dns.DialIn(m.namesIn)
		err = ns.Close()
	} else {
		m.namesIn = ns
	}
	if err == nil {
		m.names.Configure(config)
	}
	return err
}
