package engine

import (
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"berth/internal/container"
	"berth/internal/host"
	"berth/internal/ident"
	"berth/internal/network/dns"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/monitor"
	"berth/internal/runtime/plan"
	"berth/internal/state"
)

// Explain prints how a container would be made, system call by system call, and makes nothing.
func (e *Engine) Explain(ctx context.Context, cfg container.Config, pull string, w io.Writer) error {
	c, layers, err := e.explainConfig(ctx, cfg, pull)
	if err != nil {
		return err
	}
	h := e.Host()
	in, err := monitor.Assemble(e.Containers, c, h, layers, cgroup.Driver(e.Settings.CgroupManager), e.Settings.CDIDirs())
	if err != nil {
		return err
	}
	procs, err := explainCgroup(w, in, h)
	if err != nil {
		return err
	}
	if in.Given, err = lifecycle.Planned(in.Spec); err != nil {
		return err
	}
	p, err := lifecycle.Program(in, procs)
	if err != nil {
		return err
	}
	if _, shares := c.Config.SharesNetwork(); shares || p.Has(plan.InNetwork) {
		if err := explainNamespace(w, c.Config); err != nil {
			return err
		}
	}
	if err := e.explainNetworks(w, c); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "# container %s of image %s: what the child does from clone to execve\n", c.ID[:12], c.Image.Name); err != nil {
		return err
	}
	return p.Print(w)
}

// explainNamespace prints what the parent does about the network namespace.
func explainNamespace(w io.Writer, c container.Config) error {
	id, shares := c.SharesNetwork()
	if !shares {
		_, err := fmt.Fprint(w, "# the parent makes the network namespace\n      unshare(CLONE_NEWNET)\n      ioctl(SIOCSIFFLAGS, {lo, IFF_UP})\n")
		return err
	}
	_, err := fmt.Fprintf(w, "# the parent opens the network namespace of container %s, if its process is still the one that it was\n"+
		"      pidfd_open(PID)\n      open(\"/proc/PID/ns/net\", O_RDONLY|O_CLOEXEC)\n      pidfd_send_signal(pidfd, 0)\n", ident.Short(id))
	return err
}

// explainNetworks prints what the parent and the monitor do about the container's networks.
func (e *Engine) explainNetworks(w io.Writer, c *state.Container) error {
	places, err := monitor.Places(e.Networks(), c)
	if err != nil {
		return err
	}
	said := map[string]bool{} // what one network has needed, the next one finds
	for _, p := range places {
		steps, err := e.Networks().Explain(p.Network.Name, p.Request, p.Ports)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "# the parent connects the container to the network %s  <- --network %s\n", p.Network.Name, p.Network.Name); err != nil {
			return err
		}
		for _, s := range steps {
			if said[s.Do] {
				continue
			}
			said[s.Do] = true
			origin := ""
			if s.Port {
				origin = "  <- -p"
			}
			if _, err := fmt.Fprintf(w, "      %s  # %s%s\n", s.Do, s.Why, origin); err != nil {
				return err
			}
		}
	}
	if !monitor.Named(c.Config) {
		return nil
	}
	_, err = fmt.Fprintf(w, "# names of the networks are answered in the container's namespace\n"+
		"      bind(%s, UDP and TCP, any port)  # the monitor answers there\n"+
		"      nft add table inet berth, in the container's namespace: %[1]s:53 leads there  # port 53 stays the container's own\n", dns.Address())
	return err
}

// explainCgroup prints what the parent does about the control group, and returns how many hierarchies the child enters by itself.
func explainCgroup(w io.Writer, in lifecycle.Input, h host.Facts) (int, error) {
	if in.Driver == cgroup.None {
		_, err := fmt.Fprintln(w, "# no control group: none is delegated to this user")
		return 0, err
	}
	if in.Driver == cgroup.Systemd {
		if err := explainScope(w, in, h); err != nil {
			return 0, err
		}
	}
	g, err := cgroup.Open(h, in.Spec.Linux.CgroupsPath)
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintln(w, "# the parent makes the control group and sets its limits"); err != nil {
		return 0, err
	}
	for _, dir := range g.Paths() {
		if _, err := fmt.Fprintf(w, "      mkdir(%q, 0755)\n", dir); err != nil {
			return 0, err
		}
	}
	settings, err := g.Settings(in.Spec.Linux.Resources)
	if err != nil {
		return 0, err
	}
	line := func(format string, args ...any) {
		_, e := fmt.Fprintf(w, "      "+format+"\n", args...)
		if err == nil {
			err = e
		}
	}
	for _, s := range settings {
		line("write(%s, %q)  <- %s", s.File, s.Value, limitFlag(s.File))
	}
	for _, d := range in.Spec.Linux.Resources.Devices {
		word := "deny"
		if d.Allow {
			word = "allow"
		}
		line("devices: %s %s %s:%s %s", word, orDefault(d.Type, "a"), number(d.Major), number(d.Minor), d.Access)
	}
	return g.Tasks(), err
}

// explainScope prints what the parent asks systemd for.
func explainScope(w io.Writer, in lifecycle.Input, h host.Facts) error {
	_, err := fmt.Fprintf(w, "# systemd makes a scope around the parent, which makes room for the container's group\n      StartTransientUnit(%q, Slice=%s, Delegate=yes)\n", cgroup.ScopeName(in.ID), path.Base(path.Dir(path.Dir(in.Spec.Linux.CgroupsPath))))
	for _, p := range cgroup.Properties(in.Spec.Linux.Resources) {
		if err == nil {
			_, err = fmt.Fprintf(w, "      property %s=%v\n", p.Name, p.Value)
		}
	}
	return err
}

// limitFlag is the flag from which the value of a control group's file comes.
func limitFlag(file string) string {
	switch {
	case file == "cpu.shares" || file == "cpu.weight":
		return "--cpu-shares"
	case strings.HasPrefix(file, "cpu.rt_"):
		return "--cpu-rt-period, --cpu-rt-runtime"
	case strings.HasPrefix(file, "cpu."):
		return "--cpus, --cpu-period, --cpu-quota"
	case strings.HasPrefix(file, "cpuset."):
		return "--" + strings.Replace(file, ".", "-", 1)
	case file == "memory.soft_limit_in_bytes" || file == "memory.low":
		return "--memory-reservation"
	case file == "memory.swappiness":
		return "--memory-swappiness"
	case file == "memory.oom_control":
		return "--oom-kill-disable"
	case file == "memory.memsw.limit_in_bytes" || file == "memory.swap.max":
		return "--memory, --memory-swap"
	case strings.HasPrefix(file, "memory."):
		return "--memory"
	case strings.HasSuffix(file, "weight"):
		return "--blkio-weight"
	case strings.HasSuffix(file, "weight_device"):
		return "--blkio-weight-device"
	case strings.HasPrefix(file, "blkio.throttle.") || file == "io.max":
		return "--device-read-bps and its kin"
	}
	return "--pids-limit"
}

func number(n *int64) string {
	if n == nil {
		return "*"
	}
	return fmt.Sprint(*n)
}

// Planned is what a running container was planned to be, for comparison with what it is.
func (e *Engine) Planned(c *state.Container) (lifecycle.Input, error) {
	layers, err := e.Images.Layers.Stack(c.Image.ChainIDs)
	if err != nil {
		return lifecycle.Input{}, err
	}
	driver := cgroup.Driver(e.Settings.CgroupManager)
	if p, err := e.Containers.Process(c.ID); err == nil {
		driver = monitor.DriverOf(p)
	}
	return monitor.Assemble(e.Containers, c, e.Host(), layers, driver, e.Settings.CDIDirs())
}
