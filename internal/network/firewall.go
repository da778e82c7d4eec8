package network

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"berth/internal/network/nft"

	"golang.org/x/sys/unix"
)

// Dropped says, in a line, that a firewall of the host drops what is forwarded to a network unless it allows it, and with which command it
// would; it is empty when none does, or when the firewall names the network's bridge: then somebody has decided. Nothing is opened
// past a firewall: whatever accepts a packet in berth's table, another table may still drop it.
func (s Store) Dropped(n Network) (string, error) {
	if n.Driver != DriverBridge || s.Home != nil { // nothing of the host's is forwarded to a user's networks
		return "", nil
	}
	bridge := n.BridgeName()
	if drops, mentions := legacyForward(bridge); drops && !mentions {
		return dropped("chain FORWARD of iptables-legacy", bridge, fmt.Sprintf("iptables-legacy -I FORWARD -o %s -j ACCEPT; iptables-legacy -I FORWARD -i %[1]s -j ACCEPT", bridge)), nil
	}
	k, err := s.connect()
	if err != nil {
		return "", err
	}
	k.keep = s.Keep
	defer k.close()
	all, err := k.nft.Others()
	if err != nil {
		return "", err
	}
	_, ipv6 := n.subnet(false)
	for _, chain := range all {
		concerned := chain.Family == unix.NFPROTO_INET || chain.Family == unix.NFPROTO_IPV4 || chain.Family == unix.NFPROTO_IPV6 && ipv6
		if !concerned || !chain.Filters || chain.Hook != nft.Forward {
			continue
		}
		rules, err := k.nft.OtherRules(chain)
		if err != nil {
			return "", err
		}
		if drops(chain, rules) && !slices.ContainsFunc(rules, func(r nft.OtherRule) bool { return r.Mentions(bridge) }) {
			return dropped(fmt.Sprintf("chain %s of the nftables table %s %s", chain.Name, chain.FamilyName(), chain.Table), bridge, allow(chain, all, bridge)), nil
		}
	}
	return "", nil
}

func dropped(by, bridge, allow string) string {
	return fmt.Sprintf("%s drops what is forwarded, and does not name %s: other hosts may not reach the published ports; to allow it: %s", by, bridge, allow)
}

// drops reports whether a chain drops what none of its rules decides: by its policy, or by its last rule, as firewalld's does.
func drops(chain nft.Other, rules []nft.OtherRule) bool {
	last := false
	for _, r := range rules {
		if r.Chain == chain.Name {
			last = r.Drops
		}
	}
	return chain.Drops || last
}

// allow is the command by which the owner of a chain that drops lets packets to and from a bridge pass.
func allow(chain nft.Other, all []nft.Other, bridge string) string {
	has := func(name string) bool {
		return slices.ContainsFunc(all, func(o nft.Other) bool { return o.Family == chain.Family && o.Table == chain.Table && o.Name == name })
	}
	both := func(format string) string {
		return strings.ReplaceAll(format, "DIRECTION", "o") + "; " + strings.ReplaceAll(format, "DIRECTION", "i")
	}
	tool := map[uint8]string{unix.NFPROTO_IPV4: "iptables", unix.NFPROTO_IPV6: "ip6tables"}[chain.Family]
	switch {
	case chain.Table == "firewalld":
		return "firewall-cmd --zone=trusted --add-interface=" + bridge
	case has("ufw-before-forward") || has("ufw6-before-forward"):
		return "ufw route allow out on " + bridge
	case has("DOCKER-USER"):
		return both(tool + " -I DOCKER-USER -DIRECTION " + bridge + " -j ACCEPT")
	case chain.Table == "filter" && chain.Name == "FORWARD" && tool != "":
		return both(tool + " -I FORWARD -DIRECTION " + bridge + " -j ACCEPT")
	}
	return both(fmt.Sprintf("nft insert rule %s %s %s DIRECTIONifname %s accept", chain.FamilyName(), chain.Table, chain.Name, bridge))
}

// legacyForward looks at the chain FORWARD of the kernel's older packet filter for IPv4, if that has been used: whether its policy is
// to drop, and whether a rule of the table mentions the interface. A host that has none of it, or does not let us look, has no such
// policy as far as we know.
func legacyForward(bridge string) (drops, mentions bool) {
	names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names") // to ask for a table would make it
	if err != nil || !slices.Contains(strings.Fields(string(names)), "filter") {
		return false, false
	}
	entries, forward, err := legacyFilter()
	if err != nil {
		return false, false
	}
	return legacyDrops(entries, forward), strings.Contains(string(entries), bridge+"\x00")
}

var errLegacyTable = errors.New("the table of iptables is none")
