package etcfiles

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ResolvConf is what a resolv.conf says.
type ResolvConf struct {
	Servers []netip.Addr
	Search  []string // the last of search and domain
	Options []string // all of them: "name" or "name:value"
	Other   []string // lines that say something else
	Invalid []string // servers that are no addresses
}

// Parse reads a resolv.conf as docker does: what it cannot understand is kept, never an error.
func Parse(text []byte) ResolvConf {
	var c ResolvConf
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' || words[0][0] == ';' {
			continue
		}
		args := words[1:]
		switch words[0] {
		case "nameserver":
			if len(args) == 0 {
				continue
			}
			if a, err := netip.ParseAddr(args[0]); err == nil {
				c.Servers = append(c.Servers, a)
			} else {
				c.Invalid = append(c.Invalid, args[0])
			}
		case "domain", "search":
			if len(args) > 0 {
				c.Search = args
			}
		case "options":
			c.Options = append(c.Options, args...)
		default:
			c.Other = append(c.Other, line)
		}
	}
	return c
}

// Option returns the value of the last option called name; an option without one has the value "".
func (c ResolvConf) Option(name string) (value string, ok bool) {
	for _, o := range slices.Backward(c.Options) {
		if k, v, _ := strings.Cut(o, ":"); k == name {
			return v, true
		}
	}
	return "", false
}

// OnlyStub reports whether systemd-resolved's stub is the one server of the host's file. A container with a network of
// its own cannot reach it; docker then takes the file at ResolvedPath for the host's.
func OnlyStub(host []byte) bool {
	s := Parse(host).Servers
	return len(s) == 1 && s[0] == netip.AddrFrom4([4]byte{127, 0, 0, 53})
}

// Resolver is what a container's /etc/resolv.conf is made of: the host's file and --dns, --dns-search and --dns-option,
// each of which replaces what the host's file says of the same. The search domain "." asks for none.
type Resolver struct {
	Host            []byte
	HostPath        string // where Host was read; it is said in a comment
	Servers         []netip.Addr
	Search, Options []string
}

// ResolvConfOnHost returns the /etc/resolv.conf of a container with the host's network: the host's, as it is, unless
// something was asked for.
func ResolvConfOnHost(r Resolver) (string, error) {
	if len(r.Servers)+len(r.Search)+len(r.Options) == 0 {
		return string(r.Host), nil
	}
	f, err := r.begin()
	if err != nil {
		return "", err
	}
	return f.text(), nil
}

// ResolvConfOnBridge returns the /etc/resolv.conf of a container on the default bridge, where nobody answers at
// 127.0.0.11, and of one without a network. Servers on the host's loopback cannot be reached from there; if no others are
// left, docker's public ones are taken. ipv6 says whether the container can reach IPv6 servers.
func ResolvConfOnBridge(r Resolver, ipv6 bool) (string, error) {
	f, err := r.begin()
	if err != nil {
		return "", err
	}
	f.how = "legacy"
	if len(r.Servers) > 0 {
		return f.text(), nil
	}
	f.Servers = slices.DeleteFunc(f.Servers, func(a netip.Addr) bool { return a.IsLoopback() || a.Is6() && !ipv6 })
	if len(f.Servers) == 0 {
		f.Servers = []netip.Addr{netip.AddrFrom4([4]byte{8, 8, 8, 8}), netip.AddrFrom4([4]byte{8, 8, 4, 4})}
		if ipv6 {
			google := [16]byte{0x20, 0x01, 0x48, 0x60, 0x48, 0x60, 14: 0x88, 15: 0x88}
			f.Servers = append(f.Servers, netip.AddrFrom16(google))
			google[15] = 0x44
			f.Servers = append(f.Servers, netip.AddrFrom16(google))
		}
		f.warning = "Used default nameservers."
	}
	return f.text(), nil
}

