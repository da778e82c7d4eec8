package relay

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/policy"
	"berth/internal/image/reference"
	"berth/internal/image/unpack"

	"golang.org/x/sys/unix"
)

// maxEntries is far more than an archive has.
const maxEntries = 200_000

// archive is a tar as a source. Its paths are keys, and are never used as paths.
type archive struct {
	file  *os.File
	place place
	at    map[string]span // regular files by their clean path
	links map[string]string
	blobs map[image.Digest]span // of docker's archive
}

// span is where a file is in the archive.
type span struct{ offset, size int64 }

// openArchive finds out what is in an archive. A compressed one is unpacked into a file without a name.
func openArchive(ctx context.Context, p place) (*archive, error) {
	f, err := openFile(p.path)
	if err != nil {
		return nil, err
	}
	a := &archive{file: f, place: p, at: map[string]span{}, links: map[string]string{}}
	if err := a.scan(ctx); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

func (a *archive) close() error { return a.file.Close() }

func (a *archive) scan(ctx context.Context) error {
	plain, compressed, err := unpack.Decompress(a.file)
	if err != nil {
		return err
	}
	if compressed != "" {
		tmp, err := os.OpenFile(os.TempDir(), os.O_RDWR|unix.O_TMPFILE, 0o600)
		if err == nil {
			_, err = io.Copy(tmp, plain)
		}
		plain.Close()
		if err != nil {
			return err
		}
		_ = a.file.Close()
		a.file = tmp
	} else {
		plain.Close()
	}
	if _, err := a.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	t := tar.NewReader(a.file) // which seeks over what is not read
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return errdef.As(errdef.Cancelled, context.Cause(ctx))
		}
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return errdef.New(errdef.Corrupt, "the archive cannot be read: %w", err)
		}
		if n == maxEntries {
			return errdef.New(errdef.Invalid, "the archive has more than %d entries", maxEntries)
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg, '\x00':
			at, err := a.file.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			delete(a.links, name)
			a.at[name] = span{at, h.Size}
		case tar.TypeSymlink:
			a.links[name] = path.Join("/", path.Dir(name), h.Linkname)[1:]
		case tar.TypeLink:
			a.links[name] = path.Clean("/" + h.Linkname)[1:]
		}
	}
}

func (a *archive) section(s span, offset int64) io.ReadCloser {
	return io.NopCloser(io.NewSectionReader(a.file, s.offset+offset, s.size-offset))
}

func (a *archive) find(name string) (span, error) {
	p := path.Clean("/" + name)[1:]
	for range 16 {
		if s, ok := a.at[p]; ok {
			return s, nil
		}
		next, ok := a.links[p]
		if !ok {
			break
		}
		p = next
	}
	return span{}, errdef.New(errdef.NotFound, "the archive has no file %q", name)
}

func (a *archive) read(name string) ([]byte, error) {
	s, err := a.find(name)
	if err != nil {
		return nil, err
	}
	if s.size > image.MaxManifest {
		return nil, errdef.New(errdef.Invalid, "%q of the archive has %d bytes; at most %d are read", name, s.size, image.MaxManifest)
	}
	return io.ReadAll(a.section(s, 0))
}

func (a *archive) top(ctx context.Context) (image.Descriptor, []byte, error) {
	if a.place.transport == policy.DockerArchive {
		return a.dockerTop(ctx)
	}
	raw, err := a.read("index.json")
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	index, err := image.ParseIndex(raw, image.MediaTypeIndex)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	return topOf(ctx, a, index, a.place.name)
}

// dockerEntry is one image of docker's manifest.json.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerTop makes a manifest of what docker's manifest.json names: the archive has none of its own.
func (a *archive) dockerTop(ctx context.Context) (image.Descriptor, []byte, error) {
	var none image.Descriptor
	data, err := a.read("manifest.json")
	if err != nil {
		return none, nil, err
	}
	var entries []dockerEntry
	if err := json.Unmarshal(data, &entries); err != nil {
		return none, nil, errdef.New(errdef.Invalid, "its manifest.json cannot be read: %w", err)
	}
	entry, err := a.entry(entries)
	if err != nil {
		return none, nil, err
	}
	a.blobs = map[image.Digest]span{}
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest, Layers: []image.Descriptor{}}
	if m.Config, err = a.digest(ctx, entry.Config); err != nil {
		return none, nil, err
	}
	m.Config.MediaType = image.MediaTypeConfig
	for _, name := range entry.Layers {
		l, err := a.digest(ctx, name)
		if err != nil {
			return none, nil, err
		}
		m.Layers = append(m.Layers, l)
	}
	raw, err := json.Marshal(m)
	return image.Descriptor{MediaType: m.MediaType, Digest: image.DigestOf(raw), Size: int64(len(raw))}, raw, err
}

func (a *archive) entry(entries []dockerEntry) (dockerEntry, error) {
	if a.place.name == "" {
		if len(entries) != 1 {
			return dockerEntry{}, errdef.Hint(errdef.New(errdef.Invalid, "it has %d images", len(entries)), "append a colon and the name of one of them")
		}
		return entries[0], nil
	}
	want, err := reference.Parse(a.place.name)
	if err != nil {
		return dockerEntry{}, err
	}
	for _, e := range entries {
		for _, tag := range e.RepoTags {
			if ref, err := reference.Parse(tag); err == nil && ref == want {
				return e, nil
			}
		}
	}
	return dockerEntry{}, errdef.New(errdef.NotFound, "it has no image of the name %q", a.place.name)
}

