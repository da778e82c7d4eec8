// Package archive carries images in tar files: it reads what "docker save", "podman save", skopeo and buildx write
// (docker-archive in its old and new form, and tars of an OCI layout), writes tars that are both at once, and makes
// images of root file systems.
//
// An archive is hostile. Its paths are keys of a map and nothing else: every file goes into image/content under
// the digest that it really has, and an image gets its name last, when all its layers have been unpacked and
// verified. What a failed load leaves has no name, and the next sweep removes it.
//
// The package contacts no registry, and it keeps no state of its own.
package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/policy"
	"berth/internal/image/reference"
	"berth/internal/image/store"
	"berth/internal/image/unpack"
)

// Limits for an archive. A docker-archive has up to four entries for a layer.
const (
	maxEntries  = 200_000
	maxLinks    = 16 // symlinks behind each other
	maxDocument = image.MaxManifest
)

// Loaded is one name, or one image without, that an archive brought.
type Loaded struct {
	Name string // familiar; "" for none
	ID   image.Digest
}

// Options of Load and Import.
type Options struct {
	Platform image.Platform // the zero value is the host's
	Unpack   unpack.Options
	// Allow says whether an archive may be loaded, one of image/policy's transports; nil means any.
	Allow func(transport string) error
}

func (o Options) platform() image.Platform {
	if o.Platform.OS == "" {
		return image.HostPlatform()
	}
	return o.Platform
}

// Load stores and names the images of the archive that r gives.
func Load(ctx context.Context, s *store.Store, r io.Reader, opt Options) ([]Loaded, error) {
	release, err := s.Content.HoldAdditions(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot load images: %w", err)
	}
	defer release()
	loaded, err := load(ctx, s, r, opt)
	if err != nil {
		return loaded, fmt.Errorf("cannot load images: %w", err)
	}
	return loaded, nil
}

func load(ctx context.Context, s *store.Store, r io.Reader, opt Options) ([]Loaded, error) {
	files, err := receive(ctx, s, r)
	if err != nil {
		return nil, err
	}
	if opt.Allow != nil {
		kind := policy.OCIArchive
		if files.has("manifest.json") { // also where it is a layout, too: as others read it
			kind = policy.DockerArchive
		}
		if err := opt.Allow(kind); err != nil {
			return nil, err
		}
	}
	var found []candidate
	switch {
	case files.has("index.json"):
		found, err = files.fromLayout(opt.platform())
	case files.has("manifest.json"):
		found, err = files.fromDocker()
	default:
		err = errdef.Hint(errdef.New(errdef.Invalid, "the archive has neither an index.json nor a manifest.json"),
			"to make an image of a root file system, use \"berth import\"")
	}
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errdef.New(errdef.Invalid, "the archive contains no image")
	}
	// First all are unpacked, so that an archive of which one is damaged names none.
	for _, c := range found {
		img, err := s.Load(store.Record{Target: c.target, Manifest: c.manifest})
		if err != nil {
			return nil, err
		}
		if err := unpack.Image(ctx, unpack.FromBlobs(s.Content, img.Manifest), s.Layers, img.Manifest, img.Config, opt.Unpack); err != nil {
			return nil, err
		}
	}
	var loaded []Loaded
	err = s.Together(func() error {
		loaded, err = name(s, found)
		return err
	})
	return loaded, err
}

// name gives the images their names.
func name(s *store.Store, found []candidate) (loaded []Loaded, err error) {
	for _, c := range found {
		names := c.names
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			record, err := s.Put(name, c.target, c.manifest)
			if err != nil {
				return loaded, err
			}
			l := Loaded{ID: record.ID}
			if ref, ok := record.Reference(); ok {
				l.Name = ref.Familiar()
			}
			loaded = append(loaded, l)
		}
	}
	return loaded, nil
}

// candidate is an image of the archive before it is verified.
type candidate struct {
	names            []string // canonical
	target, manifest image.Descriptor
}

// files is what an archive contains.
type files struct {
	store *store.Store
	blobs map[string]image.Descriptor // regular files by their clean path
	links map[string]string           // symlinks and hard links by theirs; the target is a clean path
}

