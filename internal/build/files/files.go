// Package files puts files into a layer that is being made: COPY, ADD and WORKDIR without a mount.
//
// A Layer is the directory that will be the layer, in overlayfs's form, and the layers below it. What is copied comes from a tree of
// the same form: a stack of layers, or a directory of the host, which is a stack of one. Both are hostile: no link leads out of either,
// and every file is opened by its name in a directory that is open already.
//
// The package runs nothing, and it does not know what a Dockerfile is.
package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image/merged"
	"berth/internal/image/unpack"

	"golang.org/x/sys/unix"
)

// Owner is whose a file is.
type Owner struct{ UID, GID int }

// Layer is a layer that is being made.
type Layer struct {
	dir   *os.File
	below []string // the trees below it, the topmost first
	now   time.Time
	made  []string // directories that were made on the way, to be dated when nothing is put into them any more
}

// Open opens the directory of a layer, on top of trees of which the first is the topmost. Directories that are made on the way are
// dated now.
func Open(dir string, below []string, now time.Time) (*Layer, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return &Layer{dir: f, below: below, now: now}, nil
}

// Close dates the directories that were made on the way, which took the time of what was put into them, and closes the layer.
func (l *Layer) Close() error {
	var errs error
	now := unix.NsecToTimeval(l.now.UnixNano())
	for _, p := range l.made {
		f, err := l.open(p, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		err = unix.Futimes(int(f.Fd()), []unix.Timeval{now, now})
		errs = errors.Join(errs, os.NewSyscallError("futimes", err), f.Close())
	}
	return errors.Join(errs, l.dir.Close())
}

// stack is what is seen when the layer is mounted.
func (l *Layer) stack() []string { return append([]string{l.dir.Name()}, l.below...) }

// open opens something in the layer itself by a path that has no links.
func (l *Layer) open(p string, flags int) (*os.File, error) {
	fd, err := disk.OpenIn(int(l.dir.Fd()), p, flags|unix.O_NOFOLLOW, 0, disk.Beneath|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), p), nil
}

// Place finds out where a path leads, through the links of the layers.
func (l *Layer) Place(p string) (merged.Found, error) {
	found, err := merged.Resolve(l.stack(), p, true)
	if errors.Is(err, unix.ENOTDIR) {
		return found, errdef.New(errdef.Invalid, "cannot use %s: something on its way is not a directory", p)
	}
	return found, err
}

