package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"berth/internal/disk"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// Driver is how new containers get their trees, and why.
func (e *Engine) Driver() (name, why string) {
	if copies, why := e.copiesImages(); copies {
		return state.DriverCopy, why
	}
	if e.Host().OverlayByFD() {
		return "overlay", "layers are given to the kernel as descriptors"
	}
	return "overlay", "layers are given to the kernel by name"
}

// copiesImages reports whether containers get copies of their images: the kernel takes no directory of an overlay as the
// writable layer of another (ovl_dentry_weird in fs/overlayfs/util.c).
func (e *Engine) copiesImages() (bool, string) {
	var st unix.Statfs_t
	if unix.Statfs(e.Settings.DataRoot, &st) != nil || int64(st.Type) != unix.OVERLAYFS_SUPER_MAGIC {
		return false, ""
	}
	return true, "the data root is on an overlay, which cannot hold another's writable layer; each container is a copy of its image"
}

// copyImage makes a container's copy of its image, if it is to have one and has none. The caller holds the container's lock. The copy gets its
// name when it is whole.
func (e *Engine) copyImage(c *state.Container) error {
	if c.Driver != state.DriverCopy {
		return nil
	}
	tree := e.Containers.Tree(c)
	if _, err := os.Lstat(tree); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	layers, err := e.Images.Layers.Stack(c.Image.ChainIDs)
	if err != nil {
		return err
	}
	tmp := tree + ".new"
	if err := errors.Join(os.RemoveAll(tmp), os.Mkdir(tmp, 0o755)); err != nil {
		return err
	}
	if len(layers) > 0 {
		err = fill(tmp, "/", layers, ownersIn(c))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot copy the image %s for container %s: %w", c.Image.Name, c.Name, err), os.RemoveAll(tmp))
	}
	if durability(c.Config.AutoRemove) == disk.Durable {
		if err := syncFileSystem(tmp); err != nil {
			return err
		}
	}
	return os.Rename(tmp, tree)
}

func syncFileSystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}

func driverOf(c *state.Container) string {
	if c.Driver == "" {
		return "overlay"
	}
	return c.Driver
}
