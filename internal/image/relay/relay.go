// Package relay copies images from one place to another, byte for byte and past the store: between registries, OCI layouts in
// directories and in tars, docker's archives, and the directories of skopeo's "dir:".
//
//	docker://NAME           a registry
//	oci:DIR[:NAME]          an OCI layout; NAME is its org.opencontainers.image.ref.name
//	oci-archive:FILE[:NAME] the same in a tar
//	docker-archive:FILE[:NAME]  what "docker save" writes; as a destination it is an OCI layout as well
//	dir:DIR                 the manifest and the blobs of one image, side by side
//
// A *source* gives documents (manifests and indexes) and blobs by their digests, a *destination* takes them; what goes from one to the other
// is verified on the way, and a destination's name is given last. Nothing is converted: what an archive cannot hold is an error.
// It unpacks nothing and knows no store.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/policy"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
)

// source is where an image comes from. What it gives is not verified.
type source interface {
	// top is what the name means: an index or a manifest.
	top(ctx context.Context) (image.Descriptor, []byte, error)
	document(ctx context.Context, d image.Descriptor) ([]byte, error)
	// blob gives the bytes from offset on.
	blob(ctx context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error)
	close() error
}

// destination is where an image goes to.
type destination interface {
	// putBlob stores a blob unless it is there. open gives its bytes, and may be called several times.
	putBlob(ctx context.Context, d image.Descriptor, open func(offset int64) (io.ReadCloser, error)) error
	// putDocument stores a document, all of whose parts are there.
	putDocument(ctx context.Context, d image.Descriptor, raw []byte) error
	// name gives the document, which is there, the destination's name, and makes all of it durable.
	name(ctx context.Context, d image.Descriptor, raw []byte) error
	// parallel is how many blobs may be put at a time.
	parallel() int
	// close gives up what has no name yet.
	close() error
}

// Options of Copy.
type Options struct {
	Registry *registry.Client
	Policy   policy.Policy
	// Platform chooses from an index; nil is the host's. All copies every platform, and the index.
	Platform *image.Platform
	All      bool
	// Referrers copies what refers to the image, too: signatures, attestations, SBOMs. Both places must be registries.
	Referrers bool
	// Progress is told of each blob and document that is there; nil tells nobody.
	Progress func(what string, d image.Descriptor)
}

// place is a parsed argument.
type place struct {
	transport, path, name string
	ref                   reference.Reference
}

func parse(text string) (place, error) {
	if name, ok := strings.CutPrefix(text, "docker://"); ok {
		ref, err := reference.Parse(name)
		return place{transport: policy.Docker, ref: ref}, err
	}
	transport, rest, _ := strings.Cut(text, ":")
	p := place{transport: transport}
	switch transport {
	case policy.OCI, policy.OCIArchive, policy.DockerArchive:
		p.path, p.name, _ = strings.Cut(rest, ":")
	case policy.Dir:
		p.path = rest
	default:
		return p, errdef.Hint(errdef.New(errdef.Invalid, "%q does not begin with docker://, oci:, oci-archive:, docker-archive: or dir:", text), "for an image of a registry: docker://%s", text)
	}
	if p.path == "" {
		return p, errdef.New(errdef.Invalid, "%q names no file", text)
	}
	return p, nil
}

