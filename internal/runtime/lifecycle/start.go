// Package lifecycle is the verbs of the OCI runtime: start, exec, kill, pause and delete, of one container on this host.
//
// It joins what was decided (a spec, compiled by runtime/plan) to what is done (runtime/child, runtime/cgroup). It
// keeps nothing on disk, knows no names, images or logs, and waits for nobody: that is the monitor's and the engine's.
package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/child"
	"berth/internal/runtime/plan"
	"berth/internal/runtime/seccomp"
	"berth/internal/runtime/spec"
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
	// Served says that the root is a mount that somebody else has made, Root, which is the caller's to close; it is open only for a start.
	Served bool
	Root   *os.File
	// Shm is the shared memory of another container (OpenShm), or nil; it is the caller's to close.
	Shm *os.File
	// DeviceSources are as plan.Input has them.
	DeviceSources map[string]string
	// MakeWorkdir makes a working directory that is missing; with an overlay it is always made.
	MakeWorkdir bool
	// Stdin, Stdout and Stderr are the process's own unless Spec.Process.Terminal; all nil leaves the caller's.
	Stdin, Stdout, Stderr *os.File
	// Maps are those of the spec's user namespace.
	Maps userns.Maps
	// Trees are what OpenTrees has opened, for a container whose root could not get there; else nil.
	Trees []*os.File
	// Given are what OpenGiven has opened, by the number of its mount.
	Given map[int]*os.File
	// Images are as plan.Input has them.
	Images map[string]plan.Image
	// Driver makes the container's control group; with None, or nothing, the container is in its parent's.
	Driver cgroup.Driver
	// Scope is what the group is in with the driver Systemd.
	Scope *cgroup.Scope
	// Network is the container's network namespace, if it is being made already; it is the caller's to close.
	Network *Network
	// Tell has StartWhen call ready when the process has made its namespaces and file systems, and not before.
	Tell bool
	// Gate, if there is one, is what the process waits at when all but its execve is done.
	Gate *Gate
	// PreserveFDs is how many descriptors from 3 on the process is given.
	PreserveFDs int
	// NoKeyring leaves the process its parent's session keyring.
	NoKeyring bool
}

// Gate is how a process that has been created is let go on to its execve, by whoever opens the two FIFOs later. Both are open for
// reading and writing here, and stay the caller's.
type Gate struct {
	// Start takes the byte that lets it go on; Report says what then fails, and ends when nothing has (see package child).
	Start, Report *os.File
}

// NoSetgroups reports whether a process of the container keeps the supplementary groups that it has: because it may not change them, or
// because it was asked for.
func (in Input) NoSetgroups() bool {
	return in.Maps.Single || in.Host.NoSetgroups || in.Spec.Annotations[spec.KeepGroupsAnnotation] == "1"
}

// Running is a container's first process, or a process of exec.
type Running struct {
	PID, PIDFD int
	// Console is the first side of the terminal, if the process has one.
	Console *os.File
	// Listener is by which somebody is asked about the process's system calls, if its filter asks.
	Listener *os.File
	// First and Steps are what is behind the gate of a process of exec (Pending.Steps).
	First int
	Steps []Step
}

// Program compiles what Start would carry out, for the reader. tasks counts the hierarchies of control groups that the child
// enters by itself.
func Program(in Input, tasks int) (*plan.Program, error) { return compile(in, tasks, true) }

// compile compiles the program of a first process.
func compile(in Input, tasks int, await bool) (*plan.Program, error) {
	settleTargets(&in)
	filter, filterFlags, err := Filter(in.Spec.Linux.Seccomp, in.Host)
	if err != nil {
		return nil, err
	}
	own, ours := ownNetwork(in.Spec)
	p, err := plan.Compile(plan.Input{
		Spec: in.Spec, Host: in.Host, Overlay: in.Overlay, MountPoint: in.MountPoint, MakeWorkdir: in.MakeWorkdir, FileSources: fileSources(in.Spec), DeviceSources: in.DeviceSources, Trees: in.Trees != nil, Served: in.Served, Shm: in.Shm != nil, Images: in.Images,
		Given: numbersOf(in.Given), Filter: filter, FilterFlags: filterFlags, CgroupTasks: tasks, Inherit: in.Stdin == nil, Await: await, Tell: in.Tell, Network: ours, Loopback: own && !ours,
		Create: in.Gate != nil, PreserveFDs: in.PreserveFDs, Keyring: keyring(in.ID, in.NoKeyring), NoSetgroups: in.NoSetgroups(), Origins: in.Origins,
	})
	if err != nil {
		return nil, errdef.As(errdef.Invalid, err)
	}
	return p, nil
}

