package build

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"berth/internal/build/cache"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/archive"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
	"berth/internal/image/unpack"
)

// A cache that is shared is an image manifest whose config is a cacheDocument and whose layers are the blobs of steps, packed; or, inline, an
// image with that document in an annotation. It lies in a registry, or in a directory that is an OCI layout. What it says is believed as much as an
// image from there would be: a layer is unpacked under its own digest, and whoever may write there says what a step has come to.
const (
	mediaTypeCache   = "application/vnd.berth.buildcache.v1+json"
	inlineAnnotation = "io.berth.buildcache.v1"
)

// cacheDocument says which steps have come to which layers.
type cacheDocument struct {
	Records []sharedRecord `json:"records"`
}

type sharedRecord struct {
	Key     string       `json:"key"`
	Parent  image.Digest `json:"parent,omitempty"` // a chain ID
	DiffID  image.Digest `json:"diffID"`
	Layer   int          `json:"layer"` // its place among the manifest's
	Created time.Time    `json:"created"`
	What    string       `json:"what,omitempty"`
}

// maxCacheDocument is in bytes: room for some 100,000 steps.
const maxCacheDocument = 64 << 20

// CacheSource is where steps are looked for that this machine has not made. One of Ref and Dir is set.
type CacheSource struct {
	Ref, Dir string
	Tag      string // in Dir; "" is latest
	Digest   image.Digest
}

func (c CacheSource) String() string {
	if c.Ref != "" {
		return c.Ref
	}
	return c.Dir
}

// CacheTarget is where the steps of this build are kept for other machines.
type CacheTarget struct {
	CacheSource
	Inline      bool // in the image itself
	All         bool // of all stages, and not only of the result
	IgnoreError bool
	Compression string
}

// imported is a cache of others.
type imported struct {
	records map[string]importedRecord
	open    func(context.Context, image.Descriptor) (io.ReadCloser, error)
}

type importedRecord struct {
	sharedRecord
	blob image.Descriptor
}

// usedRecord is a step of this build.
type usedRecord struct{ cache.Record }

// note remembers that a step belongs to this build.
func (s *session) note(key string, r cache.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[key] = usedRecord{r}
}

// importCaches reads what the caches of others have. One that cannot be read is only said: the build does without.
func (s *session) importCaches(ctx context.Context) {
	for _, from := range s.CacheFrom {
		v := s.Progress.Begin("importing cache manifest from %s", from)
		all, err := s.importCache(ctx, from)
		if err != nil {
			v.Failed(err)
			continue
		}
		s.imported = append(s.imported, all...)
		v.Done()
	}
}

func (s *session) importCache(ctx context.Context, from CacheSource) ([]*imported, error) {
	read, open, top, err := s.cacheReader(ctx, from)
	if err != nil {
		return nil, err
	}
	raw, err := read(ctx, top, image.MaxManifest)
	if err != nil {
		return nil, err
	}
	manifests := []image.Descriptor{top}
	if image.IsIndex(top.MediaType) {
		index, err := image.ParseIndex(raw, top.MediaType)
		if err != nil {
			return nil, err
		}
		manifests = index.Manifests
	}
	var all []*imported
	for _, d := range manifests {
		if d.Digest != top.Digest {
			if raw, err = read(ctx, d, image.MaxManifest); err != nil {
				return nil, err
			}
		}
		m, err := image.ParseManifest(raw, d.MediaType)
		if err != nil {
			return nil, err
		}
		document := []byte(m.Annotations[inlineAnnotation])
		if m.Config.MediaType == mediaTypeCache {
			if document, err = read(ctx, m.Config, maxCacheDocument); err != nil {
				return nil, err
			}
		}
		if len(document) == 0 {
			continue
		}
		records, err := readCacheDocument(document, m.Layers)
		if err != nil {
			return nil, err
		}
		all = append(all, &imported{records, open})
	}
	if len(all) == 0 {
		return nil, errdef.New(errdef.Unsupported, "no build of berth's has left a cache there")
	}
	return all, nil
}

// readCacheDocument understands a document of others.
func readCacheDocument(data []byte, blobs []image.Descriptor) (map[string]importedRecord, error) {
	var doc cacheDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, errdef.New(errdef.Corrupt, "cannot understand the cache: %w", err)
	}
	records := map[string]importedRecord{}
	for _, r := range doc.Records {
		if r.Layer < 0 || r.Layer >= len(blobs) || r.DiffID.Validate() != nil || r.Parent != "" && r.Parent.Validate() != nil {
			return nil, errdef.New(errdef.Corrupt, "cannot understand the cache: a record of it leads nowhere")
		}
		records[r.Key] = importedRecord{r, blobs[r.Layer]}
	}
	return records, nil
}

type (
	readBlob func(ctx context.Context, d image.Descriptor, limit int64) ([]byte, error)
	openBlob func(ctx context.Context, d image.Descriptor) (io.ReadCloser, error)
)

