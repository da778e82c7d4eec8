package monitor

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"berth/internal/logs"

	"golang.org/x/sys/unix"
)

// streams are a container's standard input, output and error, or its terminal.
type streams struct {
	m   *monitor
	in  *os.File   // our end of standard input; nil: none
	out []*os.File // our ends of output and error
	tty *os.File

	readers sync.WaitGroup
	ended   [2]bool // of output and error: there is no more to come

	mu  sync.Mutex // guards what follows
	log keeper     // nil: nothing is kept
	// logErr is the first error of writing the log; output goes on without it.
	logErr error
}

// keeper is a log: *logs.Writer, or *logs.Ring.
type keeper interface {
	Write(s logs.Stream, p []byte, now time.Time) error
	Begun() bool
	Flush(now time.Time) error
	Close() error
}

// drainTime is how long output is waited for when the first process has ended and others, outside its pid namespace,
// hold the pipes.
const drainTime = 2 * time.Second

func newStreams(m *monitor) (*streams, error) {
	s := &streams{m: m}
	var err error
	s.log, err = m.openLog()
	return s, err
}

// reopen opens our ends of the pipes of a container that a monitor before us has started.
func (s *streams) reopen() error {
	if s.m.c.Config.TTY {
		return nil // its terminal went with that monitor
	}
	for _, name := range []string{"stdout", "stderr"} {
		f, err := openEnd(filepath.Join(s.m.runDir, name), unix.O_RDONLY)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		s.out = append(s.out, f)
	}
	if s.m.c.Config.Interactive {
		f, err := openEnd(filepath.Join(s.m.runDir, "stdin"), unix.O_WRONLY)
		if err == nil {
			s.in = f
		}
	}
	return nil
}

// begin takes the terminal, if there is one.
func (s *streams) begin(console *os.File) {
	if console != nil {
		// A new File, which takes the descriptor to the poller because it does not block.
		if fd, err := unix.FcntlInt(console.Fd(), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			_ = console.Close()
			_ = unix.SetNonblock(fd, true)
			console = os.NewFile(uintptr(fd), "terminal")
		}
		s.mu.Lock()
		s.tty = console
		s.mu.Unlock()
		s.in = console
		s.out = []*os.File{console}
	}
}

// flow starts to carry output.
func (s *streams) flow() {
	for i, f := range s.out {
		stream := logs.Stdout
		if i == 1 {
			stream = logs.Stderr
		}
		if !s.ended[i] {
			s.readers.Go(func() { s.ended[i] = s.carry(f, stream) })
		}
	}
}

// carry copies a stream to the log and to the clients until its end; false says that it was only told to halt.
func (s *streams) carry(f *os.File, stream logs.Stream) (ended bool) {
	kind := byte(FrameStdout)
	if stream == logs.Stderr {
		kind = FrameStderr
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			s.mu.Lock()
			if s.log != nil && s.logErr == nil {
				s.logErr = s.log.Write(stream, buf[:n], time.Now())
			}
			s.mu.Unlock()
			s.m.show(kind, buf[:n])
		}
		if err != nil { // end of file; EIO is a terminal's
			return !errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
}

// halt stops the carrying of output. What has been read is in the log, what has not stays in the pipes. It reports whether
// somebody else can go on from here: no stream has ended and no line is half written.
func (s *streams) halt() bool {
	for _, f := range s.out {
		_ = f.SetReadDeadline(time.Now())
	}
	s.readers.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended == [2]bool{} && s.logErr == nil && (s.log == nil || !s.log.Begun())
}

// goOn takes back a halt.
func (s *streams) goOn() {
	for _, f := range s.out {
		_ = f.SetReadDeadline(time.Time{})
	}
	s.flow()
}

// drain waits for the end of the output and closes everything.
func (s *streams) drain() error {
	done := make(chan struct{})
	go func() { s.readers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(drainTime):
	}
	err := s.close()
	<-done // closing has ended the reads
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log != nil && s.logErr == nil {
		s.logErr = s.log.Flush(time.Now())
	}
	return errors.Join(err, s.logErr)
}

// close closes our ends.
func (s *streams) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range append(s.out, s.in) {
		if f != nil {
			_ = f.Close()
		}
	}
	s.out, s.in, s.tty, s.ended = nil, nil, nil, [2]bool{}
	return nil
}

func (s *streams) closeLog() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log == nil {
		return nil
	}
	err := s.log.Close()
	s.log = nil
	return err
}

// write gives the container input.
func (s *streams) write(p []byte) error {
	s.mu.Lock()
	in := s.in
	s.mu.Unlock()
	if in == nil {
		return io.ErrClosedPipe
	}
	_, err := in.Write(p)
	return err
}

// closeIn ends the container's standard input; a terminal has no such end.
func (s *streams) closeIn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in != nil && s.tty == nil {
		_ = s.in.Close()
		s.in = nil
	}
}

// resize sets the size of the terminal, if there is one.
func (s *streams) resize(rows, columns uint16) (done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tty == nil {
		return false
	}
	if raw, err := s.tty.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			done = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}) == nil
		})
	}
	return done
}
