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
	"strings"
	"sync"
	"time"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/image"
	"berth/internal/ownjson"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
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
	// Driver is how the container gets its tree; empty is overlay.
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
	dir := s.Dir(c.ID)
	if c.Step != "" {
		dir = c.Step
	}
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

// DriverCopy gives a container a copy of its image, containers/ID/tree, which is made when it is first started: where the data
// root cannot hold an overlay's writable layer. The word is docker's for the same.
const DriverCopy = "vfs"

// Tree is the copy of the image of a container with DriverCopy.
func (s Store) Tree(c *Container) string {
	if c.Step != "" {
		return StepTree(c.Step)
	}
	return filepath.Join(s.Dir(c.ID), "tree")
}

// StepTree is where a step of a build has its files with DriverCopy.
func StepTree(step string) string { return filepath.Join(step, "tree") }

// Upper is the writable layer of a container whose tree is an overlay.
func (s Store) Upper(id string) string { return filepath.Join(s.Dir(id), "upper") }

// Volume is a volume that a container uses.
type Volume struct {
	Name, Target string
	Anonymous    bool `json:",omitempty"`
}

// Status is docker's word for what a container is doing.
type Status string

const (
	Created    Status = "created"
	Running    Status = "running"
	Paused     Status = "paused"
	Restarting Status = "restarting"
	Exited     Status = "exited"
)

// Record is what became of a container: containers/ID/record.json.
type Record struct {
	Format       int
	Status       Status
	StartedAt    time.Time `json:",omitzero"`
	FinishedAt   time.Time `json:",omitzero"`
	ExitCode     int
	Error        string `json:",omitempty"`
	OOMKilled    bool   `json:",omitempty"`
	RestartCount int    `json:",omitempty"`
	// Stopped says that a command ended it on purpose: its restart policy then rests.
	Stopped bool `json:",omitempty"`
}

