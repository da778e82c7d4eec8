package uplink

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// Version is the version of the messages: an uplink outlives an upgrade of berth.
const Version = 1

const (
	// maxMessage bounds a message, in bytes: a forward has some seventy, and a host 65,535 ports on each protocol.
	maxMessage = 16 << 20
	// maxRights is SCM_MAX_FD of include/net/scm.h: the most descriptors that one sendmsg may carry.
	maxRights = 253
)

// Request is what a client wants: one of its fields is set.
type Request struct {
	Version int
	Forward *ForwardRequest `json:",omitempty"`
	Status  bool            `json:",omitempty"`
}

// ForwardRequest comes with as many sockets as forwards: listening ones for TCP, bound ones for UDP.
type ForwardRequest struct {
	Forwards []Forward
	Inside   []netip.Prefix `json:",omitempty"` // further networks inside; see Config.Inside
}

// Answer is what comes back.
type Answer struct {
	Error  *Failure `json:",omitempty"`
	Status *Status  `json:",omitempty"`
}

// Failure carries an error with its kind.
type Failure struct {
	Kind    errdef.Kind
	Message string
}

// AnswerTo is the answer that carries an error, or says that all is well.
func AnswerTo(err error) Answer {
	if err == nil {
		return Answer{}
	}
	return Answer{Error: &Failure{Kind: errdef.KindOf(err), Message: err.Error()}}
}

// Conn is one side of a connection, for one goroutine that reads and one that writes.
type Conn struct{ c *net.UnixConn }

// FromFile makes a connection of a connected socket. f is closed.
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
	return &Conn{u}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.c.Close() }

func (c *Conn) send(message any, sockets []*os.File) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(body) > maxMessage {
		return errdef.New(errdef.Invalid, "a message of %d bytes is too long", len(body))
	}
	out := make([]byte, 4, 4+len(body))
	binary.BigEndian.PutUint32(out, uint32(len(body)))
	if _, err := c.c.Write(append(out, body...)); err != nil {
		return err
	}
	for len(sockets) > 0 {
		some := sockets[:min(len(sockets), maxRights)]
		sockets = sockets[len(some):]
		fds := make([]int, len(some))
		for i, f := range some {
			fds[i] = int(f.Fd())
		}
		if _, _, err := c.c.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil); err != nil {
			return err
		}
	}
	return nil
}

// receive reads one message and no byte after it: descriptors come with what follows.
func (c *Conn) receive(message any) error {
	var head [4]byte
	if _, err := io.ReadFull(c.c, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return fmt.Errorf("a message of %d bytes is too long", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(c.c, body); err != nil {
		return unexpected(err)
	}
	return json.Unmarshal(body, message)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// receiveSockets reads the n sockets that follow a message. On failure none is left open.
func (c *Conn) receiveSockets(n int) (sockets []*os.File, err error) {
	defer func() {
		if err != nil {
			CloseAll(sockets)
			sockets = nil
		}
	}()
	var one [1]byte
	rights := make([]byte, unix.CmsgSpace(4*maxRights))
	for len(sockets) < n {
		got, controlBytes, flags, _, err := c.c.ReadMsgUnix(one[:], rights)
		if err != nil {
			return sockets, unexpected(err)
		}
		some, err := takeRights(rights[:controlBytes])
		sockets = append(sockets, some...)
		if err != nil {
			return sockets, err
		}
		if got != 1 || len(some) == 0 || flags&unix.MSG_CTRUNC != 0 {
			return sockets, errors.New("sockets are missing")
		}
	}
	if len(sockets) > n {
		return sockets, fmt.Errorf("%d sockets have come for %d forwards", len(sockets), n)
	}
	return sockets, nil
}

func takeRights(control []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "forward"))
		}
	}
	return files, nil
}

// CloseAll closes files.
func CloseAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// Receive is the uplink's side: the next request and its sockets, which are the caller's.
func (c *Conn) Receive() (Request, []*os.File, error) {
	var r Request
	if err := c.receive(&r); err != nil || r.Forward == nil {
		return r, nil, err
	}
	sockets, err := c.receiveSockets(len(r.Forward.Forwards))
	return r, sockets, err
}

// Answer is the uplink's side: it answers the last request.
func (c *Conn) Answer(a Answer) error { return c.send(a, nil) }
