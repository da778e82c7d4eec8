package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/build/cache"
	"berth/internal/build/dockerfile"
	"berth/internal/build/files"
	"berth/internal/container"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/merged"
	"berth/internal/image/unpack"

	"golang.org/x/sys/unix"
)

// keyVersion changes when the same key would stand for something else.
const keyVersion = 1

// key is all that a step's result depends on.
type key struct {
	Version  int
	Parent   image.Digest
	Platform string
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
	Add, Parents       bool
	Unpack             *bool
	Contents           []dockerfile.File
	Inputs             []input
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
	record, cached, err := b.resultOf(ctx, s, step, r.layers, v)
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
	if record.Layer.Digest == image.EmptyLayer {
		r.empty[step.History] = true
		return nil
	}
	r.add(record.Layer)
	return nil
}

// resultOf is the record of a step, of the cache if it has one.
func (b *builder) resultOf(ctx context.Context, s *dockerfile.Stage, step *dockerfile.Step, on layers, v *Vertex) (r cache.Record, cached bool, err error) {
	k := key{Version: keyVersion, Parent: on.top(), Platform: s.Platform.String(), Epoch: b.Epoch, Mkdir: step.Mkdir}
	var carryOut func(context.Context, *cache.Work) error
	switch {
	case step.Run != nil:
		k.Run, carryOut, err = b.run(s, step.Run, on, v)
	case step.Copy != nil:
		k.Copy, carryOut, err = b.copy(ctx, step.Copy, on)
	default:
		carryOut = func(_ context.Context, w *cache.Work) error { return b.mkdir(step.Mkdir, on, w) }
	}
	if err != nil {
		return r, false, err
	}
	sum := k.sum()
	unlock, err := b.cache.Lock(ctx, sum)
	if err != nil {
		return r, false, err
	}
	defer unlock()
	if !b.NoCache && !slices.Contains(b.NoCacheFor, s.Name) {
		r, ok, err := b.cache.Get(sum)
		if err != nil {
			return r, false, err
		}
		if ok && r.Here(b.engine.Images.Content, b.engine.Images.Layers) {
			return r, true, b.cache.Touch(sum, r, time.Now().UTC())
		}
	}
	r, err = b.make(ctx, on, carryOut)
	if err != nil {
		return r, false, err
	}
	r.What = step.Title
	return r, false, b.cache.Put(sum, r)
}

// make makes a layer of what carryOut writes.
func (b *builder) make(ctx context.Context, on layers, carryOut func(context.Context, *cache.Work) error) (r cache.Record, err error) {
	w, err := b.cache.Begin()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, w.End(b.engine.RemoveTree)) }()
	if err := b.likeRoot(w, on); err != nil {
		return r, err
	}
	if err := carryOut(ctx, w); err != nil {
		return r, err
	}
	images := b.engine.Images
	d, err := unpack.Commit(ctx, images.Content, images.Layers, on.top(), w.Upper(), unpack.DiffOptions{UserXattr: b.engine.Host().InUserNS})
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
func (b *builder) run(s *dockerfile.Stage, run *dockerfile.Run, on layers, v *Vertex) (*runKey, func(context.Context, *cache.Work) error, error) {
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
	if len(run.Mounts) > 0 || run.Script.Name != "" || run.Insecure || len(run.Devices) > 0 {
		return nil, nil, errdef.New(errdef.Unsupported, "RUN with --mount, --security, --device or a script is not supported yet")
	}
	k := &runKey{
		Args: run.Args, Env: run.Env, User: run.User, Workdir: run.Workdir, Network: cfg.Network, Script: run.Script, Insecure: run.Insecure,
		Hosts: cfg.Hosts, ShmBytes: cfg.ShmBytes, Ulimits: cfg.Ulimits,
	}
	return k, func(ctx context.Context, w *cache.Work) error {
		ended, err := b.engine.RunStep(ctx, engine.Step{Config: cfg, Chain: on.chain, Dir: w.Dir}, v, v)
		switch {
		case err != nil:
			return err
		case ended.ExitCode != 0 && ended.OOMKilled:
			return errdef.New(errdef.Unknown, "process %q did not complete successfully: exit code: %d: killed for lack of memory", strings.Join(run.Args, " "), ended.ExitCode)
		case ended.ExitCode != 0:
			return errdef.New(errdef.Unknown, "process %q did not complete successfully: exit code: %d", strings.Join(run.Args, " "), ended.ExitCode)
		}
		return nil
	}, nil
}

// mkdir carries out a WORKDIR.
func (b *builder) mkdir(m *dockerfile.Mkdir, on layers, w *cache.Work) error {
	l, owner, err := b.layer(on, w, m.User)
	if err != nil {
		return err
	}
	defer l.Close()
	if owner == nil {
		owner = &files.Owner{}
	}
	return l.Mkdir(m.Path, 0o755, *owner)
}

// layer opens the layer of a step, and looks up whose its files are to be; nil is nobody in particular.
func (b *builder) layer(on layers, w *cache.Work, user string) (*files.Layer, *files.Owner, error) {
	trees, err := b.trees(on)
	if err != nil {
		return nil, nil, err
	}
	var owner *files.Owner
	if user != "" {
		if owner, err = lookup(trees, user); err != nil {
			return nil, nil, err
		}
	}
	l, err := files.Open(w.Upper(), trees, b.now)
	return l, owner, err
}

