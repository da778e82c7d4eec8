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
		var st unix.Stat_t
		if unix.Lstat(dir, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if dir == v.RunRoot && (int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0) {
				return errdef.Hint(errdef.New(errdef.Denied, "cannot use the run root %s: it belongs to another user, or others may write to it", dir),
					"choose another with --run-root or BERTH_RUN_ROOT")
			}
			continue
		}
		mode := fs.FileMode(0o711)
		if dir == v.RunRoot {
			mode = 0o700
		}
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return rootError(dir, err)
		}
		if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return rootError(dir, err)
		}
	}
	return nil
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
