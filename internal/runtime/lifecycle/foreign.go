package lifecycle

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/ownjson"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/child"
	"berth/internal/runtime/plan"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Foreign is an OCI runtime that is another program, for one container. It is called as engines call runc: create and start with a bundle,
// exec with a process in a file, delete. Its process ends with each call; the container's is then a child of the caller's, who has to be a
// subreaper (PR_SET_CHILD_SUBREAPER) that long. Calls for one container come one after another.
type Foreign struct {
	// Name is how the user calls the runtime, Program its file.
	Name, Program string
	// ID is the container's.
	ID string
	// Dir is where the bundle is, and what the runtime knows of the container; it dies with the boot, and is made by Prepare.
	Dir string
}

// The files in Foreign.Dir, from which the runtime is called.
const (
	foreignRoot    = "rootfs"
	foreignShm     = "shm"
	foreignState   = "state" // the runtime's own
	foreignLog     = "log"
	foreignPID     = "pid"
	foreignProcess = "process.json"
	foreignConsole = "console"
)

// foreignVersion is the version of the runtime spec that bundles for others claim: crun before 1.9 takes no later one, and no field that berth
// writes came later than this, or is refused by who does not know it.
const foreignVersion = "1.0.2"

// ForeignPending is a container that is ready to be created by another runtime.
type ForeignPending struct {
	runtime Foreign
	in      Input
	group   string
	parts   []plan.Part
}

// Prepare makes the bundle of a container. On an error nothing is left but files in the directory.
func (f Foreign) Prepare(in Input) (*ForeignPending, error) {
	p := &ForeignPending{runtime: f, in: in}
	if err := f.check(in); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(f.Dir); err != nil {
		return nil, err
	}
	for _, name := range []string{foreignRoot, foreignShm} {
		if err := os.MkdirAll(filepath.Join(f.Dir, name), 0o700); err != nil {
			return nil, err
		}
	}
	s, err := p.bundle()
	if err != nil {
		return nil, err
	}
	data, err := ownjson.Marshal(s)
	if err != nil {
		return nil, err
	}
	return p, os.WriteFile(filepath.Join(f.Dir, "config.json"), data, 0o600)
}

// check refuses what no config.json can say.
func (f Foreign) check(in Input) error {
	if in.Trees != nil {
		return errdef.New(errdef.Unsupported, "cannot start the container with the runtime %s: without root, a container with a user namespace of its own is berth's alone", f.Name)
	}
	for place, source := range in.DeviceSources {
		if in.Host.Rootless && place != source {
			return errdef.New(errdef.Unsupported, "cannot start the container with the runtime %s: without root, a device has the same name there as on the host (%s:%s)", f.Name, source, place)
		}
	}
	for _, m := range in.Spec.Mounts {
		if slices.Contains(m.Options, "rshared") || slices.Contains(m.Options, "shared") {
			return errdef.New(errdef.Unsupported, "cannot start the container with the runtime %s: its mounts in %s could not be passed on to the host", f.Name, m.Destination)
		}
	}
	return nil
}

// bundle is the spec as another runtime can carry it out: what only berth's own understands is put in the spec's words.
func (p *ForeignPending) bundle() (*specs.Spec, error) {
	s := *p.in.Spec
	linux := *s.Linux
	s.Linux, s.Version = &linux, foreignVersion
	if p.in.Overlay != nil {
		s.Root = &specs.Root{Path: foreignRoot, Readonly: s.Root.Readonly}
	}
	path, err := groupOf(p.in)
	if err != nil {
		return nil, err
	}
	p.group, linux.CgroupsPath = path, path
	if linux.Namespaces, err = p.namespaces(linux.Namespaces); err != nil {
		return nil, err
	}
	s.Mounts = slices.Clone(s.Mounts)
	for i, m := range s.Mounts {
		if m.Destination == plan.ShmPath && p.in.Shm != nil {
			s.Mounts[i].Source = filepath.Join(p.runtime.Dir, foreignShm)
		}
		if at := slices.Index(m.Options, "rro"); at >= 0 && isFile(m) {
			// There is nothing below it, and crun before 1.9 looks for a directory.
			m.Options = slices.Delete(slices.Clone(m.Options), at, at+1)
			s.Mounts[i].Options = m.Options
		}
		at := slices.IndexFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, plan.SubpathOption) })
		if at < 0 {
			continue
		}
		name := strings.TrimPrefix(m.Options[at], plan.SubpathOption)
		part := plan.Part{Dir: m.Source, Name: name, Recursive: slices.Contains(m.Options, "rbind")}
		if part.At, err = p.place(i, m); err != nil {
			return nil, err
		}
		p.parts = append(p.parts, part)
		s.Mounts[i].Source = part.At
		s.Mounts[i].Options = slices.Delete(slices.Clone(m.Options), at, at+1)
	}
	return &s, nil
}

