package monitor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"berth/internal/runtime/lifecycle"

	"golang.org/x/sys/unix"
)

// pipes are both ends of a container's standard input, output and error, which have names in its run directory.
type pipes struct {
	theirs [3]*os.File
	in     *os.File // nil: none
	out    []*os.File
}

// makePipes makes the pipes of a start. The container's ends of output and error are open for reading as well as writing, so
// that there is a reader even while no monitor is; owner is who they belong to, since /dev/stdout may be opened again, or -1.
func makePipes(dir string, interactive bool, owner int) (_ pipes, err error) {
	var p pipes
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		if i == 0 && !interactive {
			if p.theirs[0], err = lifecycle.OpenNull(os.O_RDONLY); err != nil {
				return pipes{}, err
			}
			continue
		}
		path := filepath.Join(dir, name)
		// Opened for both, which does not wait for the other side.
		both, err := makePipe(path, owner)
		if err != nil {
			return pipes{}, err
		}
		if i > 0 {
			p.theirs[i] = both
			ours, err := openEnd(path, unix.O_RDONLY)
			if err != nil {
				return pipes{}, err
			}
			p.out = append(p.out, ours)
			continue
		}
		// Standard input must end when we close our side: the container's side is for reading alone.
		p.in, err = openEnd(path, unix.O_WRONLY)
		if err == nil {
			p.theirs[0], err = openPipe(path, unix.O_RDONLY)
		}
		if err = errors.Join(err, both.Close()); err != nil {
			return pipes{}, err
		}
	}
	return p, nil
}

func makePipe(path string, owner int) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	f, err := openPipe(path, unix.O_RDWR)
	if err == nil && owner > 0 {
		if err = f.Chown(owner, -1); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, err
}

// openPipe opens a side of a named pipe for the container, which is to wait in its reads and writes.
func openPipe(path string, how int) (*os.File, error) {
	fd, err := unix.Open(path, how|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openEnd opens our side of a named pipe, for the poller.
func openEnd(path string, how int) (*os.File, error) {
	fd, err := unix.Open(path, how|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// end is our end of output (0) or error (1), or nil.
func (p *pipes) end(i int) *os.File {
	if i >= len(p.out) {
		return nil
	}
	return p.out[i]
}

// close closes all that is open.
func (p *pipes) close() {
	p.closeTheirs()
	for _, f := range append(p.out, p.in) {
		if f != nil {
			_ = f.Close()
		}
	}
	p.in, p.out = nil, nil
}

// closeTheirs closes the container's ends, when it has them.
func (p *pipes) closeTheirs() {
	for i, f := range p.theirs {
		if f != nil {
			_ = f.Close()
		}
		p.theirs[i] = nil
	}
}
