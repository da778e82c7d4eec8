package cgroup

import (
	"fmt"
	"slices"
	"strings"

	"berth/internal/errdef"
	"berth/internal/host"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rule allows or denies access to devices. A later rule overrides an earlier one, for the kinds of access that both name.
type rule struct {
	allow        bool
	kind         byte // 'a', 'b' or 'c'
	major, minor int64
	access       string // of "rwm"
}

// every stands for all numbers.
const every = -1

// rules checks the spec's rules.
func rules(from []specs.LinuxDeviceCgroup) ([]rule, error) {
	var all []rule
	for _, d := range from {
		r := rule{allow: d.Allow, kind: 'a', major: every, minor: every, access: d.Access}
		switch d.Type {
		case "", "a":
		case "b", "c":
			r.kind = d.Type[0]
		default:
			return nil, errdef.New(errdef.Invalid, "a rule for devices has the unknown type %q", d.Type)
		}
		if r.access == "" {
			r.access = "rwm"
		}
		if strings.Trim(r.access, "rwm") != "" {
			return nil, errdef.New(errdef.Invalid, "a rule for devices has the unknown access %q", d.Access)
		}
		if d.Major != nil {
			r.major = *d.Major
		}
		if d.Minor != nil {
			r.minor = *d.Minor
		}
		all = append(all, r)
	}
	return all, nil
}

// everything reports whether the rule is about every access to every device.
func (r rule) everything() bool {
	return r.kind == 'a' && r.major == every && r.minor == every && len(r.access) == 3
}

// limitDevices sets which devices the group's processes may use.
func (g *Group) limitDevices(r *specs.LinuxResources) error {
	if r == nil || len(r.Devices) == 0 {
		return nil
	}
	all, err := rules(r.Devices)
	if err != nil {
		return err
	}
	if len(all) == 1 && all[0].everything() && all[0].allow {
		return nil // a new group may use what the group above may use, and that is all that can be given
	}
	if g.host.Cgroup == host.CgroupUnified {
		if g.host.Groups.OuterUID != 0 || !g.host.Groups.Top() {
			return nil // a user may load no filter, and needs none: nodes of devices can neither be made nor used in a user namespace
		}
		return g.filterDevices(all)
	}
	d, ok := g.v1With("devices")
	if !ok {
		return errdef.New(errdef.Unsupported, "cannot set which devices the control group %s may use: this host has no controller \"devices\"", g.path)
	}
	return writeRules(d.path, all)
}

// writeRules writes rules to the two files of version 1 (Documentation/admin-guide/cgroup-v1/devices.rst), each opened once.
func writeRules(dir string, all []rule) error {
	files := map[bool]int{}
	defer func() {
		for _, fd := range files {
			_ = unix.Close(fd)
		}
	}()
	for _, r := range withoutRepeats(all) {
		fd, ok := files[r.allow]
		if !ok {
			path := dir + "/devices.deny"
			if r.allow {
				path = dir + "/devices.allow"
			}
			var err error
			if fd, err = unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0); err != nil {
				return fmt.Errorf("cannot open %s: %w", path, err)
			}
			files[r.allow] = fd
		}
		for _, line := range r.lines() {
			if _, err := unix.Write(fd, []byte(line)); err != nil {
				return fmt.Errorf("cannot set the rule %q for devices: %w", line, err)
			}
		}
	}
	return nil
}

// withoutRepeats leaves out a rule that was said before, if none of the other kind came between them: an engine's bundle mostly has the rules
// that every container gets besides.
func withoutRepeats(all []rule) []rule {
	var kept []rule
	since := 0 // in kept: where the last rule of the other kind is behind
	for _, r := range all {
		if len(kept) > 0 && kept[len(kept)-1].allow != r.allow {
			since = len(kept)
		}
		if !slices.Contains(kept[since:], r) {
			kept = append(kept, r)
		}
	}
	return kept
}

// lines are the rule in version 1's words, where "a" means everything whatever else the line says.
func (r rule) lines() []string {
	if r.kind != 'a' {
		return []string{r.line(r.kind)}
	}
	if r.everything() {
		return []string{"a"}
	}
	return []string{r.line('b'), r.line('c')}
}

func (r rule) line(kind byte) string {
	number := func(n int64) string {
		if n == every {
			return "*"
		}
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%c %s:%s %s", kind, number(r.major), number(r.minor), r.access)
}
