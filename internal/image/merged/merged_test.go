package merged

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// layer is a directory with files, and symbolic links where a text begins with "->".
func layer(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case len(text) > 2 && text[:2] == "->":
			err = os.Symlink(text[2:], full)
		case text == "FIFO":
			err = unix.Mkfifo(full, 0o600)
		case text == "WHITEOUT":
			if err = unix.Mknod(full, unix.S_IFCHR, 0); errors.Is(err, unix.EPERM) {
				t.Skip("needs the right to make whiteouts (a kernel from 5.8 on, or root)")
			}
		case text == "OPAQUE":
			if err = unix.Setxattr(filepath.Dir(full), "user.overlay.opaque", []byte("y"), 0); errors.Is(err, unix.ENOTSUP) {
				t.Skip("the file system of the temporary directory has no user attributes")
			}
		default:
			err = os.WriteFile(full, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadFile(t *testing.T) {
	outside := layer(t, map[string]string{"secret": "secret"})
	for _, c := range []struct {
		summary string
		layers  []map[string]string // the topmost first
		name    string
		want    string
		err     error
	}{
		{"A file of the only layer", []map[string]string{{"a/b": "1"}}, "/a/b", "1", nil},
		{"The topmost counts", []map[string]string{{"a": "1"}, {"a": "2"}}, "/a", "1", nil},
		{"Directories are merged", []map[string]string{{"d/x": "1"}, {"d/y": "2"}}, "/d/y", "2", nil},
		{"A whiteout hides what is below", []map[string]string{{"a": "WHITEOUT"}, {"a": "2"}}, "/a", "", fs.ErrNotExist},
		{"A whiteout hides a directory", []map[string]string{{"d": "WHITEOUT"}, {"d/a": "2"}}, "/d/a", "", fs.ErrNotExist},
		{"What was made again after a whiteout is seen", []map[string]string{{"a": "1"}, {"a": "WHITEOUT"}, {"a": "2"}}, "/a", "1", nil},
		{"A directory above a whiteout hides what is below that", []map[string]string{{"d/x": "1"}, {"d": "WHITEOUT"}, {"d/y": "2"}}, "/d/y", "", fs.ErrNotExist},
		{"An opaque directory hides what is below", []map[string]string{{"d/x": "1", "d/-": "OPAQUE"}, {"d/y": "2"}}, "/d/y", "", fs.ErrNotExist},
		{"An opaque directory shows what it has", []map[string]string{{"d/x": "1", "d/-": "OPAQUE"}, {"d/x": "2"}}, "/d/x", "1", nil},
		{"A file hides a directory", []map[string]string{{"d": "1"}, {"d/y": "2"}}, "/d/y", "", unix.ENOTDIR},
		{"A directory ends at a file below", []map[string]string{{"d/x": "1"}, {"d": "file"}, {"d/y": "2"}}, "/d/y", "", fs.ErrNotExist},
		{"An absolute link leads into another layer", []map[string]string{{"l": "->/d/a"}, {"d/a": "2"}}, "/l", "2", nil},
		{"A relative link", []map[string]string{{"d/l": "->../a"}, {"a": "2"}}, "/d/l", "2", nil},
		{"A link to a directory", []map[string]string{{"etc": "->usr/etc"}, {"usr/etc/passwd": "2"}}, "/etc/passwd", "2", nil},
		{"A link upwards stays inside", []map[string]string{{"l": "->../../../../../../a", "a": "1"}}, "/l", "1", nil},
		{"A path upwards stays inside", []map[string]string{{"a": "1"}}, "/../../a", "1", nil},
		{"An absolute link does not lead out", []map[string]string{{"l": "->" + outside + "/secret"}}, "/l", "", fs.ErrNotExist},
		{"A link to itself", []map[string]string{{"l": "->l"}}, "/l", "", unix.ELOOP},
		{"Links in a circle", []map[string]string{{"l": "->/m/x"}, {"m": "->/l"}}, "/l", "", unix.ELOOP},
		{"A link to nothing", []map[string]string{{"l": "->none"}}, "/l", "", fs.ErrNotExist},
		{"A FIFO does not block", []map[string]string{{"f": "FIFO"}}, "/f", "", fs.ErrInvalid},
		{"A directory is no file", []map[string]string{{"d/x": "1"}}, "/d", "", fs.ErrInvalid},
		{"A file is no directory", []map[string]string{{"a": "1"}}, "/a/", "", unix.ENOTDIR},
		{"The root is no file", []map[string]string{{"a": "1"}}, "/", "", fs.ErrInvalid},
		{"As many bytes as allowed", []map[string]string{{"a": "12345678"}}, "/a", "12345678", nil},
		{"One byte more", []map[string]string{{"a": "123456789"}}, "/a", "", fs.ErrInvalid},
		{"Nothing there", []map[string]string{{"a": "1"}, {}}, "/b", "", fs.ErrNotExist},
	} {
		t.Run(c.summary, func(t *testing.T) {
			var dirs []string
			for _, l := range c.layers {
				dirs = append(dirs, layer(t, l))
			}
			got, err := ReadFile(dirs, c.name, 8)
			if !errors.Is(err, c.err) || string(got) != c.want {
				t.Errorf("got %q, %v; want %q, %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestNoDescriptorIsLeftOpen(t *testing.T) {
	dir := layer(t, map[string]string{"a/b/c": "1"})
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for range 20 {
		_, _ = ReadFile([]string{dir, dir}, "/a/b/c", 8)
		_, _ = ReadFile([]string{dir, dir}, "/a/b/x", 8)
		_, _ = ReadFile([]string{dir, "/nonexistent"}, "/a", 8)
	}
	if after := count(); after > before+2 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
