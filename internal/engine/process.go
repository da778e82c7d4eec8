package engine

import (
	"os"
	"strconv"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// Process is a process of this host.
type Process struct {
	UID, Parent int
	Started     time.Time
	CPU         time.Duration
	Terminal    string // "?" if it has none
	Command     string
}

// ReadProcess reads what /proc says of a process.
func ReadProcess(pid int) (Process, error) {
	f := statFields(pid)
	if f[0] == "" {
		return Process{}, errdef.New(errdef.NotFound, "no such process: %d", pid)
	}
	number := func(s string) int64 {
		n, _ := strconv.ParseInt(s, 10, 64) // the kernel writes numbers
		return n
	}
	ticks := func(s string) time.Duration { return time.Duration(number(s)) * time.Second / state.TicksPerSecond }
	p := Process{Parent: int(number(f[1])), CPU: ticks(f[11]) + ticks(f[12]), Terminal: "?"}
	var st unix.Stat_t
	if err := unix.Stat(procFile(pid, ""), &st); err != nil {
		return p, err
	}
	p.UID = int(st.Uid)
	var since unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &since); err != nil {
		return p, os.NewSyscallError("clock_gettime", err)
	}
	p.Started = time.Now().Add(ticks(f[19]) - time.Duration(since.Nano()))
	if tty := uint64(number(f[4])); tty != 0 && unix.Major(tty) >= 136 && unix.Major(tty) <= 143 { // devices.txt: Unix98 terminals
		p.Terminal = "pts/" + strconv.Itoa(int((unix.Major(tty)-136)<<8|unix.Minor(tty)))
	}
	data, err := os.ReadFile(procFile(pid, "cmdline"))
	if err != nil {
		return p, err
	}
	p.Command = strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
	if p.Command == "" {
		name, _ := os.ReadFile(procFile(pid, "comm"))
		p.Command = "[" + strings.TrimSpace(string(name)) + "]"
	}
	return p, nil
}
