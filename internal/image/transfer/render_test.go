package transfer

import (
	"strings"
	"testing"

	"berth/internal/image"
	"berth/internal/image/reference"
)

func events3() (a, b image.Digest, all []Event) {
	a, b = image.DigestOf([]byte("a")), image.DigestOf([]byte("b"))
	return a, b, []Event{
		{State: Resolving},
		{State: Waiting, Layer: a, Total: 1000},
		{State: Exists, Layer: b},
		{State: Downloading, Layer: a, Done: 500, Total: 1000},
		{State: Notice, Text: "registry answers 503; trying again in 1s"},
		{State: Downloading, Layer: a, Done: 1000, Total: 1000},
		{State: Unpacking, Layer: a, Done: 1000, Total: 1000},
		{State: Done, Layer: a, Done: 1000, Total: 1000},
	}
}

func TestPlainLinesAreDockers(t *testing.T) {
	a, b, all := events3()
	ref, _ := reference.Parse("alpine")
	var out strings.Builder
	r := NewRenderer(&out, nil)
	r.Begin(ref)
	for _, e := range all {
		r.Event(e)
	}
	r.End(ref, Result{Digest: a, Newer: true})
	r.End(ref, Result{Digest: a})
	want := "latest: Pulling from library/alpine\n" +
		a.Short() + ": Pulling fs layer\n" + b.Short() + ": Already exists\n" +
		"registry answers 503; trying again in 1s\n" +
		a.Short() + ": Download complete\n" + a.Short() + ": Pull complete\n" +
		"Digest: " + string(a) + "\nStatus: Downloaded newer image for alpine:latest\n" +
		"Digest: " + string(a) + "\nStatus: Image is up to date for alpine:latest\n"
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

// screen is a terminal that knows what the renderer uses: newline, cursor up, erase below.
func screen(s string) []string {
	var lines []string
	row := 0
	for s != "" {
		if rest, ok := strings.CutPrefix(s, "\x1b["); ok {
			n := 0
			for rest[0] >= '0' && rest[0] <= '9' {
				n, rest = n*10+int(rest[0]-'0'), rest[1:]
			}
			switch rest[0] {
			case 'A':
				row -= n
			case 'J':
				lines = lines[:row]
			}
			s = rest[1:]
			continue
		}
		line, rest, _ := strings.Cut(s, "\n")
		lines = append(lines[:row], line)
		row++
		s = rest
	}
	return lines
}

func TestLiveLinesReplaceEachOther(t *testing.T) {
	a, b, all := events3()
	ref, _ := reference.Parse("alpine")
	var out strings.Builder
	r := NewRenderer(&out, func() (int, int) { return 80, 24 })
	r.Begin(ref)
	for i, e := range all {
		r.Event(e)
		if i == 3 {
			got := screen(out.String())
			if want := a.Short() + ": Downloading [====="; len(got) != 3 || !strings.HasPrefix(got[1], want) || !strings.HasSuffix(got[1], "] 500B/1kB") {
				t.Errorf("%q", got)
			}
		}
	}
	r.End(ref, Result{Digest: a, Newer: true})
	want := []string{
		"latest: Pulling from library/alpine", "registry answers 503; trying again in 1s",
		a.Short() + ": Pull complete", b.Short() + ": Already exists",
		"Digest: " + string(a), "Status: Downloaded newer image for alpine:latest",
	}
	if got := screen(out.String()); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s", strings.Join(got, "\n"))
	}
}

func TestLiveLinesFitTheTerminal(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {20, 5}, {1, 1}, {0, 0}, {200, 100}} {
		var out strings.Builder
		r := NewRenderer(&out, func() (int, int) { return size[0], size[1] })
		for i := range 60 {
			d := image.DigestOf([]byte{byte(i)})
			r.Event(Event{State: Waiting, Layer: d, Total: 1 << 62})
			r.Event(Event{State: Downloading, Layer: d, Done: 1 << 61, Total: 1 << 62})
			if i%2 == 0 {
				r.Event(Event{State: Done, Layer: d})
			}
		}
		r.Fail()
		got := screen(out.String())
		if len(got) > max(size[1]-1, 2) {
			t.Errorf("%v: %d lines", size, len(got))
		}
		for _, line := range got {
			if size[0] > 0 && len(line) > size[0] {
				t.Errorf("%v: %q", size, line)
			}
		}
	}
}

func TestFrequentEventsAreThinned(t *testing.T) {
	n := 0
	e := &events{to: func(Event) { n++ }}
	d := image.Descriptor{Digest: image.DigestOf(nil), Size: 1_000_000}
	e.emit(Event{State: Waiting, Layer: d.Digest})
	for i := range int64(100_000) {
		e.downloading(d, i)
	}
	e.downloading(d, d.Size)
	if n < 3 || n > 100 {
		t.Errorf("%d events", n)
	}
}