// directory makes a directory, and those on its way, unless they are there, and opens it. p has no links.
func (l *Layer) directory(p string, mode uint32, owner Owner) (*os.File, error) {
	if p == "." {
		return l.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	}
	f, err := l.open(p, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	up, err := l.directory(path.Dir(p), mode, owner)
	if err != nil {
		return nil, err
	}
	defer up.Close()
	if err := unix.Mkdirat(int(up.Fd()), path.Base(p), 0o700); err != nil {
		return nil, &os.PathError{Op: "mkdirat", Path: p, Err: err}
	}
	if f, err = l.open(p, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
		return nil, err
	}
	lower, err := merged.OpenDir(l.below, p)
	switch {
	case err == nil:
		err = unpack.CopyMeta(lower.FD(), f, nil, nil)
		lower.Close()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), len(l.below) == 0:
		err = unpack.SetMeta(f, mode, owner.UID, owner.GID, l.now)
		l.made = append(l.made, p)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// dated says that a directory that was made has another date than those that are made on the way.
func (l *Layer) dated(p string) {
	l.made = slices.DeleteFunc(l.made, func(made string) bool { return made == p })
}

// Mkdir makes a directory and those on its way, unless they are there. Links are followed.
func (l *Layer) Mkdir(p string, mode uint32, owner Owner) error {
	found, err := l.Place(p)
	switch {
	case err != nil:
		return err
	case found.Kind == unix.S_IFDIR:
		return nil
	case found.Kind != 0:
		return errdef.New(errdef.Invalid, "cannot make the directory %s: there is something else", p)
	}
	f, err := l.directory(found.Path, mode, owner)
	if err != nil {
		return fmt.Errorf("cannot make the directory %s: %w", p, err)
	}
	return f.Close()
}

// Options say what becomes of files when they are copied.
type Options struct {
	Owner *Owner                            // nil: the source's, or Anonymous
	Mode  func(old uint32, dir bool) uint32 // nil: the source's
	// Devices says what becomes of device nodes.
	Devices DevicePolicy
	// Anonymous says that the source's owners mean nothing here: what has no other owner is root's.
	Anonymous bool
	// Unchanged, unless it is nil, is asked whether a file is still what it was when its digest was taken.
	Unchanged func(path string, st *unix.Stat_t) bool
}

// DevicePolicy says what becomes of device nodes.
type DevicePolicy bool

const (
	Keep     DevicePolicy = false
	LeaveOut DevicePolicy = true
)

func (o Options) owner(st *unix.Stat_t) Owner {
	switch {
	case o.Owner != nil:
		return *o.Owner
	case o.Anonymous:
		return Owner{}
	}
	return Owner{int(st.Uid), int(st.Gid)}
}

// parentMode is the mode of directories that are made on the way.
func (o Options) parentMode() uint32 {
	if o.Mode != nil {
		return o.Mode(0o755, true)
	}
	return 0o755
}

func (o Options) parents() Owner {
	if o.Owner != nil {
		return *o.Owner
	}
	return Owner{}
}

// Copy copies what an item selects to dest, a path of the layer. If dest is a directory, or ends with "/", a file goes into it under its
// own name; of a directory the content is copied.
func (l *Layer) Copy(ctx context.Context, from Item, dest string, opt Options) error {
	c := newCopier(ctx, l, opt)
	found, err := l.Place(dest)
	if err != nil {
		return err
	}
	if from.Dir != nil {
		if found.Kind != 0 && found.Kind != unix.S_IFDIR {
			return errdef.New(errdef.Invalid, "cannot copy to non-directory: %s", dest)
		}
		return c.tree(from, found)
	}
	if found.Kind == unix.S_IFDIR || strings.HasSuffix(dest, "/") {
		if found.Kind != 0 && found.Kind != unix.S_IFDIR {
			return errdef.New(errdef.Invalid, "cannot copy to non-directory: %s", dest)
		}
		name := from.As
		if name == "" {
			name = from.base()
		}
		if found, err = merged.Resolve(l.stack(), path.Join(found.Path, name), false); err != nil {
			return err
		}
		if found.Kind == unix.S_IFDIR {
			return errdef.New(errdef.Invalid, "cannot replace the directory /%s by a file", found.Path)
		}
	}
	in, err := l.directory(path.Dir(found.Path), opt.parentMode(), opt.parents())
	if err != nil {
		return err
	}
	defer in.Close()
	return c.other(from, in, path.Base(found.Path), found.Path, nil)
}

// Write writes a file whose content is at hand, as Copy would copy it.
func (l *Layer) Write(name string, data []byte, mode uint32, dest string, opt Options) error {
	found, err := l.Place(dest)
	if err != nil {
		return err
	}
	if found.Kind == unix.S_IFDIR || strings.HasSuffix(dest, "/") {
		if found, err = merged.Resolve(l.stack(), path.Join(found.Path, name), false); err != nil {
			return err
		}
	}
	if found.Kind == unix.S_IFDIR {
		return errdef.New(errdef.Invalid, "cannot replace the directory /%s by a file", found.Path)
	}
	in, err := l.directory(path.Dir(found.Path), opt.parentMode(), opt.parents())
	if err != nil {
		return err
	}
	defer in.Close()
	f, err := replace(in, path.Base(found.Path))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if opt.Mode != nil {
		mode = opt.Mode(mode, false)
	}
	owner := opt.parents()
	return unpack.SetMeta(f, mode, owner.UID, owner.GID, l.now)
}

// replace makes a new empty file in place of whatever is there in the layer itself.
func replace(in *os.File, base string) (*os.File, error) {
	fd, err := create(int(in.Fd()), base)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), base), nil
}

