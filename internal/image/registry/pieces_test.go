package registry

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
	"sync/atomic"
	"testing"

	"berth/internal/errdef"
)

// rangedClient takes every server for slow, and 10 bytes for worth to be fetched in pieces of 1000.
func rangedClient(t *testing.T) *Client {
	c := testClient(t, nil)
	c.ranges = ranges{least: 10, slow: math.MaxInt64, piece: 1000, most: 4}
	return c
}

// part answers with the bytes that were asked for, and no more.
func part(w http.ResponseWriter, r *http.Request, data []byte) {
	from, to := 0, 0
	w.Header().Set("Accept-Ranges", "bytes")
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil {
		_, _ = w.Write(data)
		return
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(data)))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(data[from : to+1])
}

func TestLargeBlobArrivesOverSeveralConnections(t *testing.T) {
	data := pattern(123_456)
	var now atomic.Int32
	together := make(chan struct{})
	h := newHostile(t, skipProbe(func(w http.ResponseWriter, r *http.Request) {
		if n := now.Add(1); n == 4 {
			close(together) // only once: the fourth is there while two others are waited for
		} else if n > 1 {
			<-together
		}
		part(w, r, data)
	}))
	for _, offset := range []int64{0, 1, 999, 123_000, 123_446} {
		got, err := readBlob(rangedClient(t), h.ref(t), blobOf(data), offset)
		if err != nil || !bytes.Equal(got, data[offset:]) {
			t.Errorf("from %d: %d bytes, %v", offset, len(got), err)
		}
	}
}

func TestPiecesOfServerWithoutRanges(t *testing.T) {
	data := pattern(50_000)
	for _, tt := range []struct {
		summary  string
		ranges   int // answers with ranges, before there are none any more
		offset   int64
		requests int // 0: it depends
	}{
		{"never", 0, 0, 1},
		{"never, from the middle", 0, 20_000, 1},
		{"soon not any more", 3, 0, 0},
	} {
		n := atomic.Int32{}
		h := newHostile(t, skipProbe(func(w http.ResponseWriter, r *http.Request) {
			if int(n.Add(1)) > tt.ranges {
				_, _ = w.Write(data)
				return
			}
			part(w, r, data)
		}))
		got, err := readBlob(rangedClient(t), h.ref(t), blobOf(data), tt.offset)
		if err != nil || !bytes.Equal(got, data[tt.offset:]) {
			t.Errorf("%s: %d bytes, %v", tt.summary, len(got), err)
		}
		if asked := len(h.requests("blobs")); tt.requests != 0 && asked != tt.requests {
			t.Errorf("%s: %d requests", tt.summary, asked)
		}
	}
}

func TestBrokenPieceIsContinuedAndLiesAreFound(t *testing.T) {
	data := pattern(20_000)
	n := atomic.Int32{}
	h := newHostile(t, skipProbe(func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) {
		case 3:
			panic(http.ErrAbortHandler)
		case 5:
			w.WriteHeader(http.StatusBadGateway)
		default:
			part(w, r, data)
		}
	}))
	got, err := readBlob(rangedClient(t), h.ref(t), blobOf(data), 0)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}

	h = newHostile(t, skipProbe(func(w http.ResponseWriter, r *http.Request) {
		if from := rangeStart(r); from > 5000 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/20000", from+1, from+2))
			w.WriteHeader(http.StatusPartialContent)
			return
		}
		part(w, r, data)
	}))
	if got, err := readBlob(rangedClient(t), h.ref(t), blobOf(data), 0); !errdef.Is(err, errdef.Corrupt) || len(got) == 0 || !bytes.HasPrefix(data, got) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
