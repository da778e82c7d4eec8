package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/runtime/userns"
	"berth/internal/state"
	"berth/internal/tree"

	"golang.org/x/sys/unix"
)

// CopyOptions are those of cp.
type CopyOptions struct {
	Archive bool // into a container: all belongs to the container's user; out of it: to whom it belonged there
	Follow  bool // a source that is a link is what it leads to
	Notice  func(string)
	Count   func(int64)
}

// opener opens what a path leads to, with O_PATH and further flags.
type opener func(path string, flags int) (*os.File, error)

// opener looks paths up in the container, and nowhere else.
func (r *Root) opener() opener {
	return func(p string, flags int) (*os.File, error) {
		fd, err := disk.OpenIn(int(r.Fd()), orDefault(strings.TrimLeft(p, "/"), "."), flags|unix.O_PATH, 0, disk.InRoot)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), p), nil
	}
}

// here looks paths up as any program does.
func here(p string, flags int) (*os.File, error) {
	return os.OpenFile(p, flags|unix.O_PATH, 0)
}

// spot is where something is, or could be: a name in an open directory.
type spot struct {
	dir  *os.File
	name string
	kind uint32 // S_IFMT; 0 is nothing
	// contents says that the path ended in "/.": what is in the directory is meant.
	contents bool
	// slash says that the path ended in "/": a directory is meant.
	slash bool
}

func (p spot) isDir() bool { return p.kind == unix.S_IFDIR }

// maxLinks is the kernel's.
const maxLinks = 40

// locate finds the place that a path says. A link in the end of it is followed if follow says so, or the path ends in a slash.
func locate(open opener, p string, follow bool) (spot, error) {
	slash := strings.HasSuffix(p, "/")
	contents := path.Base(p) == "." || strings.HasSuffix(p, "/.")
	at := strings.TrimRight(p, "/")
	for links := 0; ; {
		base := at[strings.LastIndexByte(at, '/')+1:]
		if base == "" || base == "." || base == ".." {
			dir, err := open(orDefault(at, "/"), unix.O_DIRECTORY)
			if err != nil {
				return spot{}, err
			}
			return spot{dir: dir, name: ".", kind: unix.S_IFDIR, contents: contents || base == "", slash: slash}, nil
		}
		parent := at[:len(at)-len(base)]
		dir, err := open(orDefault(parent, "."), unix.O_DIRECTORY)
		if err != nil {
			return spot{}, err
		}
		var st unix.Stat_t
		err = unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil && err != unix.ENOENT {
			return spot{}, errors.Join(&os.PathError{Op: "stat", Path: p, Err: err}, dir.Close())
		}
		found := spot{dir: dir, name: base, slash: slash, contents: contents}
		if err == nil {
			found.kind = st.Mode & unix.S_IFMT
		}
		if found.kind != unix.S_IFLNK || !follow && !slash {
			return found, nil
		}
		var b [unix.PathMax]byte
		n, err := unix.Readlinkat(int(dir.Fd()), base, b[:])
		if err = errors.Join(err, dir.Close()); err != nil {
			return spot{}, &os.PathError{Op: "readlink", Path: p, Err: err}
		}
		if links++; links > maxLinks {
			return spot{}, &os.PathError{Op: "open", Path: p, Err: unix.ELOOP}
		}
		if at = strings.TrimRight(string(b[:n]), "/"); n > 0 && b[0] != '/' {
			at = parent + at
		}
	}
}

// source is where there is something at, and what a copy of it is called.
func source(open opener, p string, follow bool) (spot, string, error) {
	from, err := locate(open, p, follow)
	if err != nil {
		return from, "", err
	}
	if from.kind == 0 {
		return from, "", errors.Join(&os.PathError{Op: "lstat", Path: p, Err: unix.ENOENT}, from.dir.Close())
	}
	if (from.slash || from.contents) && !from.isDir() {
		return from, "", errors.Join(&os.PathError{Op: "open", Path: p, Err: unix.ENOTDIR}, from.dir.Close())
	}
	return from, path.Base(p), nil
}

