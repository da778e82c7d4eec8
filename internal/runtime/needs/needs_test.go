package needs

import (
	"strings"
	"syscall"
	"testing"

	"berth/internal/host"

	"golang.org/x/sys/unix"
)

// whole is a host that lacks nothing, as root sees it.
func whole() Input {
	s := host.Survey{
		Facts: host.Facts{
			Kernel: host.Version{Major: 6, Minor: 1}, Release: "6.1.0", Caps: 1<<41 - 1, Cgroup: host.CgroupUnified,
			AppArmor: true, Seccomp: true,
		},
		UserNSMax: "96365", NewUIDMap: "/usr/bin/newuidmap", NewGIDMap: "/usr/bin/newgidmap", AppArmorParser: "/sbin/apparmor_parser",
		Overlay: true, CgroupWritable: true,
		Data: host.Place{Dir: "/var/lib/berth", Type: unix.EXT4_SUPER_MAGIC, Free: 1 << 40}, Run: host.Place{Dir: "/run/berth"},
	}
	for _, name := range []string{
		host.TrialClone3, host.TrialProcess, "openat2", "unshare", host.TrialProc, host.TrialMount, host.TrialOverlay,
		host.TrialNetwork, host.TrialIPC, host.TrialUTS, host.TrialCgroup, host.TrialNFT,
	} {
		s.Trials = append(s.Trials, host.Trial{Name: name})
	}
	return Input{Survey: s}
}

// user makes it what somebody without privileges sees.
func user(in *Input) {
	in.UID, in.GID, in.Caps, in.Ranges, in.CgroupWritable = 1000, 1000, 0, 1, false
	in.Groups = host.Groups{OuterUID: 1000, Base: "/user.slice/user-1000.slice/user@1000.service"}
	in.Controllers = "cpuset cpu io memory pids"
}

func fails(name string, errno syscall.Errno) func(*Input) {
	return func(in *Input) {
		for i, t := range in.Trials {
			switch {
			case t.Name == name && name == host.TrialProcess:
				// Nothing else could be tried.
				in.Trials = append(in.Trials[:i:i], host.Trial{Name: name, Errno: errno})
				return
			case t.Name == name:
				in.Trials[i].Errno = errno
			}
		}
	}
}

func TestAHostThatLacksNothing(t *testing.T) {
	for name, change := range map[string]func(*Input){"root": func(*Input) {}, "user": user} {
		in := whole()
		change(&in)
		for _, f := range Findings(in) {
			if !f.OK {
				t.Errorf("%s: %+v", name, f)
			}
			if f.For == "" || f.Found == "" {
				t.Errorf("%s: says too little: %+v", name, f)
			}
		}
	}
}

