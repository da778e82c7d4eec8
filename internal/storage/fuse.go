package storage

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

const fuseDevice = "/dev/fuse"

// FuseProgram finds fuse-overlayfs, and says why it cannot be used where that is so.
func FuseProgram() (string, error) {
	program, err := exec.LookPath(Fuse)
	if err != nil {
		return "", errdef.New(errdef.Unsupported, "the program %s is not installed", Fuse)
	}
	if err := unix.Access(fuseDevice, unix.R_OK|unix.W_OK); err != nil {
		return "", errdef.New(errdef.Unsupported, "%s cannot be opened: %w", fuseDevice, err)
	}
	return program, nil
}

// Serve has the files of a container with the driver fuse-overlayfs served, or without a directory of its own those of the layers alone, in a mount that
// is attached to nothing, and the caller's. mount makes the one that is served at an open /dev/fuse; data is the directory that all of the
// container's directories are in.
//
// The program gets its connection to the kernel as a descriptor (libfuse takes "/dev/fd/N" for a mount point since 3.3) and no mount of its
// own: it ends when the last mount of the file system does, the container's or, if nobody has taken it, ours, whoever dies when.
func Serve(p Place, data string, mount func(device *os.File, source string) (*os.File, error)) (_ *os.File, err error) {
	defer func() { err = failed("mount the container's files by "+Fuse, err) }()
	program, err := FuseProgram()
	if err != nil {
		return nil, err
	}
	options, err := fuseOptions(p, data)
	if err != nil {
		return nil, err
	}
	device, err := os.OpenFile(fuseDevice, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	root, err := mount(device, Fuse)
	if err != nil {
		return nil, errors.Join(err, device.Close())
	}
	err = startFuse(program, options, data, device)
	// The program is the only one that has it: when it ends, whoever waits for an answer is told.
	if err = errors.Join(err, device.Close()); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	// The first question waits until the program serves, or has failed to.
	var st unix.Stat_t
	if err := unix.Fstatat(int(root.Fd()), ".", &st, 0); err != nil {
		return nil, errors.Join(errdef.New(errdef.Unavailable, "the program ended at once: %w", err), root.Close())
	}
	return root, nil
}

// fuseOptions names directories relative to the data root, whose own path may have any character in it.
func fuseOptions(p Place, data string) (string, error) {
	relative := func(dir string) (string, error) {
		name, err := filepath.Rel(data, dir)
		if err == nil && strings.ContainsAny(name, `:,\`) {
			err = errdef.New(errdef.Unsupported, "%s has a character in its name that it would not understand", dir)
		}
		return name, err
	}
	var lower []string
	for _, dir := range p.below() {
		name, err := relative(dir)
		if err != nil {
			return "", err
		}
		lower = append(lower, name)
	}
	if p.Dir == "" {
		return "lowerdir=" + strings.Join(lower, ":"), nil
	}
	upper, err := relative(p.Upper())
	if err != nil {
		return "", err
	}
	work, err := relative(p.Work())
	return fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(lower, ":"), upper, work), err
}

// startFuse starts the program in a session of its own: a Ctrl-C is not for it.
func startFuse(program, options, data string, device *os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if err := closeOnExec(); err != nil {
		return err
	}
	n := null.Fd()
	pid, err := syscall.ForkExec(program, []string{Fuse, "-f", "-o", options, "/dev/fd/3"},
		&syscall.ProcAttr{Dir: data, Env: os.Environ(), Files: []uintptr{n, n, n, device.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		return &os.PathError{Op: "execute", Path: program, Err: err}
	}
	go func() { // a monitor stays
		for {
			if _, err := syscall.Wait4(pid, nil, 0, nil); err != unix.EINTR {
				return
			}
		}
	}()
	return nil
}

// closeOnExec has descriptors that this process was started with end with it: the program stays as long as the container, and must not hold what
// somebody waits for the end of.
func closeOnExec() error {
	open, err := os.ReadDir("/proc/self/fd")
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return err
}
