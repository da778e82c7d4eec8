package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"

	"berth/internal/image/merged"
	"berth/internal/image/store"
	"berth/internal/state"
	"berth/internal/tree"

	"golang.org/x/sys/unix"
)

// fillVolume copies what the image has at target into the new volume at dir, as docker does. Where the image has nothing,
// or no directory, the volume stays empty.
func (e *Engine) fillVolume(c *state.Container, dir, target string, im store.Image) error {
	layers, err := e.Images.Layers.Stack(im.Chain)
	if err != nil || len(layers) == 0 {
		return err
	}
	return fill(dir, target, layers, ownersIn(c))
}

// nothing reports that there is no directory to copy.
func nothing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// fill copies what the layers have at target into the empty directory dir.
func fill(dir, target string, layers []string, owner tree.Owner) error {
	from, err := merged.OpenDir(layers, target)
	if nothing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	f := filler{tree.NewCopier(context.Background(), to, tree.Options{Owner: owner}), tree.Meta{Owner: owner}}
	return f.directory(from, to, ".")
}

type filler struct {
	entries tree.Copier
	meta    tree.Meta
}

// directory copies what is in from into to, and gives it what from has; where is its path.
func (f filler) directory(from *merged.Dir, to *os.File, where string) error {
	err := from.Entries(func(e merged.Entry) error {
		if e.Dir == nil {
			return f.entries.Entry(e.In, e.Name, to, e.Name, where)
		}
		if err := unix.Mkdirat(int(to.Fd()), e.Name, 0o700); err != nil {
			return os.NewSyscallError("mkdirat", err)
		}
		below, err := tree.OpenEntry(int(to.Fd()), e.Name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer below.Close()
		return f.directory(e.Dir, below, path.Join(where, e.Name))
	})
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(from.FD(), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	return f.meta.Copy(from.FD(), int(to.Fd()), &st)
}
