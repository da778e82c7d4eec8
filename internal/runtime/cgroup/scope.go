package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/systemd"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A container of the driver systemd has a scope of its own, which is delegated (https://systemd.io/CGROUP_DELEGATION), with two
// groups in it:
//
//	system.slice/berth-ID.scope     systemd's: what is shared out among containers (Properties)
//	    supervisor                  the monitor, and the command that starts the container
//	    container                   the container, and all of its limits
//
// So one call moves the monitor out of its caller's session, too; a container that is out of memory does not take it along; and
// limits are changed, and read, by plain files.
//
// A scope is made around a process. That is this one, the command: it is in there before anything is born that is to be limited, and a
// user's command must be, since only systemd may move a process out of a session into what is delegated to the user. When the
// monitor and the command have gone, systemd removes the scope by itself, whoever was killed.

// Scope is the scope of a container that is being made.
type Scope struct {
	made  chan struct{}
	group string
	err   error
}

// ScopeInput is what a scope is made from.
type ScopeInput struct {
	ID, Description string
	Slice           string // empty is the driver's choice
	Unit            string // empty is ScopeName of the ID
	Resources       *specs.LinuxResources
	StopTimeout     time.Duration
}

// EnterScope has systemd make the scope of a container and move this process into it, while the caller does something else.
func EnterScope(h host.Facts, in ScopeInput) *Scope {
	s := &Scope{made: make(chan struct{})}
	go func() {
		defer close(s.made)
		s.group, s.err = enterScope(h, in)
	}()
	return s
}

// Wait waits until this process is in the scope, and returns the group that is to be the container's.
func (s *Scope) Wait() (string, error) {
	<-s.made
	return s.group, s.err
}

// enterScope returns the group of the container in the scope.
func enterScope(h host.Facts, in ScopeInput) (string, error) {
	if in.Slice == "" {
		in.Slice = Slice(h)
	}
	name := in.Unit
	if name == "" {
		name = ScopeName(in.ID)
	}
	if scope := scopeAround(name); scope != "" {
		return scope + containerGroup, nil // a monitor that starts its container again
	}
	if err := startScope(h, name, in); err != nil {
		err = fmt.Errorf("cannot have systemd make the scope %s: %w", name, err)
		return "", errdef.Hint(errdef.As(errdef.Unavailable, err), "see why: systemctl status; --cgroup-manager %s does without systemd", FS)
	}
	scope := scopeAround(name)
	if scope == "" {
		return "", errdef.New(errdef.Unavailable, "systemd has made the scope %s, but this process is in %s", name, ownGroup())
	}
	return scope + containerGroup, supervise(scope)
}

// scopeAround is the scope of that name if this process is in it.
func scopeAround(name string) string {
	for at := ownGroup(); at != "/" && at != "." && at != ""; at = path.Dir(at) {
		if path.Base(at) == name {
			return at
		}
	}
	return ""
}

func ownGroup() string {
	data, err := disk.Read("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	return host.OwnGroup(string(data))
}

// supervise moves this process, with all of its threads, into the group in a scope that is not limited.
func supervise(scope string) error {
	group := mount + scope + supervisorGroup
	if err := unix.Mkdir(group, 0o755); err != nil && err != unix.EEXIST { // not mkdir: a scope that has gone is not ours to make
		return &os.PathError{Op: "mkdir", Path: group, Err: err}
	}
	return write(group+"/cgroup.procs", "0")
}

// patience is how long a scope is tried to be had, where one of that name is there still (somebody is in it: the command that was attached to
// the container, for a moment, or what has been left by who was killed), or where systemd has ended the connection: it executes itself
// again when it is updated.
const patience = 2 * time.Second

// startScope has systemd move this process into a new scope. One of that name that does not go is ended.
func startScope(h host.Facts, name string, in ScopeInput) error {
	scope := systemd.Scope{
		Name: name, Description: in.Description, Slice: in.Slice, PIDs: []uint32{systemd.Self}, StopTimeout: in.StopTimeout,
		Properties: Properties(in.Resources),
	}
	start := func(c *systemd.Conn) error { return c.StartScope(scope) }
	pause := time.Millisecond
	for end := time.Now().Add(patience); ; pause = min(2*pause, 100*time.Millisecond) {
		err := ask(h, start)
		switch {
		case err == nil || scopeAround(name) != "": // the answer may have been lost
			return nil
		case !systemd.Exists(err) && !systemd.Lost(err):
			return err
		case time.Now().After(end):
			return ask(h, func(c *systemd.Conn) error {
				return errors.Join(c.Stop(name), c.ResetFailed(name), c.StartScope(scope))
			})
		}
		time.Sleep(pause)
	}
}

// ask asks the systemd that is to be asked here.
func ask(h host.Facts, what func(*systemd.Conn) error) error {
	conn, err := systemd.Dial(h.Groups.Systemd)
	if err != nil {
		return err
	}
	return errors.Join(what(conn), conn.Close())
}

// Properties are the properties of a scope that follow from limits: those by which containers share, for they count among the groups
// beside each other (Documentation/admin-guide/cgroup-v2.rst, "Weights" and "Protections"). Limits proper are the container's
// group's alone, where the monitor is not counted.
func Properties(r *specs.LinuxResources) []systemd.Property {
	if r == nil {
		return nil
	}
	var all []systemd.Property
	if c := r.CPU; c != nil && c.Shares != nil && *c.Shares != 0 {
		all = append(all, systemd.Property{Name: "CPUWeight", Value: weight(*c.Shares)})
	}
	if b := r.BlockIO; b != nil && b.Weight != nil && *b.Weight != 0 {
		all = append(all, systemd.Property{Name: "IOWeight", Value: ioWeight(*b.Weight)})
	}
	if m := r.Memory; m != nil && m.Reservation != nil && *m.Reservation > 0 {
		all = append(all, systemd.Property{Name: "MemoryLow", Value: uint64(*m.Reservation)})
	}
	return all
}

// Rejoin moves this process, a monitor that has taken over from another one, beside the container whose group that is, if it has a
// scope; so it outlives its caller's session. What we may not do ourselves, systemd does.
func Rejoin(h host.Facts, group string) error {
	scope := scopeOf(group)
	if scope == "" || scopeAround(path.Base(scope)) != "" {
		return nil
	}
	err := supervise(scope)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return ask(h, func(c *systemd.Conn) error { return c.Attach(path.Base(scope), supervisorGroup, systemd.Self) })
}

// ioWeight converts version 1's weight of 10 to 1000 to one of 1 to 10000.
func ioWeight(w uint16) uint64 { return 1 + (uint64(max(w, 10))-10)*9999/990 }
