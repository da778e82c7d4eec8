package tarsplit

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"berth/internal/errdef"
)

type contents map[string]string

func (c contents) open(name string) (io.ReadCloser, error) {
	text, ok := c[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func record(t testing.TB, entries ...map[string]any) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	for _, e := range entries {
		if err := json.NewEncoder(&b).Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	return &b
}

func TestWrite(t *testing.T) {
	segment := func(text string) map[string]any { return map[string]any{"type": 2, "payload": []byte(text)} }
	for _, test := range []struct {
		shows, want string
		kind        errdef.Kind
		record      []map[string]any
	}{
		{
			shows: "segments and files in turn, a directory without content, a name that is no UTF-8", want: "HEADone.HEADtwo.",
			record: []map[string]any{
				segment("HEAD"),
				{"type": 1, "name": "dir/"},
				{"type": 1, "name": "one", "size": 3},
				segment(".HEAD"),
				{"type": 1, "name_raw": []byte("\xff"), "size": 3},
				segment("."),
			},
		},
		{shows: "a file that is shorter now", kind: errdef.Corrupt, record: []map[string]any{{"type": 1, "name": "one", "size": 4}}},
		{shows: "a size below zero", kind: errdef.Corrupt, record: []map[string]any{{"type": 1, "name": "one", "size": -4}}},
		{shows: "a line of an unknown type", kind: errdef.Corrupt, record: []map[string]any{{"type": 3}}},
		{shows: "a line that is none", kind: errdef.Corrupt, record: []map[string]any{{"type": "2"}}},
	} {
		var got bytes.Buffer
		err := Write(&got, record(t, test.record...), contents{"one": "one", "\xff": "two"}.open)
		if errdef.KindOf(err) != test.kind || err == nil && got.String() != test.want {
			t.Errorf("%s: %q, %v", test.shows, got.String(), err)
		}
	}
	err := Write(io.Discard, record(t, map[string]any{"type": 1, "name": "gone", "size": 1}), contents{}.open)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is gone: %v", err)
	}
	if err := Write(io.Discard, strings.NewReader(strings.Repeat("x", maxLine+1)), nil); !errdef.Is(err, errdef.Corrupt) {
		t.Errorf("a line without an end: %v", err)
	}
}

func FuzzWrite(f *testing.F) {
	f.Add(record(f, map[string]any{"type": 2, "payload": []byte("x")}, map[string]any{"type": 1, "name": "one", "size": 3}).Bytes())
	f.Fuzz(func(_ *testing.T, data []byte) {
		_ = Write(io.Discard, bytes.NewReader(data), contents{"one": "one"}.open)
	})
}
