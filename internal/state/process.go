package state

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"time"

	"berth/internal/disk"

	"golang.org/x/sys/unix"
)

// StartTime is when process pid was started, in clock ticks after boot; 0 if there is no such process.
func StartTime(pid int) uint64 {
	data, err := disk.Read("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The second field is the name in parentheses, which may hold anything; the 22nd is what is looked for.
	i := bytes.LastIndexByte(data, ')')
	if i < 0 {
		return 0
	}
	fields := bytes.Fields(data[i+1:])
	if len(fields) < 20 {
		return 0
	}
	n, _ := strconv.ParseUint(string(fields[19]), 10, 64)
	return n
}

// TicksPerSecond is the unit of times in /proc/PID/stat: 100 a second, on every architecture that berth is for.
const TicksPerSecond = 100

// Age is how long ago the container's first process started, whether it still runs or not. It is taken from the clock that runs since the
// boot: StartedAt is what somebody's watch said then, and the host's may have been put forward or back since.
func (p Process) Age() time.Duration {
	var now unix.Timespec
	if p.StartTime == 0 || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return time.Since(p.StartedAt)
	}
	return time.Duration(now.Nano()) - time.Duration(p.StartTime)*(time.Second/TicksPerSecond)
}

// Open returns a pidfd of the container's first process, or -1 if that is no more. The process is the container's for
// certain: its number could only have been reused before the pidfd was opened, and then its start time differs.
func (p Process) Open() int {
	if p.PID <= 0 {
		return -1
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return -1
	}
	if t := StartTime(p.PID); t == 0 || t != p.StartTime || ended(fd) {
		_ = unix.Close(fd)
		return -1
	}
	return fd
}

// Network opens the network namespace of a container that runs; it is nil of one that does not. It is the container's for certain, as
// with Open.
func (p Process) Network() (*os.File, error) { return p.Namespace("net") }

// Namespace is Network for the namespace with that name in /proc/PID/ns.
func (p Process) Namespace(name string) (*os.File, error) {
	pidfd := p.Open()
	if pidfd < 0 {
		return nil, nil
	}
	defer unix.Close(pidfd)
	ns, err := os.Open("/proc/" + strconv.Itoa(p.PID) + "/ns/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it has ended meanwhile
	}
	if err != nil {
		return nil, err
	}
	if unix.PidfdSendSignal(pidfd, 0, nil, 0) != nil { // the number may be another's by now
		return nil, ns.Close()
	}
	return ns, nil
}

// ended reports whether a process has ended with all its threads: only then is its pidfd readable (Linux 5.3). The state in
// /proc/PID/stat is that of the first thread, which may be a zombie while others live, or go on to execve.
func ended(pidfd int) bool {
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 0)
		if err != unix.EINTR {
			return err == nil && n > 0
		}
	}
}
