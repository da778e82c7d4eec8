// Package engine is the verbs of berth on containers and on the images that are here: run, stop, remove and so on, one
// file each, every one readable from top to bottom as that verb's story.
//
// It is in-process: there is no daemon. What a verb needs to know it reads from the disk, and what it does is on the disk
// before it returns. It prints nothing, parses no flags, and fetches no images: that needs programs' worth of code that
// most verbs do not, and is internal/image/transfer's.
package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/image/store"
	"berth/internal/runtime/monitor"
	"berth/internal/settings"
	"berth/internal/state"
	"berth/internal/volume"

	"golang.org/x/sys/unix"
)

// Engine is one instance of berth.
type Engine struct {
	Settings   settings.Values
	Containers state.Store
	Images     *store.Store
	Volumes    volume.Store
	// Fetch brings an image that is missing into the store.
	Fetch func(ctx context.Context, ref, platform string) error
	// Notice, unless it is nil, says to the user what was done beside what was asked for.
	Notice func(text string)
	// Program returns the path of a program that comes with berth ("berth-init").
	Program func(name string) (string, error)
	// RemoveTree deletes a directory whose content may belong to ids that only a user namespace has.
	RemoveTree func(dir string) error
	home       *monitor.Home // where the networks are, without root
	lent       *os.File      // the program of monitors, if it is not this one
	// Host is the facts about this machine, looked at when they are first asked for.
	Host func() host.Facts
}

// Open opens the instance that v describes and makes its directories.
func Open(v settings.Values) (*Engine, error) {
	if err := makeRoots(v); err != nil {
		return nil, err
	}
	images, err := store.Open(v.DataRoot)
	if err != nil {
		return nil, err
	}
	images.DropBlobs = !v.KeepBlobs
	e := &Engine{
		Settings:   v,
		Containers: state.Store{Data: v.DataRoot, Run: v.RunRoot},
		Images:     images,
		Volumes:    volume.Store{Dir: filepath.Join(v.DataRoot, "volumes")},
		Host:       sync.OnceValue(host.Probe),
		lent:       borrowed(),
	}
	e.RemoveTree, e.home = e.removeTree, home(e.Containers)
	return e, nil
}

// makeRoots makes the data root and the run root, and refuses a run root of somebody else: in /tmp anybody could have made
// it first.
func makeRoots(v settings.Values) error {
	for _, dir := range []string{v.DataRoot, v.RunRoot} {
		mode := fs.FileMode(0o711)
		if dir == v.RunRoot {
			mode = 0o700
		}
		err := os.Mkdir(dir, mode)
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.MkdirAll(filepath.Dir(dir), 0o755); err == nil {
				err = os.Mkdir(dir, mode)
			}
		}
		switch {
		case errors.Is(err, fs.ErrExist) && dir == v.RunRoot:
			if err := trustRunRoot(dir); err != nil {
				return err
			}
		case err != nil && !errors.Is(err, fs.ErrExist):
			return rootError(dir, err)
		}
	}
	return nil
}

// trustRunRoot reports whether a run root that was there already is the caller's alone. In /tmp anybody may have made it, or a link of that name.
func trustRunRoot(dir string) error {
	var link, at unix.Stat_t
	err := unix.Lstat(dir, &link)
	if err == nil {
		err = unix.Stat(dir, &at)
	}
	if err != nil {
		return rootError(dir, &os.PathError{Op: "stat", Path: dir, Err: err})
	}
	us, why := uint32(os.Geteuid()), ""
	switch {
	case link.Mode&unix.S_IFMT == unix.S_IFLNK && link.Uid != us && link.Uid != 0:
		why = "another user has made a link of it"
	case at.Mode&unix.S_IFMT != unix.S_IFDIR:
		why = "it is no directory"
	case at.Uid != us:
		why = "it belongs to another user"
	case at.Mode&0o022 != 0:
		why = "others may write to it"
	default:
		return nil
	}
	return errdef.Hint(errdef.New(errdef.Denied, "cannot use the run root %s: %s", dir, why), "choose another with --run-root or BERTH_RUN_ROOT")
}

func rootError(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return errdef.Hint(errdef.New(errdef.Denied, "cannot make the directory %s: %w", dir, err), "choose others with --data-root and --run-root")
	case errors.Is(err, unix.ENOSPC):
		return errdef.Hint(errdef.New(errdef.NoSpace, "cannot make the directory %s: %w", dir, err), "free some space, or choose another with --data-root")
	}
	return errdef.New(errdef.Unknown, "cannot make the directory %s: %w", dir, err)
}

// durability is that of what is written about a container.
func durability(autoRemove bool) disk.Durability { return disk.DurableUnless(autoRemove) }
