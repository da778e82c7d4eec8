package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/tree"

	"golang.org/x/sys/unix"
)

// PlaceOptions of Place.
type PlaceOptions struct {
	Owner  tree.Owner        // whose an entry is; nil leaves all to whoever makes it
	Notice func(text string) // is told what was left out
	Count  func(bytes int64) // is told how many bytes of files were written
}

// Place unpacks a tar, compressed or not, into the directory dir of a root that somebody may be changing meanwhile. Nothing in it stands for
// something else, as in a layer. Paths lead through links of the root as they do for its own processes, and nowhere outside. Entries
// take the place of what is there, but directories and other things do not replace each other.
func Place(ctx context.Context, root *os.File, dir string, r io.Reader, opt PlaceOptions) error {
	plain, _, err := Decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	p := &placer{ctx: ctx, root: int(root.Fd()), dir: strings.Trim(dir, "/"), opt: opt, buf: make([]byte, placeBlock)}
	defer p.forget()
	t := tar.NewReader(plain)
	for {
		if err := ctx.Err(); err != nil {
			return errdef.As(errdef.Cancelled, context.Cause(ctx))
		}
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // what is insecure is judged here, by clean
			return errdef.New(errdef.Corrupt, "cannot read the archive: %w", err)
		}
		if err := p.entry(h, t); err != nil {
			return fmt.Errorf("cannot unpack %q: %w", h.Name, err)
		}
	}
	if err := p.finish(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, plain) // whoever writes it is not cut off
	return err
}

// placeBlock is the unit in which zeros become holes.
const placeBlock = 64 << 10

// maxPath is the kernel's.
const maxPath = unix.PathMax - 1

type placer struct {
	ctx  context.Context
	root int
	dir  string // beneath root
	opt  PlaceOptions
	buf  []byte

	in     int // the directory of the last entry, -1 for none, and its name
	inName string
	open   bool
	dirs   []placedDir
}

// placedDir is a directory that gets what its entry says when everything is in it.
type placedDir struct {
	path string
	meta meta
}

func (p *placer) forget() {
	if p.open {
		_ = unix.Close(p.in)
		p.open = false
	}
}

// find opens what a path of the archive says, beneath the directory that is unpacked into, beneath the root.
func (p *placer) find(name string) (int, error) {
	return disk.OpenIn(p.root, path.Join("/", p.dir)[1:]+"/./"+name, unix.O_PATH|unix.O_DIRECTORY, 0, disk.InRoot)
}

// parent opens the directory of an entry, and makes what is missing of it.
func (p *placer) parent(name string) (int, error) {
	if p.open && p.inName == name {
		return p.in, nil
	}
	fd, err := p.findOrMake(name)
	if err != nil {
		return -1, err
	}
	p.forget()
	p.in, p.inName, p.open = fd, name, true
	return fd, nil
}

func (p *placer) findOrMake(name string) (int, error) {
	fd, err := p.find(name)
	if !errors.Is(err, unix.ENOENT) || name == "." {
		return fd, err
	}
	above, err := p.findOrMake(path.Dir(name))
	if err != nil {
		return -1, err
	}
	err = unix.Mkdirat(above, path.Base(name), 0o755)
	_ = unix.Close(above)
	if err != nil {
		return -1, os.NewSyscallError("mkdirat", err)
	}
	return p.find(name)
}

