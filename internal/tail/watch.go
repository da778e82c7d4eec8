package tail

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Watch tells when something changes in directories.
type Watch struct{ f *os.File }

const changes = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_DELETE_SELF

// NewWatch watches directories. One that is not there is left out.
func NewWatch(dirs ...string) (*Watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &Watch{os.NewFile(uintptr(fd), "inotify")}
	for _, dir := range dirs {
		if _, err := unix.InotifyAddWatch(fd, dir, changes); err != nil && err != unix.ENOENT {
			return nil, errors.Join(&os.PathError{Op: "inotify_add_watch", Path: dir, Err: err}, w.Close())
		}
	}
	return w, nil
}

// Wait waits for a change, one since the last call included, for the end of ctx, or until the time is over.
func (w *Watch) Wait(ctx context.Context, most time.Duration) {
	if err := w.f.SetReadDeadline(time.Now().Add(most)); err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { _ = w.f.SetReadDeadline(time.Unix(1, 0)) })()
	if ctx.Err() != nil {
		return
	}
	var buf [16 << 10]byte
	_, _ = w.f.Read(buf[:]) // what has changed is looked for by name
}

// Close ends the watching.
func (w *Watch) Close() error { return w.f.Close() }
