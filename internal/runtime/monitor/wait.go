package monitor

import (
	"os"

	"golang.org/x/sys/unix"
)

// unknownExit is the exit status of a container whose end nobody saw.
const unknownExit = 255

// waitFor waits for the end of the process behind pidfd. The wait is the poller's: no thread is held. child is its pid if it is a child
// of ours; otherwise its status is asked of the kernel (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15).
func waitFor(pidfd, child int) Ended {
	if err := unix.SetNonblock(pidfd, true); err != nil {
		return Ended{ExitCode: unknownExit, Error: err.Error()}
	}
	dup, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return Ended{ExitCode: unknownExit, Error: err.Error()}
	}
	f := os.NewFile(uintptr(dup), "pidfd")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return Ended{ExitCode: unknownExit, Error: err.Error()}
	}
	var exit Ended
	err = raw.Read(func(fd uintptr) bool {
		if child > 0 {
			var ws unix.WaitStatus
			pid, err := unix.Wait4(child, &ws, unix.WNOHANG, nil)
			switch {
			case err == unix.EINTR || err == nil && pid == 0:
				return false
			case err != nil:
				exit = Ended{ExitCode: unknownExit, Error: "wait4: " + err.Error()}
			default:
				exit = Ended{ExitCode: exitCode(ws)}
			}
			return true
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(poll, 0); n == 0 {
			return false
		}
		exit = foreignStatus(int(fd))
		return true
	})
	if err != nil {
		return Ended{ExitCode: unknownExit, Error: err.Error()}
	}
	return exit
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
