package cli

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"

	"berth/internal/host"
	"berth/internal/runtime/cgroup"
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
	if h.AppArmor {
		v.SecurityOptions = append(v.SecurityOptions, "apparmor")
	}
	if h.Seccomp {
		v.SecurityOptions = append(v.SecurityOptions, "seccomp")
	}
	if v.Rootless {
		v.SecurityOptions = append(v.SecurityOptions, "rootless")
	}
	v.OperatingSystem = field("/etc/os-release", "PRETTY_NAME=", "\"")
	kilobytes := strings.TrimSuffix(strings.TrimSpace(field("/proc/meminfo", "MemTotal:", " ")), " kB")
	n, _ := strconv.ParseInt(kilobytes, 10, 64)
	v.MemTotal = n << 10
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
