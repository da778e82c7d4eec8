package unpack

import (
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// A tar is written in the order of its names, but what is small can be read before it is its turn: several files at once. For that the names of a
// directory are looked at a window at a time, the next one while this one is written.
const (
	windowNames = 64
	aheadBytes  = 32 << 10 // bytes; a larger one is read when it is its turn
	fewNames    = 16       // are read one after another
)

// glance is what was seen of a name, before it was its turn.
type glance struct {
	unix.Stat_t
	err   error
	plain bool   // it is a small file without attributes, and data is its content
	data  []byte // of Size bytes
}

// window looks at some names of a directory.
type window struct {
	seen []glance
	done sync.WaitGroup
}

// lookAt begins to look at names of the directory in.
func lookAt(in int, names []string) *window {
	w := &window{seen: make([]glance, len(names))}
	lookers := min(runtime.GOMAXPROCS(0), 8)
	for first := range lookers {
		w.done.Go(func() {
			for i := first; i < len(names); i += lookers {
				w.seen[i].look(in, names[i])
			}
		})
	}
	return w
}

func (g *glance) look(in int, name string) {
	g.err = unix.Fstatat(in, name, &g.Stat_t, unix.AT_SYMLINK_NOFOLLOW)
	if g.err != nil || g.Mode&unix.S_IFMT != unix.S_IFREG || g.Size > aheadBytes {
		return
	}
	fd, err := unix.Openat(in, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // whose turn it is says why
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Ino != g.Ino || st.Mode != g.Mode || st.Size != g.Size {
		return
	}
	if n, err := unix.Flistxattr(fd, nil); n != 0 || err != nil && err != unix.ENOTSUP {
		return
	}
	g.data = make([]byte, g.Size)
	for at := 0; at < len(g.data); {
		n, err := unix.Read(fd, g.data[at:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || n == 0:
			return
		}
		at += n
	}
	g.plain = true
}

// inOrder gives names of the directory in one after another, with what was seen of them, or nil.
func inOrder(in int, names []string, visit func(name string, seen *glance) error) error {
	if len(names) < fewNames || runtime.GOMAXPROCS(0) == 1 {
		for _, name := range names {
			if err := visit(name, nil); err != nil {
				return err
			}
		}
		return nil
	}
	at := func(i int) []string { return names[min(i, len(names)):min(i+windowNames, len(names))] }
	next := lookAt(in, at(0))
	defer func() { next.done.Wait() }() // the directory stays open as long as somebody looks
	for i := 0; i < len(names); i += windowNames {
		w := next
		w.done.Wait()
		next = lookAt(in, at(i+windowNames))
		for j, name := range at(i) {
			if err := visit(name, &w.seen[j]); err != nil {
				return err
			}
		}
	}
	return nil
}
