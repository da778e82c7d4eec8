package nft

import (
	"bytes"
	"encoding/binary"

	"berth/internal/network/netlink"

	"golang.org/x/sys/unix"
)

// Other is a chain of any table of the host, as it is.
type Other struct {
	Family uint8 // NFPROTO_INET, NFPROTO_IPV4, ...
	Table  string
	Name   string
	// Filters says that it is a base chain of type filter at Hook.
	Filters bool
	Hook    Hook
	Drops   bool // its policy is to drop
}

// FamilyName is the family as nft writes it.
func (o Other) FamilyName() string {
	switch o.Family {
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	case unix.NFPROTO_INET:
		return "inet"
	}
	return "another family"
}

// Others lists all chains of all tables.
func (c Conn) Others() ([]Other, error) {
	list := request("list the chains of nftables", unix.NFT_MSG_GETCHAIN, 0, func(*netlink.Buffer) {})
	list.Payload[0] = unix.AF_UNSPEC
	messages, err := c.Dump(list)
	if err != nil {
		return nil, err
	}
	var all []Other
	for _, m := range messages {
		attributes, err := attributesOf(m)
		if err != nil {
			return nil, err
		}
		o := Other{Family: m.Payload[0]}
		kind := ""
		for _, a := range attributes {
			switch a.Kind {
			case unix.NFTA_CHAIN_TABLE:
				o.Table = text(a.Value)
			case unix.NFTA_CHAIN_NAME:
				o.Name = text(a.Value)
			case unix.NFTA_CHAIN_TYPE:
				kind = text(a.Value)
			case unix.NFTA_CHAIN_POLICY:
				o.Drops = number(a.Value) == nfDrop
			case unix.NFTA_CHAIN_HOOK:
				hook, err := netlink.ParseAttributes(a.Value)
				if err != nil {
					return nil, err
				}
				for _, h := range hook {
					if h.Kind == unix.NFTA_HOOK_HOOKNUM {
						o.Filters, o.Hook = true, Hook(number(h.Value))
					}
				}
			}
		}
		o.Filters = o.Filters && kind == "filter"
		all = append(all, o)
	}
	return all, nil
}

// OtherRule is a rule of any table of the host, as far as it can be told without understanding it.
type OtherRule struct {
	Chain string
	// Drops says that it drops or rejects whatever comes to it.
	Drops bool
	raw   []byte
}

// Mentions reports whether the rule compares something with the name of an interface.
func (r OtherRule) Mentions(link string) bool { return bytes.Contains(r.raw, append([]byte(link), 0)) }

// OtherRules lists the rules of a chain's table.
func (c Conn) OtherRules(o Other) ([]OtherRule, error) {
	list := request("list the rules of the nftables table "+o.Table, unix.NFT_MSG_GETRULE, 0, func(m *netlink.Buffer) {
		m.String(unix.NFTA_RULE_TABLE, o.Table)
	})
	list.Payload[0] = o.Family
	messages, err := c.Dump(list)
	if err != nil {
		return nil, err
	}
	var all []OtherRule
	for _, m := range messages {
		attributes, err := attributesOf(m)
		if err != nil {
			return nil, err
		}
		table, r := "", OtherRule{}
		for _, a := range attributes {
			switch a.Kind {
			case unix.NFTA_RULE_TABLE:
				table = text(a.Value)
			case unix.NFTA_RULE_CHAIN:
				r.Chain = text(a.Value)
			case unix.NFTA_RULE_EXPRESSIONS:
				r.raw = a.Value
			}
		}
		if table != o.Table { // an old kernel lists those of all tables
			continue
		}
		if r.Drops, err = dropsAll(r.raw); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// dropsAll reports whether a rule is nothing but a verdict to drop or reject, with at most counting and logging before.
func dropsAll(expressions []byte) (bool, error) {
	list, err := netlink.ParseAttributes(expressions)
	if err != nil {
		return false, err
	}
	for _, item := range list {
		expression, err := netlink.ParseAttributes(item.Value)
		if err != nil {
			return false, err
		}
		name, data := "", []byte(nil)
		for _, a := range expression {
			switch a.Kind {
			case unix.NFTA_EXPR_NAME:
				name = text(a.Value)
			case unix.NFTA_EXPR_DATA:
				data = a.Value
			}
		}
		switch name {
		case "counter", "log":
		case "reject":
			return true, nil
		case "immediate":
			return isDrop(data)
		default:
			return false, nil
		}
	}
	return false, nil
}

// isDrop reports whether the data of an expression "immediate" is the verdict to drop.
func isDrop(data []byte) (bool, error) {
	for _, kind := range []uint16{unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CODE} {
		attributes, err := netlink.ParseAttributes(data)
		if err != nil {
			return false, err
		}
		data = nil
		for _, a := range attributes {
			if a.Kind == kind {
				data = a.Value
			}
		}
		if data == nil {
			return false, nil
		}
	}
	return number(data) == nfDrop, nil
}

func text(b []byte) string { return string(bytes.TrimRight(b, "\x00")) }

// number is a number in network order; all ones if it is none of 32 bits.
func number(b []byte) uint32 {
	if len(b) != 4 {
		return ^uint32(0)
	}
	return binary.BigEndian.Uint32(b)
}
