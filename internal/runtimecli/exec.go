package runtimecli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"

	"github.com/mailru/easyjson/jlexer"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ExecOptions are what exec is asked for, beside Options. What is not said is the container's own process's.
type ExecOptions struct {
	Process         string // a file with the whole process; then nothing else of this counts
	Args, Env       []string
	Cwd, User       string // UID[:GID]
	Terminal        bool
	Groups          []uint32
	Capabilities    []string
	NoNewPrivileges bool
	AppArmor, Label string
	IgnorePaused    bool
	Cgroups         []string // below the container's, as cgroup.Group.Below has them
}

// Exec starts a further process in a container, and returns its exit status; with Detach it returns when the process runs.
func (s Store) Exec(o Options, e ExecOptions) (int, error) {
	r, err := s.read(o.ID)
	if err != nil {
		return 0, err
	}
	switch status := s.status(r); {
	case status == stopped || status == creating:
		return 0, errdef.New(errdef.Conflict, "cannot exec in a %s container: container not running", status)
	case status == paused && !e.IgnorePaused:
		err := errdef.New(errdef.Conflict, "cannot exec in a paused container (use --ignore-paused to override)")
		return 0, errdef.Hint(err, "resume it first; with --ignore-paused the process starts, and waits")
	}
	c, err := s.config(o.ID)
	if err != nil {
		return 0, err
	}
	p, err := process(c, e)
	if err != nil {
		return 0, err
	}
	if err := o.checkPreserved(); err != nil {
		return 0, err
	}
	if o.ConsoleSocket != "" {
		o.Detach = true
	}
	if err := checkTerminal(p.Terminal, o.Detach, o.ConsoleSocket); err != nil {
		return 0, err
	}
	if p.Terminal && o.Rows > 0 && p.ConsoleSize == nil {
		p.ConsoleSize = &specs.Box{Height: uint(o.Rows), Width: uint(o.Columns)}
	}
	completeEnv(p, func() []byte { return passwdInside(r.PID) })
	facts := host.Probe()
	s.grant(p, facts, r.Namespaces&unix.CLONE_NEWUSER != 0)
	running, err := s.enter(r, o, facts, p, c.Linux, s.status(r), e.Cgroups)
	if err != nil {
		return 0, err
	}
	defer unix.Close(running.PIDFD)
	status, err := o.attend(running)
	if err != nil {
		_ = unix.PidfdSendSignal(running.PIDFD, unix.SIGKILL, nil, 0)
		_, failed := wait(running.PID)
		return 0, errors.Join(err, failed)
	}
	return status, nil
}

// enter starts a process in the container.
func (s Store) enter(r record, o Options, facts host.Facts, p *specs.Process, linux *specs.Linux, status string, below []string) (*lifecycle.Running, error) {
	pidfd := r.open()
	if pidfd < 0 {
		return nil, errNotRunning
	}
	defer unix.Close(pidfd)
	var err error
	in := lifecycle.ExecInput{
		ID: r.ID, Process: p, Seccomp: linux.Seccomp, Linux: linux, Host: facts, Target: pidfd, Namespaces: r.Namespaces, NoSetgroups: r.NoSetgroups,
		PreserveFDs: o.PreserveFDs, NoKeyring: o.NoKeyring,
	}
	if r.Cgroup != "" {
		if in.Cgroup, err = cgroup.Open(facts, r.Cgroup); err != nil {
			return nil, err
		}
	}
	switch {
	case len(below) > 0 && in.Cgroup == nil:
		return nil, errdef.New(errdef.Unsupported, "cannot enter a control group below the container's: it has none of its own")
	case len(below) > 0:
		if in.Cgroup, err = in.Cgroup.Below(below); err != nil {
			return nil, err
		}
	}
	if !listens(linux.Seccomp) {
		running, err := lifecycle.Exec(in)
		if len(below) == 0 && errors.Is(err, unix.EBUSY) && in.Cgroup != nil {
			// Its group hands controllers down, so that processes live below it (version 2): with its first process, then.
			if in.Cgroup, err = in.Cgroup.Beside(r.PID); err == nil {
				running, err = lifecycle.Exec(in)
			}
		}
		return running, groupError(err, len(below) > 0)
	}
	dir, err := os.MkdirTemp(filepath.Join(s.Root, r.ID), "exec")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	waits, err := makeGate(dir)
	if err != nil {
		return nil, err
	}
	in.Gate = &waits.Gate
	running, err := lifecycle.Exec(in)
	waits.close()
	if err != nil {
		return nil, err
	}
	state := r.state(status)
	state.PID = r.PID
	if err = tellListener(linux.Seccomp, running, state); err == nil {
		var g *gate
		if g, err = openGate(dir); err == nil {
			err = lifecycle.PassGate(g.Gate, p.Args[0], running.First, running.Steps)
			g.close()
		}
	}
	if err != nil {
		_ = unix.PidfdSendSignal(running.PIDFD, unix.SIGKILL, nil, 0)
		_, failed := wait(running.PID)
		return nil, errors.Join(err, failed, unix.Close(running.PIDFD))
	}
	return running, nil
}

