// Package cache keeps what the steps of builds have made, by keys that say all that the result depends on.
//
//	DATA/build/cache/KEY        one JSON file (Record) for a key; KEY is 64 hexadecimal digits
//	DATA/build/locks/KEY        flock of whoever makes what the key stands for; gone when nobody does
//	DATA/build/files/KEY        what a COPY has copied, for people who ask why it was not found again (Files)
//	DATA/build/last/PLACE       the KEY that a step at that place of a Dockerfile had the last time
//	DATA/build/sums/NAME        the digest of files of layers that do not change; NAME says of which
//	DATA/build/filled           how much the cache has (Filled)
//	DATA/build/swept            when old files were looked for
//	DATA/build/mounts/ID/data   the files of a cache mount; ID is a digest of its id, with .N for further private ones
//	DATA/build/mounts/ID.lock   flock of the steps that have it mounted: shared, or exclusive if it is locked or private
//	DATA/build/steps/NAME       a step that is being carried out: what it writes; flock of the directory by its build
//
// A record only points at a layer and its blob: whether they are there is looked at whenever it is used, and a record that leads nowhere
// is none. So nothing has to be removed together. The package makes no keys and carries nothing out.
package cache

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/content"
	"berth/internal/image/layer"

	"golang.org/x/sys/unix"
)

// Store is the cache of one data root.
type Store struct{ dir string }

// Open opens the cache in dataRoot, which need not exist yet.
func Open(dataRoot string) Store { return Store{filepath.Join(dataRoot, "build")} }

// Record is what a key stands for.
type Record struct {
	Parent  image.Digest     `json:"parent,omitempty"` // the chain that the layer lies on
	Layer   image.Descriptor `json:"layer"`            // its blob, which is its plain tar
	Created time.Time        `json:"created"`
	Used    time.Time        `json:"used"`
	What    string           `json:"what,omitempty"` // the step's title, for people
	Of      json.RawMessage  `json:"of,omitempty"`   // what the key is made of
}

// Chain is the chain that the record leads to.
func (r Record) Chain() image.Digest { return image.ChainID(r.Parent, r.Layer.Digest) }

func (s Store) cacheDir() string         { return filepath.Join(s.dir, "cache") }
func (s Store) mountsDir() string        { return filepath.Join(s.dir, "mounts") }
func (s Store) stepsDir() string         { return filepath.Join(s.dir, "steps") }
func (s Store) path(key string) string   { return filepath.Join(s.cacheDir(), key) }
func (s Store) locksDir() string         { return filepath.Join(s.dir, "locks") }
func (s Store) lockAt(key string) string { return filepath.Join(s.locksDir(), key) }

// Get returns the record of a key. ok is false if there is none.
func (s Store) Get(key string) (r Record, ok bool, err error) {
	data, err := os.ReadFile(s.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	if json.Unmarshal(data, &r) != nil { // it is only a cache
		return Record{}, false, nil
	}
	return r, true, nil
}

// Here reports whether what a record leads to is there.
func (r Record) Here(blobs *content.Store, layers *layer.Store) bool {
	chain := r.Chain()
	return layers.Has(chain) && (layers.Makes(chain) || blobs.Has(r.Layer.Digest))
}

// Put writes the record of a key.
func (s Store) Put(key string, r Record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.cacheDir(), 0o700); err != nil {
		return err
	}
	return disk.Replace(s.path(key), data, 0o600, disk.Volatile) // what a power cut leaves of it is no record, or leads nowhere
}

// SetFiles keeps what the step of a key has copied. It may be missing.
func (s Store) SetFiles(key string, list []byte) error { return s.keep("files", key, list) }

// Files is what the step of a key has copied; nil if that is not known.
func (s Store) Files(key string) []byte {
	data, err := os.ReadFile(filepath.Join(s.dir, "files", key))
	if err != nil {
		return nil
	}
	return data
}

// SetLast notes which key the step at a place, 64 hexadecimal digits, has come to.
func (s Store) SetLast(place, key string) error { return s.keep("last", place, []byte(key)) }

// Last is the key that the step at a place came to the last time; "" if that is not known.
func (s Store) Last(place string) string { return s.note("last", place) }

// SetSum notes a digest, 64 hexadecimal digits, of files of layers under a name of as many, which says which files of which layers.
func (s Store) SetSum(name, sum string) error { return s.keep("sums", name, []byte(sum)) }

// Sum is the digest that was noted under a name; "" if there is none.
func (s Store) Sum(name string) string { return s.note("sums", name) }

// note reads 64 hexadecimal digits; what is anything else is not there.
func (s Store) note(kind, name string) string {
	data, err := os.ReadFile(filepath.Join(s.dir, kind, name))
	if err != nil || len(data) != 64 || strings.Trim(string(data), "0123456789abcdef") != "" {
		return ""
	}
	return string(data)
}

func (s Store) keep(kind, name string, data []byte) error {
	dir := filepath.Join(s.dir, kind)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return disk.Replace(filepath.Join(dir, name), data, 0o600, disk.Volatile)
}

