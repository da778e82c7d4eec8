package seccomp

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The tests of this file run the test binary again, with this variable set: that child puts a filter on one of its
// threads, makes system calls there and prints what came of them.
const childVariable = "BERTH_SECCOMP_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childVariable); mode != "" {
		child(mode)
	}
	os.Exit(m.Run())
}

// child never returns.
func child(mode string) {
	runtime.LockOSThread()
	p := Default(nil, runtime.GOARCH, modern)
	opt := Options{Arch: runtime.GOARCH, TrustSocketcall: mode == "trust"}
	switch mode {
	case "native":
		p.Architectures = nil
	case "large":
		p = largeProfile(1000)
	}
	filter, err := compile(p, opt, mode == "registers")
	if err != nil {
		fatal("%v", err)
	}
	enter32 := machineCode32()
	results := make(chan string)
	thread := make(chan int)
	go func() {
		runtime.LockOSThread()
		thread <- unix.Gettid()
		if err := install(filter); err != nil {
			fatal("seccomp: %v", err)
		}
		var out strings.Builder
		switch mode {
		case "native":
			_, _, errno := unix.RawSyscall(unix.SYS_GETPID|x32Bit, 0, 0, 0)
			fmt.Fprintf(&out, "survived with %v\n", errno)
		case "large":
			_, _, errno := unix.RawSyscall(unix.SYS_KEYCTL, 0, 0, 0)
			fmt.Fprintf(&out, "keyctl: %s\n", errnoName(errno))
		default:
			probe(&out, enter32)
		}
		results <- out.String()
	}()
	tid := <-thread
	for range 500 {
		select {
		case text := <-results:
			os.Stdout.WriteString(text)
			os.Exit(0)
		case <-time.After(10 * time.Millisecond):
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid)); err != nil {
			fmt.Println("thread killed")
			os.Exit(0)
		}
	}
	fatal("the thread with the filter does not answer")
}

func fatal(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(3)
}

// install puts the filter on the calling thread.
func install(filter Filter) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter.Program)), Filter: &filter.Program[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(filter.Flags), uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return errno
	}
	return nil
}

