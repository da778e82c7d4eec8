package build

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"berth/internal/image"
)

// Progress says what a build does.
type Progress struct {
	mu   sync.Mutex // guards what follows, and all of the vertices
	show display
	all  []*Vertex
}

// display shows what happens to vertices. It is called with the lock of the progress held.
type display interface {
	began(v *Vertex)
	said(v *Vertex, text string)
	printed(v *Vertex, line []byte)
	ended(v *Vertex)
	// paused says that something else is written for a while, and to where; and again when that is over.
	paused(over bool) io.Writer
}

// Pause shows nothing while something else is written where the progress is.
func (p *Progress) Pause(do func(io.Writer)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do(p.show.paused(false))
	p.show.paused(true)
}

// Vertex is one thing that is done.
type Vertex struct {
	p        *Progress
	number   int
	title    string
	started  time.Time
	streams  []*stream
	finished time.Time // zero: it is still being done
	how      string    // DONE 1.2s, CACHED, ERROR: …, CANCELED
	err      error
	cached   bool
	lines    []string // what was said, and printed, last
}

// NewProgress writes the lines of BuildKit's plain progress to w, which scripts read:
//
//	#5 [2/4] RUN make
//	#5 0.312 cc -c hello.c
//	#5 DONE 1.2s
//
// Where several things are done at once, "#5 ..." says that another one's lines follow.
func NewProgress(w io.Writer) *Progress { return &Progress{show: &plainDisplay{w: w}} }

// NewJSONProgress writes what BuildKit's rawjson progress has: one JSON object a line.
func NewJSONProgress(w io.Writer) *Progress { return &Progress{show: &jsonDisplay{json.NewEncoder(w)}} }

// stream is one stream of a command's output.
type stream struct {
	v       *Vertex
	partial []byte // of a line
}

// Stream takes what a command prints to one of its streams: each line with the seconds since it was begun.
func (v *Vertex) Stream() io.Writer {
	v.p.mu.Lock()
	defer v.p.mu.Unlock()
	s := &stream{v: v}
	v.streams = append(v.streams, s)
	return s
}

// Begin begins something.
func (p *Progress) Begin(format string, args ...any) *Vertex {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := &Vertex{p: p, number: len(p.all) + 1, title: fmt.Sprintf(format, args...), started: time.Now()}
	p.all = append(p.all, v)
	p.show.began(v)
	return v
}

// Say prints a line.
func (v *Vertex) Say(format string, args ...any) {
	v.p.mu.Lock()
	defer v.p.mu.Unlock()
	v.p.show.said(v, fmt.Sprintf(format, args...))
}

// maxLine bounds what is kept of a line that does not end, in bytes.
const maxLine = 64 << 10

func (s *stream) Write(b []byte) (int, error) {
	s.v.p.mu.Lock()
	defer s.v.p.mu.Unlock()
	s.partial = append(s.partial, b...)
	for {
		line, rest, ok := bytes.Cut(s.partial, []byte("\n"))
		if !ok && len(s.partial) < maxLine {
			return len(b), nil
		}
		s.v.p.show.printed(s.v, bytes.TrimSuffix(line, []byte("\r")))
		s.partial = append([]byte(nil), rest...)
	}
}

func (v *Vertex) end(err error, cached bool, format string, args ...any) {
	v.p.mu.Lock()
	defer v.p.mu.Unlock()
	for _, s := range v.streams {
		if len(s.partial) > 0 {
			v.p.show.printed(v, s.partial)
			s.partial = nil
		}
	}
	v.finished, v.how, v.err, v.cached = time.Now(), fmt.Sprintf(format, args...), err, cached
	v.p.show.ended(v)
}

// Done says that it is done.
func (v *Vertex) Done() { v.end(nil, false, "DONE %.1fs", time.Since(v.started).Seconds()) }

// Cached says that it had been done before.
func (v *Vertex) Cached() { v.end(nil, true, "CACHED") }

