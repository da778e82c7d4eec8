package network

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/internal/errdef"
	"berth/internal/network/netlink"
	"berth/internal/network/nft"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files anew")

func sample() ([]Network, []Endpoint) {
	networks := []Network{
		{Name: "bridge", ID: strings.Repeat("a", 64), Driver: DriverBridge, Options: map[string]string{OptionBridgeName: "berth0"}, Subnets: []Subnet{{Prefix: prefix("172.17.0.0/16")}}},
		{Name: "host", Driver: DriverHost},
		{Name: "six", ID: strings.Repeat("b", 64), Driver: DriverBridge, Subnets: []Subnet{{Prefix: prefix("172.18.0.0/16")}, {Prefix: prefix("fd00:1::/64")}}, Options: map[string]string{OptionICC: "false", OptionMasquerade: "false"}},
		{Name: "inside", ID: strings.Repeat("c", 64), Driver: DriverBridge, Internal: true, Subnets: []Subnet{{Prefix: prefix("10.9.8.0/25")}}},
	}
	endpoints := []Endpoint{
		{Network: "six", Addresses: []netip.Prefix{prefix("172.18.0.2/16"), prefix("fd00:1::2/64")}, Ports: []Published{
			{TCP, address("0.0.0.0"), 8080, 80}, {TCP, address("::"), 8080, 80}, {UDP, address("192.0.2.1"), 53, 5353}, {TCP, address("2001:db8::1"), 443, 8443},
		}},
		{Network: "inside", Internal: true, Addresses: []netip.Prefix{prefix("10.9.8.2/25")}, Ports: []Published{{TCP, address("0.0.0.0"), 8081, 80}}},
	}
	return networks, endpoints
}

func TestRuleset(t *testing.T) {
	inWorld(t, func(w *world) {
		filterFrames(t, "0")
		table, err := table(w.s.TableName(), first(sample()), second(sample()), "")
		w.must(err)
		k, err := w.s.connect()
		w.must(err)
		defer k.close()
		w.must(k.nft.Commit(table.Make()))
		if ok, err := w.s.Intact(); err != nil || !ok {
			t.Errorf("intact: %v, %v", ok, err)
		}
		if _, err := exec.LookPath("nft"); err != nil {
			t.Skip("nft is not installed")
		}
		got := strings.ReplaceAll(w.nftText(), w.s.TableName(), "berth")
		const golden = "testdata/ruleset.golden"
		if *update {
			w.must(os.MkdirAll("testdata", 0o755))
			w.must(os.WriteFile(golden, []byte(got), 0o644))
		}
		want, _ := os.ReadFile(golden)
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("differs from %s (-want +got):\n%s", golden, diff)
		}
	})
}

func first[A, B any](a A, _ B) A  { return a }
func second[A, B any](_ A, b B) B { return b }

// A table that an earlier berth has made must not pass for one of this.
func TestTheVersionOfTheRulesIsRaisedWithThem(t *testing.T) {
	hash := sha256.New()
	for _, loopback6 := range []bool{true, false} {
		empty := nft.Table{Name: "berth", Comment: rulesVersion, Sets: sets(), Chains: chains(loopback6)}
		for _, r := range empty.Make() {
			hash.Write(r.Payload)
		}
	}
	const of = "c43854c9e4b8fadb"
	if got := hex.EncodeToString(hash.Sum(nil))[:16]; got != of {
		t.Errorf("the rules have changed: raise rulesVersion (now %q), and write %q here", rulesVersion, got)
	}
}

// br_netfilter may be loaded at any time.
func TestTheRulesFollowTheFilterOfFrames(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, value := range []string{"0", "1", "0"} {
			filterFrames(t, value)
			w.start(NameBridge, "c"+value)
			if ok, err := w.s.Intact(); err != nil || !ok {
				t.Errorf("intact: %v, %v", ok, err)
			}
		}
		filterFrames(t, "1")
		if ok, err := w.s.Intact(); err != nil || ok {
			t.Errorf("intact with rules for ::1, where frames are filtered: %v, %v", ok, err)
		}
	})
}

