package etcfiles

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/errdef"
)

func addrs(s ...string) []netip.Addr {
	var list []netip.Addr
	for _, a := range s {
		list = append(list, netip.MustParseAddr(a))
	}
	return list
}

const localhost = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

func TestHosts(t *testing.T) {
	for _, c := range []struct {
		summary string
		names   Names
		want    string
	}{
		{"No network", Names{Hostname: "abc"}, localhost},
		{"One address", Names{Hostname: "3f4e", Addrs: addrs("172.17.0.2")}, localhost + "172.17.0.2\t3f4e\n"},
		{
			"Two networks and IPv6",
			Names{Hostname: "web", Addrs: addrs("172.18.0.2", "fd00::2", "172.19.0.2")},
			localhost + "172.18.0.2\tweb\nfd00::2\tweb\n172.19.0.2\tweb\n",
		},
		{
			"A domain name",
			Names{Hostname: "web", Domainname: "example.com", Addrs: addrs("172.17.0.2")},
			localhost + "172.17.0.2\tweb.example.com web\n",
		},
		{
			"A domain within the host name",
			Names{Hostname: "web.example.com", Addrs: addrs("172.17.0.2")},
			localhost + "172.17.0.2\tweb.example.com web\n",
		},
		{
			"Entries asked for come first",
			Names{Hostname: "web", Addrs: addrs("172.17.0.2"), Extra: []Entry{{"gw", netip.MustParseAddr("172.17.0.1")}, {"db", netip.MustParseAddr("fd00::9")}}},
			localhost + "172.17.0.1\tgw\nfd00::9\tdb\n172.17.0.2\tweb\n",
		},
		{
			"Without IPv6 no line has any",
			Names{Hostname: "web", Addrs: addrs("172.17.0.2", "fd00::2"), Extra: []Entry{{"db", netip.MustParseAddr("fd00::9")}}, NoIPv6: true},
			"127.0.0.1\tlocalhost\n172.17.0.2\tweb\n",
		},
	} {
		got, err := Hosts(c.names)
		if err != nil || got != c.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", c.summary, err, got, c.want)
		}
	}
}

func TestHostsOnHost(t *testing.T) {
	host := "127.0.0.1 localhost\n10.0.0.1 printer\n# a comment"
	if got, err := HostsOnHost([]byte(host), nil); err != nil || got != host {
		t.Errorf("the host's file becomes %q, %v", got, err)
	}
	got, err := HostsOnHost([]byte(host), []Entry{{"printer", netip.MustParseAddr("10.0.0.2")}})
	if want := localhost + "10.0.0.2\tprinter\n"; err != nil || got != want {
		t.Errorf("with an entry: %v\n%s\nwant\n%s", err, got, want)
	}
}

// attack 37: text that becomes a line of its own, or that a terminal obeys.
func TestNothingBecomesALineOfItsOwn(t *testing.T) {
	for _, bad := range []string{
		"", "a\n6.6.6.6 bank.example", "a b", "a\tb", "a\r", "a\x00", "a\x1b[2J", "a\u0085b", "a\u2028b", "a\u00a0b", "a#b", "a;b", "\xff", strings.Repeat("a", 256),
	} {
		here := addrs("10.0.0.1")
		if _, err := Hosts(Names{Extra: []Entry{{bad, here[0]}}}); !errdef.Is(err, errdef.Invalid) {
			t.Errorf("--add-host %q: %v", bad, err)
		}
		if bad != "" {
			if _, err := Hosts(Names{Hostname: bad, Addrs: here}); !errdef.Is(err, errdef.Invalid) {
				t.Errorf("--hostname %q: %v", bad, err)
			}
			if _, err := Hosts(Names{Hostname: "a", Domainname: bad, Addrs: here}); !errdef.Is(err, errdef.Invalid) {
				t.Errorf("--domainname %q: %v", bad, err)
			}
		}
		for flag, r := range map[string]Resolver{"--dns-search": {Search: []string{bad}}, "--dns-option": {Options: []string{bad}}} {
			_, onHost := ResolvConfOnHost(r)
			_, onBridge := ResolvConfOnBridge(r, true)
			_, _, onNetwork := ResolvConfOnNetwork(r, here[0])
			for _, err := range []error{onHost, onBridge, onNetwork} {
				if !errdef.Is(err, errdef.Invalid) {
					t.Errorf("%s %q: %v", flag, bad, err)
				}
			}
		}
	}
	zone := netip.MustParseAddr("fe80::1%eth0\nnameserver 6.6.6.6")
	if _, err := ResolvConfOnBridge(Resolver{Servers: []netip.Addr{zone}}, true); !errdef.Is(err, errdef.Invalid) {
		t.Errorf("--dns %q: %v", zone, err)
	}
	if _, err := Hosts(Names{Extra: []Entry{{"a", zone}}}); !errdef.Is(err, errdef.Invalid) {
		t.Errorf("--add-host a:%q: %v", zone, err)
	}
	if text, err := Hosts(Names{Hostname: "a", Addrs: []netip.Addr{zone}}); err != nil || strings.Contains(text, "6.6.6.6") {
		t.Errorf("an address of its own: %q, %v", text, err)
	}
}

