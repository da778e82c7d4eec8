package engine

import (
	"errors"
	"fmt"
	"slices"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/merged"
	"berth/internal/image/store"
	"berth/internal/state"
	"berth/internal/storage"
)

// Changes are what a container has made of its image.
func (e *Engine) Changes(c *state.Container) ([]merged.Change, error) {
	p, err := e.placeOf(c)
	if err != nil {
		return nil, err
	}
	return storage.Of(c.Driver).Changes(p)
}

// Stack are the layers that a container consists of, the topmost first: without what is mounted in it.
func (e *Engine) Stack(c *state.Container) ([]string, error) {
	p, err := e.placeOf(c)
	if err != nil {
		return nil, err
	}
	return storage.Of(c.Driver).Stack(p), nil
}

// Sizes are the bytes of the files that a container has written, and of all that it consists of.
func (e *Engine) Sizes(c *state.Container) (written, all int64, err error) {
	changes, err := e.Changes(c)
	if err != nil {
		return 0, 0, err
	}
	for _, change := range changes {
		written += change.Size
	}
	return written, written + ImageSize(e.Images, c.Image.ChainIDs), nil
}

// ImageSize is docker's: the bytes of all files of all layers.
func ImageSize(s *store.Store, chain []image.Digest) int64 { return ImageSizes(s)(chain) }

// ImageSizes is ImageSize for many images: a layer that several have is looked at once.
func ImageSizes(s *store.Store) func(chain []image.Digest) int64 {
	known := map[image.Digest]int64{}
	return func(chain []image.Digest) (n int64) {
		for _, id := range chain {
			size, ok := known[id]
			if !ok {
				if info, err := s.Layers.Info(id); err == nil {
					size = info.Size
				}
				known[id] = size
			}
			n += size
		}
		return n
	}
}

// Freeze keeps a container from changing while something reads its files: one that runs is paused, if pause says so, and any other not started.
// Afterwards thaw is called.
func (e *Engine) Freeze(c *state.Container, pause bool) (thaw func() error, err error) {
	status, _, err := e.Status(c)
	switch {
	case err != nil:
		return nil, err
	case status == state.Running && pause:
		held, err := e.Containers.HoldStill(c.ID)
		if err != nil {
			return nil, err
		}
		err = e.Pause(c, true)
		if err != nil {
			err = errors.Join(err, e.Containers.LetGo(c.ID, held))
		}
		if errdef.Is(err, errdef.Unsupported) { // without control groups: its files are read while it writes them
			if e.Notice != nil {
				e.Notice(err.Error())
			}
			return func() error { return nil }, nil
		}
		if err != nil {
			return nil, err
		}
		return func() error { return errors.Join(e.Pause(c, false), e.Containers.LetGo(c.ID, held)) }, nil
	case status == state.Running || status == state.Paused || status == state.Restarting:
		return func() error { return nil }, nil
	}
	l, err := e.lock(c.ID)
	if err != nil {
		return nil, err
	}
	return func() error { l.Unlock(); return nil }, nil
}

// Base is the image that a container was made from.
func (e *Engine) Base(c *state.Container) (store.Image, error) {
	im, err := e.Images.Resolve(string(c.Image.ID))
	if errdef.Is(err, errdef.NotFound) {
		err = errdef.New(errdef.NotFound, "the image of container %s is no longer here: %s", c.Name, c.Image.ID)
	}
	return im, err
}

// ConfigOf is an image's configuration for containers like this one, whose image has base.
func ConfigOf(c container.Config, base image.Config) image.Config {
	base.User, base.WorkingDir, base.StopSignal = c.User, c.Workdir, c.StopSignal
	base.Env, base.Cmd, base.Entrypoint = slices.Clone(c.Env), c.Command, c.Entrypoint
	base.Labels = map[string]string{}
	for k, v := range c.Labels {
		base.Labels[k] = v
	}
	ports, volumes := map[string]struct{}{}, map[string]struct{}{}
	for _, p := range c.Exposed {
		ports[p] = struct{}{}
	}
	for _, p := range c.Ports {
		ports[fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)] = struct{}{}
	}
	for v := range base.Volumes {
		volumes[v] = struct{}{}
	}
	for _, m := range c.Mounts {
		if m.Anonymous {
			volumes[m.Target] = struct{}{}
		}
	}
	base.ExposedPorts, base.Volumes = orNil(ports), orNil(volumes)
	return base
}

func orNil(m map[string]struct{}) map[string]struct{} {
	if len(m) == 0 {
		return nil
	}
	return m
}
