package monitor

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/ident"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/spec"
	"berth/internal/state"
	"berth/internal/storage"

	"golang.org/x/sys/unix"
)

// Further decides what a further process of a container is: cfg is the container's configuration with what was asked for in its place,
// and p where it runs. files are where the container's files lie on disk, the topmost first, for where it cannot be looked into.
func Further(c *state.Container, cfg container.Config, p state.Process, h host.Facts, files func() ([]string, error)) (ExecRequest, error) {
	in := spec.Input{ID: c.ID, Config: cfg, Host: h}
	var err error
	if in.User, err = lookupRunning(c, cfg, p, files); err != nil {
		return ExecRequest{}, err
	}
	r := ExecRequest{Version: Version}
	if r.Process, err = spec.Process(in); err != nil {
		return ExecRequest{}, err
	}
	r.Seccomp, err = spec.Seccomp(cfg, r.Process.Capabilities.Bounding, h)
	return r, err
}

// lookupRunning finds a user by the files of a running container, which its processes may have made anything of.
func lookupRunning(c *state.Container, cfg container.Config, p state.Process, files func() ([]string, error)) (container.User, error) {
	fd := p.Open()
	if fd < 0 {
		return container.User{}, errdef.New(errdef.Conflict, "container %s is not running", c.ID)
	}
	defer unix.Close(fd)
	root, err := os.Open(fmt.Sprintf("/proc/%d/root", p.PID))
	if errors.Is(err, unix.EACCES) && c.Driver == storage.Fuse { // it answers nobody outside of its user namespace
		stack, err := files()
		if err != nil {
			return container.User{}, err
		}
		return LookupUser(stack, cfg)
	}
	if err != nil {
		return container.User{}, errdef.New(errdef.Conflict, "cannot look into container %s: %w", c.Name, err)
	}
	defer root.Close()
	read := func(name string) []byte {
		data, err := disk.ReadBounded(int(root.Fd()), name, 4<<20)
		if err != nil {
			return nil
		}
		return data
	}
	return container.LookupUser(cfg.User, cfg.Groups, read("etc/passwd"), read("etc/group"))
}

// files are where the container's files lie on disk.
func (m *monitor) files() ([]string, error) {
	layers, err := m.Layers()
	if err != nil {
		return nil, err
	}
	return storage.Of(m.c.Driver).Stack(storage.Place{Dir: m.Store.FilesDir(m.c), Layers: layers, Points: m.Store.MountPoints()}), nil
}

// further is a further process that runs. The container does not end, as far as others are told, before done is called.
type further struct {
	*lifecycle.Running
	m  *monitor
	id string
}

// done lets go of a process that has ended.
func (f *further) done() {
	_ = unix.Close(f.PIDFD)
	f.m.execs.Done()
}

// collect waits for the end of the process.
func (f *further) collect() Ended {
	exit := waitFor(f.PIDFD, f.PID)
	f.m.Store.Note(f.m.current(), "exec_die", "execID", f.id, "exitCode", strconv.Itoa(exit.ExitCode))
	return exit
}

// startFurther starts a further process.
func (m *monitor) startFurther(request ExecRequest, files []*os.File) (_ *further, err error) {
	process := request.Process
	m.mu.Lock()
	if !m.running {
		m.mu.Unlock()
		return nil, errdef.New(errdef.Conflict, "the container is not running")
	}
	target, err := unix.FcntlInt(uintptr(m.pidfd), unix.F_DUPFD_CLOEXEC, 3)
	m.execs.Add(1)
	m.mu.Unlock()
	defer func() {
		if err != nil {
			m.execs.Done()
		}
	}()
	m.grown.Store(true)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	defer unix.Close(target)
	in := lifecycle.ExecInput{
		ID: m.c.ID, Process: process, Seccomp: request.Seccomp, Host: m.Host(), Target: target,
		Namespaces: m.namespaces, Cgroup: m.group(), NoSetgroups: m.noSetgroups,
	}
	if !process.Terminal {
		in.Stdin, in.Stdout, in.Stderr = files[0], files[1], files[2]
	}
	r, err := m.enter(in)
	id, command := request.ID, strings.Join(process.Args, " ")
	if id == "" {
		id = ident.New()
	}
	now := m.current()
	created := now.Event("exec_create: "+command, "execID", id)
	if err != nil {
		m.Store.NoteAll(created)
		return nil, err
	}
	m.Store.NoteAll(created, now.Event("exec_start: "+command, "execID", id))
	return &further{r, m, id}, nil
}
