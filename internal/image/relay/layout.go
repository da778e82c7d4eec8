package relay

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"

	"golang.org/x/sys/unix"
)

const (
	refName       = "org.opencontainers.image.ref.name"
	layoutVersion = `{"imageLayoutVersion":"1.0.0"}`
)

func blobPath(d image.Digest) string { return "blobs/" + d.Algorithm() + "/" + d.Hex() }

// chosen is what a name means in an index: the entry with that name, or without a name the only one.
func chosen(index image.Index, name string) (image.Descriptor, error) {
	var found []image.Descriptor
	for _, d := range index.Manifests {
		if name == "" || d.Annotations[refName] == name || d.Annotations["io.containerd.image.name"] == name {
			found = append(found, d)
		}
	}
	found = slices.CompactFunc(found, func(a, b image.Descriptor) bool { return a.Digest == b.Digest })
	switch {
	case len(found) == 0 && name == "":
		return image.Descriptor{}, errdef.New(errdef.NotFound, "it has no image")
	case len(found) == 0:
		return image.Descriptor{}, errdef.New(errdef.NotFound, "it has no image of the name %q", name)
	case len(found) > 1:
		return image.Descriptor{}, errdef.Hint(errdef.New(errdef.Invalid, "it has %d images", len(found)), "append a colon and the name of one of them")
	}
	return found[0], nil
}

// readFile reads a file of a source that may be hostile: no link, no device, not too large.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errdef.New(errdef.Invalid, "%s has more than %d bytes", path, limit)
	}
	return data, err
}

func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errdef.New(errdef.NotFound, "there is no %s", path)
	}
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(err, errdef.New(errdef.Invalid, "%s is not a regular file", path), f.Close())
	}
	return f, nil
}

func openAt(path string, offset int64) (io.ReadCloser, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// layout is an OCI layout in a directory.
type layout struct {
	dir, ref string
	lock     *disk.Lock // of a destination
}

func openLayout(dir, name string) (layout, error) {
	_, err := readFile(filepath.Join(dir, "index.json"), image.MaxManifest)
	return layout{dir: dir, ref: name}, err
}

// makeLayout makes what is missing of a layout.
func makeLayout(dir, name string) (layout, error) {
	l := layout{dir: dir, ref: name}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", image.SHA256), 0o755); err != nil {
		return l, err
	}
	var err error
	if l.lock, err = disk.TakeLock(filepath.Join(dir, ".lock")); err != nil {
		return l, err
	}
	err = disk.Create(filepath.Join(dir, "oci-layout"), []byte(layoutVersion), 0o644, disk.Durable)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return l, errors.Join(err, l.close())
	}
	return l, nil
}

func (l layout) close() error {
	if l.lock == nil {
		return nil
	}
	err := os.Remove(filepath.Join(l.dir, ".lock")) // while it is held, so that nobody has a lock without a name
	l.lock.Unlock()
	return err
}

func (l layout) parallel() int { return 3 }

func (l layout) path(d image.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", err
	}
	return filepath.Join(l.dir, blobPath(d)), nil
}

func (l layout) top(ctx context.Context) (image.Descriptor, []byte, error) {
	index, err := l.index()
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	return topOf(ctx, l, index, l.ref)
}

