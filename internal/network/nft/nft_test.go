package nft

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"berth/internal/network/netlink"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files anew")

// inNamespace runs the test's body on a thread in a network namespace that ends with it.
func inNamespace(t testing.TB, body func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it needs root to make a network namespace")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with the thread
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		defer close(done) // also after t.FailNow
		body()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func addr(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

// everything is a table with each kind of set and each expression of the package.
func everything() Table {
	accept, drop := Accept(), Drop()
	return Table{
		Name:    "sample",
		Comment: "sample 1",
		Sets: []Set{
			{Name: "bridges", Key: []Type{IfName}, Elements: []Element{{Key: Name("br0")}, {Key: Name("a23456789012345")}}},
			{Name: "pairs", Key: []Type{IfName, IfName}, Elements: []Element{{Key: Key(Name("br0"), Name("br0"))}}},
			{Name: "subnets", Key: []Type{IfName, IPv4Addr}, Interval: true, Elements: []Element{
				{Key: Key(Name("br0"), addr("10.1.0.0")), End: Key(Name("br0"), addr("10.1.255.255"))},
			}},
			{Name: "ports4", Key: []Type{InetProto, IPv4Addr, InetService}, Data: []Type{IPv4Addr, InetService}, Elements: []Element{
				{Key: Key(Number(6), addr("192.0.2.1"), Port(80)), Data: Key(addr("10.1.0.2"), Port(8080))},
			}},
			{Name: "ports6", Key: []Type{InetProto, InetService}, Data: []Type{IPv6Addr, InetService}, Elements: []Element{
				{Key: Key(Number(17), Port(53)), Data: Key(addr("fd00::2"), Port(5353))},
			}},
			{Name: "fate", Key: []Type{IfName}, Data: []Type{Verdicts}, Elements: []Element{
				{Key: Name("br0"), Verdict: &drop}, {Key: Name("br1"), Verdict: &accept},
			}},
		},
		Chains: []Chain{
			{Name: "early", Base: &Base{"filter", Prerouting, PriorityRaw}, Rules: []Rule{
				{Exprs: All(Differs(InIface(), Name("lo")), IsIPv4(), Equal(IPTargetStart(), Number(127)), Drop().Always()), Comment: "not from outside"},
			}},
			{Name: "prerouting", Base: &Base{"nat", Prerouting, PriorityDstNAT}, Rules: []Rule{
				{Exprs: All(IsIPv4(), DNATByMap("ports4", false, L4Proto(), IPTarget(), TargetPort()))},
				{Exprs: All(IsIPv6(), ToThisHost(), DNATByMap("ports6", true, L4Proto(), TargetPort()))},
				{Exprs: All(Equal(L4Proto(), Number(17)), Equal(TargetPort(), Port(53)), Count(), Redirect(5353))},
			}},
			{Name: "forward", Base: &Base{"filter", Forward, PriorityFilter}, Rules: []Rule{
				{Exprs: All(StateIn(Established|Related), Accept().Always())},
				{Exprs: All(In("pairs", InIface(), OutIface()), Accept().Always())},
				{Exprs: All(In("bridges", OutIface()), StatusIn(StatusDNAT), Accept().Always())},
				{Exprs: All(Equal(Mark(), native(1)), Jump("more").Always())},
				{Exprs: ByMap("fate", OutIface())},
			}},
			{Name: "more", Rules: []Rule{{Exprs: All(IsIPv6(), Equal(IP6Source(), addr("fd00::1")), Drop().Always())}}},
			{Name: "postrouting", Base: &Base{"nat", Postrouting, PrioritySrcNAT}, Rules: []Rule{
				{Exprs: All(IsIPv4(), In("subnets", OutIface(), IPSource()), Masquerade())},
				{Exprs: All(In("bridges", InIface()), NotIn("bridges", OutIface()), Masquerade())},
			}},
		},
	}
}

func listTable(t *testing.T, name string) string {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed")
	}
	out, err := exec.Command("nft", "list", "table", "inet", name).CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	return string(out)
}

func connect(t testing.TB) Conn {
	t.Helper()
	c, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestNftShowsTheTable(t *testing.T) {
	inNamespace(t, func() {
		c := connect(t)
		if err := c.Commit(everything().Make()); err != nil {
			t.Fatal(err)
		}
		got := listTable(t, "sample")
		const golden = "testdata/everything.golden"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, _ := os.ReadFile(golden)
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("differs from %s (-want +got):\n%s", golden, diff)
		}
	})
}

func TestATableIsReplacedInOneTransaction(t *testing.T) {
	inNamespace(t, func() {
		c := connect(t)
		table := everything()
		for range 2 {
			if err := c.Commit(table.Delete(), table.Make()); err != nil {
				t.Fatal(err)
			}
		}
		intact(t, c, table, true)
		// The last request fails: all is as before.
		other := table
		other.Comment = "sample 2"
		err := c.Commit(other.Delete(), other.Make(), table.DeleteElements("bridges", []Element{{Key: Name("absent")}}))
		var e *netlink.Error
		if !errors.As(err, &e) || e.Errno != unix.ENOENT || e.Purpose != "delete elements of the set bridges of the nftables table sample" {
			t.Errorf("an element that is not there: %v", err)
		}
		intact(t, c, table, true)
		if err := c.Commit(table.Delete()); err != nil {
			t.Fatal(err)
		}
		intact(t, c, table, false)
	})
}

func intact(t *testing.T, c Conn, table Table, want bool) {
	t.Helper()
	if got, err := c.Intact(table); err != nil || got != want {
		t.Errorf("intact: %v, %v", got, err)
	}
}

func TestAFlushedOrForeignTableIsNotIntact(t *testing.T) {
	for _, how := range []string{"flush ruleset", "flush table inet sample", "flush chain inet sample forward"} {
		inNamespace(t, func() {
			c := connect(t)
			table := everything()
			if err := c.Commit(table.Make()); err != nil {
				t.Error(err)
				return
			}
			if err := exec.Command("nft", how).Run(); err != nil {
				t.Skip("nft is not installed")
			}
			intact(t, c, table, false)
		})
	}
}

func TestManyElements(t *testing.T) {
	inNamespace(t, func() {
		c := connect(t)
		table := everything()
		var all []Element
		for port := range 5000 {
			all = append(all, Element{Key: Key(Number(6), addr("192.0.2.1"), Port(uint16(1000+port))), Data: Key(addr("10.1.0.2"), Port(80))})
		}
		if err := c.Commit(table.Make(), table.AddElements("ports4", all)); err != nil {
			t.Fatal(err)
		}
		if err := c.Commit(table.AddElements("ports4", all[:10])); err != nil {
			t.Errorf("elements that are there already: %v", err)
		}
		other := all[0]
		other.Data = Key(addr("10.1.0.3"), Port(80))
		if err := c.Commit(table.AddElements("ports4", []Element{other})); !errors.Is(err, unix.EEXIST) {
			t.Errorf("an element with other data: %v", err)
		}
		got, err := c.Elements(table, "ports4")
		if err != nil || len(got) != 5001 {
			t.Errorf("%d elements, %v", len(got), err)
		}
		absent := Element{Key: Key(Number(6), addr("192.0.2.9"), Port(1))}
		present, err := c.Present(table, "ports4", []Element{other, absent})
		if err != nil || len(present) != 1 || !slices.Equal(present[0].Data, all[0].Data) || !slices.Equal(present[0].Key, other.Key) {
			t.Errorf("present: %v, %v", present, err)
		}
		if err := c.Commit(table.DeleteElements("ports4", all)); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Elements(table, "ports4"); err != nil || len(got) != 1 {
			t.Errorf("%d elements are left, %v", len(got), err)
		}
		ranges, err := c.Elements(table, "subnets")
		if err != nil || fmt.Sprint(ranges) != fmt.Sprint(table.Sets[2].Elements) {
			t.Errorf("ranges: %v, %v", ranges, err)
		}
	})
}

func TestThingsThatDoNotFitAreErrorsOfTheirRequest(t *testing.T) {
	inNamespace(t, func() {
		c := connect(t)
		table := everything()
		table.Chains[2].Rules = append(table.Chains[2].Rules, Rule{Exprs: In("absent", InIface()), Comment: "why"})
		err := c.Commit(table.Make())
		if err == nil || !strings.Contains(err.Error(), "cannot add a rule (why) to the chain forward") || !errors.Is(err, unix.ENOENT) {
			t.Errorf("%v", err)
		}
		if _, err := c.Elements(table, "bridges"); !errors.Is(err, unix.ENOENT) {
			t.Errorf("a set that is not there: %v", err)
		}
	})
}

func FuzzParse(f *testing.F) {
	table := everything()
	for _, s := range table.Sets {
		f.Add(table.AddElements(s.Name, s.Elements)[0].Payload)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		elements, _ := parseElements(netlink.Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM, Payload: b})
		if len(elements) > len(b) {
			t.Fatal(len(elements))
		}
		_, _, _ = parseFlow(netlink.Message{Payload: b})
	})
}

func BenchmarkAddAndDeleteAnElement(b *testing.B) {
	inNamespace(b, func() {
		c := connect(b)
		table := everything()
		if err := c.Commit(table.Make()); err != nil {
			b.Error(err)
			return
		}
		one := []Element{{Key: Key(Number(6), addr("192.0.2.1"), Port(81)), Data: Key(addr("10.1.0.2"), Port(80))}}
		for b.Loop() {
			if err := errors.Join(c.Commit(table.AddElements("ports4", one)), c.Commit(table.DeleteElements("ports4", one))); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
