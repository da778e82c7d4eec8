package disk

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOutput(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	read := func(name string) string {
		data, err := os.ReadFile(at(name))
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(OutputBytes(at("new"), []byte("1"), 0o600))
	must(os.Symlink("new", at("link")))
	must(OutputBytes(at("link"), []byte("2"), 0o600))
	if to, err := os.Readlink(at("link")); to != "new" || read("new") != "2" {
		t.Errorf("through a link: %q, %v, and there is %q", to, err, read("new"))
	}

	// One that fails leaves what was there.
	failed := errors.New("failed")
	if err := Output(at("new"), 0o600, func(w io.Writer) error {
		_, err := w.Write([]byte("3"))
		return errors.Join(err, failed)
	}); !errors.Is(err, failed) || read("new") != "2" {
		t.Errorf("%v, and there is %q", err, read("new"))
	}

	// What is no file stays what it is, and gets the bytes.
	must(unix.Mkfifo(at("fifo"), 0o600))
	got := make(chan string)
	go func() { got <- read("fifo") }()
	must(OutputBytes(at("fifo"), []byte("4"), 0o600))
	if s := <-got; s != "4" {
		t.Errorf("the FIFO got %q", s)
	}
	if st, err := os.Lstat(at("fifo")); err != nil || st.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("the FIFO is %v, %v", st, err)
	}
	if err := OutputBytes(dir, nil, 0o600); !errors.Is(err, unix.EISDIR) {
		t.Errorf("a directory: %v", err)
	}
	if left, err := filepath.Glob(at(".tmp*")); len(left) > 0 || err != nil {
		t.Errorf("left over: %v, %v", left, err)
	}
}
