package forward

import (
	"sync"

	"berth/internal/logs"
	"berth/internal/tail"
)

// buffer holds what waits to be sent; what there is no room for is left out.
type buffer struct {
	most int64

	mu    sync.Mutex // guards what follows
	more  sync.Cond
	queue []waiting
	bytes int64
	ended bool
}

type waiting struct {
	entry logs.Entry
	next  tail.Position
}

func newBuffer(most int64) *buffer {
	b := &buffer{most: most}
	b.more.L = &b.mu
	return b
}

func (b *buffer) put(e logs.Entry, next tail.Position) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	size := int64(len(e.Text))
	if len(b.queue) > 0 && b.bytes+size > b.most {
		return nil
	}
	b.queue, b.bytes = append(b.queue, waiting{e, next}), b.bytes+size
	b.more.Signal()
	return nil
}

func (b *buffer) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.more.Signal()
}

// empty sends what is put, until the end or an error.
func (b *buffer) empty(send func(logs.Entry, tail.Position) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		for len(b.queue) == 0 && !b.ended {
			b.more.Wait()
		}
		if len(b.queue) == 0 {
			return nil
		}
		w := b.queue[0]
		b.mu.Unlock()
		err := send(w.entry, w.next)
		b.mu.Lock()
		if err != nil {
			return err
		}
		b.queue, b.bytes = b.queue[1:], b.bytes-int64(len(w.entry.Text))
	}
}