// Copy copies an image, and returns what the destination's name means now.
//
//	top: an index -> all that it names, or the platform's manifest
//	every blob, several at a time; the documents, what others name first; the name
//	what refers to it, if that is asked for
func Copy(ctx context.Context, from, to string, opt Options) (image.Descriptor, error) {
	fail := func(err error) (image.Descriptor, error) {
		return image.Descriptor{}, fmt.Errorf("cannot copy %s to %s: %w", from, to, err)
	}
	a, err := parse(from)
	if err != nil {
		return fail(err)
	}
	b, err := parse(to)
	if err != nil {
		return fail(err)
	}
	if a.transport == policy.Docker {
		err = opt.Policy.Registry(a.ref)
	} else {
		err = opt.Policy.File(a.transport, a.path, a.name)
	}
	if err != nil {
		return fail(err)
	}
	if opt.Referrers && (a.transport != policy.Docker || b.transport != policy.Docker) {
		return fail(errdef.New(errdef.Invalid, "what refers to an image can be copied between registries only"))
	}
	src, err := openSource(ctx, a, opt)
	if err != nil {
		return fail(err)
	}
	defer src.close() //nolint:errcheck // only read
	dst, err := openDestination(a, b, opt)
	if err != nil {
		return fail(err)
	}
	c := &copier{from: src, to: dst, opt: opt, seen: map[image.Digest]bool{}}
	top, err := c.run(ctx)
	if err == nil && opt.Referrers {
		err = referrers(ctx, c, a.ref, b.ref, top.Digest)
	}
	if err = errors.Join(err, dst.close()); err != nil {
		return fail(err)
	}
	return top, nil
}

func openSource(ctx context.Context, p place, opt Options) (source, error) {
	switch p.transport {
	case policy.Docker:
		return remote{opt.Registry, p.ref, ""}, nil
	case policy.OCI:
		return openLayout(p.path, p.name)
	case policy.Dir:
		return directory{p.path}, nil
	}
	return openArchive(ctx, p)
}

func openDestination(from, p place, opt Options) (destination, error) {
	switch p.transport {
	case policy.Docker:
		if p.ref.Tag == "" {
			return nil, errdef.New(errdef.Invalid, "an image is pushed under a tag")
		}
		r := remote{opt.Registry, p.ref, ""}
		if from.ref.Domain == p.ref.Domain && from.ref.Path != p.ref.Path {
			r.near = from.ref.Path
		}
		return r, nil
	case policy.OCI:
		return makeLayout(p.path, p.name)
	case policy.Dir:
		return makeDirectory(p.path)
	}
	return makeArchive(p)
}

// copier is one copy.
type copier struct {
	from source
	to   destination
	opt  Options
	seen map[image.Digest]bool
	docs []document // in the order in which they are put
}

type document struct {
	desc image.Descriptor
	raw  []byte
}

func (c *copier) run(ctx context.Context) (image.Descriptor, error) {
	desc, raw, err := c.from.top(ctx)
	if err != nil {
		return desc, err
	}
	if desc, raw, err = c.choose(ctx, desc, raw); err != nil {
		return desc, err
	}
	var blobs []image.Descriptor
	if err := c.collect(ctx, desc, raw, 0, &blobs); err != nil {
		return desc, err
	}
	if err := c.blobs(ctx, blobs); err != nil {
		return desc, err
	}
	for _, d := range c.docs {
		if err := c.to.putDocument(ctx, d.desc, d.raw); err != nil {
			return desc, err
		}
		c.tell("manifest", d.desc)
	}
	return desc, c.to.name(ctx, desc, raw)
}

func (c *copier) tell(what string, d image.Descriptor) {
	if c.opt.Progress != nil {
		c.opt.Progress(what, d)
	}
}

// choose goes through indexes to the platform's manifest, unless all is copied.
func (c *copier) choose(ctx context.Context, desc image.Descriptor, raw []byte) (image.Descriptor, []byte, error) {
	want := image.HostPlatform()
	if c.opt.Platform != nil {
		want = *c.opt.Platform
	}
	for depth := 0; !c.opt.All && image.IsIndex(desc.MediaType); depth++ {
		if depth == image.MaxIndexDepth {
			return desc, nil, errdef.New(errdef.Invalid, "indexes are nested more than %d deep", image.MaxIndexDepth)
		}
		index, err := image.ParseIndex(raw, desc.MediaType)
		if err != nil {
			return desc, nil, err
		}
		next, err := image.Select(index, want)
		if err != nil {
			return desc, nil, err
		}
		if desc, raw, err = c.document(ctx, next); err != nil {
			return desc, nil, err
		}
	}
	return desc, raw, nil
}

