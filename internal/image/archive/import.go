package archive

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"berth/internal/image"
	"berth/internal/image/reference"
	"berth/internal/image/store"
	"berth/internal/image/unpack"
)

// ImportOptions say what Import makes of a root file system.
type ImportOptions struct {
	Options
	Name    string   // may be ""
	Changes []string // Dockerfile instructions; see Change
	Message string
	Created time.Time // the zero value is now
}

// Import makes an image of one layer out of the tar of a root file system, compressed or not, and names it.
func Import(ctx context.Context, s *store.Store, r io.Reader, opt ImportOptions) (store.Record, error) {
	record, err := importTar(ctx, s, r, opt)
	if err != nil {
		return record, fmt.Errorf("cannot import the root file system: %w", err)
	}
	return record, nil
}

func importTar(ctx context.Context, s *store.Store, r io.Reader, opt ImportOptions) (store.Record, error) {
	var none store.Record
	config := image.Image{Platform: opt.platform(), RootFS: image.RootFS{Type: "layers"}}
	// What can be refused without reading the tar is refused first.
	if opt.Name != "" {
		if _, err := reference.Parse(opt.Name); err != nil {
			return none, err
		}
	}
	for _, change := range opt.Changes {
		if err := Change(&config.Config, change); err != nil {
			return none, err
		}
	}
	release, err := s.Content.HoldAdditions(ctx)
	if err != nil {
		return none, err
	}
	defer release()

	plain, _, err := unpack.Decompress(r)
	if err != nil {
		return none, err
	}
	defer plain.Close()
	// The blob is the plain tar, so that its digest is the diff ID, too.
	layer, err := s.Content.PutReader(plain, image.MediaTypeLayer)
	if err != nil {
		return none, err
	}
	return addLayer(ctx, s, image.Manifest{}, config, layer, image.History{Comment: opt.Message}, opt)
}

// addLayer makes an image of another one, or of none, by a layer on top whose blob is the plain tar, and names it.
func addLayer(ctx context.Context, s *store.Store, base image.Manifest, config image.Image, layer image.Descriptor, h image.History, opt ImportOptions) (store.Record, error) {
	var none store.Record
	created := opt.Created
	if created.IsZero() {
		created = time.Now()
	}
	created = created.UTC()
	h.Created, config.Created = &created, &created
	config.RootFS.DiffIDs = append(slices.Clone(config.RootFS.DiffIDs), layer.Digest)
	config.History = append(slices.Clone(config.History), h)

	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest, Layers: append(slices.Clone(base.Layers), layer)}
	for i, l := range m.Layers { // the manifest is OCI's; docker's types mean the same
		switch l.MediaType {
		case image.MediaTypeDockerLayer:
			m.Layers[i].MediaType = image.MediaTypeLayerGzip
		case image.MediaTypeDockerLayerTar:
			m.Layers[i].MediaType = image.MediaTypeLayer
		}
	}
	var err error
	if m.Config, err = putJSON(s, image.MediaTypeConfig, config); err != nil {
		return none, err
	}
	if err := unpack.Image(ctx, unpack.FromBlobs(s.Content, m), s.Layers, m, config, opt.Unpack); err != nil {
		return none, err
	}
	d, err := putManifest(s, m)
	if err != nil {
		return none, err
	}
	return s.Put(opt.Name, d, d)
}

// CommitOptions say what Commit makes of a container.
type CommitOptions struct {
	ImportOptions
	Author    string
	CreatedBy string       // what has made the layer
	Config    image.Config // before Changes
}

// Commit makes an image of base with a layer on top, of which write writes the tar, and names it.
func Commit(ctx context.Context, s *store.Store, base store.Image, write func(io.Writer) error, opt CommitOptions) (store.Record, error) {
	record, err := commit(ctx, s, base, write, opt)
	if err != nil {
		return record, fmt.Errorf("cannot commit the container: %w", err)
	}
	return record, nil
}

func commit(ctx context.Context, s *store.Store, base store.Image, write func(io.Writer) error, opt CommitOptions) (store.Record, error) {
	var none store.Record
	if opt.Name != "" {
		if _, err := reference.Parse(opt.Name); err != nil {
			return none, err
		}
	}
	config := base.Config
	config.Config, config.Author = opt.Config, opt.Author
	for _, change := range opt.Changes {
		if err := Change(&config.Config, change); err != nil {
			return none, err
		}
	}
	release, err := s.Content.HoldAdditions(ctx)
	if err != nil {
		return none, err
	}
	defer release()
	r, w := io.Pipe()
	go func() { w.CloseWithError(write(w)) }()
	layer, err := s.Content.PutReader(r, image.MediaTypeLayer)
	_ = r.Close()
	if err != nil {
		return none, err
	}
	h := image.History{CreatedBy: opt.CreatedBy, Author: opt.Author, Comment: opt.Message}
	return addLayer(ctx, s, base.Manifest, config, layer, h, opt.ImportOptions)
}