// ResolvConfOnNetwork returns the /etc/resolv.conf of a container on a user-defined network, whose one server is our
// resolver at address. ndots says that the number of dots was chosen by somebody: the resolver then does not forward names
// without a dot, for which libc tries the search domains next.
//
// ndots:0 makes libc ask for "web" before "web.example.com", a search domain, whose servers would otherwise be asked for
// every container's name.
func ResolvConfOnNetwork(r Resolver, address netip.Addr) (text string, ndots bool, err error) {
	f, err := r.begin()
	if err != nil {
		return "", false, err
	}
	f.how = "internal resolver"
	_, ndots = f.Option("ndots")
	f.external, f.Servers = f.Servers, []netip.Addr{address}
	f.fromHost = len(r.Servers) == 0
	if len(f.external) == 0 {
		f.warning = "NO EXTERNAL NAMESERVERS DEFINED"
	}
	f.Options = slices.DeleteFunc(f.Options, func(o string) bool {
		k, v, _ := strings.Cut(o, ":")
		n, err := strconv.Atoi(v)
		return k == "ndots" && (err != nil || n < 0)
	})
	if _, ok := f.Option("ndots"); !ok {
		f.Options = append(f.Options, "ndots:0")
		f.ndotsFrom = "internal"
	}
	return f.text(), ndots, nil
}

// file is a resolv.conf to be, and what its comments say of its making.
type file struct {
	ResolvConf
	path, how, warning, ndotsFrom string
	overrides                     []string
	external                      []netip.Addr // asked by our resolver
	fromHost                      bool         // external is the host's, and asked from the host's network
}

// begin checks what was asked for and puts it over the host's file.
func (r Resolver) begin() (file, error) {
	f := file{ResolvConf: Parse(r.Host), path: r.HostPath}
	if _, ok := f.Option("ndots"); ok {
		f.ndotsFrom = "host"
	}
	if len(r.Servers) > 0 {
		for _, a := range r.Servers {
			if err := word("the name server", a.String()); err != nil { // the zone of an address is free text
				return file{}, err
			}
		}
		f.Servers = slices.Clone(r.Servers)
		f.overrides = append(f.overrides, "nameservers")
	}
	if len(r.Search) > 0 {
		f.Search = nil
		for _, s := range r.Search {
			if err := word("the search domain", s); err != nil {
				return file{}, err
			}
			if s != "." {
				f.Search = append(f.Search, s)
			}
		}
		f.overrides = append(f.overrides, "search")
	}
	if len(r.Options) > 0 {
		for _, o := range r.Options {
			if err := word("the resolver option", o); err != nil {
				return file{}, err
			}
		}
		f.Options, f.ndotsFrom = slices.Clone(r.Options), ""
		if _, ok := f.Option("ndots"); ok {
			f.ndotsFrom = "override"
		}
		f.overrides = append(f.overrides, "options")
	}
	return f, nil
}

// header begins every file that is not the host's. Docker's says that an edited file is left alone.
const header = "# Generated by berth; written anew whenever the container is started.\n\n"

// text is the file, with the comments that docker puts behind it since its release 26.
func (f file) text() string {
	var b strings.Builder
	b.WriteString(header)
	for _, a := range f.Servers {
		b.WriteString("nameserver " + a.String() + "\n")
	}
	list := func(before string, words []string, between, after string) {
		if len(words) > 0 {
			b.WriteString(before + strings.Join(words, between) + after)
		}
	}
	list("search ", f.Search, " ", "\n")
	list("options ", f.Options, " ", "\n")
	list("", f.Other, "\n", "\n")
	b.WriteString("\n# Based on host file: '" + f.path + "'")
	if f.how != "" {
		b.WriteString(" (" + f.how + ")")
	}
	b.WriteString("\n")
	if f.warning != "" {
		b.WriteString("# " + f.warning + "\n")
	}
	var external []string
	for _, a := range f.external {
		if s := a.String(); f.fromHost {
			external = append(external, "host("+s+")")
		} else {
			external = append(external, s)
		}
	}
	list("# ExtServers: [", external, " ", "]\n")
	list("# Invalid nameservers: [", f.Invalid, " ", "]\n")
	b.WriteString("# Overrides: [" + strings.Join(f.overrides, " ") + "]\n")
	if f.ndotsFrom != "" {
		b.WriteString("# Option ndots from: " + f.ndotsFrom + "\n")
	}
	return b.String()
}
