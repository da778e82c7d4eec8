package userns

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Run runs this program again, as root of a new user namespace with these maps: name becomes argv[0], by which the program
// knows what it is to do. It returns when that has ended.
func (m Maps) Run(name string, args ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{name}, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		_ = r.Close()
		return fmt.Errorf("cannot make a user namespace: %w", err)
	}
	_ = r.Close()
	if err := m.Write(cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return err
	}
	if _, err := w.Write([]byte{1}); err != nil {
		return err
	}
	return cmd.Wait()
}

// Enter is the other side of Run: it waits for the maps and becomes root of the namespace. This program was executed before the
// namespace had any ids, by nobody in particular, and that took its capabilities away; so it is executed again, by root.
func Enter() error {
	if os.Geteuid() == 0 && capable() {
		return nil
	}
	f := os.NewFile(3, "maps")
	var b [1]byte
	if _, err := f.Read(b[:]); err != nil {
		return fmt.Errorf("cannot wait for the id maps: %w", err)
	}
	_ = f.Close()
	if err := syscall.Setresgid(0, 0, 0); err != nil {
		return os.NewSyscallError("setresgid", err)
	}
	if err := syscall.Setresuid(0, 0, 0); err != nil {
		return os.NewSyscallError("setresuid", err)
	}
	return os.NewSyscallError("execve", unix.Exec("/proc/self/exe", os.Args, os.Environ()))
}

// capable reports whether this process may do in its user namespace what root may.
func capable() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_DAC_OVERRIDE) != 0
}

// Inside reports whether this process is in a user namespace that is not the machine's first.
func Inside() bool {
	data, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !isFirst(string(data))
}

// isFirst reports whether a map is that of the first namespace: every id is itself.
func isFirst(uidMap string) bool {
	var inside, outside, size uint64
	n, err := fmt.Sscan(uidMap, &inside, &outside, &size)
	return err == nil && n == 3 && inside == 0 && outside == 0 && size == 1<<32-1
}

// SingleID reports whether the user namespace of this process maps only one id.
func SingleID() bool {
	data, err := os.ReadFile("/proc/self/uid_map")
	var inside, outside, size uint64
	n, _ := fmt.Sscan(string(data), &inside, &outside, &size)
	return err == nil && n == 3 && size == 1
}
