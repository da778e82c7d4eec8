package build

import (
	"archive/tar"
	"bufio"
	"compress/bzip2"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"berth/internal/build/cache"
	"berth/internal/build/dockerfile"
	"berth/internal/build/files"
	"berth/internal/errdef"
	"berth/internal/image"
	"berth/internal/image/unpack"

	"github.com/ulikunitz/xz"
)

// decompress is unpack.Decompress with two more forms, which archives have and layers have not.
func decompress(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case strings.HasPrefix(string(head), "BZh"):
		return bzip2.NewReader(b), nil
	case strings.HasPrefix(string(head), "\xfd7zXZ\x00"):
		return xz.NewReader(b)
	}
	plain, _, err := unpack.Decompress(b)
	return plain, err
}

// isTar reports whether a file is a tar, packed or not. A single packed file is none.
func isTar(item files.Item) bool {
	f, err := item.Open()
	if err != nil {
		return false
	}
	defer f.Close()
	plain, err := decompress(f)
	if err != nil {
		return false
	}
	_, err = tar.NewReader(plain).Next()
	return err == nil
}

// unpack unpacks an archive into a directory of the step; "" says that it is none.
func (b *builder) unpack(ctx context.Context, item files.Item, w *cache.Work) (dir string, err error) {
	if !isTar(item) {
		return "", nil
	}
	f, err := item.Open()
	if err != nil {
		return "", err
	}
	defer f.Close()
	plain, err := decompress(f)
	if err != nil {
		return "", errdef.New(errdef.Corrupt, "cannot unpack it: %w", err)
	}
	if dir, err = os.MkdirTemp(w.Dir, "unpacked-"); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	root, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	_, err = unpack.Apply(ctx, root, plain, b.unpackOptions())
	return dir, err
}

// copyUnpacked copies what an archive had in it. Its owners are the archive's.
func copyUnpacked(ctx context.Context, dir string, l *files.Layer, dest string, opt files.Options) error {
	item, err := files.Tree{Layers: []string{dir}}.Find(".")
	if err != nil {
		return err
	}
	defer item.Close()
	opt.Anonymous, opt.Unchanged = false, nil
	return l.Copy(ctx, item, strings.TrimSuffix(dest, "/")+"/", opt)
}

func isRemote(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") || isGit(s)
}

// maxDownload bounds what a server can make us write, in bytes.
const maxDownload = 64 << 30

// remote is a file of a server. It is got at once, unless its digest is known: then only when it is copied.
func (b *builder) remote(ctx context.Context, c *dockerfile.Copy, source string) (p piece, err error) {
	if !c.Add {
		return p, errdef.New(errdef.Invalid, "source can't be a URL for COPY")
	}
	if isGit(source) {
		return b.addRepository(ctx, c, source)
	}
	u, err := url.Parse(source)
	if err != nil {
		return p, errdef.New(errdef.Invalid, "invalid URL %s: %w", source, err)
	}
	name := path.Base(u.Path)
	if name == "." || name == "/" {
		name = "__unnamed__"
	}
	var want image.Digest
	if c.Checksum != "" {
		if want, err = image.ParseDigest(c.Checksum); err != nil {
			return p, err
		}
	}
	p = piece{path: name, as: name, archive: c.Unpack != nil && *c.Unpack}
	get := func(ctx context.Context) (dir string, err error) {
		w, err := cache.BeginIn(filepath.Join(b.engine.Settings.DataRoot, "build", "steps"), "got")
		if err != nil {
			return "", err
		}
		b.later(func() error { return w.End(os.RemoveAll) })
		dir = filepath.Join(w.Dir, "got")
		return dir, fetch(ctx, source, filepath.Join(dir, name), want)
	}
	if want != "" {
		p.digest, p.get = string(want), get
		return p, nil
	}
	dir, err := get(ctx)
	p.tree = files.Tree{Layers: []string{dir}}
	return p, err
}

// addRepository is a repository of a server. Only its commit is asked for; its files come when they are copied.
func (b *builder) addRepository(ctx context.Context, c *dockerfile.Copy, source string) (p piece, err error) {
	r, err := parseRepository(source)
	if err != nil {
		return p, err
	}
	r.foreign = true
	if c.Checksum != "" {
		r.commit = c.Checksum
		if !commitID.MatchString(r.commit) {
			return p, errdef.New(errdef.Invalid, "invalid checksum %q: it is a whole commit ID", r.commit)
		}
	}
	commit, err := b.commitOf(ctx, r)
	if err != nil {
		return p, err
	}
	if r.commit != "" && r.commit != commit {
		return p, errdef.New(errdef.Corrupt, "the commit of %s is %s, and not %s", r.url, commit, r.commit)
	}
	keep := c.KeepGit != nil && *c.KeepGit
	return piece{
		path: ".", digest: "git " + commit + " " + strconv.FormatBool(keep) + " " + r.subdir,
		get: func(ctx context.Context) (string, error) { return b.checkout(ctx, r, commit, keep) },
	}, nil
}

// client gives up on servers that do not answer; what they send may take its time.
var client = &http.Client{Transport: &http.Transport{
	Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 20 * time.Second, ResponseHeaderTimeout: time.Minute,
	DialContext: (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
}}

// fetch writes what a server has at a URL to a file, with the time that the server says.
func fetch(ctx context.Context, source, file string, want image.Digest) error {
	fail := func(err error) error { return errdef.New(errdef.Unavailable, "failed to load %s: %w", source, err) }
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return fail(err)
	}
	answer, err := client.Do(r)
	if err != nil {
		return fail(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fail(errors.New("the server answers " + answer.Status))
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	algorithm := image.SHA256
	if want != "" {
		algorithm = want.Algorithm()
	}
	digester := image.NewDigester(algorithm)
	n, err := io.Copy(io.MultiWriter(f, digester), io.LimitReader(answer.Body, maxDownload+1))
	switch {
	case err != nil:
		return fail(err)
	case n > maxDownload:
		return fail(errors.New("it is too long"))
	case want != "" && digester.Digest() != want:
		return errdef.New(errdef.Corrupt, "digest mismatch %s: %s", digester.Digest(), want)
	}
	if t, err := http.ParseTime(answer.Header.Get("Last-Modified")); err == nil {
		return os.Chtimes(file, time.Time{}, t)
	}
	return nil
}
