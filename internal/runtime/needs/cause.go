package needs

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Failed is a system call that stood in the way of a container.
type Failed struct {
	Call  string        // its name
	Errno syscall.Errno // how it failed
	Path  string        // the file it was about, if any
}

// Telling reports whether a failure may come from what the host lacks; only then is a look at the host worth its time.
func (f Failed) Telling() bool {
	switch f.Errno {
	case unix.EPERM, unix.EACCES, unix.ENOSYS, unix.ENODEV, unix.EINVAL, unix.ENOSPC, unix.EUSERS, unix.EROFS, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT:
		return true
	}
	return false
}

// Cause finds the missing thing that explains a failure: the first one that is missing of those that the call depends on, or
// else any without which no container starts.
func Cause(f Failed, all []Finding) (Finding, bool) {
	if !f.Telling() {
		return Finding{}, false
	}
	for _, name := range dependsOn(f) {
		for _, finding := range all {
			if finding.Name == name && !finding.OK {
				return finding, true
			}
		}
	}
	if f.Errno == unix.EINVAL || f.Errno == unix.ENOSPC || f.Errno == unix.EACCES {
		return Finding{}, false // these have many other causes
	}
	for _, finding := range Missing(all) {
		return finding, true
	}
	return Finding{}, false
}

// dependsOn are the findings that may explain the failure of a call, the likeliest first.
func dependsOn(f Failed) []string {
	switch f.Call {
	case "clone", "clone3", "fork/exec":
		return []string{Kernel, Rights, UserNS, Namespaces}
	case "unshare", "setns", "sethostname", "setdomainname":
		return []string{Kernel, Rights, UserNS, Namespaces, Calls}
	case "fsconfig":
		return []string{Kernel, Overlay, DataRoot, Mounts, Proc}
	case "fsmount":
		return []string{Kernel, Mounts, Proc, Overlay}
	case "fsopen":
		if f.Errno == unix.ENODEV {
			return []string{Overlay, Mounts}
		}
		return []string{Kernel, Calls, Rights, UserNS, Mounts}
	case "mount", "umount2", "pivot_root", "open_tree", "move_mount", "mount_setattr", "openat2":
		return []string{Kernel, Calls, Rights, UserNS, Mounts, Overlay, DataRoot}
	case "mkdir", "mkdirat", "open", "openat", "write":
		if strings.HasPrefix(f.Path, "/sys/fs/cgroup") {
			return []string{Groups, Delegated}
		}
		if strings.HasPrefix(f.Path, "/proc/") {
			return []string{AppArmor, Ranges}
		}
	case "mknod", "mknodat", "fsetxattr", "setxattr":
		return []string{DataRoot, Rights}
	case "seccomp":
		return []string{Seccomp}
	}
	if f.Errno == unix.ENOSPC { // whatever wrote a file
		return []string{DataRoot}
	}
	return nil
}
