// Package state keeps what berth knows of its containers, on disk: what each was made from, what became of it, and
// where it runs. The disk is the truth; nothing here is remembered between calls.
//
// It starts and stops nothing, and does not judge whether a process is alive beyond what the kernel says of a pid.
// docs/state.md lists every file. Locks, in the order in which they are taken:
//
//	containers.lock       the instance's names: held while a name is taken or given back
//	containers/ID/lock    one container: held by a command that starts, changes or removes it
//	RUN/containers/ID     the directory: held by the container's monitor as long as it lives; nobody waits for it
package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"sync"
	"time"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/image"
	"berth/internal/ownjson"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Format is the version of the files of this package.
const Format = 1

// Store is the containers of one instance.
type Store struct {
	Data string // containers/, names/
	Run  string // what dies with the boot
}

// Container is what a container was made from: containers/ID/config.json.
type Container struct {
	Format  int
	ID      string
	Name    string
	Created time.Time
	Config  container.Config // merged with the image's
	Image   Image
	Volumes []Volume `json:",omitempty"`
	// Mounted are the images that are mounted in it, by where.
	Mounted map[string]Image `json:",omitempty"`
	// Driver is the storage driver that keeps the container's files; empty is overlay.
	Driver string `json:",omitempty"`
	// UIDMaps and GIDMaps are the ids of a container of a user without root that are not those of its user's namespace.
	UIDMaps, GIDMaps []specs.LinuxIDMapping `json:",omitempty"`
	// InitProgram is the path of the init for --init.
	InitProgram string `json:",omitempty"`
	// RuntimeProgram is the path of the OCI runtime that Config.Runtime names; empty is berth itself.
	RuntimeProgram string `json:",omitempty"`
	// Step, unless it is empty, says that the container is a step of a build: the directory has its writable layer, which is the build's. It is
	// not listed, and ends with the build.
	Step string `json:",omitempty"`
}

func (s Store) configFile(id string) string { return filepath.Join(s.Dir(id), "config.json") }

// Writable are the directories of a container's writable layer.
func (s Store) Writable(c *Container) (upper, work string) {
	dir := s.FilesDir(c)
	return filepath.Join(dir, "upper"), filepath.Join(dir, "work")
}

// StepPoints is a directory of empty places for the mounts of a step of a build; it need not be there. It lies below all layers, so that
// nothing has to be made in them.
func StepPoints(step string) string { return filepath.Join(step, "points") }

// Image is the image that a container was made from.
type Image struct {
	Name     string
	ID       image.Digest
	ChainIDs []image.Digest // the lowest layer first
}

// FilesDir is where a container has its files: what is in there is the storage driver's (package storage).
func (s Store) FilesDir(c *Container) string {
	if c.Step != "" {
		return c.Step
	}
	return s.Dir(c.ID)
}

// Tree is where a container has all its files, with a storage driver that keeps them so.
func (s Store) Tree(c *Container) string { return filepath.Join(s.FilesDir(c), "tree") }

// Upper is the writable layer of a container whose tree is an overlay.
func (s Store) Upper(id string) string { return filepath.Join(s.Dir(id), "upper") }

// Volume is a volume that a container uses.
type Volume struct {
	Name, Target string
	Anonymous    bool `json:",omitempty"`
}

// Dir is the directory of a container.
func (s Store) Dir(id string) string { return filepath.Join(s.Data, "containers", id) }

// RunDir is the directory of a container that dies with the boot.
func (s Store) RunDir(id string) string { return filepath.Join(s.Run, "containers", id) }

// Processes are where containers run, or ran until a moment ago: everything that is written down in the run root.
func (s Store) Processes() []Process {
	entries, err := os.ReadDir(filepath.Join(s.Run, "containers"))
	if err != nil {
		return nil // none has run since the boot
	}
	var all []Process
	for _, e := range entries {
		if p, err := s.Process(e.Name()); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// EtcFile is a file of /etc that a container is given, "hosts" for example. Every start writes it anew.
func (s Store) EtcFile(id, name string) string { return filepath.Join(s.RunDir(id), name) }

// Create writes a new container and takes its name, or fails and leaves nothing. A container without a name gets one.
// Volatile is for those that are removed when they end.
func (s Store) Create(c *Container, d disk.Durability) (err error) {
	for _, dir := range []string{"containers", "names"} {
		if err := os.MkdirAll(filepath.Join(s.Data, dir), 0o700); err != nil {
			return err
		}
	}
	names, err := s.lockNames()
	if err != nil {
		return err
	}
	defer names.Unlock()
	c.Format = Format
	tmp := filepath.Join(s.Data, "containers", disk.TemporaryName())
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := s.takeName(c, d); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(s.nameFile(c.Name)))
		}
	}()
	for _, dir := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(tmp, dir), 0o755); err != nil {
			return err
		}
	}
	// Made now, since a disk that is full must not keep anybody from removing the container.
	if err := os.WriteFile(filepath.Join(tmp, "lock"), nil, 0o600); err != nil {
		return err
	}
	if limit := c.Config.StorageBytes; limit > 0 {
		if err := limitLayer(limit, filepath.Join(tmp, "upper"), filepath.Join(tmp, "work")); err != nil {
			return err
		}
	}
	// Last: that it is durable makes the names beside it so.
	if err := s.writeConfig(tmp, c, d); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.Dir(c.ID)); err != nil {
		return err
	}
	if d == disk.Durable {
		return disk.SyncDir(filepath.Join(s.Data, "containers"))
	}
	return nil
}

