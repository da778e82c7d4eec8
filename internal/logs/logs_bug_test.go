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

func TestFollowLosesNothingWhenTheLogIsRotatedTwiceMeanwhile(t *testing.T) {
	w, path := open(t, 1, 4)
	fill(t, w, 0, 1)
	next := 1
	q := Query{Tail: -1, Follow: func() bool {
		fill(t, w, next, 3) // each fills a file
		next += 3
		return next < 12
	}}
	want := "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n"
	if got := strings.Join(read(t, path, 4, q), ""); got != want {
		t.Errorf("followed: %q", got)
	}
}