// groupError says that it was for the group that a process could not be made.
func groupError(err error, asked bool) error {
	if asked && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOENT)) && errdef.KindOf(err) != errdef.NoCommand {
		return fmt.Errorf("error adding pid of the new process to cgroups: %w", err)
	}
	return err
}

// attend connects a process with us until its end, or hands it over.
func (o Options) attend(r *lifecycle.Running) (int, error) {
	if o.ConsoleSocket != "" {
		if err := sendConsole(o.ConsoleSocket, r.Console); err != nil {
			return 0, err
		}
		r.Console = nil
	}
	if err := o.tell(r); err != nil {
		return 0, err
	}
	if o.Detach {
		return 0, nil
	}
	disconnect := func() {}
	if r.Console != nil {
		defer r.Console.Close()
		var err error
		if disconnect, err = o.Connect(r.Console); err != nil {
			return 0, err
		}
	}
	defer lifecycle.ProxySignals(func(n unix.Signal) {
		if n != unix.SIGWINCH || r.Console == nil { // its own terminal tells it
			_ = unix.PidfdSendSignal(r.PIDFD, n, nil, 0)
		}
	})()
	ws, err := wait(r.PID)
	disconnect()
	return exitStatus(ws), err
}

// process is the process that exec is asked for.
func process(c *specs.Spec, e ExecOptions) (*specs.Process, error) {
	if e.Process != "" {
		return readProcess(e.Process)
	}
	if c.Process == nil {
		return nil, errdef.Hint(errdef.New(errdef.Invalid, "the container's config.json has no process that another could be like"), "--process names a file with the whole of it")
	}
	p := *c.Process
	p.Terminal, p.Args, p.ConsoleSize = e.Terminal, e.Args, nil
	p.Env = append(append([]string{}, p.Env...), e.Env...)
	if e.Cwd != "" {
		p.Cwd = e.Cwd
	}
	if e.AppArmor != "" {
		p.ApparmorProfile = e.AppArmor
	}
	if e.Label != "" {
		p.SelinuxLabel = e.Label
	}
	p.NoNewPrivileges = p.NoNewPrivileges || e.NoNewPrivileges
	if len(e.Capabilities) > 0 {
		more := specs.LinuxCapabilities{}
		if p.Capabilities != nil {
			more = *p.Capabilities
		}
		for _, set := range []*[]string{&more.Bounding, &more.Effective, &more.Permitted} {
			*set = append(append([]string{}, *set...), e.Capabilities...)
		}
		p.Capabilities = &more
	}
	if e.User != "" {
		user, group, both := strings.Cut(e.User, ":")
		uid, err := strconv.ParseUint(user, 10, 32)
		gid := uint64(p.User.GID)
		if err == nil && both {
			gid, err = strconv.ParseUint(group, 10, 32)
		}
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "the user %q is not UID[:GID]", e.User)
		}
		p.User.UID, p.User.GID = uint32(uid), uint32(gid)
	}
	p.User.AdditionalGids = append(append([]uint32{}, p.User.AdditionalGids...), e.Groups...)
	return &p, nil
}

// readProcess reads a process.json.
func readProcess(path string) (*specs.Process, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errdef.New(errdef.NotFound, "cannot read the process: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return nil, err
	}
	var p specs.Process
	in := jlexer.Lexer{Data: data}
	decodeSpec(&in, &p)
	in.Consumed()
	if err := in.Error(); err != nil {
		return nil, errdef.New(errdef.Invalid, "cannot read the process in %s: %w", path, err)
	}
	switch {
	case len(p.Args) == 0:
		return nil, errdef.New(errdef.Invalid, "the process in %s has no arguments", path)
	case !filepath.IsAbs(p.Cwd):
		return nil, fmt.Errorf("the working directory %q of the process in %s is not an absolute path", p.Cwd, path)
	}
	return &p, nil
}
