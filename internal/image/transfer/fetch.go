package transfer

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"berth/internal/errdef"
	"berth/internal/image"
)

// chunk is how much of a blob is read at a time. A kill loses at most that much, and of a large blob
// the pieces that came before their turn.
const chunk = 128 << 10

// errStale says that a blob was wrong which began with bytes of an earlier try: these may be to blame (a power cut
// may leave a file of the right length with zeros at its end), and have been thrown away.
var errStale = errors.New("what an earlier try had left is damaged")

// fetch is one blob on its way. It may be read while it grows, by several readers.
type fetch struct {
	desc    image.Descriptor
	planned bool // there is something to do

	mu      sync.Mutex
	file    *os.File      // for reading; nil before the first byte is there
	have    int64         // bytes in file
	done    bool          // all of them, and verified
	err     error         // why there will never be more
	changed chan struct{} // closed at the next change
}

func newFetch(desc image.Descriptor) *fetch { return &fetch{desc: desc, changed: make(chan struct{})} }

// update changes the state and wakes the readers.
func (f *fetch) update(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

// run fetches the blob into the content store. Afterwards close must be called when no reader is left.
func (f *fetch) run(ctx context.Context, p *pull) error {
	err := f.store(ctx, p)
	f.update(func() { f.done, f.err = err == nil, err })
	return err
}

func (f *fetch) store(ctx context.Context, p *pull) error {
	in, err := p.opt.Content.Ingest(ctx, f.desc)
	if err != nil {
		return err
	}
	if in.Done() {
		file, err := p.opt.Content.Open(f.desc.Digest)
		if err != nil {
			return err
		}
		st, err := file.Stat()
		if err == nil && st.Size() != f.desc.Size {
			err = errdef.New(errdef.Corrupt, "blob %s has %d bytes, not the announced %d", f.desc.Digest, st.Size(), f.desc.Size)
		}
		f.update(func() { f.file, f.have = file, f.desc.Size })
		return err
	}
	defer in.Close() // keeps what is there; after Commit it does nothing
	file, err := in.Reopen()
	if err != nil {
		return err
	}
	offset := in.Offset()
	f.update(func() { f.file, f.have = file, offset })
	p.events.downloading(f.desc, offset)

	// The bytes of the earlier try are hashed while the registry is asked for the others.
	hashed := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, in.Partial())
		hashed <- err
	}()
	body, err := p.opt.Registry.Blob(ctx, p.ref, f.desc, offset)
	if err := errors.Join(err, <-hashed); err != nil {
		if body != nil {
			_ = body.Close()
		}
		return err
	}
	defer body.Close()
	buf := make([]byte, chunk)
	for at := offset; ; {
		n, err := body.Read(buf)
		if _, err := in.Write(buf[:n]); err != nil {
			return err
		}
		if at += int64(n); n > 0 {
			f.update(func() { f.have = at })
			p.events.downloading(f.desc, at)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := in.Commit(); err != nil {
		if offset > 0 && errdef.Is(err, errdef.Corrupt) {
			return errors.Join(errStale, err)
		}
		return err
	}
	return nil
}

func (f *fetch) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file != nil {
		_ = f.file.Close()
	}
	f.file = nil
}

// started waits until there is something to read, or never will be.
func (f *fetch) started(ctx context.Context) error {
	for {
		f.mu.Lock()
		file, err, changed := f.file, f.err, f.changed
		f.mu.Unlock()
		if file != nil || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errdef.As(errdef.Cancelled, context.Cause(ctx))
		}
	}
}

// follower reads a blob while it arrives. It meets the end only once the blob is verified.
type follower struct {
	ctx context.Context // ends when a fetch fails
	f   *fetch
	at  int64
}

func (r *follower) Read(p []byte) (int, error) {
	for {
		r.f.mu.Lock()
		file, have, done, err, changed := r.f.file, r.f.have, r.f.done, r.f.err, r.f.changed
		r.f.mu.Unlock()
		switch {
		case err != nil:
			<-r.ctx.Done() // so that the reason why all is over is the fetch's, not its reader's
			return 0, err
		case r.at < have:
			n, err := file.ReadAt(p[:min(int64(len(p)), have-r.at)], r.at)
			r.at += int64(n)
			if n > 0 {
				err = nil
			}
			return n, err
		case done:
			return 0, io.EOF
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return 0, errdef.As(errdef.Cancelled, context.Cause(r.ctx))
		}
	}
}

// Close leaves the file to the fetch, which other readers may share.
func (r *follower) Close() error { return nil }
