package registry

import (
	"context"
	"errors"
	"io"
	"time"

	"berth/internal/image"
	"berth/internal/image/reference"
)

// ranges says when and how a large blob is fetched over several connections at once: many servers give each connection a share of what
// the line could carry. A server nearby is quickest when it is asked once.
//
//	the whole blob is asked for, and read as it comes
//	it comes slowly, much is left, and the server has said that it gives ranges  ->  the rest in pieces, several at a time
//	a server gives no ranges after all                                           ->  the rest over one connection
//
// The reader gets the bytes in their order, so that whoever stores the blob appends, and goes on later behind what is there. Memory is
// bounded by the pieces that have arrived before their turn.
type ranges struct {
	least int64         // bytes that are worth it
	look  time.Duration // of waiting for bytes, after which the server's speed is known
	slow  int64         // bytes in a second, below which others may bring more
	piece int64         // bytes of one request
	most  int           // pieces in memory, and so connections at once
}

// With docker's three layers at a time, 18 MiB.
var defaultRanges = ranges{least: 16 << 20, look: 500 * time.Millisecond, slow: 25 << 20, piece: 1 << 20, most: 6}

// pieces is the reader of a large blob: over one connection, or in pieces over several.
type pieces struct {
	ctx  context.Context
	blob func(ctx context.Context, at, end int64) *blob
	how  ranges
	at   int64 // of the blob, the next byte to give
	size int64

	whole   *blob         // the rest over one connection; nil when it comes in pieces
	decided bool          // how the rest is fetched
	got     int64         // bytes that came over one connection
	spent   time.Duration // waiting for them

	apart   context.Context // of the pieces
	cancel  context.CancelFunc
	queue   chan *piece // in their order
	free    chan []byte // room for pieces; what is not here is in use
	current *piece
	rest    []byte
}

// piece is a part of the blob on its way.
type piece struct {
	data []byte
	err  error
	done chan struct{} // closed when data is whole, or err says why it never will be
}

func (c *Client) openPieces(ctx context.Context, ref reference.Reference, desc image.Descriptor, offset int64) (io.ReadCloser, error) {
	p := &pieces{ctx: ctx, how: c.ranges, at: offset, size: desc.Size, cancel: func() {}}
	p.blob = func(ctx context.Context, at, end int64) *blob {
		return &blob{c: c, ctx: ctx, ref: ref, desc: desc, at: at, end: end, mark: at}
	}
	p.whole = p.blob(ctx, offset, desc.Size)
	if err := p.whole.open(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *pieces) Read(into []byte) (int, error) {
	if len(into) == 0 {
		return 0, nil
	}
	if p.whole != nil {
		begun := time.Now()
		n, err := p.whole.Read(into)
		p.at, p.got, p.spent = p.at+int64(n), p.got+int64(n), p.spent+time.Since(begun)
		if err == nil && !p.decided && p.spent >= p.how.look {
			p.decided = true
			if p.slow() && p.size-p.at >= p.how.least && p.whole.offered {
				return n, p.split()
			}
		}
		return n, err
	}
	if p.at == p.size {
		return 0, io.EOF
	}
	if len(p.rest) == 0 {
		if err := p.next(); errors.Is(err, errNoRanges) {
			p.cancel()
			p.whole = p.blob(p.ctx, p.at, p.size)
			return p.whole.Read(into)
		} else if err != nil {
			return 0, err
		}
	}
	n := copy(into, p.rest)
	p.rest, p.at = p.rest[n:], p.at+int64(n)
	return n, nil
}

func (p *pieces) slow() bool {
	return float64(p.got) < float64(p.how.slow)*p.spent.Seconds()
}

// split gives up the one connection for several.
func (p *pieces) split() error {
	err := p.whole.Close()
	p.whole = nil
	p.queue, p.free = make(chan *piece, p.how.most), make(chan []byte, p.how.most)
	for range p.how.most {
		p.free <- nil
	}
	p.apart, p.cancel = context.WithCancel(p.ctx)
	go p.fetch(p.at)
	return err
}

// fetch begins one piece after the other, as there is room.
func (p *pieces) fetch(at int64) {
	defer close(p.queue)
	for at < p.size {
		var room []byte
		select {
		case room = <-p.free:
		case <-p.apart.Done():
			return
		}
		if room == nil {
			room = make([]byte, p.how.piece)
		}
		b := p.blob(p.apart, at, min(at+p.how.piece, p.size))
		b.part = true
		at = b.end
		next := &piece{data: room[:b.end-b.at], done: make(chan struct{})}
		p.queue <- next // there is as much room as there are pieces
		go next.fill(b)
	}
}

func (p *piece) fill(b *blob) {
	defer close(p.done)
	_, p.err = io.ReadFull(b, p.data)
	if err := b.Close(); p.err == nil {
		p.err = err
	}
}

// next waits for the piece whose turn it is.
func (p *pieces) next() error {
	if p.current != nil {
		p.free <- p.current.data[:cap(p.current.data)]
		p.current = nil
	}
	piece, ok := <-p.queue
	if !ok {
		return ended(p.apart)
	}
	<-piece.done
	if piece.err == nil {
		p.current, p.rest = piece, piece.data
	}
	return piece.err
}

func (p *pieces) Close() error {
	p.cancel()
	if p.whole != nil {
		return p.whole.Close()
	}
	return nil
}