func TestAThousandPortsNeedNoMoreRules(t *testing.T) {
	inWorld(t, func(w *world) {
		rules := func() int { return strings.Count(w.nftText(), "comment") }
		w.start(NameBridge, "first")
		before := rules()
		ports := make([]Published, 1000)
		for i := range ports {
			ports[i] = Published{TCP, address("0.0.0.0"), uint16(10000 + i), uint16(10000 + i)}
		}
		ports[999].ContainerPort = 80
		ns := w.namespace()
		_, _, err := w.s.Attach(NameBridge, Request{Container: "c1", Name: "many", Interface: "eth0", Ports: ports, DefaultRoute: true}, ns)
		w.must(err)
		w.serve(ns, "many")
		if got := w.ask(w.other, "tcp", hostIP, 10999, patience); got != "many "+otherIP {
			t.Errorf("%q", got)
		}
		if after := rules(); after != before {
			t.Errorf("%d rules, and %d with a thousand ports", before, after)
		}
		w.must(w.s.Release(NameBridge, "c1", Ended))
		w.elements(mapAny4, 0)
	})
}

func (w *world) elements(set string, want int) {
	w.t.Helper()
	k, err := w.s.connect()
	w.must(err)
	defer k.close()
	got, err := k.nft.Elements(nftTable(w), set)
	if want == 0 && errors.Is(err, unix.ENOENT) { // there is no table
		err = nil
	}
	if err != nil || len(got) != want {
		w.t.Errorf("the set %s has %d elements and should have %d: %v", set, len(got), want, err)
	}
}

// nothingHeld checks that no container holds anything.
func (w *world) nothingHeld(network string) {
	w.t.Helper()
	for _, dir := range []string{"leases", "endpoints"} {
		if entries, _ := os.ReadDir(filepath.Join(w.s.runDir(network), dir)); len(entries) != 0 {
			w.t.Errorf("%s: %v", dir, entries)
		}
	}
	c, err := netlink.Open(routeProtocol)
	w.must(err)
	defer c.Close()
	links, err := c.Links()
	w.must(err)
	for _, l := range links {
		if l.Kind == "veth" && l.Name != "wire0" {
			w.t.Errorf("the interface %s is left", l.Name)
		}
	}
	w.elements(mapAny4, 0)
}

// Attach is taken apart here as a process that is killed takes it apart.
func TestReleaseAfterEachStepOfAttach(t *testing.T) {
	inWorld(t, func(w *world) {
		first := w.start(NameBridge, "first")
		w.must(w.s.Release(NameBridge, first.Container, Disconnected))
		n := mustLoad(w, NameBridge)
		k, err := w.s.connect()
		w.must(err)
		defer k.close()
		for steps := range 6 {
			for _, why := range []Leaving{Disconnected, Ended} {
				ns := w.namespace()
				way, _, err := w.s.ensure(k, &n)
				w.must(err)
				inside, err := enter(ns, false)
				w.must(err)
				r := Request{Container: "c1", Name: "c", Interface: "eth0", Ports: []Published{{TCP, address("0.0.0.0"), 8080, 80}}, DefaultRoute: true}
				e, err := w.s.plan(n, r, inside)
				w.must(err)
				for _, step := range []func() error{
					func() error { return w.s.record(e) },
					func() error { return w.s.takeLeases(e) },
					func() error { return way.link(k.host, e, ns) },
					func() error { return configure(inside, e) },
					func() error { return w.s.publish(k, n, e, e.Ports) },
				}[:steps] {
					w.must(step())
				}
				w.must(inside.Close())
				for range 2 {
					w.must(w.s.Release(NameBridge, "c1", why))
				}
				if why == Ended {
					w.must(k.host.Do(netlink.DeleteLink(e.HostLink).Tolerate(19))) // as the end of the namespace does
				}
				w.nothingHeld(NameBridge)
			}
		}
	})
}

