// Package build carries a Dockerfile out: it reads the context, has the plan made (build/dockerfile), runs and copies what the cache does
// not have (build/cache, build/files, engine), and puts the image into the store.
//
// The story is in Build. A step's result is looked for under a key of all that it depends on, and made by one build at a time. What is
// half-made lies in a directory of its own that a sweep finds; a layer has its name, and a record of the cache, only when it is whole.
//
// The package parses no flags, and knows the grammar of Dockerfiles only by their plan.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"berth/internal/build/cache"
	"berth/internal/build/dockerfile"
	"berth/internal/container"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/image"
)

// Options are what is to be built, and how.
type Options struct {
	Source      Source
	Target      string
	Args        map[string]string
	Labels      map[string]string
	Annotations map[string]string // of the manifest
	Contexts    map[string]string // --build-context: names -> directories, or images with docker-image:// or oci-layout://
	Outputs     []Output
	Stdout      io.Writer
	Tags        []string
	Platform    image.Platform // the zero value is the host's
	NoCache     bool
	NoCacheFor  []string // stages
	Pull        bool
	Epoch       *time.Time // SOURCE_DATE_EPOCH
	// Insecure allows RUN --security=insecure.
	Insecure bool
	Secret   Secret            // nil knows none
	SSH      map[string]string // sockets of agents, by their ids
	// Run is what every RUN is given: limits, hosts, the network.
	Run      container.Config
	Progress *Progress
}

// Epoch reads SOURCE_DATE_EPOCH, seconds since 1970; nil if it is empty.
func Epoch(s string) (*time.Time, error) {
	if s == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return nil, errdef.New(errdef.Invalid, "invalid SOURCE_DATE_EPOCH: %s", s)
	}
	t := time.Unix(n, 0).UTC()
	return &t, nil
}

// Result is what has been built.
type Result struct {
	Warnings []dockerfile.Warning
	ID       image.Digest // of the config: docker's image ID
	Manifest image.Descriptor
	Names    []string // canonical
}

// builder is one build.
type builder struct {
	Options
	engine   *engine.Engine
	cache    cache.Store
	source   *source
	plan     *dockerfile.Plan
	now      time.Time
	results  map[*dockerfile.Stage]*result
	bases    map[string]base // by reference and platform
	mu       sync.Mutex      // guards what follows
	digests  map[string]fileDigest
	learnt   bool // something of digests is new
	warnings []dockerfile.Warning
	ends     []func() error // what is to be done when all is over
}

// later has something done when the build is over.
func (b *builder) later(end func() error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ends = append(b.ends, end)
}

func (b *builder) end() {
	for _, end := range b.ends {
		_ = end() // what is left is swept
	}
}

// layers are what a tree consists of.
type layers struct {
	chain   []image.Digest // chain IDs, the lowest first
	diffIDs []image.Digest
	blobs   []image.Descriptor
}

func (l layers) top() image.Digest {
	if len(l.chain) == 0 {
		return ""
	}
	return l.chain[len(l.chain)-1]
}

// result is what a stage has come to.
type result struct {
	layers
	created map[int]time.Time // of entries of the history
	done    chan struct{}     // closed when err, or all else, is known
	err     error
}

// Build builds an image and names it.
func Build(ctx context.Context, e *engine.Engine, o Options) (Result, error) {
	b, err := begin(e, o)
	if err != nil {
		return Result{}, err
	}
	if err := errors.Join(b.cache.Sweep(e.RemoveTree), cache.SweepIn(filepath.Join(e.Settings.RunRoot, "build"), os.RemoveAll)); err != nil {
		return Result{}, err
	}
	// From the first layer on until the image has a name, nothing is swept.
	release, err := e.Images.Content.HoldAdditions(ctx)
	if err != nil {
		return Result{}, err
	}
	defer release()
	defer b.end()
	if b.source, err = b.open(ctx); err != nil {
		return Result{}, err
	}
	defer b.source.close()
	if b.plan, err = b.decide(ctx); err != nil {
		return Result{}, b.explained(err)
	}
	if err := b.stages(ctx); err != nil {
		return Result{}, b.explained(err)
	}
	return b.export(ctx)
}

// Found is what a check has found.
type Found struct {
	Name, Text string // of the Dockerfile
	Warnings   []dockerfile.Warning
}

