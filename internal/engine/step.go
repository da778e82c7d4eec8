package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/image"
	"berth/internal/image/merged"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/monitor"
	"berth/internal/state"
	"berth/internal/storage"

	"golang.org/x/sys/unix"
)

// Step is a command that a build runs on top of layers.
type Step struct {
	// Config is complete: nothing of an image's is added to it.
	Config container.Config
	Chain  []image.Digest // the layers, the lowest first
	// Dir has the directories upper and work, for what is written.
	Dir string
}

// Copied is what a step has written where its files are a copy of its layers: what is different in Tree.
type Copied struct {
	Tree    string
	Changes []merged.Change
}

// RunStep runs a command of a build and returns how it ended, when nothing of it is left but what it has written: in Dir/upper, or in a copy. It
// ends with the command that asked for it, however that ends.
func (e *Engine) RunStep(ctx context.Context, s Step, stdout, stderr io.Writer) (monitor.Ended, *Copied, error) {
	c := &state.Container{
		ID: ident.New(), Created: time.Now().UTC(), Config: s.Config, Image: state.Image{ChainIDs: s.Chain}, Step: s.Dir,
	}
	copies, err := e.copiesSteps()
	if err != nil {
		return monitor.Ended{}, nil, err
	}
	if !copies {
		ended, err := e.runStep(ctx, c, stdout, stderr)
		return ended, nil, err
	}
	c.Driver = storage.VFS
	below, made, err := e.copyStep(c)
	if err != nil {
		return monitor.Ended{}, nil, err
	}
	ended, err := e.runStep(ctx, c, stdout, stderr)
	if err != nil {
		return ended, nil, err
	}
	tree := e.Containers.Tree(c)
	changes, err := merged.ChangesOfCopy(tree, below, merged.Owner(ownersIn(c)), made)
	return ended, &Copied{tree, changes}, err
}

// copiesSteps reports whether steps of builds run in copies of their layers: where no overlay is mounted for containers.
func (e *Engine) copiesSteps() (bool, error) {
	driver, err := e.Driver()
	return driver.Name != storage.Overlay, err
}

// copyStep makes a copy of the layers of a step, with the places of its mounts. It returns what was copied, the topmost first, and a time that
// is after all that the copy is made of and before anything that is changed in it.
func (e *Engine) copyStep(c *state.Container) (below []string, made unix.Timespec, err error) {
	if err := e.Containers.MakeMountPoints(); err != nil {
		return nil, made, err
	}
	if below, err = e.Images.Layers.Stack(c.Image.ChainIDs); err != nil {
		return nil, made, err
	}
	below = slices.Clone(below)
	if points := state.StepPoints(c.Step); exists(points) {
		below = append(below, points)
	}
	below = append(below, e.Containers.MountPoints())
	tree := e.Containers.Tree(c)
	if err := os.Mkdir(tree, 0o755); err != nil {
		return nil, made, err
	}
	if err := storage.Fill(tree, "/", below, ownersIn(c)); err != nil {
		return nil, made, fmt.Errorf("cannot copy the files of the step: %w", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &made); err != nil {
		return nil, made, os.NewSyscallError("clock_gettime", err)
	}
	// Files are dated by that clock, which stands still for some milliseconds.
	for now := made; now == made; {
		time.Sleep(time.Millisecond)
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
			return nil, made, os.NewSyscallError("clock_gettime", err)
		}
	}
	return below, made, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// sweepSteps removes the containers of steps whose builds have gone without them, as a power cut leaves them: nobody lists them, and no build comes back to one.
func (e *Engine) sweepSteps() error {
	all, err := e.List()
	for _, c := range all {
		if c.Step == "" {
			continue
		}
		lock, lockErr := disk.TryLockDir(c.Step)
		if errors.Is(lockErr, disk.ErrLocked) {
			continue // its build is there
		}
		if lockErr == nil {
			lock.Unlock()
		}
		if removeErr := e.Remove(c.Container, true, true); !errdef.Is(removeErr, errdef.NotFound) {
			err = errors.Join(err, removeErr)
		}
	}
	return err
}

// ShellInStep runs another command where a step has run, which has its standard input, on what that has left. talk carries its streams.
func (e *Engine) ShellInStep(s Step, talk func(*Session) error) error {
	c := &state.Container{
		ID: ident.New(), Created: time.Now().UTC(), Config: s.Config, Image: state.Image{ChainIDs: s.Chain}, Step: s.Dir,
	}
	c.Config.Attach = []string{"stdin"} // whose end is the command's
	copies, err := e.copiesSteps()
	if err != nil {
		return err
	}
	if copies {
		c.Driver = storage.VFS
	}
	// A volatile overlay is mounted once with the same directory of its own.
	_, work := e.Containers.Writable(c)
	if err := errors.Join(e.RemoveTree(work), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	session, closing, err := e.beginStep(c, monitor.AttachRequest{Output: true, Stdin: true, StdinOnce: true})
	if err != nil {
		return err
	}
	defer closing()
	return talk(session)
}

func (e *Engine) runStep(ctx context.Context, c *state.Container, stdout, stderr io.Writer) (monitor.Ended, error) {
	session, closing, err := e.beginStep(c, monitor.AttachRequest{Output: true})
	if err != nil {
		return monitor.Ended{}, err
	}
	defer closing()
	defer session.Close()
	defer context.AfterFunc(ctx, func() { _ = e.Kill(c, unix.SIGKILL) })()
	ended, err := session.Output(stdout, stderr)
	if ctx.Err() != nil {
		return ended, errdef.As(errdef.Cancelled, context.Cause(ctx))
	}
	return ended, err
}

// beginStep makes the container of a step and starts it. closing is called when the session is over.
func (e *Engine) beginStep(c *state.Container, attach monitor.AttachRequest) (session *Session, closing func(), err error) {
	closing = func() {}
	var network *lifecycle.Network
	if c.Config.Network != container.NetworkHost && !e.Host().Rootless {
		network = lifecycle.MakeNetwork() // while the container is made on disk
		closing = func() { network.Close() }
	}
	c.Config.AutoRemove, c.Config.EntrypointSet = true, true
	if err = e.check(c); err == nil {
		err = e.Containers.Create(c, durability(true))
	}
	if err == nil {
		session, err = e.startNew(c, network, attach)
	}
	if err != nil {
		closing()
		return nil, nil, err
	}
	return session, closing, nil
}

func (e *Engine) startNew(c *state.Container, network *lifecycle.Network, attach monitor.AttachRequest) (*Session, error) {
	l, err := e.lock(c.ID)
	if err != nil {
		return nil, err
	}
	defer l.Unlock()
	return e.start(c, network, attach)
}
