package logs

import (
	"encoding/json"
	"time"

	"berth/internal/tail"
)

// Entry is one entry of a log.
type Entry struct {
	Text   string    `json:"log"`
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
}

// Query says which entries are wanted.
type Query struct {
	Tail         int // the last so many; negative: all
	Since, Until time.Time
	// Follow, when not nil, waits for more at the end until it returns false; it is called when nothing is left to read.
	Follow func() bool
}

// Read gives the entries of the log at path, the oldest first, to each.
func Read(path string, maxFiles int, q Query, each func(Entry) error) error {
	skip, err := toSkip(path, maxFiles, q)
	if err != nil {
		return err
	}
	give := func(line []byte) error {
		var e Entry
		if json.Unmarshal(line, &e) != nil {
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
	return tail.Lines(path, maxFiles, q.Follow, give)
}

// toSkip is how many of the wanted entries stand before the last q.Tail ones.
func toSkip(path string, maxFiles int, q Query) (int, error) {
	if q.Tail < 0 {
		return 0, nil
	}
	total := 0
	all := q
	all.Tail, all.Follow = -1, nil
	err := Read(path, maxFiles, all, func(e Entry) error {
		// A long line is several entries; it counts once, at its end.
		total++
		return nil
	})
	return max(0, total-q.Tail), err
}
