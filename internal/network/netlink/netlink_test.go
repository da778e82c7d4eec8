package netlink

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// namespace makes a network namespace that ends with the test.
func namespace(t testing.TB) *os.File {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it needs root to make a network namespace")
	}
	made := make(chan *os.File, 1)
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			failed <- err
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			failed <- err
			return
		}
		made <- f
	}()
	select {
	case err := <-failed:
		t.Fatal(err)
	case f := <-made:
		t.Cleanup(func() { f.Close() })
		return f
	}
	return nil
}

func open(t testing.TB, ns *os.File) *Conn {
	t.Helper()
	c, err := OpenIn(ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBridgeAndVethIntoAnotherNamespace(t *testing.T) {
	host, guest := namespace(t), namespace(t)
	c, inside := open(t, host), open(t, guest)
	mac, err := ParseMAC("02:42:0a:01:00:01")
	must(t, err)
	must(t, c.Do(CreateBridge("br0", mac, 1400)))
	bridge, err := c.LinkByName("br0")
	must(t, err)
	if bridge.Kind != "bridge" || bridge.MAC != mac || bridge.MTU != 1400 || bridge.Up {
		t.Errorf("the bridge: %+v", bridge)
	}
	peer, _ := ParseMAC("02:42:0a:01:00:02")
	must(t, c.Do(
		AddAddress(bridge.Index, netip.MustParsePrefix("10.1.0.1/16")),
		SetUp("br0"),
		CreateVeth(Veth{Name: "veth0", Master: bridge.Index, MTU: 1400, PeerName: "eth0", PeerMAC: peer, PeerNamespace: guest}),
		SetPort("veth0", true, true),
	))
	eth0, err := inside.LinkByName("eth0")
	must(t, err)
	if eth0.MAC != peer || eth0.MTU != 1400 || eth0.Up || eth0.Kind != "veth" {
		t.Errorf("the other side: %+v", eth0)
	}
	must(t, inside.Do(
		SetUp("lo"),
		SetUp("eth0"),
		AddAddress(eth0.Index, netip.MustParsePrefix("10.1.0.2/16")),
		AddAddress(eth0.Index, netip.MustParsePrefix("fd00:1::2/64")),
		AddRoute(Route{To: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.1.0.1"), Index: eth0.Index}),
		AddRoute(Route{To: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fd00:1::1"), Index: eth0.Index}),
		AddRoute(Route{To: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("192.0.2.1"), Index: eth0.Index, OnLink: true}),
	))
	routes, err := inside.Routes()
	must(t, err)
	var text []string
	for _, r := range routes {
		text = append(text, r.To.String())
	}
	for _, want := range []string{"0.0.0.0/0", "::/0", "10.1.0.0/16", "10.9.0.0/16"} {
		if !strings.Contains(strings.Join(text, " "), want) {
			t.Errorf("no route to %s among %v", want, text)
		}
	}
	addresses, err := inside.Addresses()
	must(t, err)
	found := false
	for _, a := range addresses {
		found = found || a.Index == eth0.Index && a.Prefix == netip.MustParsePrefix("10.1.0.2/16")
	}
	if !found {
		t.Errorf("addresses: %v", addresses)
	}
	links, err := c.Links()
	must(t, err)
	ports := 0
	for _, l := range links {
		if l.Master == bridge.Index {
			ports++
		}
	}
	if ports != 1 {
		t.Errorf("links: %+v", links)
	}
	must(t, c.Do(DeleteLink("veth0")))
	if _, err := inside.LinkByName("eth0"); !errors.Is(err, unix.ENODEV) || !errdef.Is(err, errdef.NotFound) {
		t.Errorf("after its pair is gone: %v", err)
	}
}

func TestMacvlanIntoAnotherNamespace(t *testing.T) {
	host, guest := namespace(t), namespace(t)
	c, inside := open(t, host), open(t, guest)
	must(t, c.Do(CreateVeth(Veth{Name: "wire0", PeerName: "wire1"})))
	parent, err := c.LinkByName("wire0")
	must(t, err)
	mac, _ := ParseMAC("02:42:0a:01:00:02")
	if err := c.Do(CreateMacvlan(Macvlan{Name: "eth0", Parent: parent.Index, Mode: "bridge", MAC: mac, Namespace: guest})); errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("the kernel has no macvlan")
	} else if err != nil {
		t.Fatal(err)
	}
	got, err := inside.LinkByName("eth0")
	must(t, err)
	if got.Kind != "macvlan" || got.MAC != mac || !got.Up {
		t.Errorf("%+v", got)
	}
}

func TestChangesOfALink(t *testing.T) {
	c := open(t, namespace(t))
	must(t, c.Do(CreateVeth(Veth{Name: "a", PeerName: "b"}), CreateBridge("br0", MAC{}, 0)))
	bridge, err := c.LinkByName("br0")
	must(t, err)
	mac, _ := ParseMAC("02-42-0A-01-00-09")
	must(t, c.Do(SetMaster("a", bridge.Index), SetMTU("a", 1300), SetDown("a"), SetMAC("a", mac)))
	l, err := c.LinkByName("a")
	must(t, err)
	if l.Master != bridge.Index || l.MTU != 1300 || l.Up || l.MAC != mac {
		t.Errorf("%+v", l)
	}
	must(t, c.Do(SetMaster("a", 0), Rename(l.Index, "c")))
	l, err = c.LinkByIndex(l.Index)
	must(t, err)
	if l.Master != 0 || l.Name != "c" {
		t.Errorf("%+v", l)
	}
}

func TestAnErrorNamesItsRequest(t *testing.T) {
	c := open(t, namespace(t))
	err := c.Do(SetUp("lo"), SetUp("absent0"), CreateBridge("lo", MAC{}, 0))
	var e *Error
	if !errors.As(err, &e) || e.Index != 1 || !errors.Is(err, unix.ENODEV) || !strings.HasPrefix(err.Error(), "cannot set absent0 up: ") {
		t.Errorf("%v", err)
	}
	if err := c.Do(SetUp("absent0").Tolerate(unix.ENODEV)); err != nil {
		t.Errorf("a tolerated errno: %v", err)
	}
	must(t, c.Do(SetUp("lo")))
	err = c.Do(AddRoute(Route{To: netip.MustParsePrefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("192.0.2.1"), Index: 1}))
	if !errors.As(err, &e) || e.Text == "" {
		t.Errorf("without the kernel's own words: %v", err)
	}
}

func TestMACs(t *testing.T) {
	for _, bad := range []string{"", "02:42:0a:01:00", "02:42:0a:01:00:0g", "0242:0a01:0000:02", "02:42:0a:01:00:02:"} {
		if m, err := ParseMAC(bad); err == nil {
			t.Errorf("%q is %v", bad, m)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(appendMessage(nil, CreateVeth(Veth{Name: "a", PeerName: "b"}), 1))
	f.Add(appendMessage(nil, AddRoute(Route{To: netip.MustParsePrefix("10.0.0.0/8"), Index: 3}), 1))
	f.Add([]byte{16, 0, 0, 0, 2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		messages, err := ParseMessages(b)
		if err != nil {
			return
		}
		total := 0
		for _, m := range messages {
			total += headerBytes + len(m.Payload)
			_, _ = acknowledgement(m)
			_, _ = parseLink(m.Payload)
			_, _ = parseAddress(m.Payload)
			_, _ = parseRoute(m.Payload)
			attributes, err := ParseAttributes(m.Payload)
			if err != nil {
				continue
			}
			values := 0
			for _, a := range attributes {
				values += attributeBytes + len(a.Value)
				_, _ = ParseAttributes(a.Value)
			}
			if values > len(m.Payload) {
				t.Fatalf("attributes of %d bytes in %d", values, len(m.Payload))
			}
		}
		if total > len(b) {
			t.Fatalf("messages of %d bytes in %d", total, len(b))
		}
	})
}
