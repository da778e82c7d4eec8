package logs

import (
	"slices"
	"strings"
	"testing"
)

func TestLineThatReachesTheLimitWithoutEndLosesNothing(t *testing.T) {
	w, path := open(t, 0, 1)
	write(t, w, Stdout, strings.Repeat("x", maxLine), noon)
	write(t, w, Stdout, "y\nz\n", noon)
	if got := strings.Join(read(t, path, 1, Query{Tail: -1}), ""); got != strings.Repeat("x", maxLine)+"y\nz\n" {
		t.Errorf("%d bytes of %d are there", len(got), maxLine+4)
	}
}

func TestFollowReadsWhatWasRotatedInBeforeTheEnd(t *testing.T) {
	w, path := open(t, 1, 3)
	fill(t, w, 0, 1)
	q := Query{Tail: -1, Follow: func() bool { fill(t, w, 1, 1); return false }}
	if got := read(t, path, 3, q); !slices.Equal(got, []string{"0\n", "1\n"}) {
		t.Errorf("followed: %q", got)
	}
}
