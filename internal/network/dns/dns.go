// Package dns is the resolver that a container on a user-defined network finds at 127.0.0.11. It answers for the names and
// addresses on the container's networks and passes everything else on to the host's servers, or to those of --dns.
//
// It runs in the container's monitor, which must stay small: two goroutines, one for each socket that is listened on, and
// for a while one more for each query that is passed on and each TCP client; all of them are bounded. It keeps no cache,
// writes no files, brings no packets from port 53 to its sockets (network/nft does), and does not know where names come
// from: a Zone does.
//
// What is passed on is not changed, but for the number of the message, which is drawn anew. An answer is believed only
// from the server and port that were asked, with that number and the same question; the rest of it is the container's
// libc's business, as it would be without us.
//
// Where it does as docker does, and why (docker's resolver.go and sandbox_dns_unix.go, release 29):
//
//   - Names without a dot that nobody here knows are passed on, too: a host's search domain may be on the upstream server
//     and not in libc. Only if somebody has chosen ndots are they "no data" at once.
//   - The host's servers are asked from the host's network namespace, so that those on its loopback (systemd-resolved's
//     127.0.0.53) can be reached; those of --dns from the container's, so that --dns may name a server on its networks.
//   - On an internal network nothing is passed on to the host's servers (CVE-2024-29018): SERVFAIL. --dns goes on to
//     work, since its queries go only where the container's own packets go.
//   - No servers at all: SERVFAIL. Public ones are a fallback on the default bridge only, where there is no resolver.
//   - At most three servers are asked, one after the other; SERVFAIL, REFUSED and silence lead to the next.
//
// Where it does not:
//
//   - A name that is known is known for every type. Docker passes on TXT or HTTPS queries for it, and an upstream server's
//     "no such name" is then held against its addresses by programs that keep answers (RFC 8020).
//   - The host's resolv.conf is read again when it has changed. Docker's resolver keeps what was there at the start.
//   - With several servers each has two seconds, not four, unless the host's file says otherwise: libc waits for five.
//   - Beyond 256 queries in flight (docker: 1024) further ones are dropped; libc repeats them. Answers of our own go on.
//   - An OPT record is answered with one, as RFC 6891 asks.
package dns

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxFlights bounds the queries that are with other servers, and so the memory and the descriptors of the process.
	maxFlights = 256
	// maxClients bounds the TCP connections; more wait in the kernel's queue.
	maxClients = 32
	// clientPatience is how long a TCP client may take for one message, in either direction.
	clientPatience = 5 * time.Second
)

// Config is what a server answers with. It does not change; Server.Configure takes a new one.
type Config struct {
	// Networks are those that the container is on, the most important first.
	Networks []Network
	// Servers are those of --dns; Dial makes the sockets to ask them, in the container's network namespace (DialIn).
	Servers []netip.Addr
	Dial    Dialer
	// ResolvConf is the host's file whose servers are asked when there are none of --dns. Empty on an internal network.
	ResolvConf string
	// Ndots says that the host or an option has set ndots (etcfiles.ResolvConfOnNetwork tells).
	Ndots bool
}

// Server is a running resolver.
type Server struct {
	sockets Sockets
	udp     *net.UDPConn
	tcp     *net.TCPListener
	config  atomic.Pointer[Config]
	host    hostServers
	port    uint16 // of servers

	running sync.WaitGroup
	slots   chan struct{} // one for each TCP client
	done    chan struct{}

	mu      sync.Mutex
	closed  bool
	flights int
	open    map[io.Closer]struct{} // what Close has to interrupt

	inMu sync.Mutex
	in   []byte // an answer of another server over UDP, of any length
}

// Start serves on sockets, which belong to the server from then on.
func Start(s Sockets, c Config) (*Server, error) { return start(s, c, 53) }

func start(sockets Sockets, c Config, port uint16) (*Server, error) {
	udp, tcp, err := sockets.conns()
	if err != nil {
		return nil, err
	}
	s := &Server{
		sockets: sockets, udp: udp, tcp: tcp, port: port,
		slots: make(chan struct{}, maxClients), done: make(chan struct{}), open: map[io.Closer]struct{}{},
	}
	s.Configure(c)
	s.running.Go(s.serveUDP)
	s.running.Go(s.serveTCP)
	return s, nil
}

