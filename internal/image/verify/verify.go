// Package verify checks that what is kept of images is what their digests say: every blob is read, and every unpacked layer is
// compared with its blob, unpacked once more beside it.
//
// What is damaged is repaired only when that is asked for: a blob is fetched again from the registry that the image's name leads to, a layer's tree is exchanged
// for the one just unpacked. The package prints nothing.
package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
	"berth/internal/image/store"
	"berth/internal/image/unpack"
)

// Options of Images.
type Options struct {
	Unpack unpack.Options
	// Fetch gets a blob again that is not here any more, from where an image with that name has it. nil repairs nothing.
	Fetch func(ctx context.Context, ref reference.Reference, desc image.Descriptor) error
	// InUse says that a layer is mounted, so that it must not be exchanged.
	InUse func(chain image.Digest) bool
	// Found is told of each thing that is wrong, as it is found.
	Found func(Problem)
}

// Problem is something that is not what it should be.
type Problem struct {
	What     string // "blob", "layer" or "image"
	Digest   image.Digest
	Image    string // one that needs it; "" is none
	Err      error
	Repaired bool
}

// Summary counts what was looked at.
type Summary struct {
	Images, Blobs, Layers int
	Problems, Repaired    int
	// NotKept are layers that could not be compared, as their blobs are not kept.
	NotKept int
}

// check is one run.
type check struct {
	store   *store.Store
	opt     Options
	sum     Summary
	blobs   map[image.Digest]bool // looked at: whether it is good
	layers  map[image.Digest]bool
	fetched map[image.Digest]bool // blobs that were fetched again
	unkept  map[image.Digest]bool // blobs that need not be here
}

// Images checks the images of records; and all blobs, whether an image needs them or not, if records is nil. Its error is why it could not
// go on, not that something is wrong.
//
//	every image: index and manifests, config, blobs of the layers; then every layer, the lowest first
//	every other blob
func Images(ctx context.Context, s *store.Store, records []store.Record, opt Options) (Summary, error) {
	release, err := s.Content.HoldAdditions(ctx)
	if err != nil {
		return Summary{}, err
	}
	defer release()
	c := &check{store: s, opt: opt, blobs: map[image.Digest]bool{}, layers: map[image.Digest]bool{}, fetched: map[image.Digest]bool{}}
	origins, err := s.Layers.Origins()
	if err != nil {
		return c.sum, err
	}
	c.unkept = map[image.Digest]bool{}
	for blob := range origins {
		c.unkept[blob] = true
	}
	every := records == nil
	if every {
		if records, err = s.List(); err != nil {
			return c.sum, err
		}
	}
	for _, r := range records {
		if err := c.image(ctx, r); err != nil {
			return c.sum, err
		}
	}
	if !every {
		return c.sum, nil
	}
	return c.sum, s.Content.Walk(func(d image.Digest, info fs.FileInfo) error {
		_, err := c.blob(ctx, store.Record{}, image.Descriptor{Digest: d, Size: info.Size()}, true)
		return err
	})
}

func (c *check) report(what string, d image.Digest, r store.Record, err error, repaired bool) {
	c.sum.Problems++
	if repaired {
		c.sum.Repaired++
	}
	p := Problem{What: what, Digest: d, Err: err, Repaired: repaired}
	if ref, ok := r.Reference(); ok {
		p.Image = ref.Familiar()
	}
	c.opt.Found(p)
}

// image checks all of an image that is here. Of another platform than the one chosen there may be nothing.
func (c *check) image(ctx context.Context, r store.Record) error {
	c.sum.Images++
	for _, d := range []image.Descriptor{r.Target, r.Manifest} {
		if good, err := c.blob(ctx, r, d, true); err != nil || !good {
			return err
		}
	}
	for _, top := range []image.Descriptor{r.Target, r.Manifest} {
		if err := c.documents(ctx, r, top, top.Digest == r.Manifest.Digest, 0); err != nil {
			return err
		}
	}
	im, err := c.store.Load(r)
	if err != nil { // its blobs are reported if they are to blame
		if errdef.Is(err, errdef.Invalid) {
			c.report("image", r.ID, r, err, false)
		}
		return nil
	}
	for i, chain := range im.Chain {
		if err := c.layer(ctx, r, chain, im.Manifest.Layers[i]); err != nil {
			return err
		}
	}
	return nil
}