func (p *placer) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := clean(h.Name, maxPath)
	if err != nil {
		return err
	}
	if name == "." {
		return nil // the directory itself stays as it is
	}
	m, err := metaOf(h)
	if err != nil {
		return err
	}
	to, err := p.parent(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	switch h.Typeflag {
	case tar.TypeDir:
		return p.makeDir(to, base, name, m)
	case tar.TypeReg, '\x00', tar.TypeGNUSparse, tar.TypeCont:
		return tree.Replace(to, base, func(as string) error { return p.file(to, as, m, content) })
	case tar.TypeLink:
		return p.link(to, base, h.Linkname)
	case tar.TypeSymlink:
		err = tree.Replace(to, base, func(as string) error { return unix.Symlinkat(h.Linkname, to, as) })
	case tar.TypeFifo:
		err = p.special(to, base, m, unix.S_IFIFO, 0)
	case tar.TypeChar, tar.TypeBlock:
		kind := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		err = p.special(to, base, m, kind, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
		if errors.Is(err, unix.EPERM) {
			p.notice("left out the device %s: it cannot be made there", name)
			return nil
		}
	default:
		p.notice("left out %s: nothing here knows entries of the type %q", name, h.Typeflag)
		return nil
	}
	if err != nil {
		return err
	}
	return p.named(to, base, m)
}

func (p *placer) notice(format string, args ...any) {
	if p.opt.Notice != nil {
		p.opt.Notice(fmt.Sprintf(format, args...))
	}
}

func (p *placer) makeDir(to int, base, name string, m meta) error {
	err := unix.Mkdirat(to, base, 0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return os.NewSyscallError("mkdirat", err)
	}
	f, err := tree.OpenEntry(to, base, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return errdef.New(errdef.Conflict, "cannot overwrite non-directory %q with directory", name)
	}
	if err != nil {
		return err
	}
	p.dirs = append(p.dirs, placedDir{name, m})
	return f.Close()
}

// finish gives directories what their entries say, the last ones first: what is in a directory comes after it.
func (p *placer) finish() error {
	for i := len(p.dirs) - 1; i >= 0; i-- {
		d := p.dirs[i]
		to, err := p.parent(path.Dir(d.path))
		if err != nil {
			return err
		}
		f, err := tree.OpenEntry(to, path.Base(d.path), unix.O_RDONLY|unix.O_DIRECTORY)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue // somebody has removed it meanwhile
		}
		if err != nil {
			return err
		}
		if err := errors.Join(p.opened(f, d.meta), f.Close()); err != nil {
			return fmt.Errorf("cannot unpack %q: %w", d.path, err)
		}
	}
	return nil
}

func (p *placer) file(to int, as string, m meta, content io.Reader) error {
	f, err := tree.OpenEntry(to, as, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	if err = p.write(f, content); err == nil {
		err = p.opened(f, m)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, unix.Unlinkat(to, as, 0))
	}
	return nil
}

var zeroBlock [placeBlock]byte

// write writes a file's content; blocks of zeros become holes.
func (p *placer) write(f *os.File, content io.Reader) error {
	for at := int64(0); ; {
		n, err := io.ReadFull(content, p.buf)
		if n > 0 && !bytes.Equal(p.buf[:n], zeroBlock[:n]) {
			if _, err := f.WriteAt(p.buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && n < len(p.buf) && isEnd(content) {
			if p.opt.Count != nil {
				p.opt.Count(at)
			}
			return f.Truncate(at)
		}
		if err != nil {
			return errdef.New(errdef.Corrupt, "the archive is cut off: %w", err)
		}
	}
}

// isEnd tells the end of a file from the end of the archive in the middle of one: the reader of a tar says so when it is asked again.
func isEnd(content io.Reader) bool {
	var one [1]byte
	_, err := content.Read(one[:])
	return errors.Is(err, io.EOF)
}

func (p *placer) link(to int, base, linkname string) error {
	target, err := clean(linkname, maxPath)
	if err != nil {
		return err
	}
	from, err := p.find(path.Dir(target))
	if err != nil {
		return err
	}
	defer unix.Close(from)
	return tree.Replace(to, base, func(as string) error {
		return unix.Linkat(from, path.Base(target), to, as, 0)
	})
}

func (p *placer) special(to int, base string, m meta, kind uint32, device int) error {
	return tree.Replace(to, base, func(as string) error { return unix.Mknodat(to, as, kind|m.mode&0o777, device) })
}

// stat is a header's owner, mode and times as tree.Meta takes them.
func (m meta) stat(kind uint32) *unix.Stat_t {
	return &unix.Stat_t{Uid: uint32(m.uid), Gid: uint32(m.gid), Mode: kind | m.mode, Atim: m.atime, Mtim: m.mtime}
}

// named gives what is not opened its owner, mode and times.
func (p *placer) named(to int, base string, m meta) error {
	var st unix.Stat_t
	if err := unix.Fstatat(to, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	return tree.Meta{Owner: p.opt.Owner}.Name(to, base, m.stat(st.Mode&unix.S_IFMT))
}

// opened gives a file or directory what its entry says.
func (p *placer) opened(f *os.File, m meta) error {
	fd := int(f.Fd())
	return tree.Meta{Owner: p.opt.Owner}.Set(fd, m.stat(0), func() error {
		return setXattrs(m.xattrs, true, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
	})
}
