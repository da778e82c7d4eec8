package store

import (
	"berth/internal/errdef"
	"berth/internal/image"
)

// Variant is one manifest of an image: what it is for, and whether all of it is here.
type Variant struct {
	Descriptor image.Descriptor
	Image      // of the variant; without config and chain unless Present
	// Present says that its manifest, its config and the blobs of its layers are here.
	Present bool
	// Attestation says that it is no image, but tells about one.
	Attestation bool
	Bytes       int64 // of the blobs that are here
}

// Variants are the manifests that an image's name stands for, in the order of its index; of an image without an index, its one.
func (s *Store) Variants(r Record) ([]Variant, error) {
	var all []Variant
	if err := s.variants(r.Target, 0, &all); err != nil {
		return nil, err
	}
	return all, nil
}

func (s *Store) variants(d image.Descriptor, depth int, all *[]Variant) error {
	if depth > image.MaxIndexDepth {
		return errdef.New(errdef.Invalid, "indexes are nested more than %d deep", image.MaxIndexDepth)
	}
	if image.IsIndex(d.MediaType) {
		data, err := s.Content.ReadAll(d.Digest, image.MaxManifest)
		if err != nil {
			return err
		}
		index, err := image.ParseIndex(data, d.MediaType)
		if err != nil {
			return err
		}
		for _, entry := range index.Manifests {
			if depth > 0 && image.IsIndex(entry.MediaType) && !s.Content.Has(entry.Digest) {
				continue
			}
			if err := s.variants(entry, depth+1, all); err != nil && !errdef.Is(err, errdef.NotFound) {
				return err
			}
		}
		return nil
	}
	v := Variant{Descriptor: d, Attestation: d.Annotations["vnd.docker.reference.type"] != "" || d.Platform != nil && d.Platform.OS == "unknown"}
	img, err := s.load(d)
	if err == nil {
		v.Image = img
		v.Present = true
		v.Bytes = d.Size
		for i, b := range append([]image.Descriptor{img.Manifest.Config}, img.Manifest.Layers...) {
			switch {
			case s.Content.Has(b.Digest):
				v.Bytes += b.Size
			case i == 0 || !s.Kept(img.Chain[i-1], img.Config.RootFS.DiffIDs[i-1], b.Digest):
				v.Present = false
			}
		}
	} else if !skippable(err) {
		return err
	}
	*all = append(*all, v)
	return nil
}

// Platform is what a variant is for, as its index or its config says.
func (v Variant) Platform() image.Platform {
	if v.Descriptor.Platform != nil {
		return *v.Descriptor.Platform
	}
	return v.Config.Platform
}

// For returns the manifest of an image for a platform, all of which is here.
func (s *Store) For(r Record, want image.Platform) (image.Descriptor, error) {
	all, err := s.Variants(r)
	if err != nil {
		return image.Descriptor{}, err
	}
	best, rank := -1, 0
	for i, v := range all {
		if !v.Present || v.Attestation {
			continue
		}
		if n := image.Rank(want, v.Platform()); n >= 0 && (best < 0 || n < rank) {
			best, rank = i, n
		}
	}
	if best < 0 {
		name := r.fileKey()
		if ref, ok := r.Reference(); ok {
			name = ref.Familiar()
		}
		return image.Descriptor{}, errdef.New(errdef.NotFound, "image with reference %s was found but does not provide the specified platform (%s)", name, want)
	}
	return all[best].Descriptor, nil
}
