package cli_test

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"unsafe"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// Of linux/seccomp.h, which golang.org/x/sys does not have for every architecture.
const (
	ioctlNotifRecv = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	ioctlNotifSend = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
)

// notifier is the script command `notifier SOCKET FILE`: somebody who listens at the socket for the filters of containers, writes what is
// said of them to the file, and answers every system call that he is asked about with EOPNOTSUPP. A process whose pidfd comes he kills.
func notifier(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: notifier SOCKET FILE")
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: ts.MkAbs(args[0]), Net: "unix"})
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	file := ts.MkAbs(args[1])
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			message, control := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
			n, m, _, _, err := c.ReadMsgUnix(message, control)
			_ = c.Close()
			if err != nil {
				continue
			}
			fds, err := rights(control[:m])
			if err == nil {
				_ = os.WriteFile(file, message[:n], 0o644)
			}
			switch {
			case err != nil:
			case string(message[:n]) == "pidfd":
				_ = unix.PidfdSendSignal(fds, unix.SIGKILL, nil, 0)
				_ = unix.Close(fds)
			default:
				go answer(fds)
			}
		}
	}()
}

func rights(control []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil || len(messages) != 1 {
		return 0, errors.New("no descriptor came")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return 0, errors.New("no descriptor came")
	}
	return fds[0], nil
}

// answer ends with the last process that has the filter.
func answer(fd int) {
	defer unix.Close(fd)
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR || poll[0].Revents&unix.POLLHUP != 0 {
			return
		}
		var asked [80]byte // struct seccomp_notif; its first field is the number of the question
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlNotifRecv, uintptr(unsafe.Pointer(&asked))); errno != 0 {
			continue
		}
		var reply [24]byte // struct seccomp_notif_resp: id, val, error, flags
		copy(reply[:8], asked[:8])
		refusal := -int32(unix.EOPNOTSUPP)
		binary.NativeEndian.PutUint32(reply[16:], uint32(refusal))
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlNotifSend, uintptr(unsafe.Pointer(&reply)))
	}
}
