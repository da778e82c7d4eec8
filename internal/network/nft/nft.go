// Package nft describes one table of nftables as a plain value and carries it out in one transaction of netfilter's netlink
// protocol.
//
// It knows no networks and calls no program. It is not a general library: tables of family inet, sets and maps whose keys may be
// concatenated, intervals only in concatenated keys, and the expressions that container networks need. The order of the
// messages and the use of registers are those of nft(8), so that `nft list table` shows a table as if nft had made it; a test
// compares. The numbers are those of linux/netfilter/nf_tables.h.
//
// Words: a key is the bytes by which an element is found, each part of a concatenation padded to four bytes; a verdict is what
// becomes of a packet.
package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"berth/internal/network/netlink"

	"golang.org/x/sys/unix"
)

// familyInet is NFPROTO_INET: one table for IPv4 and IPv6.
const familyInet = 1

// Table is a table of family inet.
type Table struct {
	Name string
	// Comment is shown by `nft list table`; Conn.Intact compares it.
	Comment string
	Sets    []Set
	Chains  []Chain
}

// Type is a type of data by nft's number for it (nft describe), with its size.
type Type struct {
	id    uint32
	bytes int
}

// The types, by nft's names.
var (
	IPv4Addr    = Type{7, 4}
	IPv6Addr    = Type{8, 16}
	InetProto   = Type{12, 1}
	InetService = Type{13, 2}
	IfName      = Type{41, 16}
	Verdicts    = Type{unix.NFT_DATA_VERDICT, 16}
)

// Set is a set, or a map if it has Data.
type Set struct {
	Name string
	Key  []Type
	Data []Type
	// Interval says that parts of keys may be ranges (Linux 5.6); the key must be a concatenation.
	Interval bool
	Elements []Element
}

// Element is an element of a set or map.
type Element struct {
	Key     []byte
	End     []byte   // the last key of a range; nil is none
	Data    []byte   // of a map
	Verdict *Verdict // of a map to verdicts
}

// Chain is a chain. Without a Base only other chains lead to it.
type Chain struct {
	Name  string
	Base  *Base
	Rules []Rule
}

// Base ties a chain to a hook of the kernel. Its policy is to accept.
type Base struct {
	Kind     string // "filter" or "nat"
	Hook     Hook
	Priority int32
}

// Hook is where in its way a packet meets a chain: enum nf_inet_hooks.
type Hook uint32

// The hooks.
const (
	Prerouting Hook = iota
	Input
	Forward
	Output
	Postrouting
)

// Priorities of linux/netfilter_ipv4.h, by nft's names.
const (
	PriorityRaw    = -300
	PriorityDstNAT = -100
	PriorityFilter = 0
	PrioritySrcNAT = 100
)

// Rule is a rule: expressions that are met one after another until one does not match.
type Rule struct {
	Exprs   []Expr
	Comment string // at most 128 bytes
}

// Key puts a key, or data, together from its parts.
func Key(parts ...[]byte) []byte {
	if len(parts) == 1 {
		return parts[0]
	}
	var key []byte
	for _, p := range parts {
		key = append(key, p...)
		for len(key)%4 != 0 {
			key = append(key, 0)
		}
	}
	return key
}

// Name is a part of a key: the name of an interface.
func Name(s string) []byte {
	var b [16]byte
	copy(b[:15], s)
	return b[:]
}

