package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"berth/internal/errdef"
	"berth/internal/network/netlink"

	"golang.org/x/sys/unix"
)

// withAndWithoutBridgeFilter runs a test twice: with frames on bridges going through the packet filter, as on hosts that have
// br_netfilter loaded, and without.
func withAndWithoutBridgeFilter(t *testing.T, body func(w *world)) {
	for _, value := range []string{"0", "1"} {
		t.Run("br_netfilter="+value, func(t *testing.T) {
			inWorld(t, func(w *world) {
				filterFrames(t, value)
				body(w)
			})
		})
	}
}

// filterFrames says whether the frames of bridges go through the packet filter.
func filterFrames(t *testing.T, value string) {
	t.Helper()
	for _, name := range []string{"iptables", "ip6tables"} {
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte(value), 0)
		if err != nil && value == "1" {
			t.Skip("the kernel has no br_netfilter")
		}
	}
}

func TestPublishedPorts(t *testing.T) {
	withAndWithoutBridgeFilter(t, func(w *world) {
		web := w.start(NameBridge, "web", both("", 8080)...)
		neighbour := w.start(NameBridge, "neighbour")
		if web.ip() != "172.17.0.2" || neighbour.ip() != "172.17.0.3" {
			t.Errorf("addresses %s and %s", web.ip(), neighbour.ip())
		}
		// From another host, with its address.
		w.answers(w.other, hostIP, 8080, "web "+otherIP)
		// From the host itself.
		w.answers(nil, hostIP, 8080, "web "+hostIP)
		w.answers(nil, "127.0.0.1", 8080, "web 172.17.0.1")
		w.answers(nil, "127.1.2.3", 8080, "web 172.17.0.1")
		w.answers(nil, web.ip(), 80, "web 172.17.0.1")
		// From a neighbour and from itself, through the host's addresses.
		for _, address := range []string{hostIP, "172.17.0.1"} {
			w.answers(neighbour.ns, address, 8080, "web 172.17.0.1")
			w.answers(web.ns, address, 8080, "web 172.17.0.1")
		}
		w.answers(neighbour.ns, web.ip(), 80, "web "+neighbour.ip())
		// Containers reach other hosts, with the host's address.
		w.serve(w.other, "other")
		w.answers(neighbour.ns, otherIP, 80, "other "+hostIP)
		// What is not published is not reached, whoever routes there.
		w.silent(w.other, web.ip(), 80)
		w.silent(w.other, neighbour.ip(), 80)
		w.silent(w.other, hostIP, 80)
		w.silent(w.other, hostIP, 8081)
		// And what is given back is not.
		w.must(w.s.Release(NameBridge, web.Container, Ended))
		w.silent(w.other, hostIP, 8080)
		w.silent(nil, "127.0.0.1", 8080)
	})
}

func TestAPortOnOneAddressIsReachedThereOnly(t *testing.T) {
	withAndWithoutBridgeFilter(t, func(w *world) {
		web := w.start(NameBridge, "web", both(hostIP, 8080)...)
		w.answers(w.other, hostIP, 8080, "web "+otherIP)
		w.answers(nil, hostIP, 8080, "web "+hostIP)
		w.answers(web.ns, hostIP, 8080, "web 172.17.0.1")
		w.silent(nil, "127.0.0.1", 8080)
		w.silent(nil, "172.17.0.1", 8080)
		w.silent(web.ns, "172.17.0.1", 8080)
	})
}

