package container

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// LinkEnv are the variables by which docker tells a container, whose name is name, of another one at addr that it is linked to.
func LinkEnv(name, alias string, linked Config, addr netip.Addr) []string {
	prefix := strings.ToUpper(strings.ReplaceAll(alias, "-", "_"))
	var ports []Port
	for _, p := range slices.Concat(linked.Ports, exposedPorts(linked.Exposed)) {
		p = Port{Protocol: p.Protocol, ContainerPort: p.ContainerPort}
		if !slices.Contains(ports, p) {
			ports = append(ports, p)
		}
	}
	slices.SortFunc(ports, func(a, b Port) int {
		if n := int(a.ContainerPort) - int(b.ContainerPort); n != 0 {
			return n
		}
		return strings.Compare(a.Protocol, b.Protocol)
	})
	var env []string
	for i, p := range ports {
		at := p.Protocol + "://" + netip.AddrPortFrom(addr, p.ContainerPort).String()
		if i == 0 {
			env = append(env, prefix+"_PORT="+at)
		}
		number := strconv.Itoa(int(p.ContainerPort))
		each := prefix + "_PORT_" + number + "_" + strings.ToUpper(p.Protocol)
		env = append(env, each+"="+at, each+"_ADDR="+addr.String(), each+"_PORT="+number, each+"_PROTO="+p.Protocol)
	}
	env = append(env, prefix+"_NAME=/"+name+"/"+alias)
	for _, v := range linked.Env {
		if key, _, has := strings.Cut(v, "="); has && key != "HOME" && key != "PATH" {
			env = append(env, prefix+"_ENV_"+v)
		}
	}
	return env
}

// exposedPorts are ports that are exposed ("80/tcp"), as Port has them.
func exposedPorts(exposed []string) []Port {
	var all []Port
	for _, e := range exposed {
		number, protocol, _ := strings.Cut(e, "/")
		if n, err := strconv.ParseUint(number, 10, 16); err == nil {
			all = append(all, Port{Protocol: protocol, ContainerPort: uint16(n)})
		}
	}
	return all
}
