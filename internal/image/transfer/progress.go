package transfer

import (
	"io"
	"sync"
	"time"

	"berth/internal/image"
)

// State is what happens to a layer.
type State uint8

// The states, in the order in which a layer has them.
const (
	Notice      State = iota // Text is a line worth saying
	Resolving                // the name is being resolved; Layer is ""
	Waiting                  // for its turn
	Downloading              // Done of Total bytes are here
	Unpacking                // all bytes are here; Done of Total are unpacked
	Done
	Exists // it was here before

	// Of a push.
	Preparing // whether it is there is not known yet
	Pushing   // Done of Total bytes are sent
	Present   // it was there before
	Mounted   // from the repository Text
	Skipped   // it must not be pushed
	Sent
)

// moves says that there is news within the state.
func (s State) moves() bool { return s == Downloading || s == Unpacking || s == Pushing }

// Event is a piece of news. Layer is the digest of the layer's blob.
type Event struct {
	State       State
	Layer       image.Digest
	Done, Total int64
	Text        string
}

// events passes events on, one at a time, and no more of the frequent ones than anybody can read.
type events struct {
	to func(Event)

	mu    sync.Mutex // held while to is called
	last  map[image.Digest]time.Time
	state map[image.Digest]State
}

const eventPause = 100 * time.Millisecond

func (e *events) emit(ev Event) {
	if e.to == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == nil {
		e.state, e.last = map[image.Digest]State{}, map[image.Digest]time.Time{}
	}
	if ev.Layer != "" {
		// Fetching and unpacking are at work on one layer at the same time; a layer never goes back.
		if was := e.state[ev.Layer]; ev.State < was || ev.State == was && !ev.State.moves() && ev.State > Unpacking {
			return
		}
		now := time.Now()
		if ev.State.moves() && ev.State == e.state[ev.Layer] && ev.Done != ev.Total && now.Sub(e.last[ev.Layer]) < eventPause {
			return
		}
		e.state[ev.Layer], e.last[ev.Layer] = ev.State, now
	}
	e.to(ev)
}

func (e *events) notice(line string) { e.emit(Event{State: Notice, Text: line}) }

// downloading reports on a layer; a config is no layer, and not reported since nobody said Waiting for it.
func (e *events) downloading(desc image.Descriptor, done int64) {
	if e.to == nil {
		return
	}
	e.mu.Lock()
	_, known := e.state[desc.Digest]
	e.mu.Unlock()
	if known {
		e.emit(Event{State: Downloading, Layer: desc.Digest, Done: done, Total: desc.Size})
	}
}

// watch reports what r reads once all of the blob has arrived: before, the download is the news.
func (e *events) watch(r *follower) io.ReadCloser {
	if e.to == nil {
		return r
	}
	return &watcher{r, e}
}

type watcher struct {
	*follower
	events *events
}

func (w *watcher) Read(p []byte) (int, error) {
	n, err := w.follower.Read(p)
	if n > 0 && w.f.complete() {
		w.events.emit(Event{State: Unpacking, Layer: w.f.desc.Digest, Done: w.at, Total: w.f.desc.Size})
	}
	return n, err
}

func (w *watcher) Close() error {
	if w.at == w.f.desc.Size && w.f.complete() {
		w.events.emit(Event{State: Done, Layer: w.f.desc.Digest, Done: w.at, Total: w.at})
	}
	return w.follower.Close()
}

// complete reports whether all of the blob is here and verified.
func (f *fetch) complete() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done
}