// localSource is source for a path of the host's.
func localSource(p string, follow bool) (spot, string, error) {
	from, _, err := source(here, p, follow)
	if err != nil {
		return from, "", localError(err, p)
	}
	abs, err := filepath.Abs(p) // "..", too, has a name
	if err != nil {
		return from, "", errors.Join(err, from.dir.Close())
	}
	from.contents = from.contents || abs == "/"
	return from, filepath.Base(abs), nil
}

// copyTo copies what is at from to where the path to says, by docker's rules. as is its name in a directory that is there.
func copyTo(ctx context.Context, from spot, as string, open opener, p string, opt tree.Options) error {
	to, err := locate(open, p, true)
	if err != nil {
		return err
	}
	defer to.dir.Close()
	switch {
	case to.kind == 0 && (to.slash || to.contents) && !from.isDir():
		return errdef.New(errdef.NotFound, "no such directory: %s", p)
	case to.kind == 0:
		as = to.name
	case to.isDir():
		dir, err := tree.OpenEntry(int(to.dir.Fd()), to.name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer dir.Close()
		if from.contents {
			return contentsOf(ctx, from, dir, opt)
		}
		return tree.Copy(ctx, from.dir, from.name, dir, as, opt)
	case from.isDir():
		return errdef.New(errdef.Invalid, "cannot copy directory: %s is there, and is no directory", p)
	case to.slash || to.contents:
		return errdef.New(errdef.Invalid, "not a directory: %s", p)
	case opt.NoDevices && to.kind != unix.S_IFREG: // a device of the host's is not a file's place
		return errdef.New(errdef.Invalid, "invalid output path: %q must be a directory or a regular file", p)
	default:
		as = to.name
	}
	return tree.Copy(ctx, from.dir, from.name, to.dir, as, opt)
}

func contentsOf(ctx context.Context, from spot, dir *os.File, opt tree.Options) error {
	a, err := tree.OpenEntry(int(from.dir.Fd()), from.name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer a.Close()
	return tree.CopyContents(ctx, a, dir, opt)
}

// CopyIn copies a file or directory of the host's into a container.
func (e *Engine) CopyIn(ctx context.Context, c *state.Container, local, p string, o CopyOptions) (err error) {
	from, as, err := localSource(local, o.Follow)
	if err != nil {
		return err
	}
	defer from.dir.Close()
	root, err := e.OpenRoot(c, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	owner, err := root.OwnersOfCopies(c, o.Archive)
	if err != nil {
		return err
	}
	err = copyTo(ctx, from, as, root.opener(), p, tree.Options{Owner: owner, Notice: o.Notice, Count: o.Count})
	if err == nil {
		e.Containers.Note(c, "extract-to-dir")
	}
	if errors.Is(err, fs.ErrNotExist) {
		p = path.Dir(path.Clean("/" + p)) // the place itself need not be there
	}
	return containerError(c, p, err)
}

// CopyOut copies a file or directory of a container's to the host. Nothing of it gives rights there unless Archive asks for the owners, too;
// devices are left out in any case.
func (e *Engine) CopyOut(ctx context.Context, c *state.Container, p, local string, o CopyOptions) (err error) {
	s, err := e.OpenSource(c, p, o.Follow)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	e.Containers.Note(c, "archive-path")
	opt := tree.Options{Harmless: !o.Archive, NoDevices: true, Notice: o.Notice, Count: o.Count}
	if o.Archive {
		opt.Owner = OwnersOut(c)
	}
	return localError(copyTo(ctx, s.spot, s.As, here, local, opt), local)
}

// Source is something in a container that is to be copied.
type Source struct {
	spot
	As   string // what a copy is called: "." for a directory's content
	root *Root
}

// Dir is the directory that it is in; Name its name there.
func (s *Source) Dir() *os.File { return s.dir }

// Name is its name in Dir.
func (s *Source) Name() string { return s.name }

// Close lets go of the container.
func (s *Source) Close() error { return errors.Join(s.dir.Close(), s.root.Close()) }

// OpenSource finds what a path of a container says.
func (e *Engine) OpenSource(c *state.Container, p string, follow bool) (*Source, error) {
	root, err := e.OpenRoot(c, false)
	if err != nil {
		return nil, err
	}
	from, as, err := source(root.opener(), path.Clean("/"+p)+trailing(p), follow)
	if err != nil {
		return nil, errors.Join(containerError(c, p, err), root.Close())
	}
	if from.contents {
		as = "."
	}
	return &Source{from, as, root}, nil
}

// trailing is what path.Clean takes away and docker gives a meaning.
func trailing(p string) string {
	switch {
	case path.Clean("/"+p) == "/":
		return ""
	case strings.HasSuffix(p, "/."):
		return "/."
	case strings.HasSuffix(p, "/"):
		return "/"
	}
	return ""
}

// Destination is a directory of a container's that is written to.
type Destination struct {
	*Root
	Path string // from the container's root
}

// OpenDestination opens a container to write into one of its directories.
func (e *Engine) OpenDestination(c *state.Container, p string) (*Destination, error) {
	root, err := e.OpenRoot(c, true)
	if err != nil {
		return nil, err
	}
	dir, err := root.opener()(path.Clean("/"+p), unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOTDIR) {
		err = errdef.New(errdef.Invalid, "destination \"%s:%s\" must be a directory", c.Name, p)
	}
	if err != nil {
		return nil, errors.Join(containerError(c, p, err), root.Close())
	}
	return &Destination{root, path.Clean("/" + p)}, dir.Close()
}

// OwnersOfCopies are those of what is copied into the container: numbers stay what they are, and what has no number here belongs to root. With
// archive all is the container's user's.
func (r *Root) OwnersOfCopies(c *state.Container, archive bool) (tree.Owner, error) {
	in := ownersIn(c)
	if archive && c.Config.User != "" {
		user, err := r.userIn(c)
		if err != nil {
			return nil, err
		}
		return func(uint32, uint32) (int, int, error) { return in(user.UID, user.GID) }, nil
	}
	same, err := userns.Same() // the ids that there are here
	if err != nil {
		return nil, err
	}
	return func(uid, gid uint32) (int, int, error) {
		if _, known := same.User(uid); !known {
			uid = 0
		}
		if _, known := same.Group(gid); !known {
			gid = 0
		}
		return in(uid, gid)
	}, nil
}

// containerError says where in a container something is missing, or cannot be written to, in docker's words.
func containerError(c *state.Container, p string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errdef.New(errdef.NotFound, "Could not find the file %s in container %s", p, c.Name)
	case errors.Is(err, unix.EROFS) && c.Config.ReadOnly && !onMount(c, p):
		return errdef.New(errdef.Denied, "container rootfs is marked read-only: cannot write to %s", p)
	case errors.Is(err, unix.EOVERFLOW) && onMount(c, p):
		return errdef.New(errdef.Denied, "cannot write to %s: the mount's idmap has no id for root", p)
	case errors.Is(err, unix.EROFS):
		return errdef.New(errdef.Denied, "mounted volume is marked read-only: cannot write to %s", p)
	}
	return err
}

// onMount reports whether a path leads to a mount that the container was given.
func onMount(c *state.Container, p string) bool {
	p = path.Clean("/" + p)
	for _, m := range c.Config.Mounts {
		if p == m.Target || strings.HasPrefix(p, m.Target+"/") {
			return true
		}
	}
	return false
}

func localError(err error, p string) error {
	var at *os.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.As(err, &at) && at.Op == "lstat":
		return errdef.New(errdef.NotFound, "lstat %s: no such file or directory", p)
	case errors.Is(err, fs.ErrNotExist) && errors.As(err, &at) && at.Op == "open":
		return errdef.New(errdef.NotFound, "invalid output path: directory %q does not exist", filepath.Dir(p))
	}
	return err
}
