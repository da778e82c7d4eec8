package logs

import (
	"encoding/json"
	"strings"
	"time"

	"berth/internal/tail"
)

// Entry is one entry of a log.
type Entry struct {
	Text   string    `json:"log"`
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
	// Attributes are labels, variables and a tag, if they were asked for.
	Attributes map[string]string `json:"attrs"`
}

// parse reads an entry; false says that it is none, or only part of one.
func (f Format) parse(line []byte) (e Entry, ok bool) {
	if f == JSON {
		return e, json.Unmarshal(line, &e) == nil
	}
	at, rest, _ := strings.Cut(string(line), " ")
	stream, rest, _ := strings.Cut(rest, " ")
	kind, text, ok := strings.Cut(rest, " ")
	t, err := time.Parse(time.RFC3339Nano, at)
	if !ok || err != nil || kind != "F" && kind != "P" {
		return e, false
	}
	if kind == "P" {
		text = strings.TrimSuffix(text, "\n")
	}
	return Entry{Text: text, Stream: stream, Time: t}, true
}

// Query says which entries are wanted.
type Query struct {
	Tail         int // the last so many; negative: all
	Since, Until time.Time
	// Follow, when not nil, waits for more at the end until it returns false; it is called when nothing is left to read.
	Follow func() bool
}

// Read gives the entries of a log, the oldest first, to each.
func Read(f Files, q Query, each func(Entry) error) error {
	skip, err := toSkip(f, q)
	if err != nil {
		return err
	}
	give := func(line []byte) error {
		e, ok := f.Format.parse(line)
		if !ok {
			return nil // cut off by a crash
		}
		if e.Time.Before(q.Since) || !q.Until.IsZero() && e.Time.After(q.Until) {
			return nil
		}
		if skip > 0 {
			skip--
			return nil
		}
		return each(e)
	}
	return tail.Lines(f.Path, f.MaxFiles, q.Follow, give)
}

// Unsent gives the entries that follow a position, and where to go on after each, as long as wait says so; see tail.LinesFrom.
func Unsent(f Files, from tail.Position, wait tail.Wait, each func(Entry, tail.Position) error) error {
	return tail.LinesFrom(f.Path, f.MaxFiles, from, wait, func(line []byte, next tail.Position) error {
		if e, ok := f.Format.parse(line); ok {
			return each(e, next)
		}
		return nil
	})
}

// toSkip is how many of the wanted entries stand before the last q.Tail ones.
func toSkip(f Files, q Query) (int, error) {
	if q.Tail < 0 {
		return 0, nil
	}
	total := 0
	all := q
	all.Tail, all.Follow = -1, nil
	err := Read(f, all, func(e Entry) error {
		// A long line is several entries; it counts once, at its end.
		total++
		return nil
	})
	return max(0, total-q.Tail), err
}
