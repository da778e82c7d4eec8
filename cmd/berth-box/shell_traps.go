package main

import (
	"fmt"
	"os"
	"os/signal"
	"sort"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// traps are what "trap" set for signals. EXIT and ERR are the interpreter's own.
type traps struct {
	once    sync.Once
	arrived chan os.Signal
	notify  chan struct{} // receives when a trapped signal came

	mu      sync.Mutex
	actions map[syscall.Signal]string
	ends    map[syscall.Signal]bool // signals that end the shell unless they are trapped: PID 1's
	pending []syscall.Signal
}

func (t *traps) begin() {
	t.once.Do(func() {
		t.arrived, t.notify = make(chan os.Signal, 16), make(chan struct{}, 1)
		t.actions, t.ends = map[syscall.Signal]string{}, map[syscall.Signal]bool{}
		go func() {
			for s := range t.arrived {
				t.receive(s.(syscall.Signal))
			}
		}()
	})
}

func (t *traps) receive(s syscall.Signal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, trapped := t.actions[s]; trapped {
		t.pending = append(t.pending, s)
		select {
		case t.notify <- struct{}{}:
		default:
		}
	} else if t.ends[s] {
		os.Exit(128 + int(s))
	}
}

// endWith makes signals end PID 1, which the kernel protects from signals without a handler.
func (t *traps) endWith(signals ...syscall.Signal) {
	t.begin()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range signals {
		t.ends[s] = true
		signal.Notify(t.arrived, s)
	}
}

func (t *traps) set(s syscall.Signal, action string) {
	t.begin()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case action == "-":
		delete(t.actions, s)
		if !t.ends[s] {
			signal.Reset(s)
		}
	case action == "":
		delete(t.actions, s)
		signal.Ignore(s) // children inherit that, as POSIX wants
	default:
		t.actions[s] = action
		signal.Notify(t.arrived, s)
	}
}

// next takes the action of a signal that has come, "" for none.
func (t *traps) next() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.pending) > 0 {
		s := t.pending[0]
		t.pending = t.pending[1:]
		if action := t.actions[s]; action != "" {
			return action
		}
	}
	return ""
}

// due reports whether a trapped signal has come, and which.
func (t *traps) due() (syscall.Signal, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pending) == 0 {
		return 0, false
	}
	return t.pending[0], true
}

func (t *traps) list() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for s, action := range t.actions {
		lines = append(lines, fmt.Sprintf("trap -- '%s' %s\n", strings.ReplaceAll(action, "'", `'\''`), strings.TrimPrefix(unix.SignalName(s), "SIG")))
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
}