// cacheReader opens a cache. top is its manifest, or its index.
func (s *session) cacheReader(ctx context.Context, from CacheSource) (read readBlob, open openBlob, top image.Descriptor, err error) {
	if from.Dir != "" {
		open = func(_ context.Context, d image.Descriptor) (io.ReadCloser, error) {
			return openInLayout(from.Dir, d.Digest)
		}
		top, err = layoutManifest(from.Dir, from.Tag, from.Digest)
		return verified(open), open, top, err
	}
	ref, err := reference.Parse(from.Ref)
	if err != nil {
		return nil, nil, top, err
	}
	top, raw, err := s.Registry.Resolve(ctx, ref)
	if err != nil {
		return nil, nil, top, err
	}
	open = func(ctx context.Context, d image.Descriptor) (io.ReadCloser, error) {
		return s.Registry.Blob(ctx, ref, d, 0)
	}
	blobs := verified(open)
	read = func(ctx context.Context, d image.Descriptor, limit int64) ([]byte, error) {
		switch {
		case d.Digest == top.Digest:
			return raw, nil
		case image.IsConfig(d.MediaType), d.MediaType == mediaTypeCache:
			return blobs(ctx, d, limit)
		}
		return s.Registry.Manifest(ctx, ref, d)
	}
	return read, open, top, nil
}

// verified reads a blob whole.
func verified(open openBlob) readBlob {
	return func(ctx context.Context, d image.Descriptor, limit int64) ([]byte, error) {
		if d.Size > limit {
			return nil, errdef.New(errdef.Invalid, "%s has %d bytes; at most %d are read", d.Digest, d.Size, limit)
		}
		f, err := open(ctx, d)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, limit+1))
		if err == nil {
			err = d.Digest.Verify(data)
		}
		return data, err
	}
}

func openInLayout(dir string, d image.Digest) (io.ReadCloser, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	return os.Open(filepath.Join(dir, "blobs", d.Algorithm(), d.Hex()))
}

const refNameAnnotation = "org.opencontainers.image.ref.name"

// layoutManifest finds a manifest or an index of an OCI layout: that of a digest, or of a tag, or the only one.
func layoutManifest(dir, tag string, digest image.Digest) (d image.Descriptor, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return d, errdef.As(errdef.NotFound, err)
	}
	index, err := image.ParseIndex(data, image.MediaTypeIndex)
	if err != nil {
		return d, err
	}
	name := tag
	if name == "" {
		name = reference.DefaultTag
	}
	for _, d := range index.Manifests {
		if digest != "" && d.Digest == digest || digest == "" && d.Annotations[refNameAnnotation] == name {
			return d, nil
		}
	}
	if len(index.Manifests) == 1 && tag == "" && digest == "" {
		return index.Manifests[0], nil
	}
	return d, errdef.New(errdef.NotFound, "%s has no image %s%s", dir, tag, digest)
}

// fromOthers looks for a step in the caches of others, and brings its layer here.
func (b *builder) fromOthers(ctx context.Context, key string, parent image.Digest, anywhere bool) (r cache.Record, ok bool, err error) {
	for _, im := range b.imported {
		have, found := im.records[key]
		if !found || have.Parent != parent && !anywhere {
			continue
		}
		d, err := b.bring(ctx, im, have)
		if err != nil {
			return r, false, fmt.Errorf("cannot take the layer of %q from a cache: %w", have.What, err)
		}
		r = cache.Record{Parent: parent, Layer: d, Created: have.Created, Used: time.Now().UTC(), What: have.What}
		ok, err = b.link(ctx, &r, parent)
		return r, ok, err
	}
	return r, false, nil
}

// bring makes a blob of a cache one of the store.
func (b *builder) bring(ctx context.Context, im *imported, r importedRecord) (d image.Descriptor, err error) {
	blobs := b.engine.Images.Content
	if blobs.Has(r.DiffID) {
		f, err := blobs.Open(r.DiffID)
		if err != nil {
			return d, err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return d, err
		}
		return image.Descriptor{MediaType: image.MediaTypeLayer, Digest: r.DiffID, Size: st.Size()}, nil
	}
	f, err := im.open(ctx, r.blob)
	if err != nil {
		return d, err
	}
	defer f.Close()
	plain, _, err := unpack.Decompress(f)
	if err != nil {
		return d, err
	}
	d, err = blobs.PutReader(io.LimitReader(plain, maxDownload), image.MediaTypeLayer)
	if err == nil && d.Digest != r.DiffID {
		err = errdef.New(errdef.Corrupt, "its digest is %s and not %s", d.Digest, r.DiffID)
	}
	return d, err
}

