package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"runtime"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/errdef"
)

// extractor is the state of one Apply. One goroutine uses it.
type extractor struct {
	ctx    context.Context
	opt    Options
	root   int
	result Result

	owner   owner
	crew    *crew
	dirs    map[string]*dirHandle // open directories by their path in the tar
	retired []*dirHandle          // no longer in dirs, and perhaps in use until the entry is made
	places  map[uint64]struct{}   // where something was made; see key
	seed    maphash.Seed

	// Directories get their owner, mode and times when everything is in them: until then all are 0700, so that
	// their times stay, anybody may fill them, and no setgid bit gives a group to what is made inside.
	dirMeta   map[string]meta
	implied   []string
	isImplied map[string]bool
	viaLink   map[string]bool // directories whose entries go through a symlink
	files     int64           // bytes of regular files so far
}

func newExtractor(ctx context.Context, root *os.File, opt Options) *extractor {
	return &extractor{
		ctx: ctx, opt: opt, root: int(root.Fd()),
		owner:     owner{uid: os.Geteuid(), gid: os.Getegid(), ignored: opt.OwnersIgnored},
		dirs:      map[string]*dirHandle{},
		places:    map[uint64]struct{}{},
		seed:      maphash.MakeSeed(),
		dirMeta:   map[string]meta{},
		isImplied: map[string]bool{},
		viaLink:   map[string]bool{},
	}
}

// withoutUmask gives the calling goroutine a thread of its own with an umask of 0, so that every mode can be given
// when a file is made. The thread ends with the goroutine, which therefore must not do anything else later.
func withoutUmask() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	unix.Umask(0)
	return nil
}

// run reads the tar to its end.
func (x *extractor) run(r io.Reader) error {
	if err := withoutUmask(); err != nil {
		return err
	}
	if err := x.learnGroup(); err != nil {
		return fmt.Errorf("cannot unpack the layer: %w", err)
	}
	x.crew = startCrew(&x.owner)
	err := x.entries(tar.NewReader(r))
	err = errors.Join(err, x.crew.end())
	x.forget()
	err = errors.Join(err, x.closeRetired())
	if err == nil {
		err = x.finishDirs()
	}
	x.result.Size = x.files
	return noSpace(err)
}

// learnGroup finds out whom a new file belongs to: with the mount option grpid, or in a directory with setgid, not
// to the process's group.
func (x *extractor) learnGroup() error {
	const probe = ".wh..wh.probe" // a name that no entry can have
	if err := unix.Mkdirat(x.root, probe, 0o700); err != nil {
		return os.NewSyscallError("mkdirat", err)
	}
	var st unix.Stat_t
	err := unix.Fstatat(x.root, probe, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err := unix.Unlinkat(x.root, probe, unix.AT_REMOVEDIR); err != nil {
		return os.NewSyscallError("unlinkat", err)
	}
	x.owner.always = int(st.Uid) != x.owner.uid || int(st.Gid) != x.owner.gid
	return os.NewSyscallError("fstatat", err)
}

func (x *extractor) entries(t *tar.Reader) error {
	for {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // what is insecure is judged here, by classify
			return errdef.New(errdef.Corrupt, "cannot read the layer's tar: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if x.result.Entries++; x.result.Entries > x.opt.Limits.Entries {
			return errdef.New(errdef.Invalid, "the layer has more than %d entries", x.opt.Limits.Entries)
		}
		if err := x.entry(h, t); err != nil {
			return fmt.Errorf("cannot unpack %q: %w", h.Name, err)
		}
	}
}

// entry makes what one entry says.
func (x *extractor) entry(h *tar.Header, content io.Reader) error {
	if err := x.closeRetired(); err != nil {
		return err
	}
	to, err := classify(h.Name, x.opt.Limits.PathLength)
	if err != nil {
		return err
	}
	switch to.act {
	case actIgnore:
		return nil
	case actRoot:
		if h.Typeflag != tar.TypeDir { // umoci CVE-2021-29136
			return errdef.New(errdef.Invalid, "the root of a layer is a directory, not of type %q", h.Typeflag)
		}
		return x.setMeta(".", h)
	case actHide:
		return x.hide(to)
	case actOpaque:
		return x.opaque(to)
	}
	m, err := metaOf(h)
	if err != nil {
		return err
	}
	in, err := x.parent(to.dir)
	if err != nil {
		return err
	}
	at := place{in, to.base}
	switch h.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeGNUSparse, tar.TypeCont:
		return x.file(at, h.Size, &m, content)
	case tar.TypeDir:
		if _, err := x.mkdir(at, replaceOthers); err != nil {
			return err
		}
		if in.viaLink {
			x.viaLink[to.path()] = true
		}
		return x.setMeta(to.path(), h)
	case tar.TypeLink:
		return x.link(at, h.Linkname)
	case tar.TypeSymlink:
		return x.symlink(at, h.Linkname, &m)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return x.node(at, h, &m)
	}
	return errdef.New(errdef.Invalid, "its type %q is not one of a layer's", h.Typeflag)
}

