package build

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDigestsOfAContextAreAddedAndWrittenAnew(t *testing.T) {
	root := t.TempDir()
	old := time.Now().Add(-time.Hour).UnixNano()
	begin := func() *digestMemory { return openDigests(root, "/context") }
	stat := func(size int64, changed int64) *unix.Stat_t {
		return &unix.Stat_t{Ino: 7, Size: size, Mtim: unix.NsecToTimespec(changed), Ctim: unix.NsecToTimespec(changed)}
	}
	learn := func(m *digestMemory, dir, name string, size, changed int64) {
		m.directory(dir).Learn(name, stat(size, changed), [32]byte{byte(size)})
	}
	known := func(m *digestMemory, dir, name string, size int64) bool {
		sum, ok := m.directory(dir).Known(name, stat(size, old))
		return ok && sum == [32]byte{byte(size)} && m.unchanged("", dir+"/"+name, stat(size, old))
	}
	size := func() int64 {
		st, err := os.Stat(begin().file)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}

	m := begin()
	for dir := range 20 {
		for i := range 20 {
			learn(m, fmt.Sprint("dir", dir), fmt.Sprint("file", i), 1, old)
		}
	}
	learn(m, "dir0", "new", 1, time.Now().UnixNano())
	m.save()
	m = begin()
	if _, ok := m.directory("dir0").Known("new", stat(1, old)); ok {
		t.Error("one that is too new is known")
	}
	// In order, as a walk asks, and in any other.
	walk := m.directory("dir3")
	for _, name := range []string{"a", "file0", "file1", "file10", "file19", "file2", "z", "file5", "file0"} {
		_, ok := walk.Known(name, stat(1, old))
		if want := name[0] == 'f'; ok != want {
			t.Errorf("%s is known: %v", name, ok)
		}
	}
	if known(m, "dir3", "file5", 2) || known(m, "dir20", "file5", 1) {
		t.Error("another file is known")
	}
	// A further context has directories of its own, and the files at its top.
	m.directory("more\x00.").Learn("file", stat(5, old), [32]byte{5})
	if !m.unchanged("more\x00", "file", stat(5, old)) || m.unchanged("", "file", stat(5, old)) {
		t.Error("a file of a further context is not known, or one of another is")
	}
	m = begin()
	whole := size()

	// One directory is added: the last one counts.
	learn(m, "dir5", "file5", 2, old)
	m.save()
	if m = begin(); !known(m, "dir5", "file5", 2) || !known(m, "dir5", "file6", 1) || !known(m, "dir6", "file5", 1) || size() <= whole {
		t.Errorf("after one was added: %d bytes", size())
	}
	// With many, the file has each once.
	for range 3 {
		m = begin()
		for dir := range 10 {
			learn(m, fmt.Sprint("dir", dir), "file19", 3, old)
		}
		m.save()
	}
	if m = begin(); !known(m, "dir9", "file19", 3) || !known(m, "dir9", "file18", 1) || size() > whole*3/2 {
		t.Errorf("after many were added: %d bytes", size())
	}

	// Nothing is added behind what a crash has cut off.
	if err := os.Truncate(m.file, size()-1); err != nil {
		t.Fatal(err)
	}
	m = begin()
	directories := len(m.kept)
	learn(m, "more", "file", 4, old)
	m.save()
	if m = begin(); directories != 19 || len(m.kept) != 20 || !known(m, "more", "file", 4) {
		t.Errorf("after a crash: %d, then %d directories", directories, len(m.kept))
	}
}
