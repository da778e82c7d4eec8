package store

import (
	"context"
	"errors"
	"io/fs"
	"syscall"
	"time"

	"berth/internal/disk"
	"berth/internal/image"
)

// memory is what a store remembers while several images are changed one after another. Others change names meanwhile, so that a record is
// only as good as the file that it was read from; documents never change.
type memory struct {
	records    map[string]remembered // by the names of their files
	documents  map[image.Digest]children
	indexIsOld bool
	later      *remains // nil: what an image consisted of goes with it
}

// remains is what images that have been removed consisted of.
type remains struct {
	chains []image.Digest // above comes before below
	blobs  []image.Digest
}

type remembered struct {
	Record
	size    int64
	inode   uint64
	changed time.Time
}

// children are what a document leads to.
type children struct {
	documents []image.Descriptor
	blobs     []image.Digest
	chains    []image.Digest
	layers    []image.Digest // the blobs of the chains' layers, where there are chains; else they are among blobs
}

// Together lets do change images, several one after another: what leads where is read once, and index.json is written once, at the end. If we
// die before, index.json is old, as it is after any change that is cut off.
func (s *Store) Together(do func() error) error {
	s.memory = newMemory()
	return s.finish(do())
}

// RemoveTogether is Together for removing images: their names are gone durably, all at once, before anything that they consisted of goes. roots is
// asked for what is needed then; nil leaves what they consisted of to the sweep that the caller goes on with. If we die in between, the next one
// finds the rest.
func (s *Store) RemoveTogether(ctx context.Context, roots func() (Roots, error), do func() error) error {
	s.memory = newMemory()
	s.memory.later = &remains{}
	err := do()
	return s.finish(errors.Join(err, s.discard(ctx, *s.memory.later, roots)))
}

func newMemory() *memory {
	return &memory{records: map[string]remembered{}, documents: map[image.Digest]children{}}
}

// discard removes what nothing needs of what images have left. Where somebody is adding images just now it is left to the next sweep.
func (s *Store) discard(ctx context.Context, d remains, roots func() (Roots, error)) error {
	if !s.memory.indexIsOld { // no name has gone
		return nil
	}
	if err := disk.SyncDir(s.dir); err != nil || roots == nil {
		return err
	}
	return s.discardNow(ctx, d, roots)
}

func (s *Store) discardNow(ctx context.Context, d remains, roots func() (Roots, error)) error {
	if len(d.chains)+len(d.blobs) == 0 {
		return nil
	}
	release, err := s.holdSweepNow(ctx)
	if err != nil {
		return ctx.Err()
	}
	defer release()
	needed, err := roots()
	if err != nil {
		return err
	}
	m, err := s.mark(needed, nil)
	if err != nil {
		return err
	}
	for _, chain := range d.chains {
		if !m.chains[chain] {
			err = errors.Join(err, s.Layers.Remove(ctx, chain))
		}
	}
	for _, blob := range d.blobs {
		if !m.blobs[blob] {
			err = errors.Join(err, s.Content.Delete(blob))
		}
	}
	return err
}

// Exchange gives all names that stand for the manifest old, and for no index, another one of the same image, which must be in Content; the caller
// holds content.HoldAdditions since before it added it.
func (s *Store) Exchange(old, now image.Descriptor) error {
	lock, err := s.lock()
	if err != nil {
		return err
	}
	defer lock.Unlock()
	all, err := s.List()
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Target.Digest != old.Digest || r.Manifest.Digest != old.Digest {
			continue
		}
		file := s.path(r.fileKey())
		r.Target, r.Manifest = now, now
		if err := s.write(r); err != nil {
			return err
		}
		if r.Name == "" { // its file is named for what it stood for
			if err := removeIfThere(file); err != nil {
				return err
			}
		}
	}
	return s.writeIndex()
}

// Discard removes blobs that nothing needs any more. Where somebody is adding images just now it is left to the next sweep.
func (s *Store) Discard(ctx context.Context, blobs []image.Descriptor, roots func() (Roots, error)) error {
	var d remains
	for _, b := range blobs {
		d.blobs = append(d.blobs, b.Digest)
	}
	return s.discardNow(ctx, d, roots)
}

// finish writes what Together has put off.
func (s *Store) finish(err error) error {
	old := s.memory.indexIsOld
	s.memory = nil
	if !old {
		return err
	}
	lock, lockErr := s.lock()
	if lockErr != nil {
		return errors.Join(err, lockErr)
	}
	defer lock.Unlock()
	return errors.Join(err, s.writeIndex())
}

// recall reads a record, or remembers it. Records are replaced as a whole, so that another one is another file.
func (s *Store) recall(entry fs.DirEntry) (Record, error) {
	path := s.dir + "/" + entry.Name()
	if s.memory == nil {
		return s.read(path)
	}
	info, err := entry.Info()
	if err != nil {
		return Record{}, err
	}
	inode := uint64(0)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	known, ok := s.memory.records[entry.Name()]
	if ok && known.size == info.Size() && known.inode == inode && known.changed.Equal(info.ModTime()) {
		return known.Record, nil
	}
	r, err := s.read(path)
	if err == nil {
		s.memory.records[entry.Name()] = remembered{r, info.Size(), inode, info.ModTime()}
	}
	return r, err
}