// topOf gets what a name of an index means.
func topOf(ctx context.Context, s source, index image.Index, name string) (image.Descriptor, []byte, error) {
	d, err := chosen(index, name)
	if err != nil {
		return d, nil, err
	}
	c := copier{from: s}
	return c.document(ctx, image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
}

func (l layout) index() (image.Index, error) {
	raw, err := readFile(filepath.Join(l.dir, "index.json"), image.MaxManifest)
	if err != nil {
		return image.Index{}, err
	}
	return image.ParseIndex(raw, image.MediaTypeIndex)
}

func (l layout) document(_ context.Context, d image.Descriptor) ([]byte, error) {
	path, err := l.path(d.Digest)
	if err != nil {
		return nil, err
	}
	return readFile(path, image.MaxManifest)
}

func (l layout) blob(_ context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error) {
	path, err := l.path(d.Digest)
	if err != nil {
		return nil, err
	}
	return openAt(path, offset)
}

func (l layout) putBlob(_ context.Context, d image.Descriptor, open func(int64) (io.ReadCloser, error)) error {
	path, err := l.path(d.Digest)
	if err != nil {
		return err
	}
	return putFile(path, d, open)
}

// putFile makes a file with a blob, unless it is there with that size.
func putFile(path string, d image.Descriptor, open func(int64) (io.ReadCloser, error)) error {
	if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() && st.Size() == d.Size {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	r, err := open(0)
	if err != nil {
		return err
	}
	defer r.Close()
	tmp := filepath.Join(filepath.Dir(path), disk.TemporaryName())
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return disk.SyncDir(filepath.Dir(path))
}

func (l layout) putDocument(_ context.Context, d image.Descriptor, raw []byte) error {
	path, err := l.path(d.Digest)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return disk.Replace(path, raw, 0o644, disk.Durable)
}

func (l layout) name(_ context.Context, d image.Descriptor, _ []byte) error {
	index, err := l.index()
	if errdef.Is(err, errdef.NotFound) {
		index, err = image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex}, nil
	}
	if err != nil {
		return err
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(have image.Descriptor) bool {
		return have.Annotations[refName] == l.ref && (l.ref != "" || have.Digest == d.Digest)
	})
	index.Manifests = append(index.Manifests, named(d, l.ref))
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return disk.Replace(filepath.Join(l.dir, "index.json"), raw, 0o644, disk.Durable)
}

func named(d image.Descriptor, name string) image.Descriptor {
	d = image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	if name != "" {
		d.Annotations = map[string]string{refName: name}
	}
	return d
}

// directory is a directory of skopeo's "dir:": manifest.json, HEX for each blob, HEX.manifest.json for what an index names, and version.
type directory struct{ dir string }

const dirVersion = "Directory Transport Version: 1.1\n"

// makeDirectory makes the directory. What is in it already must be of that kind.
func makeDirectory(dir string) (directory, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return directory{}, err
	}
	if _, err := os.Stat(filepath.Join(dir, "version")); len(entries) > 0 && err != nil {
		return directory{}, errdef.New(errdef.Conflict, "%s is not empty, and has no image", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return directory{}, err
	}
	return directory{dir}, disk.Replace(filepath.Join(dir, "version"), []byte(dirVersion), 0o644, disk.Durable)
}

func (d directory) close() error  { return nil }
func (d directory) parallel() int { return 3 }

func (d directory) path(of image.Digest, suffix string) (string, error) {
	if err := of.Validate(); err != nil {
		return "", err
	}
	return filepath.Join(d.dir, of.Hex()+suffix), nil
}

const instanceSuffix = ".manifest.json"

func (d directory) top(context.Context) (image.Descriptor, []byte, error) {
	raw, err := readFile(filepath.Join(d.dir, "manifest.json"), image.MaxManifest)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	mediaType, err := image.MediaTypeOf(raw, "")
	return image.Descriptor{MediaType: mediaType, Digest: image.DigestOf(raw), Size: int64(len(raw))}, raw, err
}

func (d directory) document(_ context.Context, of image.Descriptor) ([]byte, error) {
	path, err := d.path(of.Digest, instanceSuffix)
	if err != nil {
		return nil, err
	}
	return readFile(path, image.MaxManifest)
}

func (d directory) blob(_ context.Context, of image.Descriptor, offset int64) (io.ReadCloser, error) {
	path, err := d.path(of.Digest, "")
	if err != nil {
		return nil, err
	}
	return openAt(path, offset)
}

func (d directory) putBlob(_ context.Context, of image.Descriptor, open func(int64) (io.ReadCloser, error)) error {
	path, err := d.path(of.Digest, "")
	if err != nil {
		return err
	}
	return putFile(path, of, open)
}

func (d directory) putDocument(_ context.Context, of image.Descriptor, raw []byte) error {
	path, err := d.path(of.Digest, instanceSuffix)
	if err != nil {
		return err
	}
	return disk.Replace(path, raw, 0o644, disk.Durable)
}

// name gives the document the name manifest.json; as one of an index it is not needed then.
func (d directory) name(_ context.Context, of image.Descriptor, raw []byte) error {
	if err := disk.Replace(filepath.Join(d.dir, "manifest.json"), raw, 0o644, disk.Durable); err != nil {
		return err
	}
	path, err := d.path(of.Digest, instanceSuffix)
	if err != nil {
		return err
	}
	return os.Remove(path)
}