// create is replace for a descriptor. Seldom is there anything.
func create(in int, base string) (int, error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(in, base, flags, 0o600)
	if err == unix.EEXIST {
		if err := unix.Unlinkat(in, base, 0); err != nil && err != unix.ENOENT {
			return -1, &os.PathError{Op: "unlinkat", Path: base, Err: err}
		}
		fd, err = unix.Openat(in, base, flags, 0o600)
	}
	if err != nil {
		return -1, &os.PathError{Op: "openat", Path: base, Err: err}
	}
	return fd, nil
}

type inode struct{ dev, ino uint64 }

type copier struct {
	ctx   context.Context
	layer *Layer
	opt   Options
	links map[inode]string // files with several names: where the first one was copied to

	unshared atomic.Bool   // files cannot share their content
	room     chan struct{} // for goroutines that copy files
	buffers  sync.Pool     // of *[bufferBytes]byte
}

const bufferBytes = 128 << 10

func newCopier(ctx context.Context, l *Layer, opt Options) *copier {
	return &copier{
		ctx: ctx, layer: l, opt: opt, links: map[inode]string{}, room: make(chan struct{}, min(runtime.GOMAXPROCS(0)-1, maxHelpers)),
		buffers: sync.Pool{New: func() any { return new([bufferBytes]byte) }},
	}
}

// maxHelpers is how many goroutines help to copy files at most: the file system has its limits.
const maxHelpers = 7

// tree copies a directory's content into the directory found, which is made if need be. That one does not become what the source is: it
// has only its times.
func (c *copier) tree(from Item, found merged.Found) error {
	l := c.layer
	to, err := l.directory(found.Path, c.opt.parentMode(), c.opt.parents())
	if err != nil {
		return err
	}
	defer to.Close()
	below, err := l.lower(found.Path)
	if err != nil {
		return err
	}
	if below != nil {
		defer below.Close()
	}
	if err := c.content(from, to, found.Path, below); err != nil {
		return err
	}
	l.dated(found.Path)
	return unpack.CopyTimes(from.Dir.FD(), to)
}

// lower opens a directory of the layers below; nil if there is none at that path, which has no links.
func (l *Layer) lower(p string) (*merged.Dir, error) {
	dir, err := merged.OpenDir(l.below, p)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	return dir, err
}

// content copies what is in a directory. at is the path of to in the layer, below what the layers below have there, or nil.
func (c *copier) content(from Item, to *os.File, at string, below *merged.Dir) error {
	files := c.newCrew() // which copies the directory's files, while this goes on with the next ones
	err := from.each(func(item Item) error {
		if c.ctx.Err() != nil {
			return errdef.As(errdef.Cancelled, context.Cause(c.ctx))
		}
		if err := files.failed(); err != nil {
			return err
		}
		base := path.Base(item.Name)
		here := path.Join(at, base)
		var there merged.Entry
		hidden := false // by what this copy puts there
		if below != nil {
			var err error
			there, err = below.Lookup(base)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			hidden = err == nil
			if there.Dir != nil {
				defer there.Dir.Close()
			}
		}
		if item.Dir == nil {
			if there.Dir != nil {
				return errdef.New(errdef.Invalid, "cannot replace the directory /%s by a file", here)
			}
			return c.other(item, to, base, here, files)
		}
		if hidden && there.Dir == nil {
			var st unix.Stat_t
			if unix.Fstatat(int(to.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
				return errdef.New(errdef.Invalid, "cannot copy to non-directory: /%s", here)
			}
		}
		sub, err := c.layer.directory(here, 0o755, c.opt.parents())
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return errdef.New(errdef.Invalid, "cannot copy to non-directory: /%s", here)
		}
		if err != nil {
			return err
		}
		defer sub.Close()
		if err := c.content(item, sub, here, there.Dir); err != nil {
			return err
		}
		c.layer.dated(here)
		return c.describe(item.Dir.FD(), sub, true)
	})
	if failed := files.wait(); failed != nil && err == nil {
		return failed
	}
	return err
}

// describe gives a copy what its original is described by.
func (c *copier) describe(from int, to *os.File, dir bool) error {
	return unpack.CopyMeta(from, to, func(st *unix.Stat_t) (uid, gid int) {
		o := c.opt.owner(st)
		return o.UID, o.GID
	}, func(mode uint32) uint32 {
		if c.opt.Mode != nil {
			return c.opt.Mode(mode, dir)
		}
		return mode
	})
}

