package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"berth/internal/build/cache"
	"berth/internal/build/dockerfile"
	"berth/internal/container"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/merged"
	"berth/internal/image/unpack"
)

// keyVersion changes when the same key would stand for something else.
const keyVersion = 2

// key is all that a step's result depends on.
type key struct {
	Version  int
	Parent   image.Digest
	Platform string
	Latest   time.Time         `json:",omitzero"`
	Epoch    *time.Time        `json:",omitempty"`
	Run      *runKey           `json:",omitempty"`
	Copy     *copyKey          `json:",omitempty"`
	Mkdir    *dockerfile.Mkdir `json:",omitempty"`
}

type runKey struct {
	Args, Env     []string
	User, Workdir string
	Network       string
	Script        dockerfile.File
	Insecure      bool
	Hosts         []container.Host
	ShmBytes      int64
	Ulimits       []container.Ulimit
	Inputs        []string // digests of mounted files
	Mounts        []dockerfile.Mount
}

type copyKey struct {
	Dest, Chown, Chmod string
	Add, Parents, Link bool
	Unpack             *bool
	Contents           []dockerfile.File
	Inputs             []input
	list               func() ([]byte, error) // of all files
}

// input is something that is copied.
type input struct {
	Name   string // the name that a file has where the destination is a directory
	Digest string
}

