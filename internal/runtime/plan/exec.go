package plan

import (
	"errors"
	"fmt"

	"berth/internal/host"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ExecInput is what a program that enters a running container is compiled from.
type ExecInput struct {
	Process *specs.Process
	// Linux is the container's: its personality and its memory policy are its further processes', too, and they become who its id maps have.
	// It may be nil.
	Linux *specs.Linux
	// Program is the file to execute, where that is not what the first argument names.
	Program string
	Host    host.Facts
	// Namespaces are the CLONE_NEW* flags of the namespaces to join; all of them in one setns(2).
	Namespaces  uintptr
	Filter      Filter
	FilterFlags uintptr
	CgroupTasks int
	Inherit     bool
	Keyring     string
	NoSetgroups bool
	PreserveFDs int
	// Create makes the child report that it is ready and wait for a start.
	Create  bool
	Origins map[string]string
}

// InTarget is a pidfd of a process of the container.
const InTarget = "target"

// CompileExec compiles the program of a further process of a running container. A process that joins a pid namespace
// is not in it, only its children are; so the program splits.
func CompileExec(in ExecInput) (*Program, error) {
	if len(in.Process.Args) == 0 {
		return nil, errors.New("the process has no arguments")
	}
	c := &compiler{
		in:   Input{Host: in.Host, Program: in.Program, NoSetgroups: in.NoSetgroups, Origins: in.Origins},
		spec: &specs.Spec{Process: in.Process, Linux: &specs.Linux{}},
	}
	if in.Linux != nil {
		c.spec.Linux.Personality, c.spec.Linux.MemoryPolicy = in.Linux.Personality, in.Linux.MemoryPolicy
		c.spec.Linux.UIDMappings, c.spec.Linux.GIDMappings = in.Linux.UIDMappings, in.Linux.GIDMappings
	}
	// Its memory is not its parent's. It may change its user; and what runs in the container can stop it as soon as it is in there:
	// then nobody but who asked for it waits.
	c.p.Waits = true
	c.input(InReport)
	target := c.input(InTarget)
	for i := range in.CgroupTasks {
		c.input(InCgroup(i))
	}
	c.stdioInputs(in.Process, in.Inherit)
	if err := c.gateInputs(in.Create, in.FilterFlags); err != nil {
		return nil, err
	}
	c.reset()
	if err := c.moves(in.Process.ExecCPUAffinity, in.CgroupTasks); err != nil {
		return nil, err
	}
	c.from("namespaces")
	c.do("be invisible to what runs in there", callPrctl, flags(unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"), num(0), num(0), num(0), num(0))
	c.do("join the container's namespaces", callSetns, target, flags(int(in.Namespaces), namespaceFlags(uint64(in.Namespaces))))
	if in.Namespaces&unix.CLONE_NEWUSER != 0 {
		c.userNS = true
		c.becomeFirst()
	}
	if in.Namespaces&unix.CLONE_NEWPID != 0 {
		c.add(Op{Special: Clone, Call: callClone, What: "enter the pid namespace", Args: []Arg{flags(unix.CLONE_PARENT, "CLONE_PARENT")}})
	}
	if in.Process.Terminal {
		c.from("terminal")
		root := c.get("root", "open the container's root", callOpenat, atFDCWD, Str("/"), flags(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, "O_PATH|O_DIRECTORY|O_CLOEXEC"))
		c.terminal(c.slotOpen("pts", "find /dev/pts", root, "/dev/pts", unix.O_PATH|unix.O_DIRECTORY), in.Process)
	} else {
		c.stdio(in.Inherit)
	}
	if err := c.process(in.Process, finish{filter: in.Filter, filterFlags: in.FilterFlags, create: in.Create, keyring: in.Keyring, preserve: in.PreserveFDs}); err != nil {
		return nil, err
	}
	return &c.p, nil
}

// moves enters the container's control group, and changes the processors on which the process runs before and afterwards.
func (c *compiler) moves(a *specs.CPUAffinity, tasks int) error {
	if a != nil && a.Initial != "" {
		c.from("execCPUAffinity")
		if err := c.affinity("run on these processors at first", a.Initial); err != nil {
			return err
		}
		if tasks == 0 { // it was born in the group, where these may not be had
			c.p.Ops[len(c.p.Ops)-1].Tolerate = errnos(unix.EINVAL)
		}
	}
	c.from("cgroup")
	for i := range tasks {
		c.do("enter the control group", callWrite, Ref(c.inputSlot(InCgroup(i))), Bytes{[]byte("0"), `"0"`}, num(1))
	}
	if a == nil || a.Initial == "" && a.Final == "" {
		return nil
	}
	c.from("execCPUAffinity")
	final := a.Final
	if final == "" {
		final = fmt.Sprintf("0-%d", lastNumber) // all that the group has
	}
	return c.affinity("run on these processors from now on", final)
}
