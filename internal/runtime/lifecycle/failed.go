package lifecycle

import (
	"errors"
	"os"
	"syscall"

	"berth/internal/runtime/child"
	"berth/internal/runtime/needs"
)

// FailedCall finds the system call whose failure is the cause of err: an operation of a child, or one of ours.
func FailedCall(err error) (needs.Failed, bool) {
	var (
		operation *child.Failure
		call      *os.SyscallError
		path      *os.PathError
		errno     syscall.Errno
	)
	switch {
	case errors.As(err, &operation):
		return needs.Failed{Call: operation.Op.Call.Name, Errno: operation.Errno}, true
	case !errors.As(err, &errno):
		return needs.Failed{}, false
	case errors.As(err, &path):
		return needs.Failed{Call: path.Op, Errno: errno, Path: path.Path}, true
	case errors.As(err, &call):
		return needs.Failed{Call: call.Syscall, Errno: errno}, true
	}
	return needs.Failed{}, false
}
