package nft

import (
	"berth/internal/network/netlink"

	"golang.org/x/sys/unix"
)

// Expr is one expression of a rule: an instruction of the kernel's small machine, whose registers are counted in words of
// four bytes.
type Expr struct {
	name       string
	attributes []byte
}

func expr(name string, fill func(m *netlink.Buffer)) Expr {
	m := netlink.NewBuffer()
	fill(m)
	return Expr{name, m.Payload()}
}

// register is the number of the register that begins at a word: those of sixteen bytes have numbers of their own.
func register(word int) uint32 {
	if word%4 == 0 {
		return uint32(unix.NFT_REG_1 + word/4)
	}
	return uint32(unix.NFT_REG32_00 + word)
}

// Field is something of a packet that can be compared or looked up.
type Field struct {
	bytes int
	load  func(word int) Expr
}

func meta(key uint32, bytes int) Field {
	return Field{bytes, func(word int) Expr {
		return expr("meta", func(m *netlink.Buffer) {
			m.NetUint32(unix.NFTA_META_KEY, key)
			m.NetUint32(unix.NFTA_META_DREG, register(word))
		})
	}}
}

func payload(base, offset, bytes uint32) Field {
	return Field{int(bytes), func(word int) Expr {
		return expr("payload", func(m *netlink.Buffer) {
			m.NetUint32(unix.NFTA_PAYLOAD_DREG, register(word))
			m.NetUint32(unix.NFTA_PAYLOAD_BASE, base)
			m.NetUint32(unix.NFTA_PAYLOAD_OFFSET, offset)
			m.NetUint32(unix.NFTA_PAYLOAD_LEN, bytes)
		})
	}}
}

func conntrack(key uint32) Field {
	return Field{4, func(word int) Expr {
		return expr("ct", func(m *netlink.Buffer) {
			m.NetUint32(unix.NFTA_CT_KEY, key)
			m.NetUint32(unix.NFTA_CT_DREG, register(word))
		})
	}}
}

// The fields, by nft's names. IP's are to be used after IsIPv4, IP6's after IsIPv6.

// InIface is iifname: the interface by which a packet came. In postrouting it needs Linux 5.7.
func InIface() Field { return meta(unix.NFT_META_IIFNAME, 16) }

// OutIface is oifname: the interface by which a packet leaves.
func OutIface() Field { return meta(unix.NFT_META_OIFNAME, 16) }

// L4Proto is meta l4proto: the protocol above IP.
func L4Proto() Field { return meta(unix.NFT_META_L4PROTO, 1) }

// IPSource is ip saddr.
func IPSource() Field { return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4) }

// IPTarget is ip daddr.
func IPTarget() Field { return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4) }

// IP6Source is ip6 saddr.
func IP6Source() Field { return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 8, 16) }

// IP6Target is ip6 daddr.
func IP6Target() Field { return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16) }

// SourcePort is th sport.
func SourcePort() Field { return payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2) }

// TargetPort is th dport.
func TargetPort() Field { return payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2) }

// IPSourceStart and IPTargetStart are the first byte of an address: a comparison with a prefix of eight bits.
func IPSourceStart() Field { return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 1) }

// IPTargetStart is the first byte of ip daddr.
func IPTargetStart() Field { return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 1) }

// Mark is ct mark.
func Mark() Field { return conntrack(unix.NFT_CT_MARK) }

// targetType is fib daddr type.
func targetType() Field {
	return Field{4, func(word int) Expr {
		return expr("fib", func(m *netlink.Buffer) {
			m.NetUint32(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_DADDR)
			m.NetUint32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE)
			m.NetUint32(unix.NFTA_FIB_DREG, register(word))
		})
	}}
}

