package netstack

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// relay carries between a connection of gVisor's, whose other end is inside, and one of the host's. Bytes go from the packet they came
// in to the host's socket, and from there into the packet they leave in, without a stop between. The end of one direction is passed
// on as such; a reset of either connection resets the other.
type relay struct {
	guest tcpip.Endpoint
	queue *waiter.Queue // what happens to guest
	host  *net.TCPConn
	raw   syscall.RawConn // host's
	reset sync.Once
}

// relay returns when both connections have ended.
func (s *Stack) relay(guest tcpip.Endpoint, queue *waiter.Queue, host *net.TCPConn) {
	r := &relay{guest: guest, queue: queue, host: host}
	defer s.guard("TCP connection", r.abort)
	raw, err := host.SyscallConn()
	if err != nil {
		r.abort()
		return
	}
	r.raw = raw
	s.tuneGuest(guest)
	hup := waiter.NewFunctionEntry(waiter.EventErr|waiter.EventHUp, func(waiter.EventMask) { r.wakeHost() })
	queue.EventRegister(&hup)
	defer queue.EventUnregister(&hup)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		defer s.guard("TCP connection", r.abort)
		r.toHost()
	}()
	r.toGuest()
	<-sent
	guest.Close()
	_ = host.Close()
}

// tuneGuest sets what a connection's end inside does.
func (s *Stack) tuneGuest(guest tcpip.Endpoint) {
	options := guest.SocketOptions()
	options.SetKeepAlive(true)
	// None of these fails on a connection of TCP's.
	_ = guest.SetSockOpt(ptr(tcpip.KeepaliveIdleOption(keepaliveIdle)))
	_ = guest.SetSockOpt(ptr(tcpip.KeepaliveIntervalOption(keepaliveInterval)))
	_ = guest.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
	if share := max(bufferTotal/max(int64(s.tcp.load()), 1)/2, bufferLeast); share < bufferBytes {
		options.SetSendBufferSize(share, false)
		options.SetReceiveBufferSize(share, false)
	}
}

// abort resets both connections, which ends both directions.
func (r *relay) abort() {
	r.reset.Do(func() {
		r.guest.Abort()
		abort(r.host)
	})
}

// abort resets a connection of the host's.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0) // closing is all the same
	_ = c.Close()
}

// wakeHost makes who waits for the host's connection look at the guest's.
func (r *relay) wakeHost() { _ = r.host.SetReadDeadline(time.Unix(1, 0)) }

// broken reports whether the guest's connection was reset, or given up.
func (r *relay) broken() bool { return tcp.EndpointState(r.guest.State()) == tcp.StateError }

// toHost carries from the guest.
func (r *relay) toHost() {
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	r.queue.EventRegister(&entry)
	defer r.queue.EventUnregister(&entry)
	var to hostWriter
	var result tcpip.Error
	write := func(fd uintptr) bool {
		to = hostWriter{fd: int(fd)}
		_, result = r.guest.Read(&to, tcpip.ReadOptions{})
		return to.err != unix.EAGAIN
	}
	for {
		if err := r.raw.Write(write); err != nil || to.err != nil {
			r.abort()
			return
		}
		switch result.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			<-readable
		case *tcpip.ErrClosedForReceive:
			_ = r.host.CloseWrite() // the host's connection has been reset, which toGuest sees
			return
		default:
			r.abort()
			return
		}
	}
}

// hostWriter writes to a socket until that is full.
type hostWriter struct {
	fd  int
	err error // what ended it
}

// Write may write less than all; then it returns an error, as io.Writer's must.
func (w *hostWriter) Write(b []byte) (n int, err error) {
	for n < len(b) {
		m, err := unix.Write(w.fd, b[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			w.err = err
			return n, err
		}
		n += m
	}
	return n, nil
}

// toGuest carries from the host.
func (r *relay) toGuest() {
	entry, writable := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	r.queue.EventRegister(&entry)
	defer r.queue.EventUnregister(&entry)
	var result tcpip.Error
	var failure error
	read := func(fd uintptr) bool {
		var from hostReader
		if from, failure = readableBytes(int(fd)); failure != nil {
			return failure != unix.EAGAIN
		}
		_, result = r.guest.Write(&from, tcpip.WriteOptions{})
		return true
	}
	for {
		err := r.raw.Read(read)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if r.stay() {
				continue
			}
			return
		case err != nil:
			r.abort()
			return
		case failure == io.EOF:
			_ = r.guest.Shutdown(tcpip.ShutdownWrite) // the guest's connection has been reset, which toHost sees
			r.watch()
			return
		case failure != nil:
			r.abort()
			return
		}
		switch result.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			<-writable
		default:
			r.abort()
			return
		}
	}
}

// stay is asked after wakeHost, and reports whether the guest's connection is still there.
func (r *relay) stay() bool {
	_ = r.host.SetReadDeadline(time.Time{}) // before the look: who wakes after it wakes again
	if r.broken() {
		r.abort()
		return false
	}
	return true
}

// watch waits, after the end of what the host sends, for the end of the host's connection: only a reset is news.
func (r *relay) watch() {
	for {
		err := r.raw.Read(hungUp)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if r.stay() {
				continue
			}
		case err != nil:
			r.abort()
		case resetByPeer(r.raw):
			r.abort()
		}
		return
	}
}

// hungUp reports whether both directions of a connection have ended.
func hungUp(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

func resetByPeer(raw syscall.RawConn) (reset bool) {
	_ = raw.Control(func(fd uintptr) {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		reset = err == nil && errno != 0
	})
	return reset
}

// readMost is how much is taken from a host's socket at once: 45 segments of an MTU of 1500 bytes, which is one packet.
const readMost = 45 * 1448

// hostReader reads n bytes that are there (tcpip.Payloader).
type hostReader struct {
	fd, n int
}

// readableBytes returns a reader of what a socket has, or io.EOF, or unix.EAGAIN.
func readableBytes(fd int) (hostReader, error) {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return hostReader{}, err
	}
	if n == 0 {
		return hostReader{}, whyNothing(fd)
	}
	return hostReader{fd, min(n, readMost)}, nil
}

// whyNothing distinguishes the end from a pause and from an error.
func whyNothing(fd int) error {
	var one [1]byte
	for {
		n, _, err := unix.Recvfrom(fd, one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.EOF
		default:
			return unix.EAGAIN // it has come meanwhile, and its event with it
		}
	}
}

// Len is how much Read will give.
func (h *hostReader) Len() int { return h.n }

// Read reads what is there.
func (h *hostReader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil // gVisor asks so whether there is more
	}
	for {
		n, err := unix.Read(h.fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		if n == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		h.n -= n
		return n, nil
	}
}
