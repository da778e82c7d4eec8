package build

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"berth/internal/build/cache"
	"berth/internal/build/files"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image/unpack"

	"github.com/moby/patternmatcher/ignorefile"
)

// Source is where a build's files come from.
type Source struct {
	// Context is a directory, a git repository, an address of a server, which has an archive or a Dockerfile, or "-": then Stdin has one of the two.
	Context string
	// Dockerfile is a path, or "-" for Stdin, or "" for the one of the context.
	Dockerfile string
	Stdin      io.Reader
}

// source is a Source that has been opened.
type source struct {
	name   string // of the Dockerfile
	text   []byte
	dir    string // the context; "" is none
	ignore *patterns
	work   *cache.Work // what it was unpacked into
	remove func(string) error
	// foreign says that the context is of no directory of the host's: its Dockerfile is in it.
	foreign  bool
	revision string // of a repository
}

func (s *source) close() {
	if s.work != nil {
		_ = s.work.End(s.remove) // what is left is swept
	}
}

// Limits of what is read as a whole.
const (
	maxDockerfile = 16 << 20
	maxIgnore     = 1 << 20
)

// open opens the context, and reads the Dockerfile and what is to be left out.
func (b *session) open(ctx context.Context) (_ *source, err error) {
	s := &source{remove: b.engine.RemoveTree}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	var stdin []byte // a Dockerfile
	switch from := b.Source.Context; {
	case from == "-" && b.Source.Dockerfile == "-":
		return nil, errdef.New(errdef.Invalid, "invalid argument: can't use stdin for both build context and dockerfile")
	case from == "-":
		stdin, err = b.unpackContext(ctx, s, b.Source.Stdin)
	case isRemote(from):
		stdin, err = b.remoteContext(ctx, s, from)
	default:
		s.dir, err = contextDir(from)
	}
	if err != nil {
		return nil, err
	}
	if b.Source.Dockerfile == "-" {
		if stdin, err = readAll(b.Source.Stdin); err != nil {
			return nil, err
		}
	}
	if err := b.readDockerfile(s, stdin); err != nil {
		return nil, err
	}
	if s.dir != "" && !s.foreign {
		b.digests = openDigests(b.engine.Settings.DataRoot, s.dir)
		b.later(func() error { b.digests.save(); return nil })
	}
	return s, b.readIgnore(s)
}

func contextDir(p string) (string, error) {
	st, err := os.Stat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", errdef.New(errdef.NotFound, "unable to prepare context: path %q not found", p)
	case err != nil:
		return "", errdef.New(errdef.Invalid, "unable to prepare context: %w", err)
	case !st.IsDir():
		return "", errdef.New(errdef.Invalid, "unable to prepare context: context must be a directory: %s", p)
	}
	return filepath.Abs(p)
}

func readAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	if err == nil && len(data) > maxDockerfile {
		err = errdef.New(errdef.Invalid, "the Dockerfile has more than %d bytes", maxDockerfile)
	}
	return data, err
}

// remoteContext gets a context from elsewhere. What is neither a repository nor an archive is a Dockerfile, which is returned.
func (b *session) remoteContext(ctx context.Context, s *source, from string) (dockerfile []byte, err error) {
	v := b.Progress.Begin("[internal] load remote build context")
	defer func() {
		if err != nil {
			v.Failed(err)
			return
		}
		v.Done()
	}()
	if isGit(from) {
		s.foreign = true
		s.dir, s.revision, err = b.repositoryDir(ctx, from, b.Args["BUILDKIT_CONTEXT_KEEP_GIT_DIR"] == "1")
		return nil, err
	}
	file, err := b.download(ctx, from)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return b.unpackContext(ctx, s, file)
}

// repositoryDir is a directory with the files of a repository, and their commit.
func (b *session) repositoryDir(ctx context.Context, from string, keepGit bool) (dir, commit string, err error) {
	r, err := parseRepository(from)
	if err != nil {
		return "", "", err
	}
	if commit, err = b.commitOf(ctx, r); err != nil {
		return "", "", err
	}
	dir, err = b.checkout(ctx, r, commit, keepGit)
	return dir, commit, err
}

