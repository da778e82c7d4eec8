// Package volume keeps named directories that outlive containers: volumes/NAME/_data and what is known of each.
//
// A volume with a type is a mount of its own, which each container that uses it makes: a directory of the host's, a tmpfs, an NFS.
//
// It mounts nothing; who uses a volume is said by the containers themselves.
package volume

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// Store is the volumes of one data directory.
type Store struct{ Dir string }

// Volume is one volume: volumes/NAME/volume.json.
type Volume struct {
	Name      string
	CreatedAt time.Time
	Labels    map[string]string `json:",omitempty"`
	Anonymous bool              `json:",omitempty"`
	Driver    string            `json:",omitempty"` // empty is local
	Options   map[string]string `json:",omitempty"` // docker's of the driver local: type, o, device
}

// DriverLocal is the only driver.
const DriverLocal = "local"

// DriverName is the volume's driver.
func (v Volume) DriverName() string {
	if v.Driver == "" {
		return DriverLocal
	}
	return v.Driver
}

// Options of a volume, docker's.
const (
	OptType   = "type"
	OptO      = "o"
	OptDevice = "device"
	OptSize   = "size"
)

// CheckOptions refuses what a volume of the driver local cannot be.
func CheckOptions(options map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(options)) {
		switch key {
		case OptType, OptO, OptDevice:
		case OptSize:
			if _, err := sizeOf(options); err != nil {
				return err
			}
			if options[OptType] != "" {
				return errdef.New(errdef.Invalid, "the size of a volume with a type is for what it mounts: for a tmpfs, --opt o=size=%s", options[key])
			}
		default:
			return errdef.New(errdef.Invalid, "invalid option: %q", key)
		}
	}
	for _, pair := range [][2]string{{OptDevice, OptType}, {OptType, OptDevice}, {OptO, OptDevice}, {OptO, OptType}} {
		if options[pair[0]] != "" && options[pair[1]] == "" {
			return errdef.New(errdef.Invalid, "missing required option: %q", pair[1])
		}
	}
	return nil
}

// sizeOf is how many bytes a volume may hold; 0 means any number.
func sizeOf(options map[string]string) (bytes int64, err error) {
	text, ok := options[OptSize]
	if !ok {
		return 0, nil
	}
	if bytes, err = units.RAMInBytes(text); err != nil || bytes <= 0 {
		return 0, errdef.New(errdef.Invalid, "invalid size of a volume: %q", text)
	}
	return bytes, nil
}

// limit bounds what the empty directory dir may hold, if the options say so.
func limit(options map[string]string, dir string) error {
	bytes, err := sizeOf(options)
	if err != nil || bytes == 0 {
		return err
	}
	if err := disk.LimitTrees(bytes, dir); err != nil {
		err = errdef.New(errdef.Unsupported, "quota size requested but no quota support: %w", err)
		return errdef.Hint(err, "it takes root, and a data root on an ext4 or xfs that is mounted with quotas of projects (prjquota); or bound a volume in memory: --opt type=tmpfs --opt device=tmpfs --opt o=size=%s", options[OptSize])
	}
	return nil
}

// deleteTree removes a volume that has no name any more, and its limit, if it has one of ours.
func deleteTree(dir string, removeTree func(dir string) error) error {
	var v Volume
	var err error
	if data, e := os.ReadFile(filepath.Join(dir, "volume.json")); e == nil && json.Unmarshal(data, &v) == nil && v.Options[OptSize] != "" {
		err = disk.Unlimit(filepath.Join(dir, "_data"))
	}
	return errors.Join(err, removeTree(dir))
}

// Mounted reports whether the volume's content is elsewhere, and mounted by each container.
func (v Volume) Mounted() bool { return v.Options[OptType] != "" }

// Path is the directory whose content is the volume's.
func (s Store) Path(name string) string { return filepath.Join(s.Dir, name, "_data") }

// Create makes a volume unless there is one of that name; created says whether it is new. The name appears when all is there.
func (s Store) Create(v Volume) (created bool, err error) {
	return s.CreateFilled(v, func(string) error { return nil })
}

// CreateFilled is Create of a volume whose directory fill fills before it has its name. The caller may take long for that.
func (s Store) CreateFilled(v Volume, fill func(dir string) error) (created bool, err error) {
	if err := errors.Join(container.CheckVolumeName(v.Name), CheckOptions(v.Options)); err != nil {
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
			if v.Options[OptSize] != "" {
				err = errors.Join(err, disk.Unlimit(filepath.Join(tmp, "_data")))
			}
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	making, err := disk.TryLockDir(tmp) // says to a sweep that somebody is at it
	if err != nil {
		return false, err
	}
	defer making.Unlock()
	if err := os.Mkdir(filepath.Join(tmp, "_data"), 0o755); err != nil {
		return false, err
	}
	if err := limit(v.Options, filepath.Join(tmp, "_data")); err != nil {
		return false, err
	}
	if err := fill(filepath.Join(tmp, "_data")); err != nil {
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
	if err := json.Unmarshal(data, &v); err != nil {
		return v, errdef.New(errdef.Corrupt, "cannot read what is known of volume %s: %w", name, err)
	}
	v.Name = name // the directory's is what counts: a rename changes it alone
	return v, nil
}

// Rename gives a volume that nobody uses another name.
func (s Store) Rename(name, to string) error {
	if err := container.CheckVolumeName(to); err != nil {
		return err
	}
	if _, err := s.Load(name); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(s.Dir, name), unix.AT_FDCWD, filepath.Join(s.Dir, to), unix.RENAME_NOREPLACE)
	if errors.Is(err, fs.ErrExist) {
		return errdef.New(errdef.Conflict, "cannot rename volume %s: there is a volume %s", name, to)
	}
	if err != nil {
		return &os.PathError{Op: "rename", Path: filepath.Join(s.Dir, name), Err: err}
	}
	return disk.SyncDir(s.Dir)
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
	return deleteTree(gone, removeTree)
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
			l, err := disk.TryLockDir(filepath.Join(s.Dir, e.Name()))
			if errors.Is(err, disk.ErrLocked) {
				continue // it takes somebody long to fill it
			}
			l.Unlock()
			errs = errors.Join(errs, deleteTree(filepath.Join(s.Dir, e.Name()), removeTree))
		}
	}
	return errs
}