// document gets and verifies one.
func (c *copier) document(ctx context.Context, d image.Descriptor) (image.Descriptor, []byte, error) {
	if d.Size < 0 || d.Size > image.MaxManifest {
		return d, nil, errdef.New(errdef.Invalid, "manifest %s has %d bytes; at most %d are read", d.Digest, d.Size, image.MaxManifest)
	}
	raw, err := c.from.document(ctx, d)
	if err != nil {
		return d, nil, err
	}
	if err := d.Digest.Verify(raw); err != nil {
		return d, nil, errdef.As(errdef.Corrupt, err)
	}
	d.MediaType, err = image.MediaTypeOf(raw, d.MediaType)
	d.Size = int64(len(raw))
	return d, raw, err
}

// maxDocuments is more than an index has reason to name.
const maxDocuments = 10_000

func (c *copier) collect(ctx context.Context, d image.Descriptor, raw []byte, depth int, blobs *[]image.Descriptor) error {
	if c.seen[d.Digest] {
		return nil
	}
	c.seen[d.Digest] = true
	if depth > image.MaxIndexDepth || len(c.docs) > maxDocuments {
		return errdef.New(errdef.Invalid, "%s names too many manifests, or too deeply", d.Digest)
	}
	if image.IsIndex(d.MediaType) {
		index, err := image.ParseIndex(raw, d.MediaType)
		if err != nil {
			return err
		}
		for _, entry := range index.Manifests {
			below, raw, err := c.document(ctx, entry)
			if err != nil {
				return err
			}
			if err := c.collect(ctx, below, raw, depth+1, blobs); err != nil {
				return err
			}
		}
	} else {
		m, err := image.ParseManifest(raw, d.MediaType)
		if err != nil {
			return err
		}
		for _, b := range append([]image.Descriptor{m.Config}, m.Layers...) {
			if !c.seen[b.Digest] {
				c.seen[b.Digest] = true
				*blobs = append(*blobs, b)
			}
		}
	}
	c.docs = append(c.docs, document{d, raw})
	return nil
}

// blobs brings the blobs over. The first error ends all.
func (c *copier) blobs(ctx context.Context, blobs []image.Descriptor) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan image.Descriptor, len(blobs))
	for _, d := range blobs {
		next <- d
	}
	close(next)
	var (
		all sync.WaitGroup
		one sync.Once
		why error
	)
	for range min(c.to.parallel(), len(blobs)) {
		all.Go(func() {
			for d := range next {
				err := c.to.putBlob(ctx, d, func(offset int64) (io.ReadCloser, error) { return c.open(ctx, d, offset) })
				if err != nil {
					one.Do(func() { why = err; cancel(err) })
					return
				}
				c.tell("blob", d)
			}
		})
	}
	all.Wait()
	return why
}

// open opens a blob of the source. Read from its beginning it is verified, so that what is wrong never ends well.
func (c *copier) open(ctx context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, err
	}
	r, err := c.from.blob(ctx, d, offset)
	if err != nil || offset > 0 {
		return r, err
	}
	return &verified{r, d, image.NewDigester(d.Digest.Algorithm())}, nil
}

// verified is a blob that ends with an error if it is not what it should be.
type verified struct {
	io.ReadCloser
	desc     image.Descriptor
	digester *image.Digester
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	_, _ = v.digester.Write(p[:n])
	switch {
	case v.digester.Size() > v.desc.Size:
		n, err = 0, errdef.New(errdef.Corrupt, "blob %s has more than the announced %d bytes", v.desc.Digest, v.desc.Size)
	case err == io.EOF && (v.digester.Size() != v.desc.Size || v.digester.Digest() != v.desc.Digest):
		err = errdef.New(errdef.Corrupt, "blob %s is another: it has %d bytes and the digest %s", v.desc.Digest, v.digester.Size(), v.digester.Digest())
	}
	return n, err
}
