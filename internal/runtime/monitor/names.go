package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"berth/internal/container"
	"berth/internal/network"
	"berth/internal/network/dns"
	"berth/internal/network/etcfiles"
)

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
