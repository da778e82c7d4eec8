package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"berth/internal/build/cache"
	"berth/internal/build/dockerfile"
	"berth/internal/build/files"
	"berth/internal/container"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/merged"

	"golang.org/x/sys/unix"
)

// mkdir carries out a WORKDIR.
func (b *builder) mkdir(m *dockerfile.Mkdir, on layers, w *cache.Work) (err error) {
	l, owner, err := b.layer(on, w, m.User)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
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
	return k, func(ctx context.Context, w *cache.Work) (_ *engine.Copied, err error) {
		below := on
		if c.Link {
			below = layers{}
		}
		l, owner, err := b.layer(below, w, c.Chown)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, l.Close()) }()
		opt := files.Options{Owner: owner, Mode: mode, Anonymous: fromHost(c.From)}
		if fromHost(c.From) {
			of := memoryOf(c.From)
			opt.Unchanged = func(path string, st *unix.Stat_t) bool { return b.digests.unchanged(of, path, st) }
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
