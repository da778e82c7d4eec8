package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"berth/internal/image"
	"berth/internal/image/store"
	"berth/internal/image/unpack"
)

// Ways of packing the layers of an image.
const (
	Uncompressed = "uncompressed"
	Gzip         = "gzip"
	Zstd         = "zstd"
)

// Packed has the layers of an image that nobody has packed so far, as import and commit make them, packed by gzip, and gives the image's names the
// manifest that says so; what it was packed from nothing needs any more then. The image's ID stays, as do its layers: both are of what is in them. A
// record that stands for an index, or whose layers are packed, is returned as it is. roots is asked for what is needed after that.
func Packed(ctx context.Context, s *store.Store, r store.Record, roots func() (store.Roots, error)) (store.Record, error) {
	im, err := s.Load(r)
	if err != nil || r.Target.Digest != r.Manifest.Digest || !slices.ContainsFunc(im.Manifest.Layers, plain) {
		return r, nil //nolint:nilerr // what is wrong with it says who reads it next
	}
	fail := func(err error) (store.Record, error) {
		return r, fmt.Errorf("cannot compress the layers of %s: %w", r.ID.Short(), err)
	}
	release, err := s.Content.HoldAdditions(ctx)
	if err != nil {
		return fail(err)
	}
	defer func() {
		if release != nil {
			release()
		}
	}()
	m := im.Manifest
	if m.Layers, err = Compress(ctx, s, m.Layers, Gzip, false); err != nil {
		return fail(err)
	}
	d, err := putManifest(s, m)
	if err != nil {
		return fail(err)
	}
	if err := s.Exchange(r.Manifest, d); err != nil {
		return fail(err)
	}
	release()
	release = nil
	if err := s.Discard(ctx, append(slices.DeleteFunc(im.Manifest.Layers, func(d image.Descriptor) bool { return !plain(d) }), r.Manifest), roots); err != nil {
		return fail(err)
	}
	r.Target, r.Manifest = d, d
	return r, nil
}

// plain tells a layer that is not packed. Docker's media types mean the same, and are kept: their manifests name no OCI layer.
func plain(d image.Descriptor) bool { return d.MediaType == image.MediaTypeLayer }

// Compress packs layers that are not packed, or, if they are to be, all that are packed otherwise: several at a time.
func Compress(ctx context.Context, s *store.Store, layers []image.Descriptor, how string, force bool) ([]image.Descriptor, error) {
	out := slices.Clone(layers)
	want := map[string]string{Uncompressed: image.MediaTypeLayer, Gzip: image.MediaTypeLayerGzip, Zstd: image.MediaTypeLayerZstd}[how]
	room := make(chan struct{}, 4)
	errs := make([]error, len(out))
	var wait sync.WaitGroup
	for i, d := range out {
		if d.MediaType == want || !plain(d) && !force {
			continue
		}
		wait.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			out[i], errs[i] = pack(ctx, s, d, how, want)
		})
	}
	wait.Wait()
	return out, errors.Join(errs...)
}

// pack makes the blob of a layer anew, packed in another way.
func pack(ctx context.Context, s *store.Store, d image.Descriptor, how, mediaType string) (image.Descriptor, error) {
	from, err := s.Blob(ctx, d, 0)
	if err != nil {
		return d, err
	}
	defer from.Close()
	stop := context.AfterFunc(ctx, func() { _ = from.Close() })
	defer stop()
	unpacked, _, err := unpack.Decompress(from)
	if err != nil {
		return d, err
	}
	in, out := io.Pipe()
	go func() { _ = out.CloseWithError(packTo(out, unpacked, how)) }()
	packed, err := s.Content.PutReader(in, mediaType)
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
