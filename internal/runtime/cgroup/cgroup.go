// Package cgroup makes the control group of a container, sets its limits and gives it back, on version 1 and on
// version 2, through the cgroup file system.
//
// It does not put processes into a group: a child enters it by itself (plan.Input.CgroupProcs), or is born in it
// (child.Options.Cgroup). What the files of each controller mean is the library's (opencontainers/cgroups); when a
// group exists and where is decided here.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/host"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/devices/config"
	fs1 "github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	_ "github.com/opencontainers/cgroups/devices" // limits on devices
)

// Prefix begins the name of every group of berth's. The groups have no common parent, so none is left when the last one
// goes.
const Prefix = "berth-"

// PathOf is the group of the container with that ID.
func PathOf(id string) string { return "/" + Prefix + id }

const mount = "/sys/fs/cgroup"

// Group is a control group, in all of its hierarchies.
type Group struct {
	host    host.Facts
	manager cgroups.Manager
	paths   []string // directories
}

// Open names the group at path, which need not exist.
func Open(h host.Facts, path string) (*Group, error) {
	return open(h, path, &cgroups.Resources{})
}

func open(h host.Facts, path string, r *cgroups.Resources) (*Group, error) {
	if path == "" || !strings.HasPrefix(path, "/") || path != filepath.Clean(path) || path == "/" {
		return nil, errdef.New(errdef.Invalid, "the control group %q is not a clean absolute path below the root", path)
	}
	c := &cgroups.Cgroup{Path: path, Resources: r, Rootless: !h.Privileged()}
	g := &Group{host: h}
	switch h.Cgroup {
	case host.CgroupUnified:
		m, err := fs2.NewManager(c, filepath.Join(mount, path))
		if err != nil {
			return nil, err
		}
		g.manager, g.paths = m, []string{filepath.Join(mount, path)}
	case host.CgroupV1:
		m, err := fs1.NewManager(c, nil)
		if err != nil {
			return nil, err
		}
		g.manager = m
		for _, p := range m.GetPaths() {
			if !slices.Contains(g.paths, p) {
				g.paths = append(g.paths, p)
			}
		}
		slices.Sort(g.paths)
	default:
		return nil, errdef.New(errdef.Unsupported, "this host has no control groups")
	}
	return g, nil
}

// Create makes the group at path and sets its limits. On an error nothing is left of it.
func Create(h host.Facts, path string, r *specs.LinuxResources) (_ *Group, err error) {
	resources, err := convert(r)
	if err != nil {
		return nil, err
	}
	g, err := open(h, path, resources)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Remove())
		}
	}()
	if err := g.manager.Apply(-1); err != nil {
		return nil, fmt.Errorf("cannot make the control group %s: %w", path, err)
	}
	if err := g.manager.Set(resources); err != nil {
		return nil, fmt.Errorf("cannot set the limits of the control group %s: %w", path, err)
	}
	return g, nil
}

// Set changes the limits of the group.
func (g *Group) Set(r *specs.LinuxResources) error {
	resources, err := convert(r)
	if err != nil {
		return err
	}
	return g.manager.Set(resources)
}

