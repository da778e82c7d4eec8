package monitor

import (
	"os"

	"golang.org/x/sys/unix"
)

// unknownExit is the exit status of a container whose end nobody saw.
const unknownExit = 255

// waitFor waits for the end of the process behind pidfd and says how it ended.
func waitFor(pidfd, child int) Ended {
	if err := awaitEnd(pidfd); err != nil {
		return Ended{ExitCode: unknownExit, Error: err.Error()}
	}
	return collect(pidfd, child)
}

// awaitEnd waits for the end of the process behind pidfd, and leaves its status where it is. The wait is the poller's: no
// thread is held.
func awaitEnd(pidfd int) error {
	if err := unix.SetNonblock(pidfd, true); err != nil {
		return err
	}
	dup, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(dup), "pidfd")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, _ := unix.Poll(poll, 0)
		return n > 0
	})
}

// collect is how the process behind pidfd, which has ended, did so. child is its pid if it is a child of ours; otherwise its
// status is asked of the kernel (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15).
func collect(pidfd, child int) Ended {
	if child <= 0 {
		return foreignStatus(pidfd)
	}
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(child, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return Ended{ExitCode: unknownExit, Error: "wait4: " + err.Error()}
		default:
			return Ended{ExitCode: exitCode(ws)}
		}
	}
}

// foreignStatus is the status of a process that was somebody else's child.
func foreignStatus(pidfd int) Ended {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(pidfd, &info); err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
		return Ended{ExitCode: exitCode(unix.WaitStatus(info.Exit_code))}
	}
	return Ended{ExitCode: unknownExit, Error: "its monitor was killed, and its exit status is unknown"}
}

// exitCode is docker's: the status, or 128 and the signal.
func exitCode(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
