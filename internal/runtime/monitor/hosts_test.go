package monitor

import (
	"net/netip"
	"testing"

	"berth/internal/container"
	"berth/internal/network/etcfiles"
)

func TestChangeHosts(t *testing.T) {
	addresses := func(all ...string) []netip.Addr {
		var out []netip.Addr
		for _, a := range all {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	own := etcfiles.Names{Hostname: "web", Domainname: "example.com"}
	for _, c := range []struct {
		summary, text string
		now           []netip.Addr
		asked         []container.Host
		want          string
	}{
		{"a new address", "127.0.0.1\tlocalhost\n10.9.0.2\tweb.example.com web\n", addresses("10.9.0.2", "10.8.0.2"), nil, "127.0.0.1\tlocalhost\n10.9.0.2\tweb.example.com web\n10.8.0.2\tweb.example.com web\n"},
		{"one that is gone", "127.0.0.1\tlocalhost\n10.9.0.2\tweb.example.com web\n", nil, nil, "127.0.0.1\tlocalhost\n"},
		{"what the container has written stays", "10.9.0.2\tweb.example.com web\n10.0.0.1 mine", addresses("fd00::2"), nil, "10.0.0.1 mine\nfd00::2\tweb.example.com web\n"},
		{"what was asked for stays", "10.1.2.3\tweb.example.com web\n", nil, []container.Host{{Name: "web.example.com web", Address: "10.1.2.3"}}, "10.1.2.3\tweb.example.com web\n"},
		{"an empty file", "", addresses("10.9.0.2"), nil, "10.9.0.2\tweb.example.com web\n"},
	} {
		if got := changeHosts(c.text, own, c.now, c.asked); got != c.want {
			t.Errorf("%s: %q, want %q", c.summary, got, c.want)
		}
	}
}