// exportCaches writes the steps of the build where other machines find them.
func (s *session) exportCaches(ctx context.Context, all []*builder) error {
	for _, to := range s.CacheTo {
		if to.Inline {
			continue // it is in the image
		}
		v := s.Progress.Begin("exporting cache to %s", to)
		err := s.exportCache(ctx, all, to)
		if err != nil {
			v.Failed(err)
			if to.IgnoreError {
				continue
			}
			return fmt.Errorf("cannot export the cache to %s: %w", to, err)
		}
		v.Done()
	}
	return nil
}

func (s *session) exportCache(ctx context.Context, all []*builder, to CacheTarget) error {
	var keys []string
	for _, b := range all {
		keys = append(keys, b.keys(to.All)...)
	}
	slices.Sort(keys)
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest, Layers: []image.Descriptor{}}
	doc := cacheDocument{Records: []sharedRecord{}}
	how := Gzip
	if to.Compression == Zstd || to.Compression == Uncompressed {
		how = to.Compression
	}
	for _, key := range slices.Compact(keys) {
		r := s.used[key]
		packed, err := archive.Compress(ctx, s.engine.Images, []image.Descriptor{r.Layer}, how, true)
		if err != nil {
			return err
		}
		doc.Records = append(doc.Records, sharedRecord{key, r.Parent, r.Layer.Digest, len(m.Layers), r.Created, r.What})
		m.Layers = append(m.Layers, packed...)
	}
	var err error
	if m.Config, err = s.putJSON(doc, mediaTypeCache); err != nil {
		return err
	}
	top, err := s.putJSON(m, m.MediaType)
	if err != nil {
		return err
	}
	blobs := append(slices.Clone(m.Layers), m.Config)
	if to.Dir != "" {
		return s.writeLayout(ctx, to, blobs, top)
	}
	ref, err := reference.Parse(to.Ref)
	if err != nil {
		return err
	}
	for _, d := range blobs {
		if _, err := s.Registry.PutBlob(ctx, ref, d, s.sourceOfBlob(ctx, d)); err != nil {
			return err
		}
	}
	raw, err := s.engine.Images.Content.ReadAll(top.Digest, image.MaxManifest)
	if err != nil {
		return err
	}
	return s.Registry.PutManifest(ctx, ref, ref.Tag, top, raw)
}

func (s *session) sourceOfBlob(ctx context.Context, d image.Descriptor) registry.Source {
	return registry.Source{Open: func(offset int64) (io.ReadCloser, error) { return s.engine.Images.Blob(ctx, d, offset) }}
}

// writeLayout adds a manifest with its blobs to a directory that is an OCI layout, or is made one. Its index is written last.
func (s *session) writeLayout(ctx context.Context, to CacheTarget, blobs []image.Descriptor, top image.Descriptor) error {
	for _, d := range append(blobs, top) {
		path := filepath.Join(to.Dir, "blobs", d.Digest.Algorithm(), d.Digest.Hex())
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		from, err := s.engine.Images.Blob(ctx, d, 0)
		if err != nil {
			return err
		}
		err = disk.Output(path, 0o644, func(w io.Writer) error {
			_, err := io.Copy(w, from)
			return err
		})
		from.Close()
		if err != nil {
			return err
		}
	}
	tag := to.Tag
	if tag == "" {
		tag = reference.DefaultTag
	}
	index := image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex}
	if data, err := os.ReadFile(filepath.Join(to.Dir, "index.json")); err == nil {
		if index, err = image.ParseIndex(data, image.MediaTypeIndex); err != nil {
			return err
		}
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d image.Descriptor) bool { return d.Annotations[refNameAnnotation] == tag })
	top.Annotations = map[string]string{refNameAnnotation: tag}
	index.Manifests = append(index.Manifests, top)
	for name, v := range map[string]any{"oci-layout": map[string]string{"imageLayoutVersion": "1.0.0"}, "index.json": index} {
		data, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := disk.Replace(filepath.Join(to.Dir, name), data, 0o644, disk.Volatile); err != nil {
			return err
		}
	}
	return nil
}

// keys are those of the steps that a result, or, if all are meant, the whole build, consists of.
func (b *builder) keys(all bool) (keys []string) {
	chain := b.results[b.plan.Target()].chain
	for key, r := range b.used {
		if all || slices.Contains(chain, r.Chain()) {
			keys = append(keys, key)
		}
	}
	return keys
}

// inline is the document of an image that is its own cache; "" says that it is none.
func (b *builder) inline() string {
	if !slices.ContainsFunc(b.CacheTo, func(to CacheTarget) bool { return to.Inline }) || b.Squash {
		return ""
	}
	r := b.results[b.plan.Target()]
	doc := cacheDocument{Records: []sharedRecord{}}
	for _, key := range b.keys(false) {
		used := b.used[key]
		doc.Records = append(doc.Records, sharedRecord{key, used.Parent, used.Layer.Digest, slices.Index(r.chain, used.Chain()), used.Created, used.What})
	}
	slices.SortFunc(doc.Records, func(x, y sharedRecord) int { return x.Layer - y.Layer })
	data, err := json.Marshal(doc)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(data))
}
