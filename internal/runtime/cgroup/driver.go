package cgroup

import (
	"path"
	"slices"
	"strings"

	"berth/internal/errdef"
	"berth/internal/host"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Driver is who makes the groups of containers, in docker's words.
type Driver string

const (
	// Systemd is asked for a scope, a unit of processes that it has not started; the group is below it.
	Systemd Driver = "systemd"
	// FS is the cgroup file system: groups are made there, by mkdir.
	FS Driver = "cgroupfs"
	// None is where no group can be made.
	None Driver = "none"
)

// Choice is a driver and, in a few words, why it is that one.
type Choice struct {
	Driver Driver
	Why    string
}

// Choose chooses a driver: systemd where it runs and can be asked, for it says that the tree is its own and nobody else shall make
// groups in it (https://systemd.io/CGROUP_DELEGATION); else the cgroup file system. wanted is a driver's name, or empty.
func Choose(h host.Facts, wanted Driver) (Choice, error) {
	switch wanted {
	case "":
		if len(h.Groups.Systemd) > 0 {
			return Choice{Systemd, "it can be asked at " + h.Groups.Systemd[0].Path}, nil
		}
		return byHand(h, withoutSystemd(h)), nil
	case Systemd:
		if len(h.Groups.Systemd) > 0 {
			return Choice{Systemd, asSet}, nil
		}
		err := errdef.New(errdef.Unsupported, "cannot have systemd make control groups: %s", withoutSystemd(h))
		return Choice{}, errdef.Hint(err, "leave out the setting cgroup-manager")
	case FS:
		return byHand(h, asSet), nil
	}
	return Choice{}, errdef.New(errdef.Invalid, "the setting cgroup-manager is %q, and should be %s or %s", wanted, Systemd, FS)
}

const asSet = "as cgroup-manager says"

// byHand is the choice without systemd, which is passed over for that reason.
func byHand(h host.Facts, passedOver string) Choice {
	switch {
	case h.Cgroup == host.CgroupNone || h.Cgroup == "":
		return Choice{None, "no control groups are mounted"}
	case h.Cgroup == host.CgroupV1 && h.Root():
		return Choice{FS, passedOver}
	case h.Cgroup == host.CgroupV1:
		return Choice{None, "version 1 of control groups cannot be delegated to a user"}
	case h.Groups.Top(), h.Root() && h.Groups.OuterUID == 0:
		return Choice{FS, passedOver}
	case h.Groups.Base != "":
		return Choice{FS, passedOver + "; delegated to this user is " + h.Groups.Base}
	}
	return Choice{None, passedOver + "; no control group is delegated to this user"}
}

// withoutSystemd is why systemd makes no groups.
func withoutSystemd(h host.Facts) string {
	switch {
	case h.Cgroup != host.CgroupUnified:
		return "control groups are not of version 2 alone"
	case h.Groups.Top():
		return "no systemd runs here"
	}
	return "no systemd of this user can be asked"
}

// Slice is the slice in which scopes are made: docker's for root, podman's for users.
func Slice(h host.Facts) string {
	if h.Groups.Top() {
		return "system.slice"
	}
	return "user.slice"
}

// ScopeName is the unit of the container with that ID.
func ScopeName(id string) string { return Prefix + id + ".scope" }

// The groups below a scope, which has no process of its own: one that has any can hand no controllers down. The monitor is not the
// container's to limit.
const (
	containerGroup  = "/container"
	supervisorGroup = "/supervisor"
)

// CheckParent refuses a parent that a driver cannot make groups in: systemd knows slices alone.
func CheckParent(d Driver, parent string) error {
	switch {
	case parent == "":
		return nil
	case d == None:
		return errdef.Hint(errdef.New(errdef.Unsupported, "cannot make the container's control group in %q: there are none here", parent), "`berth info` says why")
	case d == FS && !slices.Contains(strings.Split(parent, "/"), ".."):
		return nil
	case d == FS:
		return errdef.New(errdef.Invalid, "the control group %q leads out of where it is: leave out \"..\"", parent)
	}
	name, ok := strings.CutSuffix(parent, ".slice")
	if !ok || name != "-" && (strings.Trim(name, unitCharacters) != "" || slices.Contains(strings.Split(name, "-"), "")) {
		return errdef.New(errdef.Invalid, "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"")
	}
	return nil
}

// unitCharacters are those of the names of units (systemd.unit(5)) that need no escape in a path.
const unitCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.-"

// slicePath is where a slice is: its name says so, part by part ("a-b.slice" is in "a.slice"; systemd.slice(5)).
func slicePath(name string) string {
	all, name := "", strings.TrimSuffix(name, ".slice")
	if name == "-" {
		return ""
	}
	for i, c := range name {
		if c == '-' {
			all = path.Join(all, name[:i]+".slice")
		}
	}
	return path.Join(all, name+".slice")
}

// PathOf is the group of the container with that ID in a parent, or in the one that the driver chooses; empty with no driver.
func PathOf(h host.Facts, d Driver, parent, id string) string {
	switch d {
	case Systemd:
		if parent == "" {
			parent = Slice(h)
		}
		return PathOfUnit(h, parent, ScopeName(id))
	case FS:
		base := "/"
		if h.Cgroup == host.CgroupUnified && h.Groups.Base != "" {
			base = h.Groups.Base
		}
		return path.Join(base, parent, Prefix+id)
	}
	return ""
}

// PathsOf are the groups that the container with that ID may have here in a parent, or by default, whoever has made them.
func PathsOf(h host.Facts, parent, id string) []string {
	var all []string
	if byHand(h, "").Driver == FS && CheckParent(FS, parent) == nil {
		all = append(all, PathOf(h, FS, parent, id))
	}
	if len(h.Groups.Systemd) > 0 && CheckParent(Systemd, parent) == nil {
		all = append(all, PathOf(h, Systemd, parent, id))
	}
	return all
}

// Unit is the scope that an engine names for a container, with the driver systemd: cgroupsPath is "SLICE:PREFIX:NAME" (runc's form), and the
// slice may be empty.
func Unit(h host.Facts, cgroupsPath string) (slice, scope string, err error) {
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 || parts[2] == "" {
		return "", "", errdef.New(errdef.Invalid, "cgroupsPath is %q, and with systemd should be of the form \"slice:prefix:name\"", cgroupsPath)
	}
	slice, scope = parts[0], parts[2]+".scope"
	if slice == "" {
		slice = Slice(h)
	}
	if parts[1] != "" {
		scope = parts[1] + "-" + scope
	}
	if strings.Trim(scope, unitCharacters) != "" {
		return "", "", errdef.New(errdef.Invalid, "%q cannot be the name of a scope", scope)
	}
	return slice, scope, CheckParent(Systemd, slice)
}

// PathOfUnit is the group of the container that has that scope.
func PathOfUnit(h host.Facts, slice, scope string) string {
	return path.Join(h.Groups.ManagerGroup(), slicePath(slice), scope) + containerGroup
}

// scopeOf is the group of the scope in which a group is; empty if it is in none of ours.
func scopeOf(group string) string {
	if scope, ok := strings.CutSuffix(group, containerGroup); ok && strings.HasPrefix(path.Base(scope), Prefix) && strings.HasSuffix(scope, ".scope") {
		return scope
	}
	return ""
}

// Limited names what the resources limit, in the words of docker's flags; devices are not among it.
func Limited(r *specs.LinuxResources) []string {
	var names []string
	if r == nil {
		return nil
	}
	if r.Memory != nil {
		names = append(names, "memory")
	}
	if r.CPU != nil {
		names = append(names, "processors")
	}
	if r.Pids != nil {
		names = append(names, "pids")
	}
	if r.BlockIO != nil {
		names = append(names, "block devices")
	}
	if len(r.HugepageLimits) > 0 {
		names = append(names, "huge pages")
	}
	if len(r.Rdma) > 0 {
		names = append(names, "RDMA")
	}
	for file := range r.Unified {
		names = append(names, file)
	}
	slices.Sort(names)
	return names
}
