// Package store knows the images by their names.
//
//	images/NAME        one JSON file (Record) for a name: the truth. "/" in the name is "+" in the file's
//	images/sha256:HEX  the same for an image whose name another one took: docker's <none>
//	images/.lock       flock of whoever changes names
//	content/           the blobs (image/content); its index.json is derived from images/ and never read
//	layers/            the unpacked layers (image/layer)
//
// A name is written when everything it needs is there, and what no name and no container needs is found by mark and
// sweep; nothing is counted. Locks are taken in the order content's gc.lock, images/.lock, a layer's lock.
// Reading takes none.
//
// The package is on the way to every container: it imports neither decompressors nor anything of the network. It
// fetches nothing and unpacks nothing.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/content"
	"berth/internal/image/layer"
	"berth/internal/image/reference"
	"berth/internal/ownjson"
)

// Store is the images of one data directory.
type Store struct {
	dir     string
	Content *content.Store
	Layers  *layer.Store
	// DropBlobs says that the blobs of layers are not kept once these are unpacked, as far as it is known where they can be fetched again (Release).
	DropBlobs bool
	// Fetch gets a blob again from a repository, into Content; nil cannot.
	Fetch  func(ctx context.Context, repository string, d image.Descriptor) error
	memory *memory // while several images are changed one after another
}

// Record is what a name's file says.
type Record struct {
	Name     string           `json:"name,omitempty"` // the canonical reference; "" for <none>
	Target   image.Descriptor `json:"target"`         // what the name stands for: an index or a manifest
	Manifest image.Descriptor `json:"manifest"`       // the manifest chosen for this host
	ID       image.Digest     `json:"id"`             // of the config: docker's image ID
	Updated  time.Time        `json:"updated"`
}

// Reference is the record's name; false for <none>.
func (r Record) Reference() (reference.Reference, bool) {
	if r.Name == "" {
		return reference.Reference{}, false
	}
	ref, err := reference.Parse(r.Name)
	return ref, err == nil
}

// Image is an image with all that is needed to run it.
type Image struct {
	Record
	Manifest image.Manifest
	Config   image.Image
	Chain    []image.Digest // chain IDs, the lowest layer's first; for layer.Store.Stack
}

// Open opens the images in dataRoot and makes what is missing. Where all is there, nothing is written.
func Open(dataRoot string) (*Store, error) {
	blobs, err := content.Open(filepath.Join(dataRoot, "content"))
	if err != nil {
		return nil, err
	}
	layers := layer.Open(filepath.Join(dataRoot, "layers"))
	blobs.Made = layers.Blob
	return &Store{dir: filepath.Join(dataRoot, "images"), Content: blobs, Layers: layers}, nil
}

// key is what a reference is kept under: with a digest the tag says nothing.
func key(ref reference.Reference) string {
	if ref.Digest != "" {
		ref.Tag = ""
	}
	return ref.String()
}

// fileName makes a name of at most 255 bytes out of a key. "+" and "~" are in no reference.
func fileName(key string) string {
	name := strings.ReplaceAll(key, "/", "+")
	if len(name) > 200 {
		name = name[:100] + "~" + image.DigestOf([]byte(key)).Hex()
	}
	return name
}

func (s *Store) path(key string) string { return s.dir + "/" + fileName(key) }

// fileKey is the key of a record: its name or, for <none>, its target's digest.
func (r Record) fileKey() string {
	if r.Name == "" {
		return string(r.Target.Digest)
	}
	return r.Name
}

const maxRecord = 64 << 10

func (s *Store) read(path string) (Record, error) {
	var r Record
	data, err := disk.Read(path)
	if err != nil {
		return r, err
	}
	if err := ownjson.Unmarshal(data, &r); err != nil {
		return r, errdef.New(errdef.Corrupt, "cannot read %s: %w", path, err)
	}
	return r, nil
}

