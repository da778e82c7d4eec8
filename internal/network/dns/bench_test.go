package dns

import (
	"net"
	"net/netip"
	"testing"
)

// BenchmarkAnswer is a name of our own, from the bytes of the query to those of the answer.
func BenchmarkAnswer(b *testing.B) {
	a := newAnswerer()
	c := &Config{Networks: two()}
	for name, q := range map[string][]byte{
		"A": question(1, "web", typeA, 1232), "two": question(1, "www", typeA, 0), "none": question(1, "web", typeAAAA, 1232),
		"PTR": question(1, "2.0.18.172.in-addr.arpa", typePTR, 0),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, v := a.handle(c, q, false); v != reply {
					b.Fatal(v)
				}
			}
		})
	}
}

// BenchmarkNames is the same over loopback UDP, client included: on one core with -cpu 1, both share it.
func BenchmarkNames(b *testing.B) {
	sockets, err := Listen(nil)
	if err != nil {
		b.Fatal(err)
	}
	port, err := sockets.Port()
	if err != nil {
		b.Fatal(err)
	}
	s, err := Start(sockets, Config{Networks: two()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for name, window := range map[string]int{"one": 1, "window32": 32} {
		b.Run(name, func(b *testing.B) { load(b, netip.AddrPortFrom(Address(), port), window) })
	}
}

// load asks b.N times, with so many questions open at a time.
func load(b *testing.B, to netip.AddrPort, window int) {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	q := question(1, "web", typeA, 0)
	buf := make([]byte, 512)
	b.ReportAllocs()
	b.ResetTimer()
	open := 0
	for sent := 0; sent < b.N || open > 0; {
		for ; sent < b.N && open < window; sent++ {
			if _, err := c.Write(q); err != nil {
				b.Fatal(err)
			}
			open++
		}
		if n, err := c.Read(buf); err != nil || n != len(q)+16 {
			b.Fatal(n, err)
		}
		open--
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "names/s")
}
