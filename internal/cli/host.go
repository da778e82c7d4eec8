package cli

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"

	"berth/internal/host"
)

// describeHost fills in what info says about the machine.
func describeHost(v *infoView, h host.Facts) {
	v.KernelVersion, v.NCPU = h.Release, runtime.NumCPU()
	v.Name, _ = os.Hostname()
	v.Rootless = !h.Root()
	v.CgroupDriver, v.CgroupVersion = "cgroupfs", "2"
	switch h.Cgroup {
	case host.CgroupV1:
		v.CgroupVersion = "1"
	case host.CgroupNone:
		v.CgroupDriver, v.CgroupVersion = "none", "none"
	}
	if v.Rootless {
		v.CgroupDriver = "none (no control group is delegated to this user)"
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
