package merged

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Found is what a path leads to.
type Found struct {
	// Path is the path without any links, relative to the root, which is ".".
	Path string
	// Kind is the file's type (unix.S_IFDIR, ...), or 0 if nothing is there. Then the end of Path is what would have to be made.
	Kind uint32
}

// Resolve finds out where a path of the stack leads. The last part may be a link only if follow is false.
func Resolve(layers []string, name string, follow bool) (Found, error) {
	s, err := openStack(layers)
	if err != nil {
		return Found{}, err
	}
	defer s.close()
	found, err := s.resolve(name, follow)
	if err != nil {
		return found, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return found, nil
}

func (s *stack) resolve(name string, follow bool) (Found, error) {
	todo := strings.Split(name, "/")
	dirs := []directory{s.root} // where we are, from the root down
	var at []string             // their names
	links := 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(at) > 0 {
				dirs, at = dirs[:len(dirs)-1], at[:len(at)-1]
			}
			continue
		}
		here := strings.Join(append(at[:len(at):len(at)], part), "/")
		below, in, st, err := s.lookup(dirs[len(dirs)-1], part)
		kind := st.Mode & unix.S_IFMT
		switch {
		case errors.Is(err, unix.ENOENT):
			// What would be made is no link: the rest can be cleaned as text, and does not leave the root.
			return Found{Path: strings.TrimPrefix(path.Join("/", here, strings.Join(todo, "/")), "/")}, nil
		case err != nil:
			return Found{}, err
		case below != nil:
			dirs, at = append(dirs, below), append(at, part)
		case kind == unix.S_IFLNK && (follow || strings.Trim(strings.Join(todo, ""), ".") != ""):
			if links++; links > maxLinks {
				return Found{}, unix.ELOOP
			}
			var b [unix.PathMax]byte
			n, err := unix.Readlinkat(in, part, b[:])
			if err != nil {
				return Found{}, err
			}
			to := string(b[:n])
			if strings.HasPrefix(to, "/") {
				dirs, at = dirs[:1], nil
			}
			todo = append(strings.Split(to, "/"), todo...)
		case strings.Trim(strings.Join(todo, ""), ".") != "":
			return Found{}, unix.ENOTDIR
		default:
			return Found{Path: here, Kind: kind}, nil
		}
	}
	return Found{Path: path.Join(".", strings.Join(at, "/")), Kind: unix.S_IFDIR}, nil
}

// Lookup finds an entry of the directory; fs.ErrNotExist says that there is none. A Dir of it is to be closed.
func (d *Dir) Lookup(name string) (Entry, error) {
	s := &stack{}
	below, in, _, err := s.lookup(d.parts, name)
	if err != nil {
		s.close()
		return Entry{}, &os.PathError{Op: "open", Path: name, Err: err}
	}
	e := Entry{Name: name, In: in}
	if below != nil {
		e.Dir = &Dir{below, s}
	}
	return e, nil
}
