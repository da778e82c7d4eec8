// Package netlink speaks rtnetlink as far as the networks of containers need it: links, addresses and routes. Its messages
// and sockets also carry what network/nft says to netfilter.
//
// It decides nothing: functions named after an act return a Request, a plain value, and Conn.Do sends any number of them in
// one system call. It knows no networks and no containers, is no general netlink library, and listens to no events.
// The numbers are those of linux/netlink.h, linux/rtnetlink.h, linux/if_link.h and linux/if_bridge.h.
package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Request is one message to the kernel.
type Request struct {
	// Purpose completes "cannot ...".
	Purpose string
	Type    uint16
	Flags   uint16 // NLM_F_REQUEST is added
	Payload []byte
	// Tolerated are the errnos that are no failure of this request.
	Tolerated []unix.Errno
}

// Tolerate returns the request with errnos that are no failure.
func (r Request) Tolerate(errnos ...unix.Errno) Request {
	r.Tolerated = append(r.Tolerated[:len(r.Tolerated):len(r.Tolerated)], errnos...)
	return r
}

// Error is the kernel's refusal of one request. It wraps the errno.
type Error struct {
	Purpose string
	Errno   unix.Errno
	Text    string // what the kernel adds (extended acknowledgements, Linux 4.12), or empty
	Index   int    // which of the requests that were sent together
}

func (e *Error) Error() string {
	text := "cannot " + e.Purpose + ": " + e.Errno.Error()
	if e.Text != "" {
		text += " (" + e.Text + ")"
	}
	return text
}

func (e *Error) Unwrap() error { return e.Errno }

// Conn is one netlink socket. It stays in the network namespace in which it was opened. It is for one goroutine at a time.
type Conn struct {
	fd  int
	seq uint32
	buf []byte
}

// answerTimeout bounds every wait. The kernel answers before sendto returns, so that nothing is ever waited for unless
// a reply was lost.
const answerTimeout = 10 * time.Second

// Open opens a socket for NETLINK_ROUTE or NETLINK_NETFILTER in the calling thread's network namespace.
func Open(protocol int) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("cannot open a netlink socket: %w", os.NewSyscallError("socket", err))
	}
	// Neither option is needed to work: they make errors say more (Linux 4.2, 4.12).
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt", err)
	}
	return &Conn{fd: fd, buf: make([]byte, 32<<10)}, nil
}

// File hands the socket over. The Conn is of no use any more.
func (c *Conn) File() *os.File {
	f := os.NewFile(uintptr(c.fd), "netlink")
	c.fd = -1
	return f
}

// OpenIn is Open in the network namespace that ns refers to.
func OpenIn(ns *os.File, protocol int) (c *Conn, err error) {
	err = InNamespace(ns, func() error {
		c, err = Open(protocol)
		return err
	})
	return c, err
}

// InNamespace calls f on a thread that is in the network namespace ns. f must start no goroutine that relies on it.
// It needs CAP_SYS_ADMIN over that namespace.
func InNamespace(ns *os.File, f func() error) error {
	if mayReturn() {
		return thereAndBack(ns, f)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		err := enter(ns)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// mayReturn reports whether a thread that leaves the network namespace of this process can come back: root of a user namespace may
// not enter the host's. The thread that asks first is in the process's: of the process itself /proc says only where its first thread
// is, which may be one that has gone elsewhere for good.
var mayReturn = sync.OnceValue(func() bool {
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(home)
	var owner int
	if owner, err = unix.IoctlRetInt(home, unix.NS_GET_USERNS); err != nil {
		return err != unix.EPERM
	}
	return unix.Close(owner) == nil
})

func enter(ns *os.File) error {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("cannot enter the network namespace %s: %w", ns.Name(), os.NewSyscallError("setns", err))
	}
	return nil
}

func thereAndBack(ns *os.File, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/proc/thread-self/ns/net", Err: err}
	}
	defer unix.Close(home)
	if err := enter(ns); err != nil {
		return err
	}
	defer func() {
		// A thread that stayed there would do the next container's work in this container.
		if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("cannot return from a network namespace: %v", err))
		}
	}()
	return f()
}

// Close closes the socket; a nil Conn is closed already.
func (c *Conn) Close() error {
	if c == nil || c.fd < 0 {
		return nil
	}
	err := unix.Close(c.fd)
	c.fd = -1
	return err
}

// Grow makes room in the socket for a message of that many bytes and for as many answers. Without CAP_NET_ADMIN in the
// first user namespace the host's limits (net.core.wmem_max, rmem_max) hold.
func (c *Conn) Grow(bytes int) {
	if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bytes) != nil {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
	}
	if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) != nil {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
	}
}

