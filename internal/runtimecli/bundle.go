package runtimecli

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
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
func (s Store) open(o Options, create bool) (*bundle, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, errdef.New(errdef.NotFound, "cannot open the bundle: %w", err)
	}
	defer f.Close()
	data, err := readConfig(f, o.Config)
	if err != nil {
		return nil, errdef.New(errdef.NotFound, "cannot read the bundle's config.json: %w", err)
	}
	probed := make(chan host.Facts, 1)
	go func() { probed <- host.Probe() }()
	c, err := parseConfig(data)
	if err != nil {
		return nil, errdef.New(errdef.Invalid, "cannot read the bundle's config.json: %w", err)
	}
	if c.Process == nil && create {
		c.Process = placeholder()
	}
	if c.Root == nil || c.Process == nil || c.Linux == nil {
		return nil, errdef.New(errdef.Invalid, "the bundle's config.json needs root, process and linux")
	}
	if !filepath.IsAbs(c.Root.Path) {
		c.Root.Path = filepath.Join(dir, c.Root.Path)
	}
	for i, m := range c.Mounts {
		bound := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
		if bound && m.Source != "" && !filepath.IsAbs(m.Source) { // config.md, "Mounts": relative to the bundle
			c.Mounts[i].Source = filepath.Join(dir, m.Source)
		}
	}
	b := &bundle{dir: dir, config: data, in: lifecycle.Input{ID: o.ID, Spec: c, Host: <-probed, MountPoint: c.Root.Path}}
	if err := checkHooks(c.Hooks); err != nil {
		return nil, err
	}
	return b, b.complete(s)
}

// placeholder is the process of a container that is created without one, which it needs only to be started (config.md, "Process"): it waits at
// its gate until the container is deleted. What it would execute cannot be.
func placeholder() *specs.Process {
	return &specs.Process{Cwd: "/", Args: []string{"/"}}
}

// readConfig reads the config.json of a bundle, or the file that is named in its place, which may be anywhere.
func readConfig(bundle *os.File, named string) ([]byte, error) {
	if named == "" {
		return disk.ReadBounded(int(bundle.Fd()), configFile, maxConfig)
	}
	at, err := filepath.Abs(named)
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(at))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return disk.ReadBounded(int(dir.Fd()), filepath.Base(at), maxConfig)
}

// complete adds to a spec what it leaves to the runtime.
func (b *bundle) complete(s Store) error {
	linux, h := b.in.Spec.Linux, b.in.Host
	if err := errors.Join(checkVersion(b.in.Spec.Version), checkAnnotations(b.in.Spec.Annotations), checkDevices(linux), checkListener(linux.Seccomp), leaveOutOwn(linux)); err != nil {
		return err
	}
	s.grant(b.in.Spec.Process, h, slices.ContainsFunc(linux.Namespaces, isUser))
	b.keepModes()
	b.in.MakeWorkdir = true
	completeEnv(b.in.Spec.Process, func() []byte { return passwdOf(b.in.Spec) })
	maps, err := mapsOf(linux, h)
	if err != nil {
		return err
	}
	b.in.Maps = maps
	if maps.Single && len(b.in.Spec.Process.User.AdditionalGids) > 0 {
		err := errdef.New(errdef.Denied, "cannot set any additional groups in a rootless container: a user who maps only his own group may not")
		return errdef.Hint(err, "leave out process.user.additionalGids, or map a range of /etc/subgid in linux.gidMappings")
	}
	if h.Privileged() && linux.Resources == nil {
		linux.Resources = &specs.LinuxResources{}
	}
	// A bundle's rules for devices come before what every container may use (config-linux.md, "Default Devices").
	if r := linux.Resources; r != nil && len(r.Devices) > 0 {
		r.Devices = append(r.Devices, spec.DefaultDeviceRules()...)
	}
	switch {
	case s.NoCgroup:
		return b.ungrouped(errdef.New(errdef.Invalid, "the container has no control group: control groups are disabled"))
	case s.Systemd:
		return b.scope()
	}
	if s.tolerant(h) && linux.CgroupsPath == "" {
		return b.delegated()
	}
	if linux.CgroupsPath == "" {
		linux.CgroupsPath = b.in.ID // as runc names it
	}
	b.in.Driver, linux.CgroupsPath = cgroup.FS, filepath.Join("/", linux.CgroupsPath)
	return nil
}

