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
	Host  host.Facts
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
	// Gate, if there is one, is what the process waits at when all but its execve is done, until PassGate. It is for a filter that asks
	// somebody (SCMP_ACT_NOTIFY).
	Gate *Gate
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
		PreserveFDs: in.PreserveFDs, Create: in.Gate != nil,
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
	o := child.Options{Inputs: inputs, Cgroup: entrance.Dir}
	if in.Gate != nil {
		r, err := in.gated(p, o, console)
		if err == nil {
			r.First, r.Steps = stepsOf(p)
		}
		return r, err
	}
	c, err := child.Start(p, o)
	if err == nil && p.Waits {
		err = c.Wait()
	}
	if err != nil {
		return nil, execError(err, in.Process.Args[0])
	}
	return running(c, console, nil)
}

func execError(err error, command string) error {
	var f *child.Failure
	if errors.As(err, &f) && f.Errno == unix.ESRCH {
		return errNotRunning
	}
	return startError(err, command)
}

// gated starts a process that waits at its gate until somebody listens.
func (in ExecInput) gated(p *plan.Program, o child.Options, console *os.File) (*Running, error) {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	ours, theirSocket, err := socketPair()
	if err != nil {
		return nil, errors.Join(err, theirs.Close())
	}
	defer ours.Close()
	o.Inputs[plan.InReady], o.Inputs[plan.InStart], o.Report = int(theirs.Fd()), int(in.Gate.Start.Fd()), in.Gate.Report
	if p.Has(plan.InListener) {
		o.Inputs[plan.InListener] = int(theirSocket.Fd())
	}
	c, err := child.Start(p, o)
	err = errors.Join(err, theirs.Close(), theirSocket.Close())
	if err == nil {
		err = c.WaitReady(ready)
	}
	if err != nil {
		return nil, execError(err, in.Process.Args[0])
	}
	if !p.Has(plan.InListener) {
		return running(c, console, nil)
	}
	return running(c, console, ours)
}

var errNotRunning = errdef.New(errdef.Conflict, "the container is not running")