// probe makes system calls and writes one line for each: its name and the errno.
func probe(out *strings.Builder, enter32 func(*[8]uint32) int) {
	try := func(name string, number, a, b, c uintptr) {
		r, _, errno := unix.RawSyscall6(number, a, b, c, 0, 0, 0)
		if strings.HasPrefix(name, "clone ") && errno == 0 && r == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0) // the filter has failed, and this is the clone
		}
		if strings.HasPrefix(name, "socket ") && errno == 0 {
			unix.Close(int(r))
		}
		fmt.Fprintf(out, "%s: %s\n", name, errnoName(errno))
	}
	try("getpid", unix.SYS_GETPID, 0, 0, 0)
	try("keyctl", unix.SYS_KEYCTL, 0, 0, 0)
	try("number 2000", 2000, 0, 0, 0)
	try("clone3", unix.SYS_CLONE3, 0, 0, 0)
	try("clone with CLONE_NEWUSER", unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0)
	try("unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUTS, 0, 0)
	try("personality without randomization", unix.SYS_PERSONALITY, 0x0040000, 0, 0)
	try("personality asked", unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
	try("socket AF_UNIX", unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	try("socket AF_ALG", unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
	try("socket AF_ALG with upper bits", unix.SYS_SOCKET, 1<<32|unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
	try("socket AF_VSOCK with upper bits", unix.SYS_SOCKET, 1<<63|unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if runtime.GOARCH == "amd64" {
		try("x32 socket AF_ALG", unix.SYS_SOCKET|x32Bit, unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
		try("x32 keyctl", uintptr(lookup("keyctl").numbers[x32])|x32Bit, 0, 0, 0)
	}
	if enter32 == nil {
		return
	}
	try32 := func(name string, args [8]uint32, socketArgs ...uint32) {
		// Arguments of socketcall lie where a 32-bit pointer reaches: behind the machine code.
		if socketArgs != nil {
			copy(low32, socketArgs)
			args[2] = uint32(uintptr(unsafe.Pointer(&low32[0])))
		}
		r := enter32(&args)
		errno := unix.Errno(0)
		if r < 0 {
			errno = unix.Errno(-r)
		} else if strings.Contains(name, "socket") {
			unix.Close(r)
		}
		fmt.Fprintf(out, "%s: %s\n", name, errnoName(errno))
	}
	try32("i386 getpid", [8]uint32{20})
	try32("i386 keyctl", [8]uint32{288})
	try32("i386 socket AF_UNIX", [8]uint32{359, unix.AF_UNIX, unix.SOCK_STREAM})
	try32("i386 socket AF_ALG", [8]uint32{359, unix.AF_ALG, unix.SOCK_SEQPACKET})
	try32("i386 socketcall socket AF_UNIX", [8]uint32{102, 1}, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	try32("i386 socketcall socket AF_ALG", [8]uint32{102, 1}, unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
	try32("i386 socketcall accept", [8]uint32{102, 5}, 0xffffffff, 0, 0)
}

func errnoName(errno unix.Errno) string {
	if errno == 0 {
		return "ok"
	}
	return unix.ErrnoName(errno)
}

// low32 is memory below 4 GiB.
var low32 []uint32

// machineCode32 returns a function that makes a system call as a 32-bit program does, by int 0x80: number, then
// arguments. It is nil where that cannot be: on arm64, and if the kernel has no 32-bit entry.
func machineCode32() func(*[8]uint32) int {
	if runtime.GOARCH != "amd64" || os.Getenv(childVariable+"_NO32") != "" {
		return nil
	}
	// Go passes the argument in RAX, takes the result from there, and wants back nothing but RSP, RBP and R14.
	code := []byte{
		0x55, 0x50, // push rbp; push rax
		0x8b, 0x58, 0x04, // mov ebx, [rax+4]
		0x8b, 0x48, 0x08, // mov ecx, [rax+8]
		0x8b, 0x50, 0x0c, // mov edx, [rax+12]
		0x8b, 0x70, 0x10, // mov esi, [rax+16]
		0x8b, 0x78, 0x14, // mov edi, [rax+20]
		0x8b, 0x68, 0x18, // mov ebp, [rax+24]
		0x8b, 0x00, // mov eax, [rax]
		0xcd, 0x80, // int 0x80
		0x59, 0x5d, // pop rcx; pop rbp
		0x48, 0x98, // cdqe
		0xc3, // ret
	}
	const map32bit = 0x40 // MAP_32BIT, which only x86 has
	memory, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|map32bit)
	if err != nil {
		fatal("mmap: %v", err)
	}
	copy(memory, code)
	low32 = unsafe.Slice((*uint32)(unsafe.Pointer(&memory[4096])), 16)
	entry := &memory[0]
	function := &entry
	return *(*func(*[8]uint32) int)(unsafe.Pointer(&function))
}

// inChild returns what the child of a mode printed, line by line.
func inChild(t *testing.T, mode string) map[string]string {
	t.Helper()
	run := func(extra ...string) (string, string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(append(os.Environ(), childVariable+"="+mode), extra...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		return stdout.String(), stderr.String(), err
	}
	stdout, stderr, err := run()
	if err != nil && strings.Contains(stderr, "SIGSEGV") {
		t.Log("the kernel has no 32-bit entry: without the calls of i386")
		stdout, stderr, err = run(childVariable + "_NO32=1")
	}
	if err != nil {
		t.Fatalf("the child ended with %v: %s", err, stderr)
	}
	results := map[string]string{}
	for line := range strings.Lines(stdout) {
		name, result, _ := strings.Cut(strings.TrimSpace(line), ": ")
		results[name] = result
	}
	return results
}

func TestDefaultFilterInTheKernel(t *testing.T) {
	strict := map[string]string{
		"getpid":                            "ok",
		"keyctl":                            "EPERM",
		"number 2000":                       "ENOSYS",
		"clone3":                            "ENOSYS",
		"clone with CLONE_NEWUSER":          "EPERM",
		"unshare":                           "EPERM",
		"personality without randomization": "EPERM",
		"personality asked":                 "ok",
		"socket AF_UNIX":                    "ok",
		"socket AF_ALG":                     "EPERM",
		"socket AF_ALG with upper bits":     "EPERM",
		"socket AF_VSOCK with upper bits":   "EPERM",
		"x32 socket AF_ALG":                 "EPERM",
		"x32 keyctl":                        "EPERM",
		"i386 getpid":                       "ok",
		"i386 keyctl":                       "EPERM",
		"i386 socket AF_UNIX":               "ok",
		"i386 socket AF_ALG":                "EPERM",
		"i386 socketcall socket AF_UNIX":    "EPERM",
		"i386 socketcall socket AF_ALG":     "EPERM",
		"i386 socketcall accept":            "EBADF",
	}
	results := inChild(t, "strict")
	if len(results) < 12 {
		t.Fatalf("only %v", results)
	}
	for name, got := range results {
		if want, known := strict[name]; !known || got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestWithoutTheDefencesFiltersAreEscaped(t *testing.T) {
	// EPERM is the filter's word; anything else means that the kernel was asked for a socket.
	if got := inChild(t, "registers")["socket AF_ALG with upper bits"]; got == "EPERM" {
		t.Errorf("AF_ALG with upper bits: %s although whole registers are compared", got)
	}
	trusting := inChild(t, "trust")
	if _, ok := trusting["i386 getpid"]; !ok {
		t.Skip("the kernel has no 32-bit entry")
	}
	if got := trusting["i386 socketcall socket AF_UNIX"]; got != "ok" {
		t.Errorf("a trusted socketcall makes no socket: %s", got)
	}
	if got := trusting["i386 socketcall socket AF_ALG"]; got == "EPERM" {
		t.Errorf("AF_ALG through a trusted socketcall: %s", got)
	}
	if got := trusting["i386 socket AF_ALG"]; got != "EPERM" {
		t.Errorf("AF_ALG through the direct call: %s", got)
	}
}

func TestCallOfAnArchitectureNotListedKillsTheThread(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("x32 is an architecture of x86-64 kernels")
	}
	if results := inChild(t, "native"); results == nil || len(results) != 1 {
		t.Fatal(results)
	} else if _, killed := results["thread killed"]; !killed {
		t.Errorf("after a call of x32: %v", results)
	}
}

// The kernel checks every jump and load. A program of nearly 4096 instructions has jumps of every kind.
func TestKernelTakesTheLargestFilter(t *testing.T) {
	filter := mustCompile(t, largeProfile(1000), Options{Arch: runtime.GOARCH})
	t.Logf("%d instructions", len(filter.Program))
	if results := inChild(t, "large"); results["keyctl"] != "EPERM" {
		t.Error(results)
	}
}
