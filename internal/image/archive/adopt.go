package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/store"
	"berth/internal/image/unpack"
)

// Parts are an image that somebody else has unpacked: its documents as they are, and what writes the tars of its layers.
type Parts struct {
	ID       image.Digest // of Config
	Config   []byte
	Parsed   image.Image // Config, read
	Manifest []byte      // whose blobs are Config and the tars; nil has one made
	Tar      func(layer int, w io.Writer) error
}

// Adopt stores an image from its parts and gives it its names; without any it has none. Each tar must be what the configuration says.
func Adopt(ctx context.Context, s *store.Store, p Parts, names []string, opt Options) (store.Record, error) {
	record, err := adopt(ctx, s, p, names, opt)
	if err != nil {
		return record, fmt.Errorf("cannot bring image %s over: %w", p.ID.Short(), err)
	}
	return record, nil
}

func adopt(ctx context.Context, s *store.Store, p Parts, names []string, opt Options) (record store.Record, err error) {
	release, err := s.Content.HoldAdditions(ctx)
	if err != nil {
		return record, err
	}
	defer release()
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaTypeManifest}
	for i := range p.Parsed.RootFS.DiffIDs {
		layer, err := adoptLayer(ctx, s, p, i)
		if err != nil {
			return record, fmt.Errorf("layer %d: %w", i, err)
		}
		m.Layers = append(m.Layers, layer)
	}
	if m.Config, err = s.Content.PutReader(bytes.NewReader(p.Config), image.MediaTypeConfig); err != nil {
		return record, err
	}
	if err := unpack.Image(ctx, unpack.FromBlobs(s.Content, m), s.Layers, m, p.Parsed, opt.Unpack); err != nil {
		return record, err
	}
	var d image.Descriptor
	if p.Manifest == nil {
		d, err = putManifest(s, m)
	} else if m, err = image.ParseManifest(p.Manifest, ""); err == nil {
		d, err = s.Content.PutReader(bytes.NewReader(p.Manifest), m.MediaType)
	}
	if err != nil {
		return record, err
	}
	if len(names) == 0 {
		names = []string{""}
	}
	err = s.Together(func() error {
		for _, name := range names {
			if record, err = s.Put(name, d, d); err != nil {
				return err
			}
		}
		return nil
	})
	return record, err
}

// adoptLayer stores the tar of a layer, if it is what it should be.
func adoptLayer(ctx context.Context, s *store.Store, p Parts, i int) (image.Descriptor, error) {
	want := p.Parsed.RootFS.DiffIDs[i]
	if want.Algorithm() != image.SHA256 {
		return image.Descriptor{}, errdef.New(errdef.Unsupported, "diff ID %s is not a sha256", want)
	}
	if f, err := s.Content.Open(want); err == nil { // layers are shared
		st, err := f.Stat()
		if err = errors.Join(err, f.Close()); err != nil {
			return image.Descriptor{}, err
		}
		return image.Descriptor{MediaType: image.MediaTypeLayer, Digest: want, Size: st.Size()}, nil
	}
	r, w := io.Pipe()
	stop := context.AfterFunc(ctx, func() { w.CloseWithError(errdef.As(errdef.Cancelled, context.Cause(ctx))) })
	defer stop()
	go func() { w.CloseWithError(p.Tar(i, w)) }()
	d, err := s.Content.PutExpected(r, image.MediaTypeLayer, want)
	_ = r.Close()
	if errdef.Is(err, errdef.Corrupt) {
		err = errdef.New(errdef.Corrupt, "its tar is not the one that the image's configuration says: %w", err)
	}
	return d, err
}