// Configure changes what queries that come later are answered with.
func (s *Server) Configure(c Config) { s.config.Store(&c) }

// Sockets are the ones served, to be handed on to a program that is executed in this one's place.
func (s *Server) Sockets() Sockets { return s.sockets }

// Close ends everything, queries in flight too, and returns when nothing is left.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.done)
	for c := range s.open {
		_ = c.Close()
	}
	s.mu.Unlock()
	err := errors.Join(s.udp.Close(), s.tcp.Close(), s.sockets.Close())
	s.running.Wait()
	return err
}

// track has Close interrupt c. It reports false, and closes c, if Close has been called.
func (s *Server) track(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return false
	}
	s.open[c] = struct{}{}
	return true
}

// release closes what was tracked.
func (s *Server) release(c io.Closer) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	_ = c.Close()
}

func (s *Server) serveUDP() {
	a := newAnswerer()
	buf := make([]byte, maxQuery+1)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			if s.over(err) {
				return
			}
			continue
		}
		if n > maxQuery {
			continue // it is cut off
		}
		c := s.config.Load()
		out, v := a.handle(c, buf[:n], false)
		switch v {
		case reply:
			_, _ = s.udp.WriteToUDPAddrPort(out, from) // a client that has gone
		case forward:
			s.fly(c, &a.q, from)
		}
	}
}

// over reports whether the server is closed. Any other error of a listening socket is the want of memory or descriptors,
// and passes.
func (s *Server) over(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return true
	}
	select {
	case <-s.done:
		return true
	case <-time.After(10 * time.Millisecond):
		return false
	}
}

func (s *Server) serveTCP() {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.done:
			return
		}
		c, err := s.tcp.AcceptTCP()
		if err != nil {
			<-s.slots
			if s.over(err) {
				return
			}
			continue
		}
		if !s.track(c) {
			return
		}
		s.running.Go(func() {
			defer func() { <-s.slots }()
			defer s.release(c)
			s.serveClient(c)
		})
	}
}

// serveClient answers the queries of a TCP client, one after the other.
func (s *Server) serveClient(c *net.TCPConn) {
	a := newAnswerer()
	var buf []byte
	for {
		if c.SetReadDeadline(time.Now().Add(clientPatience)) != nil {
			return
		}
		var err error
		if buf, err = readMessage(c, buf, maxQuery); err != nil {
			return
		}
		config := s.config.Load()
		out, v := a.handle(config, buf, true)
		if v == forward {
			out = s.ask(config, &a.q)
		}
		if out == nil || c.SetWriteDeadline(time.Now().Add(clientPatience)) != nil {
			return
		}
		if writeMessage(c, out) != nil {
			return
		}
	}
}

// readMessage reads a message of at most limit bytes, behind its length, into buf or a larger one.
func readMessage(r io.Reader, buf []byte, limit int) ([]byte, error) {
	if cap(buf) < 512 {
		buf = make([]byte, 512)
	}
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return nil, err
	}
	n := int(buf[0])<<8 | int(buf[1])
	if n > limit {
		return nil, errors.New("a message is too long")
	}
	// No more memory is taken than has come, however long a message claims to be.
	buf = buf[:0]
	for len(buf) < n {
		if len(buf) == cap(buf) {
			buf = append(buf, make([]byte, len(buf))...)[:len(buf)]
		}
		got, err := r.Read(buf[len(buf):min(n, cap(buf))])
		buf = buf[:len(buf)+got]
		if err != nil && len(buf) < n {
			return nil, err
		}
	}
	return buf, nil
}

// writeMessage writes a message behind its length, at once: some clients take the first segment for the whole.
func writeMessage(w io.Writer, msg []byte) error {
	out := make([]byte, 0, 2+len(msg))
	out = append(out, byte(len(msg)>>8), byte(len(msg)))
	_, err := w.Write(append(out, msg...))
	return err
}

func newAnswerer() *answerer {
	return &answerer{chance: chance(time.Now().UnixNano() | 1)}
}
