package store

import (
	"errors"
	"io/fs"
	"syscall"
	"time"

	"berth/internal/image"
)

// memory is what a store remembers while several images are changed one after another. Others change names meanwhile, so that a record is
// only as good as the file that it was read from; documents never change.
type memory struct {
	records    map[string]remembered // by the names of their files
	documents  map[image.Digest]children
	indexIsOld bool
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
	s.memory = &memory{map[string]remembered{}, map[image.Digest]children{}, false}
	err := do()
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
