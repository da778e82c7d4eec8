package engine

import (
	"context"
	"io"
	"time"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/image"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/monitor"
	"berth/internal/state"

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

// RunStep runs a command of a build and returns how it ended, when nothing of it is left but what it has written. It ends with the
// command that asked for it, however that ends.
func (e *Engine) RunStep(ctx context.Context, s Step, stdout, stderr io.Writer) (monitor.Ended, error) {
	none := monitor.Ended{}
	if copies, why := e.copiesImages(); copies {
		return none, errdef.Hint(errdef.New(errdef.Unsupported, "cannot run commands of a build: %s", why), "choose another --data-root")
	}
	var network *lifecycle.Network
	if s.Config.Network != container.NetworkHost && !e.Host().Rootless {
		network = lifecycle.MakeNetwork() // while the container is made on disk
		defer network.Close()
	}
	c := &state.Container{
		ID: ident.New(), Created: time.Now().UTC(), Config: s.Config, Image: state.Image{ChainIDs: s.Chain}, Step: s.Dir,
	}
	c.Config.AutoRemove, c.Config.EntrypointSet = true, true
	if err := e.check(c); err != nil {
		return none, err
	}
	if err := e.Containers.Create(c, durability(true)); err != nil {
		return none, err
	}
	session, err := e.startNew(c, network)
	if err != nil {
		return none, err
	}
	defer session.Close()
	defer context.AfterFunc(ctx, func() { _ = e.Kill(c, unix.SIGKILL) })()
	ended, err := session.Output(stdout, stderr)
	if ctx.Err() != nil {
		return ended, errdef.As(errdef.Cancelled, context.Cause(ctx))
	}
	return ended, err
}

func (e *Engine) startNew(c *state.Container, network *lifecycle.Network) (*Session, error) {
	l, err := e.lock(c.ID)
	if err != nil {
		return nil, err
	}
	defer l.Unlock()
	return e.start(c, network, monitor.AttachRequest{Output: true})
}
