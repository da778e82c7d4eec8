package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// unpacked is the first process in the initramfs: it loads the modules and goes on in the root file system on the disk.
func unpacked() error {
	for _, m := range []mount{{"devtmpfs", "/dev", 0, ""}, {"proc", "/proc", 0, ""}} {
		if err := m.make(); err != nil {
			return err
		}
	}
	order, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(order)) {
		if err := load("/modules/" + name); err != nil {
			return err
		}
	}
	if err := disk("/dev/vda", "/root"); err != nil {
		return err
	}
	// As switch_root does. The root of an initramfs itself cannot be left by pivot_root.
	if err := os.Chdir("/root"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return &os.SyscallError{Syscall: "mount", Err: err}
	}
	if err := unix.Chroot("."); err != nil {
		return &os.SyscallError{Syscall: "chroot", Err: err}
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return unix.Exec("/sbin/init", []string{"/sbin/init", "boot"}, []string{"PATH=/usr/bin:/bin:/sbin", "HOME=/root"})
}

func load(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && err != unix.EEXIST && err != unix.ENODEV {
		return fmt.Errorf("cannot load %s: %w", path, err)
	}
	return nil
}

// disk mounts a disk that the kernel may still be looking for.
func disk(device, at string) error {
	for range 100 {
		if _, err := os.Stat(device); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return mount{"ext4", at, 0, device}.make()
}

type mount struct {
	kind, at string
	flags    uintptr
	source   string
}

func (m mount) make() error {
	if err := os.MkdirAll(m.at, 0o755); err != nil {
		return err
	}
	if m.source == "" {
		m.source = m.kind
	}
	if err := unix.Mount(m.source, m.at, m.kind, m.flags, ""); err != nil {
		return fmt.Errorf("cannot mount %s at %s: %w", m.source, m.at, err)
	}
	return nil
}

// boot is the first process in the root file system: it makes what any Linux has, has everything checked, and is the
// parent of whoever has lost his own.
func boot() error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []mount{
		{"proc", "/proc", safe, ""},
		{"sysfs", "/sys", safe, ""},
		{"cgroup2", "/sys/fs/cgroup", safe, ""},
		{"devtmpfs", "/dev", unix.MS_NOSUID, ""},
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, ""},
		{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, ""},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, ""},
	} {
		if err := m.make(); err != nil {
			return err
		}
	}
	// As systemd does.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return &os.SyscallError{Syscall: "mount", Err: err}
	}
	if err := unix.Sethostname([]byte("arm64")); err != nil {
		return &os.SyscallError{Syscall: "sethostname", Err: err}
	}
	if err := loopback(); err != nil {
		return err
	}
	if err := owners(); err != nil {
		return err
	}
	if out, err := exec.Command("/bin/busybox", "--install", "-s", "/bin").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot install busybox: %w: %s", err, out)
	}

	checks := exec.Command("/sbin/init", "check")
	checks.Stdout, checks.Stderr = os.Stdout, os.Stderr
	if err := checks.Start(); err != nil {
		return err
	}
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if err != nil && err != unix.EINTR {
			return &os.SyscallError{Syscall: "wait4", Err: err}
		}
		if pid == checks.Process.Pid {
			return nil
		}
	}
}

// loopback brings the interface lo up.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return &os.SyscallError{Syscall: "socket", Err: err}
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return &os.SyscallError{Syscall: "ioctl(SIOCSIFFLAGS)", Err: err}
	}
	return nil
}

// owners gives all files to root: the disk was filled by whoever called test/arm64/run.
func owners() error {
	err := filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == "/proc" || path == "/sys" || path == "/dev" || path == "/run":
			return filepath.SkipDir
		}
		return os.Lchown(path, 0, 0)
	})
	if err != nil {
		return err
	}
	if err := os.Chmod("/tmp", 0o777|fs.ModeSticky); err != nil {
		return err
	}
	if err := os.MkdirAll("/home/user", 0o755); err != nil {
		return err
	}
	return os.Chown("/home/user", 1000, 1000)
}

func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
