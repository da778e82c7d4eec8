package cli

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"slices"

	"berth/internal/engine"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/monitor"
	"berth/internal/state"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is what connects a container's terminal with ours.
type terminal struct {
	in      *os.File
	restore func()
	keys    []byte
}

// errDetached says that the user has typed the keys for leaving.
var errDetached = errors.New("detached")

// openTerminal makes our terminal raw, if standard input is one.
func openTerminal(in *os.File, keys string) (*terminal, error) {
	k, err := parseDetachKeys(keys)
	if err != nil {
		return nil, err
	}
	t := &terminal{in: in, restore: func() {}, keys: k}
	if term.IsTerminal(int(in.Fd())) {
		old, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return nil, err
		}
		t.restore = func() { _ = term.Restore(int(in.Fd()), old) }
	}
	return t, nil
}

// size is the size of our terminal; false if we have none.
func (t *terminal) size() (rows, columns uint16, ok bool) {
	for _, f := range []*os.File{t.in, os.Stdout} {
		if w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			return w.Row, w.Col, true
		}
	}
	return 0, 0, false
}

// follow calls resize now and whenever our terminal changes its size, until stop is called.
func (t *terminal) follow(resize func(rows, columns uint16)) (stop func()) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	done := make(chan struct{})
	go func() {
		for {
			if rows, columns, ok := t.size(); ok {
				resize(rows, columns)
			}
			select {
			case <-changes:
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(changes); close(done) }
}

// copyInput copies what is typed until its end, or until the keys for leaving were typed.
func (t *terminal) copyInput(write func([]byte) error) error {
	buf := make([]byte, 16<<10)
	matched := 0
	for {
		n, err := t.in.Read(buf)
		out := buf[:0:0]
		for _, b := range buf[:n] {
			if len(t.keys) > 0 && b == t.keys[matched] {
				if matched++; matched == len(t.keys) {
					if len(out) > 0 {
						_ = write(out)
					}
					return errDetached
				}
				continue
			}
			out = append(out, t.keys[:matched]...)
			matched = 0
			if len(t.keys) > 0 && b == t.keys[0] {
				matched = 1
				continue
			}
			out = append(out, b)
		}
		if len(out) > 0 {
			if err := write(out); err != nil {
				return err
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// stream carries the streams between us and a container until it ends, and returns its exit status.
func (c *call) stream(e *engine.Engine, s *engine.Session, stdin bool, proxy bool) error {
	defer s.Close()
	tty := s.Container.Config.TTY
	over := make(chan error, 2)
	if tty {
		t, err := openTerminal(c.in, c.detachKeys())
		if err != nil {
			return err
		}
		defer t.restore()
		defer t.follow(func(rows, columns uint16) { _ = s.Resize(rows, columns) })()
		if stdin {
			go func() {
				if err := t.copyInput(s.Input); errors.Is(err, errDetached) {
					over <- err
				}
			}()
		}
	} else {
		if proxy {
			defer c.proxySignals(e, s.Container)()
		} else {
			signal.Reset(unix.SIGINT, unix.SIGTERM) // they end us, and not the container; until now they may have ended a pull
		}
		if stdin {
			go func() {
				_ = plainCopy(c.in, s.Input)
				if slices.Contains(s.Container.Config.Attach, "stdin") { // else it stays open for the next who attaches: docker's StdinOnce
					_ = s.CloseInput()
				}
			}()
		}
	}
	var exit monitor.Ended
	go func() {
		var err error
		exit, err = s.Output(c.out, c.err)
		over <- err
	}()
	err := <-over
	if errors.Is(err, errDetached) {
		e.Containers.Note(s.Container, "detach")
		return nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		// The monitor was killed. Another one adopts the container, and knows how it ends.
		status, err := e.Wait(s.Container)
		if err != nil {
			return err
		}
		return status2error(status)
	}
	if err != nil {
		return err
	}
	return status2error(exit.ExitCode)
}

func status2error(status int) error {
	if status == 0 {
		return nil
	}
	return exitError(status)
}

func plainCopy(in io.Reader, write func([]byte) error) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if err := write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// proxySignals hands the signals that we get to the container, until the returned function is called.
func (c *call) proxySignals(e *engine.Engine, of *state.Container) func() {
	return lifecycle.ProxySignals(func(n unix.Signal) {
		if n != unix.SIGWINCH { // ours
			_ = e.Signal(of, n)
		}
	})
}
