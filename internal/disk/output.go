package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Output lets write write what a user wants to have at path. A regular file has its name, and takes an older one's place, when it is whole;
// where path is a symbolic link, that is the file that it leads to. What is there and is no file (/dev/null, a FIFO) is written to as it is.
func Output(path string, mode fs.FileMode, write func(io.Writer) error) error {
	fail := func(err error) error { return fmt.Errorf("cannot write %s: %w", path, err) }
	switch st, err := os.Stat(path); {
	case err != nil:
	case st.IsDir():
		return fail(unix.EISDIR)
	case !st.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return fail(err)
		}
		return errors.Join(write(f), f.Close())
	default:
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return fail(err)
		}
	}
	tmp := filepath.Join(filepath.Dir(path), TemporaryName())
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, mode)
	if err != nil {
		var of *os.PathError
		if errors.As(err, &of) {
			err = of.Err // its path is a name that nobody has given
		}
		return fail(err)
	}
	if err = errors.Join(write(f), f.Close()); err == nil {
		if err = os.Rename(tmp, path); err != nil {
			err = fail(err)
		}
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

// OutputBytes is Output of data.
func OutputBytes(path string, data []byte, mode fs.FileMode) error {
	return Output(path, mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}
