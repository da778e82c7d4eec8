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
	"encoding/hex"
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
	"berth/internal/image/registry"
	"berth/internal/image/store"
)

// Options are what is to be built, and how.
type Options struct {
	Source      Source
	Target      string
	Args        map[string]string
	Labels      map[string]string
	Annotations []Annotation
	Contexts    map[string]string // --build-context: names -> directories, or images with docker-image:// or oci-layout://, or repositories
	Outputs     []Output
	Stdout      io.Writer
	Tags        []string
	Platforms   []image.Platform // none is the host's
	NoCache     bool
	NoCacheFor  []string // stages
	Pull        bool
	Epoch       *time.Time // SOURCE_DATE_EPOCH
	Provenance  *Provenance
	SBOM        bool
	Squash      bool // all layers of the build become one
	Explain     bool // say why each step is carried out, or not
	// Shell, unless it is nil, talks to a shell in the tree of a command that failed, on a terminal if it has one.
	Shell *Shell
	// CABundle is a file of certificates that every RUN trusts; "" is none.
	CABundle  string
	CacheFrom []CacheSource
	CacheTo   []CacheTarget
	Registry  *registry.Client // for what is pushed, and for caches
	// Insecure allows RUN --security=insecure.
	Insecure bool
	Secret   Secret            // nil knows none
	SSH      map[string]string // sockets of agents, by their ids
	// Run is what every RUN is given: limits, hosts, the network.
	Run      container.Config
	Progress *Progress
}

// Shell is who talks to a shell.
type Shell struct {
	TTY  bool
	Talk func(*engine.Session) error
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
	ID       image.Digest     // of the config: docker's image ID
	Target   image.Descriptor // what the names stand for: the manifest, or an index
	Manifest image.Descriptor
	Names    []string // canonical
	Made     int      // steps that were carried out
	Added    int64    // bytes of their layers
}

// session is one build, for all its platforms.
type session struct {
	Options
	engine   *engine.Engine
	cache    cache.Store
	source   *source
	now      time.Time
	imported []*imported // caches of others
	id       string      // of this build, for what is told about it
	started  time.Time
	digests  *digestMemory
	mu       sync.Mutex // guards what follows
	warnings []dockerfile.Warning
	places   map[string]*place     // of further contexts
	shell    sync.Once             // only one command's failure is looked at
	used     map[string]usedRecord // by key: what the build consists of
	made     int                   // steps that were carried out
	added    int64                 // bytes of their layers
	ends     []func() error        // what is to be done when all is over
}

// builder builds for one platform.
type builder struct {
	*session
	platform image.Platform
	plan     *dockerfile.Plan
	results  map[*dockerfile.Stage]*result
	bases    map[string]base // by reference and platform
}

// later has something done when the build is over.
func (s *session) later(end func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends = append(s.ends, end)
}

func (s *session) end() {
	for _, end := range s.ends {
		_ = end() // what is left is swept
	}
}

// several reports whether the result is for more than one platform.
func (s *session) several() bool { return len(s.Platforms) > 1 }

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
	s, err := begin(e, o)
	if err != nil {
		return Result{}, err
	}
	if err := errors.Join(s.cache.Sweep(e.RemoveTree), cache.SweepIn(filepath.Join(e.Settings.RunRoot, "build"), os.RemoveAll)); err != nil {
		return Result{}, err
	}
	// From the first layer on until the image has a name, nothing is swept.
	release, err := e.Images.Content.HoldAdditions(ctx)
	if err != nil {
		return Result{}, err
	}
	defer release()
	defer s.end()
	if s.source, err = s.open(ctx); err != nil {
		return Result{}, err
	}
	defer s.source.close()
	s.importCaches(ctx)
	all, err := s.decide(ctx)
	if err != nil {
		return Result{}, s.explained(err)
	}
	if err := s.carryOut(ctx, all); err != nil {
		return Result{}, s.explained(err)
	}
	result, err := s.export(ctx, all)
	if err != nil {
		return Result{}, err
	}
	result.Made, result.Added = s.made, s.added
	return result, s.exportCaches(ctx, all)
}

