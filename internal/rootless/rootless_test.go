package rootless_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"berth/internal/host"
	"berth/internal/rootless"

	"golang.org/x/sys/unix"
)

// start runs a program in the namespace of p and returns what it prints.
func start(t *testing.T, p rootless.Place, args ...string) string {
	t.Helper()
	program, err := os.Open(args[0])
	if err != nil {
		t.Skip(err)
	}
	defer program.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pid, err := p.Start(opened(program), args, os.Environ(), []uintptr{0, w.Fd(), 2})
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if _, err := fmt.Fprint(&out, read(t, r)); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || status != 0 {
		t.Fatalf("%v ended with %v, %v", args, status, err)
	}
	return out.String()
}

// opened is a program that is open already.
func opened(f *os.File) rootless.Program {
	return func(*os.File) (*os.File, error) {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		return os.NewFile(uintptr(fd), f.Name()), err
	}
}

func read(t *testing.T, f *os.File) string {
	t.Helper()
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			return string(all)
		}
	}
}

func place(t *testing.T) rootless.Place {
	t.Helper()
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		t.Skip("the kernel has no user namespaces")
	}
	return rootless.Place{Run: t.TempDir(), Members: func() []int { return nil }}
}

func TestAProgramIsRootInThere(t *testing.T) {
	p := place(t)
	got := strings.Fields(start(t, p, "/bin/sh", "-c", "id -u; readlink /proc/self/ns/user; echo $"+host.InsideName+""))
	ours, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0] != "0" || got[1] == ours || got[2] != fmt.Sprintf("%d:%d", os.Geteuid(), os.Getegid()) {
		t.Errorf("it printed %q", got)
	}
	for _, of := range []string{"user:", "/rootless/lock", "memfd:", "/bin/ls"} {
		if open := start(t, p, "/bin/ls", "-l", "/proc/self/fd"); strings.Contains(open, of) {
			t.Errorf("it has been left a descriptor of %s:\n%s", of, open)
		}
	}
}

func TestWhoComesWhileSomebodyIsThereComesToTheSame(t *testing.T) {
	p := place(t)
	stay, leave, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer leave.Close()
	cat, err := os.Open("/bin/cat")
	if err != nil {
		t.Skip(err)
	}
	defer cat.Close()
	pid, err := p.Start(opened(cat), []string{"cat"}, nil, []uintptr{stay.Fd(), 2, 2})
	_ = stay.Close()
	if err != nil {
		t.Fatal(err)
	}
	var seen [8]string
	var wait sync.WaitGroup
	for i := range seen {
		wait.Go(func() { seen[i] = start(t, p, "/usr/bin/readlink", "/proc/self/ns/user") })
	}
	wait.Wait()
	for _, s := range seen[1:] {
		if s == "" || s != seen[0] {
			t.Errorf("namespaces %q", seen)
			break
		}
	}
	// It is found by way of a process that is known otherwise, too, and not by way of one that is gone.
	members, _ := filepath.Glob(p.Run + "/rootless/members/*")
	for _, path := range members {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	p.Members = func() []int { return []int{1 << 22, pid} }
	if s := start(t, p, "/usr/bin/readlink", "/proc/self/ns/user"); s != seen[0] {
		t.Errorf("namespace %q after %q", s, seen[0])
	}
	_ = leave.Close()
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		t.Fatal(err)
	}
}

func TestAProgramThatIsNoneFails(t *testing.T) {
	p := place(t)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(text)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pid, err := p.Start(opened(f), []string{"text"}, nil, []uintptr{0, 1, w.Fd()})
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, r); got != "berth: cannot enter the user namespace of the containers\n" {
		t.Errorf("it said %q", got)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 125 {
		t.Errorf("it ended with %v, %v", status, err)
	}
}

func TestNobodyCanWriteToWhatIsReadOnly(t *testing.T) {
	p := place(t)
	path := filepath.Join(t.TempDir(), "program")
	script, err := os.ReadFile("/bin/sh")
	if err == nil {
		err = os.WriteFile(path, script, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pid, err := p.Start(func(ns *os.File) (*os.File, error) { return rootless.ReadOnly(ns, path) },
		[]string{"sh", "-c", "cat /proc/self/exe >/dev/null; (: >>/proc/$$/exe) 2>&1"}, os.Environ(), []uintptr{0, w.Fd(), 2})
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, r); !strings.Contains(got, "Read-only file system") && !strings.Contains(got, "Text file busy") {
		t.Errorf("it said %q", got)
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		t.Fatal(err)
	}
}
