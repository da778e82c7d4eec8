package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/image"
)

// Ingest is one blob on its way into the store. Only one process in the world has it at a time. It is not
// for concurrent use.
type Ingest struct {
	store    *Store
	desc     image.Descriptor
	path     string
	lock     *disk.Lock // nil when the blob was already here, and after the end
	done     bool       // the blob is in the store
	digester *image.Digester
	start    int64 // bytes that were here from an interrupted try
	size     int64 // bytes in the file now; digester has seen digester.Size() of them
}

// Ingest begins to store the blob desc. If another process is at it, Ingest waits for it, and the blob is Done
// when that one succeeded; if it failed, what it got is Partial.
func (s *Store) Ingest(ctx context.Context, desc image.Descriptor) (*Ingest, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, err
	}
	if desc.Size < 0 {
		return nil, errdef.New(errdef.Invalid, "cannot store blob %s: its size is %d", desc.Digest, desc.Size)
	}
	in := &Ingest{
		store: s, desc: desc,
		path:     filepath.Join(s.dir, "ingest", desc.Digest.Algorithm()+"-"+desc.Digest.Hex()),
		digester: image.NewDigester(desc.Digest.Algorithm()),
	}
	if in.done = s.Has(desc.Digest); in.done {
		return in, nil
	}
	var err error
	in.lock, err = poll(ctx, func() (*disk.Lock, error) { return disk.TryLock(in.path) })
	if err != nil {
		return nil, fmt.Errorf("cannot begin to store blob %s: %w", desc.Digest, err)
	}
	// Now that nobody else can be finishing it, look again.
	if in.done = s.Has(desc.Digest); in.done {
		return in, in.Discard()
	}
	st, err := in.lock.File().Stat()
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	in.start, in.size = st.Size(), st.Size()
	if in.size > desc.Size { // of no use: somebody lied about the size then, or does so now
		if err := in.Reset(); err != nil {
			return nil, errors.Join(err, in.Close())
		}
	}
	if _, err := in.lock.File().Seek(in.size, io.SeekStart); err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return in, nil
}

// Reopen opens the bytes that are here, and those that will be, for reading beside the writer.
func (in *Ingest) Reopen() (*os.File, error) { return os.Open(in.path) }

// Done reports whether the blob is in the store, so that there is nothing to write.
func (in *Ingest) Done() bool { return in.done }

// Offset is the number of bytes that are here from an interrupted try: writing continues behind them.
func (in *Ingest) Offset() int64 { return in.start }

// Partial reads the bytes up to Offset again. What is not read of it is read by the first Write or by Commit,
// because the digest needs every byte.
func (in *Ingest) Partial() io.Reader { return partialReader{in} }

type partialReader struct{ in *Ingest }

func (r partialReader) Read(p []byte) (int, error) {
	in := r.in
	at := in.digester.Size()
	if in.lock == nil || at >= in.start {
		return 0, io.EOF
	}
	n, err := in.lock.File().ReadAt(p[:min(int64(len(p)), in.start-at)], at)
	_, _ = in.digester.Write(p[:n])
	if n > 0 {
		err = nil
	}
	return n, err
}

func (in *Ingest) hashPartial() error {
	if in.digester.Size() >= in.start {
		return nil
	}
	_, err := io.Copy(io.Discard, in.Partial())
	if err == nil && in.digester.Size() != in.start {
		err = errdef.New(errdef.Corrupt, "%s became shorter while it was read", in.path)
	}
	return err
}

// Reset throws away the bytes of the interrupted try, for a source that cannot continue in the middle.
func (in *Ingest) Reset() error {
	if in.lock == nil {
		return nil
	}
	if err := in.lock.File().Truncate(0); err != nil {
		return err
	}
	if _, err := in.lock.File().Seek(0, io.SeekStart); err != nil {
		return err
	}
	in.start, in.size, in.digester = 0, 0, image.NewDigester(in.desc.Digest.Algorithm())
	return nil
}

// Write appends p. More bytes than the descriptor announced are refused.
func (in *Ingest) Write(p []byte) (int, error) {
	if in.lock == nil {
		return 0, os.ErrClosed
	}
	if err := in.hashPartial(); err != nil {
		return 0, err
	}
	if int64(len(p)) > in.desc.Size-in.size {
		return 0, errdef.New(errdef.Corrupt, "cannot store blob %s: it has more than the announced %d bytes", in.desc.Digest, in.desc.Size)
	}
	n, err := in.lock.File().Write(p)
	in.size += int64(n)
	_, _ = in.digester.Write(p[:n])
	if err != nil {
		err = errdef.As(kindOfWrite(err), wrap("cannot store blob "+string(in.desc.Digest), err))
	}
	return n, err
}

// Commit verifies size and digest and gives the blob its name, durably. Wrong bytes are discarded; too few are
// kept for the next try. The ingest has ended either way.
func (in *Ingest) Commit() error {
	if in.lock == nil {
		if in.done {
			return nil
		}
		return os.ErrClosed
	}
	if err := in.hashPartial(); err != nil {
		return errors.Join(err, in.Close())
	}
	if in.size != in.desc.Size {
		err := errdef.New(errdef.Corrupt, "cannot store blob %s: it has %d bytes, not the announced %d", in.desc.Digest, in.size, in.desc.Size)
		return errors.Join(err, in.Close())
	}
	if got := in.digester.Digest(); got != in.desc.Digest {
		err := errdef.New(errdef.Corrupt, "cannot store blob %s: the digest of what was received is %s", in.desc.Digest, got)
		return errors.Join(err, in.Discard())
	}
	if err := in.store.publish(in.lock.File(), in.path, in.desc.Digest); err != nil {
		return errors.Join(wrap("cannot store blob "+string(in.desc.Digest), err), in.Close())
	}
	in.done = true
	return in.Close()
}

// Close ends the ingest and keeps what is here for the next try. After Commit it does nothing.
func (in *Ingest) Close() error {
	in.lock.Unlock()
	in.lock = nil
	return nil
}

// Discard ends the ingest and removes what is here.
func (in *Ingest) Discard() error {
	if in.lock == nil {
		return nil
	}
	// Removed while locked, so that nobody can lock the file in between and write into a nameless inode.
	err := os.Remove(in.path)
	return errors.Join(err, in.Close())
}

// poll calls try until it does something other than find a lock taken, or ctx ends: flock(2) itself can wait,
// but not be told to stop.
func poll[T any](ctx context.Context, try func() (T, error)) (T, error) {
	const most = 100 * time.Millisecond
	for pause := time.Millisecond; ; pause = min(2*pause, most) {
		got, err := try()
		if !errors.Is(err, disk.ErrLocked) {
			return got, err
		}
		select {
		case <-ctx.Done():
			return got, errdef.As(errdef.Cancelled, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// kindOfWrite tells a full file system from other failures.
func kindOfWrite(err error) errdef.Kind {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errdef.NoSpace
	}
	return errdef.KindOf(err)
}

func wrap(what string, err error) error { return fmt.Errorf("%s: %w", what, err) }
