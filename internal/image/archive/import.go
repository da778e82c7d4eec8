package archive

import (
	"context"
	"fmt"
	"io"
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
	created := opt.Created
	if created.IsZero() {
		created = time.Now()
	}
	created = created.UTC()
	config.Created = &created
	config.RootFS.DiffIDs = []image.Digest{layer.Digest}
	config.History = []image.History{{Created: &created, Comment: opt.Message}}

	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest, Layers: []image.Descriptor{layer}}
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
