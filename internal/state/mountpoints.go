package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"berth/internal/disk"
)

// mountPoints are what every container has mounts on, and what an image may lack: a directory, or an empty file.
var mountPoints = []struct {
	path string
	file bool
}{{"dev", false}, {"proc", false}, {"sys", false}, {"etc", false}, {"etc/hosts", true}, {"etc/hostname", true}, {"etc/resolv.conf", true}}

// MountPoints is a directory that lies below the layers of every container, so that the places of its mounts need not be made in
// its writable layer: that would be slower, and would show as changes that the container has made.
func (s Store) MountPoints() string { return filepath.Join(s.Data, "mountpoints") }

// Nothing is an empty directory of that one: overlayfs wants two layers, and an image may have one.
func (s Store) Nothing() string { return filepath.Join(s.MountPoints(), "dev") }

// MakeMountPoints makes that directory, once for all containers.
func (s Store) MakeMountPoints() (err error) {
	if _, err := os.Lstat(s.MountPoints()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	names, err := s.lockNames() // keeps a sweep out
	if err != nil {
		return err
	}
	defer names.Unlock()
	tmp := filepath.Join(s.Data, disk.TemporaryName())
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	for _, p := range mountPoints {
		at := filepath.Join(tmp, p.path)
		if !p.file {
			err = os.Mkdir(at, 0o755)
		} else {
			err = os.WriteFile(at, nil, 0o644)
		}
		if err != nil {
			return err
		}
	}
	d, err := os.Open(tmp)
	if err != nil {
		return err
	}
	if err := errors.Join(disk.SyncFS(d), d.Close()); err != nil {
		return err
	}
	err = os.Rename(tmp, s.MountPoints())
	if errors.Is(err, fs.ErrExist) {
		return nil // somebody else was quicker
	}
	if err != nil {
		return err
	}
	return disk.SyncDir(s.Data)
}