// Process is where a container runs: RUN/ID/process.json.
type Process struct {
	Format    int
	PID       int
	StartTime uint64 // in clock ticks after boot (proc_pid_stat(5), field 22): tells the process from a later one with its number
	Cgroup    string
	// CgroupDriver has made the control group ("systemd", "cgroupfs"); empty where berth did not know drivers, which is the latter.
	CgroupDriver string `json:",omitempty"`
	StartedAt    time.Time
	MonitorID    int // pid of the monitor
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

func (s Store) nameFile(name string) string { return filepath.Join(s.Data, "names", name) }

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
	if err := s.writeConfig(tmp, c, d); err != nil {
		return err
	}
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

// lockNames takes the lock under which names are taken and given back. Whoever holds it sees no half-made container:
// a temporary directory, or a name without a container, is then the rest of a command that was killed.
func (s Store) lockNames() (*disk.Lock, error) {
	return disk.TakeLock(filepath.Join(s.Data, "containers.lock"))
}

// takeName makes the file of the container's name. The caller holds the lock on names.
func (s Store) takeName(c *Container, d disk.Durability) error {
	asked := c.Name != ""
	for try := 0; ; try++ {
		if !asked {
			c.Name = ident.Name(try)
		}
		err := disk.Create(s.nameFile(c.Name), []byte(c.ID), 0o600, d)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		owner, err := os.ReadFile(s.nameFile(c.Name))
		if err == nil && !s.owns(string(owner), c.Name) {
			if err := os.Remove(s.nameFile(c.Name)); err != nil {
				return err
			}
			continue
		}
		if asked {
			return errdef.Hint(errdef.New(errdef.Conflict, "Conflict. The container name \"/%s\" is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", c.Name, owner),
				"berth rm %s", c.Name)
		}
	}
}

// owns reports whether there is such a container and the name is its own: a rename that was cut off leaves two.
func (s Store) owns(id, name string) bool {
	if !ident.Is(id) {
		return false
	}
	c, err := s.Load(id)
	return err == nil && c.Name == name
}

// leads reports whether the file of a name says that it is the container's.
func (s Store) leads(name, id string) bool {
	owner, err := os.ReadFile(s.nameFile(name))
	return err == nil && string(owner) == id
}

// exists reports whether there is such a container. What a power cut has left of one that was not to outlive the boot
// is none.
func (s Store) exists(id string) bool {
	if !ident.Is(id) {
		return false
	}
	_, err := s.Load(id)
	return err == nil
}

// Rename gives a container another name.
func (s Store) Rename(c *Container, name string) error {
	names, err := s.lockNames()
	if err != nil {
		return err
	}
	defer names.Unlock()
	old := c.Name
	renamed := *c
	renamed.Name = name
	if err := s.takeName(&renamed, disk.Durable); err != nil {
		return err
	}
	// From here on two names lead to the container; the one in its config is the one that counts.
	if err := writeJSON(s.configFile(c.ID), renamed, disk.Durable); err != nil {
		return errors.Join(err, os.Remove(s.nameFile(name)))
	}
	*c = renamed
	return os.Remove(s.nameFile(old))
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

// Resolve finds a container by name, ID or the beginning of an ID.
func (s Store) Resolve(ref string) (*Container, error) {
	name := strings.TrimPrefix(ref, "/")
	if container.CheckName(name) == nil {
		id, err := os.ReadFile(s.nameFile(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil && s.owns(string(id), name) {
			return s.Load(string(id))
		}
	}
	if ident.Is(ref) {
		if s.exists(ref) && len(ref) == 64 {
			return s.Load(ref)
		}
		ids, err := s.IDs()
		if err != nil {
			return nil, err
		}
		var found string
		for _, id := range ids {
			if strings.HasPrefix(id, ref) {
				if found != "" {
					return nil, errdef.New(errdef.Invalid, "multiple IDs found with provided prefix: %s", ref)
				}
				found = id
			}
		}
		if found != "" && s.exists(found) {
			return s.Load(found)
		}
	}
	return nil, errdef.Hint(errdef.New(errdef.NotFound, "No such container: %s", ref), "berth ps -a lists the containers")
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

// Record reads what became of a container.
func (s Store) Record(id string) (Record, error) {
	r := Record{Format: Format, Status: Created}
	err := readJSON(filepath.Join(s.Dir(id), "record.json"), &r)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if errdef.Is(err, errdef.Corrupt) {
		return Record{Format: Format, Status: Running}, nil
	}
	return r, err
}

// SetRecord writes what became of a container.
func (s Store) SetRecord(id string, r Record, d disk.Durability) error {
	r.Format = Format
	return writeJSON(filepath.Join(s.Dir(id), "record.json"), r, d)
}

// Process reads where a container runs; fs.ErrNotExist says that it does not.
func (s Store) Process(id string) (Process, error) {
	var p Process
	return p, readJSON(filepath.Join(s.RunDir(id), "process.json"), &p)
}

// SetProcess writes where a container runs.
func (s Store) SetProcess(id string, p Process) error {
	p.Format = Format
	return writeJSON(filepath.Join(s.RunDir(id), "process.json"), p, disk.Volatile)
}

// updateFile says that the limits of a running container are being changed.
func (s Store) updateFile(id string) string { return filepath.Join(s.RunDir(id), "update") }

// BeginUpdate says, until EndUpdate, that the limits of a running container may be others than its configuration says.
func (s Store) BeginUpdate(id string) error {
	return os.WriteFile(s.updateFile(id), nil, 0o600)
}

// Updating reports whether an update has begun and not ended: it is under way, or who has begun it was killed.
func (s Store) Updating(id string) bool {
	return unix.Access(s.updateFile(id), unix.F_OK) == nil
}

// EndUpdate says that the limits are those of the configuration.
func (s Store) EndUpdate(id string) error {
	err := os.Remove(s.updateFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

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
