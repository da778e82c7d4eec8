package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
)

// RemovePlatforms removes what an image has for some platforms, and leaves its name with the others; where none is left, the name goes as
// with Remove. What another name needs, or a container, is not removed.
func (s *Store) RemovePlatforms(ctx context.Context, nameOrID string, platforms []image.Platform, force bool, uses []Use, roots Roots) (Removed, error) {
	fail := func(err error) (Removed, error) {
		return Removed{}, fmt.Errorf("cannot remove platforms of image %q: %w", nameOrID, err)
	}
	r, err := s.Find(nameOrID)
	if err != nil {
		return fail(err)
	}
	all, err := s.Variants(r)
	if err != nil {
		return fail(err)
	}
	doomed, left, err := split(all, platforms)
	if err != nil {
		return fail(err)
	}
	if len(left) == 0 {
		return s.Remove(ctx, nameOrID, force, uses, roots)
	}
	release, err := s.Content.HoldSweep(ctx)
	if err != nil {
		return fail(err)
	}
	defer release()
	lock, err := s.lock()
	if err != nil {
		return fail(err)
	}
	defer lock.Unlock()
	if err := s.mayGo(r, doomed, force, uses); err != nil {
		return fail(err)
	}
	if slices.ContainsFunc(doomed, func(v Variant) bool { return v.Descriptor.Digest == r.Manifest.Digest }) {
		r.Manifest, r.ID = left[0].Descriptor, left[0].ID
		if err := s.write(r); err != nil {
			return fail(err)
		}
	}
	var removed Removed
	// First the manifests, which are what leads to the rest: if we die here, a sweep finds it.
	for _, v := range doomed {
		if err := s.Content.Delete(v.Descriptor.Digest); err != nil {
			return fail(err)
		}
		removed.Deleted = append(removed.Deleted, v.Descriptor.Digest)
	}
	used := RootsOf(uses)
	m, err := s.mark(Roots{append(used.Chains, roots.Chains...), roots.Blobs}, nil)
	if err != nil {
		return removed, err
	}
	for _, v := range doomed {
		for _, d := range append(v.Manifest.Layers, v.Manifest.Config) {
			if !m.blobs[d.Digest] {
				err = errors.Join(err, s.Content.Delete(d.Digest))
			}
		}
		for i := len(v.Chain) - 1; i >= 0; i-- {
			if !m.chains[v.Chain[i]] && s.Layers.Has(v.Chain[i]) {
				err = errors.Join(err, s.Layers.Remove(ctx, v.Chain[i]))
				removed.Deleted = append(removed.Deleted, v.Chain[i])
			}
		}
	}
	return removed, err
}

// split says which of the variants that are here are asked for, and which images are left.
func split(all []Variant, platforms []image.Platform) (doomed, left []Variant, err error) {
	found := make([]bool, len(platforms))
	for _, v := range all {
		if !v.Present || v.Attestation {
			continue
		}
		i := slices.IndexFunc(platforms, func(p image.Platform) bool { return image.Rank(p, v.Platform()) == 0 })
		if i < 0 {
			left = append(left, v)
			continue
		}
		found[i] = true
		doomed = append(doomed, v)
	}
	if i := slices.Index(found, false); i >= 0 {
		return nil, nil, errdef.New(errdef.NotFound, "no image for platform %s", platforms[i])
	}
	return doomed, left, nil
}

// mayGo says why variants of the image r must stay. Locks are held.
func (s *Store) mayGo(r Record, doomed []Variant, force bool, uses []Use) error {
	records, err := s.List()
	if err != nil {
		return err
	}
	for _, v := range doomed {
		for _, other := range records {
			if other.fileKey() != r.fileKey() && other.Manifest.Digest == v.Descriptor.Digest {
				name := other.fileKey()
				if ref, err := reference.Parse(name); err == nil {
					name = ref.Familiar()
				}
				return errdef.New(errdef.Conflict, "image %s needs %s", name, v.Platform())
			}
		}
		for _, use := range uses {
			if use.Image == v.ID && (use.Running || !force) {
				return errdef.New(errdef.Conflict, "%s uses %s", use.Owner(), v.Platform())
			}
		}
	}
	return nil
}
