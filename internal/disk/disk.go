// Package disk holds the few ways in which berth touches its own files: replace one atomically, create
// one exclusively, lock one, and open what lies beneath a directory whose contents are hostile.
//
// It knows no paths of berth's state and no formats. Two rules hold for everything here: a name never
// refers to bytes that a power cut could still take away (unless the caller says Volatile), and a path
// from outside is only ever resolved by openat2 beneath a directory that is already open.
package disk

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Durability says whether a write must survive a power cut.
type Durability int

const (
	Volatile Durability = iota // rename only: for what dies with the boot, or with --rm
	Whole                      // fsync the file, rename it: afterwards there is the old content or the new one, for what is derived
	Durable                    // fsync the file, rename it, fsync its directory
)

// DurableUnless is Volatile for what dies soon, and otherwise Durable.
func DurableUnless(volatile bool) Durability {
	if volatile {
		return Volatile
	}
	return Durable
}

// Replace makes path hold exactly data, or leaves it as it was. A reader sees the old or the new content.
func Replace(path string, data []byte, mode fs.FileMode, d Durability) error {
	tmp, err := writeTemporary(path, data, mode, d)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if d == Durable {
		return SyncDir(filepath.Dir(path))
	}
	return nil
}

// Create is Replace for a path that must not exist yet; otherwise the error wraps fs.ErrExist.
func Create(path string, data []byte, mode fs.FileMode, d Durability) error {
	tmp, err := writeTemporary(path, data, mode, d)
	if err != nil {
		return err
	}
	err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL { // a file system without RENAME_NOREPLACE; link has the same meaning
		if err = unix.Link(tmp, path); err == nil {
			err = os.Remove(tmp)
		}
	}
	if err != nil {
		_ = os.Remove(tmp)
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	if d == Durable {
		return SyncDir(filepath.Dir(path))
	}
	return nil
}

// TemporaryPrefix begins the name of every file that is still being written; one that is old and
// locked by nobody is garbage.
const TemporaryPrefix = ".tmp-"

func writeTemporary(path string, data []byte, mode fs.FileMode, d Durability) (string, error) {
	tmp := filepath.Join(filepath.Dir(path), TemporaryName())
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, mode)
	if err != nil {
		var of *os.PathError
		if errors.As(err, &of) {
			of.Path = path // not a name that nobody has given
		}
		return "", err
	}
	_, err = f.Write(data)
	if err == nil && d != Volatile {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(tmp))
	}
	return tmp, nil
}

// TemporaryName returns a fresh name for a file or directory that is still being made.
func TemporaryName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	return TemporaryPrefix + hex.EncodeToString(b[:])
}

// SweepTemporaries removes what Replace and Create have left in dir when they were killed. The caller keeps writers away.
func SweepTemporaries(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), TemporaryPrefix) && e.Type().IsRegular() {
			errs = errors.Join(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errs
}

// SyncDir makes the entries of dir durable.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// SyncFS makes everything written to the file system of f durable (syncfs(2)): cheaper than one fsync a
// file for a tree. Since Linux 5.8 it reports write errors.
func SyncFS(f *os.File) error {
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}

// writeOutBytes is how much Copy writes before it tells the kernel to begin to bring it to the disk.
const writeOutBytes = 16 << 20

// Copy writes all that r gives to the end of f, which is empty. The kernel begins early to bring much to the disk: what follows, and reads
// it, or takes digests, does that meanwhile, and a sync has less to wait for. It makes nothing durable.
func Copy(f *os.File, r io.Reader) error {
	for size := int64(0); ; {
		n, err := io.CopyN(f, r, writeOutBytes)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		// A failure is of no interest: the sync will have it, too.
		_ = unix.SyncFileRange(int(f.Fd()), size, n, unix.SYNC_FILE_RANGE_WRITE)
		size += n
	}
}

// CopyBytes copies what is left of the file in to the end of the empty file out, as Copy does, for callers with many files: a small one is read
// and written by way of the buffer, and nothing is allocated.
func CopyBytes(out, in int, buffer []byte) error {
	size, begun := int64(0), int64(0)
	inKernel := true
	for {
		n, err := 0, error(nil)
		large := size >= int64(len(buffer))
		if large && inKernel {
			n, err = unix.CopyFileRange(in, nil, out, nil, writeOutBytes, 0)
			if err != nil && err != unix.EINTR && err != unix.ENOSPC && err != unix.EDQUOT && err != unix.EIO {
				inKernel, err = false, unix.EINTR // not between these file systems; by the buffer, then
			}
		} else {
			n, err = readWrite(out, in, buffer)
		}
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0, !large && n < len(buffer):
			return nil
		}
		if size += int64(n); size-begun >= writeOutBytes {
			_ = unix.SyncFileRange(out, begun, size-begun, unix.SYNC_FILE_RANGE_WRITE)
			begun = size
		}
	}
}

// readWrite copies as much as one read gives.
func readWrite(out, in int, buffer []byte) (n int, err error) {
	if n, err = unix.Read(in, buffer); err != nil {
		return 0, err
	}
	for done := 0; done < n; {
		w, err := unix.Write(out, buffer[done:n])
		if err != nil && err != unix.EINTR {
			return done, err
		}
		done += max(w, 0)
	}
	return n, nil
}

// Lock is an advisory flock(2) on a file. The kernel gives it back when the last copy of its descriptor is
// closed, however the process ends.
type Lock struct{ f *os.File }

