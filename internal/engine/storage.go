package engine

import (
	"fmt"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/state"
	"berth/internal/storage"

	"golang.org/x/sys/unix"
)

// Driver is how new containers get their files, and why.
func (e *Engine) Driver() (storage.Choice, error) {
	h := e.Host()
	facts := storage.Facts{InUserNS: h.InUserNS || !h.Privileged(), Old: !h.Kernel.AtLeast(5, 11), ByFD: h.OverlayByFD(), None: noOverlay(), Fuse: func() error {
		_, err := storage.FuseProgram()
		return err
	}}
	var st unix.Statfs_t
	if unix.Statfs(e.Settings.DataRoot, &st) == nil {
		facts.Filesystem = int64(st.Type)
	}
	return storage.Choose(facts, e.Settings.StorageDriver)
}

// noOverlay reports that the kernel knows no overlay file system; asked for it, it looks for the module, too. Where a sandbox forbids the question
// nothing is known.
func noOverlay() bool {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err == unix.ENODEV
}

// giveDriver decides how a new container gets its files.
func (e *Engine) giveDriver(c *state.Container) error {
	driver, err := e.Driver()
	if err != nil {
		return err
	}
	if driver.Name != storage.Overlay {
		c.Driver = driver.Name
	}
	if c.Driver == storage.Fuse && c.RuntimeProgram != "" {
		err := errdef.New(errdef.Unsupported, "cannot make a container for the runtime %s with the storage driver %s", c.Config.Runtime, c.Driver)
		return errdef.Hint(err, "choose another with --storage-driver %s", storage.VFS)
	}
	if c.Driver != "" && c.Config.StorageBytes > 0 {
		return errdef.New(errdef.Unsupported, "cannot limit what the container may write (--storage-opt size): that takes the storage driver %s, and it has %s", storage.Overlay, c.Driver)
	}
	return nil
}

// place is where a container's files are.
func (e *Engine) place(c *state.Container, layers []string) storage.Place {
	p := storage.Place{Dir: e.Containers.FilesDir(c), Layers: layers, Points: e.Containers.MountPoints(), Durable: durability(c.Config.AutoRemove) == disk.Durable}
	if c.UIDMaps != nil {
		p.Owner = ownersIn(c)
	}
	return p
}

// placeOf is place with the container's layers.
func (e *Engine) placeOf(c *state.Container) (storage.Place, error) {
	layers, err := e.Images.Layers.Stack(c.Image.ChainIDs)
	if err == nil {
		err = e.Containers.MakeMountPoints()
	}
	return e.place(c, layers), err
}

// prepareFiles makes what has to be there before a container can be started. The caller holds its lock.
func (e *Engine) prepareFiles(c *state.Container) error {
	if !storage.Whole(c.Driver) {
		return nil
	}
	p, err := e.placeOf(c)
	if err != nil {
		return err
	}
	if err := storage.Of(c.Driver).Prepare(p); err != nil {
		return fmt.Errorf("cannot copy the image %s for container %s: %w", c.Image.Name, c.Name, err)
	}
	return nil
}

func driverOf(c *state.Container) string { return storage.Of(c.Driver).Name() }
