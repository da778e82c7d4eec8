package build

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"berth/internal/image"
	"berth/internal/image/unpack"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Ways of packing the layers of an image.
const (
	Uncompressed = "uncompressed"
	Gzip         = "gzip"
	Zstd         = "zstd"
)

// compression is how the layers of the image are to be packed: as they are in the store, unless it is sent somewhere.
func (s *session) compression() (how string, force bool) {
	for _, o := range s.Outputs {
		switch {
		case o.Compression != "":
			how, force = o.Compression, o.Force
		case o.Push && how == "":
			how = Gzip
		}
	}
	return how, force
}

// compressed packs layers that are not packed, or, if they are to be, all that are packed otherwise: several at a time.
func (s *session) compressed(ctx context.Context, layers []image.Descriptor) ([]image.Descriptor, error) {
	how, force := s.compression()
	out := slices.Clone(layers)
	if how == "" {
		return out, nil
	}
	want := map[string]string{Uncompressed: image.MediaTypeLayer, Gzip: image.MediaTypeLayerGzip, Zstd: image.MediaTypeLayerZstd}[how]
	room := make(chan struct{}, 4)
	errs := make([]error, len(out))
	var wait sync.WaitGroup
	for i, d := range out {
		if d.MediaType == want || d.MediaType != image.MediaTypeLayer && !force {
			continue
		}
		wait.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			out[i], errs[i] = s.pack(ctx, d, how, want)
		})
	}
	wait.Wait()
	return out, errors.Join(errs...)
}

// pack makes the blob of a layer anew, packed in another way.
func (s *session) pack(ctx context.Context, d image.Descriptor, how, mediaType string) (image.Descriptor, error) {
	from, err := s.engine.Images.Blob(ctx, d, 0)
	if err != nil {
		return d, err
	}
	defer from.Close()
	stop := context.AfterFunc(ctx, func() { _ = from.Close() })
	defer stop()
	plain, _, err := unpack.Decompress(from)
	if err != nil {
		return d, err
	}
	in, out := io.Pipe()
	go func() { _ = out.CloseWithError(packTo(out, plain, how)) }()
	packed, err := s.engine.Images.Content.PutReader(in, mediaType)
	_ = in.CloseWithError(err)
	return packed, err
}

// packTo packs a stream; the same bytes give the same bytes.
func packTo(w io.Writer, r io.Reader, how string) (err error) {
	to := io.WriteCloser(nopCloser{w})
	switch how {
	case Gzip:
		to = gzip.NewWriter(w)
	case Zstd:
		if to, err = zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)); err != nil {
			return err
		}
	}
	if _, err := io.Copy(to, r); err != nil {
		return err
	}
	return to.Close()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
