package uplink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"berth/internal/errdef"
)

// Client is a connection to an uplink. What it forwards is forwarded as long as it is open.
type Client struct {
	conn    *Conn
	run     string
	mu      sync.Mutex // guards requests: one at a time
	answers chan Answer
	ended   chan struct{}
	wait    time.Duration // for an answer
}

// NewClient speaks over a connection to the uplink of a run root: one that another program has handed on.
func NewClient(conn *Conn, run string) *Client {
	c := &Client{conn: conn, run: run, answers: make(chan Answer, 1), ended: make(chan struct{}), wait: patience}
	go c.read()
	return c
}

// read hands answers on until the connection ends, for which somebody may wait while nothing is asked.
func (c *Client) read() {
	defer close(c.ended)
	for {
		var a Answer
		if c.conn.receive(&a) != nil {
			return
		}
		c.answers <- a
	}
}

// Connect connects to the uplink of a run root. If there is none, the error is of kind NotFound. Nothing keeps one that is ending from
// its end: whoever needs the uplink calls Ensure.
func Connect(run string) (*Client, error) {
	c, err := connect(run)
	if gone(err) {
		return nil, errdef.As(errdef.NotFound, err)
	}
	return c, err
}

func dial(run string) (*Conn, error) {
	d, err := os.Open(run)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	c, err := net.DialUnix("unix", nil, socketAddress(d))
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the uplink of %s: %w", run, err)
	}
	return &Conn{c}, nil
}

// socketAddress is the socket by way of its open directory: the address of a socket has room for 107 bytes only.
func socketAddress(run *os.File) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: filepath.Join("/proc/self/fd", strconv.Itoa(int(run.Fd())), socketName)}
}

// Forward carries the connections of sockets inside, and those of earlier calls no longer. The sockets stay the caller's, who may
// close them. inside are networks inside that the uplink may not know.
func (c *Client) Forward(forwards []Forward, sockets []*os.File, inside []netip.Prefix) error {
	if len(forwards) != len(sockets) {
		return fmt.Errorf("%d sockets for %d forwards", len(sockets), len(forwards))
	}
	_, err := c.ask(Request{Forward: &ForwardRequest{Forwards: forwards, Inside: inside}}, sockets)
	return err
}

// Status asks the uplink what it does.
func (c *Client) Status() (Status, error) {
	a, err := c.ask(Request{Status: true}, nil)
	if err == nil && a.Status == nil {
		err = errors.New("the uplink has not said its status")
	}
	if err != nil {
		return Status{}, err
	}
	return *a.Status, nil
}

// patience is how long an uplink may take to answer. One that is stopped, or cannot go on, must not keep a container from its end.
const patience = 10 * time.Second

func (c *Client) ask(r Request, sockets []*os.File) (Answer, error) {
	r.Version = Version
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.c.SetWriteDeadline(time.Now().Add(c.wait))
	if err := c.conn.send(r, sockets); err != nil {
		return Answer{}, c.lost(fmt.Errorf("%w: %w", errEnded, err))
	}
	select {
	case a := <-c.answers:
		if a.Error != nil {
			return a, errdef.New(a.Error.Kind, "%s", a.Error.Message)
		}
		return a, nil
	case <-c.ended:
		return Answer{}, c.lost(errEnded)
	case <-time.After(c.wait):
		_ = c.conn.Close() // or the answer would be taken for the next one's
		return Answer{}, c.lost(fmt.Errorf("there is no answer within %v", c.wait))
	}
}

// errEnded says that the uplink has closed the connection.
var errEnded = errors.New("it has ended")

func (c *Client) lost(err error) error {
	err = errdef.New(errdef.Unavailable, "the uplink of %s does not answer: %w", c.run, err)
	return errdef.Hint(err, "its last words are in %s", filepath.Join(c.run, logName))
}

// Ended is closed when the connection is: the uplink has died, or Close was called.
func (c *Client) Ended() <-chan struct{} { return c.ended }

// File is a copy of the connection's socket, to hand it on to a program that calls FromFile and NewClient.
func (c *Client) File() (*os.File, error) { return c.conn.c.File() }

// SyscallConn is the connection's socket, to be handed on like File.
func (c *Client) SyscallConn() (syscall.RawConn, error) { return c.conn.c.SyscallConn() }

// Close ends the connection, and with it what it forwards.
func (c *Client) Close() error { return c.conn.Close() }
