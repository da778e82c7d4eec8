package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"berth/internal/errdef"
	"berth/internal/ownjson"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/needs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Version is the version of the protocol. Monitors outlive an upgrade of the program that talks to them.
const Version = 1

// Frame types. A frame is one byte of type, four bytes of length (big endian) and the payload.
//
//	client -> monitor
//	  Begin    BeginRequest      first frame of the command that starts the container, once it has started, or has not; with the
//	                             descriptors that it names
//	  Attach   AttachRequest     first frame: streams, and news of the container's end
//	  Exec     ExecRequest       first frame, with three descriptors unless a terminal is wanted
//	  Halt     -                 first frame: do not start the container again; closed when no start is under way any more
//	  Networks -                 first frame: the container's networks have changed; read its configuration again
//	  Stdin    bytes             to the container's standard input
//	  CloseIn  -                 end of its standard input
//	  Resize   rows, columns     two 16-bit numbers, big endian
//	monitor -> client
//	  Started  Started           the process runs; with one descriptor, a terminal, after Exec
//	  Failed   Failed            it could not be started
//	  Stdout   bytes
//	  Stderr   bytes
//	  Ended    Ended             the process has ended and all it left is given back
const (
	FrameBegin    = 'B'
	FrameAttach   = 'A'
	FrameExec     = 'X'
	FrameHalt     = 'H'
	FrameNetworks = 'N'
	FrameStdin    = 'i'
	FrameCloseIn  = 'c'
	FrameResize   = 'r'
	FrameStarted  = 'S'
	FrameFailed   = 'F'
	FrameStdout   = '1'
	FrameStderr   = '2'
	FrameEnded    = 'E'
)

// maxFrame bounds a payload: what a legal environment and command line need at most.
const maxFrame = 16 << 20

// AttachRequest says what a client wants.
type AttachRequest struct {
	Version int
	Stdin   bool `json:",omitempty"`
	Output  bool `json:",omitempty"`
	// StdinOnce ends the container's standard input when this client goes.
	StdinOnce bool `json:",omitempty"`
}

// BeginRequest says that the container has started, and what its starter wants; or why it has not.
type BeginRequest struct {
	AttachRequest
	PID    int
	Left   int     `json:",omitempty"` // a child of the monitor's that has ended meanwhile
	Failed *Failed `json:",omitempty"`
	// Networks says which descriptors come with it.
	Networks Handed `json:",omitzero"`
}

// Handed says what comes with a frame, in this order: the two sockets of the container's resolver, the connection to the uplink, and
// connections that are only to be kept.
type Handed struct {
	Resolver, Uplink bool `json:",omitempty"`
	Kept             int  `json:",omitempty"`
}

// ExecRequest asks for a further process.
type ExecRequest struct {
	Version int
	Process *specs.Process
	Seccomp *specs.LinuxSeccomp `json:",omitempty"`
	Detach  bool                `json:",omitempty"`
	ID      string              `json:",omitempty"` // by which events tell of the process; one is chosen if there is none
}

// Started says that a process runs.
type Started struct{ PID int }

// Failed carries an error with its kind and hint.
type Failed struct {
	Kind    errdef.Kind
	Message string
	Hint    string `json:",omitempty"`
	// Call is the system call that stood in the way, if it was one: what this host lacks may explain it.
	Call *needs.Failed `json:",omitempty"`
}

// Ended says how a process ended.
type Ended struct {
	ExitCode  int
	OOMKilled bool   `json:",omitempty"`
	Error     string `json:",omitempty"`
}

// Err is the error that f carries.
func (f Failed) Err() error {
	err := errdef.New(f.Kind, "%s", f.Message)
	if f.Hint != "" {
		err = errdef.Hint(err, "%s", f.Hint)
	}
	return err
}

func failed(err error) Failed {
	f := Failed{Kind: errdef.KindOf(err), Message: err.Error(), Hint: errdef.HintOf(err)}
	if call, ok := lifecycle.FailedCall(err); ok {
		f.Call = &call
	}
	return f
}

