package logs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2024, 5, 1, 12, 0, 0, 123456789, time.UTC)

func open(t *testing.T, maxBytes int64, maxFiles int) (*Writer, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	w, err := Open(Files{Path: path, MaxBytes: maxBytes, MaxFiles: maxFiles})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w, path
}

func write(t *testing.T, w *Writer, s Stream, text string, at time.Time) {
	t.Helper()
	if err := w.Write(s, []byte(text), at); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string, maxFiles int, q Query) []string {
	t.Helper()
	var got []string
	if err := Read(Files{Path: path, MaxFiles: maxFiles}, q, func(e Entry) error { got = append(got, e.Text); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestEntriesAreDockersJSON(t *testing.T) {
	w, path := open(t, 0, 1)
	write(t, w, Stdout, "hello\n", noon)
	write(t, w, Stderr, "oops\n", noon)
	data, _ := os.ReadFile(path)
	want := `{"log":"hello\n","stream":"stdout","time":"2024-05-01T12:00:00.123456789Z"}` + "\n" +
		`{"log":"oops\n","stream":"stderr","time":"2024-05-01T12:00:00.123456789Z"}` + "\n"
	if string(data) != want {
		t.Errorf("got\n%swant\n%s", data, want)
	}
}

func TestBegunLinesWaitForTheirEndOnEachStream(t *testing.T) {
	w, path := open(t, 0, 1)
	write(t, w, Stdout, "a", noon)
	write(t, w, Stderr, "x\ny", noon)
	write(t, w, Stdout, "b\nc", noon)
	if got := read(t, path, 1, Query{Tail: -1}); !slices.Equal(got, []string{"x\n", "ab\n"}) {
		t.Errorf("before the flush: %q", got)
	}
	if err := w.Flush(noon); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path, 1, Query{Tail: -1}); !slices.Equal(got, []string{"x\n", "ab\n", "c", "y"}) {
		t.Errorf("after the flush: %q", got)
	}
}

func TestLongLinesAreSplit(t *testing.T) {
	for _, length := range []int{maxLine - 2, maxLine - 1, maxLine, maxLine + 1, 3*maxLine + 5} {
		w, path := open(t, 0, 1)
		text := strings.Repeat("x", length) + "\nnext\n"
		write(t, w, Stdout, text, noon)
		got := read(t, path, 1, Query{Tail: -1})
		if strings.Join(got, "") != text {
			t.Errorf("%d bytes: %d entries are not what was written", length, len(got))
		}
		for i, e := range got {
			if len(e) > maxLine {
				t.Errorf("%d bytes: entry %d has %d", length, i, len(e))
			}
		}
	}
}

func TestBytesThatAreNotUTF8AreReplacedAsEncodingJSONDoes(t *testing.T) {
	for _, text := range []string{
		"plain", "\x00\x01\x1f\x7f\t\r\n\"\\/<>&", "ä€😀", "\xff\xfe", "a\xc3", "\xe2\x82", "\xed\xa0\x80", "\u2028\u2029", "\ufffd", "\xf0\x9f\x98\x80\x80",
	} {
		check(t, []byte(text))
	}
}

func check(t *testing.T, text []byte) {
	t.Helper()
	var got Entry
	line := appendJSON(nil, text, Stdout, noon, nil)
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatalf("%q becomes %q: %v", text, line, err)
	}
	marshalled, _ := json.Marshal(string(text))
	var want string
	if err := json.Unmarshal(marshalled, &want); err != nil {
		t.Fatal(err)
	}
	if got.Text != want || bytes.Count(line, []byte("\n")) != 1 {
		t.Errorf("%q becomes %q, want %q", text, got.Text, want)
	}
}

func FuzzEntry(f *testing.F) {
	f.Add([]byte("a\xffb\n"))
	f.Fuzz(func(t *testing.T, text []byte) { check(t, text) })
}

// fill writes n entries, each of which fills a file.
func fill(t *testing.T, w *Writer, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		write(t, w, Stdout, fmt.Sprintf("%d\n", i), noon.Add(time.Duration(i)*time.Second))
	}
}

