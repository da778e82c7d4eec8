package relay

import (
	"context"
	"io"
	"slices"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
)

// remote is an image of a registry, as a source and as a destination.
type remote struct {
	client *registry.Client
	ref    reference.Reference
	near   string // another repository of the registry that has the blobs
}

func (r remote) close() error  { return nil }
func (r remote) parallel() int { return 3 }

func (r remote) top(ctx context.Context) (image.Descriptor, []byte, error) {
	return r.client.Resolve(ctx, r.ref)
}

func (r remote) document(ctx context.Context, d image.Descriptor) ([]byte, error) {
	return r.client.Manifest(ctx, r.ref, d)
}

func (r remote) blob(ctx context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error) {
	return r.client.Blob(ctx, r.ref, d, offset)
}

func (r remote) putBlob(ctx context.Context, d image.Descriptor, open func(int64) (io.ReadCloser, error)) error {
	from := registry.Source{Open: open}
	if r.near != "" {
		from.From = []string{r.near}
	}
	_, err := r.client.PutBlob(ctx, r.ref, d, from)
	return err
}

func (r remote) putDocument(ctx context.Context, d image.Descriptor, raw []byte) error {
	return r.client.PutManifest(ctx, r.ref, string(d.Digest), d, raw)
}

func (r remote) name(ctx context.Context, d image.Descriptor, raw []byte) error {
	return r.client.PutManifest(ctx, r.ref, r.ref.Tag, d, raw)
}

// maxReferrers is more than an image has reason to have.
const maxReferrers = 1000

// referrers copies what refers to the documents that have been copied: by the registry's list or its fallback, and by cosign's tags.
func referrers(ctx context.Context, c *copier, from, to reference.Reference, top image.Digest) error {
	docs := slices.Clone(c.docs)
	for n := 0; n < len(docs); n++ {
		subject := docs[n].desc
		list, err := c.opt.Registry.Referrers(ctx, from, subject.Digest)
		if err != nil {
			return err
		}
		for _, d := range list {
			if len(docs) > maxReferrers {
				return errdef.New(errdef.Invalid, "more than %d manifests refer to %s", maxReferrers, top)
			}
			if c.seen[d.Digest] {
				continue
			}
			one := &copier{from: c.from, to: c.to, opt: c.opt, seen: c.seen}
			desc, raw, err := one.document(ctx, d)
			if err != nil {
				return err
			}
			var blobs []image.Descriptor
			if err := one.collect(ctx, desc, raw, 0, &blobs); err != nil {
				return err
			}
			if err := one.blobs(ctx, blobs); err != nil {
				return err
			}
			for _, doc := range one.docs {
				if err := c.to.putDocument(ctx, doc.desc, doc.raw); err != nil {
					return err
				}
			}
			c.tell("referrer", desc)
			d.MediaType = desc.MediaType
			if err := c.opt.Registry.Refer(ctx, to, subject.Digest, d); err != nil {
				return err
			}
			docs = append(docs, one.docs...)
		}
		for _, suffix := range registry.CosignSuffixes {
			if err := tagged(ctx, c, from, to, registry.FallbackTag(subject.Digest)+suffix); err != nil {
				return err
			}
		}
	}
	return nil
}

// tagged copies what a tag means, if there is one.
func tagged(ctx context.Context, c *copier, from, to reference.Reference, tag string) error {
	from.Tag, from.Digest, to.Tag, to.Digest = tag, "", tag, ""
	opt := c.opt
	opt.All = true
	one := &copier{from: remote{opt.Registry, from, ""}, to: remote{opt.Registry, to, ""}, opt: opt, seen: map[image.Digest]bool{}}
	desc, err := one.run(ctx)
	if errdef.Is(err, errdef.NotFound) {
		return nil
	}
	if err == nil {
		c.tell("referrer", desc)
	}
	return err
}
