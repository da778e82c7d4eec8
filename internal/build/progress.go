package build

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress says what a build does, in the lines of BuildKit's plain progress, which scripts read:
//
//	#5 [2/4] RUN make
//	#5 0.312 cc -c hello.c
//	#5 DONE 1.2s
//
// Where several things are done at once, "#5 ..." says that another one's lines follow.
type Progress struct {
	mu      sync.Mutex // guards what follows
	w       io.Writer
	number  int
	current *Vertex
	some    bool
}

// NewProgress writes to w.
func NewProgress(w io.Writer) *Progress { return &Progress{w: w} }

// Vertex is one thing that is done.
type Vertex struct {
	p       *Progress
	number  int
	title   string
	started time.Time
	streams []*stream
}

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
	p.number++
	v := &Vertex{p: p, number: p.number, title: fmt.Sprintf(format, args...), started: time.Now()}
	v.show()
	return v
}

// show makes v the one whose lines follow. The lock is held.
func (v *Vertex) show() {
	p := v.p
	if p.current == v {
		return
	}
	if p.current != nil {
		fmt.Fprintf(p.w, "#%d ...\n", p.current.number)
	}
	if p.some {
		fmt.Fprintln(p.w)
	}
	p.some, p.current = true, v
	fmt.Fprintf(p.w, "#%d %s\n", v.number, v.title)
}

// Say prints a line.
func (v *Vertex) Say(format string, args ...any) {
	v.p.mu.Lock()
	defer v.p.mu.Unlock()
	v.line(fmt.Sprintf(format, args...))
}

func (v *Vertex) line(text string) {
	v.show()
	fmt.Fprintf(v.p.w, "#%d %s\n", v.number, text)
}

func (s *stream) Write(b []byte) (int, error) {
	s.v.p.mu.Lock()
	defer s.v.p.mu.Unlock()
	s.partial = append(s.partial, b...)
	for {
		line, rest, ok := bytes.Cut(s.partial, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		s.v.printed(line)
		s.partial = append([]byte(nil), rest...)
	}
}

func (v *Vertex) printed(line []byte) {
	v.line(fmt.Sprintf("%.3f %s", time.Since(v.started).Seconds(), bytes.TrimSuffix(line, []byte("\r"))))
}

func (v *Vertex) end(format string, args ...any) {
	v.p.mu.Lock()
	defer v.p.mu.Unlock()
	for _, s := range v.streams {
		if len(s.partial) > 0 {
			v.printed(s.partial)
			s.partial = nil
		}
	}
	v.line(fmt.Sprintf(format, args...))
	v.p.current = nil
}

// Done says that it is done.
func (v *Vertex) Done() { v.end("DONE %.1fs", time.Since(v.started).Seconds()) }

// Cached says that it had been done before.
func (v *Vertex) Cached() { v.end("CACHED") }

// Failed says why it could not be done.
func (v *Vertex) Failed(err error) { v.end("ERROR: %v", err) }

// Canceled says that it is not done any more.
func (v *Vertex) Canceled() { v.end("CANCELED") }
