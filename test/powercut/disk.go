package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// disk is a file system on a loop device, whose file is in memory.
type disk struct {
	kind filesystem
	dir  string
	file *os.File
	path string   // of the device
	loop *os.File // held open: the kernel gives the loop device back with its last user
}

// filesystem is how one is made and how its power is cut.
type filesystem struct {
	name  string
	make  []string // the command, before the device
	bytes int64
	// shuts says that the file system ends all writing by itself when asked. Where it does not, the file beneath it is sealed, and a copy of the file
	// as it was at that moment is what the next boot finds.
	shuts   bool
	drivers []string // of berth's, that containers on it can have
}

var filesystems = []filesystem{
	{"ext4", []string{"mkfs.ext4", "-q", "-F", "-J", "size=16"}, 512 << 20, true, []string{"overlay", "vfs"}},
	{"xfs", []string{"mkfs.xfs", "-q", "-f", "-l", "size=64m"}, 512 << 20, true, []string{"overlay", "vfs"}},
	{"btrfs", []string{"mkfs.btrfs", "-q", "-f"}, 512 << 20, false, []string{"overlay", "vfs", "btrfs"}},
}

const (
	// shutdown is EXT4_IOC_SHUTDOWN (fs/ext4/ext4.h), and XFS_IOC_GOINGDOWN (fs/xfs/libxfs/xfs_fs.h): they have the same number.
	shutdown = 0x8004587d
	// noLogFlush is EXT4_GOING_FLAGS_NOLOGFLUSH, and XFS_FSOP_GOING_FLAGS_NOLOGFLUSH.
	noLogFlush = 2
)

func newDisk(scratch, name string) (*disk, error) {
	d := &disk{dir: filepath.Join(scratch, "mnt")}
	for _, k := range filesystems {
		if k.name == name {
			d.kind = k
		}
	}
	if d.kind.name == "" {
		return nil, fmt.Errorf("cannot test a file system %q: ext4, xfs and btrfs can be", name)
	}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	if d.file, err = newFile(d.kind.bytes); err != nil {
		return nil, err
	}
	if err := d.attach(); err != nil {
		return nil, err
	}
	return d, d.fill()
}

// fill makes the file system, with nothing in it, and mounts it.
func (d *disk) fill() error {
	if out, err := exec.Command(d.kind.make[0], append(d.kind.make[1:len(d.kind.make):len(d.kind.make)], d.path)...).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot make a file system: %w: %s", err, out)
	}
	return d.mount()
}

// newFile makes a file in memory that nobody else has a name for, and that can be sealed.
func newFile(bytes int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "disk")
	return f, f.Truncate(bytes)
}

// attach gives the file a loop device.
func (d *disk) attach() error {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	for try := 0; ; try++ {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return os.NewSyscallError("ioctl LOOP_CTL_GET_FREE", err)
		}
		d.path = fmt.Sprintf("/dev/loop%d", n)
		if d.loop, err = os.OpenFile(d.path, os.O_RDWR, 0); err != nil {
			return err
		}
		config := unix.LoopConfig{Fd: uint32(d.file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(int(d.loop.Fd()), &config)
		if err == nil {
			return nil
		}
		_ = d.loop.Close()
		if err != unix.EBUSY || try == 10 { // somebody else was quicker
			return os.NewSyscallError("ioctl LOOP_CONFIGURE", err)
		}
	}
}

func (d *disk) mount() error {
	return os.NewSyscallError("mount", unix.Mount(d.path, d.dir, d.kind.name, 0, ""))
}

// cut ends all writing at once.
func (d *disk) cut() error {
	if !d.kind.shuts {
		_, err := unix.FcntlInt(d.file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
		return os.NewSyscallError("fcntl F_SEAL_WRITE", err)
	}
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := uint32(noLogFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		return os.NewSyscallError("ioctl shutdown", errno)
	}
	return nil
}

// remount brings the file system back, as the next boot would. Mount namespaces of killed containers go a moment later.
func (d *disk) remount() error {
	if err := unix.Unmount(d.dir, 0); err != nil {
		return os.NewSyscallError("umount", err)
	}
	if !d.kind.shuts {
		if err := d.replace(); err != nil {
			return err
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		err := d.mount()
		var st unix.Statfs_t
		if err == nil {
			// As long as somebody holds the old one, a mount leads to it.
			if probe := os.WriteFile(filepath.Join(d.dir, "probe"), nil, 0o600); probe == nil && unix.Statfs(d.dir, &st) == nil {
				return nil
			}
			_ = unix.Unmount(d.dir, 0)
		}
		// The kernel cannot replay the log that it has written, which is its own affair (seen with Linux 6.18: __btrfs_unlink_inode, "failed to unlink
		// inode"). Whoever holds the old one is another error.
		if d.kind.name == "btrfs" && errors.Is(err, unix.ENOENT) {
			return errors.Join(d.fill(), errAnew)
		}
		if time.Now().After(end) {
			return fmt.Errorf("cannot mount the file system again: %w", err)
		}
	}
}

// replace goes on with a copy of the sealed file, on a device of its own.
func (d *disk) replace() error {
	next, err := newFile(d.kind.bytes)
	if err != nil {
		return err
	}
	if err := copyData(next, d.file, d.kind.bytes); err != nil {
		return err
	}
	if err := errors.Join(d.loop.Close(), d.file.Close()); err != nil {
		return err
	}
	d.file = next
	return d.attach()
}

// copyData copies what is in a file, and not its holes.
func copyData(to, from *os.File, bytes int64) error {
	for at := int64(0); at < bytes; {
		begin, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil // nothing but a hole is left
		}
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		end, err := unix.Seek(int(from.Fd()), begin, unix.SEEK_HOLE)
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		data := make([]byte, end-begin)
		if _, err := from.ReadAt(data, begin); err != nil {
			return err
		}
		if _, err := to.WriteAt(data, begin); err != nil {
			return err
		}
		at = end
	}
	return nil
}