// isFile reports whether what a mount binds is a single file.
func isFile(m specs.Mount) bool {
	name := m.Source
	for _, o := range m.Options {
		if sub, ok := strings.CutPrefix(o, plan.SubpathOption); ok {
			name = filepath.Join(name, sub)
		}
	}
	st, err := os.Lstat(name)
	return err == nil && st.Mode().IsRegular()
}

// place makes the place of the part with that number: a file for a file.
func (p *ForeignPending) place(i int, m specs.Mount) (string, error) {
	at := filepath.Join(p.runtime.Dir, fmt.Sprintf("part%d", i))
	if isFile(m) {
		return at, os.WriteFile(at, nil, 0o600)
	}
	return at, os.Mkdir(at, 0o700)
}

// groupOf is the control group in which the runtime is to have the container; empty leaves it where it is.
func groupOf(in Input) (string, error) {
	switch in.Driver {
	case cgroup.Systemd:
		return in.Scope.Wait()
	case cgroup.FS:
		return in.Spec.Linux.CgroupsPath, nil
	}
	return "", nil
}

// namespaces are the container's, by names that another process understands.
func (p *ForeignPending) namespaces(all []specs.LinuxNamespace) ([]specs.LinuxNamespace, error) {
	all = slices.Clone(all)
	for i, n := range all {
		if number, ours := strings.CutPrefix(n.Path, "/proc/self/fd/"); ours {
			all[i].Path = descriptorOf(number)
		}
		if n.Type == specs.NetworkNamespace && n.Path == "" && p.in.Network != nil {
			ns, err := p.in.Network.Wait()
			if err != nil {
				return nil, errdef.As(errdef.Unsupported, fmt.Errorf("cannot make the network namespace of the container: %w", err))
			}
			all[i].Path = descriptorOf(strconv.Itoa(int(ns.Fd())))
		}
	}
	return all, nil
}

// descriptorOf is the name that a descriptor of this process has for others.
func descriptorOf(number string) string { return fmt.Sprintf("/proc/%d/fd/%s", os.Getpid(), number) }

// Close does nothing: all that is open is the caller's.
func (p *ForeignPending) Close() {}

// Abandon gives back what Prepare has made.
func (p *ForeignPending) Abandon() error {
	return os.RemoveAll(p.runtime.Dir)
}

// Joinable and Cgroup are as those of Pending.
func (p *ForeignPending) Joinable() (namespaces uintptr, noSetgroups bool) {
	return NamespacesOf(p.in.Spec), p.in.NoSetgroups()
}

// Cgroup is the path of the container's control group, or empty, and the driver that was chosen for it.
func (p *ForeignPending) Cgroup() (string, cgroup.Driver) {
	if p.group == "" {
		return "", cgroup.None
	}
	return p.group, p.in.Driver
}

// StartWhen has the runtime create the container, calls ready with the number of its first process, which waits, and has it started. On an
// error the container is deleted.
func (p *ForeignPending) StartWhen(ready func(pid int) error) (_ *Running, err error) {
	f := p.runtime
	var r *Running
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(err, f.Delete())
		if r != nil {
			r.bury()
		}
	}()
	mounts := plan.ForeignInput{Host: p.in.Host, Overlay: p.in.Overlay, MountPoint: filepath.Join(f.Dir, foreignRoot), Parts: p.parts}
	if p.in.Shm != nil {
		mounts.Shm = filepath.Join(f.Dir, foreignShm)
	}
	stdio := [3]*os.File{p.in.Stdin, p.in.Stdout, p.in.Stderr}
	r, err = f.begin("create", p.in.Spec.Process, stdio, func(args []string, stdio [3]*os.File) error {
		return f.call(mounts, p.in.Shm, stdio, append(args, "--bundle", f.Dir, f.ID)...)
	})
	if err != nil {
		return nil, err
	}
	if err := ready(r.PID); err != nil {
		return r, err
	}
	return r, f.call(plan.ForeignInput{}, nil, [3]*os.File{}, "start", f.ID)
}

