package unpack

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image/layer"
	"berth/internal/image/merged"
	"berth/internal/tree"
)

// DiffOptions of Diff.
type DiffOptions struct {
	UserXattr bool      // overlayfs marks opaque directories by user.overlay.opaque
	Latest    time.Time // later times of change become this one, for reproducible layers; zero is no limit
	Size      *int64    // unless it is nil: the bytes of all regular files are added to it
	// Recipe, unless it is nil, learns how the tar is made of the tree.
	Recipe *layer.Recipe
}

// Diff writes the tar of a layer out of the upper directory of an overlay. The same tree gives the same bytes. A
// container may be changing the tree meanwhile: every file is opened without following links, and one that
// becomes shorter is an error.
func Diff(ctx context.Context, upper *os.File, w io.Writer, opt DiffOptions) error {
	out := bufio.NewWriterSize(w, diffBufferBytes)
	to := io.Writer(out)
	if opt.Recipe != nil {
		to = io.MultiWriter(opt.Recipe, out)
	}
	d := &differ{ctx: ctx, opt: opt, tar: tar.NewWriter(to), links: map[inode]string{}, prefix: "trusted.overlay."}
	if opt.UserXattr {
		d.prefix = "user.overlay."
	}
	if err := d.directory(int(upper.Fd()), ".", "", 0); err != nil {
		return fmt.Errorf("cannot make a layer of %s: %w", upper.Name(), err)
	}
	if err := d.tar.Close(); err != nil {
		return err
	}
	return out.Flush()
}

// diffBufferBytes is how much of a tar is written at once: it consists of many small pieces.
const diffBufferBytes = 256 << 10

// DiffCopy is Diff for a tree that is a copy of an image: changes, by their paths, say what is different there. owner says whose a file
// is in the layer.
func DiffCopy(ctx context.Context, dir *os.File, changes []merged.Change, w io.Writer, owner tree.Owner, opt DiffOptions) error {
	d := &differ{ctx: ctx, opt: opt, tar: tar.NewWriter(w), links: map[inode]string{}, prefix: "trusted.overlay.", owner: owner}
	for _, c := range changes {
		if err := d.change(int(dir.Fd()), c); err != nil {
			return fmt.Errorf("cannot make a layer of %s: %w", dir.Name(), err)
		}
	}
	return d.tar.Close()
}