// carryOut builds for all platforms at the same time. The first error ends the others.
func (s *session) carryOut(ctx context.Context, all []*builder) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wait sync.WaitGroup
	for _, b := range all {
		wait.Go(func() {
			if err := b.stages(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}

// Found is what a check has found.
type Found struct {
	Name, Text string // of the Dockerfile
	Warnings   []dockerfile.Warning
}

// Check only looks at the Dockerfile, and at the images that it begins with.
func Check(ctx context.Context, e *engine.Engine, o Options) (Found, error) {
	s, err := begin(e, o)
	if err != nil {
		return Found{}, err
	}
	defer s.end()
	if s.source, err = s.open(ctx); err != nil {
		return Found{}, err
	}
	defer s.source.close()
	if _, err = s.decide(ctx); err != nil {
		return Found{}, s.explained(err)
	}
	return Found{s.source.name, string(s.source.text), s.warnings}, nil
}

// Dockerfile is the text of the Dockerfile that would be built.
func Dockerfile(ctx context.Context, e *engine.Engine, o Options) ([]byte, error) {
	s, err := begin(e, o)
	if err != nil {
		return nil, err
	}
	defer s.end()
	if s.source, err = s.open(ctx); err != nil {
		return nil, err
	}
	defer s.source.close()
	return s.source.text, nil
}

// Outline says what the target takes.
func Outline(ctx context.Context, e *engine.Engine, o Options) (dockerfile.Outline, error) {
	s, err := begin(e, o)
	if err != nil {
		return dockerfile.Outline{}, err
	}
	defer s.end()
	if s.source, err = s.open(ctx); err != nil {
		return dockerfile.Outline{}, err
	}
	defer s.source.close()
	b := &builder{session: s, platform: s.Platforms[0], bases: map[string]base{}}
	out, err := dockerfile.Outlined(s.source.text, b.planOptions(ctx, nil))
	if err != nil {
		return out, s.explained(err)
	}
	return out, nil
}

// begin checks what can be checked at once.
func begin(e *engine.Engine, o Options) (_ *session, err error) {
	for _, out := range o.Outputs {
		if out.Name != "" && out.isImage() {
			o.Tags = append(o.Tags, strings.Split(out.Name, ",")...)
		}
		if out.Push && out.Name == "" && len(o.Tags) == 0 {
			return nil, errdef.Hint(errdef.New(errdef.Invalid, "tag is needed when pushing to registry"), "name the image with -t")
		}
	}
	if o.Tags, err = checkTags(o.Tags); err != nil {
		return nil, err
	}
	for name, value := range o.Contexts {
		if err := checkContext(name, value); err != nil {
			return nil, err
		}
	}
	if len(o.Platforms) == 0 {
		o.Platforms = []image.Platform{image.HostPlatform()}
	}
	s := &session{
		Options: o, engine: e, cache: cache.Open(e.Settings.DataRoot), now: time.Now().UTC(),
		digests: openDigests("", ""), used: map[string]usedRecord{}, id: newInvocation(), started: time.Now().UTC(),
	}
	if o.Epoch != nil {
		s.now = *o.Epoch
	}
	if s.Secret == nil {
		s.Secret = func(string) ([]byte, error) { return nil, fs.ErrNotExist }
	}
	return s, nil
}

// SourceError is a failure with the part of the Dockerfile that it is about.
type SourceError struct {
	Excerpt string
	Err     error
}

func (e *SourceError) Error() string { return "failed to solve: " + e.Err.Error() }
func (e *SourceError) Unwrap() error { return e.Err }

// explained shows the lines that an error is about.
func (b *session) explained(err error) error {
	var at *dockerfile.Error
	if !errors.As(err, &at) {
		return &SourceError{"", err}
	}
	return &SourceError{dockerfile.Excerpt(b.source.name, string(b.source.text), at.Lines), err}
}

// decide makes the plans, one for each platform.
func (s *session) decide(ctx context.Context) (all []*builder, err error) {
	for i, platform := range s.Platforms {
		b := &builder{session: s, platform: platform, results: map[*dockerfile.Stage]*result{}, bases: map[string]base{}}
		warn := func(w dockerfile.Warning) { s.warnings = append(s.warnings, w) }
		if i > 0 {
			warn = nil // it would find the same
		}
		if b.plan, err = b.decide(ctx, warn); err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

// decide makes the plan. Images that it needs are pulled on the way, since what is to be done depends on their configuration.
func (b *builder) decide(ctx context.Context, warn func(dockerfile.Warning)) (*dockerfile.Plan, error) {
	return dockerfile.Make(b.source.text, b.planOptions(ctx, warn))
}

func (b *builder) planOptions(ctx context.Context, warn func(dockerfile.Warning)) dockerfile.Options {
	prefix := ""
	if b.several() {
		prefix = b.platform.String()
	}
	return dockerfile.Options{
		Contexts: b.contexts(), Args: b.Args, Target: b.Target, Labels: b.Labels, Platform: b.platform, Build: image.HostPlatform(), Epoch: b.Epoch,
		Prefix: prefix, Warn: warn,
		Image: func(ref string, p image.Platform) (image.Image, error) {
			base, err := b.base(ctx, ref, p)
			return base.Config, err
		},
	}
}

// What begins a further context that is an image: one with a name, or one of a directory that is an OCI layout.
const (
	imageContext  = "docker-image://"
	layoutContext = "oci-layout://"
	// layoutName is under which name the plan knows an image of a layout.
	layoutName = "oci-layout.invalid/"
)

// contexts are the further contexts as the plan knows them.
func (b *builder) contexts() map[string]string {
	all := map[string]string{}
	for name, value := range b.Contexts {
		ref, isImage := strings.CutPrefix(value, imageContext)
		switch {
		case strings.HasPrefix(value, layoutContext):
			ref = layoutName + hex.EncodeToString([]byte(name))
		case !isImage:
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
	record, _, err := b.resultOf(ctx, s, &dockerfile.Step{Title: v.title, Copy: all}, -1, layers{}, v)
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
	digest image.Digest // of what the name stands for
	layers
}

// ensure brings an image here: from a layout that the caller has named, or as every image comes.
func (b *builder) ensure(ctx context.Context, ref string, p image.Platform, platform string, policy string) (store.Image, error) {
	name, ok := strings.CutPrefix(ref, layoutName)
	if !ok {
		return b.engine.Ensure(ctx, ref, platform, policy)
	}
	name, _, _ = strings.Cut(name, ":")
	id, err := hex.DecodeString(name)
	if err != nil {
		return store.Image{}, errdef.As(errdef.Invalid, err)
	}
	return b.fromLayout(ctx, strings.TrimPrefix(b.Contexts[string(id)], layoutContext), p)
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
	im, err := b.ensure(ctx, ref, p, platform, policy)
	if err != nil {
		v.Failed(err)
		return base{}, fmt.Errorf("%s: %w", strings.TrimPrefix(ref, "docker.io/library/"), err)
	}
	v.Done()
	out := base{Config: im.Config, digest: im.Target.Digest, layers: layers{chain: im.Chain, diffIDs: im.Config.RootFS.DiffIDs}}
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
