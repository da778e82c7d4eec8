package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Setting is one value in one file of a group.
type Setting struct {
	Controller string // whose file it is; "" of version 2 for a file named by the spec itself (unified)
	File       string // its name, without a directory
	Value      string
	// Optional settings may be impossible on this kernel: nobody has asked for them.
	Optional bool
	// Else takes its place where there is no such file.
	Else *Setting
}

// Settings are the limits of a spec, in the order in which they are written. Rules for devices are not among them: version 2
// has no files for them (limitDevices).
func (g *Group) Settings(r *specs.LinuxResources) ([]Setting, error) {
	if r == nil {
		return nil, nil
	}
	l := &list{}
	if g.host.Cgroup == host.CgroupUnified {
		l.version2(r)
	} else {
		l.version1(r)
		if len(r.Unified) > 0 {
			l.err = errdef.New(errdef.Unsupported, "invalid configuration: limits under \"unified\" need version 2 of control groups, and this host has version 1")
		}
	}
	return l.settings, l.err
}

// list collects settings.
type list struct {
	settings []Setting
	err      error
}

func (l *list) set(controller, file, value string) {
	l.settings = append(l.settings, Setting{Controller: controller, File: file, Value: value})
}

func number[T int64 | uint64 | uint32 | uint16](n T) string { return fmt.Sprint(n) }

// given sets a value that the spec may leave out; a zero means the same.
func given[T int64 | uint64 | uint32 | uint16](l *list, controller, file string, n *T) {
	if n != nil && *n != 0 {
		l.set(controller, file, number(*n))
	}
}

func device(major, minor int64) string { return fmt.Sprintf("%d:%d", major, minor) }

// apply writes settings. One that the kernel calls invalid is tried again after all others, since some hold only together
// with another one (a memory limit above the limit of memory and swap, a quota above the old period).
func (g *Group) apply(settings []Setting) error {
	var again []Setting
	for _, s := range settings {
		err := g.put(s)
		if errors.Is(err, unix.EINVAL) {
			again = append(again, s)
			continue
		}
		if err != nil && !s.Optional {
			return err
		}
	}
	for _, s := range again {
		if err := g.put(s); err != nil && !s.Optional {
			return err
		}
	}
	return nil
}

func (g *Group) put(s Setting) error {
	dir := g.v2
	if g.host.Cgroup == host.CgroupV1 {
		d, ok := g.v1With(s.Controller)
		if !ok {
			return g.lacks(s)
		}
		dir = d.path
	}
	err := write(dir+"/"+s.File, s.Value)
	switch {
	case errors.Is(err, unix.ENOENT) && s.Else != nil:
		return g.put(*s.Else)
	case errors.Is(err, unix.ENOENT):
		return g.lacks(s)
	case errors.Is(err, unix.EBUSY) && s.File == "memory.limit_in_bytes":
		return errdef.New(errdef.Conflict, "unable to set memory limit to %s (current usage: %d, peak usage: %d): %w", s.Value, value(dir+"/memory.usage_in_bytes"), value(dir+"/memory.max_usage_in_bytes"), err)
	case errors.Is(err, unix.EBUSY):
		return errdef.New(errdef.Conflict, "cannot set %s of the control group %s to %s: more than that is in use: %w", s.File, g.path, s.Value, err)
	case err != nil:
		return errdef.As(errdef.Invalid, fmt.Errorf("cannot set %s of the control group %s to %q: %w", s.File, g.path, s.Value, err))
	}
	return nil
}

// lacks says that a limit cannot be set here.
func (g *Group) lacks(s Setting) error {
	controller := s.Controller
	if controller == "" {
		controller, _, _ = strings.Cut(s.File, ".")
	}
	err := errdef.New(errdef.Unsupported, "cannot set %s of the control group %s: the controller %q has no such file here", s.File, g.path, controller)
	return errdef.Hint(err, "`berth system check` says which limits this host can set")
}

// prepare makes the group ready for settings and processes: in version 1 a cpuset is of no use until it has processors
// and memory (cpusets(7)), and in version 2 controllers are handed down from the root.
func (g *Group) prepare(settings []Setting) error {
	if d, ok := g.v1With("cpuset"); ok {
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			var err error
			if slices.ContainsFunc(settings, func(s Setting) bool { return s.File == file }) {
				_, err = filled(d.above(), file)
			} else {
				err = inherit(d, file)
			}
			if err != nil {
				return err
			}
		}
	}
	if g.host.Cgroup == host.CgroupUnified {
		return g.enable(settings)
	}
	return nil
}