func (k key) sum() string {
	data, err := json.Marshal(k)
	if err != nil {
		panic(err) // a struct of strings, numbers and times
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// step carries out a step, or finds what it comes to.
func (b *builder) step(ctx context.Context, s *dockerfile.Stage, step *dockerfile.Step, number int, r *result) error {
	if err := tooMany(r.layers); err != nil {
		return err
	}
	v := b.Progress.Begin("%s", step.Title)
	record, cached, err := b.resultOf(ctx, s, step, number, r.layers, v)
	switch {
	case err != nil && ctx.Err() != nil:
		v.Canceled()
		return err
	case err != nil:
		v.Failed(err)
		return err
	case cached:
		v.Cached()
	default:
		v.Done()
	}
	r.created[step.History] = record.Created
	r.add(record.Layer)
	return nil
}

// resultOf is the record of a step, of the cache if it has one.
func (b *builder) resultOf(ctx context.Context, s *dockerfile.Stage, step *dockerfile.Step, number int, on layers, v *Vertex) (r cache.Record, cached bool, err error) {
	k := key{Version: keyVersion, Parent: on.top(), Platform: s.Platform.String(), Epoch: b.Epoch, Latest: b.latest(), Mkdir: step.Mkdir}
	var do carryOut
	switch {
	case step.Run != nil:
		k.Run, do, err = b.run(ctx, s, step.Run, on, v)
	case step.Copy != nil:
		k.Copy, do, err = b.copy(ctx, step.Copy, on)
		if step.Copy.Link {
			k.Parent = ""
		}
	default:
		do = func(_ context.Context, w *cache.Work) (*engine.Copied, error) { return nil, b.mkdir(step.Mkdir, on, w) }
	}
	if err != nil {
		return r, false, err
	}
	sum := k.sum()
	at := sought{sum: sum, place: b.place(s, number), on: on.top(), link: step.Copy != nil && step.Copy.Link, v: v}
	at.last = b.cache.Last(at.place)
	look := !b.NoCache && !slices.Contains(b.NoCacheFor, s.Name)
	if look {
		if r, cached, err = b.cached(ctx, at); cached || err != nil {
			return r, cached, err
		}
	}
	unlock, err := b.cache.Lock(ctx, sum)
	if err != nil {
		return r, false, err
	}
	defer unlock()
	if look { // who had the lock may have made it
		if r, cached, err = b.cached(ctx, at); cached || err != nil {
			return r, cached, err
		}
		if r, cached, err = b.fromElsewhere(ctx, at); cached || err != nil {
			return r, cached, err
		}
	}
	b.sayMissed(v, s, at.last, k)
	r, err = b.make(ctx, on, do)
	if err != nil {
		return r, false, err
	}
	r.What = step.Title
	if r.Of, err = json.Marshal(k); err != nil {
		return r, false, err
	}
	b.note(sum, r)
	b.mu.Lock()
	b.made, b.added = b.made+1, b.added+r.Layer.Size
	b.mu.Unlock()
	if k.Copy != nil && k.Copy.list != nil {
		list, err := k.Copy.list()
		if err != nil {
			return r, false, err
		}
		if err := b.cache.SetFiles(sum, list); err != nil {
			return r, false, err
		}
	}
	return r, false, errors.Join(b.cache.Put(sum, r), b.cache.SetLast(at.place, sum))
}

// sought is a step for which a result is looked for.
type sought struct {
	sum   string // its key
	place string // where it stands, and
	last  string // what it came to there the last time
	on    image.Digest
	link  bool // its layer depends on nothing below
	v     *Vertex
}

// cached looks for a result of an earlier build.
func (b *builder) cached(ctx context.Context, at sought) (r cache.Record, ok bool, err error) {
	if r, ok, err = b.cache.Get(at.sum); !ok || err != nil {
		return r, false, err
	}
	if at.link && r.Parent != at.on {
		if ok, err = b.link(ctx, &r, at.on); !ok || err != nil {
			return r, false, err
		}
	}
	if !r.Here(b.engine.Images.Content, b.engine.Images.Layers) {
		return r, false, nil
	}
	b.note(at.sum, r)
	b.sayFound(at.v, r)
	if at.last != at.sum {
		err = b.cache.SetLast(at.place, at.sum)
	}
	return r, true, errors.Join(err, b.cache.Touch(at.sum, r, time.Now().UTC()))
}

// fromElsewhere looks for a result in the caches of --cache-from. That one of them cannot be read is said, and no more.
func (b *builder) fromElsewhere(ctx context.Context, at sought) (r cache.Record, ok bool, err error) {
	r, ok, err = b.fromOthers(ctx, at.sum, at.on, at.link)
	if err != nil {
		at.v.Say("%v", err)
		return r, false, nil
	}
	if !ok {
		return r, false, nil
	}
	b.note(at.sum, r)
	if b.Explain {
		at.v.Say("cache: used, from a cache of --cache-from")
	}
	return r, true, errors.Join(b.cache.Put(at.sum, r), b.cache.SetLast(at.place, at.sum))
}

// link puts a layer that does not depend on what it lies on onto something else, if its blob is there or can be made.
func (b *builder) link(ctx context.Context, r *cache.Record, parent image.Digest) (ok bool, err error) {
	images := b.engine.Images
	blob, err := images.Content.OpenAt(r.Layer.Digest, 0)
	if errdef.Is(err, errdef.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer blob.Close()
	r.Parent = parent
	chain, err := unpack.Layer(ctx, images.Layers, parent, r.Layer.Digest, blob, b.unpackOptions())
	if err != nil || images.Content.Has(r.Layer.Digest) || images.Layers.Makes(chain) {
		return err == nil, err
	}
	maker, err := images.Layers.Maker(r.Layer.Digest)
	if err != nil || maker == "" {
		return false, err
	}
	return true, images.Layers.GiveRecipe(maker, chain)
}

// unpackOptions are for whoever unpacks: root of the machine, or of a user namespace.
func (b *session) unpackOptions() unpack.Options {
	h := b.engine.Host()
	if !h.InUserNS {
		return unpack.Options{}
	}
	return unpack.Options{UserXattr: true, SkipDevices: true, OwnersIgnored: h.SingleID}
}

// carryOut writes the layer of a step into the upper directory of its work, or changes a copy of what is below it.
type carryOut func(context.Context, *cache.Work) (*engine.Copied, error)

// make makes a layer of what do writes.
func (b *builder) make(ctx context.Context, on layers, do carryOut) (r cache.Record, err error) {
	w, err := b.cache.Begin()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, w.End(b.engine.RemoveTree)) }()
	if err := b.likeRoot(w, on); err != nil {
		return r, err
	}
	copied, err := do(ctx, w)
	if err != nil {
		return r, err
	}
	d, err := b.commit(ctx, on.top(), w, copied)
	if err != nil {
		return r, err
	}
	now := time.Now().UTC()
	created := now
	if b.Epoch != nil {
		created = *b.Epoch
	}
	return cache.Record{Parent: on.top(), Layer: d, Created: created, Used: now}, nil
}

// commit makes a layer, and its blob, of what a step has written.
func (b *builder) commit(ctx context.Context, parent image.Digest, w *cache.Work, copied *engine.Copied) (image.Descriptor, error) {
	images := b.engine.Images
	opt := unpack.DiffOptions{UserXattr: b.engine.Host().InUserNS, Latest: b.latest()}
	if copied == nil {
		return unpack.Commit(ctx, images.Content, images.Layers, parent, w.Upper(), opt)
	}
	tree, err := os.Open(copied.Tree)
	if err != nil {
		return image.Descriptor{}, err
	}
	defer tree.Close()
	return b.layerOf(ctx, tree, copied.Changes, parent, opt)
}

// layerOf makes a layer of what was changed in a tree, which is a copy of the layers below.
func (b *builder) layerOf(ctx context.Context, tree *os.File, changes []merged.Change, parent image.Digest, opt unpack.DiffOptions) (image.Descriptor, error) {
	images := b.engine.Images
	in, out := io.Pipe()
	go func() { _ = out.CloseWithError(unpack.DiffCopy(ctx, tree, changes, out, nil, opt)) }()
	d, err := images.Content.PutReader(in, image.MediaTypeLayer)
	_ = in.CloseWithError(err)
	if err != nil {
		return d, err
	}
	blob, err := images.Content.Open(d.Digest)
	if err != nil {
		return d, err
	}
	defer blob.Close()
	_, err = unpack.Layer(ctx, images.Layers, parent, d.Digest, blob, b.unpackOptions())
	return d, err
}

// likeRoot gives the root of a new layer what the root below it has: overlayfs shows the topmost one's.
func (b *builder) likeRoot(w *cache.Work, on layers) error {
	trees, err := b.trees(on)
	if err != nil || len(trees) == 0 {
		return err
	}
	below, err := os.Open(trees[0])
	if err != nil {
		return err
	}
	defer below.Close()
	upper, err := os.Open(w.Upper())
	if err != nil {
		return err
	}
	defer upper.Close()
	return unpack.CopyMeta(int(below.Fd()), upper, nil, nil)
}

// trees are the directories of layers, the topmost first.
func (b *builder) trees(l layers) ([]string, error) { return b.engine.Images.Layers.Stack(l.chain) }

// run prepares a RUN.
func (b *builder) run(ctx context.Context, s *dockerfile.Stage, run *dockerfile.Run, on layers, v *Vertex) (*runKey, carryOut, error) {
	cfg := b.Run
	cfg.Image = s.Ref
	cfg.Command, cfg.EntrypointSet = run.Args, true
	cfg.Env = append(slices.Clone(run.Env), run.Proxy...)
	cfg.User, cfg.Workdir, cfg.Hostname = run.User, run.Workdir, "buildkitsandbox"
	cfg.Log.Driver = "none"
	cfg.Privileged = run.Insecure
	switch {
	case run.Network == "none" || run.Network == "host":
		cfg.Network = run.Network
	case cfg.Network == "" || cfg.Network == "default":
		cfg.Network = container.NetworkBridge
	}
	if cfg.Network != "none" && cfg.Network != "host" {
		cfg.Networks = []container.Endpoint{{Network: cfg.Network}}
	}
	switch {
	case run.Insecure && !b.Insecure:
		return nil, nil, errdef.Hint(errdef.New(errdef.Denied, "security.insecure is not allowed"), "allow it with --allow security.insecure")
	case len(run.Devices) > 0:
		return nil, nil, errdef.New(errdef.Unsupported, "RUN --device: devices by CDI are not known")
	}
	inputs, err := b.mounted(ctx, run)
	if err != nil {
		return nil, nil, err
	}
	if err := interpreted(s.Platform); err != nil {
		return nil, nil, err
	}
	k := &runKey{
		Args: run.Args, Env: run.Env, User: run.User, Workdir: run.Workdir, Network: cfg.Network, Script: run.Script, Insecure: run.Insecure,
		Hosts: cfg.Hosts, ShmBytes: cfg.ShmBytes, Ulimits: cfg.Ulimits, Inputs: inputs, Mounts: run.Mounts,
	}
	return k, func(ctx context.Context, w *cache.Work) (copied *engine.Copied, err error) {
		trees, err := b.trees(on)
		if err != nil {
			return nil, err
		}
		m := &mounting{b: b, run: run, on: trees, w: w, cfg: &cfg}
		defer func() { err = errors.Join(err, m.end()) }()
		if err := m.all(ctx); err != nil {
			return nil, err
		}
		ended, copied, err := b.engine.RunStep(ctx, engine.Step{Config: cfg, Chain: on.chain, Dir: w.Dir}, v.Stream(), v.Stream())
		if err == nil && ended.ExitCode != 0 && b.Shell != nil {
			b.shell.Do(func() { err = b.lookAround(engine.Step{Config: cfg, Chain: on.chain, Dir: w.Dir}, v, ended.ExitCode) })
		}
		switch {
		case err != nil:
			return nil, err
		case ended.ExitCode != 0 && ended.OOMKilled:
			return nil, errdef.New(errdef.Unknown, "process %q did not complete successfully: exit code: %d: killed for lack of memory", strings.Join(run.Args, " "), ended.ExitCode)
		case ended.ExitCode != 0:
			return nil, errdef.New(errdef.Unknown, "process %q did not complete successfully: exit code: %d", strings.Join(run.Args, " "), ended.ExitCode)
		}
		return copied, nil
	}, nil
}

// lookAround has somebody talk to a shell where a command has failed. What is shown of the build waits.
func (b *builder) lookAround(at engine.Step, v *Vertex, status int) (err error) {
	at.Config.TTY, at.Config.Interactive = b.Shell.TTY, true
	at.Config.Command = []string{"/bin/sh"}
	b.Progress.Pause(func(w io.Writer) {
		fmt.Fprintf(w, "%s failed with exit status %d; here is a shell where it ran. What it changes is lost at its end.\n", v.title, status)
		err = b.engine.ShellInStep(at, b.Shell.Talk)
	})
	if errdef.Is(err, errdef.Unknown) || err == nil { // the shell's own exit status
		return nil
	}
	return errdef.Hint(err, "the tree has no /bin/sh, perhaps")
}

// mounted are digests of the files that a RUN has mounted. What caches, secrets and agents have is none of the result's business.
func (b *builder) mounted(ctx context.Context, run *dockerfile.Run) (digests []string, err error) {
	for _, m := range run.Mounts {
		switch {
		case m.From != nil && !fromHost(m.From):
			digests = append(digests, string(b.results[m.From].top()))
		case m.Type == "bind":
			tree, err := b.tree(ctx, m.From)
			if err != nil {
				return nil, err
			}
			item, err := tree.Find(path.Join(".", m.Source))
			if errors.Is(err, fs.ErrNotExist) {
				return nil, notFound(m.Source)
			}
			if err != nil {
				return nil, err
			}
			digest, err := b.digester(m.From).Digest(ctx, item, nil)
			item.Close()
			if err != nil {
				return nil, err
			}
			digests = append(digests, digest)
		}
	}
	return digests, nil
}