// receive stores every file of an archive under its digest.
func receive(ctx context.Context, s *store.Store, r io.Reader) (*files, error) {
	plain, _, err := unpack.Decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	f := &files{store: s, blobs: map[string]image.Descriptor{}, links: map[string]string{}}
	t := tar.NewReader(plain)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, errdef.As(errdef.Cancelled, context.Cause(ctx))
		}
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // paths are only keys
			if errdef.KindOf(err) == errdef.Unknown {
				err = errdef.As(errdef.Corrupt, err)
			}
			return nil, fmt.Errorf("cannot read the archive: %w", err)
		}
		if n == maxEntries {
			return nil, errdef.New(errdef.Invalid, "the archive has more than %d entries", maxEntries)
		}
		if err := f.receive(h, t); err != nil {
			return nil, fmt.Errorf("cannot read %q of the archive: %w", h.Name, err)
		}
	}
	// Behind the archive there is only padding, but a checksum of the compression may follow.
	_, err = io.Copy(io.Discard, plain)
	return f, err
}

func (f *files) receive(h *tar.Header, content io.Reader) error {
	name := path.Clean("/" + h.Name)[1:]
	switch h.Typeflag {
	case tar.TypeReg, '\x00':
		delete(f.links, name)
		first := make([]byte, min(h.Size, 6))
		if _, err := io.ReadFull(content, first); err != nil {
			return errdef.As(errdef.Corrupt, err)
		}
		whole := io.MultiReader(bytes.NewReader(first), content)
		var err error
		if hex, ok := strings.CutPrefix(name, "blobs/"+image.SHA512+"/"); ok {
			f.blobs[name], err = f.receiveNamed(image.Digest(image.SHA512+":"+hex), h.Size, whole)
			return err
		}
		f.blobs[name], err = f.store.Content.PutReader(whole, layerType(first))
		return err
	case tar.TypeSymlink: // podman and docker: HEX/layer.tar -> ../OTHER/layer.tar
		delete(f.blobs, name)
		f.links[name] = path.Join("/", path.Dir(name), h.Linkname)[1:]
	case tar.TypeLink:
		delete(f.blobs, name)
		f.links[name] = path.Clean("/" + h.Linkname)[1:]
	}
	return nil // directories say nothing, and nothing else belongs here
}

// receiveNamed is for a hash other than the one that PutReader computes.
func (f *files) receiveNamed(d image.Digest, size int64, content io.Reader) (image.Descriptor, error) {
	desc := image.Descriptor{Digest: d, Size: size}
	in, err := f.store.Content.Ingest(context.Background(), desc)
	if err != nil || in.Done() {
		return desc, err
	}
	if err := in.Reset(); err != nil {
		return desc, errors.Join(err, in.Close())
	}
	if _, err := io.Copy(in, content); err != nil {
		return desc, errors.Join(err, in.Discard())
	}
	return desc, in.Commit()
}

// layerType is the media type of a layer that begins so.
func layerType(first []byte) string {
	switch {
	case bytes.HasPrefix(first, []byte{0x1f, 0x8b}):
		return image.MediaTypeLayerGzip
	case bytes.HasPrefix(first, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return image.MediaTypeLayerZstd
	}
	return image.MediaTypeLayer
}

func (f *files) find(name string) (image.Descriptor, error) {
	p := path.Clean("/" + name)[1:]
	for range maxLinks {
		if d, ok := f.blobs[p]; ok {
			return d, nil
		}
		next, ok := f.links[p]
		if !ok {
			break
		}
		p = next
	}
	return image.Descriptor{}, errdef.New(errdef.Invalid, "the archive has no file %q", name)
}

func (f *files) has(name string) bool {
	_, err := f.find(name)
	return err == nil
}

func (f *files) read(name string, limit int64) ([]byte, error) {
	d, err := f.find(name)
	if err != nil {
		return nil, err
	}
	return f.store.Content.ReadAll(d.Digest, limit)
}

// Names of an OCI layout's index.
const (
	refNameAnnotation   = "org.opencontainers.image.ref.name"
	containerAnnotation = "io.containerd.image.name"
)

// fromLayout finds the images of an OCI layout.
func (f *files) fromLayout(platform image.Platform) ([]candidate, error) {
	data, err := f.read("index.json", maxDocument)
	if err != nil {
		return nil, err
	}
	index, err := image.ParseIndex(data, "")
	if err != nil {
		return nil, err
	}
	tags := f.repoTags()
	var found []candidate
	at := map[image.Digest]int{}
	for _, d := range index.Manifests {
		if d.Platform != nil && d.Platform.OS == "unknown" || d.Annotations["vnd.docker.reference.type"] != "" {
			continue // a builder's attestation
		}
		manifest, err := f.choose(d, platform, 0)
		if err != nil {
			return nil, err
		}
		m, err := f.manifest(manifest)
		if err != nil {
			return nil, err
		}
		if m.CheckRunnable() != nil && len(index.Manifests) > 1 {
			continue // a signature or another artifact beside the images
		}
		i, seen := at[d.Digest]
		if !seen {
			i = len(found)
			at[d.Digest] = i
			found = append(found, candidate{target: plainDescriptor(d), manifest: plainDescriptor(manifest), names: tags[m.Config.Digest]})
		}
		if name := nameOf(d.Annotations); name != "" && !containsString(found[i].names, name) {
			found[i].names = append(found[i].names, name)
		}
	}
	return found, nil
}

// plainDescriptor leaves out what is about this archive and not about the blob.
func plainDescriptor(d image.Descriptor) image.Descriptor {
	return image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform, ArtifactType: d.ArtifactType}
}

