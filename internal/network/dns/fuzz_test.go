package dns

import (
	"bytes"
	"testing"
)

func FuzzQuery(f *testing.F) {
	f.Add(question(1, "web", typeA, 0), false)
	f.Add(question(1, "many", typeANY, 1232), true)
	f.Add(question(1, "2.0.18.172.in-addr.arpa", typePTR, 512), false)
	f.Add(question(1, "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", typePTR, 512), false)
	f.Add(append(question(1, "a.b", typeA, 0), 0xc0, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), false)
	a := newAnswerer()
	c := &Config{Networks: two()}
	f.Fuzz(func(t *testing.T, msg []byte, tcp bool) {
		was := bytes.Clone(msg)
		out, v := a.handle(c, msg, tcp)
		if !bytes.Equal(was, msg) {
			t.Fatal("the query has changed")
		}
		if v == drop {
			if len(msg) >= headerLength && msg[2]&0x80 == 0 {
				t.Fatal("a query is dropped")
			}
			return
		}
		if v == forward || len(out) < headerLength || !bytes.Equal(out[:2], msg[:2]) || out[2]&0x80 == 0 {
			t.Fatalf("verdict %d, %x", v, out)
		}
		if limit := maxAnswer; !tcp && len(out) > limit {
			t.Fatalf("%d bytes", len(out))
		}
		// What we say must be something that we understand.
		var q query
		again := bytes.Clone(out)
		again[2] &^= 0x80
		if again[5] == 1 && again[2]&0x78 == 0 {
			if code, ok := q.parse(again); !ok || code != success {
				t.Fatalf("%x is answered with %x", msg, out)
			}
		}
	})
}

func FuzzAnswer(f *testing.F) {
	q := question(0x0102, "ok.example", typeA, 0)
	f.Add(q)
	f.Add(append([]byte{1, 2, 0x81, 0x80}, q[4:]...))
	f.Add([]byte{1, 2, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, msg []byte) {
		code, ours := judge(msg, q, len(q))
		if !ours && code != noAnswer || ours && !bytes.Equal(msg[:2], q[:2]) {
			t.Fatalf("%x: %d, %v", msg, code, ours)
		}
		if code == success && !bytes.EqualFold(msg[headerLength:len(q)], q[headerLength:]) {
			t.Fatalf("%x answers %x", msg, q)
		}
	})
}

func FuzzName(f *testing.F) {
	f.Add("web.front")
	f.Add("a..b")
	f.Fuzz(func(t *testing.T, name string) {
		out := appendName(nil, name)
		if out == nil {
			return
		}
		if at, ok := skipName(out, 0); !ok || at != len(out) || len(out) > maxName {
			t.Fatalf("%q becomes %x", name, out)
		}
	})
}
