package logs

import (
	"sync"
	"time"
)

// Ring writes a log beside whoever prints: what cannot be written quickly enough is left out.
type Ring struct {
	w    *Writer
	most int64
	done chan struct{}

	mu     sync.Mutex // guards what follows
	more   sync.Cond  // something is to be written
	idle   sync.Cond  // nothing is
	queue  []printed
	queued int64 // bytes that are waiting, or being written
	closed bool
	err    error // the first of writing
}

type printed struct {
	stream Stream
	text   []byte
	at     time.Time
}

// NewRing has w written to from a queue of at most so many bytes.
func NewRing(w *Writer, mostBytes int64) *Ring {
	r := &Ring{w: w, most: mostBytes, done: make(chan struct{})}
	r.more.L, r.idle.L = &r.mu, &r.mu
	go r.write()
	return r
}

func (r *Ring) write() {
	defer close(r.done)
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		for len(r.queue) == 0 && !r.closed {
			r.more.Wait()
		}
		if len(r.queue) == 0 {
			return
		}
		p := r.queue[0]
		r.queue = r.queue[1:]
		r.mu.Unlock()
		err := r.w.Write(p.stream, p.text, p.at)
		r.mu.Lock()
		r.queued -= int64(len(p.text)) // it was there while it was written: Begun looks at w only when it is not
		if r.err == nil {
			r.err = err
		}
		if r.queued == 0 {
			r.idle.Broadcast()
		}
	}
}

// Write takes what was printed, or leaves it out if there is no room. The error is one of an earlier write.
func (r *Ring) Write(s Stream, p []byte, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queued > 0 && r.queued+int64(len(p)) > r.most {
		return r.err
	}
	r.queue = append(r.queue, printed{s, append([]byte(nil), p...), now})
	r.queued += int64(len(p))
	r.more.Signal()
	return r.err
}

// Begun reports whether something waits to be written.
func (r *Ring) Begun() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queued > 0 || r.w.Begun()
}

// Flush writes what is waiting, and the begun lines.
func (r *Ring) Flush(now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.queued > 0 {
		r.idle.Wait()
	}
	if r.err == nil {
		r.err = r.w.Flush(now)
	}
	return r.err
}

// Close writes what is waiting and closes the log.
func (r *Ring) Close() error {
	r.mu.Lock()
	r.closed = true
	r.more.Signal()
	r.mu.Unlock()
	<-r.done
	return r.w.Close()
}
