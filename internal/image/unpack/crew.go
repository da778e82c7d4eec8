package unpack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"berth/internal/errdef"
)

// A crew makes small regular files, several at once. It gets only files at places that were never used before
// and are used by nothing else until settle: in which order they are made cannot be seen.
//
// Files travel in batches, because every hand-over wakes a thread (each member has one of its own), which costs as
// much as making a file.
type crew struct {
	owner   *owner
	batches chan *batch
	free    chan *batch
	filling *batch // nil or not yet handed over

	open    sync.WaitGroup // batches handed over
	members sync.WaitGroup

	mu  sync.Mutex
	err error // the first failure
}

type batch struct {
	jobs []job
	data []byte // of all jobs, one behind the other
}

type job struct {
	at   place
	meta meta
	size int
}

const (
	smallFile  = 64 << 10
	batchBytes = 2 * smallFile
	batchJobs  = 64
	crewMost   = 4
)

func startCrew(o *owner) *crew {
	members := min(crewMost, runtime.GOMAXPROCS(0))
	count := 2*members + 1
	c := &crew{owner: o, batches: make(chan *batch, count), free: make(chan *batch, count)}
	for range count {
		c.free <- &batch{}
	}
	for range members {
		c.members.Go(func() {
			if err := withoutUmask(); err != nil {
				c.fail(err)
			}
			for b := range c.batches {
				c.make(b)
				b.jobs, b.data = b.jobs[:0], b.data[:0]
				c.free <- b
				c.open.Done()
			}
		})
	}
	return c
}

func (c *crew) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

func (c *crew) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *crew) make(b *batch) {
	if c.failure() != nil {
		return
	}
	data := b.data
	for i := range b.jobs {
		j := &b.jobs[i]
		err := makeFile(j.at, &j.meta, c.owner, func(fd int) error { return writeAt(fd, data[:j.size], 0) })
		if err != nil {
			c.fail(fmt.Errorf("cannot make file %q: %w", j.at.base, err))
			return
		}
		data = data[j.size:]
	}
}

// small reads the content of a small file and leaves the rest to a member.
func (c *crew) small(at place, size int64, m *meta, content io.Reader) error {
	if c.filling == nil {
		c.filling = <-c.free
		if err := c.failure(); err != nil {
			return err
		}
		if c.filling.data == nil {
			c.filling.data = make([]byte, 0, batchBytes)
		}
	}
	b := c.filling
	from := len(b.data)
	b.data = b.data[:from+int(size)]
	if _, err := io.ReadFull(content, b.data[from:]); err != nil {
		b.data = b.data[:from]
		return errdef.New(errdef.Corrupt, "its content ends too early: %w", err)
	}
	b.jobs = append(b.jobs, job{at, *m, int(size)})
	if len(b.jobs) == batchJobs || len(b.data) > batchBytes-smallFile {
		c.handOver()
	}
	return nil
}

func (c *crew) handOver() {
	if c.filling != nil && len(c.filling.jobs) > 0 {
		c.open.Add(1)
		c.batches <- c.filling // never waits: there is room for all
		c.filling = nil
	}
}

// settle waits until every file is made.
func (c *crew) settle() error {
	c.handOver()
	c.open.Wait()
	return c.failure()
}

// end sends the crew home.
func (c *crew) end() error {
	c.handOver()
	close(c.batches)
	c.members.Wait()
	return c.failure()
}

// makeFile makes a regular file at a place where nothing is.
func makeFile(at place, m *meta, o *owner, write func(fd int) error) error {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(at.in.fd, at.base, flags, m.mode&0o777) // the umask is 0 here
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	err = write(fd) // not an os.File: preparing one costs as much as a system call
	if err == nil && o.change(m) {
		if err = unix.Fchown(fd, m.uid, m.gid); err != nil {
			err = chownError(err, m)
		}
	}
	// After write and chown, which clear setuid and capabilities.
	if err == nil && m.mode&^0o777 != 0 {
		err = os.NewSyscallError("fchmod", unix.Fchmod(fd, m.mode))
	}
	if err == nil && len(m.xattrs) > 0 {
		err = setXattrs(m.xattrs, o.ignored, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
	}
	if err == nil {
		err = utimes(at.in.fd, at.base, m)
	}
	if closeErr := unix.Close(fd); err == nil {
		err = os.NewSyscallError("close", closeErr)
	}
	return noSpace(err)
}

func writeAt(fd int, data []byte, at int64) error {
	for len(data) > 0 {
		n, err := unix.Pwrite(fd, data, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("pwrite", err)
		}
		data, at = data[n:], at+int64(n)
	}
	return nil
}

// copySparse copies size bytes and leaves holes where whole blocks are zero.
func copySparse(ctx context.Context, fd int, content io.Reader, size int64) error {
	buffer := make([]byte, len(zeros))
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(content, buffer[:min(int64(len(buffer)), size-at)])
		if err != nil {
			return errdef.New(errdef.Corrupt, "its content ends too early: %w", err)
		}
		if !bytes.Equal(buffer[:n], zeros[:n]) {
			if err := writeAt(fd, buffer[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return os.NewSyscallError("ftruncate", unix.Ftruncate(fd, size))
}

var zeros [64 << 10]byte
