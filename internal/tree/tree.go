// Package tree copies files and directories between open directories of which either may belong to a container that changes it
// meanwhile. No link is followed: every step is one name in an open directory, so what a container makes of its tree leads
// nowhere else. FIFOs and devices are never opened.
//
// It keeps contents with their holes, hard links within one copy, modes, times and extended attributes. It resolves no paths (disk.OpenIn does),
// reads and writes no archives (image/unpack does), and knows nothing of layers.
package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"

	"berth/internal/disk"
	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// MaxDepth is how many directories deep a tree may be: each level holds two descriptors.
const MaxDepth = 4096

// Owner says whose the copy of something is that belongs to a user and a group.
type Owner func(uid, gid uint32) (int, int, error)

// Options of Copy and CopyContents.
type Options struct {
	// Owner may be nil: a copy then belongs to whoever makes it.
	Owner Owner
	// Harmless leaves out what gives rights to who executes a copy: set-id bits and file capabilities.
	Harmless bool
	// NoDevices leaves out devices.
	NoDevices bool
	// Notice, unless it is nil, is told what was left out, and why.
	Notice func(text string)
	// Count, unless it is nil, is told of bytes that were copied, as a tar of them would have.
	Count func(bytes int64)
}

// Copy copies name in the directory from to as in the directory to. A directory joins one that is there already; all else takes the
// place of what is there, unless that is a directory: then the error is of the kind Conflict.
func Copy(ctx context.Context, from *os.File, name string, to *os.File, as string, opt Options) error {
	c := newCopier(ctx, to, opt)
	c.alone = true
	return c.entry(int(from.Fd()), name, int(to.Fd()), as, as, 0)
}

// CopyContents copies what is in the directory from into the directory to, which itself stays as it is.
func CopyContents(ctx context.Context, from, to *os.File, opt Options) error {
	c := newCopier(ctx, to, opt)
	if err := c.noteTop(int(to.Fd())); err != nil {
		return err
	}
	return c.contents(int(from.Fd()), int(to.Fd()), "", 0)
}

type inode struct{ dev, ino uint64 }

func inodeOf(st *unix.Stat_t) inode { return inode{st.Dev, st.Ino} }

type copier struct {
	ctx   context.Context
	opt   Options
	base  *os.File         // beneath which links are
	top   *inode           // the directory that is being made: nothing may be copied from there
	links map[inode]string // files with several names: where the first copy is, beneath base
	buf   []byte
	meta  Meta
	alone bool // what is copied, if it is a file, is all that is copied: it is there as a whole, or not at all
}

// A Copier copies entries one by one, for who finds them himself. What has several names among them keeps them.
type Copier struct{ c *copier }

// NewCopier returns a copier into a tree.
func NewCopier(ctx context.Context, base *os.File, opt Options) Copier {
	return Copier{newCopier(ctx, base, opt)}
}

// Entry copies name in the directory from as in the directory to, whose path beneath the tree is where.
func (c Copier) Entry(from int, name string, to *os.File, as, where string) error {
	return c.c.entry(from, name, int(to.Fd()), as, path.Join(where, as), 0)
}

func newCopier(ctx context.Context, base *os.File, opt Options) *copier {
	return &copier{ctx: ctx, opt: opt, base: base, links: map[inode]string{}, meta: Meta{Owner: opt.Owner, Harmless: opt.Harmless}}
}

func (c *copier) notice(format string, args ...any) {
	if c.opt.Notice != nil {
		c.opt.Notice(fmt.Sprintf(format, args...))
	}
}

// blockBytes is tar's.
const blockBytes = 512

func (c *copier) count(content int64) {
	if c.opt.Count != nil {
		c.opt.Count(blockBytes + (content+blockBytes-1)/blockBytes*blockBytes)
	}
}

func (c *copier) noteTop(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	c.top = &inode{st.Dev, st.Ino}
	return nil
}

// entry copies one entry; where is its place beneath base.
func (c *copier) entry(from int, name string, to int, as, where string, depth int) error {
	if err := c.ctx.Err(); err != nil {
		return errdef.As(errdef.Cancelled, context.Cause(c.ctx))
	}
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "fstatat", Path: where, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		return c.directory(from, name, to, as, where, depth)
	}
	if st.Nlink > 1 {
		if first, ok := c.links[inodeOf(&st)]; ok && c.link(first, to, as) == nil {
			c.count(0)
			return nil
		}
	}
	var err error
	switch kind {
	case unix.S_IFREG:
		err = c.file(from, name, to, as, c.alone && depth == 0)
	case unix.S_IFLNK:
		err = c.symlink(from, name, to, as, &st)
	case unix.S_IFSOCK:
		c.notice("left out %s: a socket means nothing without its process", where)
		return nil
	case unix.S_IFCHR, unix.S_IFBLK:
		if c.opt.NoDevices {
			c.notice("left out the device %s: it would be a device of the host's", where)
			return nil
		}
		err = c.special(to, as, &st)
		if errors.Is(err, unix.EPERM) {
			c.notice("left out the device %s: it cannot be made there", where)
			return nil
		}
	default:
		err = c.special(to, as, &st)
	}
	if err != nil {
		return wrap(where, err)
	}
	if st.Nlink > 1 {
		c.links[inodeOf(&st)] = where
	}
	return nil
}

// wrap says where an error has happened, unless that is known.
func wrap(where string, err error) error {
	var known *os.PathError
	if err == nil || errors.As(err, &known) || errdef.KindOf(err) != errdef.Unknown {
		return err
	}
	return fmt.Errorf("%s: %w", where, err)
}

