package main

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/network/netstack"
	"berth/internal/network/uplink"

	"golang.org/x/sys/unix"
)

// server speaks to clients, and knows when the last has gone.
type server struct {
	stack  *netstack.Stack
	run    string
	linger time.Duration
	socket *os.File
	raw    syscall.RawConn // socket's

	mu      sync.Mutex // guards clients, and is held from the acceptance of a connection until it is counted
	clients int
	idle    chan struct{} // there are no clients
}

func newServer(stack *netstack.Stack, socket *os.File, c uplink.Config) (*server, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &server{stack: stack, run: c.Run, linger: c.Linger, socket: socket, raw: raw, idle: make(chan struct{}, 1)}, nil
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
		case <-s.stack.Failed():
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
	var forwards *netstack.Forwards
	defer func() { _ = forwards.Close() }()
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

// answer does what a client wants, and returns what it forwards from now on.
func (s *server) answer(r uplink.Request, sockets []*os.File, now *netstack.Forwards) (uplink.Answer, *netstack.Forwards) {
	switch {
	case r.Version != uplink.Version:
		uplink.CloseAll(sockets)
		return uplink.AnswerTo(errdef.New(errdef.Unsupported, "this uplink speaks version %d, and not %d", uplink.Version, r.Version)), now
	case r.Forward != nil:
		// The sockets of before are closed first: they may be the same.
		_ = now.Close()
		next, err := s.stack.Forward(r.Forward.Forwards, sockets, r.Forward.Inside)
		return uplink.AnswerTo(err), next
	case r.Status:
		status := s.stack.Status()
		s.mu.Lock()
		status.Clients = s.clients
		s.mu.Unlock()
		return uplink.Answer{Status: &status}, now
	}
	return uplink.AnswerTo(errdef.New(errdef.Invalid, "version %d of the protocol has no such request", r.Version)), now
}