// keyring is the name of a process's session keyring, or empty.
func keyring(id string, none bool) string {
	if none {
		return ""
	}
	return "_ses." + id
}

// fileSources are the sources of bind mounts that are not directories.
func fileSources(s *specs.Spec) map[string]bool {
	files := map[string]bool{}
	for _, m := range s.Mounts {
		if m.Type != "bind" && !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
			continue
		}
		sub := ""
		for _, o := range m.Options {
			if s, ok := strings.CutPrefix(o, plan.SubpathOption); ok {
				sub = s
			}
		}
		// Of a part it is only the name that counts: what it leads to is looked up when it is mounted.
		if st, err := os.Lstat(filepath.Join(m.Source, sub)); err == nil && sub != "" && st.Mode().IsRegular() {
			files[filepath.Join(m.Source, sub)] = true
		}
		if st, err := os.Stat(m.Source); err == nil && sub == "" && !st.IsDir() {
			files[m.Source] = true
		}
	}
	return files
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

// Pending is a container whose control group is made and whose program is compiled.
type Pending struct {
	in       Input
	group    *cgroup.Group
	entrance cgroup.Entrance
	program  *plan.Program
	inputs   map[string]int
	console  *os.File // our end of the socket by which the terminal comes
	toStart  *os.File // a byte lets the child go on
	toMaps   *os.File // a byte says that the id maps are written
	ready    *os.File // a byte says that the process is at its gate
	here     *os.File // a byte says that the process waits for a word
	listener *os.File // our end of the socket by which the listener of its filter comes
	theirs   []*os.File
	network  *Network
	// closeNetwork says that the namespace is ours to let go of.
	closeNetwork bool
}

// Prepare makes the control group of a container and all else that its first process needs. With await the process waits for
// Release. On an error nothing is left; otherwise the caller starts it, or calls Abandon.
func Prepare(in Input, await bool) (_ *Pending, err error) {
	p := &Pending{in: in, network: in.Network}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Abandon())
		}
	}()
	if _, ours := ownNetwork(in.Spec); ours && p.network == nil {
		p.network, p.closeNetwork = MakeNetwork(), true
	}
	tasks, err := tasksOf(in)
	if err != nil {
		return nil, err
	}
	if p.program, err = compile(in, tasks, await); err != nil {
		return nil, err
	}
	p.inputs = descriptors(in.Stdin, in.Stdout, in.Stderr)
	if err := p.openInputs(await); err != nil {
		return nil, err
	}
	// The group comes last: systemd may be at work still on the scope that it is in.
	if p.group, err = createGroup(in); err != nil {
		return nil, err
	}
	if p.entrance, err = enter(p.group, p.inputs); err != nil {
		return nil, err
	}
	return p, nil
}