func (c *copier) directory(from int, name string, to int, as, where string, depth int) error {
	if depth > MaxDepth {
		return errdef.New(errdef.Unsupported, "%.60q... is more than %d directories deep", where, MaxDepth)
	}
	a, err := OpenEntry(from, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return wrap(where, err)
	}
	defer a.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(a.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if c.top != nil && *c.top == inodeOf(&st) {
		return errdef.New(errdef.Invalid, "cannot copy %s into itself", where)
	}
	if err := unix.Mkdirat(to, as, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "mkdirat", Path: where, Err: err}
	}
	b, err := OpenEntry(to, as, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return errdef.New(errdef.Conflict, "cannot overwrite non-directory %q with directory %q", where, name)
	}
	if err != nil {
		return wrap(where, err)
	}
	defer b.Close()
	if c.top == nil {
		if err := c.noteTop(int(b.Fd())); err != nil {
			return err
		}
	}
	if err := c.contents(int(a.Fd()), int(b.Fd()), where, depth); err != nil {
		return err
	}
	c.count(0)
	return wrap(where, c.meta.Copy(int(a.Fd()), int(b.Fd()), &st))
}

// namesAtOnce bounds what a directory with very many entries takes of memory.
const namesAtOnce = 4096

func (c *copier) contents(from, to int, where string, depth int) error {
	a, err := OpenEntry(from, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return wrap(where, err)
	}
	defer a.Close()
	for {
		names, err := a.Readdirnames(namesAtOnce)
		for _, name := range names {
			err := c.entry(from, name, to, name, path.Join(where, name), depth+1)
			if errors.Is(err, fs.ErrNotExist) && c.gone(from, name) {
				continue // removed meanwhile
			}
			if err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return wrap(where, err)
		}
	}
}

func (c *copier) gone(dir int, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == unix.ENOENT
}

// link gives a file that has been copied another name.
func (c *copier) link(first string, to int, as string) error {
	dir, err := disk.OpenIn(int(c.base.Fd()), path.Dir(first), unix.O_PATH|unix.O_DIRECTORY, 0, disk.Beneath|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return Replace(to, as, func(name string) error {
		return unix.Linkat(dir, path.Base(first), to, name, 0)
	})
}

// Replace lets make make an entry of the directory to. It takes the place of what is there, unless that is a directory; until it is made that
// stays.
func Replace(to int, as string, make func(name string) error) error {
	err := make(as)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(to, as, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return errdef.New(errdef.Conflict, "cannot overwrite directory %q with non-directory", as)
	}
	tmp := disk.TemporaryName()
	if err := make(tmp); err != nil {
		return err
	}
	if err := unix.Renameat(to, tmp, to, as); err != nil {
		return errors.Join(os.NewSyscallError("renameat", err), unix.Unlinkat(to, tmp, 0))
	}
	return nil
}

// file copies a file. One that is to be whole gets its name when all is in it; among many, where the rest would be missing anyway, that is not
// worth its time.
func (c *copier) file(from int, name string, to int, as string, whole bool) error {
	a, err := OpenEntry(from, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return err
	}
	defer a.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(a.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errdef.New(errdef.Conflict, "%q changed while it was copied", name)
	}
	fill := func(b *os.File) error {
		err := c.data(a, b, &st)
		if err == nil {
			err = c.meta.Copy(int(a.Fd()), int(b.Fd()), &st)
		}
		return err
	}
	place := func(name string) error {
		b, err := OpenEntry(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
		if err != nil {
			return err
		}
		if err := errors.Join(fill(b), b.Close()); err != nil {
			return errors.Join(err, unix.Unlinkat(to, name, 0))
		}
		return nil
	}
	if whole {
		if b, err := OpenEntry(to, ".", unix.O_WRONLY|unix.O_TMPFILE); err == nil { // not every file system has files without names
			defer b.Close()
			if err := fill(b); err != nil {
				return err
			}
			place = func(name string) error {
				// AT_EMPTY_PATH takes a capability that a user's root does not have (linkat(2)).
				return os.NewSyscallError("linkat", unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(b.Fd())), to, name, unix.AT_SYMLINK_FOLLOW))
			}
		}
	}
	err = Replace(to, as, place)
	if errors.Is(err, unix.EBUSY) { // a file is mounted there
		b, openErr := openRegular(to, as)
		if openErr != nil {
			return err
		}
		_, seekErr := a.Seek(0, io.SeekStart)
		err = errors.Join(seekErr, fill(b), b.Close())
	}
	if err == nil {
		c.count(st.Size)
	}
	return err
}

// openRegular opens a regular file to be written anew.
func openRegular(dir int, name string) (*os.File, error) {
	f, err := OpenEntry(dir, name, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errdef.New(errdef.Conflict, "%q is no regular file", name)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (c *copier) symlink(from int, name string, to int, as string, st *unix.Stat_t) error {
	var link [unix.PathMax]byte
	n, err := unix.Readlinkat(from, name, link[:])
	if err != nil {
		return os.NewSyscallError("readlinkat", err)
	}
	err = Replace(to, as, func(name string) error { return unix.Symlinkat(string(link[:n]), to, name) })
	if err != nil {
		return os.NewSyscallError("symlinkat", err)
	}
	c.count(0)
	return c.meta.Name(to, as, st)
}

// special makes a FIFO or a device.
func (c *copier) special(to int, as string, st *unix.Stat_t) error {
	err := Replace(to, as, func(name string) error { return unix.Mknodat(to, name, st.Mode&^0o7000, int(st.Rdev)) })
	if err != nil {
		return os.NewSyscallError("mknodat", err)
	}
	c.count(0)
	return c.meta.Name(to, as, st)
}

// OpenEntry opens a name in an open directory, which is not followed if it is a link.
func OpenEntry(dir int, name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("openat", err)
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}