func TestReleaseLeavesWhatOthersHaveTakenSince(t *testing.T) {
	inWorld(t, func(w *world) {
		old := w.start(NameBridge, "old", both("", 8080)...)
		record := w.s.endpointFile(NameBridge, old.Container)
		data, err := os.ReadFile(record)
		w.must(err)
		w.must(w.s.Release(NameBridge, old.Container, Disconnected))
		// Its record comes back, as if it had not been released; its address and its ports are another's.
		ns := w.namespace()
		e, _, err := w.s.Attach(NameBridge, Request{Container: "c2", Name: "new", Interface: "eth0", Ports: old.Ports, Addresses: []netip.Addr{address("172.17.0.9")}, DefaultRoute: true}, ns)
		w.must(err)
		w.serve(ns, "new")
		w.must(os.WriteFile(record, data, 0o600))
		w.must(os.Symlink("c2", w.s.leaseFile(NameBridge, old.Addresses[0].Addr())))
		w.must(w.s.Release(NameBridge, old.Container, Ended))
		w.answers(w.other, hostIP, 8080, "new "+otherIP)
		if _, err := os.Readlink(w.s.leaseFile(NameBridge, old.Addresses[0].Addr())); err != nil {
			t.Error(err)
		}
		// And who takes a port whose last holder never gave it back gets it.
		e.Addresses[0] = prefix("172.17.0.10/16")
		k, err := w.s.connect()
		w.must(err)
		defer k.close()
		w.must(w.s.publish(k, mustLoad(w, NameBridge), e, e.Ports))
		if !strings.Contains(w.nftText(), "172.17.0.10 . 80") && w.nftText() != "" {
			t.Error(w.nftText())
		}
	})
}

// A container that shares the network namespace, or a TCP connection that waits for its last acknowledgement, keeps it and the
// interface in it.
func TestAnInterfaceDoesNotOutliveItsContainer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(Network{Name: "red"})
		red, bridge := w.start("red", "red"), w.start(NameBridge, "plain")
		for _, c := range []container{red, bridge} {
			w.must(w.s.Release(c.Network, c.Container, Ended))
		}
		for _, want := range []struct {
			act  func() error
			left []string
		}{
			{func() error { return w.s.RemoveLinks([]Endpoint{bridge.Endpoint, {}}) }, []string{red.HostLink}},
			{func() error { return w.s.RemoveLinks([]Endpoint{bridge.Endpoint}) }, []string{red.HostLink}},
			{func() error { return w.s.Remove("red") }, nil},
		} {
			w.must(want.act())
			var left []string
			for _, l := range w.links() {
				if ownLink(l) {
					left = append(left, l.Name)
				}
			}
			if !slices.Equal(left, want.left) {
				t.Errorf("interfaces %q are left, and should be %q", left, want.left)
			}
		}
	})
}

func TestSweep(t *testing.T) {
	inWorld(t, func(w *world) {
		dead := w.start(NameBridge, "dead", both("", 8080)...)
		live := w.start(NameBridge, "live", both("", 8081)...)
		w.must(os.Symlink("c9", w.s.leaseFile(NameBridge, address("172.17.9.9"))))
		w.must(os.Remove(w.s.endpointFile(NameBridge, dead.Container)))
		swept, err := w.s.Sweep(func(id string) (string, bool) { return "renamed", id == live.Container })
		w.must(err)
		var what []string
		for _, s := range swept {
			what = append(what, s.What)
		}
		slices.Sort(what)
		want := []string{"interface " + dead.HostLink, "lease of 172.17.0.2", "lease of 172.17.9.9"}
		if !slices.Equal(what, want) {
			t.Errorf("%q, and should be %q", what, want)
		}
		w.silent(w.other, hostIP, 8080)
		w.answers(w.other, hostIP, 8081, "live "+otherIP)
		if e, err := w.s.Endpoint(NameBridge, live.Container); err != nil || e.Name != "renamed" {
			t.Errorf("a container that was renamed meanwhile is called %q: %v", e.Name, err)
		}
		swept, err = w.s.Sweep(func(string) (string, bool) { return "", false })
		if err != nil || len(swept) != 1 || swept[0].Container != live.Container {
			t.Errorf("%v, %v", swept, err)
		}
		w.nothingHeld(NameBridge)
	})
}

