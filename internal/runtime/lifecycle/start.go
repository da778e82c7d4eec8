// Package lifecycle is the verbs of the OCI runtime: start, exec, kill, pause and delete, of one container on this host.
//
// It joins what was decided (a spec, compiled by runtime/plan) to what is done (runtime/child, runtime/cgroup). It
// keeps nothing on disk, knows no names, images or logs, and waits for nobody: that is the monitor's and the engine's.
package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/child"
	"berth/internal/runtime/plan"
	"berth/internal/runtime/seccomp"
	"berth/internal/runtime/userns"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Input is what a container is started from.
type Input struct {
	ID      string
	Spec    *specs.Spec
	Origins map[string]string
	Host    host.Facts
	// Overlay is the root file system; nil means Spec.Root.Path, an absolute path.
	Overlay    *plan.Overlay
	MountPoint string
	// MakeWorkdir makes a working directory that is missing; with an overlay it is always made.
	MakeWorkdir bool
	// Stdin, Stdout and Stderr are the process's own unless Spec.Process.Terminal; all nil leaves the caller's.
	Stdin, Stdout, Stderr *os.File
	// Maps are those of the spec's user namespace.
	Maps userns.Maps
	// NoCgroup leaves the container in its parent's control group.
	NoCgroup bool
}

// Running is a container's first process, or a process of exec.
type Running struct {
	PID, PIDFD int
	// Console is the first side of the terminal, if the process has one.
	Console *os.File
}

// Program compiles what Start would carry out, for the reader. tasks counts the hierarchies of control groups that the child
// enters by itself.
func Program(in Input, tasks int) (*plan.Program, error) {
	filter, filterFlags, err := Filter(in.Spec.Linux.Seccomp, in.Host)
	if err != nil {
		return nil, err
	}
	files := map[string]bool{}
	for _, m := range in.Spec.Mounts {
		if m.Type == "bind" {
			if st, err := os.Stat(m.Source); err == nil && !st.IsDir() {
				files[m.Source] = true
			}
		}
	}
	ownNetwork := false
	for _, n := range in.Spec.Linux.Namespaces {
		ownNetwork = ownNetwork || n.Type == specs.NetworkNamespace && n.Path == ""
	}
	p, err := plan.Compile(plan.Input{
		Spec: in.Spec, Host: in.Host, Overlay: in.Overlay, MountPoint: in.MountPoint, MakeWorkdir: in.MakeWorkdir, FileSources: files,
		Filter: filter, FilterFlags: filterFlags, CgroupTasks: tasks, Inherit: in.Stdin == nil, Loopback: ownNetwork,
		Keyring: "_ses." + in.ID, NoSetgroups: in.Maps.Single, Origins: in.Origins,
	})
	if err != nil {
		return nil, errdef.As(errdef.Invalid, err)
	}
	return p, nil
}

// Filter compiles a seccomp profile; none is an empty filter.
func Filter(profile *specs.LinuxSeccomp, h host.Facts) (plan.Filter, uintptr, error) {
	if profile == nil {
		return plan.Filter{}, 0, nil
	}
	f, err := seccomp.Compile(profile, seccomp.Options{Arch: h.Arch})
	if err != nil {
		return plan.Filter{}, 0, errdef.As(errdef.Invalid, err)
	}
	return plan.Filter{Code: f.Program, Text: f.Summary()}, uintptr(f.Flags), nil
}