func (x *extractor) setMeta(p string, h *tar.Header) error {
	m, err := metaOf(h)
	if err == nil {
		x.dirMeta[p] = m
		delete(x.isImplied, p)
	}
	return err
}

// settle waits for the small files that are in the making.
func (x *extractor) settle() error {
	return x.crew.settle()
}

// vacate makes sure that nothing is at a place, for an entry that replaces what an earlier one made.
func (x *extractor) vacate(at place) error {
	if !x.used(at) {
		return nil
	}
	if err := x.settle(); err != nil {
		return err
	}
	return x.remove(at)
}

// file makes a regular file: a small one is left to the crew, so that several are made at once.
func (x *extractor) file(at place, size int64, m *meta, content io.Reader) error {
	if x.files += size; x.files < 0 || x.files > x.opt.Limits.Bytes {
		return errdef.New(errdef.Invalid, "the files of the layer have more than %d bytes", x.opt.Limits.Bytes)
	}
	if err := x.vacate(at); err != nil {
		return err
	}
	if size <= smallFile {
		return x.crew.small(at, size, m, content)
	}
	return makeFile(at, m, &x.owner, func(fd int) error { return copySparse(x.ctx, fd, content, size) })
}

func (x *extractor) link(at place, name string) error {
	name, err := clean(name, x.opt.Limits.PathLength)
	if err != nil {
		return errdef.New(errdef.Invalid, "what it links to: %w", err)
	}
	if err := x.settle(); err != nil {
		return err
	}
	dir, base := ".", name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, base = name[:i], name[i+1:]
	}
	// Not parent: a link makes no directories at the far end.
	from := x.dirs[dir]
	if from == nil {
		if from, err = x.openDir(dir); err != nil {
			return linkError(name, err)
		}
	}
	if from.ino == at.in.ino && base == at.base {
		return errdef.New(errdef.Invalid, "it is a hard link to itself")
	}
	if err := x.vacate(at); err != nil {
		return err
	}
	// Without AT_SYMLINK_FOLLOW the last part of name is never followed.
	if err := unix.Linkat(from.fd, base, at.in.fd, at.base, 0); err != nil {
		return linkError(name, os.NewSyscallError("linkat", err))
	}
	return nil
}

func linkError(name string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return errdef.New(errdef.Invalid, "it is a hard link to %q, which is not in this layer: %w", name, err)
	}
	if errors.Is(err, unix.EPERM) {
		return errdef.New(errdef.Invalid, "it is a hard link to %q, which cannot have one: %w", name, err)
	}
	return err
}

func (x *extractor) symlink(at place, to string, m *meta) error {
	if to == "" || len(to) > defaultPathLength || strings.IndexByte(to, 0) >= 0 {
		return errdef.New(errdef.Invalid, "it is a symlink to %.100q", to)
	}
	if err := x.vacate(at); err != nil {
		return err
	}
	// What it points at is the container's business: nobody follows it outside the tree.
	if err := unix.Symlinkat(to, at.in.fd, at.base); err != nil {
		return os.NewSyscallError("symlinkat", err)
	}
	return decorateAt(at.in.fd, at.base, m, &x.owner, true)
}

