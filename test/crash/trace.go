package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tracer follows processes from system call to system call (ptrace(2)) and kills one after its n-th. All of its methods run
// on one operating system thread, because the kernel ties a tracee to the thread that traces it.
type tracer struct {
	kill   int    // after how many system calls; a number that is never reached only counts
	find   string // argv[0] of the program to kill when it is not the one that was started, or firstProcess
	target int    // the process to kill, 0 while it is not known
	early  bool   // the target has not executed its program yet
	calls  int
	killed bool
	owner  map[int]int // thread -> process, of all threads that are traced
}

// outcome is what came of a traced run.
type outcome struct {
	calls  int // of the process to be killed
	killed bool
	exit   int // of the command; -1 if it was killed
	output string
	stderr string
	hung   bool
}

const (
	callStop   = unix.SIGTRAP | 0x80 // PTRACE_O_TRACESYSGOOD
	followSelf = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEEXEC
	followAll  = followSelf | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK
	infoExit   = 2                      // PTRACE_SYSCALL_INFO_EXIT
	settled    = 150 * time.Millisecond // a process that has made no system call for so long waits for something
	patience   = 30 * time.Second
)

// start runs a command and kills it, or the program that it starts with the name find, or the container's first process, after n
// system calls.
func (in *instance) start(args []string, find string, n int) (outcome, error) {
	argv, env, scratch := in.argv(args...), in.env(), in.dir
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := os.Create(filepath.Join(scratch, "stdout"))
	if err != nil {
		return outcome{}, err
	}
	defer out.Close()
	errs, err := os.Create(filepath.Join(scratch, "stderr"))
	if err != nil {
		return outcome{}, err
	}
	defer errs.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return outcome{}, err
	}
	defer null.Close()
	wait, goOn, err := os.Pipe()
	if err != nil {
		return outcome{}, err
	}
	defer goOn.Close()
	// Not PTRACE_TRACEME, with which a program that is setuid, like newuidmap, has only the rights that its caller has: the tracer's
	// rights are taken to be those of whoever asks for it (ptrace_traceme of kernel/ptrace.c).
	p, err := os.StartProcess("/bin/sh", append([]string{"sh", "-c", `read word <&3; exec "$@" 3<&-`, "sh"}, argv...),
		&os.ProcAttr{Env: env, Files: []*os.File{null, out, errs, wait}, Sys: in.attributes()})
	_ = wait.Close()
	if err != nil {
		return outcome{}, err
	}
	pid := p.Pid
	if err := p.Release(); err != nil {
		return outcome{}, err
	}
	t := &tracer{kill: n, find: find, owner: map[int]int{pid: pid}}
	options := followAll
	if find == "" {
		t.target, t.early, options = pid, true, followSelf
	}
	if err := attach(pid, options); err != nil {
		return outcome{}, err
	}
	if _, err := goOn.WriteString("go\n"); err != nil {
		return outcome{}, err
	}
	o := outcome{exit: -1}
	o.hung = t.follow(pid, &o.exit, func() bool { return t.owner[pid] == 0 })
	o.calls, o.killed = t.calls, t.killed
	data, err1 := os.ReadFile(out.Name())
	words, err2 := os.ReadFile(errs.Name())
	o.output, o.stderr = string(data), string(words)
	if err1 != nil {
		return o, err1
	}
	return o, err2
}

// attach traces a thread from here on, and stops it.
func attach(tid, options int) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, uintptr(options), 0, 0); errno != 0 {
		return os.NewSyscallError("ptrace", errno)
	}
	return os.NewSyscallError("ptrace", unix.PtraceInterrupt(tid))
}

// seize kills a process that runs already after n system calls from when during has begun.
func seize(pid, n int, during func() outcome) (outcome, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	t := &tracer{kill: n, target: pid, owner: map[int]int{}}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return outcome{}, err
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			return outcome{}, err
		}
		if err := attach(tid, followSelf); errors.Is(err, unix.ESRCH) {
			continue // a thread that has just ended
		} else if err != nil {
			return outcome{}, err
		}
		t.owner[tid] = pid
	}
	result := make(chan outcome, 1)
	// Elsewhere: this thread waits for all of its children.
	go func() { result <- during() }()
	var o outcome
	over := false
	hung := t.follow(0, nil, func() bool {
		select {
		case o = <-result:
			over = true
		default:
		}
		return over
	})
	if !over {
		o = <-result
	}
	o.hung = o.hung || hung
	o.calls, o.killed = t.calls, t.killed
	return o, nil
}

