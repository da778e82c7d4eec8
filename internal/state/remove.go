package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"berth/internal/disk"
	"berth/internal/storage"

	"golang.org/x/sys/unix"
)

// Forget removes what says where a container ran.
func (s Store) Forget(id string) error {
	return os.RemoveAll(s.RunDir(id))
}

// Remove gives a container's name back and removes its directory; what removeTree cannot delete stays findable.
func (s Store) Remove(c *Container, removeTree func(dir string) error) error {
	gone, err := s.Retire(c)
	if err != nil {
		return err
	}
	storage.Discard(c.Driver, gone)
	return s.Delete(c.ID, gone, removeTree)
}

// Retire gives a container's name back, and makes it one that is no more. What is left of it is to be deleted by Delete; if that never
// happens, a sweep finds it.
func (s Store) Retire(c *Container) (gone string, err error) {
	names, err := s.lockNames()
	if err != nil {
		return "", err
	}
	defer names.Unlock()
	gone = filepath.Join(s.Data, "containers", disk.TemporaryName())
	err = os.Rename(s.Dir(c.ID), gone)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return "", err
	}
	err = nil
	name := c.Name
	if !s.leads(name, c.ID) { // it has been renamed since c was read
		var now Container
		if readJSON(filepath.Join(gone, "config.json"), &now) == nil {
			name = now.Name
		}
	}
	if s.leads(name, c.ID) {
		err = os.Remove(s.nameFile(name))
	}
	if err == nil && !missing && !c.Config.AutoRemove {
		err = disk.SyncDir(filepath.Join(s.Data, "containers"))
	}
	return gone, err
}

// Delete deletes what Retire has left of a container.
func (s Store) Delete(id, gone string, removeTree func(dir string) error) error {
	forgotten := make(chan error, 1)
	go func() { forgotten <- s.Forget(id) }() // both are many small steps of the kernel
	err := errors.Join(disk.Unlimit(filepath.Join(gone, "upper")), removeTree(gone))
	if errors.Is(err, unix.ENOTEMPTY) {
		// NFS and FUSE keep a file that somebody has open, here the lock that our caller holds, and with it the directory. It
		// is nobody's any more, and swept later.
		err = nil
	}
	return errors.Join(err, <-forgotten)
}

// Sweep removes what killed commands have left: temporary directories, names without containers, run directories of
// containers that are no more.
func (s Store) Sweep(removeTree func(dir string) error) error {
	names, err := s.lockNames()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer names.Unlock()
	var errs error
	for _, dir := range []string{"", "containers", "names"} {
		entries, err := os.ReadDir(filepath.Join(s.Data, dir))
		if err != nil {
			continue
		}
		for _, e := range entries {
			full := filepath.Join(s.Data, dir, e.Name())
			switch {
			case strings.HasPrefix(e.Name(), disk.TemporaryPrefix), dir == "containers" && !s.exists(e.Name()):
				storage.Discard(storage.Btrfs, full)
				errs = errors.Join(errs, removeTree(full))
			case dir == "names":
				if owner, err := os.ReadFile(full); err == nil && !s.owns(string(owner), e.Name()) {
					errs = errors.Join(errs, os.Remove(full))
				}
			}
		}
	}
	entries, err := os.ReadDir(filepath.Join(s.Run, "containers"))
	if err == nil {
		for _, e := range entries {
			if !s.exists(e.Name()) && !s.Monitored(e.Name()) {
				errs = errors.Join(errs, s.Forget(e.Name()))
			}
		}
	}
	return errs
}
