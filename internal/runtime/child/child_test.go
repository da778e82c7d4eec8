package child

import (
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"berth/internal/runtime/plan"

	"golang.org/x/sys/unix"
)

var (
	callExecve = plan.Call{Nr: unix.SYS_EXECVE, Name: "execve"}
	callMkdir  = plan.Call{Nr: unix.SYS_MKDIRAT, Name: "mkdirat"}
)

func num(n int) plan.Int { return plan.Int{V: uintptr(n)} }

// program runs a shell that exits with a status.
func program(script string, before ...plan.Op) *plan.Program {
	ops := append([]plan.Op{{Special: plan.Reset, What: "reset signals"}}, before...)
	ops = append(ops, plan.Op{
		Special: plan.Exec, Call: callExecve, What: "start the program",
		Args: []plan.Arg{plan.Str("/bin/sh"), plan.Strings{"sh", "-c", script}, plan.Strings{"A=b"}},
	})
	return &plan.Program{Ops: ops}
}

func status(t testing.TB, c *Child) int {
	t.Helper()
	var ws unix.WaitStatus
	if _, err := unix.Wait4(c.PID, &ws, 0, nil); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(c.PIDFD)
	return ws.ExitStatus()
}

func TestChildRunsItsProgramToExecve(t *testing.T) {
	for _, waits := range []bool{false, true} {
		p := program(`test "$A" = b && exit 42`)
		p.Waits = waits
		c, err := Start(p, Options{})
		if err == nil {
			err = c.Wait()
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := status(t, c); got != 42 {
			t.Errorf("waits=%v: exit status %d", waits, got)
		}
	}
}

func TestFailureNamesTheOperation(t *testing.T) {
	bad := plan.Op{Call: callMkdir, What: "make a place", Args: []plan.Arg{num(unix.AT_FDCWD), plan.Str("/proc/no"), num(0o755)}}
	for _, waits := range []bool{false, true} {
		p := program("exit 0", bad)
		p.Waits = waits
		c, err := Start(p, Options{})
		if err == nil {
			err = c.Wait()
		}
		var f *Failure
		if !errors.As(err, &f) || f.Index != 1 || f.Errno != syscall.ENOENT {
			t.Errorf("waits=%v: %v", waits, err)
		}
	}
}

func TestToleratedFailureSkips(t *testing.T) {
	missing := plan.Op{
		Call: callMkdir, What: "x", Args: []plan.Arg{num(unix.AT_FDCWD), plan.Str("/proc/no"), num(0o755)},
		Tolerate: []syscall.Errno{syscall.ENOENT}, SkipTolerated: 1,
	}
	fatal := missing
	fatal.Tolerate = nil
	c, err := Start(program("exit 7", missing, fatal), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := status(t, c); got != 7 {
		t.Errorf("exit status %d", got)
	}
}

func TestSplitContinuesAsASibling(t *testing.T) {
	for _, waits := range []bool{false, true} {
		p := program("exit $((PPID == "+itoa(os.Getpid())+" ? 3 : 4))", plan.Op{Special: plan.Clone, What: "enter the pid namespace"})
		p.Waits = waits
		c, err := Start(p, Options{})
		if err == nil {
			err = c.Wait()
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := status(t, c); got != 3 {
			t.Errorf("waits=%v: the program's parent is not ours: status %d", waits, got)
		}
	}
}

// A failure behind a split must leave no zombie: one in a container's pid namespace would keep that from ending.
func TestFailureBehindASplitIsReaped(t *testing.T) {
	for _, waits := range []bool{false, true} {
		p := program("exit 0", plan.Op{Special: plan.Clone, What: "split"},
			plan.Op{Call: callMkdir, What: "x", Args: []plan.Arg{num(unix.AT_FDCWD), plan.Str("/proc/no"), num(0o755)}})
		p.Waits = waits
		c, err := Start(p, Options{})
		if err == nil {
			err = c.Wait()
		}
		if !errors.Is(err, syscall.ENOENT) {
			t.Fatalf("waits=%v: %v", waits, err)
		}
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
			t.Errorf("waits=%v: child %d is left (%v)", waits, pid, err)
		}
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

func TestMissingCommandIsToldFromOneThatMayNotRun(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/plain", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	try := func(path string, tolerate bool) plan.Op {
		op := plan.Op{Special: plan.Exec, Call: callExecve, What: "start", Args: []plan.Arg{plan.Str(path), plan.Strings{"x"}, plan.Strings{}}}
		if tolerate {
			op.Tolerate = []syscall.Errno{syscall.ENOENT, syscall.EACCES}
		}
		return op
	}
	for _, c := range []struct {
		name  string
		paths []string
		want  syscall.Errno
	}{
		{"missing everywhere", []string{"/no/a", "/no/b"}, syscall.ENOENT},
		{"found once without the right to execute", []string{dir + "/plain", "/no/b"}, syscall.EACCES},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &plan.Program{}
			for i, path := range c.paths {
				p.Ops = append(p.Ops, try(path, i < len(c.paths)-1))
			}
			_, err := Start(p, Options{})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// The parent's collector and scheduler work on while children share its memory; neither may notice the other.
func TestUnderGarbageCollection(t *testing.T) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var sink [][]byte
			for {
				select {
				case <-stop:
					return
				default:
				}
				sink = append(sink, make([]byte, 64<<10))
				if len(sink) > 100 {
					sink = nil
					runtime.GC()
				}
			}
		})
	}
	rounds := 100
	if testing.Short() {
		rounds = 10
	}
	var starters sync.WaitGroup
	for w := range 4 {
		starters.Go(func() {
			for i := range rounds {
				p := program("exit 5")
				p.Waits = (i+w)%2 == 0
				c, err := Start(p, Options{})
				if err == nil {
					err = c.Wait()
				}
				if err != nil {
					t.Error(err)
					return
				}
				if got := status(t, c); got != 5 {
					t.Errorf("exit status %d", got)
				}
			}
		})
	}
	starters.Wait()
	close(stop)
	wg.Wait()
}

// under runs script as the child of a process that becomes another shell, which prints what it has been given.
func under(t *testing.T, p *plan.Program, parentScript string) (c *Child, printed string, err error) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	parent := plan.CompileParent(plan.ParentInput{Args: []string{"sh", "-c", parentScript}, Files: 3})
	shell, err := os.Open("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	defer shell.Close()
	p.Waits = true
	c, pid, err := StartUnder(p, Options{}, parent, map[string]int{
		plan.InProgram: int(shell.Fd()), plan.InFile(0): int(null.Fd()), plan.InFile(1): int(write.Fd()), plan.InFile(2): int(write.Fd()),
	})
	_ = write.Close()
	if err == nil {
		err = c.Wait()
	}
	if pid == 0 {
		return c, "", err
	}
	data, readErr := io.ReadAll(read)
	if readErr != nil {
		t.Fatal(readErr)
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		t.Fatal(err)
	}
	return c, string(data), err
}

func TestChildOfAnotherProcess(t *testing.T) {
	for _, split := range []bool{false, true} {
		p := program(`sleep 0.2; exit 5`)
		if split {
			p = program(`sleep 0.2; exit 5`, plan.Op{Special: plan.Clone, What: "enter the pid namespace"})
		}
		// The shell is the parent of what it has not started itself: its children are those that the kernel names.
		c, printed, err := under(t, p, `sleep 0.1; read children < /proc/self/task/$$/children; echo $children; pwd; sleep 0.5`)
		if err != nil {
			t.Fatal(err)
		}
		if want := itoa(c.PID) + "\n/\n"; printed != want {
			t.Errorf("split=%v: the parent printed %q, not %q", split, printed, want)
		}
		if (c.Left != 0) != split {
			t.Errorf("split=%v: process %d has ended by a split", split, c.Left)
		}
	}
}

func TestFailuresUnderAnotherProcess(t *testing.T) {
	bad := plan.Op{Call: callMkdir, What: "make a place", Args: []plan.Arg{num(unix.AT_FDCWD), plan.Str("/proc/no"), num(0o755)}}
	_, _, err := under(t, program("exit 0", bad), "exit 0")
	var f *Failure
	if !errors.As(err, &f) || f.Index != 1 || f.Errno != syscall.ENOENT {
		t.Errorf("an operation of the child: %v", err)
	}
	// The parent cannot execute its program: the child is there, and its number is known.
	parent := plan.CompileParent(plan.ParentInput{Args: []string{"x"}})
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	noProgram := map[string]int{plan.InProgram: int(null.Fd())}
	p := program("exec sleep 60")
	p.Waits = true
	c, _, err := StartUnder(p, Options{}, parent, noProgram)
	if !errors.As(err, &f) || f.Op.Special != plan.Exec || f.Errno != syscall.EACCES || c == nil {
		t.Fatalf("a parent without a program: %v", err)
	}
	if err := unix.Kill(c.PID, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	// No child can be made: nothing is left.
	p = program("exit 0")
	p.Waits, p.CloneFlags = true, unix.CLONE_SIGHAND // which needs CLONE_VM
	c, _, err = StartUnder(p, Options{}, plan.CompileParent(plan.ParentInput{Args: []string{"true"}}), noProgram)
	if !errors.Is(err, syscall.EINVAL) || c != nil {
		t.Errorf("a child that cannot be made: %v", err)
	}
	if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("a child is left: %v", err)
	}
}
