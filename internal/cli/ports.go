package cli

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/network"
	"berth/internal/state"
)

// publishedOf are the ports of a container that are published: none unless it runs.
func publishedOf(e *engine.Engine, of *state.Container) ([]network.Published, error) {
	held, err := e.Endpoints(of)
	var all []network.Published
	for _, h := range held {
		all = append(all, h.Ports...)
	}
	return all, err
}

// openPort is a port of a container as ps shows it; one that is only exposed has no address.
type openPort struct {
	hostIP      netip.Addr
	host, inner uint16
	protocol    string
}

// openPorts are the published ports, and those exposed ones that are not.
func openPorts(published []network.Published, exposed []string) []openPort {
	var all []openPort
	for _, p := range published {
		all = append(all, openPort{p.HostIP, p.HostPort, p.ContainerPort, string(p.Protocol)})
	}
	for _, text := range exposed {
		number, protocol, _ := strings.Cut(text, "/")
		n, err := strconv.ParseUint(number, 10, 16)
		have := func(p openPort) bool { return p.inner == uint16(n) && p.protocol == protocol }
		if err == nil && !slices.ContainsFunc(all, have) {
			all = append(all, openPort{inner: uint16(n), protocol: protocol})
		}
	}
	slices.SortFunc(all, func(a, b openPort) int {
		return cmp.Or(cmp.Compare(a.inner, b.inner), cmp.Compare(addressOf(a), addressOf(b)), cmp.Compare(a.host, b.host), cmp.Compare(a.protocol, b.protocol))
	})
	return all
}

func addressOf(p openPort) string {
	if !p.hostIP.IsValid() {
		return ""
	}
	return p.hostIP.String()
}

// portsText is docker's: ports that are published under their own number, or only exposed, are drawn together where they follow each
// other, "0.0.0.0:80-82->80-82/tcp"; the others come last, each for itself.
func portsText(ports []openPort) string {
	type run struct {
		openPort
		last uint16
	}
	text := func(r run) string {
		numbers := strconv.Itoa(int(r.inner))
		if r.last != r.inner {
			numbers += "-" + strconv.Itoa(int(r.last))
		}
		if r.hostIP.IsValid() {
			numbers = net.JoinHostPort(r.hostIP.String(), numbers) + "->" + numbers
		}
		return numbers + "/" + r.protocol
	}
	var runs []run // one for each address and protocol, in the order in which they came up
	var done, moved []string
	for _, p := range ports {
		if p.hostIP.IsValid() && p.host != p.inner {
			moved = append(moved, fmt.Sprintf("%s->%d/%s", netip.AddrPortFrom(p.hostIP, p.host), p.inner, p.protocol))
			continue
		}
		i := slices.IndexFunc(runs, func(r run) bool { return r.hostIP == p.hostIP && r.protocol == p.protocol })
		switch {
		case i < 0:
			runs = append(runs, run{p, p.inner})
		case p.inner == runs[i].last+1:
			runs[i].last = p.inner
		default:
			done = append(done, text(runs[i]))
			runs[i] = run{p, p.inner}
		}
	}
	for _, r := range runs {
		done = append(done, text(r))
	}
	return strings.Join(append(done, moved...), ", ")
}

// portLines are the lines of port: of all published ports, or of the one that is asked for.
func portLines(published []network.Published, asked, name string) ([]string, error) {
	ports := openPorts(published, nil)
	var lines []string
	if asked == "" {
		for _, p := range ports {
			lines = append(lines, fmt.Sprintf("%d/%s -> %s", p.inner, p.protocol, netip.AddrPortFrom(p.hostIP, p.host)))
		}
		return lines, nil
	}
	number, protocol, has := strings.Cut(asked, "/")
	if !has {
		protocol = "tcp"
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return nil, errdef.New(errdef.Invalid, "invalid port (%s): it is a number from 1 to 65535", number)
	}
	for _, p := range ports {
		if p.inner == uint16(n) && p.protocol == protocol {
			lines = append(lines, netip.AddrPortFrom(p.hostIP, p.host).String())
		}
	}
	if len(lines) == 0 {
		return nil, errdef.New(errdef.NotFound, "No public port '%s' published for %s", asked, name)
	}
	return lines, nil
}

// portFilter reads the value of ps --filter publish= and expose=: PORT[-PORT][/PROTOCOL].
func portFilter(key, value string) (func(number uint16, protocol string) bool, error) {
	invalid := errdef.New(errdef.Invalid, "invalid filter '%s=%s': it is PORT[-PORT][/PROTOCOL]", key, value)
	numbers, protocol, has := strings.Cut(value, "/")
	if !has {
		protocol = "tcp"
	}
	from, to, has := strings.Cut(numbers, "-")
	if !has {
		to = from
	}
	first, err := strconv.ParseUint(from, 10, 16)
	if err != nil {
		return nil, invalid
	}
	last, err := strconv.ParseUint(to, 10, 16)
	if err != nil || last < first {
		return nil, invalid
	}
	return func(number uint16, of string) bool {
		return of == protocol && uint64(number) >= first && uint64(number) <= last
	}, nil
}