// Do sends the requests in one system call and reads an acknowledgement of each. The kernel carries them out in order and
// goes on after one that failed; the first failure is returned.
func (c *Conn) Do(requests ...Request) error {
	if len(requests) == 0 {
		return nil
	}
	var out []byte
	first := c.seq + 1
	for _, r := range requests {
		c.seq++
		r.Flags |= unix.NLM_F_REQUEST | unix.NLM_F_ACK
		out = appendMessage(out, r, c.seq)
	}
	if err := c.send(out); err != nil {
		return fmt.Errorf("cannot %s: %w", requests[0].Purpose, err)
	}
	var failed *Error
	for missing := len(requests); missing > 0; {
		messages, err := c.receive(0)
		if err != nil {
			return fmt.Errorf("cannot learn whether the kernel could %s: %w", requests[0].Purpose, err)
		}
		for _, m := range messages {
			i := int(m.Seq - first)
			if m.Type != unix.NLMSG_ERROR || i < 0 || i >= len(requests) {
				continue // late answers to what was given up
			}
			missing--
			e, err := acknowledgement(m)
			if err != nil {
				return err
			}
			if e == nil || tolerated(requests[i], e.Errno) || failed != nil && failed.Index < i {
				continue
			}
			e.Index, e.Purpose = i, requests[i].Purpose
			failed = e
		}
	}
	if failed != nil {
		return failed
	}
	return nil
}

func tolerated(r Request, errno unix.Errno) bool {
	for _, t := range r.Tolerated {
		if t == errno {
			return true
		}
	}
	return false
}

// Transact sends requests that the kernel carries out all or not at all: netfilter's batches. Only the last that can be
// acknowledged asks for it, so that a large batch does not overflow the socket with answers. Every error arrives; the first
// is returned.
func (c *Conn) Transact(requests []Request) error {
	var out []byte
	first := c.seq + 1
	for _, r := range requests {
		c.seq++
		r.Flags |= unix.NLM_F_REQUEST
		out = appendMessage(out, r, c.seq)
	}
	if err := c.send(out); err != nil {
		return fmt.Errorf("cannot %s: %w", requests[0].Purpose, err)
	}
	var failed *Error
	answered := false
	for {
		// The kernel has queued every answer before sendto returned.
		messages, err := c.receive(unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot learn whether the kernel could %s: %w", requests[0].Purpose, err)
		}
		for _, m := range messages {
			i := int(m.Seq - first)
			if m.Type != unix.NLMSG_ERROR || i < 0 || i >= len(requests) {
				continue
			}
			answered = true
			e, err := acknowledgement(m)
			if err != nil {
				return err
			}
			if e == nil || failed != nil && failed.Index <= i {
				continue
			}
			e.Index, e.Purpose = i, requests[i].Purpose
			failed = e
		}
	}
	if failed != nil {
		return failed
	}
	if !answered {
		return fmt.Errorf("cannot learn whether the kernel could %s: it has not answered", requests[0].Purpose)
	}
	return nil
}

// interrupted bounds how often a listing is repeated because something was changed meanwhile.
const interrupted = 20

var errInterrupted = errors.New("the list has changed while it was read, again and again")

// Dump sends one request for a list and returns the messages of the answer. A list that was changed while it was read
// (NLM_F_DUMP_INTR) is read again.
func (c *Conn) Dump(r Request) ([]Message, error) {
	r.Flags |= unix.NLM_F_DUMP
	for range interrupted {
		all, whole, err := c.dumpOnce(r)
		if err != nil {
			return nil, err
		}
		if whole {
			return all, nil
		}
	}
	return nil, fmt.Errorf("cannot %s: %w", r.Purpose, errInterrupted)
}

// Get sends requests that are answered by one message each, in one system call, and returns the answers: nil stands for a
// tolerated errno.
func (c *Conn) Get(requests ...Request) ([]*Message, error) {
	var out []byte
	first := c.seq + 1
	for _, r := range requests {
		c.seq++
		r.Flags |= unix.NLM_F_REQUEST
		out = appendMessage(out, r, c.seq)
	}
	if err := c.send(out); err != nil {
		return nil, fmt.Errorf("cannot %s: %w", requests[0].Purpose, err)
	}
	answers := make([]*Message, len(requests))
	var errs error
	for missing := len(requests); missing > 0; {
		messages, err := c.receive(0)
		if err != nil {
			return nil, fmt.Errorf("cannot %s: %w", requests[0].Purpose, err)
		}
		for _, m := range messages {
			i := int(m.Seq - first)
			if i < 0 || i >= len(requests) {
				continue // late answers to what was given up
			}
			missing--
			if m.Type != unix.NLMSG_ERROR {
				m.Payload = append([]byte(nil), m.Payload...) // the buffer is used again
				answers[i] = &m
				continue
			}
			e, err := acknowledgement(m)
			if err != nil {
				return nil, err
			}
			if e != nil && !tolerated(requests[i], e.Errno) {
				e.Index, e.Purpose = i, requests[i].Purpose
				errs = errors.Join(errs, e)
			}
		}
	}
	return answers, errs
}

