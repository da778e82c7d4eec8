package unpack

import (
	"context"
	"io"
	"sync"
	"sync/atomic"

	"berth/internal/errdef"
	"berth/internal/image"
)

// stream reads ahead from a source and hashes every byte while its consumer works with them.
type stream struct {
	blocks  chan *block // for the consumer
	hashes  chan *block // for the hasher
	free    chan *block
	stop    context.CancelFunc
	current *block // what the consumer has not read yet of a block
	rest    []byte

	wait     sync.WaitGroup
	err      error // why the source ended, if not by io.EOF; valid once blocks is closed
	digester *image.Digester
}

// block is a piece of the stream that two look at.
type block struct {
	data  []byte
	users atomic.Int32
}

const (
	blockSize  = 256 << 10
	blockCount = 16
)

func startStream(ctx context.Context, source io.Reader, limit int64, algorithm string) *stream {
	ctx, stop := context.WithCancel(ctx)
	s := &stream{
		blocks: make(chan *block, blockCount), hashes: make(chan *block, blockCount), free: make(chan *block, blockCount),
		stop: stop, digester: image.NewDigester(algorithm),
	}
	for range blockCount {
		s.free <- &block{data: make([]byte, 0, blockSize)}
	}
	s.wait.Go(func() {
		s.err = s.read(ctx, source, limit)
		close(s.blocks)
		close(s.hashes)
	})
	s.wait.Go(func() {
		for b := range s.hashes {
			_, _ = s.digester.Write(b.data)
			s.release(b)
		}
	})
	return s
}

func (s *stream) read(ctx context.Context, source io.Reader, limit int64) error {
	var total int64
	for {
		var b *block
		select {
		case b = <-s.free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		// Not io.ReadFull, which would hide the difference between an end and a source that was cut off.
		n, err := 0, error(nil)
		for n < blockSize && err == nil {
			var more int
			more, err = source.Read(b.data[n:blockSize])
			n += more
		}
		b.data = b.data[:n]
		if total += int64(n); total > limit {
			return errdef.New(errdef.Invalid, "the layer has more than %d bytes", limit)
		}
		b.users.Store(2)
		// The channels hold every block there is, so that this never waits.
		s.blocks <- b
		s.hashes <- b
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

func (s *stream) release(b *block) {
	if b.users.Add(-1) == 0 {
		s.free <- b
	}
}

// Read is for the one consumer.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.current != nil {
			s.release(s.current)
			s.current = nil
		}
		b, ok := <-s.blocks
		if !ok {
			if s.err != nil {
				return 0, s.err
			}
			return 0, io.EOF
		}
		s.current, s.rest = b, b.data
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// finish ends the stream, also in the middle. The digest means something only if the consumer saw io.EOF.
func (s *stream) finish() (image.Digest, int64, error) {
	early := true
	select {
	case _, open := <-s.blocks:
		early = open
	default:
	}
	s.stop()
	s.wait.Wait()
	if early && s.err == context.Canceled { // our own stop
		return "", s.digester.Size(), nil
	}
	return s.digester.Digest(), s.digester.Size(), s.err
}