// Each thing that can be missing: which finding tells it, what it says, which command it names, whether containers start
// without it, and which failure it explains.
func TestEachThingThatCanBeMissing(t *testing.T) {
	docker := func(in *Input) { in.Container, in.Filtered = "docker", true }
	none := Failed{}
	for name, c := range map[string]struct {
		change      []func(*Input)
		finding     string
		found, hint string
		needed      bool
		explains    Failed
	}{
		"kernel older than 5.10": {
			[]func(*Input){func(in *Input) { in.Kernel, in.Release = host.Version{Major: 5, Minor: 4}, "5.4.0" }},
			Kernel, "5.4.0", "5.10", true,
			Failed{Call: "openat2", Errno: unix.ENOSYS},
		},
		"user namespaces off by Debian's sysctl": {
			[]func(*Input){user, fails(host.TrialProcess, unix.EPERM), func(in *Input) { in.UserNSClone = "0" }},
			UserNS, "kernel.unprivileged_userns_clone=0", "sysctl -w kernel.unprivileged_userns_clone=1", true,
			Failed{Call: "clone3", Errno: unix.EPERM},
		},
		"user namespaces limited to none": {
			[]func(*Input){user, fails(host.TrialProcess, unix.ENOSPC), func(in *Input) { in.UserNSMax = "0" }},
			UserNS, "user.max_user_namespaces=0", "sysctl -w user.max_user_namespaces=", true,
			Failed{Call: "clone3", Errno: unix.ENOSPC},
		},
		"user namespaces used up": {
			[]func(*Input){user, fails(host.TrialProcess, unix.ENOSPC), func(in *Input) { in.UserNSMax = "100" }},
			UserNS, "limit", "user.max_user_namespaces=200", true,
			Failed{Call: "clone3", Errno: unix.ENOSPC},
		},
		"user namespaces refused by Ubuntu's AppArmor rule": {
			[]func(*Input){user, fails(host.TrialProcess, unix.EACCES), func(in *Input) { in.UserNSAppArmor = "1" }},
			UserNS, "apparmor_restrict_unprivileged_userns", "berth system apparmor-profile |", true,
			Failed{Call: "clone3", Errno: unix.EACCES},
		},
		"user namespaces without rights by Ubuntu's AppArmor rule": {
			[]func(*Input){user, fails(host.TrialMount, unix.EACCES), func(in *Input) { in.UserNSAppArmor = "1" }},
			UserNS, "apparmor_restrict_unprivileged_userns", "apparmor_parser -r", true,
			Failed{Call: "mount", Errno: unix.EACCES},
		},
		"user namespaces not compiled in": {
			[]func(*Input){user, fails(host.TrialProcess, unix.EINVAL)},
			UserNS, "not in this kernel", "CONFIG_USER_NS", true,
			Failed{Call: "clone3", Errno: unix.EINVAL},
		},
		"user namespaces refused by docker's filter": {
			[]func(*Input){user, docker, fails(host.TrialProcess, unix.EPERM)},
			UserNS, "seccomp filter", "--privileged", true,
			Failed{Call: "clone3", Errno: unix.EPERM},
		},
		"no CAP_SYS_ADMIN in a container": {
			[]func(*Input){docker, func(in *Input) { in.Caps = 0xa80425fb }, fails(host.TrialProcess, unix.EPERM)},
			Rights, "without CAP_SYS_ADMIN, in a container of docker", "--privileged", true,
			Failed{Call: "mount", Errno: unix.EPERM},
		},
		"CAP_SYS_ADMIN, and a filter that takes it back": {
			[]func(*Input){docker, fails(host.TrialProcess, unix.EPERM)},
			Rights, "without the right to make namespaces", "--privileged", true,
			Failed{Call: "clone3", Errno: unix.EPERM},
		},
		"no newuidmap": {
			[]func(*Input){user, func(in *Input) {
				in.NewUIDMap, in.Ranges, in.WhyNone = "", 0, "newuidmap is not installed"
			}},
			Ranges, "newuidmap", "apt-get install uidmap", false, none,
		},
		"no range in /etc/subuid": {
			[]func(*Input){user, func(in *Input) { in.Ranges, in.WhyNone = 0, "/etc/subuid has no range for me" }},
			Ranges, "/etc/subuid", "usermod --add-subuids", false, none,
		},
		"a call that is absent": {
			[]func(*Input){fails("openat2", unix.ENOSYS)},
			Calls, "absent: openat2", "5.10", true,
			Failed{Call: "openat2", Errno: unix.ENOSYS},
		},
		"a call that a filter forbids": {
			[]func(*Input){docker, fails("unshare", unix.EPERM)},
			Calls, "forbidden: unshare (a seccomp filter", "--privileged", true,
			Failed{Call: "unshare", Errno: unix.EPERM},
		},
		"mounts refused": {
			[]func(*Input){docker, fails(host.TrialMount, unix.EPERM)},
			Mounts, "cannot be mounted", "--privileged", true,
			Failed{Call: "fsmount", Errno: unix.EPERM},
		},
		"proc masked": {
			[]func(*Input){docker, user, fails(host.TrialProc, unix.EPERM)},
			Proc, "cannot be mounted", "systempaths=unconfined", true,
			Failed{Call: "fsmount", Errno: unix.EPERM},
		},
		"no network namespaces": {
			[]func(*Input){fails(host.TrialNetwork, unix.EINVAL)},
			Namespaces, "without network", "CONFIG_NET_NS", true,
			Failed{Call: "clone3", Errno: unix.EINVAL},
		},
		"network namespaces used up": {
			[]func(*Input){fails(host.TrialNetwork, unix.ENOSPC)},
			Namespaces, "limit", "user.max_net_namespaces", true,
			Failed{Call: "clone3", Errno: unix.ENOSPC},
		},
		"no overlay": {
			[]func(*Input){func(in *Input) { in.Overlay = false }, fails(host.TrialOverlay, unix.ENODEV)},
			Overlay, "not in this kernel", "modprobe overlay", true,
			Failed{Call: "fsopen", Errno: unix.ENODEV},
		},
		"no overlay in user namespaces": {
			[]func(*Input){user, func(in *Input) { in.Kernel, in.Release = host.Version{Major: 5, Minor: 10}, "5.10.0" }, fails(host.TrialOverlay, unix.EPERM)},
			Overlay, "not in user namespaces before Linux 5.11", "fuse-overlayfs", false,
			Failed{Call: "mount", Errno: unix.EPERM},
		},
		"no control groups": {
			[]func(*Input){func(in *Input) { in.Cgroup, in.CgroupWritable = host.CgroupNone, false }},
			Groups, "not mounted", "mount -t cgroup2", true,
			Failed{Call: "mkdir", Path: "/sys/fs/cgroup/berth-x", Errno: unix.EPERM},
		},
		"control groups read-only": {
			[]func(*Input){docker, func(in *Input) { in.CgroupWritable = false }},
			Groups, "read-only", "--privileged", true,
			Failed{Call: "mkdir", Path: "/sys/fs/cgroup/berth-x", Errno: unix.EROFS},
		},
		"control groups not delegated": {
			[]func(*Input){user, func(in *Input) { in.Groups.Base, in.Controllers = "", "" }},
			Delegated, "none", "loginctl enable-linger", false,
			Failed{Call: "mkdir", Path: "/sys/fs/cgroup/berth-x", Errno: unix.EACCES},
		},
		"control groups delegated in part": {
			[]func(*Input){user, func(in *Input) { in.Controllers = "memory pids" }},
			Delegated, "with memory pids", "Delegate='cpu", false, none,
		},
		"control groups from systemd in part": {
			[]func(*Input){user, func(in *Input) {
				in.Groups.Base, in.Groups.Systemd = "", []host.Socket{{Path: "/run/user/1000/bus", Bus: true}}
				in.Controllers = "memory pids"
			}},
			Delegated, "by systemd, at /run/user/1000/bus, with memory pids", "user@1000.service", false, none,
		},
		"control groups of version 1 without root": {
			[]func(*Input){user, func(in *Input) { in.Cgroup, in.Groups.Base = host.CgroupV1, "" }},
			Delegated, "version 1", "unified_cgroup_hierarchy", false, none,
		},
		"no seccomp": {
			[]func(*Input){func(in *Input) { in.Seccomp = false }},
			Seccomp, "not in this kernel", "CONFIG_SECCOMP_FILTER", true,
			Failed{Call: "seccomp", Errno: unix.EINVAL},
		},
		"no AppArmor": {
			[]func(*Input){func(in *Input) { in.AppArmor = false }},
			AppArmor, "not in force", "apparmor=1", false, none,
		},
		"no apparmor_parser": {
			[]func(*Input){func(in *Input) { in.AppArmorParser = "" }},
			AppArmor, "apparmor_parser", "apt-get install apparmor", true,
			Failed{Call: "write", Path: "/proc/self/attr/exec", Errno: unix.EACCES},
		},
		"no nf_tables": {
			[]func(*Input){fails(host.TrialNFT, unix.EINVAL)},
			NFTables, "not in this kernel", "modprobe nf_tables", false, none,
		},
		"no CAP_NET_ADMIN": {
			[]func(*Input){docker, fails(host.TrialNFT, unix.EPERM)},
			NFTables, "CAP_NET_ADMIN", "--privileged", false, none,
		},
		"a tun device for root alone": {
			[]func(*Input){user, func(in *Input) { in.TUN = unix.EACCES }},
			TUN, "not for this user", "chmod 666", false, none,
		},
		"pasta is wanted, and there is none": {
			[]func(*Input){user, func(in *Input) { in.Pasta, in.NoPasta = true, true }},
			Pasta, "no such program", "apt install passt", false, none,
		},
		"no tun device": {
			[]func(*Input){user, func(in *Input) { in.TUN = unix.ENOENT }},
			TUN, "no /dev/net/tun", "modprobe tun", false, none,
		},
		"data on NFS": {
			[]func(*Input){func(in *Input) { in.Data.Type = nfsMagic }},
			DataRoot, "NFS", "--data-root DIR", false, none,
		},
		"data on an overlay": {
			[]func(*Input){docker, func(in *Input) { in.Data.Type = unix.OVERLAYFS_SUPER_MAGIC }},
			DataRoot, "on an overlay", "-v berth:/var/lib/berth", false,
			Failed{Call: "fsconfig", Errno: unix.EINVAL},
		},
		"data on a file system without exec": {
			[]func(*Input){func(in *Input) { in.Data.NoExec = true }},
			DataRoot, "noexec", "with exec", false, none,
		},
		"a full disk": {
			[]func(*Input){func(in *Input) { in.Data.Free = 5 << 20 }},
			DataRoot, "5 MiB", "prune", false,
			Failed{Call: "pwrite", Path: "/var/lib/berth/layers/x", Errno: unix.ENOSPC},
		},
		"a data root that cannot be looked at": {
			[]func(*Input){func(in *Input) { in.Data.Errno = unix.EACCES }},
			DataRoot, "permission denied", "--data-root", true, none,
		},
	} {
		in := whole()
		for _, change := range c.change {
			change(&in)
		}
		all := Findings(in)
		seen := false
		for _, f := range all {
			if f.Name != c.finding {
				continue
			}
			seen = true
			if f.OK || f.Needed != c.needed || !strings.Contains(f.Found, c.found) || !strings.Contains(f.Hint, c.hint) || f.For == "" {
				t.Errorf("%s: %+v", name, f)
			}
		}
		if !seen {
			t.Errorf("%s: nothing is said of %s", name, c.finding)
		}
		if c.explains == none {
			continue
		}
		if cause, ok := Cause(c.explains, all); !ok || cause.Name != c.finding {
			t.Errorf("%s: a failed %s is explained by %q", name, c.explains.Call, cause.Name)
		}
		if strings.Contains(Finding.Advice(Finding{Name: "x", Found: "y"}), "next step") {
			t.Error("a next step is named that there is none of")
		}
	}
}

func TestFailuresThatTheHostDoesNotExplain(t *testing.T) {
	in := whole()
	user(&in)
	fails(host.TrialProcess, unix.EPERM)(&in)
	all := Findings(in)
	for _, f := range []Failed{{Call: "openat2", Errno: unix.ENOENT}, {Call: "openat2", Errno: unix.ELOOP}, {Call: "execve", Errno: unix.EACCES}, {Call: "write", Path: "/tmp/x", Errno: unix.EINVAL}} {
		if cause, ok := Cause(f, all); ok {
			t.Errorf("%+v is said to come from %s", f, cause.Name)
		}
	}
	if cause, ok := Cause(Failed{Call: "clone3", Errno: unix.EPERM}, Findings(whole())); ok {
		t.Errorf("something is missing where all is there: %s", cause.Name)
	}
}
