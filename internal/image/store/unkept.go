package store

import (
	"context"
	"errors"
	"io"
	"slices"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/layer"
)

// Kept reports whether the blob of an unpacked layer is here, or is not to be because it can be made of the layer, or fetched again.
func (s *Store) Kept(chain, diffID, blob image.Digest) bool {
	return s.Content.Has(blob) || blob == diffID && s.Layers.Makes(chain) || s.Layers.HasOrigin(chain, blob)
}

// Release says that the layers of an image have come from a repository, and, where blobs are not kept (DropBlobs), deletes those of its blobs that
// nothing else needs. While somebody is adding to the content they are left to the next sweep.
func (s *Store) Release(ctx context.Context, m image.Manifest, chain []image.Digest, roots func() (Roots, error), repository string) error {
	if !s.DropBlobs {
		return nil
	}
	for i, l := range m.Layers {
		err := s.Layers.AddOrigin(chain[i], layer.Origin{Blob: l.Digest, Repository: repository})
		if err != nil && !errdef.Is(err, errdef.NotFound) { // removed meanwhile
			return err
		}
	}
	release, free, err := s.Content.TryHoldSweep()
	if err != nil || !free {
		return err
	}
	defer release()
	needed, err := roots()
	if err != nil {
		return err
	}
	marks, err := s.mark(needed, nil)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range m.Layers {
		if !marks.blobs[l.Digest] && s.Content.Has(l.Digest) {
			errs = append(errs, s.Content.Delete(l.Digest))
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// Blob gives the bytes of a blob from an offset on: as they are here, made of the layer (content.OpenAt), or fetched again from where they came; a blob
// that was fetched stays until the next sweep.
func (s *Store) Blob(ctx context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error) {
	r, err := s.Content.OpenAt(d.Digest, offset)
	if s.Fetch == nil || !errdef.Is(err, errdef.NotFound) {
		return r, err
	}
	origins, listErr := s.Layers.Origins()
	if listErr != nil || len(origins[d.Digest]) == 0 {
		return nil, errors.Join(err, listErr)
	}
	for _, repository := range slices.Backward(origins[d.Digest]) {
		if err = s.Fetch(ctx, repository, d); err == nil {
			r, err = s.Content.OpenAt(d.Digest, offset)
		}
		if err == nil {
			return r, nil
		}
		err = errdef.New(errdef.KindOf(err), "blob %s is not kept here, and cannot be fetched again from %s: %w", d.Digest, repository, err)
	}
	return nil, errdef.Hint(err, "with keep-blobs = true the next pull keeps what it fetches")
}