// Check only looks at the Dockerfile, and at the images that it begins with.
func Check(ctx context.Context, e *engine.Engine, o Options) (Found, error) {
	b, err := begin(e, o)
	if err != nil {
		return Found{}, err
	}
	defer b.end()
	if b.source, err = b.open(ctx); err != nil {
		return Found{}, err
	}
	defer b.source.close()
	if b.plan, err = b.decide(ctx); err != nil {
		return Found{}, b.explained(err)
	}
	return Found{b.source.name, string(b.source.text), b.warnings}, nil
}

// begin checks what can be checked at once.
func begin(e *engine.Engine, o Options) (_ *builder, err error) {
	for _, out := range o.Outputs {
		if out.Name != "" && (out.Type == OutputImage || out.Type == OutputDocker || out.Type == OutputOCI) {
			o.Tags = append(o.Tags, strings.Split(out.Name, ",")...)
		}
	}
	if o.Tags, err = checkTags(o.Tags); err != nil {
		return nil, err
	}
	for name, value := range o.Contexts {
		if scheme, _, ok := strings.Cut(value, "://"); ok && !strings.HasPrefix(value, imageContext) {
			return nil, errdef.New(errdef.Unsupported, "cannot use the context %s=%s: it is a directory or %sNAME, and not %s", name, value, imageContext, scheme)
		}
	}
	if o.Platform.OS == "" {
		o.Platform = image.HostPlatform()
	}
	b := &builder{
		Options: o, engine: e, cache: cache.Open(e.Settings.DataRoot), now: time.Now().UTC(),
		results: map[*dockerfile.Stage]*result{}, bases: map[string]base{}, digests: map[string]fileDigest{},
	}
	if o.Epoch != nil {
		b.now = *o.Epoch
	}
	if b.Secret == nil {
		b.Secret = func(string) ([]byte, error) { return nil, fs.ErrNotExist }
	}
	return b, nil
}

// SourceError is a failure with the part of the Dockerfile that it is about.
type SourceError struct {
	Excerpt string
	Err     error
}

func (e *SourceError) Error() string { return "failed to solve: " + e.Err.Error() }
func (e *SourceError) Unwrap() error { return e.Err }

// explained shows the lines that an error is about.
func (b *builder) explained(err error) error {
	var at *dockerfile.Error
	if !errors.As(err, &at) {
		return &SourceError{"", err}
	}
	return &SourceError{dockerfile.Excerpt(b.source.name, string(b.source.text), at.Lines), err}
}

// decide makes the plan. Images that it needs are pulled on the way, since what is to be done depends on their configuration.
func (b *builder) decide(ctx context.Context) (*dockerfile.Plan, error) {
	return dockerfile.Make(b.source.text, dockerfile.Options{
		Contexts: b.contexts(), Args: b.Args, Target: b.Target, Labels: b.Labels, Platform: b.Platform, Build: image.HostPlatform(), Epoch: b.Epoch,
		Warn: func(w dockerfile.Warning) { b.warnings = append(b.warnings, w) },
		Image: func(ref string, p image.Platform) (image.Image, error) {
			base, err := b.base(ctx, ref, p)
			return base.Config, err
		},
	})
}

// imageContext begins a further context that is an image.
const imageContext = "docker-image://"

// contexts are the further contexts as the plan knows them.
func (b *builder) contexts() map[string]string {
	all := map[string]string{}
	for name, value := range b.Contexts {
		ref, _ := strings.CutPrefix(value, imageContext)
		if ref == value {
			ref = ""
		}
		all[name] = ref
	}
	return all
}

// stages carries all stages out, each as soon as those that it needs are there. The first error ends the others.
func (b *builder) stages(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, s := range b.plan.Stages {
		b.results[s] = &result{created: map[int]time.Time{}, done: make(chan struct{})}
	}
	var wait sync.WaitGroup
	for _, s := range b.plan.Stages {
		wait.Go(func() {
			r := b.results[s]
			defer close(r.done)
			for _, need := range s.Needs() {
				<-b.results[need].done
				if r.err = b.results[need].err; r.err != nil {
					return
				}
			}
			if r.err = b.stage(ctx, s, r); r.err != nil {
				cancel(r.err)
			}
		})
	}
	wait.Wait()
	// The cause is the first failure, not what the others were ended by.
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return b.results[b.plan.Target()].err
}