func TestParse(t *testing.T) {
	c := Parse([]byte("# x\n; y\nnameserver\nnameserver 1.1.1.1\nnameserver 1.2.3\n nameserver fe80::1%eth0 # z\r\ndomain a\nsearch b c\n" +
		"options ndots:1 rotate\noptions ndots:3\nsortlist 1.2.3.0\nsearch\nlookup file"))
	if len(c.Servers) != 2 || c.Servers[1].Zone() != "eth0" || strings.Join(c.Search, " ") != "b c" || strings.Join(c.Invalid, " ") != "1.2.3" {
		t.Errorf("got %+v", c)
	}
	if v, ok := c.Option("ndots"); v != "3" || !ok {
		t.Errorf("ndots is %q, %v", v, ok)
	}
	if v, ok := c.Option("rotate"); v != "" || !ok {
		t.Errorf("rotate is %q, %v", v, ok)
	}
	if got := strings.Join(c.Other, "|"); got != "sortlist 1.2.3.0|lookup file" {
		t.Errorf("other lines: %q", got)
	}
}

func TestResolvConfOnHost(t *testing.T) {
	host := []byte("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n")
	if got, err := ResolvConfOnHost(Resolver{Host: host, HostPath: ResolvConfPath}); err != nil || got != string(host) {
		t.Errorf("got %q, %v", got, err)
	}
	got, err := ResolvConfOnHost(Resolver{Host: host, HostPath: ResolvConfPath, Search: []string{"."}})
	want := header + "nameserver 127.0.0.53\noptions edns0 trust-ad\n\n# Based on host file: '/etc/resolv.conf'\n# Overrides: [search]\n"
	if err != nil || got != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, want)
	}
}

func TestResolvConfOnBridge(t *testing.T) {
	for _, c := range []struct {
		summary, host string
		r             Resolver
		ipv6          bool
		want          string
	}{
		{
			summary: "Servers that can be reached are kept", host: "nameserver 10.0.0.1\nnameserver 127.0.0.1\nnameserver fd00::1\nsearch lan\n",
			want: "nameserver 10.0.0.1\nsearch lan\n\n# Based on host file: '/etc/resolv.conf' (legacy)\n# Overrides: []\n",
		},
		{
			summary: "IPv6 servers, too, on a bridge with IPv6", host: "nameserver ::1\nnameserver fd00::1\n", ipv6: true,
			want: "nameserver fd00::1\n\n# Based on host file: '/etc/resolv.conf' (legacy)\n# Overrides: []\n",
		},
		{
			summary: "Public ones if none is left", host: "nameserver 127.0.0.53\noptions edns0\n",
			want: "nameserver 8.8.8.8\nnameserver 8.8.4.4\noptions edns0\n\n# Based on host file: '/etc/resolv.conf' (legacy)\n# Used default nameservers.\n# Overrides: []\n",
		},
		{
			summary: "Public ones with IPv6", ipv6: true,
			want: "nameserver 8.8.8.8\nnameserver 8.8.4.4\nnameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n\n" +
				"# Based on host file: '/etc/resolv.conf' (legacy)\n# Used default nameservers.\n# Overrides: []\n",
		},
		{
			summary: "What was asked for is not filtered", host: "nameserver 10.0.0.1\nsearch lan\noptions ndots:5\nsortlist 1.2.3.0\n",
			r: Resolver{Servers: addrs("127.0.0.1", "2.3.4.5"), Search: []string{"a.example", "b.example"}, Options: []string{"ndots:1", "rotate"}},
			want: "nameserver 127.0.0.1\nnameserver 2.3.4.5\nsearch a.example b.example\noptions ndots:1 rotate\nsortlist 1.2.3.0\n\n" +
				"# Based on host file: '/etc/resolv.conf' (legacy)\n# Overrides: [nameservers search options]\n# Option ndots from: override\n",
		},
		{
			summary: "A dot clears the search domains; what is no address is said", host: "nameserver 1.2.3\nnameserver 10.0.0.1\nsearch lan\noptions ndots:5\n",
			r: Resolver{Search: []string{"."}},
			want: "nameserver 10.0.0.1\noptions ndots:5\n\n# Based on host file: '/etc/resolv.conf' (legacy)\n# Invalid nameservers: [1.2.3]\n" +
				"# Overrides: [search]\n# Option ndots from: host\n",
		},
	} {
		c.r.Host, c.r.HostPath = []byte(c.host), ResolvConfPath
		got, err := ResolvConfOnBridge(c.r, c.ipv6)
		if err != nil || got != header+c.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", c.summary, err, got, header+c.want)
		}
	}
}

