package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"time"

	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/network"
	"berth/internal/network/dns"
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
	m.c.Config.Networks, m.c.Config.Links = now.Config.Networks, now.Config.Links
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
