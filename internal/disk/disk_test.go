package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestReplaceAndCreate(t *testing.T) {
	for _, d := range []Durability{Durable, Volatile} {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		if err := Create(path, []byte("one"), 0o600, d); err != nil {
			t.Fatal(err)
		}
		if err := Create(path, []byte("two"), 0o600, d); !errors.Is(err, fs.ErrExist) {
			t.Errorf("a second Create: %v", err)
		}
		if data, _ := os.ReadFile(path); string(data) != "one" {
			t.Errorf("Create has replaced the file: %q", data)
		}
		old, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		if err := Replace(path, []byte("three"), 0o640, d); err != nil {
			t.Fatal(err)
		}
		var b [8]byte
		if n, _ := old.Read(b[:]); string(b[:n]) != "one" {
			t.Errorf("a reader of the old file sees %q", b[:n])
		}
		st, _ := os.Stat(path)
		if data, _ := os.ReadFile(path); string(data) != "three" || st.Mode().Perm() != 0o640 {
			t.Errorf("after Replace: %q, %v", data, st.Mode())
		}
		if got := names(t, dir); !slices.Equal(got, []string{"f"}) {
			t.Errorf("left behind: %q", got)
		}
	}
}

func TestFailedReplaceLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Replace(filepath.Join(dir, "d"), nil, 0o600, Volatile); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if got := names(t, dir); !slices.Equal(got, []string{"d"}) {
		t.Errorf("left behind: %q", got)
	}
}

func TestLocksExcludeEachOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := TakeLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("a held lock: %v", err)
	}
	// The lock goes with the last copy of its descriptor, as a child process has one.
	fd, err := unix.FcntlInt(held.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	held.Unlock()
	held.Unlock()
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("a lock that was handed on: %v", err)
	}
	Inherited(os.NewFile(uintptr(fd), path)).Unlock()
	again, err := TryLock(path)
	if err != nil {
		t.Fatalf("a free lock: %v", err)
	}
	again.Unlock()
	a, err := ShareLock(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ShareLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("a shared lock: %v", err)
	}
	a.Unlock()
	b.Unlock()
	(*Lock)(nil).Unlock()
}

func TestLockOfARemovedFileGuardsNothingAndIsTakenAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := TakeLock(path)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *Lock)
	go func() {
		l, err := TakeLock(path) // on the same file, or on the new one
		if err != nil {
			t.Error(err)
		}
		got <- l
	}()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	held.Unlock()
	l := <-got
	defer l.Unlock()
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("the file at the path is not the locked one: %v", err)
	}
}

func TestLockDoesNotFollowALink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := os.Symlink("elsewhere", path); err != nil {
		t.Fatal(err)
	}
	if _, err := TakeLock(path); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link as a lock: %v", err)
	}
}

func TestReadBounded(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(outside, []byte("secret"), 0o600))
	must(os.WriteFile(filepath.Join(dir, "file"), []byte("12345"), 0o600))
	must(os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	must(os.Symlink("/file", filepath.Join(dir, "absolute")))
	must(os.Symlink("../../../file", filepath.Join(dir, "sub/up")))
	must(os.Symlink(outside, filepath.Join(dir, "out")))
	must(os.Symlink("loop", filepath.Join(dir, "loop")))
	must(os.Symlink("/dev/null", filepath.Join(dir, "device")))
	must(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	root, err := os.Open(dir)
	must(err)
	defer root.Close()
	for name, ok := range map[string]bool{
		"file": true, "/file": true, "absolute": true, "sub/up": true, "../../file": true,
		"out": false, "loop": false, "device": false, "fifo": false, "sub": false, "none": false, "/proc/self/root/file": false,
	} {
		data, err := ReadBounded(int(root.Fd()), name, 5)
		if (err == nil) != ok || ok && string(data) != "12345" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if data, err := ReadBounded(int(root.Fd()), "file", 4); err == nil {
		t.Errorf("five bytes of at most four: %q", data)
	}
}