// Attack 31: what is published stays so, and what is not stays closed.
func TestAFlushedTableIsMadeAgain(t *testing.T) {
	for _, how := range []string{"flush ruleset", "flush table inet TABLE"} {
		t.Run(how, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.start(NameBridge, "first")
				watch, err := w.s.Watch()
				w.must(err)
				defer watch.Close()
				web := w.start(NameBridge, "web", both("", 8080)...)
				gone := w.start(NameBridge, "gone", both("", 8081)...)
				w.must(w.s.Release(NameBridge, gone.Container, Ended))
				w.must(watch.SetReadDeadline(time.Now().Add(silence)))
				if n, err := watch.Read(make([]byte, 8192)); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("elements wake: %d, %v", n, err)
				}
				if err := exec.Command("nft", strings.ReplaceAll(how, "TABLE", w.s.TableName())).Run(); err != nil {
					t.Skip("nft is not installed")
				}
				w.must(watch.SetReadDeadline(time.Now().Add(patience)))
				if _, err := watch.Read(make([]byte, 8192)); err != nil {
					t.Errorf("nobody is woken by %s: %v", how, err)
				}
				if ok, err := w.s.Intact(); ok || err != nil {
					t.Errorf("intact after %s: %v", how, err)
				}
				w.silent(w.other, hostIP, 8080)
				if how == "flush ruleset" {
					w.start(NameBridge, "next") // notices it
				} else if repaired, err := w.s.Heal(); err != nil || !repaired {
					t.Errorf("repaired: %v, %v", repaired, err)
				}
				if repaired, err := w.s.Heal(); err != nil || repaired {
					t.Errorf("repaired again: %v, %v", repaired, err)
				}
				w.answers(w.other, hostIP, 8080, "web "+otherIP)
				w.silent(w.other, web.ip(), 80)
				w.must(w.s.Release(NameBridge, web.Container, Ended))
				w.must(w.s.Repair())
				w.elements(mapAny4, 0)
			})
		})
	}
}

// firewalld may reload between a look at the table and the elements that go into it.
func TestATableThatIsFlushedWhileAPortIsPublished(t *testing.T) {
	inWorld(t, func(w *world) {
		other := w.start(NameBridge, "other", both("", 8081)...)
		web := w.start(NameBridge, "web")
		k, err := w.s.connect()
		w.must(err)
		defer k.close()
		flush := func() { w.must(k.nft.Commit(nftTable(w).Delete())) }
		web.Ports = []Published{{TCP, address("0.0.0.0"), 8080, 80}, {UDP, address("0.0.0.0"), 8080, 80}}
		w.must(w.s.record(web.Endpoint))
		flush()
		w.must(w.s.publish(k, mustLoad(w, NameBridge), web.Endpoint, web.Ports))
		w.answers(w.other, hostIP, 8080, "web "+otherIP)
		w.answers(w.other, hostIP, 8081, "other "+otherIP)
		// Ports that change meanwhile: the old ones do not come back.
		flush()
		w.must(w.s.SetPorts(NameBridge, other.Container, []Published{{TCP, address("0.0.0.0"), 8082, 80}}))
		w.elements(mapAny4, 3)
		w.silent(w.other, hostIP, 8081)
	})
}

func TestTheSubnetOfTheBridgeIsKnownBeforeItIsMade(t *testing.T) {
	inWorld(t, func(w *world) {
		before := len(w.links())
		n, err := w.s.Settle(mustLoad(w, NameBridge))
		w.must(err)
		if len(n.Subnets) != 1 || n.Subnets[0].Prefix != prefix("172.17.0.0/16") || n.Subnets[0].Gateway != address("172.17.0.1") {
			t.Errorf("subnets %v", n.Subnets)
		}
		if after := len(w.links()); after != before || !strings.Contains(w.nftText(), "No such file") && w.nftText() != "" {
			t.Errorf("%d interfaces, and %d before; %s", after, before, w.nftText())
		}
		// The host uses it meanwhile.
		c, err := netlink.Open(routeProtocol)
		w.must(err)
		defer c.Close()
		l, err := c.LinkByName("wire0")
		w.must(err)
		w.must(c.Do(netlink.AddAddress(l.Index, prefix("172.17.3.1/24"))))
		if e := w.start(NameBridge, "web"); e.ip() != "172.18.0.2" {
			t.Errorf("address %s", e.ip())
		}
		again, err := w.s.Settle(mustLoad(w, NameBridge))
		w.must(err)
		if again.Subnets[0].Prefix != prefix("172.18.0.0/16") {
			t.Errorf("subnets %v", again.Subnets)
		}
	})
}