// Exec has the runtime start a further process.
func (f Foreign) Exec(process *specs.Process, stdio [3]*os.File) (*Running, error) {
	data, err := ownjson.Marshal(process)
	if err == nil {
		err = os.WriteFile(filepath.Join(f.Dir, foreignProcess), data, 0o600)
	}
	if err != nil {
		return nil, err
	}
	return f.begin("exec", process, stdio, func(args []string, stdio [3]*os.File) error {
		return f.call(plan.ForeignInput{}, nil, stdio, append(args, "--detach", "--process", foreignProcess, f.ID)...)
	})
}

// Delete has the runtime end and forget the container, if it knows it.
func (f Foreign) Delete() error {
	if _, err := os.Stat(filepath.Join(f.Dir, foreignState)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := f.call(plan.ForeignInput{}, nil, [3]*os.File{}, "delete", "--force", f.ID); err != nil {
		return err
	}
	return os.RemoveAll(f.Dir)
}

// begin makes a call that leaves a process behind, and takes hold of that.
func (f Foreign) begin(verb string, process *specs.Process, stdio [3]*os.File, call func(args []string, stdio [3]*os.File) error) (*Running, error) {
	if err := os.Remove(filepath.Join(f.Dir, foreignPID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	args := []string{verb, "--pid-file", foreignPID}
	var console *foreignTerminal
	if process.Terminal {
		var err error
		if console, err = f.listen(); err != nil {
			return nil, err
		}
		defer console.close()
		args, stdio = append(args, "--console-socket", foreignConsole), [3]*os.File{}
	}
	// What the runtime leaves behind comes to this process when it ends, and nothing else's orphans do.
	if err := subreaper(true); err != nil {
		return nil, err
	}
	before := children()
	err := call(args, stdio)
	if err = errors.Join(err, subreaper(false)); err != nil {
		reapOrphans(before)
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(f.Dir, foreignPID))
	if err != nil {
		return nil, fmt.Errorf("the runtime %s does not say which process it has started: %w", f.Name, err)
	}
	r := &Running{PIDFD: -1}
	if r.PID, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil {
		return nil, fmt.Errorf("the runtime %s does not say which process it has started: %w", f.Name, err)
	}
	// It is a child of ours that nobody has waited for: the number is its own.
	if r.PIDFD, err = unix.PidfdOpen(r.PID, 0); err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	if console != nil {
		if r.Console, err = console.receive(); err != nil {
			r.bury()
			return nil, fmt.Errorf("the runtime %s has sent no terminal: %w", f.Name, err)
		}
	}
	return r, nil
}

// children are the processes whose parent is this one.
func children() (pids []string) {
	files, _ := filepath.Glob("/proc/self/task/*/children")
	for _, name := range files {
		data, _ := os.ReadFile(name)
		pids = append(pids, strings.Fields(string(data))...)
	}
	return pids
}

// reapOrphans takes, when they end, the status of processes that a failed call has left to this one: a container whose first process ends
// lasts until nobody of it is left, not even as a zombie.
func reapOrphans(before []string) {
	for _, pid := range children() {
		if n, err := strconv.Atoi(pid); err == nil && !slices.Contains(before, pid) {
			go func() {
				for unix.Waitid(unix.P_PID, n, nil, unix.WEXITED, nil) == unix.EINTR {
				}
			}()
		}
	}
}

func subreaper(on bool) error {
	n := uintptr(0)
	if on {
		n = 1
	}
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, n, 0, 0, 0))
}

// bury ends a process that nobody will have, and takes its status.
func (r *Running) bury() {
	if r.Console != nil {
		_ = r.Console.Close()
	}
	if r.PIDFD < 0 {
		return
	}
	_ = unix.PidfdSendSignal(r.PIDFD, unix.SIGKILL, nil, 0)
	_ = unix.Waitid(unix.P_PIDFD, r.PIDFD, nil, unix.WEXITED, nil)
	_ = unix.Close(r.PIDFD)
}

// call calls the runtime, and waits for its end.
func (f Foreign) call(in plan.ForeignInput, shm *os.File, stdio [3]*os.File, args ...string) error {
	log := filepath.Join(f.Dir, foreignLog)
	if err := os.Remove(log); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	in.Program, in.Dir, in.Env = f.Program, f.Dir, foreignEnv()
	in.Args = slices.Concat([]string{f.Program, "--root", filepath.Join(f.Dir, foreignState), "--log", log, "--log-format", "json"}, args)
	for i := range stdio {
		if stdio[i] != nil {
			continue
		}
		null, err := OpenNull([]int{os.O_RDONLY, os.O_WRONLY, os.O_WRONLY}[i])
		if err != nil {
			return err
		}
		defer null.Close()
		stdio[i] = null
	}
	inputs := descriptors(stdio[:]...)
	if shm != nil {
		inputs[plan.InShm] = int(shm.Fd())
	}
	c, err := child.Start(plan.CompileForeign(in), child.Options{Inputs: inputs})
	if err != nil {
		return fmt.Errorf("cannot execute the runtime %s (%s): %w", f.Name, f.Program, err)
	}
	status, err := c.Exit()
	if err != nil {
		return err
	}
	if status.Exited() && status.ExitStatus() == 0 {
		return nil
	}
	return f.failure(args[0], log, status)
}

// foreignEnv is this process's environment without what is for berth's own programs.
func foreignEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GOMAXPROCS=") || strings.HasPrefix(v, "BERTH_") })
}

