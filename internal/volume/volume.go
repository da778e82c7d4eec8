// Package volume keeps named directories that outlive containers: volumes/NAME/_data and what is known of each.
//
// It mounts nothing and copies nothing into a new volume; who uses a volume is said by the containers themselves.
package volume

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
)

// Store is the volumes of one data directory.
type Store struct{ Dir string }

// Volume is one volume: volumes/NAME/volume.json.
type Volume struct {
	Name      string
	CreatedAt time.Time
	Labels    map[string]string `json:",omitempty"`
	Anonymous bool              `json:",omitempty"`
}

// Path is the directory whose content is the volume's.
func (s Store) Path(name string) string { return filepath.Join(s.Dir, name, "_data") }

// Create makes a volume unless there is one of that name; created says whether it is new. The name appears when all is there.
func (s Store) Create(v Volume) (created bool, err error) {
	if err := container.CheckVolumeName(v.Name); err != nil {
		return false, err
	}
	if _, err := os.Stat(filepath.Join(s.Dir, v.Name)); err == nil {
		return false, nil
	}
	if err := os.MkdirAll(s.Dir, 0o711); err != nil {
		return false, err
	}
	tmp := filepath.Join(s.Dir, disk.TemporaryName())
	if err := os.Mkdir(tmp, 0o711); err != nil {
		return false, err
	}
	defer func() {
		if err != nil || !created {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := os.Mkdir(filepath.Join(tmp, "_data"), 0o755); err != nil {
		return false, err
	}
	v.CreatedAt = time.Now().UTC()
	data, err := json.Marshal(v)
	if err != nil {
		return false, err
	}
	if err := disk.Replace(filepath.Join(tmp, "volume.json"), append(data, '\n'), 0o600, disk.Durable); err != nil {
		return false, err
	}
	if err := os.Rename(tmp, filepath.Join(s.Dir, v.Name)); err != nil {
		if errors.Is(err, fs.ErrExist) { // somebody was quicker
			return false, nil
		}
		return false, err
	}
	return true, disk.SyncDir(s.Dir)
}

// Load reads a volume.
func (s Store) Load(name string) (Volume, error) {
	var v Volume
	if container.CheckVolumeName(name) != nil {
		return v, notFound(name)
	}
	data, err := os.ReadFile(filepath.Join(s.Dir, name, "volume.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return v, notFound(name)
	}
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(data, &v)
}

func notFound(name string) error {
	return errdef.Hint(errdef.New(errdef.NotFound, "get %s: no such volume", name), "berth volume ls lists the volumes")
}

// List reads all volumes, by name.
func (s Store) List() ([]Volume, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Volume
	for _, e := range entries {
		v, err := s.Load(e.Name())
		switch {
		case errdef.Is(err, errdef.NotFound):
		case err != nil:
			return nil, err
		default:
			out = append(out, v)
		}
	}
	return out, nil
}

// Remove removes a volume and its content. A cut-off removal is finished by Sweep.
func (s Store) Remove(name string, removeTree func(dir string) error) error {
	if _, err := s.Load(name); err != nil {
		return err
	}
	gone := filepath.Join(s.Dir, disk.TemporaryName())
	if err := os.Rename(filepath.Join(s.Dir, name), gone); err != nil {
		return err
	}
	return removeTree(gone)
}

// Sweep finishes removals that were cut off, and removes what was never finished.
func (s Store) Sweep(removeTree func(dir string) error) error {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs error
	for _, e := range entries {
		// A volume is made within moments; what is older than a minute has nobody who makes it.
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), disk.TemporaryPrefix) && time.Since(info.ModTime()) > time.Minute {
			errs = errors.Join(errs, removeTree(filepath.Join(s.Dir, e.Name())))
		}
	}
	return errs
}