// other copies something that is no directory to the name base of the directory to. A crew, unless it is nil, may do that later.
func (c *copier) other(from Item, to *os.File, base, at string, later *crew) error {
	st, err := from.Stat()
	if err != nil {
		return err
	}
	id := inode{st.Dev, st.Ino}
	if first, ok := c.links[id]; ok && st.Nlink > 1 {
		if err := unix.Unlinkat(int(to.Fd()), base, 0); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "unlinkat", Path: at, Err: err}
		}
		dir, err := c.layer.open(path.Dir(first), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer dir.Close()
		err = unix.Linkat(int(dir.Fd()), path.Base(first), int(to.Fd()), base, 0)
		return os.NewSyscallError("linkat", err)
	}
	if st.Nlink > 1 {
		c.links[id] = at
	}
	owner := c.opt.owner(&st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		dir := int(to.Fd())
		if later == nil || st.Nlink > 1 { // whose next name is linked to this one
			return c.regular(from, dir, base)
		}
		later.do(func() error { return c.regular(from, dir, base) })
		return nil
	case unix.S_IFLNK:
		var b [unix.PathMax]byte
		n, err := unix.Readlinkat(from.In, from.base(), b[:])
		if err != nil {
			return &os.PathError{Op: "readlinkat", Path: from.Name, Err: err}
		}
		if err := unix.Unlinkat(int(to.Fd()), base, 0); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "unlinkat", Path: at, Err: err}
		}
		if err := unix.Symlinkat(string(b[:n]), int(to.Fd()), base); err != nil {
			return &os.PathError{Op: "symlinkat", Path: at, Err: err}
		}
	case unix.S_IFSOCK: // means nothing without its process
		return nil
	default:
		if c.opt.Devices == LeaveOut && st.Mode&unix.S_IFMT != unix.S_IFIFO {
			return nil
		}
		if err := unix.Unlinkat(int(to.Fd()), base, 0); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "unlinkat", Path: at, Err: err}
		}
		if err := unix.Mknodat(int(to.Fd()), base, st.Mode, int(st.Rdev)); err != nil {
			return &os.PathError{Op: "mknodat", Path: at, Err: err}
		}
		mode := st.Mode & 0o7777
		if c.opt.Mode != nil {
			mode = c.opt.Mode(mode, false)
		}
		if err := unix.Fchmodat(int(to.Fd()), base, mode, 0); err != nil {
			return &os.PathError{Op: "fchmodat", Path: at, Err: err}
		}
	}
	if err := unix.Fchownat(int(to.Fd()), base, owner.UID, owner.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "fchownat", Path: at, Err: err}
	}
	err = unix.UtimesNanoAt(int(to.Fd()), base, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	return os.NewSyscallError("utimensat", err)
}

// regular copies a file. There may be very many: nothing is asked twice, and no descriptor is offered to the runtime's poller.
func (c *copier) regular(from Item, to int, base string) error {
	in, err := from.open()
	if err != nil {
		return err
	}
	defer unix.Close(in)
	out, err := create(to, base)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	if err := c.bytes(out, in); err != nil {
		return fmt.Errorf("cannot copy %s: %w", from.Name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if c.opt.Unchanged != nil && !c.opt.Unchanged(from.Name, &st) {
		return errdef.Hint(errdef.New(errdef.Conflict, "%s changed while it was copied", from.Name), "build again")
	}
	owner, mode := c.opt.owner(&st), st.Mode&0o7777
	if c.opt.Mode != nil {
		mode = c.opt.Mode(mode, false)
	}
	return unpack.CopyFileMeta(in, &st, to, base, out, owner.UID, owner.GID, mode)
}

// bytes copies the content of a file: shared, where one file system can share it.
func (c *copier) bytes(out, in int) error {
	if !c.unshared.Load() {
		if unix.IoctlFileClone(out, in) == nil {
			return nil
		}
		c.unshared.Store(true) // nor will the next one be
	}
	buffer := c.buffers.Get().(*[bufferBytes]byte) //nolint:forcetypeassert // its New makes nothing else
	defer c.buffers.Put(buffer)
	return disk.CopyBytes(out, in, buffer[:])
}
