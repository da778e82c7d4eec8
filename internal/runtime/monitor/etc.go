package monitor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/network/dns"
	"berth/internal/network/etcfiles"
	"berth/internal/runtime/spec"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// rewriteHosts takes the lines of addresses that the container no longer has out of its /etc/hosts, and adds those of new ones. The
// file is the container's, too: what else is in it stays.
func (m *monitor) rewriteHosts() error {
	path := m.Store.EtcFile(m.c.ID, "hosts")
	have, err := etcfiles.Read(path, etcfiles.HostsLimit)
	if err != nil {
		return err
	}
	cfg := m.c.Config
	names := etcfiles.Names{Hostname: spec.Hostname(spec.Input{ID: m.c.ID, Config: cfg}), Domainname: cfg.Domainname}
	return writeInPlace(path, changeHosts(string(have), names, m.net.addresses(), cfg.Hosts))
}

// rewriteResolvConf changes the container's /etc/resolv.conf from one without our resolver to one with it, or back, unless somebody
// has changed the file since.
func (m *monitor) rewriteResolvConf(before container.Config) error {
	path := m.Store.EtcFile(m.c.ID, "resolv.conf")
	have, err := etcfiles.Read(path, etcfiles.ResolvConfLimit)
	if err != nil {
		return err
	}
	was, _, err := resolvConf(before)
	if err != nil || string(have) != was {
		return err
	}
	text, _, err := resolvConf(m.c.Config)
	if err != nil {
		return err
	}
	return writeInPlace(path, text)
}

// writeInPlace writes a file that is mounted in the container, where a new one with its name would not be seen.
func writeInPlace(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Truncate(int64(len(text)))
	}
	return errors.Join(err, f.Close())
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
	case Named(c):
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

// changeHosts is the text of an /etc/hosts with lines of a container's own for its addresses. Lines with its names and other addresses
// are of addresses that it had, unless they were asked for.
func changeHosts(text string, own etcfiles.Names, addresses []netip.Addr, asked []container.Host) string {
	names := etcfiles.OwnNames(own)
	if names == "" {
		return text
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		address, of, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		wanted := slices.ContainsFunc(asked, func(h container.Host) bool { return h.Name == of && h.Address == address })
		if of == names && !wanted {
			continue
		}
		b.WriteString(line)
	}
	if have := b.String(); have != "" && !strings.HasSuffix(have, "\n") {
		b.WriteByte('\n')
	}
	for _, a := range addresses {
		b.WriteString(a.String() + "\t" + names + "\n")
	}
	return b.String()
}

// etcOwner is the container whose files of /etc a container has: its own, or those of the one whose network it shares. Of one that is
// no more that is all that is known.
func etcOwner(s state.Store, c *state.Container) string {
	for {
		id, shares := c.Config.SharesNetwork()
		if !shares {
			return c.ID
		}
		next, err := s.Load(id)
		if err != nil {
			return id
		}
		c = next // which was there before c was made, so that this ends
	}
}

// sharesHost reports whether the network that a container shares is the host's, since a container has that which shares it with others.
func sharesHost(s state.Store, c *state.Container) bool {
	if _, shares := c.Config.SharesNetwork(); !shares {
		return false
	}
	owner, err := s.Load(etcOwner(s, c))
	return err == nil && owner.Config.Network == container.NetworkHost
}

// EtcFile is a file of /etc that a container has, "hosts" for example.
func EtcFile(s state.Store, c *state.Container, name string) string {
	return s.EtcFile(etcOwner(s, c), name)
}

// writeEtc writes the container's hostname and resolv.conf, as docker makes them, and makes its hosts, which writeHosts fills. Those of
// a container whose network it shares are not its to write.
func writeEtc(s state.Store, c *state.Container, hostname string) error {
	if _, shares := c.Config.SharesNetwork(); shares {
		return nil
	}
	resolv, _, err := resolvConf(c.Config)
	if err != nil {
		return err
	}
	for _, f := range []struct{ name, text string }{{"hosts", ""}, {"hostname", hostname + "\n"}, {"resolv.conf", resolv}} {
		if err := writeEtcFile(s, c.ID, f.name, f.text); err != nil {
			return err
		}
	}
	return nil
}

// writeHosts writes the container's hosts, when its addresses are known.
func writeHosts(s state.Store, c *state.Container, hostname string, net *connection) error {
	if _, shares := c.Config.SharesNetwork(); shares {
		return nil
	}
	hosts, err := hostsFile(c.Config, hostname, net)
	if err != nil {
		return err
	}
	return writeEtcFile(s, c.ID, "hosts", hosts)
}

// writeEtcFile writes a file in its place. Nobody reads it but the container, which does not run, and every start writes it anew.
func writeEtcFile(s state.Store, id, name, text string) error {
	if err := os.WriteFile(s.EtcFile(id, name), []byte(text), 0o644); err != nil {
		return fmt.Errorf("cannot write the container's /etc/%s: %w", name, err)
	}
	return nil
}

// hostnameOf is the container's host name, or the host's own if it has none.
func hostnameOf(c *state.Container) (string, error) {
	if name := spec.Hostname(spec.Input{ID: c.ID, Config: c.Config}); name != "" {
		return name, nil
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", os.NewSyscallError("uname", err)
	}
	return unix.ByteSliceToString(name.Nodename[:]), nil
}
