package engine

import (
	"context"
	"fmt"
	"io"

	"berth/internal/container"
	"berth/internal/host"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/monitor"
	"berth/internal/state"
)

// Explain prints how a container would be made, system call by system call, and makes nothing.
func (e *Engine) Explain(ctx context.Context, cfg container.Config, pull string, w io.Writer) error {
	c, layers, err := e.explainConfig(ctx, cfg, pull)
	if err != nil {
		return err
	}
	h := e.Host()
	in, err := monitor.Assemble(e.Containers, c, h, layers)
	if err != nil {
		return err
	}
	procs, err := explainCgroup(w, in, h)
	if err != nil {
		return err
	}
	p, err := lifecycle.Program(in, procs)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "# container %s of image %s: what the child does from clone to execve\n", c.ID[:12], c.Image.Name); err != nil {
		return err
	}
	return p.Print(w)
}

// explainCgroup prints what the parent does about the control group, and returns how many files the child writes itself into.
func explainCgroup(w io.Writer, in lifecycle.Input, h host.Facts) (int, error) {
	if in.NoCgroup {
		_, err := fmt.Fprintln(w, "# no control group: none is delegated to this user")
		return 0, err
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
	r := in.Spec.Linux.Resources
	line := func(format string, args ...any) {
		_, e := fmt.Fprintf(w, "      "+format+"\n", args...)
		if err == nil {
			err = e
		}
	}
	if m := r.Memory; m != nil {
		line("memory limit %d bytes, with swap %d  <- --memory", *m.Limit, *m.Swap)
	}
	if c := r.CPU; c != nil && c.Quota != nil {
		line("cpu quota %d us in %d us  <- --cpus", *c.Quota, *c.Period)
	}
	if c := r.CPU; c != nil && c.Shares != nil {
		line("cpu shares %d  <- --cpu-shares", *c.Shares)
	}
	if p := r.Pids; p != nil {
		line("pids limit %d  <- --pids-limit", *p.Limit)
	}
	for _, d := range r.Devices {
		word := "deny"
		if d.Allow {
			word = "allow"
		}
		line("devices: %s %s %s:%s %s", word, orDefault(d.Type, "a"), number(d.Major), number(d.Minor), d.Access)
	}
	return len(g.Paths()), err
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
	return monitor.Assemble(e.Containers, c, e.Host(), layers)
}
