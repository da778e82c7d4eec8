package network

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"berth/internal/network/netlink"
)

// BenchmarkAttach is what the network adds to the start of a container. Namespaces stay until the end, since the kernel's removal of
// one holds the lock of all.
func BenchmarkAttach(b *testing.B) {
	for _, ports := range []int{0, 1} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) { attachAndRelease(b, ports, true) })
	}
}

// BenchmarkReleaseEnded is what it adds to the end.
func BenchmarkReleaseEnded(b *testing.B) { attachAndRelease(b, 1, false) }

func attachAndRelease(b *testing.B, ports int, attach bool) {
	inWorld(b, func(w *world) {
		w.start(NameBridge, "first")
		published := []Published{{TCP, address("0.0.0.0"), 8080, 80}}[:ports]
		var took []time.Duration
		for b.Loop() {
			if len(took) == 1000 {
				b.Fatal("a bridge has no more ports: use -benchtime 900x")
			}
			ns, id := w.namespace(), fmt.Sprintf("c%d", len(took))
			begin := time.Now()
			_, _, err := w.s.Attach(NameBridge, Request{Container: id, Name: "c", Interface: "eth0", Ports: published, DefaultRoute: true}, ns)
			attached := time.Now()
			w.must(err)
			w.must(w.s.Release(NameBridge, id, Ended))
			if attach {
				took = append(took, attached.Sub(begin))
			} else {
				took = append(took, time.Since(attached))
			}
		}
		report(b, took)
	})
}

// BenchmarkBareVeth is the kernel's part: a pair without bridge, addresses or records.
func BenchmarkBareVeth(b *testing.B) {
	inWorld(b, func(w *world) {
		c, err := netlink.Open(routeProtocol)
		w.must(err)
		defer c.Close()
		var took []time.Duration
		for b.Loop() {
			ns, name := w.namespace(), fmt.Sprintf("x%d", len(took))
			begin := time.Now()
			w.must(c.Do(netlink.CreateVeth(netlink.Veth{Name: name, PeerName: "eth0", PeerNamespace: ns})))
			took = append(took, time.Since(begin))
		}
		report(b, took)
	})
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[0].Microseconds()), "min-µs")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "median-µs")
}

func BenchmarkReserve(b *testing.B) {
	inWorld(b, func(w *world) {
		for b.Loop() {
			_, sockets, err := w.s.Reserve(mustLoad(w, NameBridge), "c", []PortRequest{{Protocol: TCP, ContainerPort: 80}})
			w.must(err)
			w.must(closeAll(sockets))
		}
	})
}
