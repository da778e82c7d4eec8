package cgroup

import (
	"errors"
	"fmt"
	"path"
	"slices"

	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/systemd"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Update sets the limits of a group in use. Those of the kinds that docker's update can change which r does not name are lifted. Rules for
// devices stay as they are. On an error some may have been set.
func (g *Group) Update(r *specs.LinuxResources) error {
	settings, err := g.Settings(r)
	if err != nil {
		return err
	}
	if err := g.checkUsage(r.Memory); err != nil {
		return err
	}
	all := append(g.lifted(settings), settings...)
	if g.host.Cgroup == host.CgroupUnified {
		if err := g.enable(settings); err != nil {
			return err
		}
	}
	if err := g.apply(all); err != nil {
		return err
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if d, ok := g.v1With("cpuset"); ok && !names(settings, file) {
			if err := inherit(d, file); err != nil {
				return err
			}
		}
	}
	return g.share(r)
}

// checkUsage refuses a limit of memory below what is in use, where a spec asks for that (checkBeforeUpdate): version 2 would take it, and
// kill processes until it holds; version 1 refuses it by itself.
func (g *Group) checkUsage(m *specs.LinuxMemory) error {
	if g.host.Cgroup != host.CgroupUnified || m == nil || m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate || m.Limit == nil || *m.Limit <= 0 {
		return nil
	}
	used := value(g.v2 + "/memory.current")
	if used > uint64(*m.Limit) {
		return errdef.New(errdef.Conflict, "rejecting memory limit %d < usage %d", *m.Limit, used)
	}
	if total := used + value(g.v2+"/memory.swap.current"); m.Swap != nil && *m.Swap > 0 && total > uint64(*m.Swap) {
		return errdef.New(errdef.Conflict, "rejecting memory+swap limit %d < usage %d", *m.Swap, total)
	}
	return nil
}

// unlimited are the settings of a group without limits, in the order in which they can be written.
var unlimited = map[host.CgroupMode][]Setting{
	host.CgroupV1: {
		{Controller: "memory", File: "memory.memsw.limit_in_bytes", Value: "-1"},
		{Controller: "memory", File: "memory.limit_in_bytes", Value: "-1"},
		{Controller: "memory", File: "memory.soft_limit_in_bytes", Value: "-1"},
		{Controller: "cpu", File: "cpu.shares", Value: "1024"},
		{Controller: "cpu", File: "cpu.cfs_quota_us", Value: "-1"},
		{Controller: "cpu", File: "cpu.cfs_period_us", Value: "100000"},
		{Controller: "cpu", File: "cpu.rt_runtime_us", Value: "0"},
		{Controller: "pids", File: "pids.max", Value: "max"},
		{Controller: "blkio", File: "blkio.bfq.weight", Value: "100"},
	},
	host.CgroupUnified: {
		{Controller: "memory", File: "memory.max", Value: "max"},
		{Controller: "memory", File: "memory.swap.max", Value: "max"},
		{Controller: "memory", File: "memory.low", Value: "0"},
		{Controller: "cpu", File: "cpu.weight", Value: "100"},
		{Controller: "cpu", File: "cpu.max", Value: "max 100000"},
		{Controller: "cpuset", File: "cpuset.cpus", Value: "\n"},
		{Controller: "cpuset", File: "cpuset.mems", Value: "\n"},
		{Controller: "pids", File: "pids.max", Value: "max"},
		{Controller: "io", File: "io.bfq.weight", Value: "default 100", Else: &Setting{Controller: "io", File: "io.weight", Value: "default 100"}},
	},
}

// lifted are the settings that lift what others do not set. Where there is no such file, there is no such limit.
func (g *Group) lifted(others []Setting) []Setting {
	var all []Setting
	for _, s := range unlimited[g.host.Cgroup] {
		if !names(others, s.File) {
			s.Optional = true
			all = append(all, s)
		}
	}
	return all
}

func names(settings []Setting, file string) bool {
	return slices.ContainsFunc(settings, func(s Setting) bool { return s.File == file })
}

// share tells systemd, if the group is in a scope, by which weight it is to be shared with.
func (g *Group) share(r *specs.LinuxResources) error {
	scope := scopeOf(g.path)
	if scope == "" {
		return nil
	}
	properties := Properties(r)
	for _, p := range []systemd.Property{{Name: "CPUWeight", Value: ^uint64(0)}, {Name: "IOWeight", Value: ^uint64(0)}, {Name: "MemoryLow", Value: uint64(0)}} {
		if !slices.ContainsFunc(properties, func(have systemd.Property) bool { return have.Name == p.Name }) {
			properties = append(properties, p) // as if it had never been set
		}
	}
	name := path.Base(scope)
	err := ask(g.host, func(c *systemd.Conn) error { return c.SetProperties(name, properties) })
	if err != nil {
		return fmt.Errorf("cannot have systemd change the scope %s: %w", name, err)
	}
	return nil
}

// Replace sets the limits of a group in use as Update does, or leaves those that it had, which are given, too.
func (g *Group) Replace(old, limits *specs.LinuxResources) error {
	err := g.Update(limits)
	if err != nil {
		err = errors.Join(err, g.Update(old))
	}
	return err
}
