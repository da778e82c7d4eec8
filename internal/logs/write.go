// Package logs writes and reads what containers print: in docker's json-file format, a JSON object a line with the text, the stream and
// the time, or as plain lines with the same. Files are bounded and rotated, and those that have been rotated may be compressed.
//
// It copies no streams and follows no container's life: the monitor writes, and a reader that follows is told by its
// caller when there will be no more. It compresses nothing in the process that writes, and sends nothing anywhere (logs/forward).
package logs

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"
	"unicode/utf8"

	"berth/internal/tail"
)

// Stream is where a text was printed.
type Stream byte

const (
	Stdout Stream = 1
	Stderr Stream = 2
)

func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// maxLine is the longest text of one entry; docker's. A longer line becomes several entries, all but the last without a
// line feed.
const maxLine = 16 << 10

// Format is how an entry is written.
type Format byte

const (
	// JSON is docker's json-file: {"log":"…\n","stream":"stdout","time":"…"}.
	JSON Format = iota
	// Text is that of the kubelet's logs: time, stream, F or P for a text with or without a line feed at its end, and the text, with
	// a space between. It keeps every byte.
	Text
)

// Files are the files of a log: Path is written to, and rotated to Path.1, Path.2, … when it has more than MaxBytes.
type Files struct {
	Path     string
	Format   Format
	MaxBytes int64 // of one; 0: no bound
	MaxFiles int
	Compress bool // those that have been rotated
}

// Writer appends to the log of one container. It is not for several goroutines at once.
type Writer struct {
	// Attributes are said with every entry, if the format can.
	Attributes map[string]string
	// BeforeRotation is called when the oldest file is about to go, AfterRotation when Path.1 is one that nobody writes to any more.
	// Both may be nil.
	BeforeRotation, AfterRotation func() error

	Files
	f       *os.File
	size    int64
	partial [3][]byte // the begun line of each stream
	out     []byte
}

// Open opens a log. One that is not there is made when there is something to write.
func Open(files Files) (*Writer, error) {
	w := &Writer{Files: files}
	err := w.open(0)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return w, err
}