// dumpBytes bounds a list: a hundred thousand routes have some ten megabytes.
const dumpBytes = 256 << 20

// dumpOnce reads the answer to one request up to its end. whole is false if the kernel says that the list was changed meanwhile.
func (c *Conn) dumpOnce(r Request) (all []Message, whole bool, err error) {
	c.seq++
	r.Flags |= unix.NLM_F_REQUEST
	if err := c.send(appendMessage(nil, r, c.seq)); err != nil {
		return nil, false, fmt.Errorf("cannot %s: %w", r.Purpose, err)
	}
	whole = true
	for total := 0; ; {
		messages, err := c.receive(0)
		if err != nil {
			return nil, false, fmt.Errorf("cannot %s: %w", r.Purpose, err)
		}
		for _, m := range messages {
			if m.Seq != c.seq {
				continue
			}
			if m.Flags&unix.NLM_F_DUMP_INTR != 0 {
				whole = false
			}
			switch m.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				e, err := acknowledgement(m)
				switch {
				case err != nil:
					return nil, false, err
				case e != nil && e.Errno == unix.EINTR: // netfilter's word for a list that has changed
					return nil, false, nil
				case e != nil:
					e.Purpose = r.Purpose
					return nil, false, e
				}
				return all, whole, nil
			}
			if total += len(m.Payload); total > dumpBytes {
				return nil, false, fmt.Errorf("cannot %s: the answer has more than %d bytes", r.Purpose, dumpBytes)
			}
			m.Payload = append([]byte(nil), m.Payload...) // the buffer is used again
			all = append(all, m)
		}
	}
}

func (c *Conn) send(b []byte) error {
	for {
		err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return os.NewSyscallError("sendto", err)
		}
	}
}

// receive reads one datagram, which must come from the kernel. What is returned lies in the connection's buffer.
func (c *Conn) receive(flags int) ([]Message, error) {
	for {
		n, from, err := unix.Recvfrom(c.fd, c.buf, flags|unix.MSG_TRUNC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		if n > len(c.buf) {
			return nil, fmt.Errorf("a netlink answer of %d bytes does not fit", n)
		}
		// Any process may send to a netlink socket; only the kernel has the port 0.
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue
		}
		return ParseMessages(c.buf[:n])
	}
}

// acknowledgement reads NLMSG_ERROR, or the errno that NLMSG_DONE may carry: nil is success.
func acknowledgement(m Message) (*Error, error) {
	if len(m.Payload) < 4 {
		if m.Type == unix.NLMSG_DONE {
			return nil, nil
		}
		return nil, errMalformed
	}
	errno := int32(binary.NativeEndian.Uint32(m.Payload))
	if errno >= 0 {
		return nil, nil
	}
	e := &Error{Errno: unix.Errno(-errno)}
	if m.Flags&unix.NLM_F_ACK_TLVS != 0 && m.Type == unix.NLMSG_ERROR {
		e.Text = extendedText(m)
	}
	return e, nil
}

// extendedText is what the kernel adds to an errno: attributes after the errno and the header of the request, which is followed
// by the request itself unless the message is capped.
func extendedText(m Message) string {
	if len(m.Payload) < 4+headerBytes {
		return ""
	}
	skip := 4 + headerBytes
	if m.Flags&unix.NLM_F_CAPPED == 0 {
		echoed := binary.NativeEndian.Uint32(m.Payload[4:])
		if echoed > uint32(len(m.Payload)) {
			return ""
		}
		skip = 4 + align(int(echoed))
	}
	if skip > len(m.Payload) {
		return ""
	}
	attributes, err := ParseAttributes(m.Payload[skip:])
	if err != nil {
		return ""
	}
	for _, a := range attributes {
		if a.Kind == unix.NLMSGERR_ATTR_MSG {
			return a.Text()
		}
	}
	return ""
}
