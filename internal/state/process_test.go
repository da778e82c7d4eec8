package state

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	if os.Getenv("STATE_TEST_LEADER_LEAVES") == "" {
		return
	}
	runtime.LockOSThread() // the first thread of the process
	go func() {
		runtime.LockOSThread()
		time.Sleep(time.Minute)
		os.Exit(0)
	}()
	time.Sleep(50 * time.Millisecond)
	_, _, _ = syscall.Syscall(unix.SYS_EXIT, 0, 0, 0)
}

// A command that kills a container met the moment at which a program of several threads executes another, took it for ended,
// sent no signal, and waited.
func TestAProcessWithoutItsFirstThreadLives(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "STATE_TEST_LEADER_LEAVES=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := Process{PID: cmd.Process.Pid, StartTime: StartTime(cmd.Process.Pid)}
	for end := time.Now().Add(10 * time.Second); !firstThreadIsZombie(p.PID); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the first thread has not left")
		}
	}
	fd := p.Open()
	if fd < 0 {
		t.Error("a process of which a thread lives counts as ended")
	} else if err := unix.Close(fd); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Until it is waited for it is there, and has ended.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		fd := p.Open()
		if fd < 0 {
			break
		}
		_ = unix.Close(fd)
		if time.Now().After(end) {
			t.Fatal("a killed process counts as running")
		}
	}
	_ = cmd.Wait()
	if p.Open() >= 0 {
		t.Error("a process that is no more can be opened")
	}
}

func firstThreadIsZombie(pid int) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	for i := len(data) - 1; i > 0; i-- {
		if data[i] == ')' {
			return data[i+2] == 'Z'
		}
	}
	return false
}

// A wall clock that somebody has put forward or back says nothing about how long a container has run.
func TestAgeDoesNotDependOnTheWallClock(t *testing.T) {
	p := Process{PID: os.Getpid(), StartTime: StartTime(os.Getpid())}
	for _, jump := range []time.Duration{-1000 * time.Hour, 0, 1000 * time.Hour} {
		p.StartedAt = time.Now().Add(jump)
		if age := p.Age(); age < 0 || age > time.Hour {
			t.Errorf("after a jump of %s it has run for %s", -jump, age)
		}
	}
	before := p.Age()
	time.Sleep(50 * time.Millisecond)
	if ran := p.Age() - before; ran < 50*time.Millisecond || ran > 30*time.Second {
		t.Errorf("in 50 ms it has run for %s", ran)
	}
	p.StartTime = 0 // it could not be read
	p.StartedAt = time.Now().Add(-time.Hour)
	if age := p.Age(); age < time.Hour {
		t.Errorf("without a start time it has run for %s", age)
	}
}
