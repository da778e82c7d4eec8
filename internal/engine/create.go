package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/event"
	"berth/internal/host"
	"berth/internal/ident"
	"berth/internal/image"
	"berth/internal/image/layer"
	"berth/internal/image/merged"
	"berth/internal/image/store"
	"berth/internal/runtime/monitor"
	"berth/internal/runtime/spec"
	"berth/internal/state"
	"berth/internal/volume"

	"golang.org/x/sys/unix"
)

// Pull policies, docker's words for --pull.
const (
	PullMissing = "missing"
	PullAlways  = "always"
	PullNever   = "never"
)

// Ensure finds an image, and fetches it if the policy says so.
func (e *Engine) Ensure(ctx context.Context, ref, platform, pull string) (store.Image, error) {
	if pull != PullAlways {
		im, err := e.Images.Resolve(ref)
		if err == nil && e.unpacked(im) && matches(im, platform) {
			return im, nil
		}
		if pull == PullNever {
			return im, errors.Join(err, mismatch(im, ref, platform, err == nil))
		}
		if err != nil && !errdef.Is(err, errdef.NotFound) {
			return im, err
		}
	}
	if e.Fetch == nil {
		return store.Image{}, errdef.New(errdef.NotFound, "No such image: %s", ref)
	}
	if err := e.Fetch(ctx, ref, platform); err != nil {
		return store.Image{}, err
	}
	im, err := e.Images.Resolve(ref)
	return im, errors.Join(err, mismatch(im, ref, platform, err == nil))
}

// unwritten is the error of what could not be done because the data root takes no more, or nothing at all.
func (e *Engine) unwritten(what string, err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.EROFS) {
		return err
	}
	return explainedStart(e.Settings, fmt.Errorf("cannot %s: %w", what, err))
}

// mismatch is the error of an image that is here, and not for the platform asked for.
func mismatch(im store.Image, ref, platform string, here bool) error {
	if !here || matches(im, platform) {
		return nil
	}
	return errdef.New(errdef.NotFound, "image with reference %s was found but does not match the specified platform: wanted %s, actual: %s", ref, platform, im.Config.Platform)
}

// matches reports whether an image is for the platform asked for; none asks for any.
func matches(im store.Image, platform string) bool {
	if platform == "" {
		return true
	}
	want, err := image.ParsePlatform(platform)
	return err == nil && image.Rank(want, im.Config.Platform) >= 0
}

// unpacked reports whether all layers of an image are there to be mounted.
func (e *Engine) unpacked(im store.Image) bool {
	_, err := e.Images.Layers.Stack(im.Chain)
	return err == nil
}

// layersOf are the trees of a chain of layers in a data root, the topmost first.
func layersOf(dataRoot string, chain []image.Digest) ([]string, error) {
	return layer.Open(filepath.Join(dataRoot, "layers")).Stack(chain)
}

