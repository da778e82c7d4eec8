// Package content keeps blobs on disk under their digests, as an OCI image layout (image-spec,
// image-layout.md) that other tools can read.
//
//	oci-layout          the layout's version
//	index.json          derived from the names of images; image/store writes it
//	blobs/ALG/HEX       a blob: verified and durable before it has this name, never changed after
//	ingest/ALG-HEX      a blob on its way, kept for the next try; whoever writes it holds its flock
//	ingest/.tmp-*       a blob whose digest is not known yet; likewise
//	gc.lock             shared while blobs are added that nothing refers to yet, exclusive in a sweep
//
// A blob may be in none of these files and yet be given by OpenAt: one that is made of a layer's tree.
//
// Locks are taken in the order gc.lock, then at most one ingest. The package does not know what a blob
// means, fetches nothing, and names no images.
package content

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
)

// Store is an OCI image layout.
type Store struct {
	dir string
	// Made gives the bytes of a blob that is not kept because it can be made (image/layer, Recipe); nil, if it cannot. They need not be verified.
	Made func(image.Digest) (io.ReadCloser, error)
}

const layoutFile = "oci-layout"

// Open opens the layout in dir and makes it if it is not there. A layout that exists is not written to.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	if err := unix.Access(filepath.Join(dir, layoutFile), unix.F_OK); err == nil {
		return s, nil
	}
	if err := s.create(); err != nil {
		return nil, errdef.As(kindOfWrite(err), wrap("cannot make the image content in "+dir, err))
	}
	return s, nil
}

// create makes an empty layout; oci-layout comes last because Open takes it for the sign of a whole one.
func (s *Store) create() error {
	for _, sub := range []string{"blobs/" + image.SHA256, "ingest"} {
		if err := os.MkdirAll(filepath.Join(s.dir, sub), 0o700); err != nil {
			return err
		}
	}
	empty := []byte(`{"schemaVersion":2,"mediaType":"` + image.MediaTypeIndex + `","manifests":[]}`)
	err := disk.Create(filepath.Join(s.dir, "index.json"), empty, 0o644, disk.Durable)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	err = disk.Create(filepath.Join(s.dir, layoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644, disk.Durable)
	if err != nil && !errors.Is(err, fs.ErrExist) { // another process was quicker
		return err
	}
	return nil
}

// Dir is the directory of the layout.
func (s *Store) Dir() string { return s.dir }

// path is where the blob d is; d may come from anywhere.
func (s *Store) path(d image.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", err
	}
	return s.dir + "/blobs/" + d.Algorithm() + "/" + d.Hex(), nil
}

// Has reports whether the blob d is here.
func (s *Store) Has(d image.Digest) bool {
	path, err := s.path(d)
	return err == nil && unix.Access(path, unix.F_OK) == nil
}

// Open opens the blob d for reading. A missing one is errdef.NotFound.
func (s *Store) Open(d image.Digest) (*os.File, error) {
	path, err := s.path(d)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, missing(d)
	}
	return f, err
}

// OpenAt gives the bytes of the blob d from an offset on, whether it is kept or made while it is read. What is made is verified: where its end
// would be, there is an error if it is not d. A missing one is errdef.NotFound.
func (s *Store) OpenAt(d image.Digest, offset int64) (io.ReadCloser, error) {
	f, err := s.Open(d)
	if err == nil {
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	if !errdef.Is(err, errdef.NotFound) || s.Made == nil {
		return nil, err
	}
	r, madeErr := s.Made(d)
	if r == nil || madeErr != nil {
		return nil, errors.Join(madeErr, err)
	}
	v := &madeBlob{r, image.NewDigester(d.Algorithm()), d}
	if _, err := io.CopyN(io.Discard, v, offset); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

// madeBlob verifies what is made.
type madeBlob struct {
	io.ReadCloser
	digester *image.Digester
	want     image.Digest
}

func (v *madeBlob) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	_, _ = v.digester.Write(p[:n])
	if err == io.EOF && v.digester.Digest() != v.want {
		return n, errdef.Hint(errdef.New(errdef.Corrupt, "the layer of blob %s has changed: its blob would be %s", v.want, v.digester.Digest()),
			"build the image again with --no-cache")
	}
	return n, err
}

func missing(d image.Digest) error {
	return errdef.New(errdef.NotFound, "blob %s is not in the image content", d)
}

// ReadAll returns the blob d, which may have at most limit bytes, after verifying its digest.
func (s *Store) ReadAll(d image.Digest, limit int64) ([]byte, error) {
	path, err := s.path(d)
	if err != nil {
		return nil, err
	}
	data, err := disk.ReadUpTo(path, limit)
	var large *disk.TooLargeError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, missing(d)
	case errors.As(err, &large):
		return nil, errdef.New(errdef.Invalid, "blob %s has %d bytes; at most %d are read", d, large.Size, limit)
	case err != nil:
		return nil, err
	}
	if err := d.Verify(data); err != nil {
		return nil, errdef.Hint(errdef.As(errdef.Corrupt, wrap("cannot use blob "+string(d)+" in "+s.dir, err)),
			"remove the image and pull it again")
	}
	return data, nil
}