// openInputs makes what the program needs besides standard streams and the control group.
func (p *Pending) openInputs(await bool) (err error) {
	if p.in.Shm != nil {
		p.inputs[plan.InShm] = int(p.in.Shm.Fd())
	}
	if p.in.Root != nil {
		p.inputs[plan.InRoot] = int(p.in.Root.Fd())
	}
	for i, f := range p.in.Trees {
		p.inputs[plan.InTree(i)] = int(f.Fd())
	}
	for i, f := range p.in.Given {
		p.inputs[plan.InGiven(i)] = int(f.Fd())
	}
	if p.program.Has(plan.InNetwork) {
		ns, err := p.network.Wait()
		if err != nil {
			return errdef.As(errdef.Unsupported, fmt.Errorf("cannot make the network namespace of the container: %w", err))
		}
		p.inputs[plan.InNetwork] = int(ns.Fd())
	}
	if p.in.Spec.Process.Terminal {
		var theirs *os.File
		if p.console, theirs, err = socketPair(); err != nil {
			return err
		}
		p.give(plan.InConsole, theirs)
	}
	if p.program.Has(plan.InListener) {
		var theirs *os.File
		if p.listener, theirs, err = socketPair(); err != nil {
			return err
		}
		p.give(plan.InListener, theirs)
	}
	if p.program.Has(plan.InMaps) {
		if p.toMaps, err = p.word(plan.InMaps, plan.InMapsEnd); err != nil {
			return err
		}
	}
	if p.in.Gate != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		p.ready = r
		p.give(plan.InReady, w)
		p.inputs[plan.InStart] = int(p.in.Gate.Start.Fd())
	}
	if await && p.in.Tell {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		p.here = r
		p.give(plan.InHere, w)
	}
	if await {
		p.toStart, err = p.word(plan.InGo, plan.InGoEnd)
	}
	return err
}

// tasksOf is how many hierarchies of control groups the process will enter by itself.
func tasksOf(in Input) (int, error) {
	if in.Driver != cgroup.Systemd && in.Driver != cgroup.FS {
		return 0, nil
	}
	g, err := cgroup.Open(in.Host, in.Spec.Linux.CgroupsPath)
	if err != nil {
		return 0, err
	}
	return g.Tasks(), nil
}

// createGroup makes the control group, or returns nil where there is none.
func createGroup(in Input) (*cgroup.Group, error) {
	path, err := in.Spec.Linux.CgroupsPath, error(nil)
	switch in.Driver {
	case cgroup.Systemd:
		if path, err = in.Scope.Wait(); err != nil {
			return nil, err
		}
	case cgroup.FS:
	default:
		return nil, nil
	}
	g, err := cgroup.Create(in.Host, path, in.Spec.Linux.Resources)
	if uid, has := cgroup.OwnerOf(in.Spec, in.Host); err == nil && has {
		err = g.Give(uid)
	}
	return g, err
}

// give makes a file an input of the program; it is closed when the process has it.
func (p *Pending) give(name string, f *os.File) {
	p.inputs[name] = int(f.Fd())
	p.theirs = append(p.theirs, f)
}

// word makes a pipe over which the process is told to go on, and returns our end.
func (p *Pending) word(name, endName string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.give(name, r)
	p.inputs[endName] = int(w.Fd())
	return w, nil
}

// Abandon gives back what Prepare has made, and ends what has been started of it.
func (p *Pending) Abandon() error {
	p.Close()
	if p.group == nil {
		return nil
	}
	return p.group.Remove()
}

// Close closes every descriptor that is still here; a process that waits for a word goes silently.
func (p *Pending) Close() {
	for _, f := range append(p.theirs, p.console, p.toStart, p.toMaps, p.ready, p.here, p.listener) {
		if f != nil {
			_ = f.Close()
		}
	}
	p.theirs, p.console, p.toStart, p.toMaps, p.ready, p.here, p.listener = nil, nil, nil, nil, nil, nil, nil
	if p.closeNetwork {
		p.network.Close()
		p.closeNetwork = false
	}
	p.entrance.Close()
	p.entrance = cgroup.Entrance{}
}

// options is what the child is started with.
func (p *Pending) options() child.Options {
	o := child.Options{Inputs: p.inputs, Cgroup: p.entrance.Dir}
	if p.in.Gate != nil {
		o.Report = p.in.Gate.Report
	}
	return o
}

// Start makes the control group of a container and starts its first process. On an error nothing is left of either.
func Start(in Input) (*Running, error) {
	p, err := Prepare(in, false)
	if err != nil {
		return nil, err
	}
	return p.Start()
}

// Start starts the first process as a child of ours. On an error nothing is left of it, nor of what Prepare has made.
func (p *Pending) Start() (*Running, error) {
	return p.StartWhen(func(int) error { return nil })
}