// List returns the records of all images, sorted by name, <none> first. An image without a name is left out if
// its target has one: it was between two steps when somebody died.
func (s *Store) List() ([]Record, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []Record
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		r, err := s.recall(entry)
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	named := map[image.Digest]bool{}
	for _, r := range all {
		if r.Name != "" {
			named[r.Target.Digest] = true
		}
	}
	kept := all[:0]
	for _, r := range all {
		if r.Name != "" || !named[r.Target.Digest] {
			kept = append(kept, r)
		}
	}
	sort.Slice(kept, func(i, j int) bool {
		return kept[i].fileKey() < kept[j].fileKey() && (kept[i].Name == "") == (kept[j].Name == "") || kept[i].Name == "" && kept[j].Name != ""
	})
	return kept, nil
}

// Find returns the record of a name, a name with a digest, or an image ID, which may be shortened.
func (s *Store) Find(nameOrID string) (Record, error) {
	ref, parseErr := reference.Parse(nameOrID)
	fullID := len(nameOrID) == len("sha256:")+64 && strings.HasPrefix(nameOrID, "sha256:")
	if parseErr == nil && !fullID {
		r, err := s.read(s.path(key(ref)))
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
	}
	prefix := strings.TrimPrefix(nameOrID, "sha256:")
	byID := prefix != "" && isHex(prefix)
	if parseErr != nil && !byID {
		return Record{}, parseErr
	}
	if ref.Digest == "" && !byID {
		return Record{}, notFound(nameOrID)
	}
	all, err := s.List()
	if err != nil {
		return Record{}, err
	}
	if parseErr == nil && ref.Digest != "" {
		for _, r := range all {
			have, ok := r.Reference()
			if ok && have.Repository() == ref.Repository() && (r.Target.Digest == ref.Digest || r.Manifest.Digest == ref.Digest) {
				return r, nil
			}
		}
		return Record{}, notFound(nameOrID)
	}
	return byPrefix(all, nameOrID, prefix)
}

// byPrefix finds the image whose ID, or whose target's or manifest's digest, begins with prefix.
func byPrefix(all []Record, asked, prefix string) (Record, error) {
	var found *Record
	for i := range all {
		r := &all[i]
		if !strings.HasPrefix(r.ID.Hex(), prefix) && !strings.HasPrefix(r.Target.Digest.Hex(), prefix) && !strings.HasPrefix(r.Manifest.Digest.Hex(), prefix) {
			continue
		}
		if found != nil && found.ID != r.ID {
			err := errdef.New(errdef.Invalid, "image ID %s is not of one image only", asked)
			return Record{}, errdef.Hint(err, "give more of its digits")
		}
		if found == nil {
			found = r
		}
	}
	if found == nil {
		return Record{}, notFound(asked)
	}
	return *found, nil
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == "" && len(s) <= 64
}

// notFound is docker's error, in which a name has its tag.
func notFound(nameOrID string) error {
	if ref, err := reference.Parse(nameOrID); err == nil {
		nameOrID = ref.Familiar()
	}
	return errdef.Hint(errdef.New(errdef.NotFound, "No such image: %s", nameOrID), "see what there is with \"berth images\", or get it with \"berth pull %s\"", nameOrID)
}

// Resolve is Find with all that is needed to run the image.
func (s *Store) Resolve(nameOrID string) (Image, error) {
	r, err := s.Find(nameOrID)
	if err != nil {
		return Image{}, err
	}
	return s.Load(r)
}

// Load reads the image of a record.
func (s *Store) Load(r Record) (Image, error) {
	img, err := s.load(r.Manifest)
	if err != nil {
		return Image{}, fmt.Errorf("cannot read image %s: %w", r.fileKey(), err)
	}
	r.ID = img.ID
	img.Record = r
	return img, nil
}

func (s *Store) load(d image.Descriptor) (Image, error) {
	var img Image
	data, err := s.Content.ReadAll(d.Digest, image.MaxManifest)
	if err != nil {
		return img, err
	}
	if img.Manifest, err = image.ParseManifest(data, d.MediaType); err != nil {
		return img, err
	}
	if err := img.Manifest.CheckRunnable(); err != nil {
		return img, err
	}
	if data, err = s.Content.ReadAll(img.Manifest.Config.Digest, image.MaxConfig); err != nil {
		return img, err
	}
	if img.Config, err = image.ParseConfig(data); err != nil {
		return img, err
	}
	if err := image.CheckLayers(img.Manifest, img.Config); err != nil {
		return img, err
	}
	img.ID = img.Manifest.Config.Digest
	img.Chain = image.ChainIDs(img.Config.RootFS.DiffIDs)
	return img, nil
}

