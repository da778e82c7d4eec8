package main

import (
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// where prints where it runs: the container as a program inside it sees it.
func where(args []string) error {
	if err := operands(args, 0, 0, "where"); err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return os.NewSyscallError("uname", err)
	}
	dir, err := os.Getwd()
	if err != nil {
		dir = err.Error()
	}
	host := unix.ByteSliceToString(u.Nodename[:])
	section("place")
	row("hostname", host)
	row("kernel", unix.ByteSliceToString(u.Sysname[:])+" "+unix.ByteSliceToString(u.Release[:])+" "+unix.ByteSliceToString(u.Machine[:]))
	row("directory", dir)
	row("pid", fmt.Sprintf("%d, child of %d", os.Getpid(), os.Getppid()))

	section("namespaces")
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
		if link, err := os.Readlink("/proc/self/ns/" + name); err == nil {
			row(name, strings.TrimSuffix(strings.TrimPrefix(link, name+":["), "]"))
		}
	}
	whereIdentity()
	whereMounts()
	whereLimits()
	return nil
}

func section(name string) {
	if name != "place" { // the first
		_ = stdout.WriteByte('\n')
	}
	fmt.Fprintln(stdout, name)
}

func row(name, value string) {
	lines := strings.Split(wrap(value, 60), "\n")
	for _, line := range lines {
		fmt.Fprintf(stdout, "  %-14s %s\n", name, line)
		name = ""
	}
}

func whereIdentity() {
	values := map[string]string{}
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		values[name] = strings.TrimSpace(value)
	}
	section("identity")
	row("user", withName(os.Geteuid(), userName(os.Geteuid())))
	row("group", withName(os.Getegid(), groupName(os.Getegid())))
	if groups, err := os.Getgroups(); err == nil && len(groups) > 0 {
		row("groups", strings.Trim(fmt.Sprint(groups), "[]"))
	}
	for _, kind := range []struct{ name, field string }{{"uid map", "uid_map"}, {"gid map", "gid_map"}} {
		if text, err := os.ReadFile("/proc/self/" + kind.field); err == nil {
			row(kind.name, strings.Join(strings.Fields(string(text)), " "))
		}
	}
	last := 40
	if text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap"); err == nil {
		last, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	for _, set := range []struct{ name, field string }{{"capabilities", "CapEff"}, {"bounding set", "CapBnd"}, {"ambient set", "CapAmb"}} {
		mask, _ := strconv.ParseUint(values[set.field], 16, 64)
		row(set.name, capabilities(mask, last))
	}
	seccomp := map[string]string{"0": "off", "1": "strict", "2": "filter"}[values["Seccomp"]]
	if n := values["Seccomp_filters"]; n != "" && n != "0" {
		seccomp += ", " + n + " in force"
	}
	row("seccomp", seccomp)
	row("no new privs", map[string]string{"0": "no", "1": "yes"}[values["NoNewPrivs"]])
	if label, err := os.ReadFile("/proc/self/attr/current"); err == nil {
		if text := strings.Trim(string(label), "\x00\n"); text != "" {
			row("label", text)
		}
	}
}

// capabilities names the bits of a set (linux/capability.h).
func capabilities(mask uint64, last int) string {
	names := [...]string{
		"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
		"linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
		"sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
		"sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
		"mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
		"checkpoint_restore",
	}
	switch n := bits.OnesCount64(mask); {
	case n == 0:
		return "none"
	case n == last+1:
		return "all"
	case n > last/2+1:
		all := uint64(1)<<(last+1) - 1
		return "all but " + capabilities(all&^mask, 63)
	}
	var list []string
	for bit := range 64 {
		switch {
		case mask&(1<<bit) == 0:
		case bit < len(names):
			list = append(list, names[bit])
		default:
			list = append(list, strconv.Itoa(bit))
		}
	}
	return strings.Join(list, " ")
}

func whereMounts() {
	list, err := readMounts()
	if err != nil {
		return
	}
	section("mounts")
	for _, m := range list {
		options := strings.Split(m.options, ",")
		var kept []string
		for _, option := range options {
			switch option {
			case "ro", "nosuid", "nodev", "noexec":
				kept = append(kept, option)
			}
		}
		fmt.Fprintf(stdout, "  %-28s %-9s %s\n", m.target, m.kind, strings.Join(kept, ","))
	}
}

func whereLimits() {
	section("limits")
	for _, limit := range []struct {
		name     string
		resource int
		bytes    bool
	}{
		{"open files", unix.RLIMIT_NOFILE, false},
		{"processes", unix.RLIMIT_NPROC, false},
		{"core file", unix.RLIMIT_CORE, true},
		{"stack", unix.RLIMIT_STACK, true},
		{"locked memory", unix.RLIMIT_MEMLOCK, true},
		{"address space", unix.RLIMIT_AS, true},
		{"file size", unix.RLIMIT_FSIZE, true},
		{"cpu seconds", unix.RLIMIT_CPU, false},
	} {
		var r unix.Rlimit
		if err := unix.Getrlimit(limit.resource, &r); err != nil {
			continue
		}
		show := func(n uint64) string {
			switch {
			case n == unix.RLIM_INFINITY:
				return "unlimited"
			case limit.bytes:
				return human(n)
			}
			return strconv.FormatUint(n, 10)
		}
		text := show(r.Cur)
		if r.Max != r.Cur {
			text += ", at most " + show(r.Max)
		}
		row(limit.name, text)
	}
	whereCgroup()
}

// whereCgroup reads the limits of our cgroup: version 2 has one directory, version 1 one for each controller. Inside a
// cgroup namespace ours is the root of what is mounted.
func whereCgroup() {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	dirs := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			root := "/sys/fs/cgroup"
			if controller != "" {
				root += "/" + controller
			}
			dirs[controller] = []string{root + parts[2], root}
		}
	}
	read := func(controller, file string) string {
		for _, dir := range dirs[controller] {
			if text, err := os.ReadFile(dir + "/" + file); err == nil {
				return strings.TrimSpace(string(text))
			}
		}
		return ""
	}
	rows := 0
	say := func(name, value string) {
		if value != "" {
			row(name, value)
			rows++
		}
	}
	say("cgroup memory", memoryLimit(read("", "memory.max")))
	say("cgroup memory", memoryLimit(read("memory", "memory.limit_in_bytes")))
	if fields := strings.Fields(read("", "cpu.max")); len(fields) == 2 {
		say("cgroup cpu", cpuLimit(fields[0], fields[1]))
	}
	say("cgroup cpu", cpuLimit(read("cpu", "cpu.cfs_quota_us"), read("cpu", "cpu.cfs_period_us")))
	say("cgroup pids", strings.Replace(read("", "pids.max"), "max", "unlimited", 1))
	say("cgroup pids", strings.Replace(read("pids", "pids.max"), "max", "unlimited", 1))
	if rows == 0 {
		row("cgroup", "not visible")
	}
}

func memoryLimit(text string) string {
	if text == "" {
		return ""
	}
	n, err := strconv.ParseUint(text, 10, 64)
	// Version 1 says "unlimited" by the largest number of whole pages.
	if err != nil || n >= 1<<62 {
		return "unlimited"
	}
	return human(n)
}

func cpuLimit(quota, period string) string {
	if quota == "" || period == "" {
		return ""
	}
	q, err := strconv.ParseFloat(quota, 64)
	p, err2 := strconv.ParseFloat(period, 64)
	if err != nil || err2 != nil || q < 0 || p <= 0 {
		return "unlimited"
	}
	return strconv.FormatFloat(q/p, 'f', -1, 64) + " processors"
}