// StartWhen is Start that lets a process that waits for a word go on when ready, which is told its number, returns no error.
func (p *Pending) StartWhen(ready func(pid int) error) (_ *Running, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Abandon())
		}
		p.Close()
	}()
	c, err := child.Start(p.program, p.options())
	if err == nil && p.program.Waits {
		err = p.letGo(c, ready)
	}
	if err != nil {
		return nil, startError(err, p.in.Spec.Process.Args[0])
	}
	return running(c, p.console, p.listener)
}

// running takes what a process that has started has sent of its own.
func running(c *child.Child, console, listener *os.File) (_ *Running, err error) {
	r := &Running{PID: c.PID, PIDFD: c.PIDFD}
	if console != nil {
		r.Console, err = ReceiveConsole(console)
	}
	if err == nil && listener != nil {
		r.Listener, err = child.Receive(listener)
	}
	if err != nil {
		_ = unix.PidfdSendSignal(c.PIDFD, unix.SIGKILL, nil, 0)
		return nil, err
	}
	return r, nil
}

// letGo gives a process the words that it waits for.
func (p *Pending) letGo(c *child.Child, ready func(pid int) error) error {
	err := p.writeMaps(c.PID)
	if err == nil && p.here != nil {
		p.closeTheirs() // the process alone can say that it is there
		if n, _ := p.here.Read(make([]byte, 1)); n == 0 {
			return c.WaitReady(p.here) // which says what stood in the way
		}
	}
	if err == nil {
		err = ready(c.PID)
	}
	if err == nil && p.toStart != nil {
		_, err = p.toStart.Write([]byte{1})
	}
	if err != nil {
		p.Close() // it goes, when it hears that there will be no word
		return errors.Join(err, c.End())
	}
	if p.ready == nil {
		return c.Wait()
	}
	p.closeTheirs() // the process alone can say that it is ready
	return c.WaitReady(p.ready)
}

func (p *Pending) closeTheirs() {
	for _, f := range p.theirs {
		_ = f.Close()
	}
	p.theirs = nil
}

// Steps are what the process has still to do when it has passed its gate: the operations from the number first on. By them
// whoever lets it go on understands what it reports.
func (p *Pending) Steps() (first int, steps []Step) { return stepsOf(p.program) }

func stepsOf(p *plan.Program) (first int, steps []Step) {
	for i := len(p.Ops) - 1; i >= 0 && p.Ops[i].Special != plan.WaitByte; i-- {
		op := &p.Ops[i]
		first, steps = i, append(steps, Step{What: op.What, Call: op.Call.Name, Exec: op.Special == plan.Exec})
	}
	slices.Reverse(steps)
	return first, steps
}

// Step is an operation of a program, for who does not have the program.
type Step struct {
	What string `json:"what"`
	Call string `json:"call"`
	Exec bool   `json:"exec,omitempty"`
}

// PassGate lets a created process go on, and returns when it has executed its program, or with what stood in the way: one of the steps
// from the number first on.
func PassGate(gate Gate, command string, first int, steps []Step) error {
	if _, err := gate.Start.Write([]byte{1}); err != nil {
		return err
	}
	index, errno, err := child.Outcome(gate.Report)
	if err != nil || errno == 0 {
		return err
	}
	op := plan.Op{What: "start the process"}
	if i := index - first; i >= 0 && i < len(steps) {
		op.What, op.Call.Name = steps[i].What, steps[i].Call
		if steps[i].Exec {
			op.Special = plan.Exec
		}
	}
	return startError(&child.Failure{Index: index, Op: &op, Errno: errno}, command)
}

// writeMaps writes the id maps of the process's user namespace, if it has one of its own, and lets it go on.
func (p *Pending) writeMaps(pid int) error {
	if p.toMaps == nil {
		return nil
	}
	err := p.in.Maps.Write(pid)
	if err == nil {
		_, err = p.toMaps.Write([]byte{1})
	}
	err = errors.Join(err, p.toMaps.Close())
	p.toMaps = nil
	return err
}

// Parent is what becomes of the process that is a container's parent: a program that is executed with these descriptors, from 0
// on, while the container's first process is being made.
type Parent struct {
	Program   *os.File
	Args, Env []string
	Files     []int
}