// CVE-2020-8558 and attack 33: neighbours send packets for 127.0.0.1 to the host's Ethernet address.
func TestPortsOn127001AreTheHostsAlone(t *testing.T) {
	withAndWithoutBridgeFilter(t, func(w *world) {
		web := w.start(NameBridge, "web", both("127.0.0.1", 8080)...)
		w.serveAt(nil, "127.0.0.1:9090", "private")
		w.answers(nil, "127.0.0.1", 8080, "web 172.17.0.1")
		w.answers(nil, "127.0.0.1", 9090, "private 127.0.0.1")
		w.silent(w.other, hostIP, 8080)
		w.silent(web.ns, "172.17.0.1", 8080)
		attacker := w.start(NameBridge, "attacker")
		for _, from := range []struct {
			ns       *os.File
			link, by string
		}{{w.other, "wire0", hostIP}, {attacker.ns, "eth0", "172.17.0.1"}} {
			w.routeLoopbackTo(from.ns, from.link, from.by)
			// Whatever else has set it: the worst case.
			w.must(os.WriteFile("/proc/sys/net/ipv4/conf/wire0/route_localnet", []byte("1"), 0))
			w.silent(from.ns, "127.0.0.1", 8080)
			w.silent(from.ns, "127.0.0.1", 9090)
		}
		if setting, _ := readSetting("/proc/sys/net/ipv4/conf/all/route_localnet"); setting != "0" {
			t.Error("route_localnet is on for all interfaces")
		}
		// Without the rules, the attack works: the test can see it.
		k, err := w.s.connect()
		w.must(err)
		defer k.close()
		w.must(k.nft.Commit(nftTable(w).Delete()))
		if got := w.ask(attacker.ns, "tcp", "127.0.0.1", 9090, patience); got == "nothing" {
			t.Error("the attack does not work without the defence: this test shows nothing")
		}
	})
}

func TestNetworksAreApart(t *testing.T) {
	withAndWithoutBridgeFilter(t, func(w *world) {
		w.create(Network{Name: "red"})
		w.create(Network{Name: "blue"})
		red := w.start("red", "red", both("", 8080)...)
		blue := w.start("blue", "blue")
		blue2 := w.start("blue", "blue2")
		w.silent(blue.ns, red.ip(), 80)
		w.silent(red.ns, blue.ip(), 80)
		w.answers(blue.ns, blue2.ip(), 80, "blue2 "+blue.ip())
		// What is published is reached through the host, as by everybody, with the client's address.
		w.answers(blue.ns, hostIP, 8080, "red "+blue.ip())
		// One container on two networks.
		_, _, err := w.s.Attach("red", Request{Container: blue.Container, Name: "blue"}, blue.ns)
		w.must(err)
		if e, err := w.s.Endpoint("red", blue.Container); err != nil || e.Interface != "eth1" {
			t.Errorf("%+v, %v", e, err)
		}
		w.answers(blue.ns, red.ip(), 80, "red 172.18.0.3")
		w.must(w.s.Release("red", blue.Container, Disconnected))
		w.silent(blue.ns, red.ip(), 80)
	})
}

func TestInternalNetworks(t *testing.T) {
	withAndWithoutBridgeFilter(t, func(w *world) {
		w.create(Network{Name: "inside", Internal: true})
		a, b := w.start("inside", "a", both("", 8080)...), w.start("inside", "b")
		out := w.start(NameBridge, "out", both("", 8081)...)
		w.serve(w.other, "other")
		w.answers(a.ns, b.ip(), 80, "b "+a.ip())
		for _, address := range []string{otherIP, out.ip()} {
			w.silent(a.ns, address, 80)
		}
		w.addDefaultRoute(a)
		for _, address := range []string{otherIP, out.ip()} {
			w.silent(a.ns, address, 80)
		}
		w.silent(a.ns, hostIP, 8081)
		w.silent(w.other, hostIP, 8080)
		w.silent(w.other, a.ip(), 80)
		w.silent(out.ns, a.ip(), 80)
	})
}

func TestWithoutInterContainerCommunication(t *testing.T) {
	withAndWithoutBridgeFilter(t, func(w *world) {
		w.create(Network{Name: "apart", Options: map[string]string{OptionICC: "false"}})
		a, b := w.start("apart", "a"), w.start("apart", "b")
		w.serve(w.other, "other")
		w.silent(a.ns, b.ip(), 80)
		w.answers(a.ns, otherIP, 80, "other "+hostIP)
		// By way of the host, as a router.
		w.routeByGateway(a, b.ip())
		w.silent(a.ns, b.ip(), 80)
	})
}