// Two changes may have the same time, and a question may come between them.
func TestNamesOfAMoment(t *testing.T) {
	s := Store{Data: t.TempDir(), Run: t.TempDir()}
	dir := filepath.Dir(s.endpointFile("shop", "x"))
	zone := s.Zone("shop")
	moment := time.Now()
	for i, name := range []string{"first", "second", "third"} {
		c := fmt.Sprintf("c%d", i)
		if err := s.record(Endpoint{Network: "shop", Container: c, Name: name, Addresses: []netip.Prefix{prefix("10.0.0.1/24")}}); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, moment, moment); err != nil {
			t.Fatal(err)
		}
		if _, ok := zone.Addrs([]byte(name), nil); !ok {
			t.Errorf("%s is not known at once", name)
		}
	}
}

func TestPortsOfARunningContainerChange(t *testing.T) {
	inWorld(t, func(w *world) {
		web := w.start(NameBridge, "web", both("", 8080)...)
		w.must(w.s.SetPorts(NameBridge, web.Container, []Published{{TCP, address("0.0.0.0"), 8081, 80}, web.Ports[1]}))
		if got := w.ask(w.other, "tcp", hostIP, 8081, patience); got != "web "+otherIP {
			t.Errorf("the new port: %q", got)
		}
		if got := w.ask(w.other, "udp", hostIP, 8080, patience); got != "web "+otherIP {
			t.Errorf("the one that stays: %q", got)
		}
		if got := w.ask(w.other, "tcp", hostIP, 8080, silence); got != "nothing" {
			t.Errorf("the old port: %q", got)
		}
		w.elements(mapAny4, 2)
	})
}

func TestSettingsOfTheHostAreSaid(t *testing.T) {
	inWorld(t, func(w *world) {
		attach := func(network string) string {
			_, changes, err := w.s.Attach(network, Request{Container: "c1", Name: "c", Interface: "eth0"}, w.namespace())
			w.must(err)
			w.must(w.s.Release(network, "c1", Disconnected))
			return fmt.Sprint(changes)
		}
		w.create(Network{Name: "inside", Internal: true})
		w.create(Network{Name: "six", EnableIPv6: true})
		w.must(writeSetting("/proc/sys/net/ipv4/ip_forward", "0"))
		w.must(writeSetting("/proc/sys/net/ipv6/conf/wire0/accept_ra", "1"))
		for _, c := range []struct{ network, want string }{
			{"inside", "[]"},
			{NameBridge, "[net.ipv4.ip_forward was 0 and is 1 now: " + forwards + "]"},
			{NameBridge, "[]"},
		} {
			if got := attach(c.network); got != c.want {
				t.Errorf("%s: %s", c.network, got)
			}
		}
		got := attach("six")
		if !strings.Contains(got, "net.ipv6.conf.wire0.accept_ra was 1 and is 2 now: ") || !strings.Contains(got, "net.ipv6.conf.all.forwarding was 0 and is 1 now: ") {
			t.Errorf("six: %s", got)
		}
		// Who has changed one back is told again; what it was at first is what is written down.
		w.must(w.s.Remove("six"))
		w.create(Network{Name: "six", EnableIPv6: true})
		w.must(writeSetting("/proc/sys/net/ipv6/conf/wire0/accept_ra", "0"))
		w.must(writeSetting("/proc/sys/net/ipv4/ip_forward", "0"))
		if got := attach("six"); got != "[net.ipv4.ip_forward was 0 and is 1 now: "+forwards+"]" {
			t.Errorf("six again: %s", got)
		}
		written, err := w.s.Changes()
		if err != nil || len(written) < 3 || !slices.ContainsFunc(written, func(c Change) bool { return c.Name == "net.ipv6.conf.wire0.accept_ra" && c.Old == "1" }) {
			t.Errorf("%v, %v", written, err)
		}
	})
}

func TestABridgeHasOnly1023Ports(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes a thousand interfaces")
	}
	inWorld(t, func(w *world) {
		w.start(NameBridge, "first")
		c, err := netlink.Open(routeProtocol)
		w.must(err)
		defer c.Close()
		bridge, err := c.LinkByName(mustLoad(w, NameBridge).BridgeName())
		w.must(err)
		for i := range 1022 {
			w.must(c.Do(netlink.CreateVeth(netlink.Veth{Name: fmt.Sprintf("x%d", i), Master: bridge.Index, PeerName: fmt.Sprintf("y%d", i)})))
		}
		_, _, err = w.s.Attach(NameBridge, Request{Container: "c1", Name: "c", Interface: "eth0"}, w.namespace())
		if !errdef.Is(err, errdef.NoSpace) || !strings.Contains(err.Error(), "at most 1023 ports") {
			t.Errorf("%v", err)
		}
		if _, err := w.s.Endpoint(NameBridge, "c1"); !errdef.Is(err, errdef.NotFound) {
			t.Errorf("it is not given back: %v", err)
		}
	})
}

