package store

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
)

// List is a manifest list in the making, of "manifest create" until "manifest push --purge" or "manifest rm": a file in manifests/,
// named as the images' are.
type List struct {
	Entries []ListEntry
}

// ListEntry is a manifest that a list names, and where it is.
type ListEntry struct {
	Ref string // canonical, with its registry
	image.Descriptor
}

func (s *Store) listPath(ref reference.Reference) string {
	return filepath.Join(filepath.Dir(s.dir), "manifests", fileName(key(ref)))
}

// ReadList reads a list; one that there is not is errdef.NotFound.
func (s *Store) ReadList(ref reference.Reference) (List, error) {
	var l List
	data, err := os.ReadFile(s.listPath(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return l, errdef.New(errdef.NotFound, "No such manifest: %s", ref.Familiar())
	}
	if err == nil {
		err = json.Unmarshal(data, &l)
	}
	return l, err
}

// ChangeList lets change make a list out of the one that there is, if there is one.
func (s *Store) ChangeList(ref reference.Reference, change func(l *List, exists bool) error) error {
	lock, err := s.lock()
	if err != nil {
		return err
	}
	defer lock.Unlock()
	l, err := s.ReadList(ref)
	if err != nil && !errdef.Is(err, errdef.NotFound) {
		return err
	}
	if err := change(&l, err == nil); err != nil {
		return err
	}
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	path := s.listPath(ref)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return disk.Replace(path, data, 0o600, disk.Durable)
}

// RemoveList removes a list.
func (s *Store) RemoveList(ref reference.Reference) error {
	err := os.Remove(s.listPath(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return errdef.New(errdef.NotFound, "No such manifest: %s", ref.Familiar())
	}
	return err
}

// Index is the list as registries keep it.
func (l List) Index() image.Index {
	x := image.Index{SchemaVersion: 2, MediaType: image.MediaTypeDockerList, Manifests: []image.Descriptor{}}
	for _, e := range l.Entries {
		if e.MediaType == image.MediaTypeManifest {
			x.MediaType = image.MediaTypeIndex // docker's list may name docker's manifests alone
		}
		x.Manifests = append(x.Manifests, e.Descriptor)
	}
	return x
}
