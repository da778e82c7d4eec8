package network

import (
	"net/netip"
	"os"

	"berth/internal/network/nft"

	"golang.org/x/sys/unix"
)

// The table in a container's network namespace, and its map.
const resolverTable, resolverMap = "berth", "resolver"

// LeadToResolver makes a container's queries to address, port 53, arrive at the same address and another port, where its resolver
// listens: port 53 is the container's own. ns is the container's network namespace. It may be repeated with another port.
func LeadToResolver(ns *os.File, address netip.Addr, port uint16) error {
	const domain = 53
	to := nft.Key(address.AsSlice(), nft.Port(port))
	t := nft.Table{
		Name: resolverTable, Comment: "berth, the way to the resolver",
		Sets: []nft.Set{{
			Name: resolverMap, Key: []nft.Type{nft.InetProto, nft.InetService}, Data: []nft.Type{nft.IPv4Addr, nft.InetService},
			Elements: []nft.Element{
				{Key: nft.Key(nft.Number(unix.IPPROTO_UDP), nft.Port(domain)), Data: to},
				{Key: nft.Key(nft.Number(unix.IPPROTO_TCP), nft.Port(domain)), Data: to},
			},
		}},
		Chains: []nft.Chain{{
			Name: "output", Base: &nft.Base{Kind: "nat", Hook: nft.Output, Priority: nft.PriorityDstNAT},
			Rules: []nft.Rule{{
				Comment: "queries reach the resolver",
				Exprs:   nft.All(nft.IsIPv4(), nft.Equal(nft.IPTarget(), address.AsSlice()), nft.DNATByMap(resolverMap, false, nft.L4Proto(), nft.TargetPort())),
			}},
		}},
	}
	c, err := nft.OpenIn(ns)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Commit(t.Delete(), t.Make())
}