// open opens the file; create is os.O_CREATE to make one that is not there.
func (w *Writer) open(create int) error {
	f, err := os.OpenFile(w.Path, os.O_WRONLY|os.O_APPEND|create, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.f, w.size = f, st.Size()
	return w.mend()
}

// mend ends a line that was cut off by a crash, so that the next entry stands by itself.
func (w *Writer) mend() error {
	if w.size == 0 {
		return nil
	}
	r, err := os.Open(w.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	var last [1]byte
	if _, err := r.ReadAt(last[:], w.size-1); err != nil || last[0] == '\n' {
		return err
	}
	n, err := w.f.Write([]byte{'\n'})
	w.size += int64(n)
	return err
}

// Write takes what was printed on a stream at a time. Whole lines are written at once; a begun one waits for its end, or
// for Flush.
func (w *Writer) Write(s Stream, p []byte, now time.Time) error {
	w.out = w.out[:0]
	for len(p) > 0 {
		if w.MaxBytes > 0 && int64(len(w.out)) >= w.MaxBytes { // small files of many short lines
			if err := w.flush(); err != nil {
				return err
			}
			w.out = w.out[:0]
		}
		line := p
		end := bytes.IndexByte(p, '\n') + 1
		if end > 0 {
			line = p[:end]
		}
		if room := maxLine - len(w.partial[s]); len(line) >= room {
			line, end = p[:room], room
		}
		p = p[len(line):]
		if end == 0 {
			w.partial[s] = append(w.partial[s], line...)
			break
		}
		if len(w.partial[s]) > 0 {
			w.partial[s] = append(w.partial[s], line...)
			w.out = w.entry(w.partial[s], s, now)
			w.partial[s] = w.partial[s][:0]
			continue
		}
		w.out = w.entry(line, s, now)
	}
	return w.flush()
}

// Begun reports whether a line waits for its end.
func (w *Writer) Begun() bool { return len(w.partial[Stdout])+len(w.partial[Stderr]) > 0 }

// Flush writes the begun lines.
func (w *Writer) Flush(now time.Time) error {
	w.out = w.out[:0]
	for _, s := range []Stream{Stdout, Stderr} {
		if len(w.partial[s]) > 0 {
			w.out = w.entry(w.partial[s], s, now)
			w.partial[s] = nil
		}
	}
	return w.flush()
}

func (w *Writer) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	if w.MaxBytes > 0 && w.size > 0 && w.size+int64(len(w.out)) > w.MaxBytes {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	if w.f == nil {
		if err := w.open(os.O_CREATE); err != nil {
			return err
		}
	}
	n, err := w.f.Write(w.out)
	w.size += int64(n)
	if cap(w.out) > 1<<20 {
		w.out = nil
	}
	return err
}

// rotate makes path path.1, path.1 path.2 and so on; the oldest goes.
func (w *Writer) rotate() error {
	if w.BeforeRotation != nil {
		if err := w.BeforeRotation(); err != nil {
			return err
		}
	}
	if err := w.f.Close(); err != nil {
		return err
	}
	w.f = nil
	oldest := tail.Rotated(w.Path, w.MaxFiles-1)
	if err := errors.Join(remove(oldest), remove(oldest+tail.Compressed)); err != nil {
		return err
	}
	for i := w.MaxFiles - 2; i >= 0; i-- {
		for _, suffix := range []string{"", tail.Compressed} {
			if err := os.Rename(tail.Rotated(w.Path, i)+suffix, tail.Rotated(w.Path, i+1)+suffix); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
	}
	if err := w.open(os.O_CREATE); err != nil || w.AfterRotation == nil {
		return err
	}
	return w.AfterRotation()
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// Close writes the begun lines and closes the file.
func (w *Writer) Close() error {
	err := w.Flush(time.Now())
	if w.f == nil {
		return err
	}
	return errors.Join(err, w.f.Close())
}

// entry appends an entry to what is to be written.
func (w *Writer) entry(line []byte, s Stream, now time.Time) []byte {
	if w.Format == Text {
		return appendText(w.out, line, s, now)
	}
	return appendJSON(w.out, line, s, now, w.Attributes)
}

// appendJSON appends one entry: {"log":"…\n","stream":"stdout","attrs":{…},"time":"…"}. Bytes that are not UTF-8 become U+FFFD, as
// docker's do.
func appendJSON(b, line []byte, s Stream, now time.Time, attributes map[string]string) []byte {
	b = append(b, `{"log":"`...)
	b = appendEscaped(b, line)
	b = append(b, `","stream":"`...)
	b = append(b, s.String()...)
	b = append(b, '"')
	for i, name := range slices.Sorted(maps.Keys(attributes)) {
		if i == 0 {
			b = append(b, `,"attrs":{"`...)
		} else {
			b = append(b, `,"`...)
		}
		b = appendEscaped(b, []byte(name))
		b = append(b, `":"`...)
		b = appendEscaped(b, []byte(attributes[name]))
		b = append(b, '"')
		if i == len(attributes)-1 {
			b = append(b, '}')
		}
	}
	b = append(b, `,"time":"`...)
	b = now.UTC().AppendFormat(b, time.RFC3339Nano)
	return append(b, "\"}\n"...)
}

func appendText(b, line []byte, s Stream, now time.Time) []byte {
	b = now.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, ' ')
	b = append(b, s.String()...)
	if text, ended := bytes.CutSuffix(line, []byte{'\n'}); ended {
		b = append(b, " F "...)
		b = append(b, text...)
	} else {
		b = append(b, " P "...)
		b = append(b, line...)
	}
	return append(b, '\n')
}

func appendEscaped(b, text []byte) []byte {
	const hex = "0123456789abcdef"
	start := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, text[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 || r == '\u2028' || r == '\u2029' {
			b = append(b, text[start:i]...)
			if n == 1 {
				b = append(b, `\ufffd`...)
			} else {
				b = append(b, '\\', 'u', '2', '0', '2', hex[r&15])
			}
			start = i + n
		}
		i += n
	}
	return append(b, text[start:]...)
}