func TestRotationKeepsTheNewestFiles(t *testing.T) {
	w, path := open(t, 1, 3)
	fill(t, w, 0, 10)
	if got := read(t, path, 3, Query{Tail: -1}); !slices.Equal(got, []string{"7\n", "8\n", "9\n"}) {
		t.Errorf("kept: %q", got)
	}
	files, _ := filepath.Glob(path + "*")
	if len(files) != 3 {
		t.Errorf("files %q", files)
	}
	alone, path := open(t, 1, 1)
	fill(t, alone, 0, 3)
	if got := read(t, path, 1, Query{Tail: -1}); !slices.Equal(got, []string{"2\n"}) {
		t.Errorf("one file keeps %q", got)
	}
}

func TestQuery(t *testing.T) {
	w, path := open(t, 200, 5)
	fill(t, w, 0, 6)
	at := func(i int) time.Time { return noon.Add(time.Duration(i) * time.Second) }
	for _, c := range []struct {
		summary string
		q       Query
		want    string
	}{
		{"All", Query{Tail: -1}, "0 1 2 3 4 5"},
		{"The last two", Query{Tail: 2}, "4 5"},
		{"None", Query{Tail: 0}, ""},
		{"More than there are", Query{Tail: 100}, "0 1 2 3 4 5"},
		{"Since a time, that included", Query{Tail: -1, Since: at(4)}, "4 5"},
		{"Until a time, that included", Query{Tail: -1, Until: at(1)}, "0 1"},
		{"The last of those until a time", Query{Tail: 1, Until: at(3)}, "3"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			got := strings.Join(strings.Fields(strings.Join(read(t, path, 5, c.q), "")), " ")
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	if got := read(t, filepath.Join(t.TempDir(), "none"), 3, Query{Tail: -1}); got != nil {
		t.Errorf("no log has %q", got)
	}
}

func TestFollowAcrossRotation(t *testing.T) {
	w, path := open(t, 1, 3)
	fill(t, w, 0, 1)
	next := 1
	q := Query{Tail: -1, Follow: func() bool {
		if next < 6 {
			fill(t, w, next, 1)
			next++
			return true
		}
		return false
	}}
	if got := read(t, path, 3, q); strings.Join(got, "") != "0\n1\n2\n3\n4\n5\n" {
		t.Errorf("followed: %q", got)
	}
}

func TestFollowWaitsForTheFileAndForTheEndOfALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	line := string(appendJSON(nil, []byte("a\n"), Stdout, noon, nil))
	steps := []string{line[:10], line[10:], line}
	q := Query{Tail: -1, Follow: func() bool {
		if len(steps) == 0 {
			return false
		}
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = f.WriteString(steps[0])
		_ = f.Close()
		steps = steps[1:]
		return true
	}}
	if got := read(t, path, 1, q); !slices.Equal(got, []string{"a\n", "a\n"}) {
		t.Errorf("followed: %q", got)
	}
}

func TestLineCutByACrashIsLeftOutAndSpoilsNoOther(t *testing.T) {
	w, path := open(t, 0, 1)
	write(t, w, Stdout, "before\n", noon)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	_, _ = f.WriteString(`{"log":"cut o`)
	_ = f.Close()
	if got := read(t, path, 1, Query{Tail: -1}); !slices.Equal(got, []string{"before\n"}) {
		t.Errorf("after the crash: %q", got)
	}
	w, err := Open(Files{Path: path, MaxFiles: 1})
	if err != nil {
		t.Fatal(err)
	}
	write(t, w, Stdout, "after\n", noon)
	_ = w.Close()
	if got := read(t, path, 1, Query{Tail: -1}); !slices.Equal(got, []string{"before\n", "after\n"}) {
		t.Errorf("after the next start: %q", got)
	}
}