// Filled is how much the cache has.
type Filled struct {
	Bytes   int64     `json:"bytes"`
	Counted time.Time `json:"counted"` // when all was looked at; since then, builds have said what they added
}

// Filled is what was noted last; nothing at any time, if that is not known.
func (s Store) Filled() (f Filled) {
	data, err := os.ReadFile(filepath.Join(s.dir, "filled"))
	if err != nil || json.Unmarshal(data, &f) != nil {
		return Filled{}
	}
	return f
}

// SetFilled notes how much the cache has. Of two builds that do so at once, what one has added is forgotten until all is counted again.
func (s Store) SetFilled(f Filled) error {
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return disk.Replace(filepath.Join(s.dir, "filled"), data, 0o600, disk.Volatile)
}

// usedAfter is how old the time of a record's last use may become.
const usedAfter = time.Hour

// Touch notes that a record is used.
func (s Store) Touch(key string, r Record, now time.Time) error {
	if now.Sub(r.Used) < usedAfter {
		return nil
	}
	r.Used = now
	return s.Put(key, r)
}

// Lock keeps other builds from making the same thing: they wait, and find it.
func (s Store) Lock(ctx context.Context, key string) (unlock func(), err error) {
	if err := os.MkdirAll(s.locksDir(), 0o700); err != nil {
		return nil, err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		lock, err := disk.TryLock(s.lockAt(key))
		if err == nil {
			return func() {
				_ = os.Remove(s.lockAt(key)) // while it is locked: nobody locks a file without a name (disk.TryLock)
				lock.Unlock()
			}, nil
		}
		if !errors.Is(err, disk.ErrLocked) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, errdef.As(errdef.Cancelled, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// Entry is a record with its key.
type Entry struct {
	Key string
	Record
}

// List reads all records. One that a power cut has torn is among them, as one of nothing that was never used: it leads nowhere, and a prune should see it.
func (s Store) List() ([]Entry, error) {
	entries, err := os.ReadDir(s.cacheDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Entry
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		r, ok, err := s.Get(e.Name())
		if err != nil {
			return nil, err
		}
		if !ok {
			if _, err := os.Lstat(s.path(e.Name())); err != nil {
				continue // it has just gone
			}
			r = Record{What: "what a power cut has left of a record"}
		}
		all = append(all, Entry{e.Name(), r})
	}
	return all, nil
}

// Remove removes the record of a key. What it led to is removed by the next sweep of the images, if nothing else needs it.
func (s Store) Remove(key string) error {
	if err := os.Remove(filepath.Join(s.dir, "files", key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(s.path(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Work is the directory of a step that is being carried out: "upper" and "work" in it are empty, and further ones may be made.
type Work struct {
	Dir  string
	lock *disk.Lock
}

// Begin makes the directory of a step.
func (s Store) Begin() (*Work, error) { return BeginIn(s.stepsDir(), "upper", "work") }

// BeginIn makes a directory of a step in another place, which SweepIn sweeps, with empty directories in it.
func BeginIn(place string, names ...string) (*Work, error) {
	if err := os.MkdirAll(place, 0o700); err != nil {
		return nil, err
	}
	dir := filepath.Join(place, disk.TemporaryName())
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := disk.TryLockDir(dir)
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	w := &Work{dir, lock}
	for _, name := range names {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return nil, errors.Join(err, w.End(os.RemoveAll))
		}
	}
	return w, nil
}

// Upper is where what the step writes is.
func (w *Work) Upper() string { return filepath.Join(w.Dir, "upper") }

// End removes the directory.
func (w *Work) End(removeTree func(string) error) error {
	err := removeTree(w.Dir)
	w.lock.Unlock()
	return err
}

// Sweep removes what builds that died have left. What is only names of old files is looked for once an hour: there may be very many.
func (s Store) Sweep(removeTree func(string) error) error {
	errs := errors.Join(SweepIn(s.stepsDir(), removeTree), s.sweepLocks())
	mark := filepath.Join(s.dir, "swept")
	if info, err := os.Stat(mark); err == nil && time.Since(info.ModTime()).Abs() < sweptFor {
		return errs
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return errs // nothing has been built
		}
		return errors.Join(errs, err)
	}
	return errors.Join(errs, s.sweepNotes(), s.sweepTemporary())
}

// sweptFor is how long old files may lie around.
const sweptFor = time.Hour

// sweepLocks removes the locks of builds that died.
func (s Store) sweepLocks() (errs error) {
	entries, err := os.ReadDir(s.locksDir())
	if err != nil {
		return nil //nolint:nilerr // there are none
	}
	for _, e := range entries {
		path := filepath.Join(s.locksDir(), e.Name())
		if lock, err := disk.TryLock(path); err == nil {
			errs = errors.Join(errs, os.Remove(path))
			lock.Unlock()
		}
	}
	return errs
}

// sweepTemporary removes records that were never given their names, and the locks of before, which lay beside them.
func (s Store) sweepTemporary() (errs error) {
	entries, err := os.ReadDir(s.cacheDir())
	if err != nil {
		return nil //nolint:nilerr // there are none
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > time.Hour {
			errs = errors.Join(errs, os.Remove(filepath.Join(s.cacheDir(), e.Name())))
		}
	}
	return errs
}

// keptFor is how long it is known what a step came to the last time, and what digests files have.
const keptFor = 30 * 24 * time.Hour

// maxNotes is how many of a kind are remembered before old ones go.
const maxNotes = 10_000

// sweepNotes removes notes that are old.
func (s Store) sweepNotes() (errs error) {
	for _, kind := range [...]string{"last", "sums"} {
		dir := filepath.Join(s.dir, kind)
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) < maxNotes {
			continue // there are none, or few
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > keptFor {
				errs = errors.Join(errs, os.Remove(filepath.Join(dir, e.Name())))
			}
		}
	}
	return errs
}

// SweepIn removes directories of steps whose builds have died.
func SweepIn(place string, removeTree func(string) error) error {
	entries, err := os.ReadDir(place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := err
	for _, e := range entries {
		dir := filepath.Join(place, e.Name())
		lock, err := disk.TryLockDir(dir)
		if err != nil {
			continue // somebody is at work, or it has just gone
		}
		errs = errors.Join(errs, removeTree(dir))
		lock.Unlock()
	}
	return errs
}

// Dir is the directory of a cache mount, in which its files are ("data"), and the lock of it. A shared one may be used by several steps at
// once, of a locked one the others wait for their turn, and a private one is a directory of its own for each that is at work. made is called
// for a directory that is new.
func (s Store) Dir(ctx context.Context, id, sharing string, made func(dir string) error) (dir string, unlock func(), err error) {
	place := s.mountsDir()
	if err := os.MkdirAll(place, 0o700); err != nil {
		return "", nil, err
	}
	sum := image.DigestOf([]byte(id)).Hex()
	for n, pause := 0, time.Millisecond; ; {
		base := filepath.Join(place, sum)
		if n > 0 {
			base += "." + strconv.Itoa(n)
		}
		lock, err := dirLock(base, sharing)
		switch {
		case errors.Is(err, disk.ErrLocked) && sharing == "private":
			n++
			continue
		case errors.Is(err, disk.ErrLocked):
			select {
			case <-ctx.Done():
				return "", nil, errdef.As(errdef.Cancelled, context.Cause(ctx))
			case <-time.After(pause):
			}
			pause = min(2*pause, 100*time.Millisecond)
			continue
		case err != nil:
			return "", nil, err
		}
		dir := base + "/data"
		now := time.Now()
		if err := errors.Join(s.makeDir(base, dir, made), os.Chtimes(base+".lock", now, now)); err != nil {
			lock.Unlock()
			return "", nil, err
		}
		return dir, lock.Unlock, nil
	}
}

// dirLock takes the lock of a cache mount: the file beside its directory.
func dirLock(base, sharing string) (*disk.Lock, error) {
	if sharing == "shared" {
		return disk.TryShareLock(base + ".lock")
	}
	return disk.TryLock(base + ".lock")
}

// makeDir makes the directory of a cache mount, whole, unless it is there. Of several that make it at once, one wins.
func (s Store) makeDir(base, dir string, made func(string) error) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	w, err := BeginIn(s.stepsDir(), "data")
	if err != nil {
		return err
	}
	err = made(filepath.Join(w.Dir, "data"))
	if err == nil {
		err = os.Mkdir(base, 0o700)
		if errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, filepath.Join(w.Dir, "data"), unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
		if err == unix.EEXIST {
			err = nil
		}
	}
	return errors.Join(err, w.End(os.RemoveAll))
}

// Mount is a cache mount.
type Mount struct {
	ID    string
	Bytes int64
	Used  time.Time
}

// Mounts lists the cache mounts.
func (s Store) Mounts() ([]Mount, error) {
	entries, err := os.ReadDir(s.mountsDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Mount
	for _, e := range entries {
		lock, err := os.Stat(filepath.Join(s.mountsDir(), e.Name()+".lock"))
		if !e.IsDir() || err != nil {
			continue
		}
		m := Mount{ID: e.Name(), Used: lock.ModTime()}
		_ = filepath.WalkDir(filepath.Join(s.mountsDir(), e.Name()), func(_ string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil //nolint:nilerr // what goes away meanwhile has no size
			}
			if info, err := d.Info(); err == nil {
				m.Bytes += info.Size()
			}
			return nil
		})
		all = append(all, m)
	}
	return all, nil
}

// RemoveMount removes a cache mount, unless a step is using it.
func (s Store) RemoveMount(id string, removeTree func(string) error) (gone bool, err error) {
	path := filepath.Join(s.mountsDir(), id)
	lock, err := disk.TryLock(path + ".lock")
	if errors.Is(err, disk.ErrLocked) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Unlock()
	// First the name, so that none is half removed; then its lock, which nobody can be waiting for without noticing (disk.TryLock).
	old := filepath.Join(s.stepsDir(), disk.TemporaryName())
	err = errors.Join(os.MkdirAll(s.stepsDir(), 0o700), os.Rename(path, old))
	if err == nil {
		err = errors.Join(os.Remove(path+".lock"), removeTree(old))
	}
	return err == nil, err
}
