package host

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// The slack of timers, in nanoseconds (prctl(2), PR_SET_TIMERSLACK): Linux's own, and that of a command that starts containers,
// whose first instructions set it (internal/entry). The thread with which Go's runtime watches the others
// sleeps for 20 microseconds at a time; with Linux's slack it woke a hundred times while a container started, took processors from
// goroutines whose system calls were about to return, and was a tenth of what the start cost.
const (
	exact = 50_000
	calm  = 400_001
)

// Calm makes the timers calm that the program has which this process is about to become. Whoever calls it has the thread to himself
// (runtime.LockOSThread). What is the caller's own wish stays.
func Calm() {
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err == nil && slack == exact {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, calm, 0, 0, 0)
	}
}

// Exactly calls f, which starts a process that is not berth's command, on a thread whose timers are as exact as those of berth's caller: a
// process has those of the thread that starts it. f stays on that thread.
func Exactly(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err == nil && slack == calm {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, exact, 0, 0, 0)
	}
	f()
}
