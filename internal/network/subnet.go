package network

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"

	"berth/internal/errdef"
	"berth/internal/network/netlink"
)

// pool is a range that is cut into subnets.
type pool struct {
	base netip.Prefix
	bits int // of a subnet
}

// Docker's default address pools: the first is for the network "bridge", unless it is taken.
var (
	bridgePool = pool{netip.MustParsePrefix("172.17.0.0/16"), 16}
	pools      = []pool{
		{netip.MustParsePrefix("172.18.0.0/15"), 16},
		{netip.MustParsePrefix("172.20.0.0/14"), 16},
		{netip.MustParsePrefix("172.24.0.0/13"), 16},
		{netip.MustParsePrefix("192.168.0.0/16"), 20},
	}
)

// choosePrefix returns the first IPv4 subnet of the pools that overlaps nothing that is taken.
func choosePrefix(from []pool, taken []netip.Prefix) (netip.Prefix, error) {
	for _, p := range from {
		step := uint32(1) << (32 - p.bits)
		for i := range uint32(1) << (p.bits - p.base.Bits()) {
			start := p.base.Addr().As4()
			binary.BigEndian.PutUint32(start[:], binary.BigEndian.Uint32(start[:])+i*step)
			candidate := netip.PrefixFrom(netip.AddrFrom4(start), p.bits)
			if _, overlaps := overlapping(candidate, taken); !overlaps {
				return candidate, nil
			}
		}
	}
	return netip.Prefix{}, errdef.Hint(
		errdef.New(errdef.Conflict, "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"),
		"give one with --subnet, or remove networks that nobody uses with berth network prune")
}

// overlapping returns the first of others that shares an address with p. Default routes share addresses with all and are not
// looked at.
func overlapping(p netip.Prefix, others []netip.Prefix) (netip.Prefix, bool) {
	for _, o := range others {
		if o.Bits() > 0 && o.Overlaps(p) {
			return o, true
		}
	}
	return netip.Prefix{}, false
}

// uniqueLocal returns the IPv6 subnet of a network: fd, then 56 bits of the hash of its ID (RFC 4193).
func uniqueLocal(id string) netip.Prefix {
	var a [16]byte
	sum := sha256.Sum256([]byte(id))
	a[0] = 0xfd
	copy(a[1:8], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// pickAddress returns the lowest free address of a subnet. The first and, of IPv4, the last address of the prefix mean the subnet
// itself and all of it.
func pickAddress(s Subnet, taken map[netip.Addr]bool) (netip.Addr, bool) {
	within := s.Prefix
	if s.Range.IsValid() {
		within = s.Range.Masked()
	}
	for a := within.Addr(); within.Contains(a); a = a.Next() {
		if usable(s, a) && !taken[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// usable reports whether a container can have the address.
func usable(s Subnet, a netip.Addr) bool {
	last := a.Is4() && !s.Prefix.Contains(a.Next())
	return s.Prefix.Contains(a) && a != s.Prefix.Addr() && a != s.Gateway && !last
}

// macOf is docker's address of an interface: 02:42, then the IPv4 address, so that it stays with the address and neighbour
// tables stay right. Of an IPv6 address it takes the last four bytes.
func macOf(a netip.Addr) netlink.MAC {
	b := a.AsSlice()
	m := netlink.MAC{0x02, 0x42}
	copy(m[2:], b[len(b)-4:])
	return m
}