func containsString(list []string, s string) bool {
	for _, other := range list {
		if other == s {
			return true
		}
	}
	return false
}

// nameOf reads the name that an entry of index.json has. A ref.name may be a tag alone ("latest"), which names nothing.
func nameOf(annotations map[string]string) string {
	name := annotations[containerAnnotation]
	if name == "" {
		if name = annotations[refNameAnnotation]; !strings.ContainsAny(name, "/:") {
			return ""
		}
	}
	ref, err := reference.Parse(name)
	if err != nil {
		return ""
	}
	return ref.String()
}

// choose follows indexes down to the manifest for a platform.
func (f *files) choose(d image.Descriptor, platform image.Platform, depth int) (image.Descriptor, error) {
	if !image.IsIndex(d.MediaType) {
		return d, nil
	}
	if depth == image.MaxIndexDepth {
		return d, errdef.New(errdef.Invalid, "indexes are nested more than %d deep", image.MaxIndexDepth)
	}
	data, err := f.store.Content.ReadAll(d.Digest, maxDocument)
	if err != nil {
		return d, err
	}
	index, err := image.ParseIndex(data, d.MediaType)
	if err != nil {
		return d, err
	}
	next, err := image.Select(index, platform)
	if err != nil {
		return d, err
	}
	return f.choose(next, platform, depth+1)
}

func (f *files) manifest(d image.Descriptor) (image.Manifest, error) {
	data, err := f.store.Content.ReadAll(d.Digest, maxDocument)
	if err != nil {
		return image.Manifest{}, err
	}
	return image.ParseManifest(data, d.MediaType)
}

// dockerEntry is one image of docker's manifest.json.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (f *files) dockerEntries() ([]dockerEntry, error) {
	data, err := f.read("manifest.json", maxDocument)
	if err != nil {
		return nil, err
	}
	var entries []dockerEntry
	if err := json.Unmarshal(data, &entries); err != nil {
		return nil, errdef.New(errdef.Invalid, "cannot read the archive's manifest.json: %w", err)
	}
	return entries, nil
}

// repoTags returns the names that the manifest.json of an archive of both kinds gives, by the config's digest.
func (f *files) repoTags() map[image.Digest][]string {
	names := map[image.Digest][]string{}
	entries, err := f.dockerEntries()
	if err != nil {
		return names // an OCI layout need not have one
	}
	for _, e := range entries {
		config, err := f.find(e.Config)
		if err != nil {
			continue
		}
		for _, tag := range e.RepoTags {
			if ref, err := reference.Parse(tag); err == nil {
				names[config.Digest] = append(names[config.Digest], ref.String())
			}
		}
	}
	return names
}

// fromDocker makes a manifest for each image of a docker-archive.
func (f *files) fromDocker() ([]candidate, error) {
	entries, err := f.dockerEntries()
	if err != nil {
		return nil, err
	}
	var found []candidate
	for _, e := range entries {
		m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest}
		if m.Config, err = f.find(e.Config); err != nil {
			return nil, err
		}
		m.Config.MediaType = image.MediaTypeConfig
		for _, name := range e.Layers {
			d, err := f.find(name)
			if err != nil {
				return nil, err
			}
			m.Layers = append(m.Layers, d)
		}
		var c candidate
		for _, tag := range e.RepoTags {
			ref, err := reference.Parse(tag)
			if err != nil {
				return nil, err
			}
			c.names = append(c.names, ref.String())
		}
		if c.manifest, err = putManifest(f.store, m); err != nil {
			return nil, err
		}
		c.target = c.manifest
		found = append(found, c)
	}
	return found, nil
}

func putManifest(s *store.Store, m image.Manifest) (image.Descriptor, error) {
	return putJSON(s, m.MediaType, m)
}

func putJSON(s *store.Store, mediaType string, v any) (image.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return image.Descriptor{}, err
	}
	return s.Content.PutReader(bytes.NewReader(data), mediaType)
}