// lookup finds a user of a tree: names of it, or numbers.
func lookup(trees []string, user string) (*files.Owner, error) {
	const limit = 4 << 20
	var text [2][]byte
	for i, name := range []string{"etc/passwd", "etc/group"} {
		data, err := merged.ReadFile(trees, name, limit)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return nil, errdef.New(errdef.Invalid, "cannot read /%s: %w", name, err)
		}
		text[i] = data
	}
	u, err := container.LookupUser(user, nil, text[0], text[1])
	if err != nil {
		return nil, err
	}
	o := &files.Owner{UID: int(u.UID), GID: int(u.GID)}
	if name, _, ok := strings.Cut(user, ":"); !ok {
		// buildkit: a number without a group is that group, too; a name has its own.
		if n, err := strconv.Atoi(name); err == nil {
			o.GID = n
		}
	}
	return o, nil
}

// fileDigest is the digest of a file, and what the file looked like.
type fileDigest struct {
	dev, ino, size uint64
	mtime, ctime   unix.Timespec
	sum            [sha256.Size]byte
}

func identity(st *unix.Stat_t) fileDigest {
	return fileDigest{dev: st.Dev, ino: st.Ino, size: uint64(st.Size), mtime: st.Mtim, ctime: st.Ctim}
}

// tree is where a COPY takes its files from.
func (b *builder) tree(from *dockerfile.Stage) (files.Tree, error) {
	if from == nil {
		return b.source.tree()
	}
	trees, err := b.trees(b.results[from].layers)
	return files.Tree{Layers: trees}, err
}

// digester takes digests of files of a tree. Those of the context are remembered: what is copied is what the key is of.
func (b *builder) digester(from *dockerfile.Stage) files.Digester {
	d := files.Digester{Owners: from != nil}
	if from != nil {
		return d
	}
	d.Learn = func(path string, st *unix.Stat_t, sum [sha256.Size]byte) {
		id := identity(st)
		id.sum = sum
		b.mu.Lock()
		defer b.mu.Unlock()
		b.digests[path] = id
	}
	d.Known = func(path string, st *unix.Stat_t) (sum [sha256.Size]byte, ok bool) {
		b.mu.Lock()
		defer b.mu.Unlock()
		have, ok := b.digests[path]
		sum, have.sum = have.sum, sum
		return sum, ok && have == identity(st)
	}
	return d
}

// copy prepares a COPY or an ADD.
func (b *builder) copy(ctx context.Context, c *dockerfile.Copy, on layers) (*copyKey, func(context.Context, *cache.Work) error, error) {
	mode, err := parseMode(c.Chmod)
	if err != nil {
		return nil, nil, err
	}
	tree, err := b.tree(c.From)
	if err != nil {
		return nil, nil, err
	}
	var paths []string
	for _, source := range c.Sources {
		if isRemote(source) {
			return nil, nil, errdef.New(errdef.Unsupported, "ADD of %s: only local files can be added yet", source)
		}
		some, err := tree.Match(source)
		if err != nil {
			return nil, nil, err
		}
		if len(some) == 0 && len(c.Sources)+len(c.Contents) == 1 && !files.HasWildcards(source) {
			return nil, nil, notFound(source)
		}
		paths = append(paths, some...)
	}
	k := &copyKey{Dest: c.Dest, Chown: c.Chown, Chmod: c.Chmod, Add: c.Add, Parents: c.Parents, Unpack: c.Unpack, Contents: c.Contents}
	digester := b.digester(c.From)
	for _, p := range paths {
		item, err := tree.Find(p)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, notFound(p)
		}
		if err != nil {
			return nil, nil, err
		}
		in := input{}
		if item.Dir == nil {
			in.Name = path.Base(p)
		}
		in.Digest, err = digester.Digest(item)
		item.Close()
		if err != nil {
			return nil, nil, err
		}
		k.Inputs = append(k.Inputs, in)
	}
	return k, func(ctx context.Context, w *cache.Work) error {
		l, owner, err := b.layer(on, w, c.Chown)
		if err != nil {
			return err
		}
		defer l.Close()
		opt := files.Options{Owner: owner, Mode: mode, Anonymous: c.From == nil}
		if digester.Known != nil {
			opt.Unchanged = func(path string, st *unix.Stat_t) bool { _, ok := digester.Known(path, st); return ok }
		}
		if err := severalToOne(l, c, len(paths)+len(c.Contents)); err != nil {
			return err
		}
		for _, p := range paths {
			item, err := tree.Find(p)
			if err != nil {
				return err
			}
			item.As = path.Base(p)
			err = l.Copy(ctx, item, c.Dest, opt)
			item.Close()
			if err != nil {
				return fmt.Errorf("cannot copy %s: %w", p, err)
			}
		}
		for _, f := range c.Contents {
			if err := l.Write(f.Name, []byte(f.Data), f.Mode, c.Dest, opt); err != nil {
				return fmt.Errorf("cannot write %s: %w", f.Name, err)
			}
		}
		return nil
	}, nil
}

// severalToOne refuses to copy several files to one name.
func severalToOne(l *files.Layer, c *dockerfile.Copy, n int) error {
	if n < 2 || strings.HasSuffix(c.Dest, "/") || c.Dest == "/" || len(c.Sources)+len(c.Contents) < 2 {
		return nil
	}
	found, err := l.Place(c.Dest)
	if err == nil && found.Kind != unix.S_IFDIR {
		err = errdef.New(errdef.Invalid, "when using COPY or ADD with more than one source file, the destination must be a directory and end with a /")
	}
	return err
}

func notFound(p string) error {
	return errdef.New(errdef.NotFound, "failed to calculate checksum: %q: not found", path.Join("/", p))
}

func isRemote(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "git@") || strings.HasPrefix(s, "git://") || strings.HasPrefix(s, "ssh://")
}
