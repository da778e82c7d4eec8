// Package systemd asks a systemd for scopes: units of processes that systemd has not started itself. It speaks D-Bus, as far as
// that takes: calls of a few methods, their answers, and one signal.
//
// It knows nothing of containers, and reads and writes no control group. The interface is documented in org.freedesktop.systemd1(5),
// "CONTROL GROUP INTERFACE" in systemd's own words at https://systemd.io/CONTROL_GROUP_INTERFACE.
package systemd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"berth/internal/host"

	"golang.org/x/sys/unix"
)

// Scope is a scope that is to be.
type Scope struct {
	Name, Description, Slice string
	// PIDs are the processes that are moved into it: at least one, for systemd has no scope without (scope_verify). Self is the one that asks.
	PIDs []uint32
	// StopTimeout is how long its processes may take to end when it is stopped: when the host goes down, for example.
	StopTimeout time.Duration
	// Properties are its further ones (systemd.resource-control(5)).
	Properties []Property
}

// Property is a property of a unit; its value is a string, a bool, a uint64 or a []uint32.
type Property struct {
	Name  string
	Value any
}

// Self stands for the process that has made the connection, whatever its number is where systemd is: that may be in another pid namespace.
const Self = 0

// properties are what systemd is told of a scope. Its own limit of tasks, which it gives to every unit (DefaultTasksMax=), is
// lifted. Delegate= leaves the groups below it to us; CollectMode= has it forgotten also when it has failed.
func (s Scope) properties() []Property {
	return append([]Property{
		{"Description", s.Description},
		{"Slice", s.Slice},
		{"PIDs", s.PIDs},
		{"Delegate", true},
		{"CollectMode", "inactive-or-failed"},
		{"TasksMax", ^uint64(0)},
		{"TimeoutStopUSec", uint64(s.StopTimeout.Microseconds())},
	}, s.Properties...)
}

// Names of errors that systemd answers with.
const (
	unitExists = "org.freedesktop.systemd1.UnitExists"
	noSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"
	// Of a bus, when systemd has gone.
	noReply      = "org.freedesktop.DBus.Error.NoReply"
	disconnected = "org.freedesktop.DBus.Error.Disconnected"
)

// Error is systemd's own answer that something cannot be done.
type Error struct{ Name, Text string }

func (e *Error) Error() string {
	if e.Text == "" {
		return "systemd: " + e.Name
	}
	return "systemd: " + e.Text
}

// timeout bounds each call, and the job that it begins: moving a process takes milliseconds.
const timeout = 30 * time.Second

// Conn is a connection to a systemd. It is used by one goroutine at a time.
type Conn struct {
	fd     int
	until  time.Time
	serial uint32
	unsent []byte // goes out with the next call
	input  []byte // has come and is not read
	authed bool
}

// Dial connects to the first of the sockets that takes a connection.
//
// Who we are the other side sees by the socket's credentials. The mechanism EXTERNAL may leave the user out ("DATA" without data): what
// number our user has in the other side's user namespace cannot be known here. Nothing is sent yet: it goes out with the first call,
// which spares two turns.
func Dial(sockets []host.Socket) (*Conn, error) {
	if len(sockets) == 0 {
		return nil, errors.New("no systemd can be asked")
	}
	var errs error
	for _, s := range sockets {
		fd, err := connect(s.Path)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		c := &Conn{fd: fd}
		c.unsent = []byte("\x00AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
		if s.Bus {
			c.greet()
		}
		return c, nil
	}
	return nil, errs
}

// greet says to a bus that we are there, and which signal we wait for. systemd sends it to whoever has begun a job (job->bus_track), but
// as a broadcast.
func (c *Conn) greet() {
	const bus = "org.freedesktop.DBus"
	c.queue(call{destination: bus, path: "/org/freedesktop/DBus", iface: bus, member: "Hello"})
	match := call{destination: bus, path: "/org/freedesktop/DBus", iface: bus, member: "AddMatch", signature: "s"}
	match.body.string("type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'")
	c.queue(match)
}

func connect(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	wait := unix.NsecToTimeval(timeout.Nanoseconds()) // of connect, too, where nobody accepts
	if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait); err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, &os.PathError{Op: "connect", Path: path, Err: err}
	}
	return fd, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return os.NewSyscallError("close", unix.Close(c.fd)) }

// StartScope makes a scope. When it returns, the processes are in its control group.
func (c *Conn) StartScope(s Scope) error {
	m := manager("StartTransientUnit", "ssa(sv)a(sa(sv))")
	m.body.string(s.Name)
	m.body.string("fail") // if a job for such a unit is under way
	m.body.properties(s.properties())
	m.body.array(8, func() {}) // no units besides
	return c.job(m, s.Name)
}

// Exists reports whether an error says that there is such a unit already.
func Exists(err error) bool { return named(err, unitExists) }

// Lost reports whether an error says that the connection was lost: systemd has ended, or executes itself again. What it was asked for it may
// have done.
func Lost(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.ECONNREFUSED) ||
		named(err, noReply) || named(err, disconnected)
}

func named(err error, name string) bool {
	var e *Error
	return errors.As(err, &e) && e.Name == name
}

// Stop ends a unit with all of its processes. One that is not there is no error.
func (c *Conn) Stop(unit string) error {
	m := manager("StopUnit", "ss")
	m.body.string(unit)
	m.body.string("replace")
	err := c.job(m, unit)
	if named(err, noSuchUnit) {
		return nil
	}
	return err
}

