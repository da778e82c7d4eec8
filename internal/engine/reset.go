package engine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"berth/internal/errdef"
	"berth/internal/network"

	"golang.org/x/sys/unix"
)

// What berth has in its roots (docs/state.md). Nothing else is removed from there: somebody may have named a directory that holds more.
var (
	dataEntries = [...]string{"containers", "names", "containers.lock", "ids.lock", "mountpoints", "volumes", "networks", "images", "manifests", "layers", "content", "programs", "build", imageCopies}
	runEntries  = [...]string{"containers", "images", "networks", "events", "rootless", "uplink.sock", "uplink.lock", "uplink.log", "build"}
)

// Reset removes all that is berth's: containers that run as well, volumes, networks, images, and the roots if nothing else is in there.
func (e *Engine) Reset() error {
	all, err := e.List()
	if err != nil {
		return err
	}
	for _, c := range all {
		if err := e.Remove(c.Container, true, true); err != nil {
			return err
		}
	}
	mounts, err := e.ImageMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts { // what is mounted must not be removed through its mount
		if err := e.UnmountImage(m.ID, true); err != nil {
			return err
		}
	}
	if err := e.Sweep(); err != nil {
		return err
	}
	if _, err := e.PruneNetworks(&Pruning{}, func(network.Network) bool { return false }); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(e.Settings.RunRoot, "networks")); err == nil {
		if err := e.Networks().Vacate(); err != nil {
			return err
		}
	}
	return errors.Join(e.clearRoot(e.Settings.DataRoot, dataEntries[:]), e.clearRoot(e.Settings.RunRoot, runEntries[:]))
}

// clearRoot removes entries of a root, and the root if it is empty then.
func (e *Engine) clearRoot(root string, entries []string) error {
	for _, name := range entries {
		if err := e.RemoveTree(filepath.Join(root, name)); err != nil {
			return errdef.New(errdef.Unknown, "cannot remove %s: %w", filepath.Join(root, name), err)
		}
	}
	err := os.Remove(root)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) {
		return nil // gone, or it holds what is not berth's, or is a mount
	}
	return err
}
