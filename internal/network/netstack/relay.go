package netstack

import (
	"errors"
	"io"
	"os"
	"sync"
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
	host  *conn
	reset sync.Once
	sent  chan struct{} // closed when toHost has returned
}

// relay returns when both connections have ended.
func (s *Stack) relay(guest tcpip.Endpoint, queue *waiter.Queue, host *conn) {
	r := &relay{guest: guest, queue: queue, host: host}
	defer s.guard("TCP connection", r.abort)
	s.tuneGuest(guest)
	host.keepAlive()
	hup := waiter.NewFunctionEntry(waiter.EventErr|waiter.EventHUp, func(waiter.EventMask) { host.interrupt() })
	queue.EventRegister(&hup)
	defer queue.EventUnregister(&hup)
	r.sent = make(chan struct{})
	go func() {
		defer close(r.sent)
		defer s.guard("TCP connection", r.abort)
		r.toHost()
	}()
	r.toGuest()
	<-r.sent
	guest.Close()
	host.close()
	r.settle()
}

// closeTimeout is how long the guest's kernel may take to acknowledge the end of a connection.
const closeTimeout = 10 * time.Second

// settle waits until gVisor has only TIME-WAIT to do for the guest's connection, so that it counts until then: a guest that does not
// acknowledge ends could otherwise have any number of them.
func (r *relay) settle() {
	entry, changed := waiter.NewChannelEntry(waiter.EventErr | waiter.EventHUp)
	r.queue.EventRegister(&entry)
	defer r.queue.EventUnregister(&entry)
	patience := time.NewTimer(closeTimeout)
	defer patience.Stop()
	for {
		switch tcp.EndpointState(r.guest.State()) {
		case tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
			return
		case tcp.StateFinWait2:
			// The guest has ended its direction, or we were not here: gVisor, when it sends a FIN again, takes LAST-ACK for FIN-WAIT-1.
			r.guest.Abort()
			return
		}
		select {
		case <-changed:
		case <-patience.C:
			r.guest.Abort()
			return
		}
	}
}

// tuneGuest sets what a connection's end inside does.
func (s *Stack) tuneGuest(guest tcpip.Endpoint) {
	options := guest.SocketOptions()
	options.SetKeepAlive(true)
	// None of these fails on a connection of TCP's.
	_ = guest.SetSockOpt(ptr(tcpip.KeepaliveIdleOption(keepaliveIdle)))
	_ = guest.SetSockOpt(ptr(tcpip.KeepaliveIntervalOption(keepaliveInterval)))
	_ = guest.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
	share := max(bufferTotal/max(int64(s.tcp.load()), 1), bufferLeast)
	options.SetSendBufferSize(min(share, sendBytes), false)
	options.SetReceiveBufferSize(min(share, receiveBytes), false)
}

// abort resets both connections, which ends both directions.
func (r *relay) abort() {
	r.reset.Do(func() {
		r.guest.Abort()
		r.host.abort()
	})
}

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
		if err := r.host.raw.Write(write); err != nil || to.err != nil {
			r.abort()
			return
		}
		switch result.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			<-readable
		case *tcpip.ErrClosedForReceive:
			r.host.closeWrite()
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
		m, errno := noWaitWrite(w.fd, b[n:])
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			w.err = errno
			return n, errno
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
		err := r.host.raw.Read(read)
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

// stay is asked after the reader of the host's connection was interrupted, and reports whether the guest's connection is still there.
func (r *relay) stay() bool {
	r.host.resume() // before the look: who interrupts after it interrupts again
	if r.broken() {
		r.abort()
		return false
	}
	return true
}

// watch waits, after the end of what the host sends, for the end of the host's connection: only a reset is news, and none where the other
// direction has ended, too.
func (r *relay) watch() {
	for {
		select {
		case <-r.sent:
			return
		default:
		}
		err := r.host.raw.Read(hungUp)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if r.stay() {
				continue
			}
		case err != nil:
			r.abort()
		case r.host.wasReset():
			r.abort()
		}
		return
	}
}

// readMost is how much is taken from a host's socket at once: 45 segments of an MTU of 1500 bytes, which is one packet.
const readMost = 45 * 1448

// hostReader reads n bytes that are there (tcpip.Payloader).
type hostReader struct {
	fd, n int
}

// readableBytes returns a reader of what a socket has, or io.EOF, or unix.EAGAIN.
func readableBytes(fd int) (hostReader, error) {
	n, errno := noWaitPending(fd)
	if errno != 0 {
		return hostReader{}, errno
	}
	if n > 0 {
		return hostReader{fd, min(n, readMost)}, nil
	}
	// The end, a pause, an error, or urgent data, at which the count stops and which reading leaves out.
	for {
		n, errno := noWaitPeek(fd)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return hostReader{}, errno
		case n == 0:
			return hostReader{}, io.EOF
		default:
			return hostReader{fd, n}, nil
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
		n, errno := noWaitRead(h.fd, b)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		if n == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		h.n -= n
		return n, nil
	}
}