func TestIPv6(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skip("the kernel has no IPv6")
	}
	withAndWithoutBridgeFilter(t, func(w *world) {
		w.create(Network{Name: "six", EnableIPv6: true})
		web := w.start("six", "web", both("", 8080)...)
		neighbour := w.start("six", "neighbour")
		w.serve(w.other, "other")
		gateway := web.Gateways[1].String()
		w.answers(w.other, hostIP6, 8080, "web "+otherIP6)
		w.answers(nil, hostIP6, 8080, "web "+hostIP6)
		if answersToLoopback6() {
			w.answers(nil, "::1", 8080, "web "+gateway)
		}
		begin := time.Now()
		if got := w.ask(nil, "tcp", "::1", 8080, patience); got == "nothing" && time.Since(begin) > patience/2 {
			t.Errorf("::1 is not refused at once: %q after %v", got, time.Since(begin))
		}
		w.answers(neighbour.ns, hostIP6, 8080, "web "+gateway)
		w.answers(web.ns, hostIP6, 8080, "web "+gateway)
		w.answers(neighbour.ns, web.ip6(), 80, "web "+neighbour.ip6())
		w.answers(neighbour.ns, otherIP6, 80, "other "+hostIP6)
		w.answers(w.other, hostIP, 8080, "web "+otherIP)
		w.silent(w.other, web.ip6(), 80)
		// Routers' advertisements are not believed, and a container without IPv6 has none of it.
		w.in(web.ns, func() error { return checkSetting("/proc/sys/net/ipv6/conf/eth0/accept_ra", "0") })
		w.must(checkSetting("/proc/sys/net/ipv6/conf/"+mustLoad(w, "six").BridgeName()+"/accept_ra", "0"))
		four := w.start(NameBridge, "four")
		w.in(four.ns, func() error { return checkSetting("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1") })
	})
}

// Attack 33 for IPv6: what is published on ::1, and what listens there, is the host's alone.
func TestPortsOnLoopbackOfIPv6AreTheHostsAlone(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skip("the kernel has no IPv6")
	}
	withAndWithoutBridgeFilter(t, func(w *world) {
		w.create(Network{Name: "six", EnableIPv6: true})
		w.create(Network{Name: "more", EnableIPv6: true})
		if !answersToLoopback6() {
			_, _, err := w.s.Reserve(mustLoad(w, "six"), "web", both("::1", 8080))
			if !errdef.Is(err, errdef.Unsupported) || !strings.Contains(errdef.HintOf(err), "bridge-nf-call-ip6tables=0") {
				t.Errorf("where it cannot be: %v", err)
			}
			return
		}
		web := w.start("six", "web", both("::1", 8080)...)
		second := w.start("more", "second", both("::1", 8081)...)
		w.serveAt(nil, "[::1]:9090", "private")
		w.answers(nil, "::1", 8080, "web "+web.Gateways[1].String())
		w.answers(nil, "::1", 8081, "second "+second.Gateways[1].String())
		w.answers(nil, "::1", 9090, "private ::1")
		w.silent(w.other, hostIP6, 8080)
		w.silent(web.ns, web.Gateways[1].String(), 8080)
		attacker := w.start("six", "attacker")
		for _, from := range []struct {
			ns       *os.File
			link, by string
		}{{w.other, "wire0", hostIP6}, {attacker.ns, "eth0", web.Gateways[1].String()}} {
			w.in(from.ns, func() error {
				for _, line := range []string{
					"ip -6 route del local ::1 dev lo table local", "ip -6 addr del ::1/128 dev lo", "ip -6 route add ::1/128 via " + from.by + " dev " + from.link,
				} {
					_ = exec.Command("sh", "-c", line).Run() // some of it is not there
				}
				return nil
			})
			w.silent(from.ns, "::1", 8080)
			w.silent(from.ns, "::1", 9090)
		}
		// Who publishes there no more is not reached there.
		w.must(w.s.Release("six", web.Container, Ended))
		w.silent(nil, "::1", 8080)
		w.answers(nil, "::1", 8081, "second "+second.Gateways[1].String())
	})
}

func TestMacvlan(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(Network{Name: "wired", Driver: DriverMacvlan, Options: map[string]string{OptionParent: "wire0"}, Subnets: []Subnet{{
			Prefix: prefix("192.0.2.0/24"), Gateway: address("192.0.2.254"), Range: prefix("192.0.2.128/25"),
		}}})
		ns := w.namespace()
		e, _, err := w.s.Attach("wired", Request{Container: "c1", Name: "c", Interface: "eth0", DefaultRoute: true}, ns)
		w.must(err)
		w.serve(ns, "c")
		w.answers(w.other, "192.0.2.128", 80, "c "+otherIP)
		if e.HostLink != "" || e.Addresses[0] != prefix("192.0.2.128/24") {
			t.Errorf("%+v", e)
		}
		w.must(w.s.Release("wired", "c1", Disconnected))
	})
}

