package transfer

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"berth/internal/image"
	"berth/internal/image/reference"
	"berth/internal/image/registry"
)

// Renderer writes a pull as docker shows it: plain lines, or bars that move on a terminal. Its Event is an
// Options.Progress.
type Renderer struct {
	w    io.Writer
	size func() (columns, rows int) // nil when w is no terminal
	json *json.Encoder              // unless it is nil: of docker's messages

	mu    sync.Mutex
	order []image.Digest
	last  map[image.Digest]Event
	drawn int // lines of the terminal that are ours
	at    time.Time
}

// NewRenderer returns a renderer for a pull of ref; size tells the terminal's size, and is nil when w is none.
func NewRenderer(w io.Writer, size func() (columns, rows int)) *Renderer {
	return &Renderer{w: w, size: size, last: map[image.Digest]Event{}}
}

// NewJSONRenderer returns a renderer that writes one line of JSON for each piece of news, in the form of docker's API.
func NewJSONRenderer(w io.Writer) *Renderer {
	return &Renderer{w: w, last: map[image.Digest]Event{}, json: json.NewEncoder(w)}
}

// message is docker's: what happens to a layer, and how far it has got.
type message struct {
	Status string  `json:"status"`
	ID     string  `json:"id,omitempty"`
	Detail *detail `json:"progressDetail,omitempty"`
}

type detail struct {
	Current int64 `json:"current"`
	Total   int64 `json:"total"`
}

// jsonWord is what docker calls a state.
func (e Event) jsonWord() string {
	switch e.State {
	case Downloading:
		return "Downloading"
	case Unpacking:
		return "Extracting"
	case Pushing:
		return "Pushing"
	}
	return e.word(e.State.plainWord())
}

// Say shows a line of its own.
func (r *Renderer) Say(line string) { r.print("%s\n", line) }

// Begin says what is pulled.
func (r *Renderer) Begin(ref reference.Reference) {
	what := ref.Tag
	if ref.Digest != "" {
		what = ref.String()
	}
	r.print("%s: Pulling from %s\n", what, ref.Path)
}

// BeginPush says where to things are pushed.
func (r *Renderer) BeginPush(ref reference.Reference) {
	r.print("The push refers to repository [%s]\n", ref.Repository())
}

// EndPush says what is there now.
func (r *Renderer) EndPush(ref reference.Reference, pushed Pushed) {
	r.Fail()
	name := ref.Tag
	if name == "" {
		name = string(pushed.Digest)
	}
	r.print("%s: digest: %s size: %d\n", name, pushed.Digest, pushed.Size)
}

// End says how it ended well.
func (r *Renderer) End(ref reference.Reference, result Result) {
	r.Fail()
	status := "Image is up to date for"
	if result.Newer {
		status = "Downloaded newer image for"
	}
	r.print("Digest: %s\nStatus: %s %s\n", result.Digest, status, ref.Familiar())
}

// Fail leaves the terminal in order before something is printed below.
func (r *Renderer) Fail() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.size != nil && len(r.order) > 0 {
		r.draw()
	}
	r.drawn = 0
}

func (r *Renderer) print(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.json != nil {
		for line := range strings.Lines(fmt.Sprintf(format, args...)) {
			_ = r.json.Encode(message{Status: strings.TrimSpace(line)})
		}
		return
	}
	_, _ = fmt.Fprintf(r.w, format, args...) // a closed stderr must not stop a pull
}

// Event shows one event.
func (r *Renderer) Event(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.json != nil {
		switch {
		case e.State == Notice:
			_ = r.json.Encode(message{Status: e.Text})
		case e.Layer != "":
			m := message{Status: e.jsonWord(), ID: e.Layer.Short()}
			if e.State.moves() {
				m.Detail = &detail{e.Done, e.Total}
			}
			_ = r.json.Encode(m)
		}
		return
	}
	if e.State == Notice {
		r.erase()
		_, _ = fmt.Fprintf(r.w, "%s\n", e.Text)
		if r.size != nil {
			r.draw()
		}
		return
	}
	if e.Layer == "" {
		return
	}
	before, known := r.last[e.Layer]
	if !known {
		r.order = append(r.order, e.Layer)
	}
	r.last[e.Layer] = e
	changed := !known || before.State != e.State
	switch {
	case r.size == nil && changed && e.State.plainWord() != "":
		_, _ = fmt.Fprintf(r.w, "%s: %s\n", e.Layer.Short(), e.word(e.State.plainWord()))
	case r.size != nil && (changed || time.Since(r.at) >= eventPause):
		r.draw()
	}
}

