package state

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/ident"

	"golang.org/x/sys/unix"
)

func store(t *testing.T) Store { return Store{Data: t.TempDir(), Run: t.TempDir()} }

func create(t *testing.T, s Store, id, name string) *Container {
	t.Helper()
	c := &Container{ID: id, Name: name, Created: time.Unix(1, 0)}
	if err := s.Create(c, disk.Volatile); err != nil {
		t.Fatal(err)
	}
	return c
}

func id(prefix string) string { return prefix + strings.Repeat("0", 64-len(prefix)) }

func TestCreatedContainerIsFound(t *testing.T) {
	s := store(t)
	c := create(t, s, id("abc1"), "box")
	create(t, s, id("abc2"), "")
	for _, ref := range []string{"box", "/box", "abc1", id("abc1")} {
		if got, err := s.Resolve(ref); err != nil || got.ID != c.ID || got.Name != "box" || got.Format != Format {
			t.Errorf("%s: %+v, %v", ref, got, err)
		}
	}
	for ref, kind := range map[string]errdef.Kind{"abc": errdef.Invalid, "abd": errdef.NotFound, "nobody": errdef.NotFound, "": errdef.NotFound, "../names/box": errdef.NotFound, id("f"): errdef.NotFound} {
		if got, err := s.Resolve(ref); !errdef.Is(err, kind) {
			t.Errorf("%q: %+v, %v", ref, got, err)
		}
	}
	all, err := s.List()
	if err != nil || len(all) != 2 {
		t.Errorf("list: %+v, %v", all, err)
	}
	for _, c := range all {
		if c.Name == "" {
			t.Error("a container has no name")
		}
	}
}