// A container that starts again meets the interface that it had, until the kernel has taken it down.
func TestMacvlanWaitsForItsOwnAddress(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(Network{Name: "wired", Driver: DriverMacvlan, Options: map[string]string{OptionParent: "wire0"}, Subnets: []Subnet{{
			Prefix: prefix("192.0.2.0/24"), Gateway: address("192.0.2.254"), Range: prefix("192.0.2.128/25"),
		}}})
		request := Request{Container: "c1", Name: "c", Interface: "eth0", DefaultRoute: true}
		before := w.namespace()
		_, _, err := w.s.Attach("wired", request, before)
		w.must(err)
		w.must(w.s.Release("wired", "c1", Ended))
		// Its namespace is still there.
		_, _, err = w.s.Attach("wired", request, w.namespace())
		if !errdef.Is(err, errdef.Conflict) || !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("with an interface that stays: %v", err)
		}
		w.nothingHeld("wired")
		old, err := netlink.OpenIn(before, routeProtocol)
		w.must(err)
		defer old.Close()
		time.AfterFunc(30*time.Millisecond, func() { _ = old.Do(netlink.DeleteLink("eth0")) })
		_, _, err = w.s.Attach("wired", request, w.namespace())
		w.must(err)
		w.must(w.s.Release("wired", "c1", Ended))
	})
}

// Nothing on the host leads to a macvlan interface that is in the container.
func TestMacvlanThatCannotBeConfiguredIsTakenBack(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(Network{Name: "wired", Driver: DriverMacvlan, Options: map[string]string{OptionParent: "wire0"}, Subnets: []Subnet{{
			Prefix: prefix("192.0.2.0/24"), Gateway: address("192.0.2.254"), Range: prefix("192.0.2.128/25"),
		}}})
		ns := w.namespace()
		inside, err := netlink.OpenIn(ns, routeProtocol)
		w.must(err)
		defer inside.Close()
		w.must(inside.Do(netlink.SetUp("lo")))
		lo, err := inside.LinkByName("lo")
		w.must(err)
		w.must(inside.Do(netlink.AddRoute(netlink.Route{To: defaultTo(address("0.0.0.0")), Index: lo.Index})))
		_, _, err = w.s.Attach("wired", Request{Container: "c1", Name: "c", Interface: "eth0", DefaultRoute: true}, ns)
		if !errors.Is(err, unix.EEXIST) {
			t.Fatalf("a second default route: %v", err)
		}
		w.nothingHeld("wired")
		if l, err := inside.LinkByName("eth0"); err == nil {
			t.Errorf("%s is left in the container", l.Name)
		}
	})
}

// A peer that sends all the time, from one port, reaches the container as soon as it has started, and its successor.
func TestUDPFlowsFollowTheirPort(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start(NameBridge, "first")
		var peer net.Conn
		w.in(w.other, func() (err error) {
			peer, err = net.Dial("udp", hostIP+":8080")
			return err
		})
		defer peer.Close()
		ask := func(want string) {
			t.Helper()
			b := make([]byte, 100)
			for range 30 {
				_, _ = peer.Write([]byte("hello"))
				w.must(peer.SetReadDeadline(time.Now().Add(100 * time.Millisecond)))
				if n, err := peer.Read(b); err == nil {
					if got := strings.TrimSpace(string(b[:n])); got != want {
						t.Errorf("%q answers and %q should", got, want)
					}
					return
				}
				if want == "" {
					return
				}
			}
			t.Errorf("nobody answers, and %q should", want)
		}
		ask("")
		old := w.start(NameBridge, "old", both("", 8080)...)
		ask("old " + otherIP)
		w.start(NameBridge, "between") // so that the successor gets another address
		_, _, err := w.s.Attach(NameBridge, Request{Container: "keeps", Name: "keeps", Interface: "eth0"}, w.namespace())
		w.must(err)
		ports := old.Ports
		w.must(w.s.Release(NameBridge, old.Container, Ended))
		ask("")
		ns := w.namespace()
		_, _, err = w.s.Attach(NameBridge, Request{Container: "new", Name: "new", Interface: "eth0", Ports: ports, Addresses: []netip.Addr{address("172.17.0.77")}, DefaultRoute: true}, ns)
		w.must(err)
		w.serve(ns, "new")
		ask("new " + otherIP)
	})
}