func (d *differ) change(root int, c merged.Change) error {
	name := strings.TrimPrefix(c.Path, "/")
	dir, base := path.Split(name)
	if c.Kind == merged.Deleted {
		return d.tar.WriteHeader(&tar.Header{Name: dir + whiteoutPrefix + base, Typeflag: tar.TypeReg, Format: tar.FormatPAX})
	}
	fd, err := disk.OpenIn(root, path.Join(".", dir), unix.O_RDONLY|unix.O_DIRECTORY, 0, disk.Beneath|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "fstatat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return d.entry(fd, base, name, 0, nil)
	}
	f, err := tree.OpenEntry(fd, base, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Close()
	return d.describeDirectory(int(f.Fd()), name+"/")
}

type inode struct{ dev, ino uint64 }

type differ struct {
	ctx    context.Context
	opt    DiffOptions
	tar    *tar.Writer
	links  map[inode]string // files with several names: the first one written
	prefix string           // of overlayfs's own attributes
	whole  bool             // the tree is no layer: nothing in it stands for something else
	owner  tree.Owner       // nil: as the tree has it

	buffer, list, value []byte // of files and their attributes
}

// directory writes what is in the directory base of in; path is its name in the tar with a "/", or "".
func (d *differ) directory(in int, base, path string, depth int) error {
	if depth > maxDepth {
		return errdef.New(errdef.Unsupported, "%.60q... is more than %d directories deep", path, maxDepth)
	}
	fd, err := unix.Openat(in, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "openat", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if path != "" {
		if err := d.describeDirectory(fd, path); err != nil {
			return err
		}
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	if slices.Contains(names, merged.OpaqueMark) && !d.whole && merged.Opaque(fd) { // fuse-overlayfs's own
		names = slices.DeleteFunc(names, func(n string) bool { return n == merged.OpaqueMark || n == merged.HiddenMark })
	}
	sort.Strings(names)
	return inOrder(fd, names, func(name string, seen *glance) error {
		if err := d.ctx.Err(); err != nil {
			return errdef.As(errdef.Cancelled, context.Cause(d.ctx))
		}
		return d.entry(fd, name, path+name, depth, seen)
	})
}

func (d *differ) describeDirectory(fd int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	h, err := d.header(path, &st)
	if err != nil {
		return err
	}
	h.Typeflag = tar.TypeDir
	opaque, err := d.xattrs(fd, h)
	if err != nil {
		return err
	}
	if err := d.tar.WriteHeader(h); err != nil {
		return err
	}
	if d.whole || !opaque && !merged.Opaque(fd) {
		return nil
	}
	return d.tar.WriteHeader(&tar.Header{Name: path + opaqueName, Typeflag: tar.TypeReg, ModTime: h.ModTime, Format: tar.FormatPAX})
}

// entry writes what has the name base in the directory in. seen, unless it is nil, is what was seen of it just now.
func (d *differ) entry(in int, base, path string, depth int, seen *glance) error {
	var st unix.Stat_t
	var err error
	if seen != nil {
		st, err = seen.Stat_t, seen.err
	} else {
		err = unix.Fstatat(in, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == unix.ENOENT { // removed meanwhile
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "fstatat", Path: path, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFCHR && st.Rdev == 0 && !d.whole {
		name := strings.TrimSuffix(path, base) + whiteoutPrefix + base
		return d.tar.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, ModTime: d.time(&st), Format: tar.FormatPAX})
	}
	if strings.HasPrefix(base, whiteoutPrefix) && !d.whole {
		return errdef.New(errdef.Unsupported, "%q cannot be in a layer: its name would mean that another file is hidden", path)
	}
	if kind == unix.S_IFDIR {
		return d.directory(in, base, path+"/", depth+1)
	}
	h, err := d.header(path, &st)
	if err != nil {
		return err
	}
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := d.links[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return d.tar.WriteHeader(h)
		}
		d.links[id] = path
	}
	switch kind {
	case unix.S_IFREG:
		if seen != nil && seen.plain {
			return d.plainFile(h, seen.data)
		}
		return d.file(in, base, h)
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = readlinkat(in, base); err != nil {
			return err
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		if h.Typeflag = tar.TypeChar; kind == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default: // a socket means nothing without its process
		return nil
	}
	return d.tar.WriteHeader(h)
}

// plainFile writes a file that was read already.
func (d *differ) plainFile(h *tar.Header, data []byte) error {
	h.Typeflag, h.Size = tar.TypeReg, int64(len(data))
	if err := d.tar.WriteHeader(h); err != nil {
		return err
	}
	if d.opt.Recipe != nil {
		d.opt.Recipe.File(h.Name, h.Size)
	}
	if d.opt.Size != nil {
		*d.opt.Size += h.Size
	}
	_, err := d.tar.Write(data)
	return err
}

func (d *differ) file(in int, base string, h *tar.Header) error {
	// Non-blocking, because it may have become a FIFO meanwhile.
	fd, err := unix.Openat(in, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "openat", Path: h.Name, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return changing(h.Name)
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if _, err := d.xattrs(fd, h); err != nil {
		return err
	}
	if err := d.tar.WriteHeader(h); err != nil {
		return err
	}
	if d.opt.Recipe != nil {
		d.opt.Recipe.File(h.Name, h.Size)
	}
	n, err := d.content(fd, h.Size)
	switch {
	case err == nil && n < h.Size && d.whole: // as tar(1) does
		_, err = io.CopyN(d.tar, nothing{}, h.Size-n)
	case err == nil && n < h.Size:
		err = changing(h.Name)
	}
	if d.opt.Size != nil {
		*d.opt.Size += n
	}
	return err
}

// content writes the next bytes of a file, or as many as there are. There may be very many files: no descriptor is offered to the runtime's
// poller, and nothing is allocated for each.
func (d *differ) content(fd int, size int64) (done int64, err error) {
	if d.buffer == nil {
		d.buffer = make([]byte, 256<<10)
	}
	for done < size {
		n, err := unix.Read(fd, d.buffer[:min(int64(len(d.buffer)), size-done)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, os.NewSyscallError("read", err)
		case n == 0:
			return done, nil
		}
		if _, err := d.tar.Write(d.buffer[:n]); err != nil {
			return done, err
		}
		done += int64(n)
	}
	return done, nil
}

func changing(path string) error {
	return errdef.Hint(errdef.New(errdef.Conflict, "%q changed while it was read", path), "pause the container meanwhile")
}

func (d *differ) header(path string, st *unix.Stat_t) (*tar.Header, error) {
	uid, gid := int(st.Uid), int(st.Gid)
	if d.owner != nil {
		var err error
		if uid, gid, err = d.owner(st.Uid, st.Gid); err != nil {
			return nil, err
		}
	}
	return &tar.Header{
		Name: path, Mode: int64(st.Mode & 0o7777), Uid: uid, Gid: gid, ModTime: d.time(st),
		Format: tar.FormatPAX, // times in nanoseconds, long names, big numbers: one form for all
	}, nil
}

func (d *differ) time(st *unix.Stat_t) time.Time {
	t := time.Unix(st.Mtim.Unix()).UTC()
	if !d.opt.Latest.IsZero() && t.After(d.opt.Latest) {
		return d.opt.Latest.UTC()
	}
	return t
}

// xattrs adds the attributes that an image may carry. It says whether overlayfs calls the directory opaque, and
// refuses what overlayfs keeps elsewhere.
func (d *differ) xattrs(fd int, h *tar.Header) (opaque bool, err error) {
	if d.list == nil {
		d.list, d.value = make([]byte, 64<<10), make([]byte, 64<<10) // XATTR_LIST_MAX, XATTR_SIZE_MAX
	}
	list, value := d.list, d.value
	n, err := unix.Flistxattr(fd, list)
	if err == unix.ENOTSUP || err == nil && n == 0 {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "flistxattr", Path: h.Name, Err: err}
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		own, overlays := strings.CutPrefix(name, d.prefix)
		if !overlays && !tree.Carried(name) {
			continue
		}
		n, err := unix.Fgetxattr(fd, name, value)
		if errors.Is(err, unix.ENODATA) { // removed meanwhile
			continue
		}
		if err != nil {
			return false, &os.PathError{Op: "fgetxattr " + name, Path: h.Name, Err: err}
		}
		switch {
		case overlays && own == "opaque":
			opaque = n == 1 && value[0] == 'y'
		case overlays && (own == "redirect" || own == "metacopy"):
			return false, errdef.New(errdef.Unsupported, "%q has its content in a lower layer (%s): the overlay was mounted with redirect_dir or metacopy", h.Name, name)
		case overlays:
		default:
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[xattrRecord+name] = string(value[:n])
		}
	}
	return opaque, nil
}

func readlinkat(in int, base string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(in, base, b)
	if err != nil {
		return "", os.NewSyscallError("readlinkat", err)
	}
	return string(b[:n]), nil
}