// Create makes a container of an image that is here, or fails and leaves nothing.
func (e *Engine) Create(ctx context.Context, cfg container.Config, pull string) (_ *state.Container, err error) {
	defer func() { err = e.unwritten("create the container", err) }()
	if cfg.Name != "" {
		if err := container.CheckName(cfg.Name); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(cfg.CheckNetwork(), cfg.Log.Check(), e.volumesFrom(&cfg)); err != nil {
		return nil, err
	}
	im, err := e.Ensure(ctx, cfg.Image, cfg.Platform, pull)
	if err != nil {
		return nil, err
	}
	c := &state.Container{
		ID: ident.New(), Name: cfg.Name, Created: time.Now().UTC(), Config: container.Merge(cfg, im.Config.Config),
		Image: state.Image{Name: cfg.Image, ID: im.ID, ChainIDs: im.Chain},
	}
	if cfg.Init {
		if c.InitProgram, err = e.Program("berth-init"); err != nil {
			return nil, err
		}
	}
	if c.RuntimeProgram, err = e.runtimeProgram(cfg.Runtime); err != nil {
		return nil, err
	}
	if err := e.giveDriver(c); err != nil {
		return nil, err
	}
	if err := e.findMounted(ctx, c, pull); err != nil {
		return nil, err
	}
	ids, err := e.chooseIDs(c, cfg.User == "")
	if err != nil {
		return nil, err
	}
	defer ids.Unlock() // when it is on disk which it has
	if err := errors.Join(e.boundLog(&c.Config), e.check(c)); err != nil {
		return nil, err
	}
	made, err := e.volumes(c, im)
	if err == nil {
		err = e.giveAway(c, im)
	}
	if err == nil {
		err = e.Containers.Create(c, durability(cfg.AutoRemove))
	}
	if err != nil {
		for _, name := range made {
			err = errors.Join(err, e.Volumes.Remove(name, e.RemoveTree))
		}
		return nil, err
	}
	e.Containers.NoteAll(append(newVolumes(made), c.Event("create"))...)
	return c, nil
}

func newVolumes(names []string) []event.Event {
	var all []event.Event
	for _, name := range names {
		all = append(all, volumeEvent(name, "create"))
	}
	return all
}

func volumeEvent(name, action string) event.Event {
	return event.Event{Type: event.Volume, Action: action, ID: name, Attributes: map[string]string{"driver": "local"}}
}

// check refuses what could not be started: everything that can be known before the container is made.
func (e *Engine) check(c *state.Container) error {
	if err := errors.Join(e.checkNetworks(c), e.shareNamespaces(c), e.findLinks(c)); err != nil {
		return err
	}
	if err := c.Config.CheckHealth(); err != nil {
		return err
	}
	for _, m := range c.Config.Mounts {
		if m.IDMap != nil && e.Host().Rootless {
			return errdef.Hint(errdef.New(errdef.Unsupported, "cannot map the ids of the mount at %s: the kernel lets only root do so", m.Target), ":U gives the source to the container's user")
		}
	}
	if err := c.Config.Resources.Check(processors(c.Config.Resources)); err != nil {
		return err
	}
	devices, err := monitor.BlockDevices(c.Config.Resources)
	if err != nil {
		return err
	}
	_, err = spec.Build(spec.Input{ID: c.ID, Config: c.Config, Host: e.Host(), InitProgram: c.InitProgram, BlockDevices: devices})
	return err
}

// processors is what limits are checked against.
func processors(r container.Resources) container.Processors {
	p := container.Processors{Count: runtime.NumCPU()}
	if r.CPUSet != "" || r.CPUSetMemory != "" {
		p.Online, p.Nodes = host.Online()
	}
	return p
}

// volumes makes the volumes that a container needs, and puts their paths, and those of bind mounts, into its mounts. It
// returns the names of those that are new.
func (e *Engine) volumes(c *state.Container, im store.Image) (made []string, err error) {
	c.Config.Mounts = slices.Clone(c.Config.Mounts)
	for i := range c.Config.Mounts {
		m := &c.Config.Mounts[i]
		switch m.Type {
		case container.MountBind:
			if err := bindSource(m); err != nil {
				return made, err
			}
		case container.MountVolume:
			v := volume.Volume{Name: m.Source, Labels: m.Labels, Anonymous: m.Anonymous, Options: m.VolumeOptions}
			if v.Name == "" {
				v.Name = ident.New()
			}
			created, err := e.Volumes.Create(v)
			if err != nil {
				return made, err
			}
			if created {
				made = append(made, v.Name)
			}
			c.Volumes = append(c.Volumes, state.Volume{Name: v.Name, Target: m.Target, Anonymous: m.Anonymous})
			m.Source = e.Volumes.Path(v.Name)
			if v, err = e.Volumes.Load(v.Name); err != nil {
				return made, err
			}
			if v.Mounted() {
				if err := e.mountVolume(m, v); err != nil {
					return made, err
				}
				continue
			}
			if !m.NoCopy && empty(m.Source) {
				if err := e.fillVolume(c, m.Source, m.Target, im); err != nil {
					return made, fmt.Errorf("cannot copy the image's %s into the volume %s: %w", m.Target, v.Name, err)
				}
			}
		}
	}
	return made, nil
}

// findMounted finds, or fetches, the images that are to be mounted in a container, and that what is asked for of them is there.
func (e *Engine) findMounted(ctx context.Context, c *state.Container, pull string) error {
	if pull == PullAlways {
		pull = PullMissing // that is about the container's own
	}
	for _, m := range c.Config.Mounts {
		if m.Type != container.MountImage {
			continue
		}
		im, err := e.Ensure(ctx, m.Source, c.Config.Platform, pull)
		if err != nil {
			return err
		}
		if c.Mounted == nil {
			c.Mounted = map[string]state.Image{}
		}
		c.Mounted[m.Target] = state.Image{Name: m.Source, ID: im.ID, ChainIDs: im.Chain}
		layers, err := e.Images.Layers.Stack(im.Chain)
		if err != nil {
			return err
		}
		switch part, err := merged.Resolve(layers, m.Subpath, true); {
		case err != nil:
			return errdef.As(errdef.Invalid, fmt.Errorf("cannot find image-subpath in the image %s: %w", m.Source, err))
		case part.Kind == 0:
			return errdef.New(errdef.Invalid, "cannot find image-subpath %s in the image %s: no such file or directory", m.Subpath, m.Source)
		}
	}
	return nil
}

// giveAway gives the sources of mounts that ask for that to the container's user.
func (e *Engine) giveAway(c *state.Container, im store.Image) error {
	for _, m := range c.Config.Mounts {
		if !m.Own {
			continue
		}
		layers, err := e.Images.Layers.Stack(im.Chain)
		if err != nil {
			return err
		}
		user, err := monitor.LookupUser(layers, c.Config)
		if err != nil {
			return err
		}
		uid, gid, err := ownersIn(c)(user.UID, user.GID)
		if err != nil {
			return err
		}
		if err := own(m.Source, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

func bindSource(m *container.Mount) error {
	_, err := os.Stat(m.Source)
	if errors.Is(err, fs.ErrNotExist) && m.MakeSource {
		err = os.MkdirAll(m.Source, 0o755)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return errdef.New(errdef.Invalid, "invalid mount config for type \"bind\": bind source path does not exist: %s", m.Source)
	}
	if err != nil {
		return errdef.New(errdef.Invalid, "cannot use %s as a mount: %w", m.Source, err)
	}
	return nil
}

func empty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) == 0
}

// explainConfig decides how a container would be made and makes nothing: no record, no name, no volume.
func (e *Engine) explainConfig(ctx context.Context, cfg container.Config, pull string) (*state.Container, []string, error) {
	if err := cfg.CheckNetwork(); err != nil {
		return nil, nil, err
	}
	im, err := e.Ensure(ctx, cfg.Image, cfg.Platform, pull)
	if err != nil {
		return nil, nil, err
	}
	c := &state.Container{
		ID: ident.New(), Name: cfg.Name, Created: time.Now().UTC(), Config: container.Merge(cfg, im.Config.Config),
		Image: state.Image{Name: cfg.Image, ID: im.ID, ChainIDs: im.Chain},
	}
	if cfg.Init {
		if c.InitProgram, err = e.Program("berth-init"); err != nil {
			return nil, nil, err
		}
	}
	if c.RuntimeProgram, err = e.runtimeProgram(cfg.Runtime); err != nil {
		return nil, nil, err
	}
	if c.RuntimeProgram != "" {
		return nil, nil, errdef.New(errdef.Unsupported, "cannot explain what the runtime %s (%s) does: only berth's own system calls are known here", cfg.Runtime, c.RuntimeProgram)
	}
	if err := e.giveDriver(c); err != nil {
		return nil, nil, err
	}
	if err := e.findMounted(ctx, c, pull); err != nil {
		return nil, nil, err
	}
	for i := range c.Config.Mounts {
		if m := &c.Config.Mounts[i]; m.Type == container.MountVolume {
			name := m.Source
			if name == "" {
				name = "ANONYMOUS"
			}
			m.Source = e.Volumes.Path(name)
		}
	}
	if err := errors.Join(e.checkNetworks(c), e.shareNamespaces(c), e.findLinks(c)); err != nil {
		return nil, nil, err
	}
	layers, err := e.Images.Layers.Stack(im.Chain)
	return c, layers, err
}

// lock takes the lock of a container, so that no other command changes it.
func (e *Engine) lock(id string) (*disk.Lock, error) { return e.Containers.Lock(id) }

// Rename gives a container another name, on its networks, too, if it runs.
func (e *Engine) Rename(c *state.Container, name string) error {
	if err := container.CheckName(name); err != nil {
		return err
	}
	l, err := e.lock(c.ID)
	if err != nil {
		return err
	}
	defer l.Unlock()
	old := c.Name
	if name == old {
		return errdef.New(errdef.Invalid, "Renaming a container with the same name as its current name")
	}
	if err := e.Containers.Rename(c, name); errdef.Is(err, errdef.Conflict) {
		return errdef.Hint(errdef.New(errdef.Conflict, "Error when allocating new name: %w", err), "berth rm %s", name)
	} else if err != nil {
		return err
	}
	e.Containers.Note(c, "rename", "oldName", "/"+old)
	return e.Networks().Rename(c.ID, name)
}
