package files

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// With SOURCE_DATE_EPOCH, that is the date of all directories that are made on the way, however late something is put into them.
func TestDirectoriesOnTheWayAreDatedAtTheEnd(t *testing.T) {
	root := t.TempDir()
	from, upper := root+"/from", root+"/upper"
	epoch, old := time.Unix(1_000_000_000, 0), time.Unix(900_000_000, 0)
	for _, dir := range []string{upper, from + "/d/sub"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"f", "d/g", "d/sub/h"} {
		if err := os.WriteFile(filepath.Join(from, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"f", "d/sub", "d"} {
		if err := os.Chtimes(filepath.Join(from, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	l, err := Open(upper, nil, epoch)
	if err != nil {
		t.Fatal(err)
	}
	for source, dest := range map[string]string{"f": "/a/b/f", "d": "/n/e"} {
		item, err := Tree{Layers: []string{from}}.Find(source)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Copy(t.Context(), item, dest, Options{Anonymous: true}); err != nil {
			t.Fatal(err)
		}
		item.Close()
	}
	if err := l.Mkdir("/w/x/y", 0o755, Owner{}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]time.Time{
		"a": epoch, "a/b": epoch, "n": epoch, "w": epoch, "w/x": epoch, "w/x/y": epoch,
		"a/b/f": old, "n/e": old, "n/e/sub": old, // as their sources
	} {
		st, err := os.Stat(filepath.Join(upper, name))
		if err != nil {
			t.Fatal(err)
		}
		if !st.ModTime().Equal(want) {
			t.Errorf("/%s is dated %v, not %v", name, st.ModTime().UTC(), want.UTC())
		}
	}
}