// documents checks what an index or a manifest names.
func (c *check) documents(ctx context.Context, r store.Record, d image.Descriptor, needed bool, depth int) error {
	if depth > image.MaxIndexDepth {
		return nil
	}
	raw, err := c.store.Content.ReadAll(d.Digest, image.MaxManifest)
	if err != nil {
		return nil // reported by now, or not here and not needed
	}
	mediaType, err := image.MediaTypeOf(raw, d.MediaType)
	if err != nil {
		c.report("image", d.Digest, r, err, false)
		return nil
	}
	if image.IsIndex(mediaType) {
		index, err := image.ParseIndex(raw, mediaType)
		if err != nil {
			c.report("image", d.Digest, r, err, false)
			return nil
		}
		for _, entry := range index.Manifests {
			chosen := entry.Digest == r.Manifest.Digest
			if good, err := c.blob(ctx, r, entry, chosen); err != nil || !good {
				return err
			}
			if err := c.documents(ctx, r, entry, chosen, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	m, err := image.ParseManifest(raw, mediaType)
	if err != nil {
		c.report("image", d.Digest, r, err, false)
		return nil
	}
	for _, blob := range append([]image.Descriptor{m.Config}, m.Layers...) {
		if _, err := c.blob(ctx, r, blob, needed && !c.unkept[blob.Digest]); err != nil {
			return err
		}
	}
	return nil
}

// blob reads a blob. One that is not needed may be absent.
func (c *check) blob(ctx context.Context, r store.Record, d image.Descriptor, needed bool) (good bool, _ error) {
	if good, seen := c.blobs[d.Digest]; seen {
		return good, nil
	}
	if !needed && !c.store.Content.Has(d.Digest) {
		return true, nil
	}
	c.sum.Blobs++
	wrong, err := c.readBlob(ctx, d)
	if err != nil {
		return false, err
	}
	repaired := false
	if wrong != nil {
		if repaired, err = c.fetch(ctx, r, d); err != nil {
			wrong = fmt.Errorf("%w; %w", wrong, err)
		}
		c.report("blob", d.Digest, r, wrong, repaired)
	}
	c.blobs[d.Digest] = wrong == nil || repaired
	return c.blobs[d.Digest], ctx.Err()
}

// readBlob says what is wrong with a blob.
func (c *check) readBlob(ctx context.Context, d image.Descriptor) (wrong, _ error) {
	f, err := c.store.Content.OpenAt(d.Digest, 0)
	if errdef.Is(err, errdef.NotFound) {
		return errdef.New(errdef.NotFound, "it is missing"), nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	digester := image.NewDigester(d.Digest.Algorithm())
	n, err := io.Copy(digester, cancellable{ctx, f})
	if ctx.Err() != nil {
		return nil, errdef.As(errdef.Cancelled, context.Cause(ctx))
	}
	switch {
	case err != nil:
		return errdef.New(errdef.Corrupt, "it cannot be read: %w", err), nil
	case n != d.Size:
		return errdef.New(errdef.Corrupt, "it has %d bytes, not %d", n, d.Size), nil
	case digester.Digest() != d.Digest:
		return errdef.New(errdef.Corrupt, "its digest is %s", digester.Digest()), nil
	}
	return nil, nil
}

type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c cancellable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// fetch gets a damaged blob again.
func (c *check) fetch(ctx context.Context, r store.Record, d image.Descriptor) (bool, error) {
	if c.opt.Fetch == nil {
		return false, nil
	}
	ref, ok := r.Reference()
	if !ok {
		return false, errors.New("no name says where it could be fetched again")
	}
	// It is of no use to anybody; and if the registry has it no more, that is then known.
	if err := c.store.Content.Delete(d.Digest); err != nil {
		return false, err
	}
	if err := c.opt.Fetch(ctx, ref, d); err != nil {
		return false, fmt.Errorf("it cannot be fetched again: %w", err)
	}
	c.fetched[d.Digest] = true
	return true, nil
}

// layer compares an unpacked layer with its blob.
func (c *check) layer(ctx context.Context, r store.Record, chain image.Digest, blob image.Descriptor) error {
	if c.layers[chain] {
		return nil
	}
	c.layers[chain] = true
	if !c.store.Layers.Has(chain) {
		c.sum.Layers++
		return c.missing(ctx, r, chain, blob)
	}
	if !c.store.Content.Has(blob.Digest) && c.unkept[blob.Digest] {
		c.sum.NotKept++
		return nil
	}
	if !c.blobs[blob.Digest] || !c.store.Content.Has(blob.Digest) && !c.store.Layers.Makes(chain) {
		return nil // with what should it be compared?
	}
	c.sum.Layers++
	f, err := c.store.Content.OpenAt(blob.Digest, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	made, result, err := unpack.Again(ctx, c.store.Layers, chain, f, c.opt.Unpack)
	if ctx.Err() != nil {
		return errdef.As(errdef.Cancelled, context.Cause(ctx))
	}
	if errdef.Is(err, errdef.Corrupt) {
		c.report("layer", chain, r, err, false)
		return nil
	}
	if err != nil {
		return err
	}
	defer made.Abort() //nolint:errcheck // a temporary directory that is left is swept
	differences, err := compare(made.Tree(), c.store.Layers.Path(chain), result.Implied)
	if err != nil || len(differences) == 0 {
		return err
	}
	wrong := errdef.New(errdef.Corrupt, "%s", differences)
	switch {
	case c.opt.Fetch == nil:
	case c.opt.InUse != nil && c.opt.InUse(chain):
		wrong = fmt.Errorf("%w; it is in use, and is not replaced", wrong)
	default:
		if err := c.store.Layers.Replace(made); err != nil {
			return err
		}
		c.report("layer", chain, r, wrong, true)
		return nil
	}
	c.report("layer", chain, r, wrong, false)
	return nil
}

// missing reports a layer that is not unpacked, and unpacks it.
func (c *check) missing(ctx context.Context, r store.Record, chain image.Digest, blob image.Descriptor) error {
	wrong := errdef.New(errdef.NotFound, "it is not unpacked")
	if c.opt.Fetch != nil { // it may be one that need not be here
		if _, err := c.blob(ctx, r, blob, true); err != nil {
			return err
		}
	}
	im, err := c.store.Load(r)
	if c.opt.Fetch == nil || err != nil || !c.blobs[blob.Digest] {
		c.report("layer", chain, r, wrong, false)
		return nil
	}
	i := slices.Index(im.Chain, chain)
	f, err := c.store.Content.OpenAt(blob.Digest, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	parent := image.Digest("")
	if i > 0 {
		parent = im.Chain[i-1]
	}
	_, err = unpack.Layer(ctx, c.store.Layers, parent, im.Config.RootFS.DiffIDs[i], f, c.opt.Unpack)
	if err != nil {
		wrong = fmt.Errorf("%w; %w", wrong, err)
	}
	c.report("layer", chain, r, wrong, err == nil)
	return nil
}
