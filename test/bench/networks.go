package main

import "berth/test/tiny"

// networks compares containers that have a network with those that have none, and with podman's: an address on the default bridge, and a
// published port.
func (b *bench) networks() error {
	all := []contender{
		{name: "berth, none", argv: []string{b.berth, "run", "--rm", "--network", "none", "tiny", tiny.Program}},
		{name: "berth, bridge", argv: []string{b.berth, "run", "--rm", "tiny", tiny.Program}},
		{name: "berth, bridge and a port", argv: []string{b.berth, "run", "--rm", "-p", "18080:80", "tiny", tiny.Program}},
	}
	if b.podman != nil {
		all = append(all,
			contender{name: "podman, none", argv: with(b.podman, "run", "--rm", "--network", "none", "localhost/tiny", tiny.Program)},
			contender{name: "podman, bridge", argv: with(b.podman, "run", "--rm", "localhost/tiny", tiny.Program)},
			contender{name: "podman, bridge and a port", argv: with(b.podman, "run", "--rm", "-p", "18081:80", "localhost/tiny", tiny.Program)},
		)
	}
	return compare("run --rm on a network", *rounds, all)
}
