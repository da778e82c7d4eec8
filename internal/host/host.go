// Package host gathers the facts about this machine that decide how a container is made, once, as a plain
// value. Whoever decides takes a Facts; only Probe looks. It changes nothing on the host, and judges nothing:
// what a missing feature means is said by those who need it.
package host

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"

	"berth/internal/disk"

	"golang.org/x/sys/unix"
)

// Version is the release of a kernel.
type Version struct{ Major, Minor int }

// AtLeast reports whether v is major.minor or newer.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// CgroupMode is how the control groups of a host are arranged.
type CgroupMode string

const (
	CgroupNone    CgroupMode = "none"    // nothing is mounted
	CgroupV1      CgroupMode = "v1"      // one hierarchy a controller (a version 2 tree beside it has none)
	CgroupUnified CgroupMode = "unified" // version 2 alone
)

// Facts is what the making of a container depends on. The zero value is a host that can do nothing.
type Facts struct {
	Arch     string // GOARCH's word
	Kernel   Version
	Release  string // uname -r
	UID, GID int
	// InUserNS reports a user namespace that is not the machine's first, SingleID one that maps a single id, NoSetgroups one in
	// which setgroups(2) is forbidden.
	InUserNS, SingleID, NoSetgroups bool
	// LastGroup is the greatest group up to which there are all, at most 2^31-1.
	LastGroup uint32
	// Rootless says that this is the user namespace of a user's containers, and UID is 0 only in there.
	Rootless bool
	// Caps are the capabilities in effect here, one bit each (linux/capability.h).
	Caps    uint64
	LastCap int
	// Bounding are the capabilities that a child may have at most.
	Bounding uint64

	Cgroup CgroupMode
	// CgroupMounts are the hierarchies of version 1: where each is mounted, and its options ("cpu,cpuacct" or
	// "name=systemd").
	CgroupMounts []CgroupMount
	// CgroupBeside is where a hierarchy of version 2 is mounted beside version 1, as systemd's "hybrid" has it, or empty.
	CgroupBeside string

	// Groups is where groups can be made.
	Groups Groups

	// MaxFiles is the hard limit of open files of one process.
	MaxFiles uint64

	AppArmor bool
	SELinux  bool
	Seccomp  bool
	// Clone3 reports clone3(2), Linux 5.3, which sandboxes hide.
	Clone3 bool
}

// CgroupMount is one mounted hierarchy of cgroup version 1.
type CgroupMount struct{ Path, Options string }

// MountSetattr reports mount_setattr(2), Linux 5.12.
func (f Facts) MountSetattr() bool { return f.Kernel.AtLeast(5, 12) }

// OverlayByFD reports that the layers of an overlay mount can be given as descriptors, Linux 6.13.
func (f Facts) OverlayByFD() bool { return f.Kernel.AtLeast(6, 13) }

// CloseRangeCloexec reports CLOSE_RANGE_CLOEXEC, Linux 5.11.
func (f Facts) CloseRangeCloexec() bool { return f.Kernel.AtLeast(5, 11) }

// Privileged reports whether this process may make containers without another user namespace: it is root, of the machine or of a
// user namespace.
func (f Facts) Privileged() bool { return f.UID == 0 && f.Caps&(1<<unix.CAP_SYS_ADMIN) != 0 }

// Root reports whether this process is root of what it takes for the machine, and not only of a user's containers.
func (f Facts) Root() bool { return f.Privileged() && !f.Rootless }

// Probe looks at this machine. Whatever cannot be read counts as absent.
func Probe() Facts {
	f := Facts{Arch: runtime.GOARCH, UID: os.Geteuid(), GID: os.Getegid()}
	f.Release = Release()
	f.Kernel = parseRelease(f.Release)
	f.InUserNS, f.SingleID = userNamespace()
	f.LastGroup = lastGroup(readAll("/proc/self/gid_map"))
	f.NoSetgroups = f.InUserNS && first("/proc/self/setgroups") == 'd' // deny
	_, f.Rootless = Inside()
	f.Caps, f.Bounding = capabilities()
	f.LastCap = lastCap()
	f.Cgroup, f.CgroupMounts, f.CgroupBeside = cgroups()
	f.Groups = groups(f.Cgroup)
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		f.MaxFiles = files.Max
	}
	f.AppArmor = first("/sys/module/apparmor/parameters/enabled") == 'Y' && exists("/sys/kernel/security/apparmor")
	f.SELinux = exists("/sys/fs/selinux/enforce")
	f.Seccomp = exists("/proc/sys/kernel/seccomp")
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	f.Clone3 = errno == unix.EINVAL // arguments of no size are invalid
	return f
}

// Release is the kernel's release as uname(2) says it.
func Release() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

func parseRelease(release string) Version {
	major, rest, _ := strings.Cut(release, ".")
	minor := rest
	for i, c := range rest {
		if c < '0' || c > '9' {
			minor = rest[:i]
			break
		}
	}
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	return Version{a, b}
}

func capabilities() (effective, bounding uint64) {
	effective = effectiveCapabilities()
	for c := range uintptr(64) {
		got, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err != nil {
			break
		}
		bounding |= uint64(got) << c
	}
	return effective, bounding
}

func effectiveCapabilities() uint64 {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return 0
	}
	return uint64(data[0].Effective) | uint64(data[1].Effective)<<32
}

func lastCap() int {
	data, err := disk.Read("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return unix.CAP_LAST_CAP
	}
	n, err := strconv.Atoi(string(bytes.TrimSpace(data)))
	if err != nil {
		return unix.CAP_LAST_CAP
	}
	return n
}

// cgroups looks at what is mounted below /sys/fs/cgroup: cgroup2 there means unified; else the mounts of
// version 1 are read from mountinfo.
func cgroups() (mode CgroupMode, mounts []CgroupMount, beside string) {
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return CgroupUnified, nil, ""
	}
	data, err := disk.Read("/proc/self/mountinfo")
	if err != nil {
		return CgroupNone, nil, ""
	}
	for line := range strings.Lines(string(data)) {
		before, after, ok := strings.Cut(line, " - cgroup")
		if !ok {
			continue
		}
		fields, super := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || fields[3] != "/" && !strings.HasPrefix(fields[4], "/sys/fs/cgroup/") {
			continue
		}
		if strings.HasPrefix(after, "2 ") {
			beside = fields[4]
		} else if len(super) >= 2 {
			mounts = append(mounts, CgroupMount{fields[4], hierarchy(super[1])})
		}
	}
	if len(mounts) == 0 {
		return CgroupNone, nil, ""
	}
	return CgroupV1, mounts, beside
}

// hierarchy picks the controllers, or the name, out of a hierarchy's mount options.
func hierarchy(options string) string {
	var names []string
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "favordynmods", "nofavordynmods":
		default:
			if !strings.HasPrefix(o, "release_agent=") {
				names = append(names, o)
			}
		}
	}
	return strings.Join(names, ",")
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }

func first(path string) byte {
	data, err := disk.Read(path)
	if err != nil || len(data) == 0 {
		return 0
	}
	return data[0]
}