// Put stores data, which must be what desc says.
func (s *Store) Put(desc image.Descriptor, data []byte) error {
	in, err := s.Ingest(context.Background(), desc)
	if err != nil {
		return err
	}
	if in.Done() {
		return in.Close()
	}
	// Bytes of an interrupted try are not worth reading when all are at hand.
	if err := in.Reset(); err != nil {
		return errors.Join(err, in.Close())
	}
	if _, err := in.Write(data); err != nil {
		return errors.Join(err, in.Discard())
	}
	return in.Commit()
}

// PutReader stores what r gives and says how it is found again.
func (s *Store) PutReader(r io.Reader, mediaType string) (image.Descriptor, error) {
	return s.put(r, mediaType, "")
}

// PutExpected is PutReader for what is to have a digest; of anything else nothing is stored.
func (s *Store) PutExpected(r io.Reader, mediaType string, want image.Digest) (image.Descriptor, error) {
	return s.put(r, mediaType, want)
}

func (s *Store) put(r io.Reader, mediaType string, want image.Digest) (image.Descriptor, error) {
	w, err := s.write(r, mediaType)
	if err != nil {
		return image.Descriptor{}, err
	}
	if want != "" && w.Desc.Digest != want {
		return image.Descriptor{}, errors.Join(errdef.New(errdef.Corrupt, "its digest is %s, not %s", w.Desc.Digest, want), w.Abort())
	}
	if err := w.sync(); err != nil {
		return image.Descriptor{}, errors.Join(err, w.Abort())
	}
	if err := w.publish(); err != nil {
		return image.Descriptor{}, err
	}
	return w.Desc, s.SyncNames()
}

// written is a blob whose bytes are all there and that has no name yet. It ends with publish or Abort.
type written struct {
	Desc  image.Descriptor
	store *Store
	path  string
	lock  *disk.Lock // nil when the blob was here already, and after the end
}

// write writes what r gives.
func (s *Store) write(r io.Reader, mediaType string) (*written, error) {
	path := filepath.Join(s.dir, "ingest", disk.TemporaryName())
	// The lock tells the sweep that somebody is at work here.
	lock, err := disk.TakeLock(path)
	if err != nil {
		return nil, wrap("cannot store a blob", err)
	}
	w := &written{store: s, path: path, lock: lock}
	digester := image.NewDigester(image.SHA256)
	if err := disk.Copy(lock.File(), io.TeeReader(r, digester)); err != nil {
		return nil, errdef.As(kindOfWrite(err), errors.Join(wrap("cannot store a blob", err), w.Abort()))
	}
	w.Desc = image.Descriptor{MediaType: mediaType, Digest: digester.Digest(), Size: digester.Size()}
	if s.Has(w.Desc.Digest) {
		return w, w.Abort()
	}
	return w, nil
}

// sync makes the bytes durable.
func (w *written) sync() error {
	if w.lock == nil {
		return nil
	}
	if err := w.lock.File().Sync(); err != nil {
		return errdef.As(kindOfWrite(err), err)
	}
	return nil
}

// publish gives the blob, whose bytes are durable, its name. The name is durable after SyncNames. If we die before the rename the sweep finds
// a leftover; after it the blob is whole.
func (w *written) publish() error {
	if w.lock == nil {
		return nil
	}
	if err := w.store.rename(w.lock.File(), w.path, w.Desc.Digest); err != nil {
		return errors.Join(err, w.Abort())
	}
	w.lock.Unlock()
	w.lock = nil
	return nil
}

// Abort ends the writing and leaves nothing. After publish it does nothing.
func (w *written) Abort() error {
	if w == nil || w.lock == nil {
		return nil
	}
	err := os.Remove(w.path)
	w.lock.Unlock()
	w.lock = nil
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has its name
	}
	return err
}

