package engine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"berth/internal/host"
	"berth/internal/runtime/userns"

	"golang.org/x/sys/unix"
)

// Finding is one thing that containers depend on.
type Finding struct {
	Name, Found string
	OK          bool
	Needed      bool   // without it no container starts
	For         string // what depends on it
	Hint        string // which command would bring it
}

// Check looks for all that containers depend on here.
func (e *Engine) Check() []Finding {
	h := e.Host()
	var out []Finding
	add := func(f Finding) { out = append(out, f) }
	add(Finding{Name: "kernel", Found: h.Release, OK: h.Kernel.AtLeast(5, 10), Needed: true, For: "everything", Hint: "install a kernel of 5.10 or later"})
	add(rights(h))
	if !h.Privileged() {
		add(userNamespaces())
		m := userns.Ours()
		found := fmt.Sprintf("%d ranges", len(m.UID))
		if m.Single {
			found = m.Why
		}
		add(Finding{Name: "subordinate ids", Found: found, OK: !m.Single, For: "images whose files have several owners, --user", Hint: "apt-get install uidmap; usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER (as root)"})
	}
	add(fileSystem("overlay", "the root file systems of containers", true, "modprobe overlay"))
	if !h.Privileged() {
		add(Finding{Name: "overlay without root", Found: h.Release, OK: h.Kernel.AtLeast(5, 11), Needed: true, For: "the root file systems of containers", Hint: "install a kernel of 5.11 or later, or use root"})
	}
	add(Finding{Name: "control groups", Found: string(h.Cgroup), OK: h.Cgroup != host.CgroupNone, Needed: h.Privileged(), For: "limits, pause, stats", Hint: "mount -t cgroup2 none /sys/fs/cgroup"})
	if !h.Privileged() {
		add(Finding{Name: "delegated control group", Found: "none", For: "-m, --cpus, --pids-limit and pause without root", Hint: "run such containers as root"})
	}
	add(Finding{Name: "seccomp", Found: yesNo(h.Seccomp), OK: h.Seccomp, For: "the filter of system calls", Hint: "use a kernel with CONFIG_SECCOMP_FILTER"})
	add(Finding{Name: "AppArmor", Found: yesNo(h.AppArmor), OK: h.AppArmor, For: "the profile berth-default, which confines containers further", Hint: "boot with apparmor=1 security=apparmor"})
	add(nfTables())
	for _, d := range []struct{ name, dir string }{{"data root", e.Settings.DataRoot}, {"run root", e.Settings.RunRoot}} {
		add(directory(d.name, d.dir))
	}
	return out
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func rights(h host.Facts) Finding {
	f := Finding{Name: "rights", OK: true, Needed: true, For: "namespaces and mounts"}
	switch {
	case h.Privileged():
		f.Found = "root with CAP_SYS_ADMIN"
	case h.UID == 0:
		f.OK, f.Found = false, "root without CAP_SYS_ADMIN"
		f.Hint = "if this is a container, start it with --privileged"
	default:
		f.Found = fmt.Sprintf("user %d: containers get a user namespace", h.UID)
	}
	return f
}

// userNamespaces makes one, in a process that does nothing else.
func userNamespaces() Finding {
	f := Finding{Name: "user namespaces", Needed: true, For: "containers without root"}
	read := func(path string) string {
		data, _ := os.ReadFile(path)
		return strings.TrimSpace(string(data))
	}
	switch {
	case read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		f.Found, f.Hint = "forbidden by kernel.unprivileged_userns_clone", "sysctl -w kernel.unprivileged_userns_clone=1 (as root)"
	case read("/proc/sys/user/max_user_namespaces") == "0":
		f.Found, f.Hint = "forbidden by user.max_user_namespaces", "sysctl -w user.max_user_namespaces=15000 (as root)"
	case read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		f.Found, f.Hint = "restricted by AppArmor", "install berth's AppArmor profile: apparmor_parser -r contrib/apparmor/berth (as root)"
	default:
		cmd := exec.Command("/proc/self/exe", "version", "--short")
		cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
		if err := cmd.Run(); err != nil {
			f.Found, f.Hint = "not allowed: "+err.Error(), "if this is a container, start it with --privileged"
			return f
		}
		f.OK, f.Found = true, "yes"
	}
	return f
}

func fileSystem(name, what string, needed bool, hint string) Finding {
	f := Finding{Name: name + " file system", Needed: needed, For: what, Hint: hint, Found: "no"}
	data, err := os.ReadFile("/proc/filesystems")
	if err == nil && strings.Contains(string(data), "\t"+name+"\n") {
		f.OK, f.Found = true, "yes"
	}
	return f
}

// nfTables asks the kernel for a netlink socket of netfilter's.
func nfTables() Finding {
	f := Finding{Name: "nf_tables", For: "published ports and private networks", Hint: "modprobe nf_tables"}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		f.Found = err.Error()
		return f
	}
	_ = unix.Close(fd)
	f.OK, f.Found = true, "yes"
	return f
}

// Magic numbers of file systems that are somewhere else (linux/magic.h; fuse is fs/fuse/inode.c's).
const (
	nfsMagic  = 0x6969
	afsMagic  = 0x5346414f
	fuseMagic = 0x65735546
)

// lowSpace is how much room is little: less and the next pull will probably fail.
const lowSpace = 1 << 30

// directory looks at the file system of a root.
func directory(name, dir string) Finding {
	f := Finding{Name: name, OK: true, For: "images and containers", Found: dir}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return f
		}
		f.OK, f.Found = false, dir+": "+err.Error()
		return f
	}
	remote := map[int64]string{nfsMagic: "NFS", afsMagic: "AFS", fuseMagic: "FUSE"}[int64(st.Type)]
	free := int64(st.Bavail) * st.Bsize
	switch {
	case remote != "":
		f.OK, f.Found = false, fmt.Sprintf("%s is on %s", dir, remote)
		f.For = "overlay's writable layers, locks between commands and ownership of files, none of which work there"
		f.Hint = "put it on a local disk: --" + strings.ReplaceAll(name, " ", "-") + " DIR"
	case name == "data root" && free < lowSpace:
		f.OK, f.Found = false, fmt.Sprintf("%s has %d MiB left", dir, free>>20)
		f.For = "pulling images"
		f.Hint = "berth image prune; berth container prune; or put it elsewhere with --data-root DIR"
	}
	return f
}
