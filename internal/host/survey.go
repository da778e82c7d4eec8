package host

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Survey is what the answer to "what is missing here?" needs beyond Facts. Looking costs a process and some milliseconds,
// so it is for people who ask and for starts that have failed. The zero value is a host that can do nothing.
type Survey struct {
	Facts
	// Container is the engine whose container this process seems to be in ("docker", "podman", or UnknownEngine); empty outside
	// of containers.
	Container string
	// Filtered says that a seccomp filter is in force for this process.
	Filtered bool

	// TUN is what opening /dev/net/tun has come to.
	TUN syscall.Errno

	// What the machine's settings say about user namespaces.
	UserNSClone    string // kernel.unprivileged_userns_clone (Debian's patch)
	UserNSMax      string // user.max_user_namespaces
	UserNSAppArmor string // kernel.apparmor_restrict_unprivileged_userns (Ubuntu's patch)

	// Helpers are where the programs are that berth may call; empty: not found.
	NewUIDMap, NewGIDMap, AppArmorParser string

	// Overlay says that the file system is there, or its module is loaded.
	Overlay bool
	// CgroupWritable says that groups can be made at the top of every hierarchy.
	CgroupWritable bool
	// Controllers are those of the group in which the groups of this user's containers are made; empty if there is none.
	Controllers string

	// Trials are what was tried, each in its order (see Trial's names).
	Trials []Trial
	// Data and Run are the file systems of the two roots.
	Data, Run Place
}

// UnknownEngine stands for an engine that has left no mark.
const UnknownEngine = "unknown"

// Trial is something that the making of a container does, done for a look. Errno 0 is success.
type Trial struct {
	Name  string
	Errno syscall.Errno
}

// The names of trials. TrialProcess is the process in which the others are made; without it there are none of them.
const (
	TrialProcess = "clone" // with new mount and pid namespaces, and without privilege with a user namespace
	TrialClone3  = "clone3"
	TrialMount   = "mount"   // of a tmpfs, by fsopen, fsconfig, fsmount and move_mount
	TrialProc    = "proc"    // of a procfs
	TrialOverlay = "overlay" // of two directories in a tmpfs
	TrialNetwork = "network" // a namespace of each kind
	TrialIPC     = "ipc"
	TrialUTS     = "uts"
	TrialCgroup  = "cgroup"
	TrialNFT     = "nf_tables" // whether it answers NFT_MSG_GETGEN
)

// trialCalls are the system calls that nothing replaces, each called with arguments that do nothing.
var trialCalls = [...]struct {
	name string
	nr   uintptr
	args [5]uintptr
}{
	{"openat2", unix.SYS_OPENAT2, [5]uintptr{^uintptr(0), 0, 0, 0}}, // Linux 5.6; a size of 0 is EINVAL
	{"open_tree", unix.SYS_OPEN_TREE, [5]uintptr{^uintptr(0), 0, ^uintptr(0)}},
	{"move_mount", unix.SYS_MOVE_MOUNT, [5]uintptr{^uintptr(0), 0, ^uintptr(0), 0, ^uintptr(0)}},
	{"fsopen", unix.SYS_FSOPEN, [5]uintptr{0, ^uintptr(0)}},
	{"pivot_root", unix.SYS_PIVOT_ROOT, [5]uintptr{0, 0}},
	{"setns", unix.SYS_SETNS, [5]uintptr{^uintptr(0), 0}},
	{"unshare", unix.SYS_UNSHARE, [5]uintptr{0}},
	{"pidfd_open", unix.SYS_PIDFD_OPEN, [5]uintptr{0, ^uintptr(0)}},
	{"close_range", unix.SYS_CLOSE_RANGE, [5]uintptr{1, 0, 0}},
}

// Place is a file system.
type Place struct {
	Dir   string
	Errno syscall.Errno // of the look at it; ENOENT: it will be made
	Type  int64         // linux/magic.h
	Free  int64         // bytes
	Full  bool          // no file can be made: the file system has no inodes left
	// NoExec says that no program there can be executed.
	NoExec bool
}

// Tried returns how a trial has ended; false says that it was not made.
func (s Survey) Tried(name string) (syscall.Errno, bool) {
	for _, t := range s.Trials {
		if t.Name == name {
			return t.Errno, true
		}
	}
	return 0, false
}

