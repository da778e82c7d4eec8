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

// tree is where files of a stage, or of the context, are copied from.
func (b *builder) tree(ctx context.Context, from *dockerfile.Stage) (files.Tree, error) {
	switch {
	case from == nil:
		return b.source.tree()
	case from.Named != "" && from.Bare:
		return b.named(ctx, from.Named)
	}
	trees, err := b.trees(b.results[from].layers)
	return files.Tree{Layers: trees}, err
}

// fromHost reports whether a tree is a directory of the host: its owners mean nothing in an image, and its files may change.
func fromHost(from *dockerfile.Stage) bool { return from == nil || from.Named != "" && from.Bare }

// digester takes digests of files of a tree. Those of the context are remembered: what is copied is what the key is of.
func (b *builder) digester(from *dockerfile.Stage) files.Digester {
	if !fromHost(from) {
		return files.Digester{Owners: true}
	}
	of := memoryOf(from)
	return files.Digester{Memory: func(dir string) files.Memory { return b.digests.directory(of + dir) }}
}

// memoryOf is what the names of directories of a tree of the host begin with where digests are remembered.
func memoryOf(from *dockerfile.Stage) string {
	if from == nil {
		return ""
	}
	return from.Named + "\x00"
}

// digest is the digest of what a piece selects. What layers have does not change, so it is taken once for all builds; list is then left as it is,
// and said to be.
func (b *builder) digest(ctx context.Context, c *dockerfile.Copy, p piece, item files.Item, list *files.Listing) (digest string, listed bool, err error) {
	if fromHost(c.From) {
		digest, err = b.digester(c.From).Digest(ctx, item, list)
		return digest, true, err
	}
	of, err := json.Marshal([]any{keyVersion, b.results[c.From].top(), p.source, p.path, c.Parents, c.Exclude})
	if err != nil {
		return "", false, err
	}
	name := image.DigestOf(of).Hex()
	if digest = b.cache.Sum(name); digest != "" {
		return digest, false, nil
	}
	if digest, err = b.digester(c.From).Digest(ctx, item, list); err != nil {
		return "", false, err
	}
	return digest, true, b.cache.SetSum(name, digest)
}

// piece is one thing that a COPY or an ADD copies.
type piece struct {
	tree   files.Tree
	path   string
	source string // what the instruction says
	as     string // the name of its copy in a directory
	pick   func(files.Item) files.Item
	// archive says that it is to be unpacked if it is an archive.
	archive bool
	// get brings it, if it is not there before it is needed; digest is then known all the same.
	get    func(context.Context) (dir string, err error)
	digest string
}

func (p piece) find() (files.Item, error) {
	item, err := p.tree.Find(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return item, notFound(p.path)
	}
	if err != nil {
		return item, err
	}
	item.As = p.as
	if p.pick != nil {
		item = p.pick(item)
	}
	return item, nil
}

// pieces are what the sources of a COPY or an ADD select.
func (b *builder) pieces(ctx context.Context, c *dockerfile.Copy) (all []piece, err error) {
	tree, err := b.tree(ctx, c.From)
	if err != nil {
		return nil, err
	}
	var exclude func(string, bool) (bool, bool)
	if len(c.Exclude) > 0 {
		m, err := newPatterns(c.Exclude)
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "cannot understand --exclude: %w", err)
		}
		exclude = except(m)
	}
	for _, source := range c.Sources {
		switch {
		case isRemote(source):
			p, err := b.remote(ctx, c, source)
			if err != nil {
				return nil, err
			}
			all = append(all, p)
		case c.Parents:
			p, err := withParents(tree, source)
			if err != nil {
				return nil, err
			}
			all = append(all, p)
		default:
			paths, err := tree.Match(source)
			if err != nil {
				return nil, err
			}
			for _, p := range paths {
				if exclude != nil {
					if keep, below := exclude(path.Base(p), true); !keep && !below && files.HasWildcards(source) {
						continue
					}
				}
				all = append(all, piece{tree: tree, path: p, source: source, as: path.Base(p), archive: c.Add && (c.Unpack == nil || *c.Unpack)})
			}
		}
	}
	if exclude != nil {
		for i := range all {
			pick := all[i].pick
			all[i].pick = func(item files.Item) files.Item {
				if pick != nil {
					item = pick(item)
				}
				return item.Except(exclude)
			}
		}
	}
	return all, nil
}

