// Package merged reads files and directories of a stack of unpacked layers, as the overlay file system would show them,
// without mounting anything: so it needs no rights, and works for containers that do not run.
//
// It follows overlay's rules (Documentation/filesystems/overlayfs.rst: whiteouts, opaque directories) and resolves links
// inside the stack. It does not write.
package merged

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links a path may lead through; the kernel's limit.
const maxLinks = 40

// ReadFile reads the regular file name of the stack, the topmost layer first, if it has at most limit bytes. What is
// no regular file is fs.ErrInvalid; what is absent is fs.ErrNotExist.
func ReadFile(layers []string, name string, limit int64) ([]byte, error) {
	s, err := openStack(layers)
	if err != nil {
		return nil, err
	}
	defer s.close()
	_, f, err := s.open(name)
	if err == nil && f == nil {
		err = fs.ErrInvalid
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > limit {
		return nil, &os.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// directory is one directory of the merged tree: its parts, the topmost first.
type directory []int

type stack struct {
	root directory
	fds  []int
}

func openStack(layers []string) (*stack, error) {
	s := &stack{}
	for _, dir := range layers {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			s.close()
			return nil, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		s.root = append(s.root, s.own(fd))
	}
	return s, nil
}

func (s *stack) own(fd int) int {
	s.fds = append(s.fds, fd)
	return fd
}

func (s *stack) close() {
	for _, fd := range s.fds {
		_ = unix.Close(fd)
	}
}

// open finds a directory of the stack, or opens what else has that name.
func (s *stack) open(name string) (directory, *os.File, error) {
	todo := strings.Split(name, "/")
	path := []directory{s.root} // where we are, from the root down
	links := 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			path = path[:max(1, len(path)-1)]
			continue
		}
		below, in, st, err := s.lookup(path[len(path)-1], part)
		switch {
		case err != nil:
			return nil, nil, err
		case below != nil:
			path = append(path, below)
		case st.Mode&unix.S_IFMT == unix.S_IFLNK:
			if links++; links > maxLinks {
				return nil, nil, unix.ELOOP
			}
			var b [unix.PathMax]byte
			n, err := unix.Readlinkat(in, part, b[:])
			if err != nil {
				return nil, nil, err
			}
			to := string(b[:n])
			if strings.HasPrefix(to, "/") {
				path = path[:1]
			}
			todo = append(strings.Split(to, "/"), todo...)
		case len(todo) > 0:
			return nil, nil, unix.ENOTDIR
		default:
			fd, err := unix.Openat(in, part, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, nil, err
			}
			return nil, os.NewFile(uintptr(fd), name), nil
		}
	}
	return path[len(path)-1], nil, nil
}

// lookup finds an entry of a directory: a directory of its own, or something else of a type, in one part.
func (s *stack) lookup(d directory, part string) (below directory, in int, st unix.Stat_t, err error) {
	return s.lookupFrom(d, part, nil)
}

// seen is what fstatat(2) said of a name.
type seen struct {
	unix.Stat_t
	err error
}

// lookupFrom is lookup for what has been seen in the topmost part, unless first is nil.
func (s *stack) lookupFrom(d directory, part string, first *seen) (below directory, in int, st unix.Stat_t, err error) {
	for i, fd := range d {
		var err error
		if i == 0 && first != nil {
			st, err = first.Stat_t, first.err
		} else {
			err = unix.Fstatat(fd, part, &st, unix.AT_SYMLINK_NOFOLLOW)
		}
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, 0, st, err
		}
		kind := st.Mode & unix.S_IFMT
		switch {
		case kind == unix.S_IFCHR && st.Rdev == 0, IsFileWhiteout(fd, part, &st):
		case kind == unix.S_IFDIR:
			child, err := unix.Openat(fd, part, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, 0, st, err
			}
			below = append(below, s.own(child))
			if !Opaque(child) {
				continue
			}
		case below == nil:
			return nil, fd, st, nil
		}
		break
	}
	if below == nil {
		return nil, 0, st, unix.ENOENT
	}
	return below, 0, st, nil
}

// IsFileWhiteout tells a whiteout that is an empty file with an attribute, as layers on an overlay have it, from a file (Linux 6.7;
// Documentation/filesystems/overlayfs.rst, "Nesting overlayfs mounts").
func IsFileWhiteout(dir int, name string, st *unix.Stat_t) bool {
	if st.Mode != unix.S_IFREG || st.Size != 0 {
		return false
	}
	path := fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
	for _, attribute := range [...]string{"trusted.overlay.whiteout", "user.overlay.whiteout"} {
		if _, err := unix.Lgetxattr(path, attribute, nil); err == nil {
			return true
		}
	}
	return false
}

// What fuse-overlayfs has in a directory that hides all below it, beside an attribute: a file, and a whiteout of another name of that.
const (
	OpaqueMark = ".wh..wh..opq"
	HiddenMark = ".wh..opq"
)

// opaqueNames are the attributes that say so of a directory: overlayfs's, of root and in a user namespace, and fuse-overlayfs's there.
var opaqueNames = [...]string{"trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque"}

// Opaque reports whether a directory hides what the layers below have in its place.
func Opaque(fd int) bool {
	var names [1024]byte
	n, err := unix.Flistxattr(fd, names[:]) // most have none: one call says so
	if err == nil && n == 0 || errors.Is(err, unix.ENOTSUP) {
		return false
	}
	for _, name := range opaqueNames {
		if err == nil && !bytes.Contains(names[:n], []byte(name)) {
			continue
		}
		var b [1]byte
		if n, err := unix.Fgetxattr(fd, name, b[:]); err == nil && n == 1 && b[0] == 'y' {
			return true
		}
	}
	return false
}
