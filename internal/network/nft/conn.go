package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"

	"berth/internal/errdef"
	"berth/internal/network/netlink"

	"golang.org/x/sys/unix"
)

// Conn is a connection to the kernel's nftables of one network namespace. It is for one goroutine at a time.
type Conn struct{ *netlink.Conn }

// Open connects to the calling thread's network namespace.
func Open() (Conn, error) {
	c, err := netlink.Open(unix.NETLINK_NETFILTER)
	return Conn{c}, err
}

// OpenIn connects to the network namespace that ns refers to.
func OpenIn(ns *os.File) (Conn, error) {
	c, err := netlink.OpenIn(ns, unix.NETLINK_NETFILTER)
	return Conn{c}, err
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// Room that a socket has without asking: half of net.core.wmem_default, which is 212992 at least.
const smallBatchBytes = 64 << 10

// Commit carries out all requests in one transaction, or none of them. The error names the first request that failed.
func (c Conn) Commit(requests ...[]netlink.Request) error {
	batch := []netlink.Request{edge(unix.NFNL_MSG_BATCH_BEGIN)}
	total := 0
	for _, some := range requests {
		for _, r := range some {
			batch = append(batch, r)
			total += len(r.Payload) + 32
		}
	}
	if len(batch) == 1 {
		return nil
	}
	batch[len(batch)-1].Flags |= unix.NLM_F_ACK
	batch[0].Purpose = batch[1].Purpose // what the kernel says of the whole it says of the first
	batch = append(batch, edge(unix.NFNL_MSG_BATCH_END))
	if total > smallBatchBytes {
		c.Grow(2 * total)
	}
	err := c.Transact(batch)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return errdef.Hint(errdef.As(errdef.Unsupported, err), "the kernel needs nf_tables with nat, masq, fib and concatenated sets (Linux 5.10)")
	}
	return err
}

// edge begins or ends a batch.
func edge(kind uint16) netlink.Request {
	header := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}
	return netlink.Request{Purpose: "change nftables", Type: kind, Payload: header}
}

// Intact reports whether the table is there, has its comment, and each chain at a hook has as many rules as it should. A table
// that somebody has flushed, or that another version of berth has made, is not intact. Elements are not looked at, nor chains to
// which others lead: the kernel counts those ways as it counts rules.
func (c Conn) Intact(t Table) (bool, error) {
	requests := []netlink.Request{t.look()}
	wanted := []netlink.Attribute{{Kind: tableUserdata, Value: userdata(t.Comment)}}
	for _, chain := range t.Chains {
		if chain.Base == nil {
			continue
		}
		requests = append(requests, request("look for the chain "+chain.Name, unix.NFT_MSG_GETCHAIN, 0, func(m *netlink.Buffer) {
			m.String(unix.NFTA_CHAIN_TABLE, t.Name)
			m.String(unix.NFTA_CHAIN_NAME, chain.Name)
		}).Tolerate(unix.ENOENT))
		rules := binary.BigEndian.AppendUint32(nil, uint32(len(chain.Rules)))
		wanted = append(wanted, netlink.Attribute{Kind: unix.NFTA_CHAIN_USE, Value: rules})
	}
	answers, err := c.Get(requests...)
	if err != nil {
		return false, err
	}
	for i, m := range answers {
		if m == nil {
			return false, nil
		}
		value, err := attribute(*m, wanted[i].Kind)
		if err != nil || !bytes.Equal(value, wanted[i].Value) {
			return false, err
		}
	}
	return true, nil
}

// look asks for a table.
func (t Table) look() netlink.Request {
	return request("look for the nftables table "+t.Name, unix.NFT_MSG_GETTABLE, 0, func(m *netlink.Buffer) {
		m.String(unix.NFTA_TABLE_NAME, t.Name)
	}).Tolerate(unix.ENOENT)
}

// Exists reports whether there is a table of that name.
func (c Conn) Exists(t Table) (bool, error) {
	answers, err := c.Get(t.look())
	return err == nil && answers[0] != nil, err
}

// attribute is the value of an attribute of a message; nil if it has none of that kind.
func attribute(m netlink.Message, kind uint16) ([]byte, error) {
	attributes, err := attributesOf(m)
	for _, a := range attributes {
		if a.Kind == kind {
			return a.Value, nil
		}
	}
	return nil, err
}

func attributesOf(m netlink.Message) ([]netlink.Attribute, error) {
	const genericHeader = 4 // struct nfgenmsg
	if len(m.Payload) < genericHeader {
		return nil, errShort
	}
	return netlink.ParseAttributes(m.Payload[genericHeader:])
}

var errShort = errors.New("an answer of nftables is too short")

// Elements lists the elements of a set or map. A set that is not there is ENOENT.
func (c Conn) Elements(t Table, set string) ([]Element, error) {
	messages, err := c.Dump(t.elementRequest("list", unix.NFT_MSG_GETSETELEM, 0, set, nil))
	if err != nil {
		return nil, err
	}
	var all []Element
	for _, m := range messages {
		some, err := parseElements(m)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// Present returns those of the elements that are in the set or map, with the data that they have there. The key alone counts.
func (c Conn) Present(t Table, set string, elements []Element) ([]Element, error) {
	var all []Element
	// The answers to one system call must fit into the socket's buffer.
	for some := range slices.Chunk(elements, 50) {
		var requests []netlink.Request
		for _, e := range some {
			r := t.elementRequest("look into", unix.NFT_MSG_GETSETELEM, 0, set, []Element{{Key: e.Key, End: e.End}})
			requests = append(requests, r.Tolerate(unix.ENOENT))
		}
		answers, err := c.Get(requests...)
		if err != nil {
			return nil, err
		}
		for _, m := range answers {
			if m == nil {
				continue
			}
			found, err := parseElements(*m)
			if err != nil {
				return nil, err
			}
			all = append(all, found...)
		}
	}
	return all, nil
}

func parseElements(m netlink.Message) ([]Element, error) {
	if m.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWSETELEM {
		return nil, nil
	}
	attributes, err := attributesOf(m)
	if err != nil {
		return nil, err
	}
	var all []Element
	for _, a := range attributes {
		if a.Kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		list, err := netlink.ParseAttributes(a.Value)
		if err != nil {
			return nil, err
		}
		for _, item := range list {
			e, err := parseElement(item.Value)
			if err != nil {
				return nil, err
			}
			all = append(all, e)
		}
	}
	return all, nil
}

func parseElement(b []byte) (Element, error) {
	var e Element
	attributes, err := netlink.ParseAttributes(b)
	if err != nil {
		return e, err
	}
	for _, a := range attributes {
		switch a.Kind {
		case unix.NFTA_SET_ELEM_KEY:
			e.Key, err = parseValue(a.Value)
		case elementKeyEnd:
			e.End, err = parseValue(a.Value)
		case unix.NFTA_SET_ELEM_DATA:
			e.Data, err = parseValue(a.Value)
		}
		if err != nil {
			return e, err
		}
	}
	return e, nil
}

// parseValue reads a key or data; nil if it is a verdict.
func parseValue(b []byte) ([]byte, error) {
	attributes, err := netlink.ParseAttributes(b)
	for _, a := range attributes {
		if a.Kind == unix.NFTA_DATA_VALUE {
			return a.Value, nil
		}
	}
	return nil, err
}