// All puts the expressions of several conditions and a statement in a row.
func All(parts ...[]Expr) []Expr {
	var all []Expr
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// Equal is met if the field is value.
func Equal(f Field, value []byte) []Expr { return []Expr{f.load(0), compare(unix.NFT_CMP_EQ, value)} }

// Differs is met if the field is not value.
func Differs(f Field, value []byte) []Expr {
	return []Expr{f.load(0), compare(unix.NFT_CMP_NEQ, value)}
}

func compare(op uint32, value []byte) Expr {
	return expr("cmp", func(m *netlink.Buffer) {
		m.NetUint32(unix.NFTA_CMP_SREG, register(0))
		m.NetUint32(unix.NFTA_CMP_OP, op)
		m.Nest(unix.NFTA_CMP_DATA, func() { m.Bytes(unix.NFTA_DATA_VALUE, value) })
	})
}

// IsIPv4 is meta nfproto ipv4.
func IsIPv4() []Expr { return Equal(meta(unix.NFT_META_NFPROTO, 1), []byte{unix.NFPROTO_IPV4}) }

// IsIPv6 is meta nfproto ipv6.
func IsIPv6() []Expr { return Equal(meta(unix.NFT_META_NFPROTO, 1), []byte{unix.NFPROTO_IPV6}) }

// ToThisHost is fib daddr type local: the packet is for an address of the host itself.
func ToThisHost() []Expr { return Equal(targetType(), native(unix.RTN_LOCAL)) }

// Bits of ct state (enum ip_conntrack_info, as nft numbers them) and of ct status (enum ip_conntrack_status).
const (
	Established = 1 << 1
	Related     = 1 << 2
	// StatusDNAT: the destination of the connection was changed.
	StatusDNAT = 1 << 5
)

// StateIn is met if ct state has one of the bits.
func StateIn(bits uint32) []Expr { return anyBit(conntrack(unix.NFT_CT_STATE), bits) }

// StatusIn is met if ct status has one of the bits.
func StatusIn(bits uint32) []Expr { return anyBit(conntrack(unix.NFT_CT_STATUS), bits) }

func anyBit(f Field, bits uint32) []Expr {
	mask := expr("bitwise", func(m *netlink.Buffer) {
		m.NetUint32(unix.NFTA_BITWISE_SREG, register(0))
		m.NetUint32(unix.NFTA_BITWISE_DREG, register(0))
		m.NetUint32(unix.NFTA_BITWISE_LEN, 4)
		m.Nest(unix.NFTA_BITWISE_MASK, func() { m.Bytes(unix.NFTA_DATA_VALUE, native(bits)) })
		m.Nest(unix.NFTA_BITWISE_XOR, func() { m.Bytes(unix.NFTA_DATA_VALUE, native(0)) })
	})
	return []Expr{f.load(0), mask, compare(unix.NFT_CMP_NEQ, native(0))}
}

// In is met if the fields together are a key of the set.
func In(set string, fields ...Field) []Expr { return lookup(set, false, false, fields) }

// NotIn is met if they are not.
func NotIn(set string, fields ...Field) []Expr { return lookup(set, true, false, fields) }

// ByMap does what the map says for the fields together: its data are verdicts. A key that it has not goes on with the rule.
func ByMap(verdicts string, fields ...Field) []Expr {
	return append(loadAll(fields), lookupExpr(verdicts, func(m *netlink.Buffer) {
		m.NetUint32(unix.NFTA_LOOKUP_DREG, unix.NFT_REG_VERDICT)
	}))
}

// lookup finds a key; with data, what the map holds for it replaces the key in the registers.
func lookup(set string, invert, data bool, fields []Field) []Expr {
	return append(loadAll(fields), lookupExpr(set, func(m *netlink.Buffer) {
		if data {
			m.NetUint32(unix.NFTA_LOOKUP_DREG, register(0))
		}
		if invert {
			m.NetUint32(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
		}
	}))
}

func lookupExpr(set string, more func(m *netlink.Buffer)) Expr {
	return expr("lookup", func(m *netlink.Buffer) {
		m.String(unix.NFTA_LOOKUP_SET, set)
		m.NetUint32(unix.NFTA_LOOKUP_SREG, register(0))
		more(m)
	})
}

// loadAll loads fields one behind the other.
func loadAll(fields []Field) []Expr {
	var all []Expr
	word := 0
	for _, f := range fields {
		all = append(all, f.load(word))
		word += padded(f.bytes) / 4
	}
	return all
}

// DNATByMap sends the packet to the address and port that the map holds for the fields together; a key that it has not
// goes on with the next rule.
func DNATByMap(addresses string, ipv6 bool, fields ...Field) []Expr {
	family, words := uint32(unix.NFPROTO_IPV4), 1
	if ipv6 {
		family, words = unix.NFPROTO_IPV6, 4
	}
	return append(lookup(addresses, false, true, fields), expr("nat", func(m *netlink.Buffer) {
		m.NetUint32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
		m.NetUint32(unix.NFTA_NAT_FAMILY, family)
		m.NetUint32(unix.NFTA_NAT_REG_ADDR_MIN, register(0))
		m.NetUint32(unix.NFTA_NAT_REG_PROTO_MIN, register(words))
	}))
}

// Masquerade gives the packet the host's address on the interface by which it leaves.
func Masquerade() []Expr { return []Expr{expr("masq", func(*netlink.Buffer) {})} }

// Redirect sends the packet to a port of the host itself.
func Redirect(port uint16) []Expr {
	return []Expr{
		expr("immediate", func(m *netlink.Buffer) {
			m.NetUint32(unix.NFTA_IMMEDIATE_DREG, register(0))
			m.Nest(unix.NFTA_IMMEDIATE_DATA, func() { m.Bytes(unix.NFTA_DATA_VALUE, Port(port)) })
		}),
		expr("redir", func(m *netlink.Buffer) { m.NetUint32(unix.NFTA_REDIR_REG_PROTO_MIN, register(0)) }),
	}
}

// Count counts packets and bytes.
func Count() []Expr {
	return []Expr{expr("counter", func(m *netlink.Buffer) {
		m.Bytes(unix.NFTA_COUNTER_BYTES, make([]byte, 8))
		m.Bytes(unix.NFTA_COUNTER_PACKETS, make([]byte, 8))
	})}
}

// Verdicts of linux/netfilter.h.
const (
	nfDrop   = 0
	nfAccept = 1
)

// Verdict is what becomes of a packet.
type Verdict struct {
	code  int32
	chain string
}

// Accept lets the packet pass this chain.
func Accept() Verdict { return Verdict{code: nfAccept} }

// Drop ends the packet.
func Drop() Verdict { return Verdict{code: nfDrop} }

// Jump goes through another chain and comes back.
func Jump(chain string) Verdict { return Verdict{unix.NFT_JUMP, chain} }

// Goto goes through another chain and does not come back.
func Goto(chain string) Verdict { return Verdict{unix.NFT_GOTO, chain} }

// Always is the statement of a verdict.
func (v Verdict) Always() []Expr {
	return []Expr{expr("immediate", func(m *netlink.Buffer) {
		m.NetUint32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		m.Nest(unix.NFTA_IMMEDIATE_DATA, func() { v.encode(m) })
	})}
}

func (v Verdict) encode(m *netlink.Buffer) {
	m.Nest(unix.NFTA_DATA_VERDICT, func() {
		m.NetUint32(unix.NFTA_VERDICT_CODE, uint32(v.code))
		if v.chain != "" {
			m.String(unix.NFTA_VERDICT_CHAIN, v.chain)
		}
	})
}
