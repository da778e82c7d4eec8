package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// disk is an ext4 file system in a file.
type disk struct {
	device string
	dir    string
	loop   *os.File // held open: the kernel gives the loop device back with its last user
}

const (
	shutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN, fs/ext4/ext4.h
	noLogFlush = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
)

func newDisk(scratch string) (*disk, error) {
	path := filepath.Join(scratch, "disk")
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := file.Truncate(512 << 20); err != nil {
		return nil, err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-J", "size=16", path).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot make a file system: %w: %s", err, out)
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	d := &disk{dir: filepath.Join(scratch, "mnt")}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("ioctl LOOP_CTL_GET_FREE", err)
		}
		d.device = fmt.Sprintf("/dev/loop%d", n)
		if d.loop, err = os.OpenFile(d.device, os.O_RDWR, 0); err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(int(d.loop.Fd()), &config)
		if err == nil {
			return d, d.mount()
		}
		_ = d.loop.Close()
		if err != unix.EBUSY || try == 10 { // somebody else was quicker
			return nil, os.NewSyscallError("ioctl LOOP_CONFIGURE", err)
		}
	}
}

func (d *disk) mount() error {
	return os.NewSyscallError("mount", unix.Mount(d.device, d.dir, "ext4", 0, ""))
}

// cut ends all writing at once.
func (d *disk) cut() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := uint32(noLogFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		return os.NewSyscallError("ioctl EXT4_IOC_SHUTDOWN", errno)
	}
	return nil
}

// remount brings the file system back, as the next boot would. Mount namespaces of killed containers go a moment later.
func (d *disk) remount() error {
	if err := unix.Unmount(d.dir, 0); err != nil {
		return os.NewSyscallError("umount", err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		err := d.mount()
		var st unix.Statfs_t
		if err == nil {
			// As long as somebody holds the old one, a mount leads to it.
			if probe := os.WriteFile(filepath.Join(d.dir, "probe"), nil, 0o600); probe == nil && unix.Statfs(d.dir, &st) == nil {
				return nil
			}
			_ = unix.Unmount(d.dir, 0)
		}
		if time.Now().After(end) {
			return fmt.Errorf("cannot mount the file system again: %w", err)
		}
	}
}
