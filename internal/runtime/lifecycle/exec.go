package lifecycle

import (
	"errors"
	"os"

	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/child"
	"berth/internal/runtime/plan"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ExecInput is what a further process of a container is started from.
type ExecInput struct {
	ID      string
	Process *specs.Process
	// Program is the file to execute, where that is not what the first argument names.
	Program string
	Seccomp *specs.LinuxSeccomp
	// Linux is the container's, as plan.ExecInput has it.
	Linux *specs.Linux
	Host    host.Facts
	// Target is a pidfd of the container's first process.
	Target     int
	Namespaces uintptr
	Cgroup     *cgroup.Group // nil: the caller's
	// Stdin, Stdout, Stderr are used unless Process.Terminal; all nil leaves the caller's.
	Stdin, Stdout, Stderr *os.File
	NoSetgroups           bool
	// PreserveFDs is how many descriptors from 3 on the process is given; NoKeyring leaves it its parent's session keyring.
	PreserveFDs int
	NoKeyring   bool
}

// NamespacesOf are the flags of the namespaces that a container does not share with its parent.
func NamespacesOf(s *specs.Spec) uintptr {
	var f uintptr
	for _, n := range s.Linux.Namespaces {
		switch n.Type {
		case specs.PIDNamespace:
			f |= unix.CLONE_NEWPID
		case specs.NetworkNamespace:
			f |= unix.CLONE_NEWNET
		case specs.MountNamespace:
			f |= unix.CLONE_NEWNS
		case specs.IPCNamespace:
			f |= unix.CLONE_NEWIPC
		case specs.UTSNamespace:
			f |= unix.CLONE_NEWUTS
		case specs.UserNamespace:
			f |= unix.CLONE_NEWUSER
		case specs.CgroupNamespace:
			f |= unix.CLONE_NEWCGROUP
		case specs.TimeNamespace:
			f |= unix.CLONE_NEWTIME
		}
	}
	return f
}

// Exec starts a process in a running container.
func Exec(in ExecInput) (*Running, error) {
	filter, filterFlags, err := Filter(in.Seccomp, in.Host)
	if err != nil {
		return nil, err
	}
	inputs := descriptors(in.Stdin, in.Stdout, in.Stderr)
	entrance, err := enter(in.Cgroup, inputs)
	if err != nil {
		return nil, err
	}
	defer entrance.Close()
	inputs[plan.InTarget] = in.Target
	p, err := plan.CompileExec(plan.ExecInput{
		Process: in.Process, Linux: in.Linux, Program: in.Program, Host: in.Host, Namespaces: in.Namespaces, Filter: filter, FilterFlags: filterFlags,
		CgroupTasks: len(entrance.Files), Inherit: in.Stdin == nil, Keyring: keyring(in.ID, in.NoKeyring), NoSetgroups: in.NoSetgroups,
		PreserveFDs: in.PreserveFDs,
	})
	if err != nil {
		return nil, err
	}
	var console *os.File
	if in.Process.Terminal {
		ours, theirs, err := socketPair()
		if err != nil {
			return nil, err
		}
		console = ours
		defer ours.Close()
		defer theirs.Close()
		inputs[plan.InConsole] = int(theirs.Fd())
	}
	c, err := child.Start(p, child.Options{Inputs: inputs, Cgroup: entrance.Dir})
	if err == nil && p.Waits {
		err = c.Wait()
	}
	if err != nil {
		var f *child.Failure
		if errors.As(err, &f) && f.Errno == unix.ESRCH {
			return nil, errNotRunning
		}
		return nil, startError(err, in.Process.Args[0])
	}
	r := &Running{PID: c.PID, PIDFD: c.PIDFD}
	if console != nil {
		if r.Console, err = ReceiveConsole(console); err != nil {
			_ = unix.PidfdSendSignal(c.PIDFD, unix.SIGKILL, nil, 0)
			return nil, err
		}
	}
	return r, nil
}

var errNotRunning = errdef.New(errdef.Conflict, "the container is not running")
