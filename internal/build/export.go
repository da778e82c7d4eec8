package build

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"time"

	"berth/internal/build/dockerfile"
	"berth/internal/image"
	"berth/internal/image/store"
	"berth/internal/image/unpack"
)

// export puts the target into the store and names it, or writes it where else it is to go.
func (b *builder) export(ctx context.Context) (Result, error) {
	out := Result{Names: b.Tags, Warnings: b.warnings}
	files := len(b.Outputs) > 0
	for _, o := range b.Outputs {
		files = files && (o.Type == OutputLocal || o.Type == OutputTar)
	}
	var record store.Record
	if !files {
		var err error
		if record, err = b.exportImage(ctx); err != nil {
			return out, err
		}
		out.ID, out.Manifest = record.ID, record.Manifest
	}
	return out, b.outputs(ctx, record)
}

// exportImage writes the image into the store.
func (b *builder) exportImage(ctx context.Context) (record store.Record, err error) {
	v := b.Progress.Begin("exporting to image")
	defer func() {
		if err != nil {
			v.Failed(err)
		}
	}()
	if r := b.results[b.plan.Target()]; len(r.blobs) == 0 {
		if err := b.nothing(ctx, r); err != nil {
			return record, err
		}
	}
	v.Say("exporting layers done")
	manifest, err := b.putImage(b.config(), b.results[b.plan.Target()].blobs)
	if err != nil {
		return record, err
	}
	v.Say("writing image %s done", manifest.config.Digest)
	names := b.Tags
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		if record, err = b.engine.Images.Put(name, manifest.Descriptor, manifest.Descriptor); err != nil {
			return record, err
		}
		if name != "" {
			v.Say("naming to %s done", name)
		}
	}
	v.Done()
	return record, nil
}

// nothing gives an image that has no layers one with nothing in it: an image has a tree, if only an empty one.
func (b *builder) nothing(ctx context.Context, r *result) error {
	images := b.engine.Images
	blocks := make([]byte, 1024)
	d, err := images.Content.PutReader(bytes.NewReader(blocks), image.MediaTypeLayer)
	if err != nil {
		return err
	}
	if _, err := unpack.Layer(ctx, images.Layers, "", d.Digest, bytes.NewReader(blocks), b.unpackOptions()); err != nil {
		return err
	}
	r.add(d)
	s := b.plan.Target()
	s.Image.History = append(s.Image.History, image.History{CreatedBy: "FROM scratch"})
	return nil
}

// latest is the time that no file of a new layer may be younger than; zero is none.
func (b *builder) latest() time.Time {
	for _, o := range b.Outputs {
		if o.Rewrite && b.Epoch != nil {
			return *b.Epoch
		}
	}
	return time.Time{}
}

// config is the target's configuration with its layers, and the times of its history.
func (b *builder) config() image.Image {
	s := b.plan.Target()
	r := b.results[s]
	config := s.Image
	config.RootFS = image.RootFS{Type: "layers", DiffIDs: r.diffIDs}
	if config.RootFS.DiffIDs == nil {
		config.RootFS.DiffIDs = []image.Digest{}
	}
	created := b.history(s)
	var last *time.Time
	for i := range config.History {
		h := &config.History[i]
		if t, ok := created[i]; ok {
			h.Created = &t
		}
		if h.Created == nil {
			h.Created = last
		}
		last = h.Created
	}
	if b.Epoch != nil {
		last = b.Epoch
		for i := range config.History {
			if h := &config.History[i]; i >= b.baseHistory() || h.Created == nil {
				h.Created = b.Epoch
			}
		}
	}
	if last == nil {
		last = &b.now
		for i := range config.History {
			config.History[i].Created = last
		}
	}
	config.Created = last
	return config
}

// history is when the steps of a stage, and of those that it is made on, were carried out.
func (b *builder) history(s *dockerfile.Stage) map[int]time.Time {
	created := map[int]time.Time{}
	for ; s != nil; s = s.Base {
		maps.Copy(created, b.results[s].created)
	}
	return created
}

// stored is an image in the store.
type stored struct {
	image.Descriptor // the manifest's
	config           image.Descriptor
}

// putImage writes a configuration and the manifest that names it and its layers.
func (b *builder) putImage(config image.Image, layers []image.Descriptor) (s stored, err error) {
	if s.config, err = b.putJSON(config, image.MediaTypeConfig); err != nil {
		return s, err
	}
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest, Config: s.config, Layers: layers, Annotations: b.Annotations}
	if m.Layers == nil {
		m.Layers = []image.Descriptor{}
	}
	s.Descriptor, err = b.putJSON(m, m.MediaType)
	return s, err
}

func (b *builder) putJSON(v any, mediaType string) (image.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return image.Descriptor{}, err
	}
	return b.engine.Images.Content.PutReader(bytes.NewReader(data), mediaType)
}

// baseHistory is how many entries of the target's history are of the image that it begins with.
func (b *builder) baseHistory() int {
	s := b.plan.Target()
	for s.Base != nil {
		s = s.Base
	}
	return s.BaseHistory
}