// follow waits for the tracees until over and the target has ended or comes to rest; it reports whether that took too long.
func (t *tracer) follow(command int, exit *int, over func() bool) (hung bool) {
	began, last := time.Now(), time.Now()
	for idle := 0; ; {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOHANG|unix.WNOTHREAD, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil && over():
			return false
		case err == nil && tid > 0:
			if tid == command && ws.Exited() {
				*exit = ws.ExitStatus()
			}
			t.handle(tid, ws)
			last, idle = time.Now(), 0
			continue
		}
		if time.Since(last) > settled && over() {
			t.letGo()
			return false
		}
		if time.Since(began) > patience {
			for _, pid := range t.owner {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			return true
		}
		if idle++; idle > 50 {
			time.Sleep(50 * time.Microsecond)
		}
	}
}

func (t *tracer) handle(tid int, ws unix.WaitStatus) {
	if ws.Exited() || ws.Signaled() {
		delete(t.owner, tid)
		return
	}
	if !ws.Stopped() {
		return
	}
	pid, known := t.owner[tid]
	if !known {
		if pid = processOf(tid); pid == 0 {
			return
		}
		t.owner[tid] = pid
	}
	signal, event := ws.StopSignal(), int(uint32(ws)>>16)
	switch {
	case !known && pid != t.target && t.target != 0:
		t.detach(tid)
		return
	case !known: // a new thread or process begins with a stop
		signal = 0
		if t.target == 0 && t.find == firstProcess && isFirst(tid) {
			t.target = pid
			_ = unix.PtraceSetOptions(tid, followSelf)
		}
	case signal == callStop:
		signal = 0
		if pid == t.target && !t.early && !t.killed && atExit(tid) {
			if t.calls++; t.calls == t.kill {
				t.killed = true
				_ = unix.Kill(pid, unix.SIGKILL)
				return
			}
		}
	case event == unix.PTRACE_EVENT_EXEC && t.target == 0:
		signal = 0
		if name(tid) == t.find {
			t.target = pid
			_ = unix.PtraceSetOptions(tid, followSelf)
		} else if pid != tid {
			t.detach(tid)
			return
		}
	case event == unix.PTRACE_EVENT_EXEC && pid == t.target:
		signal, t.early = 0, false
	case event != 0 || signal == unix.SIGTRAP:
		signal = 0
	}
	t.resume(tid, int(signal))
}

func (t *tracer) resume(tid, signal int) {
	if t.owner[tid] == t.target && !t.killed {
		_ = unix.PtraceSyscall(tid, signal)
		return
	}
	_ = unix.PtraceCont(tid, signal)
}

func (t *tracer) detach(tid int) {
	delete(t.owner, tid)
	_ = unix.PtraceDetach(tid)
}

// letGo detaches from all that is left, which has to be stopped for that, and from threads that are made meanwhile: one that is forgotten
// is stopped for ever, and its process with it. It waits for no thread in particular: the first of a process that was killed is seen to
// end after the others.
func (t *tracer) letGo() {
	for tid, pid := range t.owner {
		if unix.Tgkill(pid, tid, unix.SIGSTOP) != nil { // it has gone with an execve of another thread, of which nothing is heard
			delete(t.owner, tid)
		}
	}
	const enough = 3 * time.Second
	began := time.Now()
	for last := began; time.Since(began) < enough; {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOHANG|unix.WNOTHREAD, nil)
		_, known := t.owner[tid]
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || tid == 0 && len(t.owner) == 0 && time.Since(last) > 20*time.Millisecond:
			return
		case tid == 0:
			time.Sleep(200 * time.Microsecond)
			continue
		case ws.Exited() || ws.Signaled():
			delete(t.owner, tid)
		case !known || ws.StopSignal() == unix.SIGSTOP:
			t.detach(tid)
		default:
			_ = unix.PtraceCont(tid, 0)
		}
		last = time.Now()
	}
}

// atExit reports whether a thread that is stopped at a system call is at its end (PTRACE_GET_SYSCALL_INFO, Linux 5.3).
func atExit(tid int) bool {
	var info [88]byte
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, 0x420e, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	return errno == 0 && info[0] == infoExit
}

// firstProcess stands for the first process of a container, which has no name before it executes its program.
const firstProcess = "the first process"

// isFirst reports whether a process is the first of a pid namespace that is not ours.
func isFirst(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			numbers := strings.Fields(rest)
			return len(numbers) > 1 && numbers[len(numbers)-1] == "1"
		}
	}
	return false
}

func processOf(tid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "Tgid:"); ok {
			pid, _ := strconv.Atoi(strings.TrimSpace(rest))
			return pid
		}
	}
	return 0
}

func name(pid int) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	first, _, _ := strings.Cut(string(data), "\x00")
	return first
}
