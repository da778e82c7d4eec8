package container

import (
	"strconv"
	"strings"
	"syscall"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// ParseSignal reads a signal's name, with or without SIG, or number.
func ParseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= 64 {
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	// The real-time signals, which glibc counts from 34.
	for _, r := range []struct {
		prefix     string
		base, sign int
	}{{"SIGRTMIN", 34, 1}, {"SIGRTMAX", 64, -1}} {
		if rest, ok := strings.CutPrefix(name, r.prefix); ok {
			n := 0
			if rest != "" {
				var err error
				if n, err = strconv.Atoi(rest[1:]); err != nil {
					break
				}
			}
			if s := r.base + r.sign*n; s >= 34 && s <= 64 {
				return syscall.Signal(s), nil
			}
		}
	}
	return 0, errdef.New(errdef.Invalid, "Invalid signal: %s", s)
}
