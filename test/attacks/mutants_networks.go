package main

// networkMutants are attacks 31 to 35: on networks, as root and through a user's uplink.
func networkMutants() []mutant {
	const (
		rules    = "internal/network/ruleset.go"
		removed  = "31-rules-removed"
		client   = "32-client-address"
		loopback = "33-loopback"
		garbage  = "35-garbage"
		target   = "nft.Equal(nft.IPTargetStart(), localhost), drop)"
		reached  = "nft.Equal(nft.IPTargetStart(), localhost), accept)"
	)
	return []mutant{
		{31, "rules that are removed are made again", "internal/runtime/monitor/network.go", "store.Heal(); err != nil", "store.Intact(); err != nil", asRoot(removed)},
		{31, "rules that are removed are made again, for a user", "internal/runtime/monitor/network.go", "store.Heal(); err != nil", "store.Intact(); err != nil", asUser(removed)},

		{32, "a client keeps its address on its way through the uplink", uplinkCode + "forward.go", "if a.Is4() != target.Is4() || refused(a) ||", "if true ||", asUser(client)},

		{33, "127.0.0.1 is not reached by a packet from outside", rules, target, reached, asRoot(loopback)},
		{33, "127.0.0.1 is not reached by a packet from a container of a user's", rules, target, reached, asUser(loopback)},
		{33, "the gateway is not the host's loopback", uplinkCode + "policy.go", "loopback: c.HostLoopback", "loopback: true", asUser(loopback)},
		{33, "nothing of a container is reached from another network", rules, "nft.All(toBridge, drop)", "nft.All(toBridge, accept)", asRoot(loopback)},
		{33, "nothing of a user's container is reached from another network", rules, "nft.All(toBridge, drop)", "nft.All(toBridge, accept)", asUser(loopback)},

		{35, "the uplink believes no length", uplinkCode + "packet.go", "if n < udpBytes || n > len(body) {", "if false {", asUser(garbage)},
	}
}