// mapsOf are the id maps of a container's user namespace.
func mapsOf(linux *specs.Linux, h host.Facts) (userns.Maps, error) {
	m := userns.Maps{UID: linux.UIDMappings, GID: linux.GIDMappings}
	own, joined := false, false
	for _, n := range linux.Namespaces {
		if n.Type == specs.UserNamespace {
			own, joined = n.Path == "", n.Path != ""
		}
	}
	mapped := len(m.UID) > 0 && len(m.GID) > 0
	switch {
	case own && !mapped:
		return m, errdef.New(errdef.Invalid, "a container with a user namespace of its own needs linux.uidMappings and linux.gidMappings")
	case !own && len(m.UID)+len(m.GID) > 0:
		return m, errdef.New(errdef.Invalid, "linux.uidMappings and linux.gidMappings need a user namespace of the container's own")
	case h.Privileged():
		return m, nil
	case !own && !joined:
		err := errdef.New(errdef.Denied, "rootless containers need a user namespace: config.json has none")
		return m, errdef.Hint(err, "`berth runtime spec --rootless` writes an example with one")
	}
	// The one id that needs nobody's permission; everything else is mapped by newuidmap and newgidmap.
	m.Single = own && only(m.UID, h.UID) && only(m.GID, h.GID)
	return m, nil
}

func isUser(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }

// only reports whether a map has one id, which is that one here.
func only(m []specs.LinuxIDMapping, id int) bool {
	return len(m) == 1 && m[0].Size == 1 && int(m[0].HostID) == id
}

// tolerant reports whether a container goes without a control group where none may be made for it.
func (s Store) tolerant(h host.Facts) bool {
	if s.Rootless == "" || s.Rootless == "auto" {
		return !h.Privileged() || h.InUserNS
	}
	return s.Rootless == "true"
}

// delegated chooses a control group where one may be made, or none; then there can be no limits.
func (b *bundle) delegated() error {
	h, linux := b.in.Host, b.in.Spec.Linux
	if path := cgroup.PathOf(h, cgroup.FS, "", b.in.ID); h.Cgroup != host.CgroupNone {
		g, err := cgroup.Open(h, path)
		if err != nil {
			return err
		}
		if g.Permitted() {
			b.in.Driver, linux.CgroupsPath = cgroup.FS, path
			return nil
		}
	}
	return b.ungrouped(errdef.Hint(
		errdef.New(errdef.Unsupported, "no control group may be made here, since none is delegated to this user (rootless needs no limits + no cgrouppath when no permission is granted for cgroups)"),
		"leave out linux.resources, or have a version 2 group delegated (systemd: Delegate=yes)"))
}

// ungrouped leaves the container without a control group, unless it has limits: there is none because of why.
func (b *bundle) ungrouped(why error) error {
	if limited := cgroup.Limited(b.in.Spec.Linux.Resources); len(limited) > 0 {
		return errdef.Hint(errdef.New(errdef.KindOf(why), "cannot limit %s: %w", strings.Join(limited, " and "), why), "%s", errdef.HintOf(why))
	}
	b.in.Driver, b.in.Spec.Linux.CgroupsPath = cgroup.None, ""
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
	if b.in.Driver == "" || b.in.Driver == cgroup.None {
		return nil
	}
	g, err := cgroup.Open(b.in.Host, b.in.Spec.Linux.CgroupsPath)
	if err != nil {
		return err
	}
	pids, _ := g.PIDs() // none, where there is no group
	switch {
	case len(pids) > 0:
		return errdef.New(errdef.Conflict, "container's cgroup is not empty: %d process(es) found in %s", len(pids), g.Path())
	case g.Frozen():
		return errdef.New(errdef.Conflict, "container's cgroup unexpectedly frozen: %s", g.Path())
	}
	return nil
}