// SyncNames makes the names of all blobs durable.
func (s *Store) SyncNames() error { return disk.SyncDir(filepath.Join(s.dir, "blobs", image.SHA256)) }

// publish gives the verified bytes in f, which is at path, their name, durably.
func (s *Store) publish(f *os.File, path string, d image.Digest) error {
	if err := f.Sync(); err != nil {
		return errdef.As(kindOfWrite(err), err)
	}
	if err := s.rename(f, path, d); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Join(s.dir, "blobs", d.Algorithm()))
}

// rename gives the bytes in f, which is at path, their name.
func (s *Store) rename(f *os.File, path string, d image.Digest) error {
	name, err := s.path(d)
	if err != nil {
		return err
	}
	err = os.Rename(path, name)
	if errors.Is(err, fs.ErrNotExist) { // the first blob of this algorithm
		if err = os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err = disk.SyncDir(filepath.Join(s.dir, "blobs")); err != nil {
			return err
		}
		err = os.Rename(path, name)
	}
	if err != nil {
		return err
	}
	// Only now: whoever waits for the lock opens the old name for writing until it is gone.
	return f.Chmod(0o444)
}

// Delete removes the blob d; one that is not here is no error.
func (s *Store) Delete(d image.Digest) error {
	path, err := s.path(d)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Walk calls f with every blob, in the order of their names. A file that has no digest for a name is not ours.
func (s *Store) Walk(f func(d image.Digest, info fs.FileInfo) error) error {
	for _, algorithm := range []string{image.SHA256, image.SHA512} {
		entries, err := os.ReadDir(filepath.Join(s.dir, "blobs", algorithm))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, entry := range entries {
			d, err := image.ParseDigest(algorithm + ":" + entry.Name())
			if err != nil {
				continue
			}
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) { // deleted meanwhile
				continue
			}
			if err != nil {
				return err
			}
			if err := f(d, info); err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteIndex replaces index.json, which is derived: others read it, we do not. After a power cut it may be the old one, never half of one.
func (s *Store) WriteIndex(index image.Index) error {
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return disk.Replace(filepath.Join(s.dir, "index.json"), data, 0o644, disk.Whole)
}

// SweepIngest removes what interrupted tries left behind longer than age ago, and what no try can go on with at once, and
// says how many bytes that were.
func (s *Store) SweepIngest(age time.Duration) (freed int64, err error) {
	dir := filepath.Join(s.dir, "ingest")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() ||
			!strings.HasPrefix(entry.Name(), disk.TemporaryPrefix) && time.Since(info.ModTime()) < age {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		lock, err := disk.TryLock(path)
		if errors.Is(err, disk.ErrLocked) {
			continue
		}
		if err != nil {
			return freed, err
		}
		// Removed under its lock: a writer that waits for it notices and makes a new one (disk.TakeLock).
		err = os.Remove(path)
		lock.Unlock()
		if err != nil {
			return freed, err
		}
		freed += info.Size()
	}
	return freed, nil
}

// HoldAdditions keeps the sweep away while blobs or layers are added that no name refers to yet: a pull, a load,
// a build takes it before its first blob and gives it back after the name is written. It is shared.
func (s *Store) HoldAdditions(ctx context.Context) (release func(), err error) {
	return s.holdGC(ctx, unix.LOCK_SH)
}

// HoldSweep waits until nobody adds, and keeps them away. Whoever has HoldAdditions must not ask for it.
func (s *Store) HoldSweep(ctx context.Context) (release func(), err error) {
	return s.holdGC(ctx, unix.LOCK_EX)
}

// TryHoldSweep is HoldSweep for who does not wait; free says whether nobody was adding.
func (s *Store) TryHoldSweep() (release func(), free bool, _ error) {
	lock, err := disk.TryLock(filepath.Join(s.dir, "gc.lock"))
	if errors.Is(err, disk.ErrLocked) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return lock.Unlock, true, nil
}

// holdGC locks gc.lock, a file that is never removed.
func (s *Store) holdGC(ctx context.Context, how int) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "gc.lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = poll(ctx, func() (struct{}, error) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == unix.EWOULDBLOCK || err == unix.EINTR {
			return struct{}{}, disk.ErrLocked
		}
		return struct{}{}, os.NewSyscallError("flock", err)
	})
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot lock the image content in %s: %w", s.dir, err)
	}
	return func() { _ = f.Close() }, nil
}