// Start makes the control group of a container and starts its first process. On an error nothing is left of either.
func Start(in Input) (_ *Running, err error) {
	var group *cgroup.Group
	if !in.NoCgroup {
		if group, err = cgroup.Create(in.Host, in.Spec.Linux.CgroupsPath, in.Spec.Linux.Resources); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, group.Remove())
			}
		}()
	}
	entrance, err := enter(group)
	if err != nil {
		return nil, err
	}
	defer entrance.Close()
	inputs := descriptors(entrance, in.Stdin, in.Stdout, in.Stderr)
	p, err := Program(in, len(entrance.Files))
	if err != nil {
		return nil, err
	}
	var console *os.File
	if in.Spec.Process.Terminal {
		var theirs *os.File
		if console, theirs, err = socketPair(); err != nil {
			return nil, err
		}
		defer console.Close()
		defer theirs.Close()
		inputs[plan.InConsole] = int(theirs.Fd())
	}
	var mapsRead, mapsWrite *os.File
	if p.Waits {
		if mapsRead, mapsWrite, err = os.Pipe(); err != nil {
			return nil, err
		}
		defer mapsRead.Close()
		defer mapsWrite.Close()
		inputs[plan.InMaps], inputs[plan.InMapsEnd] = int(mapsRead.Fd()), int(mapsWrite.Fd())
	}
	c, err := child.Start(p, child.Options{Inputs: inputs, Cgroup: entrance.Dir})
	if err == nil && p.Waits {
		if err = in.Maps.Write(c.PID); err == nil {
			_, err = mapsWrite.Write([]byte{1})
		}
		_ = mapsWrite.Close()
		err = errors.Join(err, c.Wait())
	}
	if err != nil {
		return nil, startError(err, in.Spec.Process.Args[0])
	}
	r := &Running{PID: c.PID, PIDFD: c.PIDFD}
	if console != nil {
		if r.Console, err = receive(console); err != nil {
			_ = unix.PidfdSendSignal(c.PIDFD, unix.SIGKILL, nil, 0)
			return nil, err
		}
	}
	return r, nil
}

// enter opens the way into a group; nil is the caller's own, in which a child is anyway.
func enter(g *cgroup.Group) (cgroup.Entrance, error) {
	if g == nil {
		return cgroup.Entrance{}, nil
	}
	return g.Enter()
}

// descriptors are the inputs that every program has.
func descriptors(e cgroup.Entrance, stdio ...*os.File) map[string]int {
	inputs := map[string]int{}
	for i, f := range e.Files {
		inputs[plan.InCgroup(i)] = int(f.Fd())
	}
	for i, name := range []string{plan.InStdin, plan.InStdout, plan.InStderr} {
		if stdio[i] != nil {
			inputs[name] = int(stdio[i].Fd())
		}
	}
	return inputs
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "console socket"), os.NewFile(uintptr(fds[1]), "console socket"), nil
}

// receive takes the one descriptor that a child has sent.
func receive(socket *os.File) (*os.File, error) {
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), data, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("cannot take the terminal: %d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("cannot take the terminal: %d descriptors: %w", len(fds), err)
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// startError gives the failure of a child its kind: the command that is missing, the one that may not run, or a step
// that this host refuses.
func startError(err error, command string) error {
	var f *child.Failure
	if !errors.As(err, &f) {
		var call *os.SyscallError
		if errors.As(err, &call) && call.Syscall == "clone3" {
			return errdef.New(errdef.Unsupported, "cannot make the namespaces of the container: %w", err)
		}
		return err
	}
	if f.Op.Special == plan.Exec {
		switch f.Errno {
		case syscall.ENOENT, syscall.ENOTDIR:
			return errdef.New(errdef.NoCommand, "exec: %q: executable file not found in $PATH or its interpreter is missing", command)
		case syscall.EACCES:
			return errdef.New(errdef.NotExecutable, "exec: %q: permission denied", command)
		case syscall.ENOEXEC:
			return errdef.New(errdef.NotExecutable, "exec: %q: exec format error", command)
		}
		return errdef.New(errdef.NotExecutable, "exec: %q: %w", command, f.Errno)
	}
	switch f.Errno {
	case syscall.EPERM, syscall.EACCES:
		return errdef.Hint(errdef.As(errdef.Denied, err), "`berth system check` says what this host allows")
	case syscall.ENOSYS, syscall.ENODEV:
		return errdef.Hint(errdef.As(errdef.Unsupported, err), "`berth system check` says what this kernel lacks")
	case syscall.ENOSPC:
		return errdef.As(errdef.NoSpace, err)
	case syscall.EXDEV:
		return errdef.As(errdef.Denied, err)
	}
	return errdef.As(errdef.Invalid, err)
}
