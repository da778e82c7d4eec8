package engine

import (
	"errors"
	"fmt"
	"os"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/monitor"
	"berth/internal/runtime/userns"
	"berth/internal/state"
	"berth/internal/tree"

	"golang.org/x/sys/unix"
)

// Root is the file system of a container, as its processes see it or would see it. What is found in it is to be looked up by
// disk.OpenIn with disk.InRoot: the container may have made anything of it.
type Root struct {
	*os.File
	end func() error
}

// Close lets go of it. Until then a container that does not run cannot be started.
func (r *Root) Close() error { return r.end() }

// OpenRoot opens the file system of a container: of one that runs by its process, of any other by mounting it where nobody else sees it.
// write says that it is to be changed.
func (e *Engine) OpenRoot(c *state.Container, write bool) (*Root, error) {
	for {
		r, err := e.runningRoot(c)
		if r != nil || err != nil {
			return r, err
		}
		if r, err = e.stoppedRoot(c, write); r != nil || err != nil {
			return r, err
		}
	}
}

// runningRoot is nil when the container does not run.
func (e *Engine) runningRoot(c *state.Container) (*Root, error) {
	status, _, err := e.Status(c)
	if err != nil || status != state.Running && status != state.Paused {
		return nil, err
	}
	p, err := e.Containers.Process(c.ID)
	if err != nil {
		return nil, nil //nolint:nilerr // it has ended meanwhile
	}
	pidfd := p.Open()
	if pidfd < 0 {
		return nil, nil
	}
	defer unix.Close(pidfd)
	f, err := os.Open(fmt.Sprintf("/proc/%d/root", p.PID))
	if unix.PidfdSendSignal(pidfd, 0, nil, 0) != nil { // it may be another process's by now
		if err == nil {
			err = f.Close()
		}
		return nil, err
	}
	if err != nil {
		return nil, errdef.New(errdef.Conflict, "cannot look into container %s: %w", c.Name, err)
	}
	return &Root{f, f.Close}, nil
}

// stoppedRoot is nil when the container runs by now.
func (e *Engine) stoppedRoot(c *state.Container, write bool) (_ *Root, err error) {
	l, err := e.lock(c.ID)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.Unlock()
		}
	}()
	if e.Containers.Monitored(c.ID) {
		l.Unlock()
		return nil, nil
	}
	layers, err := e.Images.Layers.Stack(c.Image.ChainIDs)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(e.Containers.MakeMountPoints(), e.prepareFiles(c)); err != nil {
		return nil, err
	}
	// What is mounted needs its place, which a container that has never run may lack.
	write = write || len(c.Config.Mounts) > 0
	in, err := monitor.AssembleRoot(e.Containers, c, e.Host(), layers, write)
	if err != nil {
		return nil, err
	}
	if in.Root, err = monitor.ServeRoot(e.Containers, c, layers); err != nil {
		return nil, err
	}
	defer func() {
		if in.Root != nil {
			err = errors.Join(err, in.Root.Close()) // it is mounted by now, or never will be
		}
	}()
	r, err := lifecycle.OpenRoot(in)
	if err != nil {
		return nil, explainedStart(e.Settings, err)
	}
	return &Root{r.File, func() error {
		defer l.Unlock()
		return r.Close()
	}}, nil
}

// ownersIn is whose a file is here that a container, or its image, says is somebody's.
func ownersIn(c *state.Container) tree.Owner {
	maps := userns.Maps{UID: c.UIDMaps, GID: c.GIDMaps}
	return func(uid, gid uint32) (int, int, error) {
		if maps.UID == nil {
			return int(uid), int(gid), nil
		}
		u, ok1 := maps.User(uid)
		g, ok2 := maps.Group(gid)
		if !ok1 || !ok2 {
			return 0, 0, errdef.New(errdef.Invalid, "the container has not the ids of a file of user %d, group %d", uid, gid)
		}
		return int(u), int(g), nil
	}
}

// OwnersOut is whose a file of the container's is, as the container says.
func OwnersOut(c *state.Container) tree.Owner {
	maps := userns.Maps{UID: c.UIDMaps, GID: c.GIDMaps}
	return func(uid, gid uint32) (int, int, error) {
		if maps.UID == nil {
			return int(uid), int(gid), nil
		}
		u, ok1 := maps.UserOf(uid)
		g, ok2 := maps.GroupOf(gid)
		if !ok1 {
			u = overflow
		}
		if !ok2 {
			g = overflow
		}
		return int(u), int(g), nil
	}
}

// overflow is what the kernel calls an id that a namespace has not (/proc/sys/kernel/overflowuid).
const overflow = 65534

// userIn is the user that a container runs as, by its own files.
func (r *Root) userIn(c *state.Container) (container.User, error) {
	const limit = 4 << 20
	read := func(name string) []byte {
		data, err := disk.ReadBounded(int(r.Fd()), name, limit)
		if err != nil {
			return nil
		}
		return data
	}
	return container.LookupUser(c.Config.User, nil, read("etc/passwd"), read("etc/group"))
}