// digest reads a file of docker's archive to find out what it is.
func (a *archive) digest(ctx context.Context, name string) (image.Descriptor, error) {
	s, err := a.find(name)
	if err != nil {
		return image.Descriptor{}, err
	}
	first := make([]byte, min(s.size, 4))
	if _, err := a.file.ReadAt(first, s.offset); err != nil {
		return image.Descriptor{}, errdef.As(errdef.Corrupt, err)
	}
	digester := image.NewDigester(image.SHA256)
	if _, err := io.Copy(digester, a.section(s, 0)); err != nil {
		return image.Descriptor{}, err
	}
	if ctx.Err() != nil {
		return image.Descriptor{}, errdef.As(errdef.Cancelled, context.Cause(ctx))
	}
	d := image.Descriptor{MediaType: image.MediaTypeLayer, Digest: digester.Digest(), Size: s.size}
	switch {
	case bytes.HasPrefix(first, []byte{0x1f, 0x8b}):
		d.MediaType = image.MediaTypeLayerGzip
	case bytes.HasPrefix(first, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d.MediaType = image.MediaTypeLayerZstd
	}
	a.blobs[d.Digest] = s
	return d, nil
}

func (a *archive) document(_ context.Context, d image.Descriptor) ([]byte, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, err
	}
	return a.read(blobPath(d.Digest))
}

func (a *archive) blob(_ context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, err
	}
	s, ok := a.blobs[d.Digest]
	if !ok {
		var err error
		if s, err = a.find(blobPath(d.Digest)); err != nil {
			return nil, err
		}
	}
	if offset > s.size {
		return nil, errdef.New(errdef.Corrupt, "blob %s has %d bytes, fewer than announced", d.Digest, s.size)
	}
	return a.section(s, offset), nil
}

// newArchive is a tar as a destination: written beside its name, and renamed when it is whole.
type newArchive struct {
	place place
	tmp   string
	file  *os.File
	tar   *tar.Writer
	done  map[string]bool
}

func makeArchive(p place) (*newArchive, error) {
	if _, err := os.Lstat(p.path); err == nil {
		return nil, errdef.New(errdef.Conflict, "%s exists", p.path)
	}
	if p.transport == policy.DockerArchive && p.name != "" {
		if _, err := reference.Parse(p.name); err != nil {
			return nil, err
		}
	}
	w := &newArchive{place: p, tmp: filepath.Join(filepath.Dir(p.path), disk.TemporaryName()), done: map[string]bool{}}
	f, err := os.OpenFile(w.tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	w.file, w.tar = f, tar.NewWriter(f)
	return w, w.write("oci-layout", int64(len(layoutVersion)), strings.NewReader(layoutVersion))
}

func (w *newArchive) parallel() int { return 1 }

func (w *newArchive) close() error {
	err := w.file.Close()
	if w.tmp != "" {
		err = os.Remove(w.tmp)
	}
	return err
}

func (w *newArchive) write(name string, size int64, r io.Reader) error {
	if w.done[name] {
		return nil
	}
	w.done[name] = true
	err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)})
	if err == nil {
		_, err = io.Copy(w.tar, r)
	}
	return err
}

func (w *newArchive) putBlob(_ context.Context, d image.Descriptor, open func(int64) (io.ReadCloser, error)) error {
	r, err := open(0)
	if err != nil {
		return err
	}
	defer r.Close()
	return w.write(blobPath(d.Digest), d.Size, r)
}

func (w *newArchive) putDocument(_ context.Context, d image.Descriptor, raw []byte) error {
	return w.write(blobPath(d.Digest), int64(len(raw)), bytes.NewReader(raw))
}

func (w *newArchive) name(_ context.Context, d image.Descriptor, raw []byte) error {
	entry := named(d, w.place.name)
	if w.place.transport == policy.DockerArchive {
		data, full, err := w.docker(d, raw)
		if err != nil {
			return err
		}
		if err := w.write("manifest.json", int64(len(data)), bytes.NewReader(data)); err != nil {
			return err
		}
		if full != "" {
			entry.Annotations["io.containerd.image.name"] = full
		}
	}
	index, err := json.Marshal(image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: []image.Descriptor{entry}})
	if err != nil {
		return err
	}
	if err := w.write("index.json", int64(len(index)), bytes.NewReader(index)); err != nil {
		return err
	}
	if err := errors.Join(w.tar.Close(), w.file.Sync()); err != nil {
		return err
	}
	if err := os.Rename(w.tmp, w.place.path); err != nil {
		return err
	}
	w.tmp = ""
	return disk.SyncDir(filepath.Dir(w.place.path))
}

// docker is docker's manifest.json.
func (w *newArchive) docker(d image.Descriptor, raw []byte) (data []byte, full string, err error) {
	if image.IsIndex(d.MediaType) {
		return nil, "", errdef.New(errdef.Unsupported, "docker's archive holds no image of several platforms")
	}
	m, err := image.ParseManifest(raw, d.MediaType)
	if err != nil {
		return nil, "", err
	}
	if err := m.CheckRunnable(); err != nil {
		return nil, "", err
	}
	e := dockerEntry{Config: blobPath(m.Config.Digest), RepoTags: []string{}}
	if w.place.name != "" {
		ref, err := reference.Parse(w.place.name)
		if err != nil {
			return nil, "", err
		}
		e.RepoTags, full = []string{ref.Familiar()}, ref.String()
	}
	for _, l := range m.Layers {
		e.Layers = append(e.Layers, blobPath(l.Digest))
	}
	data, err = json.Marshal([]dockerEntry{e})
	return data, full, err
}