// Conn is one side of a connection. Writes are for any goroutine, reads for one.
type Conn struct {
	c       *net.UnixConn
	mu      sync.Mutex // guards writes
	pending []byte     // read, and not yet taken
	fds     []int      // received, and not yet taken
}

// Close closes the connection and what it has received.
func (c *Conn) Close() error {
	for _, fd := range c.fds {
		_ = unix.Close(fd)
	}
	c.fds = nil
	return c.c.Close()
}

// AwaitEnd waits until the other side has closed the connection, and closes it.
func (c *Conn) AwaitEnd() error {
	for {
		if _, _, err := c.Receive(); err != nil {
			return c.Close()
		}
	}
}

// Send sends a frame; payload is bytes or anything that JSON can say.
func (c *Conn) Send(kind byte, payload any, fds ...int) error {
	var body []byte
	switch p := payload.(type) {
	case nil:
	case []byte:
		body = p
	default:
		var err error
		if body, err = ownjson.Marshal(p); err != nil {
			return err
		}
	}
	if len(body) > maxFrame {
		return errdef.New(errdef.Invalid, "a message of %d bytes is too long", len(body))
	}
	head := make([]byte, 5, 5+len(body))
	head[0] = kind
	binary.BigEndian.PutUint32(head[1:], uint32(len(body)))
	frame := append(head, body...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(fds) > 0 {
		n, _, err := c.c.WriteMsgUnix(frame, unix.UnixRights(fds...), nil)
		if err != nil {
			return err
		}
		if frame = frame[n:]; len(frame) == 0 {
			return nil
		}
	}
	_, err := c.c.Write(frame)
	return err
}

// Receive returns the next frame. The payload is valid until the next call.
func (c *Conn) Receive() (kind byte, payload []byte, err error) {
	if err := c.fill(5); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint32(c.pending[1:]))
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes is too long", n)
	}
	kind = c.pending[0]
	if err := c.fill(5 + n); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	payload = c.pending[5 : 5+n]
	c.pending = c.pending[5+n:]
	return kind, payload, nil
}

// fill reads until n bytes are pending.
func (c *Conn) fill(n int) error {
	for len(c.pending) < n {
		buf := make([]byte, max(4<<10, n-len(c.pending)))
		oob := make([]byte, unix.CmsgSpace(4*8))
		got, oobn, _, _, err := c.c.ReadMsgUnix(buf, oob)
		if oobn > 0 {
			c.take(oob[:oobn])
		}
		if got > 0 {
			c.pending = append(c.pending[:len(c.pending):len(c.pending)], buf[:got]...)
			continue
		}
		if err == nil {
			err = io.EOF
		}
		return err
	}
	return nil
}

func (c *Conn) take(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			for _, fd := range fds {
				unix.CloseOnExec(fd)
			}
			c.fds = append(c.fds, fds...)
		}
	}
}

// Files takes the descriptors that have come with frames so far.
func (c *Conn) Files() []*os.File {
	var files []*os.File
	for _, fd := range c.fds {
		files = append(files, os.NewFile(uintptr(fd), "received"))
	}
	c.fds = nil
	return files
}

// socketName is the name of a monitor's socket in its container's run directory.
const socketName = "monitor.sock"

// viaFD is path by way of an open directory: the address of a socket has room for 107 bytes only.
func viaFD(dir *os.File, name string) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), name)}
}

// Dial connects to the monitor whose container has the run directory dir.
func Dial(dir string) (*Conn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	c, err := net.DialUnix("unix", nil, viaFD(d, socketName))
	if err != nil {
		return nil, err
	}
	return &Conn{c: c}, nil
}

// FromFile makes a connection of a socket; f is closed.
func FromFile(f *os.File) (*Conn, error) {
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("not a unix socket"), c.Close())
	}
	return &Conn{c: u}, nil
}
