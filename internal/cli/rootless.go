package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"berth/internal/errdef"
	"berth/internal/host"

	"golang.org/x/sys/unix"
)

// cmdUnshare runs a command, or the user's shell, as root of the user namespace of his containers, with mounts of its own.
func (c *call) cmdUnshare() error {
	if _, inside := host.Inside(); !inside {
		return errdef.New(errdef.Unsupported, "berth unshare is for users without root: here every id is yours already")
	}
	args := c.args
	if len(args) == 0 {
		args = []string{shell()}
	}
	path, err := exec.LookPath(args[0])
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, exec.ErrNotFound):
		return errdef.New(errdef.NoCommand, "cannot find the command %s", args[0])
	case err != nil:
		return errdef.New(errdef.NotExecutable, "cannot run the command %s: %w", args[0], err)
	}
	runtime.LockOSThread() // the mounts are this thread's, which is the one that executes the command
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot make a mount namespace: %w", os.NewSyscallError("unshare", err))
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("cannot keep mounts from the host: %w", os.NewSyscallError("mount", err))
	}
	unix.Umask(int(c.umask))
	return fmt.Errorf("cannot run the command %s: %w", args[0], os.NewSyscallError("execve", syscall.Exec(path, args, os.Environ())))
}

func shell() string {
	if s := os.Getenv("SHELL"); strings.HasPrefix(s, "/") {
		return s
	}
	return "/bin/sh"
}

// cmdReset removes all that is berth's.
func (c *call) cmdReset() error {
	yes, err := c.confirm(fmt.Sprintf("all containers, volumes, networks and images, and all else of berth's in %s and %s", c.settings.DataRoot, c.settings.RunRoot))
	if err != nil || !yes {
		return err
	}
	e, err := c.engine()
	if err != nil {
		return err
	}
	return e.Reset()
}
