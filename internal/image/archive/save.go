package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
	"berth/internal/image/store"
	"berth/internal/image/transfer"
)

// Save writes images, given by names or IDs, as a tar that is an OCI layout and a docker-archive at once. As in
// docker a name without a tag stands for all tags of its repository. The same images give the same bytes.
// platform, unless nil, is the one that is saved of each.
func Save(ctx context.Context, s *store.Store, namesOrIDs []string, platform *image.Platform, w io.Writer) error {
	images, err := chooseImages(s, namesOrIDs, platform)
	if err != nil {
		return fmt.Errorf("cannot save images: %w", err)
	}
	out := &writer{tar: tar.NewWriter(w), written: map[string]bool{}}
	if err := out.images(ctx, s, images); err != nil {
		return fmt.Errorf("cannot save images: %w", err)
	}
	return nil
}

// SaveAll writes all that an image's name stands for, every manifest of its index, as a tar that is an OCI layout. names are its names there.
func SaveAll(ctx context.Context, s *store.Store, r store.Record, names []string, w io.Writer) error {
	set, missing, err := transfer.Collect(s.Content, r.Target)
	if err == nil && len(missing) > 0 {
		err = errdef.New(errdef.NotFound, "manifest %s is not here", missing[0].Digest)
	}
	if err != nil {
		return fmt.Errorf("cannot save the image: %w", err)
	}
	out := &writer{tar: tar.NewWriter(w), written: map[string]bool{}}
	index := image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex}
	d := plainDescriptor(r.Target)
	for _, name := range names {
		ref, err := reference.Parse(name)
		if err != nil {
			return err
		}
		d.Annotations = map[string]string{containerAnnotation: ref.String(), refNameAnnotation: ref.Tag}
		index.Manifests = append(index.Manifests, d)
	}
	if len(names) == 0 {
		index.Manifests = []image.Descriptor{d}
	}
	for _, document := range set.Documents {
		set.Blobs = append(set.Blobs, document.Desc)
	}
	for _, d := range set.Blobs {
		if err := out.blob(ctx, s, d); err != nil {
			return fmt.Errorf("cannot save the image: %w", err)
		}
	}
	return out.end(map[string]any{"index.json": index})
}

// saved is one image with the names under which it is saved.
type saved struct {
	store.Image
	names []reference.Reference
}

func chooseImages(s *store.Store, namesOrIDs []string, platform *image.Platform) ([]*saved, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	var chosen []*saved
	add := func(r store.Record, named bool) error {
		if platform != nil {
			var err error
			if r.Manifest, err = s.For(r, *platform); err != nil {
				return err
			}
		}
		var to *saved
		for _, c := range chosen {
			if c.Record.Manifest.Digest == r.Manifest.Digest {
				to = c
			}
		}
		if to == nil {
			img, err := s.Load(r)
			if err != nil {
				return err
			}
			to = &saved{Image: img}
			chosen = append(chosen, to)
		}
		if ref, ok := r.Reference(); ok && named && ref.Tag != "" {
			for _, have := range to.names {
				if have == ref {
					return nil
				}
			}
			to.names = append(to.names, ref)
		}
		return nil
	}
	for _, ask := range namesOrIDs {
		ref, err := reference.Parse(ask)
		matched := false
		if err == nil && ref.Digest == "" && !strings.HasSuffix(ask, ":"+ref.Tag) { // no tag was given
			for _, r := range all {
				if have, ok := r.Reference(); ok && have.Repository() == ref.Repository() {
					matched = true
					if err := add(r, true); err != nil {
						return nil, err
					}
				}
			}
		}
		if matched {
			continue
		}
		r, findErr := s.Find(ask)
		if findErr != nil {
			return nil, findErr
		}
		if err := add(r, err == nil && r.Name == ref.String()); err != nil {
			return nil, err
		}
	}
	return chosen, nil
}

type writer struct {
	tar     *tar.Writer
	written map[string]bool
}

func (w *writer) images(ctx context.Context, s *store.Store, images []*saved) error {
	index := image.Index{SchemaVersion: 2, MediaType: image.MediaTypeIndex, Manifests: []image.Descriptor{}}
	var entries []dockerEntry
	for _, dir := range []string{"blobs/", "blobs/" + image.SHA256 + "/"} {
		if err := w.tar.WriteHeader(&tar.Header{Name: dir, Mode: 0o755, Typeflag: tar.TypeDir, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	for _, img := range images {
		blobs := append([]image.Descriptor{img.Record.Manifest, img.Manifest.Config}, img.Manifest.Layers...)
		for _, d := range blobs {
			if err := w.blob(ctx, s, d); err != nil {
				return err
			}
		}
		entry := dockerEntry{Config: blobPath(img.Manifest.Config.Digest)}
		for _, l := range img.Manifest.Layers {
			entry.Layers = append(entry.Layers, blobPath(l.Digest))
		}
		sort.Slice(img.names, func(i, j int) bool { return img.names[i].String() < img.names[j].String() })
		d := plainDescriptor(img.Record.Manifest)
		d.MediaType = img.Manifest.MediaType
		for _, ref := range img.names {
			entry.RepoTags = append(entry.RepoTags, ref.Familiar())
			named := d
			named.Annotations = map[string]string{containerAnnotation: ref.String(), refNameAnnotation: ref.Tag}
			index.Manifests = append(index.Manifests, named)
		}
		if len(img.names) == 0 {
			index.Manifests = append(index.Manifests, d)
		}
		entries = append(entries, entry)
	}
	return w.end(map[string]any{"index.json": index, "manifest.json": entries})
}

// end writes the documents, by their names, that say what the archive is.
func (w *writer) end(documents map[string]any) error {
	documents["oci-layout"] = map[string]string{"imageLayoutVersion": "1.0.0"}
	for _, name := range []string{"index.json", "manifest.json", "oci-layout"} {
		v, ok := documents[name]
		if !ok {
			continue
		}
		data, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := w.file(name, int64(len(data)), strings.NewReader(string(data))); err != nil {
			return err
		}
	}
	return w.tar.Close()
}

func blobPath(d image.Digest) string { return "blobs/" + d.Algorithm() + "/" + d.Hex() }

// blob writes a blob once. Its digest is verified on the way: what is damaged here must not be carried on.
func (w *writer) blob(ctx context.Context, s *store.Store, d image.Descriptor) error {
	name := blobPath(d.Digest)
	if w.written[name] {
		return nil
	}
	w.written[name] = true
	if err := ctx.Err(); err != nil {
		return errdef.As(errdef.Cancelled, context.Cause(ctx))
	}
	f, err := s.Blob(ctx, d, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	digester := image.NewDigester(d.Digest.Algorithm())
	if err := w.file(name, d.Size, io.TeeReader(f, digester)); err != nil {
		return err
	}
	if got := digester.Digest(); got != d.Digest {
		return errdef.Hint(errdef.New(errdef.Corrupt, "blob %s has the digest %s", d.Digest, got), "remove the image and pull it again")
	}
	return nil
}

func (w *writer) file(name string, size int64, content io.Reader) error {
	err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)})
	if err != nil {
		return err
	}
	if _, err := io.Copy(w.tar, content); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}
