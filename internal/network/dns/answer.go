package dns

import (
	"encoding/binary"
	"net/netip"
)

// ttl is what docker's resolver says of its names, in seconds.
const ttl = 600

// A Zone knows the names and addresses on one network. It is asked by several goroutines at once, for every query of a
// container, and should not wait for anything.
type Zone interface {
	// Addrs appends the addresses of a name, which is in lower case, without a dot at the end, and valid only during the
	// call. known is true for a name that exists, even without addresses.
	Addrs(name []byte, to []netip.Addr) (addrs []netip.Addr, known bool)
	// Name is the name that an address has, without the network's.
	Name(a netip.Addr) (name string, known bool)
}

// Network is a network that the container is on.
type Network struct {
	Name string
	Zone Zone
}

// answerer makes the answers that need nobody else. It reuses its memory, and so is for one goroutine.
type answerer struct {
	q     query
	out   []byte
	addrs []netip.Addr
	chance
}

// handle decides what becomes of a message. A reply is valid until the next call.
func (a *answerer) handle(c *Config, msg []byte, tcp bool) ([]byte, verdict) {
	code, ok := a.q.parse(msg)
	if !ok {
		return nil, drop
	}
	if code != success {
		a.out = a.q.fail(a.out, code)
		return a.out, reply
	}
	limit := min(a.q.size, maxAnswer)
	if tcp {
		limit = 1<<16 - 1
	}
	if a.q.class == classIN && a.q.plain && a.local(c.Networks, limit) {
		return a.out, reply
	}
	// A chosen ndots says that libc tries search domains next, and first it has to hear that there is no such name.
	if c.Ndots && a.q.labels < 2 && (a.q.qtype == typeA || a.q.qtype == typeAAAA) {
		a.out = a.q.fail(a.out, success)
		return a.out, reply
	}
	if len(c.Servers) == 0 && c.ResolvConf == "" {
		a.out = a.q.fail(a.out, serverFail)
		return a.out, reply
	}
	return nil, forward
}

// local answers for a name or an address of the container's networks.
func (a *answerer) local(networks []Network, limit int) bool {
	q := &a.q
	if q.qtype == typePTR {
		if addr, ok := reverse(q.name); ok {
			for _, n := range networks {
				if name, ok := n.Zone.Name(addr); ok {
					return a.pointer(name, n.Name)
				}
			}
			return false
		}
	}
	var known bool
	if a.addrs, known = find(networks, q.name, a.addrs[:0]); !known {
		return false
	}
	// The whole name is ours. No addresses of a family, and other types, are "no data", never "no such name": libc and
	// caches would conclude from it that the name has no addresses of the other family, either.
	a.shuffle(a.addrs)
	a.out = q.begin(a.out, success)
	if q.edns {
		limit -= optLength
	}
	count := 0
	for _, addr := range a.addrs {
		addr = addr.Unmap()
		kind, length := uint16(typeA), 4
		if addr.Is6() {
			kind, length = typeAAAA, 16
		}
		if q.qtype != kind && q.qtype != typeANY || !addr.IsValid() {
			continue
		}
		if len(a.out)+recordLength+length > limit {
			binary.BigEndian.PutUint16(a.out[2:], binary.BigEndian.Uint16(a.out[2:])|bitTruncated)
			break
		}
		a.out = appendRecord(a.out, kind, length)
		if addr.Is4() {
			b := addr.As4()
			a.out = append(a.out, b[:]...)
		} else {
			b := addr.As16()
			a.out = append(a.out, b[:]...)
		}
		count++
	}
	a.out = q.finish(a.out, count, success)
	return true
}

// pointer answers with the name of an address: docker's is "container.network".
func (a *answerer) pointer(name, network string) bool {
	if network != "" {
		name += "." + network
	}
	out := a.q.begin(a.out, success)
	at := len(out) + recordLength
	out = appendName(appendRecord(out, typePTR, 0), name)
	if out == nil {
		return false
	}
	binary.BigEndian.PutUint16(out[at-2:], uint16(len(out)-at))
	a.out = a.q.finish(out, 1, success)
	return true
}

// find looks for a name as docker does: "a.b.c" is first asked for on every network, then "a.b" on the network "c", then
// "a" on the network "b.c". The first network that knows a name wins. Networks that the container is not on are not there.
func find(networks []Network, name []byte, to []netip.Addr) ([]netip.Addr, bool) {
	if len(name) == 0 {
		return to, false
	}
	for _, n := range networks {
		if addrs, known := n.Zone.Addrs(name, to); known {
			return addrs, true
		}
	}
	for i := len(name) - 1; i > 0; i-- {
		if name[i] != '.' {
			continue
		}
		for _, n := range networks {
			if n.Name == "" || !equalFold(n.Name, name[i+1:]) {
				continue
			}
			if addrs, known := n.Zone.Addrs(name[:i], to); known {
				return addrs, true
			}
		}
	}
	return to, false
}

func equalFold(s string, low []byte) bool {
	if len(s) != len(low) {
		return false
	}
	for i := range len(s) {
		if lower(s[i]) != low[i] {
			return false
		}
	}
	return true
}

// chance spreads connections over the addresses of a name. It need not be hard to guess.
type chance uint64

// shuffle puts addrs into any order. To rotate them by a counter would not do: A and AAAA are asked for in turns.
func (c *chance) shuffle(addrs []netip.Addr) {
	for i := len(addrs) - 1; i > 0; i-- {
		x := uint64(*c)
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		*c = chance(x)
		j := int(x>>33) % (i + 1)
		addrs[i], addrs[j] = addrs[j], addrs[i]
	}
}

// Table is a Zone in memory. It must not change while it is in use.
type Table struct {
	addrs map[string][]netip.Addr
	names map[netip.Addr]string
}

// Add gives an endpoint of the network its names; the first is the one that its addresses are shown by. A name that
// several endpoints have is all of theirs.
func (t *Table) Add(names []string, addrs ...netip.Addr) {
	if t.addrs == nil {
		t.addrs, t.names = map[string][]netip.Addr{}, map[netip.Addr]string{}
	}
	for _, name := range names {
		low := make([]byte, len(name))
		for i := range len(name) {
			low[i] = lower(name[i])
		}
		t.addrs[string(low)] = append(t.addrs[string(low)], addrs...)
	}
	for _, a := range addrs {
		if _, taken := t.names[a]; !taken && len(names) > 0 {
			t.names[a] = names[0]
		}
	}
}

// Addrs implements Zone.
func (t *Table) Addrs(name []byte, to []netip.Addr) ([]netip.Addr, bool) {
	addrs, known := t.addrs[string(name)]
	return append(to, addrs...), known
}

// Name implements Zone.
func (t *Table) Name(a netip.Addr) (string, bool) {
	name, known := t.names[a]
	return name, known
}
