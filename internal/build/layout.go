package build

import (
	"context"
	"errors"
	"io"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/store"
	"berth/internal/image/unpack"
)

// fromLayout brings an image of a directory that is an OCI layout into the store, without a name: DIR, DIR:TAG or DIR@DIGEST.
func (b *builder) fromLayout(ctx context.Context, from string, p image.Platform) (im store.Image, err error) {
	dir, text, hasDigest := strings.Cut(from, "@")
	tag := ""
	var digest image.Digest
	if hasDigest {
		if digest, err = image.ParseDigest(text); err != nil {
			return im, err
		}
	} else if i := strings.LastIndexByte(dir, ':'); i > strings.LastIndexByte(dir, '/') {
		dir, tag = dir[:i], dir[i+1:]
	}
	open := func(_ context.Context, d image.Descriptor) (io.ReadCloser, error) { return openInLayout(dir, d.Digest) }
	read := verified(open)
	top, err := layoutManifest(dir, tag, digest)
	if err != nil {
		return im, err
	}
	d := top
	for depth := 0; image.IsIndex(d.MediaType); depth++ {
		raw, err := read(ctx, d, image.MaxManifest)
		if err != nil {
			return im, err
		}
		index, err := image.ParseIndex(raw, d.MediaType)
		if err != nil {
			return im, err
		}
		best, rank := -1, 0
		for i, m := range index.Manifests {
			if m.Platform == nil {
				continue
			}
			if n := image.Rank(p, *m.Platform); n >= 0 && (best < 0 || n < rank) {
				best, rank = i, n
			}
		}
		if best < 0 || depth == image.MaxIndexDepth {
			return im, errdef.New(errdef.NotFound, "%s has no image for %s", from, p)
		}
		d = index.Manifests[best]
	}
	raw, err := read(ctx, d, image.MaxManifest)
	if err != nil {
		return im, err
	}
	m, err := image.ParseManifest(raw, d.MediaType)
	if err != nil {
		return im, err
	}
	config, err := read(ctx, m.Config, image.MaxManifest)
	if err != nil {
		return im, err
	}
	if im.Config, err = image.ParseConfig(config); err != nil {
		return im, err
	}
	blobs := b.engine.Images.Content
	for _, l := range m.Layers {
		f, err := open(ctx, l)
		if err != nil {
			return im, err
		}
		got, err := blobs.PutReader(f, l.MediaType)
		if err = errors.Join(err, f.Close()); err == nil && got.Digest != l.Digest {
			err = errdef.New(errdef.Corrupt, "the blob %s of %s has the digest %s", l.Digest, dir, got.Digest)
		}
		if err != nil {
			return im, err
		}
	}
	if err := unpack.Image(ctx, unpack.FromBlobs(blobs, m), b.engine.Images.Layers, m, im.Config, b.unpackOptions()); err != nil {
		return im, err
	}
	im.Target, im.Record.Manifest, im.Manifest, im.Chain = top, d, m, image.ChainIDs(im.Config.RootFS.DiffIDs)
	return im, nil
}