// limitLayer bounds what a writable layer may hold.
func limitLayer(limitBytes int64, upper, work string) error {
	err := disk.LimitTrees(limitBytes, upper, work)
	if err == nil {
		return nil
	}
	err = errdef.New(errdef.Unsupported, "cannot limit what the container may write to %d bytes (--storage-opt size): %w", limitBytes, err)
	return errdef.Hint(err, "it takes root, and a data root on an ext4 or xfs that is mounted with quotas of projects (prjquota)")
}

// writeConfig writes a container's configuration into a directory that nobody knows yet.
func (s Store) writeConfig(dir string, c *Container, d disk.Durability) error {
	if d == disk.Durable {
		return writeJSON(filepath.Join(dir, "config.json"), c, d)
	}
	data, err := ownjson.Marshal(c)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), append(data, '\n'), 0o600)
}

// SetNetworks changes the networks of a container, not what it was made with. The caller holds its lock.
func (s Store) SetNetworks(c *Container, networks []container.Endpoint) error {
	cfg := c.Config
	cfg.Networks = networks
	return s.SetConfig(c, cfg)
}

// SetConfig changes the configuration of a container. The caller holds its lock, and has read it since.
func (s Store) SetConfig(c *Container, cfg container.Config) error {
	changed := *c
	changed.Config = cfg
	return s.replace(c, changed)
}

// SetDriver says that another storage driver keeps a container's files now; SetConfig's rules hold.
func (s Store) SetDriver(c *Container, driver string) error {
	changed := *c
	changed.Driver = driver
	return s.replace(c, changed)
}

// replace puts another record in the place of a container's.
func (s Store) replace(c *Container, changed Container) error {
	names, err := s.lockNames() // a rename writes the same file
	if err != nil {
		return err
	}
	defer names.Unlock()
	if err := writeJSON(s.configFile(c.ID), changed, disk.Durable); err != nil {
		return err
	}
	*c = changed
	return nil
}

// Load reads a container.
func (s Store) Load(id string) (*Container, error) {
	c := new(Container)
	if err := readJSON(s.configFile(id), c); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errdef.New(errdef.NotFound, "No such container: %s", id)
		}
		return nil, err
	}
	return c, nil
}

// IDs are the IDs of all containers.
func (s Store) IDs() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.Data, "containers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if len(e.Name()) == 64 && ident.Is(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// List reads all containers, the newest first. One that goes away meanwhile is left out.
func (s Store) List() ([]*Container, error) {
	ids, err := s.IDs()
	if err != nil {
		return nil, err
	}
	// Each processor reads its share; a few are read sooner than another thread is awake.
	const few = 64
	parts := slices.Collect(slices.Chunk(ids, max(few, len(ids)/runtime.GOMAXPROCS(0)+1)))
	read, errs := make([][]*Container, len(parts)), make([]error, len(parts))
	var readers sync.WaitGroup
	for i, part := range parts {
		readers.Go(func() { read[i], errs[i] = s.loadAll(part) })
	}
	readers.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	out := slices.Concat(read...)
	sort.Slice(out, func(i, j int) bool { return out[i].Created.After(out[j].Created) })
	return out, nil
}

// loadAll loads containers, but for those that are gone or cannot be read.
func (s Store) loadAll(ids []string) (out []*Container, _ error) {
	for _, id := range ids {
		c, err := s.Load(id)
		switch {
		case errdef.Is(err, errdef.NotFound), errdef.Is(err, errdef.Corrupt):
		case err != nil:
			return nil, err
		default:
			out = append(out, c)
		}
	}
	return out, nil
}

// VolumeUses are the IDs of the containers that use each volume.
func (s Store) VolumeUses() (map[string][]string, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	uses := map[string][]string{}
	for _, c := range all {
		for _, v := range c.Volumes {
			if !slices.Contains(uses[v.Name], c.ID) {
				uses[v.Name] = append(uses[v.Name], c.ID)
			}
		}
	}
	return uses, nil
}

// OwnVolumes are the names of the volumes that go with a container: those without a name of the user's that no other container uses.
func (s Store) OwnVolumes(c *Container) (names []string, _ error) {
	var uses map[string][]string
	for _, v := range c.Volumes {
		if !v.Anonymous {
			continue
		}
		if uses == nil {
			var err error
			if uses, err = s.VolumeUses(); err != nil {
				return nil, err
			}
		}
		if !slices.ContainsFunc(uses[v.Name], func(id string) bool { return id != c.ID }) {
			names = append(names, v.Name)
		}
	}
	return names, nil
}

// Lock takes the lock of a container.
func (s Store) Lock(id string) (*disk.Lock, error) {
	l, err := disk.TakeLock(filepath.Join(s.Dir(id), "lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errdef.New(errdef.NotFound, "No such container: %s", id)
	}
	return l, err
}

func writeJSON(path string, v any, d disk.Durability) error {
	data, err := ownjson.Marshal(v)
	if err != nil {
		return err
	}
	return disk.Replace(path, append(data, '\n'), 0o600, d)
}

func readJSON(path string, v any) error {
	data, err := disk.Read(path)
	if err != nil {
		return err
	}
	if err := ownjson.Unmarshal(data, v); err != nil {
		return errdef.New(errdef.Corrupt, "cannot read %s: %w", path, err)
	}
	return nil
}
