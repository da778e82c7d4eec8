package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ps lists all processes; the options by which others ask for that mean the same here.
func ps(args []string) error {
	for _, arg := range args {
		switch strings.TrimPrefix(arg, "-") {
		case "a", "ax", "aux", "e", "ef", "A":
		default:
			return usageError("usage: ps [aux|-ef]")
		}
	}
	pids, err := sortedNumbers("/proc")
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%5s %-8s %6s %s\n", "PID", "USER", "TIME", "COMMAND")
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d", pid)
		info, err := os.Stat(dir)
		if err != nil {
			continue // it has ended
		}
		ticks, name, err := processStat(dir)
		if err != nil {
			continue
		}
		command := name
		if line, err := os.ReadFile(dir + "/cmdline"); err == nil && len(line) > 0 {
			command = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
		}
		seconds := ticks / 100 // USER_HZ is 100 on every architecture that berth runs on
		fmt.Fprintf(stdout, "%5d %-8s %3d:%02d %s\n", pid, userName(int(info.Sys().(*syscall.Stat_t).Uid)), seconds/60, seconds%60, command)
	}
	return nil
}

// processStat reads the times and the name in /proc/PID/stat (proc(5)). The name may contain anything, spaces and ")" too.
func processStat(dir string) (ticks int64, name string, err error) {
	data, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return 0, "", err
	}
	text := string(data)
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return 0, "", fmt.Errorf("cannot read %s/stat: it has no name", dir)
	}
	fields := strings.Fields(text[end+1:]) // the first is the third of proc(5): the state
	for _, i := range []int{14 - 3, 15 - 3} {
		if i < len(fields) {
			n, _ := strconv.ParseInt(fields[i], 10, 64)
			ticks += n
		}
	}
	return ticks, "[" + text[open+1:end] + "]", nil
}

func parseSignal(text string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil {
		if n >= 0 && n <= 64 {
			return syscall.Signal(n), nil
		}
	} else {
		name := strings.ToUpper(text)
		if !strings.HasPrefix(name, "SIG") {
			name = "SIG" + name
		}
		if s := unix.SignalNum(name); s != 0 {
			return s, nil
		}
	}
	return 0, fmt.Errorf("%q is not a signal", text)
}

// killArguments reads "[-SIGNAL | -s SIGNAL] PID...".
func killArguments(args []string) (signal syscall.Signal, targets []string, err error) {
	signal = syscall.SIGTERM
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		name := args[0][1:]
		args = args[1:]
		switch {
		case name == "-":
			name = "TERM"
		case name == "s" && len(args) > 0:
			name, args = args[0], args[1:]
		}
		if signal, err = parseSignal(name); err != nil {
			return 0, nil, err
		}
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return 0, nil, usageError("usage: kill [-SIGNAL | -s SIGNAL] PID...")
	}
	return signal, args, nil
}

func killOne(target string, signal syscall.Signal) error {
	pid, err := strconv.Atoi(target)
	if err != nil {
		return fmt.Errorf("%q is not a process ID", target)
	}
	if err := syscall.Kill(pid, signal); err != nil {
		return fmt.Errorf("cannot signal %d: %w", pid, err)
	}
	if pid == os.Getpid() {
		time.Sleep(100 * time.Millisecond) // another goroutine takes the signal, and may be about to end this process
	}
	return nil
}

func signalNames() string {
	var names []string
	for n := syscall.Signal(1); n < 32; n++ {
		names = append(names, strings.TrimPrefix(unix.SignalName(n), "SIG"))
	}
	return wrap(strings.Join(names, " "), 78)
}

func kill(args []string) error {
	if len(args) == 1 && args[0] == "-l" {
		fmt.Fprintln(stdout, signalNames())
		return nil
	}
	signal, targets, err := killArguments(args)
	if err != nil {
		return err
	}
	var failed error
	for _, target := range targets {
		if err := killOne(target, signal); err != nil {
			fmt.Fprintf(os.Stderr, "kill: %v\n", err)
			failed = status(1)
		}
	}
	return failed
}

func sleep(args []string) error {
	if err := operands(args, 1, -1, "sleep SECONDS|N[smhd]|infinity"); err != nil {
		return err
	}
	var total time.Duration
	for _, arg := range args {
		if arg == "infinity" || arg == "inf" {
			for {
				time.Sleep(1 << 62)
			}
		}
		unit := time.Second
		number := arg
		if at := strings.IndexByte("smhd", (" " + arg)[len(arg)]); at >= 0 {
			number = arg[:len(arg)-1]
			unit = [...]time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour}[at]
		}
		n, err := strconv.ParseFloat(number, 64)
		if err != nil || n < 0 || n > 1e9 {
			return usageError(fmt.Sprintf("%q is not a time", arg))
		}
		total += time.Duration(n * float64(unit))
	}
	time.Sleep(total)
	return nil
}