// ErrLocked is returned by TryLock when somebody else holds the lock.
var ErrLocked = errors.New("locked by another process")

// TakeLock opens path, creating it if need be, and waits for the exclusive lock.
func TakeLock(path string) (*Lock, error) { return lock(path, unix.LOCK_EX) }

// ShareLock opens path, creating it if need be, and waits for a shared lock.
func ShareLock(path string) (*Lock, error) { return lock(path, unix.LOCK_SH) }

// TryLock is TakeLock that returns ErrLocked rather than wait.
func TryLock(path string) (*Lock, error) { return lock(path, unix.LOCK_EX|unix.LOCK_NB) }

// TryShareLock is ShareLock that returns ErrLocked rather than wait.
func TryShareLock(path string) (*Lock, error) { return lock(path, unix.LOCK_SH|unix.LOCK_NB) }

// TryLockDir is TryLock for a directory that is there.
func TryLockDir(path string) (*Lock, error) {
	return lockAs(path, os.O_RDONLY|unix.O_DIRECTORY, unix.LOCK_EX|unix.LOCK_NB)
}

// LockDir is TakeLock for a directory that is there.
func LockDir(path string) (*Lock, error) {
	return lockAs(path, os.O_RDONLY|unix.O_DIRECTORY, unix.LOCK_EX)
}

func lock(path string, how int) (*Lock, error) { return lockAs(path, os.O_RDWR|os.O_CREATE, how) }

func lockAs(path string, open, how int) (*Lock, error) {
	for {
		f, err := os.OpenFile(path, open|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		for err = unix.Flock(int(f.Fd()), how); err == unix.EINTR; {
			err = unix.Flock(int(f.Fd()), how)
		}
		if err != nil {
			_ = f.Close()
			if err == unix.EWOULDBLOCK {
				return nil, ErrLocked
			}
			return nil, &os.PathError{Op: "flock", Path: path, Err: err}
		}
		// Whoever held the lock may have removed the file with what it guarded; then this lock guards nothing.
		var here, there unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &here); err != nil {
			return nil, errors.Join(os.NewSyscallError("fstat", err), f.Close())
		}
		if err := unix.Stat(path, &there); err == nil && here.Dev == there.Dev && here.Ino == there.Ino {
			return &Lock{f}, nil
		}
		_ = f.Close()
	}
}

// File returns the locked file, to hand the lock on to a child process; nil for a nil lock.
func (l *Lock) File() *os.File { return l.f }

// Unlock gives the lock back. Unlocking twice is harmless.
func (l *Lock) Unlock() {
	if l != nil && l.f != nil {
		_ = l.f.Close()
		l.f = nil
	}
}

// How a hostile path may be resolved; see openat2(2), Linux 5.6.
const (
	// InRoot takes dir for "/" : absolute symlinks and ".." stay inside.
	InRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	// Beneath refuses (EXDEV) whatever would leave dir.
	Beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
)

// OpenIn opens path, which is resolved as resolve says, relative to the open directory dir.
func OpenIn(dir int, path string, flags int, mode uint32, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	if flags&(unix.O_CREAT|unix.O_TMPFILE) != 0 {
		how.Mode = uint64(mode)
	}
	for {
		fd, err := unix.Openat2(dir, path, &how)
		// EAGAIN: a rename elsewhere raced with "..", and the kernel could not prove where it leads.
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return -1, &os.PathError{Op: "openat2", Path: path, Err: err}
		}
		return fd, nil
	}
}

// Read reads a whole file of berth's own, which is no link. os.ReadFile makes twice as many system calls, since it asks for each file whether it can be
// waited for; whoever lists a thousand containers reads three thousand files.
func Read(path string) ([]byte, error) { return ReadUpTo(path, math.MaxInt64) }

// TooLargeError says that a file is larger than a reader wants.
type TooLargeError struct {
	Path string
	Size int64 // bytes
}

func (e *TooLargeError) Error() string { return fmt.Sprintf("%s has %d bytes", e.Path, e.Size) }

// ReadUpTo is Read, and a *TooLargeError for a file of more than limit bytes.
func ReadUpTo(path string, limit int64) ([]byte, error) {
	fail := func(op string, err error) ([]byte, error) { return nil, &os.PathError{Op: op, Path: path, Err: err} }
	fd, err := open(path)
	if err != nil {
		return fail("open", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fail("fstat", err)
	}
	if st.Size > limit {
		return nil, &TooLargeError{path, st.Size}
	}
	size := st.Size + 1 // one more, so that the end is seen without another look
	if st.Size == 0 {
		size = 4096 // files of the kernel's do not say how long they are
	}
	data := make([]byte, 0, size)
	for {
		n, err := unix.Read(fd, data[len(data):cap(data)])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fail("read", err)
		case n == 0, len(data)+n < cap(data):
			return data[:len(data)+n], nil
		default:
			data = slices.Grow(data[:cap(data)], 512)
		}
	}
}

func open(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// ReadBounded reads a regular file of at most limit bytes beneath the open directory root. FIFOs, devices and
// links that lead nowhere are errors and never block.
func ReadBounded(root int, path string, limit int64) ([]byte, error) {
	fd, err := OpenIn(root, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0, InRoot)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes; at most %d are read", path, st.Size(), limit)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s grew over %d bytes while it was read", path, limit)
	}
	return data, err
}

// Inherited is a lock that another process has taken and handed on by its descriptor.
func Inherited(f *os.File) *Lock { return &Lock{f} }