// withParents selects paths by a pattern, to be copied with the directories that they are in: those after "/./", if there is one.
func withParents(tree files.Tree, source string) (piece, error) {
	root, pattern, ok := strings.Cut(source, "/./")
	if !ok {
		root, pattern = "/", source
	}
	pattern = strings.TrimPrefix(path.Clean("/"+pattern), "/")
	p := piece{tree: tree, path: root, source: source}
	if pattern == "" {
		return p, nil
	}
	if !files.HasWildcards(root) && !files.HasWildcards(pattern) {
		item, err := tree.Find(path.Join(root, pattern))
		if errors.Is(err, fs.ErrNotExist) {
			return p, notFound(path.Join(root, pattern))
		}
		if err != nil {
			return p, err
		}
		item.Close()
	}
	m, err := newPatterns([]string{pattern})
	if err != nil {
		return p, errdef.New(errdef.Invalid, "invalid pattern %q: %w", source, err)
	}
	p.pick = func(item files.Item) files.Item {
		return item.Except(func(p string, dir bool) (keep, below bool) {
			return m.match(p), dir
		})
	}
	return p, nil
}

// copy prepares a COPY or an ADD.
func (b *builder) copy(ctx context.Context, c *dockerfile.Copy, on layers) (*copyKey, carryOut, error) {
	mode, err := parseMode(c.Chmod)
	if err != nil {
		return nil, nil, err
	}
	if c.Link && c.Chown != "" && strings.Trim(c.Chown, "0123456789:") != "" {
		return nil, nil, errdef.New(errdef.Invalid, "--chown=%s: user and group names can't be resolved when used with --link, use numeric uid[:gid] instead", c.Chown)
	}
	if c.Checksum != "" && (len(c.Sources) != 1 || !isRemote(c.Sources[0])) {
		return nil, nil, errdef.New(errdef.Invalid, "checksum requires one HTTP(S) source")
	}
	pieces, err := b.pieces(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	k := &copyKey{
		Dest: c.Dest, Chown: c.Chown, Chmod: c.Chmod, Add: c.Add, Parents: c.Parents, Link: c.Link, Unpack: c.Unpack, Contents: c.Contents,
	}
	copied, whole := &files.Listing{}, true
	for _, p := range pieces {
		if p.get != nil {
			k.Inputs = append(k.Inputs, input{p.as, p.digest})
			continue
		}
		item, err := p.find()
		if err != nil {
			return nil, nil, err
		}
		in := input{}
		if item.Dir == nil {
			in.Name = p.as
		}
		listed := false
		in.Digest, listed, err = b.digest(ctx, c, p, item, copied)
		item.Close()
		if err != nil {
			return nil, nil, err
		}
		whole = whole && listed
		k.Inputs = append(k.Inputs, in)
	}
	k.list = func() ([]byte, error) {
		if whole {
			return fileList(copied), nil
		}
		again := &files.Listing{}
		for _, p := range pieces {
			if p.get != nil {
				continue
			}
			item, err := p.find()
			if err != nil {
				return nil, err
			}
			_, err = b.digester(c.From).Digest(ctx, item, again)
			item.Close()
			if err != nil {
				return nil, err
			}
		}
		return fileList(again), nil
	}
	return k, func(ctx context.Context, w *cache.Work) (*engine.Copied, error) {
		below := on
		if c.Link {
			below = layers{}
		}
		l, owner, err := b.layer(below, w, c.Chown)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		opt := files.Options{Owner: owner, Mode: mode, Anonymous: fromHost(c.From)}
		if fromHost(c.From) {
			of := memoryOf(c.From)
			opt.Unchanged = func(path string, st *unix.Stat_t) bool { return b.digests.unchanged(of+path, st) }
		}
		if err := severalToOne(l, c, len(pieces)+len(c.Contents)); err != nil {
			return nil, err
		}
		for _, p := range pieces {
			if err := b.copyPiece(ctx, p, l, c.Dest, w, opt); err != nil {
				return nil, fmt.Errorf("cannot copy %s: %w", p.path, err)
			}
		}
		for _, f := range c.Contents {
			if err := l.Write(f.Name, []byte(f.Data), f.Mode, c.Dest, opt); err != nil {
				return nil, fmt.Errorf("cannot write %s: %w", f.Name, err)
			}
		}
		return nil, nil //nolint:nilnil // it is all in the upper directory
	}, nil
}

func (b *builder) copyPiece(ctx context.Context, p piece, l *files.Layer, dest string, w *cache.Work, opt files.Options) error {
	if p.get != nil {
		dir, err := p.get(ctx)
		if err != nil {
			return err
		}
		p.tree, opt.Unchanged = files.Tree{Layers: []string{dir}}, nil
	}
	item, err := p.find()
	if err != nil {
		return err
	}
	defer item.Close()
	if p.archive && item.Dir == nil {
		unpacked, err := b.unpack(ctx, item, w)
		if err != nil {
			return err
		}
		if unpacked != "" {
			return copyUnpacked(ctx, unpacked, l, dest, opt)
		}
	}
	return l.Copy(ctx, item, dest, opt)
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
