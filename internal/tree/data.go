package tree

import (
	"context"
	"errors"
	"io"
	"os"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// bufferBytes is large enough that system calls cost nothing beside the copying.
const bufferBytes = 1 << 20

// data copies the content of a, which has st.Size bytes, into the empty file b. Holes stay holes.
func (c *copier) data(a, b *os.File, st *unix.Stat_t) error {
	switch {
	case st.Size == 0:
		return nil
	case unix.IoctlFileClone(int(b.Fd()), int(a.Fd())) == nil: // one file system that can share them
		return nil
	case st.Blocks*blockBytes >= st.Size:
		return c.extent(a, b, 0, st.Size)
	}
	for at := int64(0); at < st.Size; {
		begin, err := unix.Seek(int(a.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole up to the end
		}
		if err != nil {
			return c.extent(a, b, at, st.Size) // a file system that does not know holes
		}
		end, err := unix.Seek(int(a.Fd()), begin, unix.SEEK_HOLE)
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		if at = min(end, st.Size); begin >= at {
			break
		}
		if err := c.extent(a, b, begin, at); err != nil {
			return err
		}
	}
	return b.Truncate(st.Size)
}

// extent copies the bytes from begin to end, or as many as there are.
func (c *copier) extent(a, b *os.File, begin, end int64) error {
	if c.buf == nil {
		c.buf = make([]byte, bufferBytes)
	}
	for begin < end {
		if err := c.ctx.Err(); err != nil {
			return errdef.As(errdef.Cancelled, context.Cause(c.ctx))
		}
		n, err := a.ReadAt(c.buf[:min(int64(len(c.buf)), end-begin)], begin)
		if n > 0 {
			if _, err := b.WriteAt(c.buf[:n], begin); err != nil {
				return err
			}
			begin += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return nil // it has become shorter meanwhile
		}
		if err != nil {
			return err
		}
	}
	return nil
}