// Look gathers a Survey. The process in which mounts are tried is this program under the name of ProbeName; what it does ends
// with its namespaces.
func Look(dataRoot, runRoot string) Survey {
	s := Survey{
		Facts: Probe(), Container: container(),
		UserNSClone: line("/proc/sys/kernel/unprivileged_userns_clone"), UserNSMax: line("/proc/sys/user/max_user_namespaces"),
		UserNSAppArmor: line("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
		NewUIDMap:      find("newuidmap"), NewGIDMap: find("newgidmap"), AppArmorParser: find("apparmor_parser", "/usr/sbin", "/sbin"),
		Data: place(dataRoot), Run: place(runRoot),
	}
	if data, err := os.ReadFile("/proc/self/status"); err == nil {
		s.Filtered = bytes.Contains(data, []byte("\nSeccomp:\t2\n"))
	}
	if fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		s.TUN = errnoOf(err)
	} else {
		_ = unix.Close(fd)
	}
	s.CgroupWritable = cgroupWritable(s.Facts)
	switch {
	case len(s.Groups.Systemd) > 0:
		s.Controllers = line(cgroupMount + s.Groups.ManagerGroup() + "/cgroup.controllers")
	case s.Groups.Base != "":
		s.Controllers = line(cgroupMount + s.Groups.Base + "/cgroup.controllers")
	}
	// One byte less than the first version of struct clone_args is EINVAL.
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 63, 0)
	s.Trials = append(s.Trials, Trial{TrialClone3, absence(errno)})
	s.Trials = append(s.Trials, try(s.Facts)...)
	data, err := os.ReadFile("/proc/filesystems") // after the trial, which may have loaded the module
	s.Overlay = err == nil && bytes.Contains(data, []byte("\toverlay\n"))
	return s
}

// absence is errno if it says that a call is absent or forbidden, and 0 if it came from looking at the arguments.
func absence(errno syscall.Errno) syscall.Errno {
	if errno == unix.ENOSYS || errno == unix.EPERM || errno == unix.EACCES {
		return errno
	}
	return 0
}

// try starts the process for the trials and reads what it found: a line each, "name errno".
func try(f Facts) []Trial {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{ProbeName}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	if !f.Privileged() {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: f.UID, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: f.GID, Size: 1}}
	}
	out, err := cmd.Output()
	trials := []Trial{{TrialProcess, errnoOf(err)}}
	for line := range strings.Lines(string(out)) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.Atoi(number); err == nil {
			trials = append(trials, Trial{name, syscall.Errno(n)})
		}
	}
	return trials
}

// container tells a container by its pid namespace or its root, and whose it is by the marks that engines leave. The marks
// alone do not count: a machine whose disk was made from an image has them, too.
func container() string {
	if !pidNamespaced() && !overlayRoot() {
		return ""
	}
	switch {
	case exists("/.dockerenv"):
		return "docker"
	case exists("/run/.containerenv"):
		return "podman"
	}
	data, _ := os.ReadFile("/proc/1/environ")
	for _, v := range strings.Split(string(data), "\x00") {
		if name, ok := strings.CutPrefix(v, "container="); ok && name != "" {
			return name
		}
	}
	return UnknownEngine
}

func overlayRoot() bool {
	var st unix.Statfs_t
	return unix.Statfs("/", &st) == nil && int64(st.Type) == unix.OVERLAYFS_SUPER_MAGIC
}

// firstPIDNamespace is the inode number of the machine's first pid namespace (PROC_PID_INIT_INO, linux/proc_ns.h).
const firstPIDNamespace = "pid:[4026531836]"

func pidNamespaced() bool {
	name, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && name != firstPIDNamespace
}

// cgroupWritable asks for the right to make a group at the top of each hierarchy; a read-only mount has it for nobody.
func cgroupWritable(f Facts) bool {
	switch f.Cgroup {
	case CgroupUnified:
		return unix.Access("/sys/fs/cgroup", unix.W_OK) == nil
	case CgroupV1:
		for _, m := range f.CgroupMounts {
			if unix.Access(m.Path, unix.W_OK) != nil {
				return false
			}
		}
		return true
	}
	return false
}

// place looks at the file system of dir, or of the directory that it will be made in.
func place(dir string) Place {
	p := Place{Dir: dir}
	var st unix.Statfs_t
	for at := dir; ; at = at[:max(1, strings.LastIndexByte(at, '/'))] {
		err := unix.Statfs(at, &st)
		if p.Errno == 0 {
			p.Errno = errnoOf(err)
		}
		if err == nil || at == "/" || at == "" {
			break
		}
	}
	p.Type, p.Free, p.NoExec = int64(st.Type), int64(st.Bavail)*st.Bsize, st.Flags&unix.ST_NOEXEC != 0
	p.Full = st.Files > 0 && st.Ffree == 0
	return p
}

func find(program string, more ...string) string {
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	for _, dir := range more {
		if exists(dir + "/" + program) {
			return dir + "/" + program
		}
	}
	return ""
}

func line(path string) string {
	data, _ := os.ReadFile(path)
	first, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(first)
}
