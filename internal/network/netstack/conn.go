package netstack

import (
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn is a TCP connection of the host's, without what package net asks the kernel about each.
type conn struct {
	file *os.File
	raw  syscall.RawConn
}

// newConn takes a socket that does not block. Small packets are for those inside to collect, and not for us.
func newConn(fd int) (*conn, error) {
	err := os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "TCP")
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &conn{f, raw}, nil
}

// keepAlive finds out that a peer has gone without a word, after about a quarter of an hour.
func (c *conn) keepAlive() {
	_ = c.raw.Control(func(fd uintptr) { // none of these fails on a connection of TCP's
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepaliveIdle/time.Second))
	})
}

// dial makes a connection, or fails with os.ErrDeadlineExceeded after patience.
func dial(to netip.AddrPort, patience time.Duration) (*conn, error) {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	c, err := newConn(fd)
	if err != nil {
		return nil, err
	}
	if err := c.connect(sockaddr(to), patience); err != nil {
		_ = c.file.Close()
		return nil, err
	}
	return c, nil
}

// connect connects. connect(2) says of a connection that is being made how far it is when it is called again; one to the host itself is
// made when it returns for the first time.
func (c *conn) connect(to unix.Sockaddr, patience time.Duration) error {
	if err := c.file.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	var failure error
	err := c.raw.Write(func(fd uintptr) bool {
		for range 2 {
			if failure = unix.Connect(int(fd), to); failure != unix.EINPROGRESS {
				break
			}
		}
		return failure != unix.EALREADY && failure != unix.EINTR
	})
	if err != nil {
		return err
	}
	if failure == nil && c.toItself(to) {
		failure = unix.ECONNREFUSED
	}
	if failure != nil {
		return os.NewSyscallError("connect", failure)
	}
	return c.file.SetWriteDeadline(time.Time{})
}

// toItself reports whether the kernel has chosen the port that is connected to, at which nobody listens, for the connection's own: TCP
// then connects it with itself.
func (c *conn) toItself(to unix.Sockaddr) (itself bool) {
	_ = c.raw.Control(func(fd uintptr) {
		own, err := unix.Getsockname(int(fd))
		itself = err == nil && addrPort(own) == addrPort(to)
	})
	return itself
}

// closeWrite ends what we send.
func (c *conn) closeWrite() {
	// It fails if the connection has been reset, which its reader sees.
	_ = c.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
}

// close ends the connection.
func (c *conn) close() { _ = c.file.Close() }

// abort resets the connection.
func (c *conn) abort() {
	_ = c.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
	c.close()
}

// interrupt makes the reader return os.ErrDeadlineExceeded, until resume.
func (c *conn) interrupt() { _ = c.file.SetReadDeadline(time.Unix(1, 0)) }

func (c *conn) resume() { _ = c.file.SetReadDeadline(time.Time{}) }

// hungUp reports whether both directions of a connection have ended.
func hungUp(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

// wasReset reports whether the peer has reset the connection.
func (c *conn) wasReset() (reset bool) {
	_ = c.raw.Control(func(fd uintptr) {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		reset = err == nil && errno != 0
	})
	return reset
}
