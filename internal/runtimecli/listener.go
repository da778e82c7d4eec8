package runtimecli

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"berth/internal/errdef"
	"berth/internal/runtime/lifecycle"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// listens reports whether a profile asks somebody about system calls.
func listens(s *specs.LinuxSeccomp) bool {
	return s != nil && slices.ContainsFunc(s.Syscalls, func(c specs.LinuxSyscall) bool { return c.Action == specs.ActNotify })
}

// notNotified are the calls that a process makes between the load of its filter and the moment at which somebody can answer. (seccomp refuses
// write by itself.)
var notNotified = []string{"sendmsg", "capset", "prctl"}

// checkListener refuses a profile by which a process would wait for an answer that cannot come.
func checkListener(s *specs.LinuxSeccomp) error {
	if s == nil {
		return nil
	}
	for _, c := range s.Syscalls {
		if c.Action != specs.ActNotify {
			continue
		}
		for _, name := range c.Names {
			if slices.Contains(notNotified, name) {
				return errdef.New(errdef.Invalid, "SCMP_ACT_NOTIFY cannot be used for the %s syscall: the container's process calls it before somebody listens", name)
			}
		}
	}
	return nil
}

// tellListener sends the listener of a process's filter to the socket that the profile names, with what config-linux.md ("Seccomp", "The
// Container Process State") says.
func tellListener(s *specs.LinuxSeccomp, r *lifecycle.Running, state State) error {
	if r.Listener == nil {
		return nil
	}
	defer func() { _ = r.Listener.Close(); r.Listener = nil }()
	message, err := json.Marshal(struct {
		Version  string   `json:"ociVersion"`
		Fds      []string `json:"fds"`
		PID      int      `json:"pid"`
		Metadata string   `json:"metadata,omitempty"`
		State    State    `json:"state"`
	}{SpecVersion, []string{specs.SeccompFdName}, r.PID, s.ListenerMetadata, state})
	if err != nil {
		return err
	}
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(c)
	if err := unix.Connect(c, &unix.SockaddrUnix{Name: s.ListenerPath}); err != nil {
		return errdef.New(errdef.Invalid, "failed to connect with seccomp agent: %w", &os.PathError{Op: "connect", Path: s.ListenerPath, Err: err})
	}
	if err := unix.Sendmsg(c, message, unix.UnixRights(int(r.Listener.Fd())), nil, 0); err != nil {
		return fmt.Errorf("cannot send to the seccomp listener %s: %w", s.ListenerPath, os.NewSyscallError("sendmsg", err))
	}
	return nil
}
