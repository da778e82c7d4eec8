package network

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"berth/internal/errdef"
)

func TestCheck(t *testing.T) {
	subnet := func(p, gateway, within string) Network {
		s := Subnet{Prefix: prefix(p)}
		if gateway != "" {
			s.Gateway = address(gateway)
		}
		if within != "" {
			s.Range = prefix(within)
		}
		return Network{Subnets: []Subnet{s}}
	}
	option := func(name, value string) Network { return Network{Options: map[string]string{name: value}} }
	for _, c := range []struct {
		summary string
		n       Network
		want    string // part of the error; empty is none
	}{
		{"Nothing but a name", Network{}, ""},
		{"A name with a slash", Network{Name: "../up"}, "invalid network name"},
		{"A name that begins with a dot", Network{Name: ".lock"}, "invalid network name"},
		{"A second host network", Network{Driver: DriverHost}, `only one instance of "host" network is allowed`},
		{"ipvlan", Network{Driver: "ipvlan"}, "the network driver ipvlan is not supported"},
		{"A driver nobody knows", Network{Driver: "magic"}, "could not find plugin magic in v1 plugin registry: plugin not found"},
		{"Macvlan without a parent", Network{Driver: DriverMacvlan}, "needs the interface that it is on"},
		{"A subnet", subnet("10.1.0.0/16", "10.1.0.1", "10.1.2.0/24"), ""},
		{"A subnet with bits behind its length", subnet("10.1.0.1/16", "", ""), "invalid subnet 10.1.0.1/16"},
		{"A subnet without room", subnet("10.1.0.0/31", "", ""), "no room"},
		{"All addresses", subnet("0.0.0.0/0", "", ""), "no room"},
		{"Loopback", subnet("127.1.0.0/16", "", ""), "cannot have such addresses"},
		{"A gateway elsewhere", subnet("10.1.0.0/16", "10.2.0.1", ""), "no matching subnet for gateway 10.2.0.1"},
		{"A range elsewhere", subnet("10.1.0.0/16", "", "10.2.0.0/24"), "no matching subnet for range"},
		{"A range that is larger", subnet("10.1.0.0/16", "", "10.0.0.0/8"), "no matching subnet for range"},
		{"IPv6 without being enabled", subnet("fd00::/64", "", ""), "is not enabled for IPv6"},
		{"Two subnets of a family", Network{Subnets: []Subnet{{Prefix: prefix("10.1.0.0/16")}, {Prefix: prefix("10.2.0.0/16")}}}, "at most one subnet of each family"},
		{"A bridge's name", option(OptionBridgeName, "br0"), ""},
		{"A bridge's name that is too long", option(OptionBridgeName, "a234567890123456"), "1 to 15 bytes"},
		{"A bridge's name with a slash", option(OptionBridgeName, "a/b"), "cannot be in the name"},
		{"A bridge's name of the terminal", option(OptionBridgeName, "a\x1bb"), "cannot be in the name"},
		{"An MTU", option(OptionMTU, "1400"), ""},
		{"An MTU that is too small", option(OptionMTU, "67"), "68 to 65535"},
		{"A truth that is none", option(OptionICC, "perhaps"), `invalid value "perhaps"`},
		{"A binding of IPv6", option(OptionHostBinding, "::1"), "no IPv4 address"},
		{"A mode", option(OptionMacvlanMode, "vlan"), "the modes are"},
		{"An option that berth does not know", option("com.example", "x"), ""},
	} {
		t.Run(c.summary, func(t *testing.T) {
			if c.n.Name == "" {
				c.n.Name = "x"
			}
			if c.n.Driver == "" {
				c.n.Driver = DriverBridge
			}
			err := Check(c.n)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || errdef.KindOf(err) == errdef.Unknown) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestChoosePrefix(t *testing.T) {
	all := append([]pool{bridgePool}, pools...)
	for _, c := range []struct {
		summary string
		from    []pool
		taken   string
		want    string
	}{
		{"The first", all, "", "172.17.0.0/16"},
		{"A user's first", pools, "", "172.18.0.0/16"},
		{"One that docker has", all, "172.17.0.0/16", "172.18.0.0/16"},
		{"A default route overlaps nothing", all, "0.0.0.0/0 ::/0", "172.17.0.0/16"},
		{"A small route inside", all, "172.17.3.0/24 172.18.0.1/32", "172.19.0.0/16"},
		{"All of 172.16.0.0/12", all, "172.16.0.0/12", "192.168.0.0/20"},
		{"And the house's network", all, "172.16.0.0/12 192.168.1.0/24", "192.168.16.0/20"},
		{"Nothing is left", all, "172.16.0.0/12 192.168.0.0/16", ""},
	} {
		t.Run(c.summary, func(t *testing.T) {
			var taken []netip.Prefix
			for _, p := range strings.Fields(c.taken) {
				taken = append(taken, prefix(p))
			}
			got, err := choosePrefix(c.from, taken)
			if c.want == "" {
				if !errdef.Is(err, errdef.Conflict) {
					t.Errorf("%v, %v", got, err)
				}
				return
			}
			if err != nil || got != prefix(c.want) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

func TestNamesOfSettings(t *testing.T) {
	for path, want := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward": "net.ipv4.ip_forward", "/proc/sys/net/ipv6/conf/eth0.7/accept_ra": "net.ipv6.conf.eth0/7.accept_ra",
	} {
		if got := sysctlName(path); got != want {
			t.Errorf("%s is %s, not %s", path, got, want)
		}
	}
}

func TestInstancesHaveNamesOfTheirOwn(t *testing.T) {
	usual, other, third := Store{Run: "/run/berth"}, Store{Run: "/run/user/1000/berth"}, Store{Run: "/tmp/b"}
	if got := usual.TableName() + " " + usual.builtIn(NameBridge).BridgeName(); got != "berth berth0" {
		t.Error(got)
	}
	a, b := other.builtIn(NameBridge).BridgeName(), third.builtIn(NameBridge).BridgeName()
	if a == b || len(a) != 15 || other.TableName() == third.TableName() || (Store{Run: "/run/berth/"}).TableName() != "berth" {
		t.Error(a, b, other.TableName())
	}
}

func TestCreate(t *testing.T) {
	inWorld(t, func(w *world) {
		red := w.create(Network{Name: "red", Labels: map[string]string{"a": "b"}})
		if !reflect.DeepEqual(red.Subnets[0], Subnet{Prefix: prefix("172.18.0.0/16"), Gateway: address("172.18.0.1")}) || len(red.ID) != 64 || len(red.BridgeName()) != 15 {
			t.Errorf("%+v", red)
		}
		six := w.create(Network{Name: "six", EnableIPv6: true})
		if len(six.Subnets) != 2 || six.Subnets[1].Prefix.Bits() != 64 || six.Subnets[1].Prefix.Addr().As16()[0] != 0xfd {
			t.Errorf("%+v", six)
		}
		for want, n := range map[string]Network{
			"network with name red already exists":                    {Name: "red"},
			"operation is not permitted on predefined bridge network": {Name: "bridge"},
			"Pool overlaps with other one on this address space":      {Name: "x", Subnets: []Subnet{{Prefix: prefix("172.18.7.0/24")}}},
			"overlaps 192.0.2.0/24, which this host uses":             {Name: "x", Subnets: []Subnet{{Prefix: prefix("192.0.2.0/25")}}},
			"belongs to the network red":                              {Name: "x", Options: map[string]string{OptionBridgeName: red.BridgeName()}},
		} {
			if _, err := w.s.Create(n); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", want, err)
			}
		}
		got, err := w.s.Load(red.ID[:5])
		w.must(err)
		a, _ := json.Marshal(got)
		red.Created = red.Created.Round(0)
		b, _ := json.Marshal(red)
		if string(a) != string(b) {
			t.Errorf("%s\n%s", a, b)
		}
		all, err := w.s.List()
		w.must(err)
		var names []string
		for _, n := range all {
			names = append(names, n.Name)
		}
		if strings.Join(names, " ") != "bridge host none red six" {
			t.Error(names)
		}
		w.must(w.s.Remove("red"))
		if _, err := w.s.Load("../x"); !errdef.Is(err, errdef.NotFound) {
			t.Error(err)
		}
	})
}
