// Package needs says what containers need of a host: which of it is there, which is missing, what depends on each, and which
// command would bring it. Findings and Cause are pure: a host.Survey goes in, text comes out.
//
// It looks at nothing by itself (internal/host does) and decides nothing about how a container is made. That a thing is
// reported as missing does not keep anybody from trying.
package needs

import (
	"fmt"
	"strings"
	"syscall"

	"berth/internal/host"

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

// Input is what findings follow from.
type Input struct {
	host.Survey
	// Ranges are how many ranges of subordinate ids this user has; WhyNone says why there is none.
	Ranges  int
	WhyNone string
	// Pasta says that it is to carry what users' networks send; NoPasta that there is no such program.
	Pasta, NoPasta bool
}

// The names of findings.
const (
	Kernel       = "kernel"
	Rights       = "rights"
	UserNS       = "user namespaces"
	Calls        = "system calls"
	Mounts       = "mounts"
	Proc         = "proc file system"
	Namespaces   = "namespaces"
	Ranges       = "subordinate ids"
	Overlay      = "overlay file system"
	Groups       = "control groups"
	Delegated    = "delegated control group"
	Seccomp      = "seccomp"
	AppArmor     = "AppArmor"
	NFTables     = "nf_tables"
	TUN          = "tun device"
	Pasta        = "pasta"
	DataRoot     = "data root"
	RunRoot      = "run root"
	privileged   = "start the container that this is with --privileged"
	unconfined   = "start the container that this is with --privileged, or with a seccomp profile that allows them"
	apparmorFile = "/etc/apparmor.d/berth"
)

// AppArmorCommand installs the profile that lets berth make user namespaces.
const AppArmorCommand = "berth system apparmor-profile | sudo tee " + apparmorFile + " >/dev/null && sudo apparmor_parser -r " + apparmorFile

// Findings are all, in the order in which one is to read them.
func Findings(in Input) []Finding {
	all := []Finding{kernel(in), rights(in)}
	if !in.Root() {
		all = append(all, userNamespaces(in), ranges(in))
	}
	all = append(all, calls(in))
	if errno, tried := in.Tried(host.TrialProcess); tried && errno == 0 {
		all = append(all, mounts(in), proc(in), namespaces(in))
	}
	all = append(all, overlay(in), groups(in))
	if !in.Root() {
		all = append(all, delegation(in))
	}
	all = append(all, seccomp(in), appArmor(in), nfTables(in))
	if !in.Root() {
		all = append(all, tun(in))
		if in.Pasta {
			all = append(all, pasta(in))
		}
	}
	return append(all, place(DataRoot, in.Data), place(RunRoot, in.Run))
}

// Missing are the findings that keep containers from starting.
func Missing(all []Finding) []Finding {
	var out []Finding
	for _, f := range all {
		if f.Needed && !f.OK {
			out = append(out, f)
		}
	}
	return out
}

func kernel(in Input) Finding {
	return Finding{Name: Kernel, Found: in.Release, OK: in.Kernel.AtLeast(5, 10), Needed: true, For: "everything", Hint: "install a kernel of 5.10 or later"}
}

// rights of root are needed in full; without them a user namespace gives them.
func rights(in Input) Finding {
	f := Finding{Name: Rights, OK: true, Needed: true, For: "namespaces and mounts"}
	where := ""
	switch in.Container {
	case "":
	case host.UnknownEngine:
		where = ", in a container"
	default:
		where = ", in a container of " + in.Container
	}
	errno, tried := in.Tried(host.TrialProcess)
	switch {
	case in.Root() && tried && errno != 0:
		f.OK, f.Found = false, "root with CAP_SYS_ADMIN"+where+", but without the right to make namespaces: clone: "+errno.Error()
		f.Hint = unconfined
	case in.Root() && in.InUserNS:
		f.Found = "root of a user namespace" + where
	case in.Root():
		f.Found = "root with CAP_SYS_ADMIN" + where
	case in.UID == 0 && !in.Rootless:
		f.Found = "root without CAP_SYS_ADMIN" + where + ": containers get a user namespace"
		if in.Container != "" && errno != 0 {
			f.OK, f.Found, f.Hint = false, "root without CAP_SYS_ADMIN"+where, privileged
		}
	default:
		f.Found = fmt.Sprintf("user %d%s: containers get a user namespace", in.UID, where)
	}
	return f
}

func userNamespaces(in Input) Finding {
	f := Finding{Name: UserNS, Needed: true, For: "containers without root"}
	errno, tried := in.Tried(host.TrialProcess)
	mount, _ := in.Tried(host.TrialMount)
	restricted := in.UserNSAppArmor == "1"
	switch {
	case tried && errno == 0 && !(restricted && (mount == unix.EPERM || mount == unix.EACCES)):
		f.OK, f.Found = true, "yes"
		if restricted {
			f.Found = "yes, by an AppArmor profile"
		}
	case in.UserNSClone == "0":
		f.Found, f.Hint = "forbidden by kernel.unprivileged_userns_clone=0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"
	case in.UserNSMax == "0":
		f.Found, f.Hint = "forbidden by user.max_user_namespaces=0", "sudo sysctl -w user.max_user_namespaces=15000"
	case restricted:
		f.Found, f.Hint = "forbidden by kernel.apparmor_restrict_unprivileged_userns=1", AppArmorCommand
	case in.Filtered && errno == unix.EPERM:
		f.Found, f.Hint = "forbidden by the seccomp filter of "+surrounding(in), unconfined
	case errno == unix.ENOSPC || errno == unix.EUSERS:
		f.Found, f.Hint = "the limit of user namespaces is reached", "sudo sysctl -w user.max_user_namespaces="+doubled(in.UserNSMax)
	case errno == unix.EINVAL || errno == unix.ENOSYS:
		f.Found, f.Hint = "not in this kernel", "use a kernel with CONFIG_USER_NS, or root"
	default:
		f.Found, f.Hint = "not allowed: clone: "+errno.Error(), "run it as root"
		if in.Container != "" {
			f.Hint = privileged
		}
	}
	return f
}

func surrounding(in Input) string {
	if in.Container != "" {
		return "the container that this is"
	}
	return "this process's parent"
}

func doubled(n string) string {
	value := 0
	if _, err := fmt.Sscan(n, &value); err != nil || value <= 0 {
		value = 7500
	}
	return fmt.Sprint(2 * value)
}

func ranges(in Input) Finding {
	f := Finding{Name: Ranges, OK: true, Found: fmt.Sprintf("%d ranges", in.Ranges), For: "images whose files have several owners, --user"}
	if in.WhyNone == "" {
		return f
	}
	f.OK, f.Found = false, in.WhyNone
	if in.NewUIDMap == "" || in.NewGIDMap == "" {
		f.Hint = "sudo apt-get install uidmap"
	} else {
		f.Hint = fmt.Sprintf("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un %d)", in.UID)
	}
	return f
}

// calls are the system calls that the making of a container cannot do without.
func calls(in Input) Finding {
	f := Finding{Name: Calls, OK: true, Needed: true, Found: "all that are needed", For: "namespaces and mounts"}
	var absent, forbidden []string
	for _, t := range in.Trials {
		switch t.Name {
		case host.TrialProcess, host.TrialMount, host.TrialProc, host.TrialOverlay, host.TrialNetwork, host.TrialIPC, host.TrialUTS, host.TrialCgroup, host.TrialNFT:
			continue
		case host.TrialClone3:
			continue // clone(2) is used in its place
		}
		switch t.Errno {
		case 0:
		case unix.ENOSYS:
			absent = append(absent, t.Name)
		default:
			forbidden = append(forbidden, t.Name)
		}
	}
	if len(absent)+len(forbidden) == 0 {
		return f
	}
	f.OK = false
	var parts []string
	if len(absent) > 0 {
		parts = append(parts, "absent: "+strings.Join(absent, ", "))
	}
	if len(forbidden) > 0 {
		parts = append(parts, "forbidden: "+strings.Join(forbidden, ", "))
	}
	f.Found = strings.Join(parts, "; ")
	if in.Filtered {
		f.Found += " (a seccomp filter is in force)"
		f.Hint = unconfined
	} else {
		f.Hint = "install a kernel of 5.10 or later"
	}
	return f
}

func mounts(in Input) Finding {
	f := Finding{Name: Mounts, OK: true, Needed: true, Found: "yes", For: "the tree of a container"}
	errno, tried := in.Tried(host.TrialMount)
	if tried && errno == 0 {
		return f
	}
	f.OK, f.Found = false, "a tmpfs cannot be mounted: "+words(errno, tried)
	switch {
	case errno == unix.ENODEV:
		f.Hint = "use a kernel with CONFIG_TMPFS"
	case errno == unix.ENOSYS:
		f.Hint = "install a kernel of 5.10 or later"
		if in.Filtered {
			f.Hint = unconfined
		}
	case in.UserNSAppArmor == "1" && !in.Root():
		f.Hint = AppArmorCommand
	case in.Container != "":
		f.Hint = privileged
	default:
		f.Hint = "see which security module forbids it: journalctl -k --grep=DENIED"
	}
	return f
}

// proc may be mounted without privilege only where a whole one is visible (mount_too_revealing in fs/namespace.c).
func proc(in Input) Finding {
	f := Finding{Name: Proc, OK: true, Needed: true, Found: "yes", For: "/proc of containers"}
	if errno, tried := in.Tried(host.TrialProc); errno != 0 || !tried {
		f.OK, f.Found = false, "a new one cannot be mounted: "+words(errno, tried)
		switch in.Container {
		case "":
			f.Hint = "umount what is mounted below /proc"
		case "podman":
			f.Hint = privileged + ", or with --security-opt unmask=ALL"
		default:
			f.Hint = privileged + ", or with --security-opt systempaths=unconfined"
		}
	}
	return f
}

func namespaces(in Input) Finding {
	f := Finding{Name: Namespaces, OK: true, Needed: true, Found: "mount, pid", For: "what a container has of its own"}
	var missing []string
	for _, n := range [...]struct{ name, option string }{
		{host.TrialNetwork, "CONFIG_NET_NS"},
		{host.TrialIPC, "CONFIG_IPC_NS"},
		{host.TrialUTS, "CONFIG_UTS_NS"},
		{host.TrialCgroup, "CONFIG_CGROUPS"},
	} {
		switch errno, tried := in.Tried(n.name); {
		case tried && errno == 0:
			f.Found += ", " + n.name
		case errno == unix.ENOSPC:
			missing = append(missing, n.name+" (its limit is reached)")
			f.Hint = fmt.Sprintf("sudo sysctl -w user.max_%s_namespaces=15000", sysctlName(n.name))
		case errno == unix.EINVAL:
			missing = append(missing, n.name+" (not in this kernel)")
			f.Hint = "use a kernel with " + n.option
		default:
			missing = append(missing, n.name+" ("+words(errno, tried)+")")
			f.Hint = privileged
		}
	}
	if len(missing) > 0 {
		f.OK, f.Found = false, "without "+strings.Join(missing, ", ")
	}
	return f
}

func sysctlName(namespace string) string {
	if namespace == host.TrialNetwork {
		return "net"
	}
	return namespace
}

func words(errno syscall.Errno, tried bool) string {
	if !tried {
		return "it could not be tried"
	}
	return errno.Error()
}

// overlay mounts without privilege exist since Linux 5.11.
func overlay(in Input) Finding {
	f := Finding{Name: Overlay, Found: "yes", OK: true, Needed: true, For: "the root file systems of containers"}
	errno, tried := in.Tried(host.TrialOverlay)
	switch {
	case !in.Overlay:
		f.OK, f.Found, f.Hint = false, "not in this kernel", "sudo modprobe overlay; or do without it: --storage-driver vfs"
	case !tried || errno == 0:
	case errno == unix.EPERM && !in.Root() && !in.Kernel.AtLeast(5, 11):
		f.OK, f.Found = false, "not in user namespaces before Linux 5.11, and this is "+in.Release
		f.Needed, f.For = false, "quick starts: containers' files are mounted by fuse-overlayfs where that is installed, or are copies of their images"
		f.Hint = "install a kernel of 5.11 or later, or fuse-overlayfs"
	case !in.Root():
		f.OK, f.Found, f.Hint = false, "not in user namespaces: "+errno.Error(), "run berth as root; or do without it: --storage-driver vfs"
	default:
		f.OK, f.Found, f.Hint = false, "it cannot be mounted: "+errno.Error(), "see why: dmesg | tail"
		if in.Container != "" {
			f.Hint = privileged
		}
	}
	return f
}

func groups(in Input) Finding {
	f := Finding{Name: Groups, Found: "version " + strings.TrimPrefix(string(in.Cgroup), "v"), OK: true, Needed: in.Root(), For: "limits, pause, stats"}
	switch {
	case in.Cgroup == host.CgroupNone || in.Cgroup == "":
		f.OK, f.Found, f.Hint = false, "not mounted", "sudo mount -t cgroup2 none /sys/fs/cgroup"
	case in.Cgroup == host.CgroupUnified:
		f.Found = "version 2"
	}
	if f.OK && in.Root() && !in.CgroupWritable && in.Groups.Base == "" && len(in.Groups.Systemd) == 0 {
		f.OK, f.Found, f.Hint = false, f.Found+", read-only", "sudo mount -o remount,rw /sys/fs/cgroup"
		if in.Container != "" {
			f.Hint = privileged
		}
	}
	return f
}

// delegation is what gives a user without privileges groups of its own; version 1 has no such thing.
func delegation(in Input) Finding {
	f := Finding{Name: Delegated, Found: "none", For: "-m, --cpus, --pids-limit and pause without root"}
	from := in.Groups.Base
	if len(in.Groups.Systemd) > 0 {
		from = "by systemd, at " + in.Groups.Systemd[0].Path + ","
	}
	switch {
	case in.Cgroup != host.CgroupUnified:
		f.Found, f.Hint = "none: version 1 cannot be delegated safely", "boot with systemd.unified_cgroup_hierarchy=1, or run such containers as root"
	case from == "":
		f.Hint = DelegateCommand(in.Groups.OuterUID)
	case !contains(in.Controllers, "memory") || !contains(in.Controllers, "pids") || !contains(in.Controllers, "cpu"):
		f.Found = from + " with " + in.Controllers
		f.Hint = "sudo systemctl set-property user@" + fmt.Sprint(in.Groups.OuterUID) + ".service Delegate='cpu cpuset io memory pids'"
	default:
		f.OK, f.Found = true, from+" with "+in.Controllers
	}
	return f
}

// DelegateCommand gives a user a systemd of their own, which lasts, and so control groups.
func DelegateCommand(uid int) string {
	return fmt.Sprintf("sudo loginctl enable-linger $(id -un %d)", uid)
}

func contains(list, word string) bool {
	for w := range strings.FieldsSeq(list) {
		if w == word {
			return true
		}
	}
	return false
}

func seccomp(in Input) Finding {
	f := Finding{Name: Seccomp, Found: "yes", OK: in.Seccomp, Needed: true, For: "the filter of system calls", Hint: "use a kernel with CONFIG_SECCOMP_FILTER, or --security-opt seccomp=unconfined"}
	if !in.Seccomp {
		f.Found = "not in this kernel"
	}
	return f
}

func appArmor(in Input) Finding {
	f := Finding{Name: AppArmor, Found: "yes", OK: true, For: "the profile berth-default, which confines containers further"}
	switch {
	case !in.AppArmor:
		f.OK, f.Found, f.Hint = false, "not in force", "boot with apparmor=1 security=apparmor"
	case in.AppArmorParser == "":
		f.OK, f.Found, f.Hint = false, "in force, but apparmor_parser is not installed", "sudo apt-get install apparmor"
		f.Needed, f.For = in.Root(), "the profile berth-default, without which a container starts only with --security-opt apparmor=unconfined"
	}
	return f
}

func nfTables(in Input) Finding {
	f := Finding{Name: NFTables, Found: "yes", OK: true, For: "published ports and private networks"}
	switch errno, tried := in.Tried(host.TrialNFT); {
	case tried && errno == 0:
	case !tried:
		f.OK, f.Found, f.Hint = false, "it could not be asked", "see to what is missing above first"
	case errno == unix.EINVAL || errno == unix.EPROTONOSUPPORT || errno == unix.EOPNOTSUPP:
		f.OK, f.Found, f.Hint = false, "not in this kernel", "sudo modprobe nf_tables"
	case errno == unix.EPERM:
		f.OK, f.Found, f.Hint = false, "no right to use it: CAP_NET_ADMIN is missing", "run it with CAP_NET_ADMIN"
		if in.Container != "" {
			f.Hint = privileged
		}
	default:
		f.OK, f.Found, f.Hint = false, "it does not answer: "+errno.Error(), "sudo modprobe nf_tables"
	}
	return f
}

// tun is what networks without root are quicker with: a pair of interfaces serves, too (uplink.MakeDevice).
func tun(in Input) Finding {
	f := Finding{Name: TUN, Found: "yes", OK: in.TUN == 0, For: "networks without root at full speed"}
	switch in.TUN {
	case 0:
	case unix.EACCES, unix.EPERM:
		f.Found, f.Hint = "/dev/net/tun is not for this user", "sudo chmod 666 /dev/net/tun"
	case unix.ENOENT, unix.ENODEV, unix.ENXIO:
		f.Found, f.Hint = "there is no /dev/net/tun", "sudo modprobe tun"
		if in.Container != "" {
			f.Hint = "start the container that this is with --device /dev/net/tun"
		}
	default:
		f.Found, f.Hint = "/dev/net/tun does not open: "+in.TUN.Error(), "sudo modprobe tun"
	}
	return f
}

func pasta(in Input) Finding {
	f := Finding{Name: Pasta, Found: "yes", OK: !in.NoPasta, For: "networks without root, as the setting rootless-uplink has it"}
	if in.NoPasta {
		f.Found, f.Hint = "there is no such program", "sudo apt install passt, or leave the setting rootless-uplink out"
	}
	return f
}

// Advice is a finding in one line: what is missing, and what would bring it.
func (f Finding) Advice() string {
	s := f.Name + ": " + f.Found
	if f.Hint != "" {
		s += "; next step: " + f.Hint
	}
	return s
}