// Port is a part of a key: a port.
func Port(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

// Number is a part of a key: a number of one byte, as a protocol's.
func Number(n uint8) []byte { return []byte{n} }

// size is how many bytes a key or data of these types has.
func size(types []Type) uint32 {
	if len(types) == 1 {
		return uint32(types[0].bytes)
	}
	total := 0
	for _, t := range types {
		total += padded(t.bytes)
	}
	return uint32(total)
}

func padded(n int) int { return (n + 3) &^ 3 }

// typeID is nft's number for a type or a concatenation: six bits for each.
func typeID(types []Type) uint32 {
	var id uint32
	for _, t := range types {
		id = id<<6 | t.id
	}
	return id
}

// request begins a message of the nf_tables subsystem.
func request(purpose string, message uint16, flags uint16, fill func(m *netlink.Buffer)) netlink.Request {
	m := netlink.NewBuffer(familyInet, unix.NFNETLINK_V0, 0, 0) // struct nfgenmsg
	fill(m)
	return netlink.Request{Purpose: purpose, Type: unix.NFNL_SUBSYS_NFTABLES<<8 | message, Flags: flags, Payload: m.Payload()}
}

// Attributes and flags that golang.org/x/sys/unix does not have.
const (
	tableUserdata    = 6    // NFTA_TABLE_USERDATA, Linux 5.10
	setConcat        = 0x80 // NFT_SET_CONCAT, Linux 5.6
	descConcat       = 2    // NFTA_SET_DESC_CONCAT
	fieldLength      = 1    // NFTA_SET_FIELD_LEN
	elementKeyEnd    = 10   // NFTA_SET_ELEM_KEY_END
	userdataComment  = 0    // NFTNL_UDATA_TABLE_COMMENT and NFTNL_UDATA_RULE_COMMENT
	maxCommentBytes  = 128
	elementsAMessage = 400 // the length of a list has 16 bits
)

// nativeNames tells nft that the names of interfaces are not to be reversed: NFTNL_UDATA_SET_KEYBYTEORDER, four bytes,
// BYTEORDER_HOST_ENDIAN.
var nativeNames = append([]byte{0, 4}, native(1)...)

// userdata is a comment as nft keeps it: type, length, text with its NUL.
func userdata(comment string) []byte {
	comment = comment[:min(len(comment), maxCommentBytes)]
	return append(append([]byte{userdataComment, uint8(len(comment) + 1)}, comment...), 0)
}

// Make returns the messages that make the table with all that is in it.
func (t Table) Make() []netlink.Request {
	all := []netlink.Request{request("create the nftables table "+t.Name, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, func(m *netlink.Buffer) {
		m.String(unix.NFTA_TABLE_NAME, t.Name)
		m.NetUint32(unix.NFTA_TABLE_FLAGS, 0)
		m.Bytes(tableUserdata, userdata(t.Comment))
	})}
	for _, c := range t.Chains {
		all = append(all, t.makeChain(c))
	}
	for i, s := range t.Sets {
		all = append(all, t.makeSet(s, uint32(i+1)))
		all = append(all, t.AddElements(s.Name, s.Elements)...)
	}
	for _, c := range t.Chains {
		for _, r := range c.Rules {
			all = append(all, t.makeRule(c.Name, r))
		}
	}
	return all
}

// Delete returns the messages that remove the table, if it is there.
func (t Table) Delete() []netlink.Request {
	// A table that is not there cannot be deleted (before Linux 6.3): it is made first.
	return []netlink.Request{
		request("create the nftables table "+t.Name, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, func(m *netlink.Buffer) {
			m.String(unix.NFTA_TABLE_NAME, t.Name)
			m.NetUint32(unix.NFTA_TABLE_FLAGS, 0)
		}),
		request("delete the nftables table "+t.Name, unix.NFT_MSG_DELTABLE, 0, func(m *netlink.Buffer) {
			m.String(unix.NFTA_TABLE_NAME, t.Name)
		}),
	}
}

func (t Table) makeChain(c Chain) netlink.Request {
	return request(fmt.Sprintf("create the chain %s of the nftables table %s", c.Name, t.Name), unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, func(m *netlink.Buffer) {
		m.String(unix.NFTA_CHAIN_TABLE, t.Name)
		m.String(unix.NFTA_CHAIN_NAME, c.Name)
		if c.Base == nil {
			return
		}
		m.Nest(unix.NFTA_CHAIN_HOOK, func() {
			m.NetUint32(unix.NFTA_HOOK_HOOKNUM, uint32(c.Base.Hook))
			m.NetUint32(unix.NFTA_HOOK_PRIORITY, uint32(c.Base.Priority))
		})
		m.NetUint32(unix.NFTA_CHAIN_POLICY, nfAccept)
		m.String(unix.NFTA_CHAIN_TYPE, c.Base.Kind)
	})
}

func (t Table) makeSet(s Set, id uint32) netlink.Request {
	return request(fmt.Sprintf("create the set %s of the nftables table %s", s.Name, t.Name), unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, func(m *netlink.Buffer) {
		var flags uint32
		if s.Interval {
			flags |= unix.NFT_SET_INTERVAL
		}
		if len(s.Key) > 1 {
			flags |= setConcat
		}
		if s.Data != nil {
			flags |= unix.NFT_SET_MAP
		}
		m.String(unix.NFTA_SET_TABLE, t.Name)
		m.String(unix.NFTA_SET_NAME, s.Name)
		m.NetUint32(unix.NFTA_SET_FLAGS, flags)
		m.NetUint32(unix.NFTA_SET_KEY_TYPE, typeID(s.Key))
		m.NetUint32(unix.NFTA_SET_KEY_LEN, size(s.Key))
		if s.Data != nil {
			m.NetUint32(unix.NFTA_SET_DATA_TYPE, typeID(s.Data))
			m.NetUint32(unix.NFTA_SET_DATA_LEN, size(s.Data))
		}
		m.NetUint32(unix.NFTA_SET_ID, id)
		if len(s.Key) > 1 {
			m.Nest(unix.NFTA_SET_DESC, func() { describeParts(m, s.Key) })
		} else if s.Key[0] == IfName {
			m.Bytes(unix.NFTA_SET_USERDATA, nativeNames)
		}
	})
}

// describeParts says how long the parts of a key are.
func describeParts(m *netlink.Buffer, key []Type) {
	m.Nest(descConcat, func() {
		for _, part := range key {
			m.Nest(unix.NFTA_LIST_ELEM, func() { m.NetUint32(fieldLength, uint32(part.bytes)) })
		}
	})
}

func (t Table) makeRule(chain string, r Rule) netlink.Request {
	purpose := fmt.Sprintf("add a rule (%s) to the chain %s of the nftables table %s", r.Comment, chain, t.Name)
	return request(purpose, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, func(m *netlink.Buffer) {
		m.String(unix.NFTA_RULE_TABLE, t.Name)
		m.String(unix.NFTA_RULE_CHAIN, chain)
		m.Nest(unix.NFTA_RULE_EXPRESSIONS, func() {
			for _, e := range r.Exprs {
				m.Nest(unix.NFTA_LIST_ELEM, func() {
					m.String(unix.NFTA_EXPR_NAME, e.name)
					m.Bytes(unix.NFTA_EXPR_DATA|unix.NLA_F_NESTED, e.attributes)
				})
			}
		})
		if r.Comment != "" {
			m.Bytes(unix.NFTA_RULE_USERDATA, userdata(r.Comment))
		}
	})
}

// AddElements returns the messages that add elements. One that is there already with the same data is no error; with other
// data it is EEXIST.
func (t Table) AddElements(set string, elements []Element) []netlink.Request {
	return t.elements("add elements to", unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, set, elements)
}

// DeleteElements returns the messages that remove elements. One that is not there is ENOENT, and nothing is removed:
// Conn.Present tells which are there.
func (t Table) DeleteElements(set string, elements []Element) []netlink.Request {
	return t.elements("delete elements of", unix.NFT_MSG_DELSETELEM, 0, set, elements)
}

func (t Table) elements(act string, message, flags uint16, set string, elements []Element) []netlink.Request {
	var all []netlink.Request
	for len(elements) > 0 {
		n := min(len(elements), elementsAMessage)
		all = append(all, t.elementRequest(act, message, flags, set, elements[:n]))
		elements = elements[n:]
	}
	return all
}

func (t Table) elementRequest(act string, message, flags uint16, set string, elements []Element) netlink.Request {
	purpose := fmt.Sprintf("%s the set %s of the nftables table %s", act, set, t.Name)
	return request(purpose, message, flags, func(m *netlink.Buffer) {
		m.String(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name)
		m.String(unix.NFTA_SET_ELEM_LIST_SET, set)
		m.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
			for _, e := range elements {
				m.Nest(unix.NFTA_LIST_ELEM, func() { e.encode(m) })
			}
		})
	})
}

func (e Element) encode(m *netlink.Buffer) {
	value := func(kind uint16, v []byte) {
		m.Nest(kind, func() { m.Bytes(unix.NFTA_DATA_VALUE, v) })
	}
	value(unix.NFTA_SET_ELEM_KEY, e.Key)
	if e.End != nil {
		value(elementKeyEnd, e.End)
	}
	switch {
	case e.Verdict != nil:
		m.Nest(unix.NFTA_SET_ELEM_DATA, func() { e.Verdict.encode(m) })
	case e.Data != nil:
		value(unix.NFTA_SET_ELEM_DATA, e.Data)
	}
}

// Equal reports whether two elements that were read or are to be written have the same key and data.
func (e Element) Equal(other Element) bool {
	return bytes.Equal(e.Key, other.Key) && bytes.Equal(e.End, other.End) && bytes.Equal(e.Data, other.Data)
}