func TestResolvConfOnNetwork(t *testing.T) {
	for _, c := range []struct {
		summary, host string
		r             Resolver
		ndots         bool
		want          string
	}{
		{
			summary: "The host's servers are asked from the host", host: "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n",
			want: "nameserver 127.0.0.11\nsearch lan\noptions edns0 trust-ad ndots:0\n\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n" +
				"# ExtServers: [host(127.0.0.53)]\n# Overrides: []\n# Option ndots from: internal\n",
		},
		{
			summary: "What was asked for", host: "nameserver 10.0.0.1\n", r: Resolver{Servers: addrs("1.1.1.1", "2606::1"), Search: []string{"a.example"}},
			want: "nameserver 127.0.0.11\nsearch a.example\noptions ndots:0\n\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n" +
				"# ExtServers: [1.1.1.1 2606::1]\n# Overrides: [nameservers search]\n# Option ndots from: internal\n",
		},
		{
			summary: "ndots of the host stays", host: "nameserver 10.0.0.1\noptions ndots:2\n", ndots: true,
			want: "nameserver 127.0.0.11\noptions ndots:2\n\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n" +
				"# ExtServers: [host(10.0.0.1)]\n# Overrides: []\n# Option ndots from: host\n",
		},
		{
			summary: "ndots that was asked for stays", host: "nameserver 127.0.0.53\noptions ndots:5\n", r: Resolver{Options: []string{"ndots:2"}}, ndots: true,
			want: "nameserver 127.0.0.11\noptions ndots:2\n\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n" +
				"# ExtServers: [host(127.0.0.53)]\n# Overrides: [options]\n# Option ndots from: override\n",
		},
		{
			summary: "ndots that is no number is replaced", host: "nameserver 10.0.0.1\noptions ndots:-1 ndots: rotate\n", ndots: true,
			want: "nameserver 127.0.0.11\noptions rotate ndots:0\n\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n" +
				"# ExtServers: [host(10.0.0.1)]\n# Overrides: []\n# Option ndots from: internal\n",
		},
		{
			summary: "No servers at all are not replaced",
			want: "nameserver 127.0.0.11\noptions ndots:0\n\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n" +
				"# NO EXTERNAL NAMESERVERS DEFINED\n# Overrides: []\n# Option ndots from: internal\n",
		},
	} {
		c.r.Host, c.r.HostPath = []byte(c.host), ResolvConfPath
		got, ndots, err := ResolvConfOnNetwork(c.r, netip.MustParseAddr("127.0.0.11"))
		if err != nil || got != header+c.want || ndots != c.ndots {
			t.Errorf("%s: %v, ndots %v\n%s\nwant\n%s", c.summary, err, ndots, got, header+c.want)
		}
	}
}

func TestOnlyStub(t *testing.T) {
	for text, want := range map[string]bool{
		"nameserver 127.0.0.53\n": true, "nameserver 127.0.0.53\nnameserver 10.0.0.1\n": false, "nameserver 127.0.0.1\n": false, "": false,
	} {
		if got := OnlyStub([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestReadIsBounded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if data, err := Read(path, 10); data != nil || err != nil {
		t.Errorf("no file: %q, %v", data, err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if data, err := Read(filepath.Join(dir, "link"), 10); string(data) != "x" || err != nil {
		t.Errorf("a link: %q, %v", data, err)
	}
	if err := os.Truncate(path, 11); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path, 10); err == nil {
		t.Error("a file beyond the limit is read")
	}
	if _, err := Read(dir, 10); err == nil {
		t.Error("a directory is read")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("nameserver 1.1.1.1\nsearch a b\noptions ndots:1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		// What was written is read back as it was meant.
		r := Resolver{Host: text, HostPath: ResolvConfPath, Servers: addrs("2.3.4.5")}
		got, _, err := ResolvConfOnNetwork(r, netip.MustParseAddr("127.0.0.11"))
		if err != nil {
			t.Fatal(err)
		}
		if s := Parse([]byte(got)).Servers; len(s) != 1 || s[0].String() != "127.0.0.11" {
			t.Errorf("%q becomes %q", text, got)
		}
	})
}
