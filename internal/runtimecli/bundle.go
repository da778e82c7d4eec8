package runtimecli

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/spec"
	"berth/internal/runtime/userns"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxConfig is the largest config.json that is read.
const maxConfig = 8 << 20

// bundle is what a container is made from: a directory, its config.json as it is written, and what was read from that.
type bundle struct {
	dir    string
	config []byte
	in     lifecycle.Input
	// scopeInput is the scope that is to be made, if it is systemd that makes the control group.
	scopeInput *cgroup.ScopeInput
}

// open reads a bundle.
func open(id, at string, systemd bool) (*bundle, error) {
	dir, err := filepath.Abs(at)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, errdef.New(errdef.NotFound, "cannot open the bundle: %w", err)
	}
	defer f.Close()
	data, err := disk.ReadBounded(int(f.Fd()), configFile, maxConfig)
	if err != nil {
		return nil, errdef.New(errdef.NotFound, "cannot read the bundle's config.json: %w", err)
	}
	probed := make(chan host.Facts, 1)
	go func() { probed <- host.Probe() }()
	s, err := parseConfig(data)
	if err != nil {
		return nil, errdef.New(errdef.Invalid, "cannot read the bundle's config.json: %w", err)
	}
	if s.Root == nil || s.Process == nil || s.Linux == nil {
		return nil, errdef.New(errdef.Invalid, "the bundle's config.json needs root, process and linux")
	}
	if !filepath.IsAbs(s.Root.Path) {
		s.Root.Path = filepath.Join(dir, s.Root.Path)
	}
	b := &bundle{dir: dir, config: data, in: lifecycle.Input{ID: id, Spec: s, Host: <-probed, MountPoint: s.Root.Path}}
	if err := checkHooks(s.Hooks); err != nil {
		return nil, err
	}
	return b, b.complete(systemd)
}

// complete adds to a spec what it leaves to the runtime.
func (b *bundle) complete(systemd bool) error {
	s, h := b.in.Spec, b.in.Host
	if !h.Privileged() {
		if limited := cgroup.Limited(s.Linux.Resources); len(limited) > 0 {
			return errdef.New(errdef.Unsupported, "cannot limit %s: a process without rights makes no control groups", strings.Join(limited, " and "))
		}
		b.in.Maps = userns.Maps{UID: s.Linux.UIDMappings, GID: s.Linux.GIDMappings, Single: len(s.Linux.UIDMappings) == 1 && s.Linux.UIDMappings[0].Size == 1}
		return nil
	}
	b.in.Maps = userns.Maps{UID: s.Linux.UIDMappings, GID: s.Linux.GIDMappings}
	if s.Linux.Resources == nil {
		s.Linux.Resources = &specs.LinuxResources{}
	}
	// A bundle's rules for devices come before what every container may use (config-linux.md, "Default Devices").
	if len(s.Linux.Resources.Devices) > 0 {
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, spec.DefaultDeviceRules()...)
	}
	if systemd {
		return b.scope()
	}
	b.in.Driver = cgroup.FS
	if s.Linux.CgroupsPath == "" {
		s.Linux.CgroupsPath = cgroup.PathOf(h, cgroup.FS, "", b.in.ID)
	}
	s.Linux.CgroupsPath = filepath.Join("/", s.Linux.CgroupsPath)
	return nil
}

// scope chooses the scope that systemd is to make.
func (b *bundle) scope() error {
	h, linux := b.in.Host, b.in.Spec.Linux
	if _, err := cgroup.Choose(h, cgroup.Systemd); err != nil {
		return err
	}
	slice, unit := "", cgroup.ScopeName(b.in.ID)
	if linux.CgroupsPath == "" {
		slice = cgroup.Slice(h)
	} else {
		var err error
		if slice, unit, err = cgroup.Unit(h, linux.CgroupsPath); err != nil {
			return err
		}
	}
	b.in.Driver, linux.CgroupsPath = cgroup.Systemd, cgroup.PathOfUnit(h, slice, unit)
	b.scopeInput = &cgroup.ScopeInput{ID: b.in.ID, Description: "container " + b.in.ID, Slice: slice, Unit: unit, Resources: linux.Resources, StopTimeout: stopTimeout}
	return nil
}

// stopTimeout is how long the processes of a scope may take to end when it is stopped, as systemd has it for services.
const stopTimeout = 90 * time.Second

// groupIsFree refuses a control group in which somebody is: two containers would be limited, stopped and killed together.
func (b *bundle) groupIsFree() error {
	if b.in.Driver == "" {
		return nil
	}
	g, err := cgroup.Open(b.in.Host, b.in.Spec.Linux.CgroupsPath)
	if err != nil {
		return err
	}
	pids, _ := g.PIDs() // none, where there is no group
	if len(pids) == 0 {
		return nil
	}
	return errdef.New(errdef.Conflict, "container's control group %s is not empty: %d processes are in it", g.Path(), len(pids))
}