func TestNameGoesBeforeID(t *testing.T) {
	s := store(t)
	create(t, s, id("abc1"), "one")
	named := create(t, s, id("def"), "abc1")
	if got, err := s.Resolve("abc1"); err != nil || got.ID != named.ID {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNameInUseIsAConflictAndLeavesNothing(t *testing.T) {
	s := store(t)
	create(t, s, id("a"), "box")
	err := s.Create(&Container{ID: id("b"), Name: "box"}, disk.Volatile)
	if !errdef.Is(err, errdef.Conflict) || !strings.Contains(err.Error(), id("a")) || errdef.HintOf(err) == "" {
		t.Errorf("%v, hint %q", err, errdef.HintOf(err))
	}
	entries, _ := os.ReadDir(filepath.Join(s.Data, "containers"))
	if len(entries) != 1 {
		t.Errorf("containers: %v", entries)
	}
}

func TestNameOfAContainerThatIsNoMoreIsFree(t *testing.T) {
	s := store(t)
	c := create(t, s, id("a"), "box")
	if err := os.RemoveAll(s.Dir(c.ID)); err != nil {
		t.Fatal(err)
	}
	create(t, s, id("b"), "box")
	if got, err := s.Resolve("box"); err != nil || got.ID != id("b") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestRename(t *testing.T) {
	s := store(t)
	c := create(t, s, id("a"), "old")
	create(t, s, id("b"), "taken")
	if err := s.Rename(c, "taken"); !errdef.Is(err, errdef.Conflict) || c.Name != "old" {
		t.Errorf("to a name in use: %v, now %s", err, c.Name)
	}
	if err := s.Rename(c, "new"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Resolve("new"); err != nil || got.ID != c.ID || got.Name != "new" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.Resolve("old"); !errdef.Is(err, errdef.NotFound) {
		t.Errorf("the old name: %v", err)
	}
	create(t, s, id("c"), "old")
}

func TestRemove(t *testing.T) {
	s := store(t)
	c := create(t, s, id("a"), "box")
	if err := os.MkdirAll(s.RunDir(c.ID), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(c, os.RemoveAll); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Join(s.Data, "containers"), filepath.Join(s.Data, "names"), filepath.Join(s.Run, "containers")} {
		if entries, _ := os.ReadDir(dir); len(entries) != 0 {
			t.Errorf("left in %s: %v", dir, entries)
		}
	}
	if _, err := s.Lock(c.ID); !errdef.Is(err, errdef.NotFound) {
		t.Errorf("its lock: %v", err)
	}
	create(t, s, id("b"), "box")
}

func TestTreeThatCannotBeRemovedIsSweptLater(t *testing.T) {
	s := store(t)
	c := create(t, s, id("a"), "box")
	fails := errors.New("busy")
	if err := s.Remove(c, func(string) error { return fails }); !errors.Is(err, fails) {
		t.Errorf("%v", err)
	}
	if _, err := s.Resolve("box"); !errdef.Is(err, errdef.NotFound) {
		t.Errorf("it is still there: %v", err)
	}
	if err := s.Sweep(os.RemoveAll); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(filepath.Join(s.Data, "containers")); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

// As on NFS, where a file that is open stays under another name.
func TestTreeThatKeepsAnOpenFileIsRemoved(t *testing.T) {
	s := store(t)
	c := create(t, s, id("a"), "box")
	if err := s.Remove(c, os.Remove); err != nil {
		t.Error(err)
	}
	if _, err := s.Resolve("box"); !errdef.Is(err, errdef.NotFound) {
		t.Errorf("it is still there: %v", err)
	}
	if err := s.Sweep(os.RemoveAll); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(filepath.Join(s.Data, "containers")); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestSweepRemovesWhatKilledCommandsLeftAndNothingElse(t *testing.T) {
	s := store(t)
	c := create(t, s, id("a"), "box")
	for _, dir := range []string{filepath.Join(s.Data, "containers", disk.TemporaryName()), s.RunDir(id("gone")), s.RunDir(c.ID)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.nameFile("stale"), []byte(id("gone")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(os.RemoveAll); err != nil {
		t.Fatal(err)
	}
	for path, there := range map[string]bool{s.nameFile("stale"): false, s.nameFile("box"): true, s.RunDir(id("gone")): false, s.RunDir(c.ID): true, s.Dir(c.ID): true} {
		if _, err := os.Stat(path); (err == nil) != there {
			t.Errorf("%s: %v", path, err)
		}
	}
	if entries, _ := os.ReadDir(filepath.Join(s.Data, "containers")); len(entries) != 1 {
		t.Errorf("containers: %v", entries)
	}
	if err := (Store{Data: "/nonexistent", Run: "/nonexistent"}).Sweep(os.RemoveAll); err != nil {
		t.Errorf("an instance that is not there yet: %v", err)
	}
}

func TestRecordAndProcess(t *testing.T) {
	s := store(t)
	c := create(t, s, id("a"), "box")
	if r, err := s.Record(c.ID); err != nil || r.Status != Created {
		t.Errorf("a new container: %+v, %v", r, err)
	}
	if err := s.SetRecord(c.ID, Record{Status: Exited, ExitCode: 3}, disk.Volatile); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Record(c.ID); err != nil || r.Status != Exited || r.ExitCode != 3 || r.Format != Format {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := s.Process(c.ID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a container that does not run: %v", err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir(c.ID), "record.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A record can be lost with the power, and then the processes are asked what is true.
	if r, err := s.Record(c.ID); err != nil || r.Status != Running {
		t.Errorf("a broken record: %+v, %v", r, err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir(c.ID), "config.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(c.ID); !errdef.Is(err, errdef.Corrupt) {
		t.Errorf("a broken configuration: %v", err)
	}
}

func TestMonitored(t *testing.T) {
	s := store(t)
	if err := os.MkdirAll(s.RunDir("x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if s.Monitored("x") {
		t.Error("without a lock")
	}
	l, err := s.TakeAlive("x")
	if err != nil {
		t.Fatal(err)
	}
	if !s.Monitored("x") {
		t.Error("with a lock it is not monitored")
	}
	l.Unlock()
	if s.Monitored("x") {
		t.Error("after the lock")
	}
}

func TestProcessIsKnownByItsStartTime(t *testing.T) {
	me := Process{PID: os.Getpid(), StartTime: StartTime(os.Getpid())}
	if me.StartTime == 0 {
		t.Fatal("this process has no start time")
	}
	fd := me.Open()
	if fd < 0 {
		t.Fatal("this process is not found")
	}
	_ = unix.Close(fd)
	other := me
	other.StartTime++
	if fd := other.Open(); fd >= 0 {
		t.Error("a process that was started at another time is taken for this one")
	}
	if (Process{}).Open() >= 0 || (Process{PID: -1}).Open() >= 0 {
		t.Error("no process is found")
	}
	// A name may hold anything, even what looks like the end of a name.
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	p := Process{PID: sleep.Process.Pid, StartTime: StartTime(sleep.Process.Pid)}
	if p.StartTime < me.StartTime {
		t.Errorf("a child was started at %d, before its parent, at %d", p.StartTime, me.StartTime)
	}
	_ = sleep.Process.Kill()
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, p.PID, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if fd := p.Open(); fd >= 0 {
		t.Error("a zombie is taken for a running process")
	}
	_ = sleep.Wait()
	if p.Open() >= 0 || StartTime(p.PID) == p.StartTime {
		t.Error("a process that is no more is found")
	}
}

func TestIDs(t *testing.T) {
	if !ident.Is(id("abc")) {
		t.Error("the IDs of these tests are none")
	}
}
