package build

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// screen shows a build on a terminal, as BuildKit does: a table that is drawn again and again in its place.
//
//	[+] Building 3.2s (5/7)
//	 => CACHED [2/4] RUN make                     0.0s
//	 => [3/4] RUN make test                       2.1s
//	 => => # ok  berth/internal/build
type screen struct {
	w       io.Writer
	size    func() (columns, rows int)
	colours bool
	all     []*Vertex
	begun   time.Time
	drawn   int // lines
}

// drawEvery is how often the table is drawn.
const drawEvery = 100 * time.Millisecond

// NewScreenProgress shows what happens on a terminal of that size, with colours or without. end draws it for the last time.
func NewScreenProgress(w io.Writer, size func() (columns, rows int), colours bool) (p *Progress, end func()) {
	s := &screen{w: w, size: size, colours: colours, begun: time.Now()}
	p = &Progress{show: s}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(drawEvery)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				p.mu.Lock()
				s.draw(false)
				p.mu.Unlock()
			}
		}
	}()
	return p, func() {
		close(stop)
		<-stopped
		p.mu.Lock()
		defer p.mu.Unlock()
		s.draw(true)
	}
}

func (s *screen) began(v *Vertex)             { s.all = append(s.all, v) }
func (s *screen) said(v *Vertex, text string) { v.keep(" => => " + text) }
func (s *screen) printed(v *Vertex, line []byte) {
	v.keep(" => => # " + string(line))
}
func (s *screen) ended(*Vertex) {}

func (s *screen) paused(over bool) io.Writer {
	if !over {
		s.draw(false)
	}
	s.drawn = 0 // what was drawn has moved
	return s.w
}

// keptLines is how many of a vertex's lines are kept: as many as are shown when it fails.
const keptLines = 20

func (v *Vertex) keep(line string) {
	if v.lines = append(v.lines, line); len(v.lines) > keptLines {
		v.lines = v.lines[1:]
	}
}

// shownLines is how many of the last lines of something that is being done are shown.
const shownLines = 6

// draw draws the table over itself. It is never higher than the terminal, unless it is the last one.
func (s *screen) draw(last bool) {
	columns, rows := s.size()
	lines := s.lines(columns, last)
	if limit := max(rows-1, 2); !last && len(lines) > limit {
		lines = append(lines[:1:1], lines[len(lines)-limit+1:]...)
	}
	var out bytes.Buffer
	if s.drawn > 0 {
		fmt.Fprintf(&out, "\x1b[%dA", s.drawn)
	}
	for _, l := range lines {
		out.WriteString("\r\x1b[K" + l + "\n")
	}
	out.WriteString("\x1b[J")
	s.drawn = len(lines)
	_, _ = s.w.Write(out.Bytes())
}

// lines are the table.
func (s *screen) lines(columns int, last bool) []string {
	done := 0
	for _, v := range s.all {
		if !v.finished.IsZero() {
			done++
		}
	}
	state, colour := "", "34"
	if last {
		state = " FINISHED"
		for _, v := range s.all {
			if v.err != nil {
				state, colour = "", "31"
			}
		}
	}
	lines := []string{s.paint(colour, fmt.Sprintf("[+] Building %.1fs (%d/%d)%s", time.Since(s.begun).Seconds(), done, len(s.all), state))}
	for _, v := range s.all {
		took, title, paint := time.Since(v.started), v.title, ""
		if !v.finished.IsZero() {
			took, paint = v.finished.Sub(v.started), "34"
		}
		switch {
		case v.cached:
			title = "CACHED " + title
		case v.err == errCanceled:
			title, paint = "CANCELED "+title, "33"
		case v.err != nil:
			title, paint = "ERROR "+title, "31"
		}
		lines = append(lines, s.paint(paint, row(" => "+title, fmt.Sprintf("%.1fs", took.Seconds()), columns)))
		switch {
		case v.finished.IsZero():
			for _, l := range v.lines[max(0, len(v.lines)-shownLines):] {
				lines = append(lines, s.paint("2", clipped(l, columns-1)))
			}
		}
	}
	if !last {
		return lines
	}
	for _, v := range s.all {
		if v.err != nil && v.err != errCanceled && len(v.lines) > 0 {
			lines = append(lines, "------", " > "+clean(v.title)+":")
			for _, l := range v.lines {
				lines = append(lines, clean(strings.TrimPrefix(strings.TrimPrefix(l, " => => # "), " => => ")))
			}
			lines = append(lines, "------")
		}
	}
	return lines
}

func (s *screen) paint(colour, text string) string {
	if !s.colours || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// row puts a text to the left and another to the right of a line.
func row(left, right string, columns int) string {
	width := columns - len(right) - 1
	left = clipped(left, max(width-1, 1))
	return left + strings.Repeat(" ", max(1, width-utf8.RuneCountInString(left))) + right
}

// clipped is a text that fits into a line, and does to the terminal nothing but print.
func clipped(text string, columns int) string {
	text = clean(text)
	if utf8.RuneCountInString(text) <= columns {
		return text
	}
	return string([]rune(text)[:max(columns, 0)])
}

func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, text)
}