// failure is what the runtime has said in its log, with the kind of error that docker takes it for.
func (f Foreign) failure(verb, log string, status unix.WaitStatus) error {
	said := fmt.Sprintf("exit status %d", status.ExitStatus())
	if status.Signaled() {
		said = status.Signal().String()
	}
	data, _ := os.ReadFile(log)
	for line := range bytes.Lines(data) {
		var entry struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
		}
		if err := ownjson.Unmarshal(line, &entry); err == nil && entry.Level == "error" && entry.Msg != "" {
			said = entry.Msg
		}
	}
	kind := errdef.Unknown
	for _, k := range slices.Sorted(maps.Keys(foreignKinds)) {
		if strings.Contains(strings.ToLower(said), k) {
			kind = foreignKinds[k]
		}
	}
	return errdef.New(kind, "OCI runtime %s failed: %s: %s", verb, f.Name, said)
}

// foreignKinds are the words by which docker tells that a command is missing, or may not be executed, from other failures of a runtime.
var foreignKinds = map[string]errdef.Kind{
	"executable file not found":                errdef.NoCommand,
	"executable file `":                        errdef.NoCommand, // crun
	"no such file or directory":                errdef.NoCommand,
	"permission denied":                        errdef.NotExecutable,
	"is a directory":                           errdef.NotExecutable,
	"exec format error":                        errdef.NotExecutable,
	"open executable: operation not permitted": errdef.NotExecutable, // crun, of a directory
}

// foreignTerminal is the socket at which a runtime hands over the terminal of a process.
type foreignTerminal struct{ l *net.UnixListener }

// listen makes the socket. Its name may be longer than an address can be: it is by the open directory that it is found.
func (f Foreign) listen() (*foreignTerminal, error) {
	if err := os.Remove(filepath.Join(f.Dir, foreignConsole)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	d, err := os.Open(f.Dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), foreignConsole), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return &foreignTerminal{l}, nil
}

func (t *foreignTerminal) close() { _ = t.l.Close() }

// receive takes the terminal, which the runtime has sent before its call ended.
func (t *foreignTerminal) receive() (*os.File, error) {
	if err := t.l.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	c, err := t.l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	socket, err := c.File()
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	return ReceiveConsole(socket)
}
