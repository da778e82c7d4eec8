package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// watch tries to look into every process that appears in the container, from its first moment on, and writes to
// dir/found what it could learn of one whose program is not the container's; dir/seen counts processes met before they
// had become a program of the container.
func watch(dir string) error {
	runtime.LockOSThread()
	const programs = "/bin/"
	seen := 0
	var found strings.Builder
	for {
		for _, pid := range others() {
			proc := fmt.Sprintf("/proc/%d", pid)
			exe, err := os.Readlink(proc + "/exe")
			if err == nil && strings.HasPrefix(exe, programs) {
				continue
			}
			comm, commErr := os.ReadFile(proc + "/comm")
			if commErr != nil {
				continue // it has ended
			}
			seen++
			if err == nil && exe != "/attacker" {
				fmt.Fprintf(&found, "program of %s: %s\n", comm, exe)
			}
			// Of one that runs a program of the container by now, all of this is allowed.
			report := func(what string) {
				if now, err := os.Readlink(proc + "/exe"); err == nil && !strings.HasPrefix(now, programs) {
					fmt.Fprintf(&found, "%s of %s: %s\n", what, comm, now)
				}
			}
			if fd, err := unix.Open(proc+"/mem", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
				report("memory")
				_ = unix.Close(fd)
			}
			if fds, err := os.ReadDir(proc + "/fd"); err == nil && len(fds) > 0 {
				report("descriptors")
			}
			if err := unix.PtraceSeize(pid); err == nil {
				if unix.PtraceInterrupt(pid) == nil {
					_, _ = unix.Wait4(pid, nil, unix.WALL, nil)
					report("trace")
				}
				_ = unix.PtraceDetach(pid)
			}
			if err := note(dir+"/seen", fmt.Sprintln(seen)); err != nil {
				return err
			}
			if err := note(dir+"/found", found.String()); err != nil {
				return err
			}
		}
	}
}

// halt stops every process that appears in the container, as early as it can.
func halt() error {
	for {
		for _, pid := range others() {
			_ = unix.Kill(pid, unix.SIGSTOP)
		}
	}
}