// node makes a device or a FIFO.
func (x *extractor) node(at place, h *tar.Header, m *meta) error {
	kind := uint32(unix.S_IFIFO)
	var dev uint64
	if h.Typeflag != tar.TypeFifo {
		if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor >= 1<<12 || h.Devminor >= 1<<20 {
			return errdef.New(errdef.Invalid, "there is no device %d:%d", h.Devmajor, h.Devminor)
		}
		if h.Devmajor == 0 && h.Devminor == 0 && h.Typeflag == tar.TypeChar {
			return errdef.New(errdef.Invalid, "it is the device 0:0, by which overlayfs hides files")
		}
		if x.opt.SkipDevices {
			x.result.Skipped++
			return nil
		}
		dev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
		if kind = unix.S_IFCHR; h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
	}
	if err := x.vacate(at); err != nil {
		return err
	}
	err := unix.Mknodat(at.in.fd, at.base, kind|0o600, int(dev))
	if err == unix.EPERM && kind != unix.S_IFIFO {
		err := errdef.New(errdef.Denied, "cannot make the device %d:%d: %w", h.Devmajor, h.Devminor, os.NewSyscallError("mknodat", err))
		return errdef.Hint(err, "a user namespace may not make devices")
	}
	if err != nil {
		return os.NewSyscallError("mknodat", err)
	}
	return decorateAt(at.in.fd, at.base, m, &x.owner, false)
}

// hide carries out a whiteout. It speaks about the layers below: what this layer itself has at the place stays.
func (x *extractor) hide(to target) error {
	in, err := x.parentNoLink(to.dir)
	if err != nil {
		return err
	}
	at := place{in, to.base}
	if x.used(at) {
		if err := x.settle(); err != nil {
			return err
		}
		switch who, err := look(at); {
		case err != nil:
			return err
		case who == aDirectory:
			return x.setOpaque(at)
		case who != nobody:
			return nil
		}
	}
	return x.whiteout(at)
}

func (x *extractor) opaque(to target) error {
	in, err := x.parentNoLink(to.dir)
	if err != nil {
		return err
	}
	if to.dir == "." {
		// overlayfs merges the roots of all layers whatever they say; the store ends the stack here instead.
		x.result.OpaqueRoot = true
		return nil
	}
	return x.setOpaque(place{in, "."})
}

// finishDirs gives the directories what their entries say, the deepest first: a directory may be closed to its
// owner.
func (x *extractor) finishDirs() error {
	paths := make([]string, 0, len(x.dirMeta))
	for p := range x.dirMeta {
		paths = append(paths, p)
	}
	depth := func(p string) int {
		if p == "." {
			return -1
		}
		return strings.Count(p, "/")
	}
	sort.Slice(paths, func(i, j int) bool {
		if a, b := depth(paths[i]), depth(paths[j]); a != b {
			return a > b
		}
		return paths[i] < paths[j]
	})
	plain := meta{mode: 0o755, uid: x.owner.uid, gid: x.owner.gid}
	for _, p := range x.implied {
		if x.isImplied[p] {
			x.result.Implied = append(x.result.Implied, p)
		}
	}
	if _, ok := x.dirMeta["."]; !ok {
		x.result.Implied = append([]string{"."}, x.result.Implied...)
		if err := unix.Fchmod(x.root, plain.mode); err != nil {
			return os.NewSyscallError("fchmod", err)
		}
	}
	for i := len(x.implied) - 1; i >= 0; i-- {
		if p := x.implied[i]; x.isImplied[p] {
			if err := x.finishDir(p, func(f *os.File) error { return f.Chmod(os.FileMode(plain.mode)) }); err != nil {
				return err
			}
		}
	}
	for _, p := range paths {
		m := x.dirMeta[p]
		if err := x.finishDir(p, func(f *os.File) error { return decorateDir(f, &m, &x.owner) }); err != nil {
			return err
		}
	}
	return nil
}

func (x *extractor) finishDir(p string, finish func(*os.File) error) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW
	resolve := uint64(disk.Beneath | unix.RESOLVE_NO_SYMLINKS)
	if x.viaLink[p] {
		resolve = disk.InRoot
	}
	fd, err := disk.OpenIn(x.root, p, flags, 0, resolve)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // a later entry replaced it
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), p)
	defer f.Close()
	if err := finish(f); err != nil {
		return fmt.Errorf("cannot unpack directory %q: %w", p, err)
	}
	return nil
}
