package cli

import (
	"bufio"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"berth/internal/host"
	"berth/internal/runtime/cgroup"

	"golang.org/x/sys/unix"
)

// describeHost fills in what info says about the machine, and who makes control groups there.
func describeHost(v *infoView, h host.Facts, groups cgroup.Choice) {
	v.KernelVersion, v.NCPU = h.Release, runtime.NumCPU()
	v.Name, _ = os.Hostname()
	v.Rootless = !h.Root()
	v.CgroupDriver, v.CgroupDriverReason, v.CgroupVersion = string(groups.Driver), groups.Why, "2"
	switch h.Cgroup {
	case host.CgroupV1:
		v.CgroupVersion = "1"
	case host.CgroupNone:
		v.CgroupVersion = "none"
	}
	// uname's word for the machine, not Go's
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		v.Architecture = unix.ByteSliceToString(name.Machine[:])
	}
	for _, o := range []struct {
		has  bool
		name string
	}{{h.AppArmor, "name=apparmor"}, {h.Seccomp, "name=seccomp,profile=builtin"}, {v.Rootless, "name=rootless"}, {v.CgroupVersion == "2", "name=cgroupns"}} {
		if o.has {
			v.SecurityOptions = append(v.SecurityOptions, o.name)
		}
	}
	limits := controllers(h)
	has := func(name string) bool { return slices.Contains(limits, name) }
	v.MemoryLimit, v.PidsLimit, v.CPUSet, v.CPUShares = has("memory"), has("pids"), has("cpuset"), has("cpu")
	v.CPUCfsPeriod, v.CPUCfsQuota, v.OomKillDisable = v.CPUShares, v.CPUShares, v.MemoryLimit && h.Cgroup == host.CgroupV1
	v.SwapLimit = v.MemoryLimit && swapLimit(h)
	v.IPv4Forwarding = field("/proc/sys/net/ipv4/ip_forward", "", " ") == "1"
	open, _ := os.ReadDir("/proc/self/fd")
	v.NFd = len(open)
	v.OSVersion = field("/etc/os-release", "VERSION_ID=", "\"")
	v.OperatingSystem = field("/etc/os-release", "PRETTY_NAME=", "\"")
	kilobytes := strings.TrimSuffix(strings.TrimSpace(field("/proc/meminfo", "MemTotal:", " ")), " kB")
	n, _ := strconv.ParseInt(kilobytes, 10, 64)
	v.MemTotal = n << 10
}

// controllers are the cgroup controllers by which containers can be limited.
func controllers(h host.Facts) (all []string) {
	if h.Cgroup == host.CgroupV1 {
		for _, m := range h.CgroupMounts {
			all = append(all, strings.Split(m.Options, ",")...)
		}
		return all
	}
	return strings.Fields(field("/sys/fs/cgroup"+h.Groups.Base+"/cgroup.controllers", "", " "))
}

// swapLimit reports whether swap is counted for each group, which "swapaccount=0" on the kernel's command line prevents.
func swapLimit(h host.Facts) bool {
	if h.Cgroup == host.CgroupUnified {
		_, err := os.Stat("/sys/fs/cgroup" + h.Groups.Own + "/memory.swap.max") // absent in the topmost group, which can have no limit
		return err == nil || h.Groups.Own == "/"
	}
	return slices.ContainsFunc(h.CgroupMounts, func(m host.CgroupMount) bool {
		_, err := os.Stat(m.Path + "/memory.memsw.limit_in_bytes")
		return err == nil
	})
}

// filesystem is docker's word for the file system that a path is on.
func filesystem(path string) string {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return "<unknown>"
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "extfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	case 0x2fc12fc1: // of OpenZFS, which Linux does not know
		return "zfs"
	}
	return "<unknown>"
}

// field is what follows prefix on its line of a file, without the characters of cut around it.
func field(path, prefix, cut string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
			return strings.Trim(rest, cut)
		}
	}
	return ""
}