// lock keeps other changes of names away.
func (s *Store) lock() (*disk.Lock, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	return disk.TakeLock(filepath.Join(s.dir, ".lock"))
}

// Put gives the image a name, which may be "" for none. Manifest and config must be in Content; the caller holds
// content.HoldAdditions since before it added them. An image that had the name keeps its record as <none>.
func (s *Store) Put(name string, target, manifest image.Descriptor) (Record, error) {
	fail := func(err error) (Record, error) {
		return Record{}, fmt.Errorf("cannot store image %q: %w", name, err)
	}
	r := Record{Target: target, Manifest: manifest, Updated: time.Now().UTC()}
	// Data that a descriptor carries itself is not needed twice.
	r.Target.Data, r.Manifest.Data = nil, nil
	if name != "" {
		ref, err := reference.Parse(name)
		if err != nil {
			return Record{}, err
		}
		r.Name = key(ref)
	}
	img, err := s.load(manifest)
	if err != nil {
		return fail(err)
	}
	r.ID = img.ID
	// Of what builds have made, only the contents are durable so far.
	if err := errors.Join(s.Content.SyncNames(), s.Layers.SyncNames()); err != nil {
		return fail(err)
	}
	lock, err := s.lock()
	if err != nil {
		return fail(err)
	}
	defer lock.Unlock()
	if err := s.put(r); err != nil {
		return fail(err)
	}
	return r, s.writeIndex()
}

// put writes a record, with the lock held. First the old image gets its record without a name: whoever dies in
// between leaves one too many, which List leaves out.
func (s *Store) put(r Record) error {
	if r.Name != "" {
		old, err := s.read(s.path(r.Name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case old.ID != r.ID:
			old.Name = ""
			if err := s.write(old); err != nil {
				return err
			}
		}
	}
	if err := s.write(r); err != nil {
		return err
	}
	if r.Name == "" {
		return nil
	}
	// Now it has a name; a record without one is of no use any more.
	return removeIfThere(s.path(string(r.Target.Digest)))
}

func (s *Store) write(r Record) error {
	data, err := ownjson.Marshal(r)
	if err != nil {
		return err
	}
	if len(data) > maxRecord {
		return errdef.New(errdef.Invalid, "the descriptors of the image have %d bytes; at most %d are kept", len(data), maxRecord)
	}
	return disk.Replace(s.path(r.fileKey()), data, 0o600, disk.Durable)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Tag gives the image src the further name dst.
func (s *Store) Tag(src, dst string) (Record, error) {
	ref, err := reference.Parse(dst)
	if err != nil {
		return Record{}, err
	}
	if ref.Digest != "" {
		return Record{}, errdef.New(errdef.Invalid, "cannot tag %q: a name with a digest cannot be given", dst)
	}
	lock, err := s.lock()
	if err != nil {
		return Record{}, err
	}
	defer lock.Unlock()
	r, err := s.Find(src)
	if err != nil {
		return Record{}, err
	}
	r.Name, r.Updated = key(ref), time.Now().UTC()
	if err := s.put(r); err != nil {
		return Record{}, fmt.Errorf("cannot tag %q as %q: %w", src, dst, err)
	}
	return r, s.writeIndex()
}

// writeIndex derives content/index.json, for other tools. The lock is held.
func (s *Store) writeIndex() error {
	if s.memory != nil {
		s.memory.indexIsOld = true
		return nil
	}
	all, err := s.List()
	if err != nil {
		return err
	}
	index := image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: []image.Descriptor{}}
	for _, r := range all {
		d := r.Target
		if ref, ok := r.Reference(); ok {
			annotations := map[string]string{"io.containerd.image.name": r.Name}
			for k, v := range d.Annotations {
				annotations[k] = v
			}
			if ref.Tag != "" {
				annotations["org.opencontainers.image.ref.name"] = ref.Tag
			}
			d.Annotations = annotations
		}
		index.Manifests = append(index.Manifests, d)
	}
	return s.Content.WriteIndex(index)
}

// holdSweepNow takes the sweep's lock if nobody is adding right now.
func (s *Store) holdSweepNow(ctx context.Context) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	return s.Content.HoldSweep(ctx)
}
