package event

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func read(t *testing.T, j Journal) []Event {
	t.Helper()
	var got []Event
	if err := j.Read(nil, func(e Event) error { got = append(got, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWhatIsAppendedIsRead(t *testing.T) {
	j := In(t.TempDir())
	if got := read(t, j); got != nil {
		t.Errorf("an empty journal has %v", got)
	}
	at := time.Unix(1, 2)
	e := Event{Container, "exec_create: sh -c \"a\nb\"", "id", map[string]string{"name": "ü\x00\xff", "é": `"\`}, at}
	if err := j.Append(e, Event{Type: Image, Action: "pull"}); err != nil {
		t.Fatal(err)
	}
	got := read(t, j)
	if len(got) != 2 || got[0].Action != e.Action || got[0].Attributes["é"] != `"\` || !got[0].Time.Equal(at) || got[1].Type != Image || time.Since(got[1].Time) > time.Minute {
		t.Errorf("read %+v", got)
	}
}

func TestTornLineSpoilsNoOther(t *testing.T) {
	j := In(t.TempDir())
	append1 := func(action string) {
		if err := j.Append(Event{Type: Container, Action: action}); err != nil {
			t.Fatal(err)
		}
	}
	append1("one")
	f, err := os.OpenFile(j.path(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString("\n{\"Type\":\"container\",\"Act")
	_ = f.Close()
	append1("two")
	if got := read(t, j); len(got) != 2 || got[1].Action != "two" {
		t.Errorf("read %+v", got)
	}
}

func TestManyWritersAndAReaderWhileFilesRotate(t *testing.T) {
	j := In(t.TempDir())
	const writers, each = 4, 1000
	padding := strings.Repeat("x", 1000) // 4.8 MB: the file is rotated more than once
	w, err := j.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			for i := range each {
				if err := j.Append(Event{Type: Container, Action: "start", ID: fmt.Sprint(n, " ", i), Attributes: map[string]string{"p": padding}}); err != nil {
					t.Error(err)
				}
				if i%4 == 0 {
					time.Sleep(time.Millisecond) // a reader reads faster than anything happens
				}
			}
		})
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	last := map[string]int{}
	count := 0
	err = j.Read(func() bool {
		w.Wait(t.Context(), 10*time.Millisecond)
		select {
		case <-over:
			return false
		default:
			return true
		}
	}, func(e Event) error {
		var n string
		var i int
		if _, err := fmt.Sscan(e.ID, &n, &i); err != nil {
			t.Errorf("%q: %v", e.ID, err)
		}
		if i != last[n] {
			t.Errorf("writer %s: %d comes where %d should", n, i, last[n])
		}
		last[n], count = i+1, count+1
		return nil
	})
	if err != nil || count != writers*each {
		t.Errorf("%d events of %d: %v", count, writers*each, err)
	}
	names, _ := filepath.Glob(j.Dir + "/*")
	total := int64(0)
	for _, n := range names {
		if st, err := os.Stat(n); err == nil {
			total += st.Size()
		}
	}
	if len(names) != files || total > files*(fileBytes+writers*1200) {
		t.Errorf("%d bytes in %v", total, names)
	}
}

func BenchmarkAppend(b *testing.B) {
	j := In(b.TempDir())
	e := Event{Type: Container, Action: "start", ID: strings.Repeat("0", 64), Attributes: map[string]string{"image": "alpine", "name": "web"}}
	for b.Loop() {
		if err := j.Append(e); err != nil {
			b.Fatal(err)
		}
	}
}
