package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/internal/errdef"
)

// maxErrno is the kernel's MAX_ERRNO; seccomp(2) would silently return it for anything larger.
const maxErrno = 4095

// verdict returns the value that a filter returns for action. errno is nil if the profile names none.
func verdict(action specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	var ret, data uint32
	limit := uint(0)
	switch action {
	case specs.ActKill, specs.ActKillThread:
		ret = unix.SECCOMP_RET_KILL_THREAD
	case specs.ActKillProcess:
		ret = unix.SECCOMP_RET_KILL_PROCESS
	case specs.ActTrap:
		ret = unix.SECCOMP_RET_TRAP
	case specs.ActErrno:
		ret, data, limit = unix.SECCOMP_RET_ERRNO, uint32(unix.EPERM), maxErrno
	case specs.ActTrace:
		ret, data, limit = unix.SECCOMP_RET_TRACE, uint32(unix.EPERM), unix.SECCOMP_RET_DATA
	case specs.ActAllow:
		ret = unix.SECCOMP_RET_ALLOW
	case specs.ActLog:
		ret = unix.SECCOMP_RET_LOG
	case specs.ActNotify:
		ret = unix.SECCOMP_RET_USER_NOTIF
	default:
		return 0, errdef.New(errdef.Invalid, "%q is not a seccomp action", action)
	}
	if errno == nil {
		return ret | data, nil
	}
	// The runtime spec demands an error if the action takes no errno.
	if limit == 0 {
		return 0, errdef.New(errdef.Invalid, "%s takes no errno, and %d is given", action, *errno)
	}
	if *errno > limit {
		return 0, errdef.New(errdef.Invalid, "errno %d of %s is larger than %d", *errno, action, limit)
	}
	return ret | uint32(*errno), nil
}

const (
	retAction = uint32(unix.SECCOMP_RET_ACTION_FULL)
	retENOSYS = uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.ENOSYS)
)

// passes reports whether the kernel carries out a call with this verdict without asking anybody.
func passes(ret uint32) bool {
	return ret&retAction == unix.SECCOMP_RET_ALLOW || ret&retAction == unix.SECCOMP_RET_LOG
}

// flags returns the flags for seccomp(2). A profile without a list of flags, as opposed to an empty one, gets
// SPEC_ALLOW (Linux 4.17), as runc does: the kernel's mitigation would slow every process down.
func (c *compiler) flags(profile *specs.LinuxSeccomp) (uint, error) {
	var flags uint
	if c.notifies {
		if profile.ListenerPath == "" {
			return 0, errdef.New(errdef.Invalid, "SCMP_ACT_NOTIFY needs a listenerPath")
		}
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	if profile.ListenerMetadata != "" && profile.ListenerPath == "" {
		return 0, errdef.New(errdef.Invalid, "listenerMetadata needs a listenerPath")
	}
	if profile.Flags == nil {
		return flags | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	for _, flag := range profile.Flags {
		switch flag {
		case "SECCOMP_FILTER_FLAG_TSYNC":
			// The spec lists it, runtimes accept it, and with one thread it does nothing.
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			if !c.notifies {
				return 0, errdef.New(errdef.Invalid, "%s is only for profiles that use SCMP_ACT_NOTIFY", flag)
			}
			flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		default:
			return 0, errdef.New(errdef.Invalid, "%q is not a seccomp flag", flag)
		}
	}
	return flags, nil
}

// KnownFlags are the flags that a profile may have.
func KnownFlags() []string {
	return []string{"SECCOMP_FILTER_FLAG_TSYNC", string(specs.LinuxSeccompFlagLog), string(specs.LinuxSeccompFlagSpecAllow), string(specs.LinuxSeccompFlagWaitKillableRecv)}
}
