package main

import (
	"fmt"
	"strings"
)

// networkScenarios are the commands that change networks, and those that start and remove containers which hold something of them. The
// jobs share one host: a scenario's ports and subnets are nobody else's.
func networkScenarios() []scenario {
	create := func(subnet string) []string { return []string{"network", "create", "--subnet", subnet, "shop"} }
	use := []string{"run", "--rm", "--network", "shop", "box", "true"}
	target := []string{"run", "-d", "--name", "target", "box", "sleep", "1000"}
	onShop := []string{"run", "-d", "--name", "target", "--network", "shop", "box", "sleep", "1000"}
	publish := func(port string) []string {
		return []string{"run", "-d", "--name", "target", "-p", port + ":80", "-p", port + ":80/udp", "box", "sleep", "1000"}
	}
	connect, disconnect := []string{"network", "connect", "--alias", "www", "shop", "target"}, []string{"network", "disconnect", "shop", "target"}
	remove := []string{"rm", "-f", "target"}
	return []scenario{
		{"network create", theCommand, nil, create("10.71.0.0/24"), afterNetworkCreate("10.71.0.0/24")},
		{"network rm", theCommand, [][]string{create("10.72.0.0/24"), use}, []string{"network", "rm", "shop"}, afterNetworkRemove("10.72.0.0/24")},
		{"network connect", theCommand, [][]string{create("10.73.0.0/24"), target}, connect, afterChange(true)},
		{"network connect (monitor)", runningServer, [][]string{create("10.74.0.0/24"), target}, connect, afterChange(true)},
		{"network disconnect", theCommand, [][]string{create("10.75.0.0/24"), target, connect}, disconnect, afterChange(false)},
		{"network disconnect (monitor)", runningServer, [][]string{create("10.76.0.0/24"), target, connect}, disconnect, afterChange(false)},
		{"rename", theCommand, [][]string{create("10.77.0.0/24"), onShop}, []string{"rename", "target", "other"}, afterRename},
		{"run -p", theCommand, nil, publish("8071"), afterPublish("8071")},
		{"run -p (monitor)", newMonitor, nil, publish("8072"), afterPublish("8072")},
		{"rm -f of -p", theCommand, [][]string{publish("8073")}, remove, freePort("8073")},
		{"rm -f of -p (monitor)", runningServer, [][]string{publish("8074")}, remove, freePort("8074")},
	}
}

// must carries commands out and says which of them did not work.
func (in *instance) must(commands ...[]string) (wrong []string) {
	for _, args := range commands {
		if _, err := in.berth(args...); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	return wrong
}

func (in *instance) hasNetwork(name string) (bool, error) {
	out, err := in.berth("network", "ls", "--format", "{{.Name}}")
	return strings.Contains("\n"+out, "\n"+name+"\n"), err
}

// afterNetworkCreate: a network that is listed is whole, one that was reported is listed, and the subnet of none is free.
func afterNetworkCreate(subnet string) func(*instance, outcome) []string {
	return func(in *instance, o outcome) (wrong []string) {
		there, err := in.hasNetwork("shop")
		switch {
		case err != nil:
			return []string{err.Error()}
		case !there && strings.TrimSpace(o.output) != "":
			wrong = append(wrong, "the network was reported and is not listed")
		case !there:
			wrong = in.must([]string{"network", "create", "--subnet", subnet, "shop"})
		}
		return append(wrong, in.must([]string{"run", "--rm", "--network", "shop", "box", "true"}, []string{"network", "rm", "shop"})...)
	}
}

// afterNetworkRemove: a network that was removed is not listed; one that is listed works; its name and its subnet can be had again.
func afterNetworkRemove(subnet string) func(*instance, outcome) []string {
	return func(in *instance, o outcome) (wrong []string) {
		use, remove := []string{"run", "--rm", "--network", "shop", "box", "true"}, []string{"network", "rm", "shop"}
		there, err := in.hasNetwork("shop")
		switch {
		case err != nil:
			return []string{err.Error()}
		case there && o.exit == 0:
			wrong = append(wrong, "the network was removed and is listed")
		case there:
			wrong = in.must(use, remove)
		}
		return append(wrong, in.must([]string{"network", "create", "--subnet", subnet, "shop"}, use, remove)...)
	}
}

// afterChange: a container that was connected (or disconnected) is where it was reported to be, and can be connected whatever it is;
// then it is what its plan says, now and when it has been started again.
func afterChange(connected bool) func(*instance, outcome) []string {
	return func(in *instance, o outcome) []string {
		wrong := mustRun(in, o)
		out, err := in.berth("inspect", "-f", "{{range $n, $e := .NetworkSettings.Networks}}{{$n}} {{end}}", "target")
		if err != nil {
			return append(wrong, err.Error())
		}
		on := strings.Contains(out, "shop")
		if o.exit == 0 && on != connected {
			wrong = append(wrong, fmt.Sprintf("on the network: %v was reported, and it is %v", connected, on))
		}
		if on { // what a killed command has left undone is done by the next one
			wrong = append(wrong, in.must([]string{"network", "disconnect", "shop", "target"})...)
		}
		wrong = append(wrong, in.must([]string{"network", "connect", "shop", "target"})...)
		wrong = append(wrong, in.asPlanned("target", "eth1")...)
		wrong = append(wrong, in.must([]string{"restart", "-t", "0", "target"})...)
		return append(wrong, in.asPlanned("target", "eth1")...)
	}
}

// asPlanned checks that a container is what its plan says, and has an interface.
func (in *instance) asPlanned(name, link string) (wrong []string) {
	out, err := in.berth("explain", name)
	switch {
	case err != nil:
		wrong = append(wrong, err.Error())
	case !strings.Contains(out, "\n0 differences"):
		wrong = append(wrong, "it is not what it was planned to be: "+out)
	}
	if out, err := in.berth("exec", name, "cat", "/proc/net/dev"); err != nil || !strings.Contains(out, link+":") {
		wrong = append(wrong, fmt.Sprintf("it has no %s: %v: %s", link, err, out))
	}
	return wrong
}

// afterRename: one name leads to the container, and when all is swept its neighbours know it by that one.
func afterRename(in *instance, o outcome) (wrong []string) {
	name := "target"
	if status, err := in.status("other"); err != nil || status != "" {
		name = "other"
	}
	if o.exit == 0 && name == "target" {
		wrong = append(wrong, "the container was renamed, and has its old name")
	}
	wrong = append(wrong, in.must([]string{"exec", name, "true"}, []string{"container", "prune", "-f"})...)
	wrong = append(wrong, in.must([]string{"create", "--name", "witness", "--network", "none", "box", "true"})...)
	out, err := in.berth("network", "inspect", "-f", "{{range .Containers}}{{.Name}}{{end}}", "shop")
	if err != nil || strings.TrimSpace(out) != name {
		wrong = append(wrong, fmt.Sprintf("the container %s is called %q on its network: %v", name, out, err))
	}
	return wrong
}

// afterPublish: as afterRun, and then the port is free.
func afterPublish(port string) func(*instance, outcome) []string {
	return func(in *instance, o outcome) []string {
		wrong := afterRun(in, o)
		return append(wrong, in.must([]string{"run", "--rm", "-p", port + ":80", "-p", port + ":80/udp", "box", "true"})...)
	}
}

// freePort: as afterRemove, and then the port is free.
func freePort(port string) func(*instance, outcome) []string {
	return func(in *instance, o outcome) []string {
		wrong := afterRemove(in, o)
		return append(wrong, in.must([]string{"run", "--rm", "-p", port + ":80", "-p", port + ":80/udp", "box", "true"})...)
	}
}
