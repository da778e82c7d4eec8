package merged

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Dir is an open directory of a stack.
type Dir struct {
	parts directory // the topmost first
	stack *stack
}

// OpenDir opens the directory name of the stack, the topmost layer first. What is no directory is unix.ENOTDIR; what is
// absent is fs.ErrNotExist.
func OpenDir(layers []string, name string) (*Dir, error) {
	s, err := openStack(layers)
	if err != nil {
		return nil, err
	}
	parts, f, err := s.open(name)
	if f != nil {
		_ = f.Close()
		err = unix.ENOTDIR
	}
	if err != nil {
		s.close()
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return &Dir{parts, s}, nil
}

// Close closes the directory. What was found in it stays open.
func (d *Dir) Close() { d.stack.close() }

// FD is the topmost part, which has the owner, the mode and the attributes of the directory.
func (d *Dir) FD() int { return d.parts[0] }

// Single is where the directory is if no other layer has a part of it; then all below it is there, too.
func (d *Dir) Single() (path string, ok bool) {
	if len(d.parts) != 1 {
		return "", false
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", d.parts[0]))
	return path, err == nil
}

// Plain reports whether the directory is one directory, and not the parts that several layers have.
func (d *Dir) Plain() bool { return len(d.parts) == 1 }

// Entry is something in a directory.
type Entry struct {
	Name string
	Dir  *Dir // nil: it is something else, to be found by its name in the directory In
	In   int
	Stat unix.Stat_t // of what is no directory, when it was found
}

// Entries opens what is in the directory, one after another in the order of their names; a Dir it closes afterwards.
func (d *Dir) Entries(visit func(Entry) error) error {
	names, err := d.names()
	if err != nil {
		return err
	}
	var all []seen
	for i, name := range names {
		if i%lookAhead == 0 {
			all = d.see(names[i:min(i+lookAhead, len(names))], all)
		}
		s := &stack{}
		below, in, st, err := s.lookupFrom(d.parts, name, &all[i%lookAhead])
		if errors.Is(err, unix.ENOENT) {
			continue // hidden
		}
		if err == nil {
			e := Entry{Name: name, In: in, Stat: st}
			if below != nil {
				e.Dir = &Dir{below, s}
			}
			err = visit(e)
		}
		s.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// lookAhead is how many names of a directory are looked at together.
const lookAhead = 1024

// worthwhile is how many names are worth another goroutine: they take some 30 microseconds.
const worthwhile = 32

// see looks at names in the topmost part, several at a time. all is memory that may be used.
func (d *Dir) see(names []string, all []seen) []seen {
	all = slices.Grow(all[:0], len(names))[:len(names)]
	look := func(from, to int) {
		for i := from; i < to; i++ {
			all[i].err = unix.Fstatat(d.parts[0], names[i], &all[i].Stat_t, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	share := max(worthwhile, (len(names)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	var others sync.WaitGroup
	for from := share; from < len(names); from += share {
		others.Go(func() { look(from, min(from+share, len(names))) })
	}
	look(0, min(share, len(names)))
	others.Wait()
	return all
}

// names are those of all parts, the hidden ones too.
func (d *Dir) names() ([]string, error) {
	var all []string
	for _, part := range d.parts {
		fd, err := unix.Openat(part, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("openat", err)
		}
		f := os.NewFile(uintptr(fd), ".")
		names, err := f.Readdirnames(-1)
		_ = f.Close()
		if err != nil {
			return nil, err
		}
		if slices.Contains(names, OpaqueMark) && Opaque(part) {
			names = slices.DeleteFunc(names, func(n string) bool { return n == OpaqueMark })
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}
