package etcfiles

import (
	"net/netip"
	"strings"
)

// Entry is what --add-host says, with host-gateway already replaced by an address.
type Entry struct {
	Name string
	Addr netip.Addr
}

// Names is what a container's /etc/hosts is made of.
type Names struct {
	Hostname, Domainname string
	// Addrs are the container's own, in the order of its networks.
	Addrs []netip.Addr
	Extra []Entry
	// NoIPv6 leaves out every line with an IPv6 address: the container has none, not even its loopback's.
	NoIPv6 bool
}

const (
	localIPv4 = "127.0.0.1\tlocalhost\n"
	localIPv6 = "::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
)

// Hosts returns the /etc/hosts of a container with a network of its own. The entries asked for come before its own
// names, so that they win.
func Hosts(n Names) (string, error) {
	var b strings.Builder
	b.WriteString(localIPv4)
	if !n.NoIPv6 {
		b.WriteString(localIPv6)
	}
	line := func(a netip.Addr, names string) {
		if a = a.Unmap(); a.IsValid() && (a.Is4() || !n.NoIPv6) {
			b.WriteString(a.String() + "\t" + names + "\n")
		}
	}
	for _, e := range n.Extra {
		if err := word("the host name", e.Name); err != nil {
			return "", err
		}
		if err := word("the address", e.Addr.String()); err != nil { // its zone is free text
			return "", err
		}
		line(e.Addr, e.Name)
	}
	if len(n.Addrs) == 0 || n.Hostname == "" {
		return b.String(), nil
	}
	if err := word("the host name", n.Hostname+n.Domainname); err != nil {
		return "", err
	}
	names := OwnNames(n)
	for _, a := range n.Addrs {
		line(a.WithZone(""), names)
	}
	return b.String(), nil
}

// OwnNames are the container's own names, as they stand behind each of its addresses.
func OwnNames(n Names) string {
	names := n.Hostname
	if n.Domainname != "" {
		names += "." + n.Domainname
	}
	// The domain may be part of the host name; its first label is a name, too.
	if short, _, ok := strings.Cut(names, "."); ok && short != "" {
		names += " " + short
	}
	return names
}

// HostsOnHost returns the /etc/hosts of a container with the host's network: the host's file as it is. With entries of
// its own, docker starts anew instead, so that they can say otherwise than the host's file.
func HostsOnHost(host []byte, extra []Entry) (string, error) {
	if len(extra) == 0 {
		return string(host), nil
	}
	return Hosts(Names{Extra: extra})
}
