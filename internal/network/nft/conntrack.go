package nft

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"berth/internal/network/netlink"

	"golang.org/x/sys/unix"
)

// Attributes of linux/netfilter/nfnetlink_conntrack.h that golang.org/x/sys/unix does not have.
const (
	ctGet, ctDelete   = 1, 2 // IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE
	ctTupleOrig       = 1
	ctFilter          = 25 // CTA_FILTER, Linux 5.8; older kernels list everything
	ctFilterOrigFlags = 1
	ctTupleIP         = 1
	ctTupleProto      = 2
	ctIPv4Dst         = 2
	ctIPv6Dst         = 4
	ctProtoNum        = 1
	ctProtoDstPort    = 3
	// filterByPort are CTA_FILTER_FLAG(CTA_PROTO_NUM) and CTA_FILTER_FLAG(CTA_PROTO_DST_PORT) of nf_conntrack_netlink.c.
	filterByPort = 1<<3 | 1<<5
)

// Flow is a tracked exchange of UDP packets, as its first packet was.
type Flow struct {
	Target netip.AddrPort
	tuple  []byte // CTA_TUPLE_ORIG as the kernel wrote it
	family uint8
}

func ctRequest(purpose string, message uint16, family uint8, fill func(m *netlink.Buffer)) netlink.Request {
	m := netlink.NewBuffer(family, unix.NFNETLINK_V0, 0, 0)
	fill(m)
	return netlink.Request{Purpose: purpose, Type: unix.NFNL_SUBSYS_CTNETLINK<<8 | message, Payload: m.Payload()}
}

// UDPFlows lists the UDP flows of a family to a port, of this host or of others. A kernel without ctnetlink knows none.
func (c Conn) UDPFlows(ipv4 bool, port uint16) ([]Flow, error) {
	family := uint8(unix.AF_INET6)
	if ipv4 {
		family = unix.AF_INET
	}
	messages, err := c.Dump(ctRequest("list the tracked UDP flows", ctGet, family, func(m *netlink.Buffer) {
		m.Nest(ctTupleOrig, func() {
			m.Nest(ctTupleProto, func() {
				m.Uint8(ctProtoNum, unix.IPPROTO_UDP)
				m.Bytes(ctProtoDstPort, Port(port))
			})
		})
		m.Nest(ctFilter, func() { m.Uint32(ctFilterOrigFlags, filterByPort) })
	}))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Flow
	for _, message := range messages {
		f, protocol, err := parseFlow(message)
		if err != nil {
			return nil, err
		}
		if protocol == unix.IPPROTO_UDP && f.Target.Port() == port && f.Target.IsValid() {
			f.family = family
			all = append(all, f)
		}
	}
	return all, nil
}

// Forget makes the kernel look at the next packet of each flow as at a first one. A flow that has ended is no error.
func (c Conn) Forget(flows []Flow) error {
	var errs error
	for _, f := range flows {
		errs = errors.Join(errs, c.Do(ctRequest("forget a UDP flow to "+f.Target.String(), ctDelete, f.family, func(m *netlink.Buffer) {
			m.Bytes(ctTupleOrig|unix.NLA_F_NESTED, f.tuple)
		}).Tolerate(unix.ENOENT)))
	}
	return errs
}

func parseFlow(message netlink.Message) (f Flow, protocol uint8, err error) {
	attributes, err := attributesOf(message)
	if err != nil {
		return f, 0, err
	}
	for _, a := range attributes {
		if a.Kind == ctTupleOrig {
			f.tuple = a.Value
		}
	}
	parts, err := netlink.ParseAttributes(f.tuple)
	if err != nil {
		return f, 0, err
	}
	var target netip.Addr
	var port uint16
	for _, part := range parts {
		values, err := netlink.ParseAttributes(part.Value)
		if err != nil {
			return f, 0, err
		}
		for _, v := range values {
			switch {
			case part.Kind == ctTupleIP && (v.Kind == ctIPv4Dst || v.Kind == ctIPv6Dst):
				target, _ = netip.AddrFromSlice(v.Value)
			case part.Kind == ctTupleProto && v.Kind == ctProtoNum && len(v.Value) == 1:
				protocol = v.Value[0]
			case part.Kind == ctTupleProto && v.Kind == ctProtoDstPort && len(v.Value) == 2:
				port = binary.BigEndian.Uint16(v.Value)
			}
		}
	}
	f.Target = netip.AddrPortFrom(target, port)
	return f, protocol, nil
}