func TestAddresses(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(Network{Name: "small", Subnets: []Subnet{{Prefix: prefix("10.9.0.0/29"), Gateway: address("10.9.0.6")}}})
		attach := func(id string, asked ...netip.Addr) (Endpoint, error) {
			e, _, err := w.s.Attach("small", Request{Container: id, Name: id, Interface: "eth0", Addresses: asked}, w.namespace())
			return e, err
		}
		e, err := attach("c1", address("10.9.0.3"))
		w.must(err)
		if e.Addresses[0] != prefix("10.9.0.3/29") || e.MAC.String() != "02:42:0a:09:00:03" {
			t.Errorf("%+v", e)
		}
		if _, err := attach("c2", address("10.9.0.3")); !errdef.Is(err, errdef.Conflict) {
			t.Errorf("an address that is held: %v", err)
		}
		for _, a := range []string{"10.9.0.0", "10.9.0.6", "10.9.0.7", "10.8.0.1"} {
			if _, err := attach("c2", address(a)); !errdef.Is(err, errdef.Invalid) {
				t.Errorf("%s: %v", a, err)
			}
		}
		var got []string
		for i := range 4 {
			e, err := attach(fmt.Sprintf("d%d", i))
			w.must(err)
			got = append(got, e.Addresses[0].Addr().String())
		}
		if want := []string{"10.9.0.1", "10.9.0.2", "10.9.0.4", "10.9.0.5"}; !slices.Equal(got, want) {
			t.Errorf("%v", got)
		}
		if _, err := attach("c2"); err == nil || !strings.Contains(err.Error(), "no available addresses") {
			t.Errorf("a full subnet: %v", err)
		}
		// A container that starts again without having been released.
		e, err = attach("d0")
		w.must(err)
		if e.Addresses[0].Addr() != address("10.9.0.1") {
			t.Errorf("%v", e.Addresses)
		}
		if err := w.s.Remove("small"); err == nil || !strings.Contains(err.Error(), "has active endpoints") {
			t.Errorf("a network in use: %v", err)
		}
		for _, id := range []string{"c1", "d0", "d1", "d2", "d3"} {
			w.must(w.s.ReleaseAll(id, Disconnected))
		}
		w.must(w.s.Remove("small"))
		if _, err := w.s.Load("small"); !errdef.Is(err, errdef.NotFound) {
			t.Errorf("%v", err)
		}
		if err := errors.Join(w.s.Remove("bridge")); !errdef.Is(err, errdef.Denied) {
			t.Errorf("%v", err)
		}
	})
}

func TestABridgeOfSomebodyElseStays(t *testing.T) {
	inWorld(t, func(w *world) {
		c, err := netlink.Open(routeProtocol)
		w.must(err)
		defer c.Close()
		w.must(c.Do(netlink.CreateBridge("lan0", netlink.MAC{}, 0), netlink.SetUp("lan0")))
		for _, name := range []string{"lan0", "mine0"} {
			w.create(Network{Name: name, Options: map[string]string{OptionBridgeName: name}})
		}
		attach := func(network string) error {
			_, _, err := w.s.Attach(network, Request{Container: "c1", Name: "c", Interface: "eth0"}, w.namespace())
			return err
		}
		if err := attach("lan0"); !errdef.Is(err, errdef.Conflict) || !strings.Contains(err.Error(), "lan0") {
			t.Errorf("%v", err)
		}
		for range 2 {
			w.must(attach("mine0"))
		}
		w.must(w.s.Release("mine0", "c1", Disconnected))
		w.must(errors.Join(w.s.Remove("lan0"), w.s.Remove("mine0")))
		if _, err := c.LinkByName("lan0"); err != nil {
			t.Error(err)
		}
		if _, err := c.LinkByName("mine0"); !errdef.Is(err, errdef.NotFound) {
			t.Errorf("mine0 is left: %v", err)
		}
	})
}
