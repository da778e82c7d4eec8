package build

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"berth/internal/build/dockerfile"
	"berth/internal/image"
	"berth/internal/image/store"
	"berth/internal/image/unpack"
)

// export puts the targets into the store and names them, and writes them where else they are to go.
func (s *session) export(ctx context.Context, all []*builder) (Result, error) {
	out := Result{Names: s.Tags, Warnings: s.warnings}
	if !s.onlyFiles() {
		record, target, err := s.exportImage(ctx, all)
		if err != nil {
			return out, err
		}
		out.ID, out.Target, out.Manifest = record.ID, target, record.Manifest
		if err := s.outputs(ctx, record); err != nil {
			return out, err
		}
	}
	return out, s.outputFiles(ctx, all)
}

// onlyFiles reports whether no image is asked for.
func (s *session) onlyFiles() bool {
	for _, o := range s.Outputs {
		if o.isImage() {
			return false
		}
	}
	return len(s.Outputs) > 0
}

// exportImage writes the image into the store: a manifest, or an index if there are several, or something is told about it.
func (s *session) exportImage(ctx context.Context, all []*builder) (record store.Record, target image.Descriptor, err error) {
	v := s.Progress.Begin("exporting to image")
	defer func() {
		if err != nil {
			v.Failed(err)
		}
	}()
	var manifests []image.Descriptor
	var about []image.Descriptor
	chosen, rank := 0, -1
	for i, b := range all {
		m, err := b.exportManifest(ctx, v)
		if err != nil {
			return record, target, err
		}
		manifests = append(manifests, m)
		if n := image.Rank(image.HostPlatform(), b.platform); n >= 0 && (rank < 0 || n < rank) {
			chosen, rank = i, n
		}
		a, err := b.attest(ctx, v, m)
		if err != nil {
			return record, target, err
		}
		about = append(about, a...)
	}
	target = manifests[0]
	if len(manifests)+len(about) > 1 {
		if target, err = s.putIndex(append(manifests, about...)); err != nil {
			return record, target, err
		}
		v.Say("exporting manifest list %s done", target.Digest)
	}
	names := s.Tags
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		if record, err = s.engine.Images.Put(name, plain(target), plain(manifests[chosen])); err != nil {
			return record, target, err
		}
		if name != "" {
			v.Say("naming to %s done", name)
		}
	}
	v.Done()
	return record, target, nil
}

// plain is a descriptor without what only an index says.
func plain(d image.Descriptor) image.Descriptor {
	return image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// putIndex writes the index of an image.
func (s *session) putIndex(manifests []image.Descriptor) (image.Descriptor, error) {
	index := image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: manifests, Annotations: s.annotations("index", image.Platform{})}
	return s.putJSON(index, index.MediaType)
}

// exportManifest writes what has been built for one platform. The descriptor says for which, as an index has it.
func (b *builder) exportManifest(ctx context.Context, v *Vertex) (image.Descriptor, error) {
	r := b.results[b.plan.Target()]
	if len(r.blobs) == 0 {
		if err := b.nothing(ctx, r); err != nil {
			return image.Descriptor{}, err
		}
	}
	l := r.layers
	if b.Squash {
		var err error
		if l, err = b.squash(ctx, l); err != nil {
			return image.Descriptor{}, err
		}
	}
	blobs, err := b.compressed(ctx, l.blobs)
	if err != nil {
		return image.Descriptor{}, err
	}
	v.Say("exporting layers done")
	manifest, err := b.putImage(b.config(l), blobs)
	if err != nil {
		return image.Descriptor{}, err
	}
	v.Say("exporting manifest %s done", manifest.Digest)
	v.Say("writing image %s done", manifest.config.Digest)
	d := manifest.Descriptor
	d.Platform, d.Annotations = &b.platform, b.annotations("manifest-descriptor", b.platform)
	return d, nil
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
func (s *session) latest() time.Time {
	for _, o := range s.Outputs {
		if o.Rewrite && s.Epoch != nil {
			return *s.Epoch
		}
	}
	return time.Time{}
}

// config is the target's configuration with its layers, and the times of its history.
func (b *builder) config(l layers) image.Image {
	s := b.plan.Target()
	config := s.Image
	config.RootFS = image.RootFS{Type: "layers", DiffIDs: l.diffIDs}
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
		if i == b.baseHistory() && h.Created == nil {
			last = firstOf(created, i, last)
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

// firstOf is the first time from an instruction of the history on: those before it have no layer, and would else be as old as the
// image that they stand on. Without any it is otherwise.
func firstOf(created map[int]time.Time, from int, otherwise *time.Time) *time.Time {
	for _, i := range slices.Sorted(maps.Keys(created)) {
		if i >= from {
			t := created[i]
			return &t
		}
	}
	return otherwise
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
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest, Config: s.config, Layers: layers, Annotations: b.annotations("manifest", b.platform)}
	if m.Layers == nil {
		m.Layers = []image.Descriptor{}
	}
	if inline := b.inline(); inline != "" {
		if m.Annotations == nil {
			m.Annotations = map[string]string{}
		}
		m.Annotations[inlineAnnotation] = inline
	}
	s.Descriptor, err = b.putJSON(m, m.MediaType)
	return s, err
}

func (s *session) putJSON(v any, mediaType string) (image.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return image.Descriptor{}, err
	}
	return s.engine.Images.Content.PutReader(bytes.NewReader(data), mediaType)
}

// baseHistory is how many entries of the target's history are of the image that it begins with.
func (b *builder) baseHistory() int { return b.first().BaseHistory }

// first is the stage that the target is made on, which begins with an image, or with nothing.
func (b *builder) first() *dockerfile.Stage {
	s := b.plan.Target()
	for s.Base != nil {
		s = s.Base
	}
	return s
}

// Annotation is something that is written into an image's documents.
type Annotation struct {
	Level      string // manifest, index, manifest-descriptor
	Platform   string // "" is all
	Key, Value string
}

// annotations are those of a document.
func (s *session) annotations(level string, p image.Platform) map[string]string {
	var all map[string]string
	for _, a := range s.Annotations {
		if a.Level == level && (a.Platform == "" || a.Platform == p.String()) {
			if all == nil {
				all = map[string]string{}
			}
			all[a.Key] = a.Value
		}
	}
	return all
}