// ResetFailed has systemd forget a unit that has failed.
func (c *Conn) ResetFailed(unit string) error {
	m := manager("ResetFailedUnit", "s")
	m.body.string(unit)
	_, err := c.call(m)
	if named(err, noSuchUnit) {
		return nil
	}
	return err
}

// SetProperties changes properties of a unit, until it is gone.
func (c *Conn) SetProperties(unit string, properties []Property) error {
	m := manager("SetUnitProperties", "sba(sv)")
	m.body.string(unit)
	m.body.uint32(1) // runtime: nothing is written down
	m.body.properties(properties)
	_, err := c.call(m)
	return err
}

// Attach moves a process, or Self, into a group below that of a unit. systemd does that also where we may not (since version 238).
func (c *Conn) Attach(unit, subgroup string, pid uint32) error {
	m := manager("AttachProcessesToUnit", "ssau")
	m.body.string(unit)
	m.body.string(subgroup)
	m.body.array(4, func() { m.body.uint32(pid) })
	_, err := c.call(m)
	return err
}

// manager is a call of a method of systemd's manager.
func manager(member, signature string) call {
	return call{
		destination: "org.freedesktop.systemd1", path: "/org/freedesktop/systemd1", iface: "org.freedesktop.systemd1.Manager",
		member: member, signature: signature,
	}
}

// job calls a method that begins a job and waits for its end.
func (c *Conn) job(m call, unit string) error {
	answer, err := c.call(m)
	if err != nil {
		return err
	}
	values, err := answer.strings()
	if err != nil || len(values) != 1 {
		return errMalformed
	}
	for job := values[0]; ; {
		news, err := c.receive()
		if err != nil {
			return err
		}
		if news.kind != signal || news.member != "JobRemoved" || news.signature != "uoss" {
			continue
		}
		removed, err := news.strings() // of the job, the unit, and how it has ended
		switch {
		case err != nil:
			return err
		case removed[0] != job:
		case removed[2] != "done":
			return &Error{Text: fmt.Sprintf("the job for %s has ended with %q", unit, removed[2])}
		default:
			return nil
		}
	}
}

// queue puts a call behind what is to be sent, and returns its number.
func (c *Conn) queue(m call) uint32 {
	c.serial++
	c.unsent = append(c.unsent, encode(c.serial, m)...)
	return c.serial
}

// call calls a method and returns the answer.
func (c *Conn) call(m call) (message, error) {
	c.until = time.Now().Add(timeout)
	serial := c.queue(m)
	if err := c.flush(); err != nil {
		return message{}, err
	}
	for {
		answer, err := c.receive()
		if err != nil {
			return message{}, err
		}
		switch {
		case answer.kind == failure && answer.replySerial <= serial: // also of the bus's Hello
			text, _ := answer.strings() // an error need not have one
			return message{}, &Error{answer.errorName, strings.Join(text, ": ")}
		case answer.kind == methodReturn && answer.replySerial == serial:
			return answer, nil
		}
	}
}

// flush sends what is to be sent.
func (c *Conn) flush() error {
	for len(c.unsent) > 0 {
		n, err := unix.SendmsgN(c.fd, c.unsent, nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
		c.unsent = c.unsent[n:]
	}
	return nil
}

// receive reads the next message.
func (c *Conn) receive() (message, error) {
	if err := c.authenticate(); err != nil {
		return message{}, err
	}
	if err := c.fill(fixedHeader); err != nil {
		return message{}, err
	}
	n, err := size(c.input)
	if err != nil {
		return message{}, err
	}
	if err := c.fill(n); err != nil {
		return message{}, err
	}
	m, err := parse(c.input[:n:n])
	c.input = c.input[n:]
	return m, err
}

// authenticate reads the answers to what Dial has said: "DATA", and "OK" with an id of the server.
func (c *Conn) authenticate() error {
	for !c.authed {
		line, err := c.line()
		if err != nil {
			return err
		}
		word, _, _ := bytes.Cut(line, []byte(" "))
		switch string(word) {
		case "DATA":
		case "OK":
			c.authed = true
		default:
			return fmt.Errorf("systemd does not accept this user: %q", line)
		}
	}
	return nil
}

// line reads a line that ends with CR and LF.
func (c *Conn) line() ([]byte, error) {
	const longest = 4096
	for n := 1; n < longest; n++ {
		if err := c.fill(n); err != nil {
			return nil, err
		}
		if line, ok := bytes.CutSuffix(c.input[:n], []byte("\r\n")); ok {
			c.input = c.input[n:]
			return line, nil
		}
	}
	return nil, errMalformed
}

// fill reads until n bytes are there.
func (c *Conn) fill(n int) error {
	for len(c.input) < n {
		left := time.Until(c.until)
		if left <= 0 {
			return fmt.Errorf("systemd has not answered within %v", timeout)
		}
		wait := unix.NsecToTimeval(left.Nanoseconds())
		if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
		buffer := make([]byte, max(4096, n-len(c.input)))
		got, err := unix.Read(c.fd, buffer)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
		case err != nil:
			return os.NewSyscallError("read", err)
		case got == 0:
			return fmt.Errorf("systemd has ended the connection: %w", io.ErrUnexpectedEOF)
		default:
			c.input = append(c.input, buffer[:got]...)
		}
	}
	return nil
}
