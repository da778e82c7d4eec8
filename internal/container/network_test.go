package container

import (
	"net/netip"
	"testing"

	"berth/internal/errdef"
)

func TestWhatAContainerInAnothersNetworkCannotHave(t *testing.T) {
	for _, c := range []struct {
		summary string
		change  func(*Config)
		want    string
	}{
		{"No container", func(c *Config) { c.Network = "container:" }, "invalid container format container:<name|id>"},
		{"A host name", func(c *Config) { c.Hostname = "x" }, "conflicting options: hostname and the network mode"},
		{"A domain name", func(c *Config) { c.Domainname = "x" }, "conflicting options: domainname and the network mode"},
		{"A server for names", func(c *Config) { c.DNS = []string{"10.0.0.1"} }, "conflicting options: dns and the network mode"},
		{"A domain to search", func(c *Config) { c.DNSSearch = []string{"x"} }, "conflicting options: dns and the network mode"},
		{"An option of the resolver", func(c *Config) { c.DNSOptions = []string{"ndots:1"} }, "conflicting options: dns and the network mode"},
		{"A line of /etc/hosts", func(c *Config) { c.Hosts = []Host{{"a", "10.0.0.1"}} }, "conflicting options: custom host-to-IP mapping and the network mode"},
		{"A published port", func(c *Config) {
			c.Ports = []Port{{Protocol: "tcp", ContainerPort: 80, HostIP: netip.IPv4Unspecified()}}
		}, "conflicting options: port publishing and the container type network mode"},
		{"All ports published", func(c *Config) { c.PublishAll = true }, "conflicting options: port publishing and the container type network mode"},
		{"An exposed port", func(c *Config) { c.Exposed = []string{"80/tcp"} }, "conflicting options: port exposing and the container type network mode"},
		{"A setting of the network", func(c *Config) { c.Sysctls = map[string]string{"net.core.somaxconn": "1"} }, "conflicting options: sysctl net.core.somaxconn and the network mode"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			config := Config{Network: ShareNetwork("other"), Sysctls: map[string]string{"kernel.sem": "1"}}
			if err := config.CheckNetwork(); err != nil {
				t.Fatalf("without it: %v", err)
			}
			c.change(&config)
			err := config.CheckNetwork()
			if !errdef.Is(err, errdef.Invalid) {
				t.Errorf("kind of %v", err)
			}
			refusal(t, err, c.want)
			config.Network = NetworkBridge
			if err := config.CheckNetwork(); err != nil {
				t.Errorf("on a network: %v", err)
			}
		})
	}
}

func TestWhoseNetworkAContainerShares(t *testing.T) {
	for mode, want := range map[string]string{"container:web": "web", "container:": "", "containers": "-", "host": "-", "": "-"} {
		got, shares := Config{Network: mode}.SharesNetwork()
		if !shares {
			got = "-"
		}
		if got != want {
			t.Errorf("%q shares the network of %q, not %q", mode, got, want)
		}
	}
}
