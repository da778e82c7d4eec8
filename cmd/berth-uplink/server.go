package main

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/network/netstack"
	"berth/internal/network/pasta"
	"berth/internal/network/uplink"

	"golang.org/x/sys/unix"
)

// way is what carries: an own stack, or pasta.
type way interface {
	// Forward carries the connections of sockets inside, all of them or none, until the result is closed. It takes the sockets.
	Forward(forwards []uplink.Forward, sockets []*os.File, inside []netip.Prefix) (io.Closer, error)
	// Status leaves the clients out.
	Status() uplink.Status
	// Failed is closed when nothing can be carried any more.
	Failed() <-chan struct{}
	Close() error
}

type ownStack struct{ *netstack.Stack }

func (s ownStack) Forward(forwards []uplink.Forward, sockets []*os.File, inside []netip.Prefix) (io.Closer, error) {
	fs, err := s.Stack.Forward(forwards, sockets, inside)
	if err != nil {
		return nil, err
	}
	return fs, nil
}

type byPasta struct{ *pasta.Uplink }

// Forward needs no networks inside: no client's address appears there.
func (u byPasta) Forward(forwards []uplink.Forward, sockets []*os.File, _ []netip.Prefix) (io.Closer, error) {
	fs, err := u.Uplink.Forward(forwards, sockets)
	if err != nil {
		return nil, err
	}
	return fs, nil
}

// server speaks to clients, and knows when the last has gone.
type server struct {
	way    way
	run    string
	linger time.Duration
	socket *os.File
	raw    syscall.RawConn // socket's

	mu      sync.Mutex // guards clients, and is held from the acceptance of a connection until it is counted
	clients int
	idle    chan struct{} // there are no clients
}

func newServer(w way, socket *os.File, c uplink.Config) (*server, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &server{way: w, run: c.Run, linger: c.Linger, socket: socket, raw: raw, idle: make(chan struct{}, 1)}, nil
}

// serve serves clients until none has been there for a while, the device has gone, or somebody wants the end.
func (s *server) serve(stop <-chan os.Signal) error {
	go s.accept()
	wait := time.NewTimer(s.linger)
	defer wait.Stop()
	for {
		select {
		case <-stop:
			return s.end()
		case <-s.way.Failed():
			return errors.Join(errors.New("the device has gone"), s.end())
		case <-s.idle:
			wait.Reset(s.linger)
		case <-wait.C:
			ended, err := s.endUnused()
			if ended || err != nil {
				return err
			}
			wait.Reset(s.linger)
		}
	}
}

// end ends without regard to clients, who see it. A stale socket is left to whoever is just coming.
func (s *server) end() error {
	lock, err := uplink.TryLock(s.run)
	if errors.Is(err, disk.ErrLocked) {
		return s.socket.Close()
	}
	if err != nil {
		return err
	}
	defer lock.Unlock()
	return errors.Join(uplink.RemoveSocket(s.run), s.socket.Close())
}

// endUnused ends if nobody is connected or about to be. The lock is kept until the process ends, so that the next uplink
// finds the device's name free.
func (s *server) endUnused() (ended bool, err error) {
	lock, err := uplink.TryLock(s.run)
	if errors.Is(err, disk.ErrLocked) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if s.used() {
		lock.Unlock()
		return false, nil
	}
	return true, errors.Join(uplink.RemoveSocket(s.run), s.socket.Close())
}

// used reports whether somebody is connected, or waits to be.
func (s *server) used() (used bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		used = s.clients > 0 || n > 0 && err == nil
	})
	return used && err == nil
}

// accept takes connections until the socket is closed.
func (s *server) accept() {
	for {
		var fd int
		var failure error
		if err := s.raw.Read(func(listener uintptr) bool {
			fd, failure = s.acceptOne(int(listener))
			return failure != unix.EAGAIN
		}); err != nil {
			return
		}
		if failure != nil {
			time.Sleep(acceptPause)
			continue
		}
		go s.client(os.NewFile(uintptr(fd), "client"))
	}
}

// acceptPause is how long a lack of descriptors or memory is waited for.
const acceptPause = 50 * time.Millisecond

// acceptOne takes a connection and counts it, at once for those who look whether there is one.
func (s *server) acceptOne(listener int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err == nil {
		s.clients++
	}
	return fd, err
}

// gone counts a client that has gone.
func (s *server) gone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients--; s.clients == 0 {
		select {
		case s.idle <- struct{}{}:
		default:
		}
	}
}

// client serves one client; what it forwards ends with its connection.
func (s *server) client(f *os.File) {
	defer s.gone()
	conn, err := uplink.FromFile(f)
	if err != nil {
		return
	}
	defer conn.Close()
	var forwards io.Closer
	defer func() { stop(forwards) }()
	for {
		request, sockets, err := conn.Receive()
		if err != nil {
			return
		}
		a, next := s.answer(request, sockets, forwards)
		forwards = next
		if conn.Answer(a) != nil {
			return
		}
	}
}

// stop ends what a client has forwarded, if it has.
func stop(forwards io.Closer) {
	if forwards != nil {
		_ = forwards.Close()
	}
}

// answer does what a client wants, and returns what it forwards from now on.
func (s *server) answer(r uplink.Request, sockets []*os.File, now io.Closer) (uplink.Answer, io.Closer) {
	switch {
	case r.Version != uplink.Version:
		uplink.CloseAll(sockets)
		return uplink.AnswerTo(errdef.New(errdef.Unsupported, "this uplink speaks version %d, and not %d", uplink.Version, r.Version)), now
	case r.Forward != nil:
		// The sockets of before are closed first: they may be the same.
		stop(now)
		next, err := s.way.Forward(r.Forward.Forwards, sockets, r.Forward.Inside)
		return uplink.AnswerTo(err), next
	case r.Status:
		status := s.way.Status()
		s.mu.Lock()
		status.Clients = s.clients
		s.mu.Unlock()
		return uplink.Answer{Status: &status}, now
	}
	return uplink.AnswerTo(errdef.New(errdef.Invalid, "version %d of the protocol has no such request", r.Version)), now
}