// Procs opens the files through which a process enters the group, one a hierarchy.
func (g *Group) Procs() (_ []*os.File, err error) {
	var files []*os.File
	defer func() {
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
		}
	}()
	for _, p := range g.paths {
		f, err := os.OpenFile(filepath.Join(p, "cgroup.procs"), os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a version 2 tree beside version 1 that the library leaves alone
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// Paths are the directories of the group.
func (g *Group) Paths() []string { return g.paths }

// Exists reports whether the group is there.
func (g *Group) Exists() bool {
	return slices.ContainsFunc(g.paths, func(p string) bool { return unix.Access(p, unix.F_OK) == nil })
}

// PIDs are all processes in the group and below it.
func (g *Group) PIDs() ([]int, error) { return g.manager.GetAllPids() }

// Freeze stops every process of the group, or lets all go on.
func (g *Group) Freeze(frozen bool) error {
	state := cgroups.Thawed
	if frozen {
		state = cgroups.Frozen
	}
	return g.manager.Freeze(state)
}

// Frozen reports whether the group is frozen.
func (g *Group) Frozen() bool {
	state, err := g.manager.GetFreezerState()
	return err == nil && state == cgroups.Frozen
}

// Stats reads what the group has used.
func (g *Group) Stats() (*cgroups.Stats, error) { return g.manager.GetStats() }

// OOMKills counts the processes that the kernel killed because the group's memory ran out.
func (g *Group) OOMKills() uint64 {
	n, err := g.manager.OOMKillCount()
	if err != nil {
		return 0
	}
	return n
}

// Kill sends SIGKILL to all processes of the group. Version 2 has a file for that since Linux 5.14.
func (g *Group) Kill() error {
	if g.host.Cgroup == host.CgroupUnified {
		err := os.WriteFile(filepath.Join(g.paths[0], "cgroup.kill"), []byte("1"), 0)
		if err == nil || errors.Is(err, fs.ErrNotExist) && !g.Exists() {
			return nil
		}
	}
	pids, err := g.manager.GetAllPids()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, pid := range pids {
		kill(pid, g)
	}
	return nil
}

// kill kills pid if, once it cannot become another process any more, it is still in the group.
func kill(pid int, g *Group) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if now, err := g.manager.GetAllPids(); err == nil && slices.Contains(now, pid) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}

// Remove kills what is left in the group and removes it with all groups below. A group that is not there is no error.
func (g *Group) Remove() error {
	if !g.Exists() {
		return nil
	}
	pause := time.Millisecond
	for {
		err := g.rmdir()
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || pause > time.Second {
			return fmt.Errorf("cannot remove the control group: %w", err)
		}
		_ = g.Freeze(false) // a frozen process does not die
		if err := g.Kill(); err != nil {
			return err
		}
		time.Sleep(pause) // until what was killed has left
		pause *= 2
	}
}

func (g *Group) rmdir() error {
	var errs error
	for _, p := range g.paths {
		errs = errors.Join(errs, rmdirAll(p))
	}
	return errs
}

// rmdirAll removes a group and those below it, the lowest first.
func rmdirAll(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	below := false
	for _, e := range entries {
		if e.IsDir() {
			below = true
			if err := rmdirAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if below {
		if err = unix.Rmdir(dir); err == nil || err == unix.ENOENT {
			return nil
		}
	}
	return &os.PathError{Op: "rmdir", Path: dir, Err: err}
}

// convert turns the spec's resources into the library's.
func convert(r *specs.LinuxResources) (*cgroups.Resources, error) {
	out := &cgroups.Resources{}
	if r == nil {
		out.SkipDevices = true
		return out, nil
	}
	out.SkipDevices = len(r.Devices) == 0
	for _, d := range r.Devices {
		rule := &config.Rule{Type: config.WildcardDevice, Major: config.Wildcard, Minor: config.Wildcard, Permissions: config.Permissions(d.Access), Allow: d.Allow}
		switch d.Type {
		case "", "a":
		case "b", "c":
			rule.Type = config.Type(d.Type[0])
		default:
			return nil, errdef.New(errdef.Invalid, "a device rule has the unknown type %q", d.Type)
		}
		if d.Major != nil {
			rule.Major = *d.Major
		}
		if d.Minor != nil {
			rule.Minor = *d.Minor
		}
		out.Devices = append(out.Devices, rule)
	}
	if m := r.Memory; m != nil {
		set(&out.Memory, m.Limit)
		set(&out.MemoryReservation, m.Reservation)
		set(&out.MemorySwap, m.Swap)
		out.MemorySwappiness = m.Swappiness
		if m.DisableOOMKiller != nil {
			out.OomKillDisable = *m.DisableOOMKiller
		}
	}
	if c := r.CPU; c != nil {
		set(&out.CpuShares, c.Shares)
		set(&out.CpuQuota, c.Quota)
		set(&out.CpuPeriod, c.Period)
		set(&out.CpuRtRuntime, c.RealtimeRuntime)
		set(&out.CpuRtPeriod, c.RealtimePeriod)
		out.CpuBurst, out.CPUIdle = c.Burst, c.Idle
		out.CpusetCpus, out.CpusetMems = c.Cpus, c.Mems
		if out.CpuShares != 0 {
			out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(out.CpuShares)
		}
	}
	if p := r.Pids; p != nil {
		out.PidsLimit = p.Limit
	}
	if b := r.BlockIO; b != nil {
		set(&out.BlkioWeight, b.Weight)
		set(&out.BlkioLeafWeight, b.LeafWeight)
		for _, d := range b.WeightDevice {
			var weight, leaf uint16
			set(&weight, d.Weight)
			set(&leaf, d.LeafWeight)
			out.BlkioWeightDevice = append(out.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor, weight, leaf))
		}
		for _, t := range []struct {
			from []specs.LinuxThrottleDevice
			to   *[]*cgroups.ThrottleDevice
		}{
			{b.ThrottleReadBpsDevice, &out.BlkioThrottleReadBpsDevice},
			{b.ThrottleWriteBpsDevice, &out.BlkioThrottleWriteBpsDevice},
			{b.ThrottleReadIOPSDevice, &out.BlkioThrottleReadIOPSDevice},
			{b.ThrottleWriteIOPSDevice, &out.BlkioThrottleWriteIOPSDevice},
		} {
			for _, d := range t.from {
				*t.to = append(*t.to, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
			}
		}
	}
	for _, h := range r.HugepageLimits {
		out.HugetlbLimit = append(out.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
	}
	if n := r.Network; n != nil {
		set(&out.NetClsClassid, n.ClassID)
		for _, p := range n.Priorities {
			out.NetPrioIfpriomap = append(out.NetPrioIfpriomap, &cgroups.IfPrioMap{Interface: p.Name, Priority: int64(p.Priority)})
		}
	}
	for name, l := range r.Rdma {
		if out.Rdma == nil {
			out.Rdma = map[string]cgroups.LinuxRdma{}
		}
		out.Rdma[name] = cgroups.LinuxRdma{HcaHandles: l.HcaHandles, HcaObjects: l.HcaObjects}
	}
	out.Unified = r.Unified
	return out, nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// IDs are the IDs of the containers that have a group, whoever made it.
func IDs(h host.Facts) []string {
	dirs := []string{mount}
	for _, m := range h.CgroupMounts {
		dirs = append(dirs, m.Path)
	}
	var ids []string
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if id, ok := strings.CutPrefix(e.Name(), Prefix); ok && e.IsDir() && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}