// Born is a first process that waits for Release.
type Born struct {
	// PID is the process, ParentPID its parent.
	PID, ParentPID int

	pending *Pending
	child   *child.Child
}

// Joinable is what exec needs of the container: its namespaces, and whether setgroups(2) is forbidden there.
func (p *Pending) Joinable() (namespaces uintptr, noSetgroups bool) {
	return NamespacesOf(p.in.Spec), p.in.NoSetgroups()
}

// Cgroup is the path of the container's control group, or empty, and who has made it.
func (p *Pending) Cgroup() (string, cgroup.Driver) {
	if p.group == nil {
		return "", cgroup.None
	}
	return p.group.Path(), p.in.Driver
}

// Console is our end of the socket by which the process's terminal will come, for Parent.Files; -1 without a terminal.
func (p *Pending) Console() int {
	if p.console == nil {
		return -1
	}
	return int(p.console.Fd())
}

// StartUnder starts the first process as the child of a parent that is yet to be executed. On an error nothing is left but the
// control group.
func (p *Pending) StartUnder(parent Parent) (*Born, error) {
	inputs := map[string]int{plan.InProgram: int(parent.Program.Fd())}
	for i, fd := range parent.Files {
		inputs[plan.InFile(i)] = fd
	}
	program := plan.CompileParent(plan.ParentInput{Args: parent.Args, Env: parent.Env, Files: len(parent.Files)})
	c, parentPID, err := child.StartUnder(p.program, p.options(), program, inputs)
	if err != nil {
		p.Close() // the process, if there is one, waits for a word
		var f *child.Failure
		if errors.As(err, &f) {
			return nil, fmt.Errorf("cannot start the container's monitor: %w", err)
		}
		return nil, startError(err, p.in.Spec.Process.Args[0])
	}
	for _, f := range append(p.theirs, p.console) {
		if f != nil {
			_ = f.Close()
		}
	}
	p.theirs, p.console = nil, nil
	b := &Born{PID: c.PID, ParentPID: parentPID, pending: p, child: c}
	if err := p.writeMaps(c.PID); err != nil {
		p.Close()
		return nil, err
	}
	return b, nil
}

// Cgroup is the path of the process's control group, or empty, and who has made it.
func (b *Born) Cgroup() (string, cgroup.Driver) { return b.pending.Cgroup() }

// Release lets the process go on, and returns when it has executed its program. left is a process that has ended meanwhile, for the
// parent to reap, or 0; the parent reaps the process itself when there is an error, too.
func (b *Born) Release() (left int, err error) {
	_, err = b.pending.toStart.Write([]byte{1})
	b.pending.Close()
	if failure := b.child.Wait(); failure != nil {
		err = failure // it had gone before it was let go on
	}
	b.PID = b.child.PID
	if err != nil {
		err = startError(err, b.pending.in.Spec.Process.Args[0])
	}
	return b.child.Left, err
}

// enter opens the way into a group, as inputs of a program; nil is the caller's own, in which a child is anyway.
func enter(g *cgroup.Group, inputs map[string]int) (cgroup.Entrance, error) {
	if g == nil {
		return cgroup.Entrance{}, nil
	}
	e, err := g.Enter()
	for i, f := range e.Files {
		inputs[plan.InCgroup(i)] = int(f.Fd())
	}
	return e, err
}

// descriptors are the standard streams as inputs.
func descriptors(stdio ...*os.File) map[string]int {
	inputs := map[string]int{}
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

// ReceiveConsole takes the terminal that a child has sent over its console socket.
func ReceiveConsole(socket *os.File) (*os.File, error) {
	f, err := child.Receive(socket)
	if err != nil {
		return nil, fmt.Errorf("cannot take the terminal: %w", err)
	}
	return f, nil
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
	if f.Op.Special == plan.Exec || f.Op.Special == plan.Find {
		switch f.Errno {
		case syscall.ENOENT, syscall.ENOTDIR:
			if strings.Contains(command, "/") {
				return errdef.New(errdef.NoCommand, "exec %s: no such file or directory: it, or the interpreter that it names, is missing", command)
			}
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