// Failed says why it could not be done.
func (v *Vertex) Failed(err error) { v.end(err, false, "ERROR: %v", err) }

// Canceled says that it is not done any more.
func (v *Vertex) Canceled() { v.end(errCanceled, false, "CANCELED") }

var errCanceled = fmt.Errorf("canceled")

type plainDisplay struct {
	w       io.Writer
	current *Vertex
	some    bool
}

// begin makes v the one whose lines follow.
func (d *plainDisplay) begin(v *Vertex) {
	if d.current == v {
		return
	}
	if d.current != nil {
		fmt.Fprintf(d.w, "#%d ...\n", d.current.number)
	}
	if d.some {
		fmt.Fprintln(d.w)
	}
	d.some, d.current = true, v
	fmt.Fprintf(d.w, "#%d %s\n", v.number, v.title)
}

func (d *plainDisplay) began(v *Vertex) { d.begin(v) }

func (d *plainDisplay) said(v *Vertex, text string) {
	d.begin(v)
	fmt.Fprintf(d.w, "#%d %s\n", v.number, text)
}

func (d *plainDisplay) printed(v *Vertex, line []byte) {
	d.said(v, fmt.Sprintf("%.3f %s", time.Since(v.started).Seconds(), line))
}

func (d *plainDisplay) ended(v *Vertex) {
	d.said(v, v.how)
	d.current = nil
}

func (d *plainDisplay) paused(bool) io.Writer { return d.w }
func (d *jsonDisplay) paused(bool) io.Writer  { return io.Discard }

type jsonDisplay struct{ to *json.Encoder }

// What BuildKit's client has in a status of a build (client/graph.go).
type (
	jsonStatus struct {
		Vertexes []jsonVertex `json:"vertexes,omitempty"`
		Statuses []jsonState  `json:"statuses,omitempty"`
		Logs     []jsonLog    `json:"logs,omitempty"`
	}
	jsonVertex struct {
		Digest    image.Digest `json:"digest"`
		Name      string       `json:"name"`
		Started   *time.Time   `json:"started,omitempty"`
		Completed *time.Time   `json:"completed,omitempty"`
		Cached    bool         `json:"cached,omitempty"`
		Error     string       `json:"error,omitempty"`
	}
	jsonState struct {
		ID        string       `json:"id"`
		Vertex    image.Digest `json:"vertex"`
		Name      string       `json:"name"`
		Timestamp time.Time    `json:"timestamp"`
	}
	jsonLog struct {
		Vertex    image.Digest `json:"vertex"`
		Stream    int          `json:"stream"`
		Data      []byte       `json:"data"`
		Timestamp time.Time    `json:"timestamp"`
	}
)

func (v *Vertex) digest() image.Digest {
	return image.DigestOf(fmt.Appendf(nil, "%d %s", v.number, v.title))
}

func (d *jsonDisplay) vertex(v *Vertex) {
	out := jsonVertex{Digest: v.digest(), Name: v.title, Started: &v.started, Cached: v.cached}
	if !v.finished.IsZero() {
		out.Completed = &v.finished
	}
	if v.err != nil {
		out.Error = v.err.Error()
	}
	_ = d.to.Encode(jsonStatus{Vertexes: []jsonVertex{out}})
}

func (d *jsonDisplay) began(v *Vertex) { d.vertex(v) }
func (d *jsonDisplay) ended(v *Vertex) { d.vertex(v) }

func (d *jsonDisplay) said(v *Vertex, text string) {
	_ = d.to.Encode(jsonStatus{Statuses: []jsonState{{text, v.digest(), text, time.Now()}}})
}

func (d *jsonDisplay) printed(v *Vertex, line []byte) {
	_ = d.to.Encode(jsonStatus{Logs: []jsonLog{{v.digest(), 1, append(line, '\n'), time.Now()}}})
}