// download gets what a server has into a file that goes with the build.
func (b *session) download(ctx context.Context, from string) (*os.File, error) {
	w, err := cache.BeginIn(filepath.Join(b.engine.Settings.DataRoot, "build", "steps"))
	if err != nil {
		return nil, err
	}
	b.later(func() error { return w.End(os.RemoveAll) })
	name := filepath.Join(w.Dir, "got")
	if err := fetch(ctx, from, name, ""); err != nil {
		return nil, err
	}
	return os.Open(name)
}

// unpackContext takes the context from a stream: a tar, packed or not. Anything else is a Dockerfile, which is returned.
func (b *session) unpackContext(ctx context.Context, s *source, from io.Reader) (dockerfile []byte, err error) {
	in := bufio.NewReaderSize(from, 64<<10)
	head, err := in.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !isArchive(head) {
		return readAll(in)
	}
	if s.work, err = b.cache.Begin(); err != nil {
		return nil, err
	}
	s.foreign, s.dir = true, s.work.Upper()
	return nil, b.unpackTo(ctx, s.dir, in)
}

// unpackTo unpacks an archive that is a context.
func (b *session) unpackTo(ctx context.Context, to string, from io.Reader) error {
	dir, err := os.Open(to)
	if err != nil {
		return err
	}
	defer dir.Close()
	plain, err := decompress(from)
	if err != nil {
		return fmt.Errorf("cannot unpack the build context: %w", err)
	}
	opt := b.unpackOptions()
	opt.SkipDevices = true
	if _, err := unpack.Apply(ctx, dir, plain, opt); err != nil {
		return fmt.Errorf("cannot unpack the build context: %w", err)
	}
	return nil
}

// isArchive tells a tar, or what packs one, from a text.
func isArchive(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b\x08", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return len(head) == 512 && bytes.HasPrefix(head[257:], []byte("ustar"))
}

// readDockerfile reads the Dockerfile: given is one that has come already.
func (b *session) readDockerfile(s *source, given []byte) (err error) {
	named := b.Source.Dockerfile
	switch {
	case given != nil:
		s.name, s.text = "Dockerfile", given
	case named == "" || s.foreign:
		if s.text, s.name, err = inContext(s.dir, named); err != nil {
			return err
		}
	default:
		s.name = filepath.Base(named)
		f, err := os.Open(named)
		if errors.Is(err, fs.ErrNotExist) && !filepath.IsAbs(named) {
			if text, _, err := inContext(s.dir, named); err == nil { // as docker has it
				s.text = text
				break
			}
		}
		if err != nil {
			return errdef.New(errdef.NotFound, "failed to read dockerfile: %w", err)
		}
		defer f.Close()
		if st, err := f.Stat(); err == nil && st.IsDir() {
			return errdef.New(errdef.Invalid, "failed to read dockerfile: %s is a directory", named)
		}
		if s.text, err = readAll(f); err != nil {
			return err
		}
	}
	v := b.Progress.Begin("[internal] load build definition from %s", s.name)
	v.Say("transferring dockerfile: %dB done", len(s.text))
	v.Done()
	if len(bytes.TrimSpace(s.text)) == 0 {
		return errdef.New(errdef.Invalid, "the Dockerfile (%s) cannot be empty", s.name)
	}
	return nil
}

// inContext reads a Dockerfile of the context, no link of which leads out of it.
func inContext(dir, name string) (text []byte, found string, err error) {
	names := []string{name}
	if name == "" {
		names = []string{"Dockerfile", "Containerfile"}
	}
	root, err := os.Open(dir)
	if err != nil {
		return nil, "", err
	}
	defer root.Close()
	for _, n := range names {
		text, err := disk.ReadBounded(int(root.Fd()), n, maxDockerfile)
		if err == nil {
			return text, path.Base(n), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, "", errdef.New(errdef.Invalid, "failed to read dockerfile: %w", err)
		}
	}
	return nil, "", errdef.New(errdef.NotFound, "failed to read dockerfile: open %s: no such file or directory", names[0])
}