// plainWord is what a log says of a state. Docker, too, is silent about what merely goes on.
func (s State) plainWord() string {
	switch s {
	case Waiting:
		return "Pulling fs layer"
	case Unpacking:
		return "Download complete"
	case Done:
		return "Pull complete"
	case Exists:
		return "Already exists"
	case Preparing:
		return "Preparing"
	case Present:
		return "Layer already exists"
	case Mounted:
		return "Mounted from"
	case Skipped:
		return "Skipped foreign layer"
	case Sent:
		return "Pushed"
	}
	return ""
}

func (e Event) word(s string) string {
	if e.State == Mounted {
		s += " " + registry.OneLine(e.Text)
	}
	return s
}

// over says that nothing more happens to a layer.
func (s State) over() bool {
	return s == Done || s == Exists || s >= Present
}

// erase takes our lines away.
func (r *Renderer) erase() {
	if r.drawn > 0 {
		_, _ = fmt.Fprintf(r.w, "\x1b[%dA\x1b[J", r.drawn)
	}
	r.drawn = 0
}

// draw writes a line a layer. When they are more than the terminal has rows, those that are done go first, and the
// rest is counted: a line that scrolled away could not be changed any more.
func (r *Renderer) draw() {
	columns, rows := r.size()
	room := max(rows-2, 1)
	show := r.order
	hidden := 0
	if len(show) > room {
		show = nil
		for _, layer := range r.order {
			if !r.last[layer].State.over() && len(show) < room-1 {
				show = append(show, layer)
			}
		}
		hidden = len(r.order) - len(show)
	}
	var b strings.Builder
	if r.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", r.drawn)
	}
	for _, layer := range show {
		b.WriteString(clip(layer.Short()+": "+liveWord(r.last[layer], columns), columns))
		b.WriteByte('\n')
	}
	r.drawn = len(show)
	if hidden > 0 {
		done := 0
		for _, e := range r.last {
			if e.State.over() {
				done++
			}
		}
		b.WriteString(clip(fmt.Sprintf("%d of %d layers complete", done, len(r.order)), columns) + "\n")
		r.drawn++
	}
	_, _ = io.WriteString(r.w, b.String())
	r.at = time.Now()
}

func clip(line string, columns int) string {
	if columns > 0 && len(line) > columns {
		return line[:columns]
	}
	return line
}

func liveWord(e Event, columns int) string {
	switch e.State {
	case Waiting:
		return "Waiting"
	case Downloading:
		return "Downloading " + bar(e.Done, e.Total, columns)
	case Unpacking:
		return "Extracting  " + bar(e.Done, e.Total, columns)
	case Done:
		return "Pull complete"
	case Exists:
		return "Already exists"
	case Pushing:
		return "Pushing " + bar(e.Done, e.Total, columns)
	}
	return e.word(e.State.plainWord())
}

// bar is docker's bar of fifty places, or as many as a narrow terminal has.
func bar(done, total int64, columns int) string {
	counts := megabytes(done) + "/" + megabytes(total)
	width := min(50, columns-len("0123456789ab: Downloading [] ")-len(counts))
	if width < 10 || total <= 0 {
		return counts
	}
	full := int(float64(width) * min(float64(done)/float64(total), 1))
	line := strings.Repeat("=", full)
	if full < width {
		line += ">"
	}
	return fmt.Sprintf("[%-*s] %s", width, line[:min(len(line), width)], counts)
}

// megabytes is a size with docker's decimal units.
func megabytes(n int64) string {
	f := float64(n)
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		if f < 1000 {
			return fmt.Sprintf("%.4g%s", f, unit)
		}
		f /= 1000
	}
	return fmt.Sprintf("%.4gTB", f)
}
