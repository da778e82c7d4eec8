package registry

import (
	"context"
	"errors"
	"io"

	"berth/internal/image"
	"berth/internal/image/reference"
)

// ranges says how a large blob is fetched over several connections at once, where the server gives ranges: many servers give each
// connection a share of what the line could carry.
//
//	the first piece is asked for   ->  206: the others, too, several at a time
//	                               ->  200: this is the whole blob; it is read as it comes
//
// The reader gets the pieces in their order, so that whoever stores the blob appends, and goes on later behind what is there. Memory is
// bounded by the pieces that have arrived before their turn.
type ranges struct {
	least int64 // bytes that are worth it
	piece int64 // bytes of one request
	most  int   // pieces in memory, and so connections at once
}

// With docker's three layers at a time, 30 MiB.
var defaultRanges = ranges{least: 32 << 20, piece: 2 << 20, most: 5}

// pieces is the reader of a blob whose pieces arrive over several connections.
type pieces struct {
	ctx    context.Context // of the pieces; outer is the reader's
	cancel context.CancelFunc
	outer  context.Context
	blob   func(ctx context.Context, at, end int64) *blob
	how    ranges
	at     int64 // of the blob, the next byte to give
	size   int64

	queue   chan *piece // in their order
	free    chan []byte // room for pieces; what is not here is in use
	current *piece
	rest    []byte
	whole   *blob // the server gives no ranges, or no more: the rest, over one connection
}

// piece is a part of the blob on its way.
type piece struct {
	data []byte
	err  error
	done chan struct{} // closed when data is whole, or err says why it never will be
}

// openPieces asks for the first piece, and is told whether there are ranges at all.
func (c *Client) openPieces(ctx context.Context, ref reference.Reference, desc image.Descriptor, offset int64) (io.ReadCloser, error) {
	open := func(ctx context.Context, at, end int64) *blob {
		return &blob{c: c, ctx: ctx, ref: ref, desc: desc, at: at, end: end, mark: at}
	}
	p := &pieces{
		outer: ctx, blob: open, how: c.ranges, at: offset, size: desc.Size,
		queue: make(chan *piece, c.ranges.most), free: make(chan []byte, c.ranges.most),
	}
	p.ctx, p.cancel = context.WithCancel(ctx)
	first := open(p.ctx, offset, min(offset+c.ranges.piece, desc.Size))
	if err := first.open(); err != nil {
		p.cancel()
		return nil, err
	}
	if first.unasked {
		first.end, p.whole = desc.Size, first
		return p, nil
	}
	for range c.ranges.most {
		p.free <- nil
	}
	go p.fetch(first)
	return p, nil
}

// fetch begins one piece after the other, as there is room.
func (p *pieces) fetch(b *blob) {
	defer close(p.queue)
	for {
		var room []byte
		select {
		case room = <-p.free:
		case <-p.ctx.Done():
			_ = b.Close()
			return
		}
		if room == nil {
			room = make([]byte, p.how.piece)
		}
		next := &piece{data: room[:b.end-b.at], done: make(chan struct{})}
		p.queue <- next // there is as much room as there are pieces
		last := b.end == p.size
		at := b.end
		go next.fill(b)
		if last {
			return
		}
		b = p.blob(p.ctx, at, min(at+p.how.piece, p.size))
		b.part = true
	}
}

func (p *piece) fill(b *blob) {
	defer close(p.done)
	_, p.err = io.ReadFull(b, p.data)
	if err := b.Close(); p.err == nil {
		p.err = err
	}
}

func (p *pieces) Read(into []byte) (int, error) {
	if p.whole != nil {
		return p.whole.Read(into)
	}
	if len(into) == 0 {
		return 0, nil
	}
	if p.at == p.size {
		return 0, io.EOF
	}
	if len(p.rest) == 0 {
		if err := p.next(); errors.Is(err, errNoRanges) {
			p.cancel()
			p.whole = p.blob(p.outer, p.at, p.size)
			return p.whole.Read(into)
		} else if err != nil {
			return 0, err
		}
	}
	n := copy(into, p.rest)
	p.rest, p.at = p.rest[n:], p.at+int64(n)
	return n, nil
}

// next waits for the piece whose turn it is.
func (p *pieces) next() error {
	if p.current != nil {
		p.free <- p.current.data[:cap(p.current.data)]
		p.current = nil
	}
	piece, ok := <-p.queue
	if !ok {
		return ended(p.ctx)
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
