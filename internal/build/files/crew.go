package files

import "sync"

// crew does what a copier has to do for the files of one directory: as much of it at once as the copier has room for, and the rest by whoever asks.
type crew struct {
	room    chan struct{}
	working sync.WaitGroup
	mu      sync.Mutex
	err     error // the first one; guarded by mu
}

func (c *copier) newCrew() *crew { return &crew{room: c.room} }

// do does something now or, if there is room, meanwhile.
func (w *crew) do(something func() error) {
	select {
	case w.room <- struct{}{}:
		w.working.Go(func() {
			w.keep(something())
			<-w.room
		})
	default:
		w.keep(something())
	}
}

func (w *crew) keep(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// failed is the first error so far.
func (w *crew) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// wait waits until all is done, and returns the first error.
func (w *crew) wait() error {
	w.working.Wait()
	return w.failed()
}
