package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/internal/errdef"
)

func TestBrokenBlobIsContinuedWhereItBroke(t *testing.T) {
	data := pattern(3 << 20)
	n := 0
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		switch n++; n {
		case 1:
			panic(http.ErrAbortHandler) // before a byte is sent
		case 2:
			truncated(w, data, 0, 1<<20)
		case 3:
			w.WriteHeader(http.StatusBadGateway)
		case 4:
			truncated(w, data, rangeStart(r), 2<<20)
		default:
			truncated(w, data, rangeStart(r), len(data))
		}
	})
	h.handle = skipProbe(h.handle)
	got, err := readBlob(testClient(t, nil), h.ref(t), blobOf(data), 0)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	var sum int
	var ranges []string
	for _, r := range h.requests("blobs") {
		ranges = append(ranges, r.Header.Get("Range"))
	}
	if len(ranges) != 5 || ranges[0] != "" || ranges[1] != "" || ranges[2] == "" || ranges[2] != ranges[3] || ranges[4] == ranges[3] {
		t.Errorf("ranges %q (%d)", ranges, sum)
	}
}

// skipProbe answers the question whether the registry is there.
func skipProbe(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			handle(w, r)
		}
	}
}

func TestBlobFromAnOffset(t *testing.T) {
	data := pattern(100_000)
	for _, ranges := range []bool{true, false} {
		h := newHostile(t, func(w http.ResponseWriter, r *http.Request) {
			if ranges {
				truncated(w, data, rangeStart(r), len(data))
			} else {
				_, _ = w.Write(data)
			}
		})
		c := testClient(t, nil)
		for _, offset := range []int64{0, 1, 50_000, 99_999, 100_000} {
			got, err := readBlob(c, h.ref(t), blobOf(data), offset)
			if err != nil || !bytes.Equal(got, data[offset:]) {
				t.Errorf("ranges %v, offset %d: %d bytes, %v", ranges, offset, len(got), err)
			}
		}
		for _, offset := range []int64{-1, 100_001} {
			if _, err := readBlob(c, h.ref(t), blobOf(data), offset); !errdef.Is(err, errdef.Invalid) {
				t.Errorf("offset %d: %v", offset, err)
			}
		}
	}
}

func TestLiesAboutLengthAreFound(t *testing.T) {
	data := pattern(1000)
	for _, tt := range []struct {
		summary string
		offset  int64
		status  int
		header  map[string]string
		body    int
		kind    errdef.Kind
	}{
		{"a longer blob", 0, 200, nil, 1001, errdef.Corrupt},
		{"a shorter blob", 0, 200, nil, 999, errdef.Corrupt},
		{"a part when all was asked for", 0, 206, map[string]string{"Content-Range": "bytes 0-999/1000"}, 1000, errdef.Corrupt},
		{"a part of another blob", 10, 206, map[string]string{"Content-Range": "bytes 10-999/2000"}, 990, errdef.Corrupt},
		{"another part", 10, 206, map[string]string{"Content-Range": "bytes 11-999/1000"}, 989, errdef.Corrupt},
		{"an unknown part", 10, 206, nil, 990, errdef.Corrupt},
		{"nonsense", 10, 206, map[string]string{"Content-Range": "bytes -5-9/+7"}, 990, errdef.Corrupt},
		{"no such part", 10, 416, nil, 0, errdef.Corrupt},
	} {
		h := newHostile(t, func(w http.ResponseWriter, _ *http.Request) {
			for k, v := range tt.header {
				w.Header().Set(k, v)
			}
			w.Header().Set("Content-Length", fmt.Sprint(tt.body))
			w.WriteHeader(tt.status)
			_, _ = w.Write(pattern(tt.body))
		})
		if _, err := readBlob(testClient(t, nil), h.ref(t), blobOf(data), tt.offset); !errdef.Is(err, tt.kind) {
			t.Errorf("%s: %v (%v)", tt.summary, err, errdef.KindOf(err))
		}
	}
}

func TestEndlessBlobEndsAtItsSize(t *testing.T) {
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	h.handle = skipProbe(h.handle)
	got, err := readBlob(testClient(t, nil), h.ref(t), blobOf(make([]byte, 100_000)), 0)
	if err != nil || len(got) != 100_000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestStalledBlobIsRetriedAndGivenUp(t *testing.T) {
	data := pattern(4 << 20)
	for _, recovers := range []bool{true, false} {
		n := 0
		h := newHostile(t, skipProbe(func(w http.ResponseWriter, r *http.Request) {
			if n++; n > 1 && recovers {
				truncated(w, data, rangeStart(r), len(data))
				return
			}
			from := rangeStart(r)
			if from > 0 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
				w.WriteHeader(http.StatusPartialContent)
			}
			for r.Context().Err() == nil { // a byte now and then is no progress
				_, _ = w.Write(data[from : from+1])
				from++
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}))
		c := testClient(t, func(o *Options) { o.StallTimeout = 200 * time.Millisecond })
		began := time.Now()
		got, err := readBlob(c, h.ref(t), blobOf(data), 0)
		if recovers && (err != nil || !bytes.Equal(got, data)) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if !recovers && (!errdef.Is(err, errdef.Unavailable) || !strings.Contains(err.Error(), errStalled.Error())) {
			t.Errorf("%v", err)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("took %v", took)
		}
	}
}

func TestSlowReaderIsNotAStalledServer(t *testing.T) {
	data := pattern(8 << 20) // more than the sockets' buffers hold
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request) { truncated(w, data, rangeStart(r), len(data)) })
	c := testClient(t, func(o *Options) { o.StallTimeout = 200 * time.Millisecond })
	r, err := c.Blob(context.Background(), h.ref(t), blobOf(data), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(rest, data[100:]) || len(h.requests("blobs")) != 1 {
		t.Errorf("%d bytes, %v, %d requests", len(rest), err, len(h.requests("blobs")))
	}
}

// A server that ignores ranges and always breaks must not hold us, nor one that gives a few bytes each time.
func TestNoProgressEnds(t *testing.T) {
	data := pattern(1 << 20)
	for _, ranges := range []bool{true, false} {
		h := newHostile(t, skipProbe(func(w http.ResponseWriter, r *http.Request) {
			if from := rangeStart(r); ranges {
				truncated(w, data, from, from+10)
			} else {
				truncated(w, data, 0, 1000)
			}
		}))
		_, err := readBlob(testClient(t, nil), h.ref(t), blobOf(data), 0)
		if n := len(h.requests("blobs")); !errdef.Is(err, errdef.Unavailable) || n > 2*maxTries {
			t.Errorf("ranges %v: %v after %d requests", ranges, err, n)
		}
	}
}

func TestBlobCanBeGivenUp(t *testing.T) {
	h := newHostile(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(make([]byte, 10))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	h.handle = skipProbe(h.handle)
	ctx, cancel := context.WithCancel(context.Background())
	r, err := testClient(t, nil).Blob(ctx, h.ref(t), blobOf(make([]byte, 100)), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	time.AfterFunc(50*time.Millisecond, cancel)
	if n, err := io.Copy(io.Discard, r); !errdef.Is(err, errdef.Cancelled) || n != 10 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestDigestThatIsNoneNeverReachesTheWire(t *testing.T) {
	h := newHostile(t, func(http.ResponseWriter, *http.Request) {})
	desc := blobOf(nil)
	desc.Digest = "sha256:../../../x"
	if _, err := readBlob(testClient(t, nil), h.ref(t), desc, 0); err == nil || len(h.requests("")) != 0 {
		t.Error(err)
	}
}
