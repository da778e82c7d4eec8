package runtimecli

import (
	"os"
	"path/filepath"

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
}

// open reads a bundle.
func open(id, at string) (*bundle, error) {
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
	return b, b.complete()
}

// complete adds to a spec what it leaves to the runtime.
func (b *bundle) complete() error {
	s, h := b.in.Spec, b.in.Host
	if !h.Privileged() {
		b.in.Maps = userns.Maps{UID: s.Linux.UIDMappings, GID: s.Linux.GIDMappings, Single: len(s.Linux.UIDMappings) == 1 && s.Linux.UIDMappings[0].Size == 1}
		return nil
	}
	b.in.Maps, b.in.Driver = userns.Maps{UID: s.Linux.UIDMappings, GID: s.Linux.GIDMappings}, cgroup.FS
	if s.Linux.CgroupsPath == "" {
		s.Linux.CgroupsPath = cgroup.PathOf(h, cgroup.FS, "", b.in.ID)
	}
	s.Linux.CgroupsPath = filepath.Join("/", s.Linux.CgroupsPath)
	if s.Linux.Resources == nil {
		s.Linux.Resources = &specs.LinuxResources{}
	}
	// A bundle's rules for devices come before what every container may use (config-linux.md, "Default Devices").
	if len(s.Linux.Resources.Devices) > 0 {
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, spec.DefaultDeviceRules()...)
	}
	return nil
}

// groupIsFree refuses a control group in which somebody is: two containers would be limited, stopped and killed together.
func (b *bundle) groupIsFree() error {
	if b.in.Driver != cgroup.FS {
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