// inherit gives a file of a cpuset the value of the group above.
func inherit(d directory, file string) error {
	if d.path == d.root {
		return nil
	}
	value, err := filled(d.above(), file)
	if err != nil {
		return err
	}
	return write(d.path+"/"+file, value)
}

// filled is the value of a file of a cpuset, which gets that of the group above if it has none: no group may have more than the one above.
func filled(d directory, file string) (string, error) {
	value, err := disk.Read(d.path + "/" + file)
	if err == nil && len(bytes.TrimSpace(value)) == 0 {
		if err := inherit(d, file); err != nil {
			return "", err
		}
		value, err = disk.Read(d.path + "/" + file)
	}
	return string(bytes.TrimSpace(value)), err
}

// enable switches on, in all groups from the base on, the controllers of settings and those by which a container is watched. What
// cannot be switched on is found out by whoever needs it: its files are not there.
func (g *Group) enable(settings []Setting) error {
	wanted := []string{"cpu", "io", "memory", "pids"}
	for _, s := range settings {
		controller := s.Controller
		if controller == "" {
			controller, _, _ = strings.Cut(s.File, ".")
		}
		if !slices.Contains(wanted, controller) && controller != "cgroup" {
			wanted = append(wanted, controller)
		}
	}
	if len(settings) == 0 && inhabited(mount+g.base) {
		return nil // nothing is limited, and a group with processes of its own can hand nothing down
	}
	if g.base == "/" {
		if err := emptyRoot(); err != nil {
			return err
		}
	}
	above := filepath.Join(mount, g.base)
	for name := range strings.SplitSeq(strings.Trim(strings.TrimPrefix(g.path, g.base), "/"), "/") {
		if err := handDown(above, wanted); err != nil {
			return err
		}
		above += "/" + name
	}
	return nil
}

// handDown gives the groups below a group those of the wanted controllers that it has.
func handDown(dir string, wanted []string) error {
	has, err := disk.Read(dir + "/cgroup.controllers")
	if err != nil {
		return err
	}
	gives, err := disk.Read(dir + "/cgroup.subtree_control")
	if err != nil {
		return err
	}
	available, given := strings.Fields(string(has)), strings.Fields(string(gives))
	var missing []string
	for _, c := range wanted {
		if slices.Contains(available, c) && !slices.Contains(given, c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 || write(dir+"/cgroup.subtree_control", strings.Join(missing, " ")) == nil {
		return nil
	}
	for _, c := range missing { // each by itself: all or none of a line is done
		if err := write(dir+"/cgroup.subtree_control", c); errors.Is(err, unix.EROFS) {
			return err
		}
	}
	return nil
}

// inhabited reports whether a group has processes of its own and is not the root of all: then it cannot hand controllers down
// ("no internal processes", Documentation/admin-guide/cgroup-v2.rst), and where it does, its children take no processes.
func inhabited(dir string) bool {
	if unix.Access(dir+"/cgroup.type", unix.F_OK) != nil {
		return false // the root of all has no such file
	}
	procs, err := disk.Read(dir + "/cgroup.procs")
	return err == nil && len(procs) > 0
}

// emptyRoot moves the processes that live in the root of a cgroup namespace, as those of a container in which berth runs do,
// into a group of their own: what is above all other groups may not have any.
func emptyRoot() error {
	const own = mount + "/init"
	for range 10 { // a process may fork while it is moved
		if !inhabited(mount) {
			return nil
		}
		if err := mkdir(own); err != nil {
			return err
		}
		procs, err := disk.Read(mount + "/cgroup.procs")
		if err != nil {
			return err
		}
		for _, pid := range strings.Fields(string(procs)) {
			if err := write(own+"/cgroup.procs", pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("cannot move process %s of this control group out of the way: %w", pid, err)
			}
		}
	}
	return nil
}

// throttles are the limits of a block device's traffic.
func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"blkio.throttle.read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"blkio.throttle.write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"blkio.throttle.read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"blkio.throttle.write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

type throttle struct {
	file, key string // of version 1; of io.max in version 2
	devices   []specs.LinuxThrottleDevice
}

// limitOf writes a limit, of which -1 is none.
func limitOf(n int64, none string) string {
	if n < 0 {
		return none
	}
	return strconv.FormatInt(n, 10)
}