// stage carries out one stage.
func (b *builder) stage(ctx context.Context, s *dockerfile.Stage, r *result) error {
	switch {
	case s.Base != nil:
		r.layers = b.results[s.Base].layers.clone()
	case s.Named != "" && !s.Bare:
		if err := b.fromContext(ctx, s, r); err != nil {
			return err
		}
	case s.Ref != "":
		base := b.bases[baseKey(s.Ref, s.Platform)]
		r.layers = base.layers.clone()
		if s.Title != "" {
			v := b.Progress.Begin("%s", s.Title)
			v.Done()
		}
	}
	for n, step := range s.Steps {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := b.step(ctx, s, step, n, r); err != nil {
			return dockerfile.At(step.Lines, err)
		}
	}
	return nil
}

// fromContext makes a layer of a further context that a stage begins with.
func (b *builder) fromContext(ctx context.Context, s *dockerfile.Stage, r *result) error {
	v := b.Progress.Begin("[context %s] load from %s", s.Named, b.Contexts[s.Named])
	all := &dockerfile.Copy{From: &dockerfile.Stage{Named: s.Named, Bare: true}, Sources: []string{"."}, Dest: "/"}
	record, _, err := b.resultOf(ctx, s, &dockerfile.Step{Title: v.title, Copy: all}, layers{}, v)
	if err != nil {
		v.Failed(err)
		return err
	}
	v.Done()
	r.created[0] = record.Created
	r.add(record.Layer)
	return nil
}

func (l layers) clone() layers {
	return layers{slices.Clone(l.chain), slices.Clone(l.diffIDs), slices.Clone(l.blobs)}
}

// with are the layers with one more.
func (l *layers) add(d image.Descriptor) {
	l.chain = append(l.chain, image.ChainID(l.top(), d.Digest))
	l.diffIDs = append(l.diffIDs, d.Digest)
	l.blobs = append(l.blobs, d)
}

// tooMany refuses more layers than can be mounted, while somebody can still do something about it.
func tooMany(l layers) error {
	if len(l.chain) < image.MaxLayers {
		return nil
	}
	return errdef.Hint(errdef.New(errdef.Unsupported, "max depth exceeded: the image has %d layers", len(l.chain)), "put several commands into one RUN")
}

func baseKey(ref string, p image.Platform) string { return ref + " " + p.String() }

// base is an image that a stage begins with, or that files are copied from.
type base struct {
	Config image.Image
	layers
}

// base brings an image into the store, if need be.
func (b *builder) base(ctx context.Context, ref string, p image.Platform) (base, error) {
	asked := "asked for " + baseKey(ref, p)
	if have, ok := b.bases[asked]; ok {
		return have, nil
	}
	v := b.Progress.Begin("[internal] load metadata for %s", ref)
	policy, platform := engine.PullMissing, ""
	if b.Pull {
		policy = engine.PullAlways
	}
	if p.String() != image.HostPlatform().String() {
		platform = p.String()
	}
	im, err := b.engine.Ensure(ctx, ref, platform, policy)
	if err != nil {
		v.Failed(err)
		return base{}, fmt.Errorf("%s: %w", strings.TrimPrefix(ref, "docker.io/library/"), err)
	}
	v.Done()
	out := base{Config: im.Config, layers: layers{chain: im.Chain, diffIDs: im.Config.RootFS.DiffIDs}}
	for _, d := range im.Manifest.Layers {
		out.blobs = append(out.blobs, image.Descriptor{MediaType: ociType(d.MediaType), Digest: d.Digest, Size: d.Size})
	}
	// It is looked for by the platform that it turns out to have, which need not be the one that was asked for.
	b.bases[baseKey(ref, im.Config.Platform)], b.bases[asked] = out, out
	return out, nil
}

// ociType is OCI's name of a layer's media type: a manifest has one kind of names.
func ociType(t string) string {
	switch t {
	case image.MediaTypeDockerLayer:
		return image.MediaTypeLayerGzip
	case image.MediaTypeDockerLayerTar:
		return image.MediaTypeLayer
	}
	return t
}
