package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"berth/internal/storage"

	"golang.org/x/sys/unix"
)

// lay makes a layer: a text is a file's, "->" begins a link, "whiteout", "opaque" and "fifo" are what they say.
func lay(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case text == "whiteout":
			err = unix.Mknod(path, unix.S_IFCHR, 0)
		case text == "opaque":
			err = unix.Setxattr(filepath.Dir(path), "user.overlay.opaque", []byte("y"), 0)
		case text == "fifo":
			err = unix.Mkfifo(path, 0o640)
		case len(text) > 2 && text[:2] == "->":
			err = os.Symlink(text[2:], path)
		default:
			err = os.WriteFile(path, []byte(text), 0o640)
		}
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) {
			t.Skipf("this host or file system does not let us make the layer: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// found lists a tree as lay makes it.
func found(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		switch d.Type() {
		case 0:
			data, err := os.ReadFile(path)
			got[name] = string(data)
			return err
		case fs.ModeSymlink:
			to, err := os.Readlink(path)
			got[name] = "->" + to
			return err
		case fs.ModeNamedPipe:
			got[name] = "fifo"
		default:
			got[name] = d.Type().String()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestFillCopiesWhatTheLayersShowTogether(t *testing.T) {
	for _, c := range []struct {
		summary string
		layers  []map[string]string // the topmost first
		target  string
		want    map[string]string
	}{
		{"One layer", []map[string]string{{"data/a": "1", "data/d/b": "2", "other": "x"}}, "/data", map[string]string{"a": "1", "d/b": "2"}},
		{"The layers are merged", []map[string]string{{"data/a": "new"}, {"data/a": "old", "data/b": "2", "data/d/c": "3"}}, "/data", map[string]string{"a": "new", "b": "2", "d/c": "3"}},
		{"What is hidden is not copied", []map[string]string{{"data/a": "whiteout", "data/d": "whiteout"}, {"data/a": "1", "data/b": "2", "data/d/c": "3"}}, "/data", map[string]string{"b": "2"}},
		{"An opaque directory hides what is below", []map[string]string{{"data/d/x": "1", "data/d/-": "opaque"}, {"data/d/y": "2", "data/e": "3"}}, "/data", map[string]string{"d/x": "1", "e": "3"}},
		{"A link is copied and not followed", []map[string]string{{"data/out": "->/etc", "data/gone": "->nowhere"}}, "/data", map[string]string{"out": "->/etc", "gone": "->nowhere"}},
		{"A place behind a link is found in the image", []map[string]string{{"alias": "->/data"}, {"data/a": "1"}}, "/alias", map[string]string{"a": "1"}},
		{"A named pipe", []map[string]string{{"data/p": "fifo"}}, "/data", map[string]string{"p": "fifo"}},
		{"Nothing there", []map[string]string{{"other": "x"}}, "/data", map[string]string{}},
		{"No directory", []map[string]string{{"data": "x"}}, "/data", map[string]string{}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			var layers []string
			for _, l := range c.layers {
				layers = append(layers, lay(t, l))
			}
			dir := t.TempDir()
			if err := storage.Fill(dir, c.target, layers, nil); err != nil {
				t.Fatal(err)
			}
			if got := found(t, dir); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("the volume has %v, not %v", got, c.want)
			}
		})
	}
}

func TestFillKeepsModesAndTimesButNoAttributesOfOverlay(t *testing.T) {
	layer := lay(t, map[string]string{"data/d/x": "1", "data/d/-": "opaque"})
	when := time.Unix(1000000000, 0)
	for name, mode := range map[string]os.FileMode{"data/d/x": 0o4711, "data/d": 0o700, "data": 0o1777} {
		path := filepath.Join(layer, name)
		if err := unix.Chmod(path, uint32(mode)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	if err := storage.Fill(dir, "/data", []string{layer}, nil); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]uint32{"d/x": 0o4711, "d": 0o700, ".": 0o1777} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode&0o7777 != mode || st.Mtim.Sec != when.Unix() {
			t.Errorf("%s has mode %o and time %d", name, st.Mode&0o7777, st.Mtim.Sec)
		}
	}
	if n, err := unix.Listxattr(filepath.Join(dir, "d"), nil); err != nil || n != 0 {
		t.Errorf("the directory has %d bytes of names of attributes, %v", n, err)
	}
}
