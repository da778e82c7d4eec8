package errdef

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestKindAndHint(t *testing.T) {
	inner := Hint(New(NotFound, "no %s: %w", "box", io.EOF), "look %s", "there")
	for _, c := range []struct {
		summary string
		err     error
		kind    Kind
		hint    string
	}{
		{"Nothing", nil, Unknown, ""},
		{"An error of somebody else's", io.EOF, Unknown, ""},
		{"Its own", inner, NotFound, "look there"},
		{"That of what it wraps", fmt.Errorf("cannot start: %w", inner), NotFound, "look there"},
		{"The outermost kind wins", As(Denied, inner), Denied, "look there"},
		{"The outermost hint wins", Hint(inner, "look here"), NotFound, "look here"},
		{"A hint without a kind", Hint(io.EOF, "wait"), Unknown, "wait"},
		{"What is joined", errors.Join(io.EOF, inner), NotFound, "look there"},
		{"What is not promised is not known", fmt.Errorf("%v", inner), Unknown, ""},
	} {
		t.Run(c.summary, func(t *testing.T) {
			if KindOf(c.err) != c.kind || HintOf(c.err) != c.hint {
				t.Errorf("kind %v, hint %q", KindOf(c.err), HintOf(c.err))
			}
			if Is(c.err, c.kind) != (c.err != nil) {
				t.Error("Is does not agree with KindOf")
			}
		})
	}
	if inner.Error() != "no box: EOF" || !errors.Is(inner, io.EOF) {
		t.Errorf("%v", inner)
	}
	if As(Denied, nil) != nil || Hint(nil, "x") != nil {
		t.Error("nil does not stay nil")
	}
}

func TestEveryKindHasAName(t *testing.T) {
	seen := map[string]bool{}
	for k := Unknown; k <= Cancelled; k++ {
		if s := k.String(); s == "" || seen[s] || s == fmt.Sprintf("kind %d", k) {
			t.Errorf("kind %d is called %q", k, s)
		}
		seen[k.String()] = true
	}
	if int(Cancelled)+1 != len(names) || Kind(200).String() != "kind 200" {
		t.Errorf("%d names; %s", len(names), Kind(200))
	}
}