// readIgnore reads what is to be left out: of NAME.dockerignore beside the Dockerfile, else of .dockerignore.
func (b *session) readIgnore(s *source) error {
	if s.dir == "" {
		return nil
	}
	v := b.Progress.Begin("[internal] load .dockerignore")
	text, err := b.ignoreText(s)
	if err == nil {
		s.ignore, err = ignoring(text)
	}
	if err != nil {
		v.Failed(err)
		return err
	}
	v.Say("transferring context: %dB done", len(text))
	v.Done()
	return nil
}

func (b *session) ignoreText(s *source) ([]byte, error) {
	named := b.Source.Dockerfile
	if named == "" {
		named = s.name
	}
	own := filepath.Join(s.dir, named)
	if _, err := os.Stat(named); !s.foreign && b.Source.Dockerfile != "" && err == nil {
		own = named
	}
	own += ".dockerignore"
	if text, err := ignoreIn(filepath.Dir(own), filepath.Base(own)); text != nil || err != nil {
		return text, err
	}
	return ignoreIn(s.dir, ".dockerignore")
}

// ignoreIn reads a file of patterns in a directory; nil says that there is none.
func ignoreIn(dir, name string) ([]byte, error) {
	root, err := os.Open(dir)
	if err != nil {
		return nil, nil //nolint:nilerr // there is none in it
	}
	defer root.Close()
	text, err := disk.ReadBounded(int(root.Fd()), name, maxIgnore)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errdef.New(errdef.Invalid, "cannot read %s: %w", name, err)
	}
	return text, nil
}

// ignoring understands a .dockerignore; nil leaves nothing out.
func ignoring(text []byte) (*patterns, error) {
	lines, err := ignorefile.ReadAll(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff"))))
	if err != nil {
		return nil, errdef.New(errdef.Invalid, "cannot understand .dockerignore: %w", err)
	}
	if len(lines) == 0 {
		return nil, nil
	}
	m, err := newPatterns(lines)
	if err != nil {
		return nil, errdef.New(errdef.Invalid, "cannot understand .dockerignore: %w", err)
	}
	return m, nil
}

// tree is the context as a tree to copy from.
func (s *source) tree() (files.Tree, error) {
	if s.dir == "" {
		return files.Tree{}, nil
	}
	t := files.Tree{Layers: []string{s.dir}}
	if s.ignore != nil {
		t.Keep = except(s.ignore)
	}
	return t, nil
}

// named is a further context that has files: a directory of the host's, a repository, or an archive of a server's, which are brought once.
func (b *session) named(ctx context.Context, name string) (files.Tree, error) {
	b.mu.Lock()
	p := b.places[name]
	if p == nil {
		p = &place{}
		if b.places == nil {
			b.places = map[string]*place{}
		}
		b.places[name] = p
	}
	b.mu.Unlock()
	p.once.Do(func() { p.dir, p.err = b.bringContext(ctx, b.Contexts[name]) })
	if p.err != nil {
		return files.Tree{}, p.err
	}
	s := source{dir: p.dir}
	text, err := ignoreIn(p.dir, ".dockerignore")
	if err == nil {
		s.ignore, err = ignoring(text)
	}
	if err != nil {
		return files.Tree{}, err
	}
	return s.tree()
}

// place is where the files of a further context are.
type place struct {
	once sync.Once
	dir  string
	err  error
}

func (b *session) bringContext(ctx context.Context, from string) (string, error) {
	switch {
	case isGit(from):
		dir, _, err := b.repositoryDir(ctx, from, b.Args["BUILDKIT_CONTEXT_KEEP_GIT_DIR"] == "1")
		return dir, err
	case isRemote(from):
		file, err := b.download(ctx, from)
		if err != nil {
			return "", err
		}
		defer file.Close()
		dir := filepath.Join(filepath.Dir(file.Name()), "unpacked")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
		return dir, b.unpackTo(ctx, dir, file)
	}
	return contextDir(from)
}

// checkContext refuses what no further context can be.
func checkContext(name, value string) error {
	scheme, _, ok := strings.Cut(value, "://")
	if !ok || isRemote(value) || strings.HasPrefix(value, imageContext) || strings.HasPrefix(value, layoutContext) {
		return nil
	}
	return errdef.New(errdef.Unsupported, "cannot use the context %s=%s: it is a directory, a repository, an archive of a server, %sNAME or %sDIR, and not %s",
		name, value, imageContext, layoutContext, scheme)
}
