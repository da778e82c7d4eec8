package logs

import (
	"compress/gzip"
	"errors"
	"io"
	"os"

	"berth/internal/tail"

	"golang.org/x/sys/unix"
)

// Compress compresses the files of a log that have been rotated, and removes what an earlier try has left half-made. The caller sees to
// it that nobody rotates the log meanwhile.
func Compress(f Files) error {
	for n := f.MaxFiles - 1; n > 0; n-- {
		path := tail.Rotated(f.Path, n)
		if err := compress(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// compress makes path path.gz.
func compress(path string) (err error) {
	half := path + tail.Compressed + ".tmp"
	if err := remove(half); err != nil {
		return err
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(in.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	out, err := os.OpenFile(half, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	z.Name = tail.Name(st)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Sync(), out.Close()); err != nil {
		return errors.Join(err, remove(half))
	}
	if err := os.Rename(half, path+tail.Compressed); err != nil {
		return err
	}
	return os.Remove(path)
}
