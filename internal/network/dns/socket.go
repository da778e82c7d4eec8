package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// Address is where a container finds its resolver, docker's.
func Address() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 11}) }

// Sockets are those that a server listens on. They outlive an execve of the process if their close-on-exec flags are taken
// away; FromFiles then takes them up again.
type Sockets struct{ UDP, TCP *os.File }

// Listen opens sockets at Address in a network namespace, both on one port, which the kernel chooses: the container's
// programs may want port 53. A rule has to bring that here by dnat to Address and Port: nftables' redirect would choose
// 127.0.0.1. The loopback of the namespace is up by then. nil is the namespace of the process.
func Listen(netns *os.File) (Sockets, error) {
	var s Sockets
	err := within(netns, func() error {
		for try := 0; ; try++ {
			var err error
			if s.TCP, err = bound(unix.SOCK_STREAM, 0); err != nil {
				return err
			}
			port, err := s.Port()
			if err != nil {
				return err
			}
			s.UDP, err = bound(unix.SOCK_DGRAM, port)
			if !errors.Is(err, unix.EADDRINUSE) || try == 20 {
				return err
			}
			if err := s.TCP.Close(); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return Sockets{}, errors.Join(fmt.Errorf("cannot listen for the container's name queries: %w", err), s.Close())
	}
	return s, nil
}

// bound opens a socket that listens. The files are not of the poller's kind: what net makes of their copies is, and to ask
// such a file for its descriptor would make both block.
func bound(kind int, port uint16) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "resolver")
	err = loopbackIsUp(fd)
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet4{Addr: Address().As4(), Port: int(port)}))
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = os.NewSyscallError("listen", unix.Listen(fd, maxClients))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// loopbackIsUp refuses to bind too early. In a namespace that has never had an address the kernel takes any address for a
// broadcast one: binding then succeeds, and what is sent has another source than Address.
func loopbackIsUp(fd int) error {
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return os.NewSyscallError("ioctl", err)
	}
	if req.Uint16()&unix.IFF_UP == 0 {
		return errors.New("its loopback is not up yet")
	}
	return nil
}

// FromFiles takes up the sockets that Listen has opened in the program that ran before, and closes the files given.
func FromFiles(udp, tcp *os.File) (s Sockets, err error) {
	defer func() {
		if err = errors.Join(err, udp.Close(), tcp.Close()); err != nil {
			err = errors.Join(err, s.Close())
			s = Sockets{}
		}
	}()
	if s.UDP, err = adopt(udp, unix.SOCK_DGRAM); err != nil {
		return s, err
	}
	s.TCP, err = adopt(tcp, unix.SOCK_STREAM)
	return s, err
}

// adopt makes a file that is not of the poller's kind of one that may be.
func adopt(f *os.File, kind int) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	err = errors.Join(raw.Control(func(have uintptr) {
		var got, listening int
		if got, err = unix.GetsockoptInt(int(have), unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
			err = os.NewSyscallError("getsockopt", err)
			return
		}
		if kind == unix.SOCK_STREAM {
			listening, err = unix.GetsockoptInt(int(have), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		}
		if err != nil || got != kind || kind == unix.SOCK_STREAM && listening == 0 {
			err = errdef.New(errdef.Invalid, "%s is no socket of a resolver", f.Name())
			return
		}
		fd, err = unix.FcntlInt(have, unix.F_DUPFD_CLOEXEC, 0)
		err = os.NewSyscallError("fcntl", err)
	}), err)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// conns gives the sockets to net, which takes copies.
func (s Sockets) conns() (*net.UDPConn, *net.TCPListener, error) {
	p, err := net.FilePacketConn(s.UDP)
	if err != nil {
		return nil, nil, err
	}
	l, err := net.FileListener(s.TCP)
	if err != nil {
		return nil, nil, errors.Join(err, p.Close())
	}
	udp, ok := p.(*net.UDPConn)
	tcp, ok2 := l.(*net.TCPListener)
	if !ok || !ok2 {
		return nil, nil, errors.Join(errdef.New(errdef.Invalid, "these are no sockets of a resolver"), p.Close(), l.Close())
	}
	return udp, tcp, nil
}

// Port is where packets to port 53 of Address are to be brought, UDP and TCP.
func (s Sockets) Port() (uint16, error) {
	at, err := unix.Getsockname(int(s.TCP.Fd()))
	if err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	in, ok := at.(*unix.SockaddrInet4)
	if !ok {
		return 0, errdef.New(errdef.Invalid, "%s is no IPv4 socket", s.TCP.Name())
	}
	return uint16(in.Port), nil
}

// Close closes those that are open.
func (s Sockets) Close() error {
	var errs error
	for _, f := range []*os.File{s.UDP, s.TCP} {
		if f != nil {
			errs = errors.Join(errs, f.Close())
		}
	}
	return errs
}

// A Dialer opens a socket of the given kind (unix.SOCK_DGRAM, unix.SOCK_STREAM) that is connected to a server, or being so,
// and does not block.
type Dialer func(kind int, server netip.AddrPort) (*os.File, error)

// DialIn returns a Dialer whose sockets are of a network namespace, which stays open as long as it is used; nil is the
// namespace of the process. Entering one takes CAP_SYS_ADMIN in the user namespace that owns it.
func DialIn(netns *os.File) Dialer {
	return func(kind int, server netip.AddrPort) (*os.File, error) {
		var f *os.File
		err := within(netns, func() (err error) {
			f, err = dial(kind, server)
			return err
		})
		return f, err
	}
}

func dial(kind int, server netip.AddrPort) (*os.File, error) {
	family := unix.AF_INET
	var to unix.Sockaddr
	if a := server.Addr().Unmap(); a.Is4() {
		to = &unix.SockaddrInet4{Port: int(server.Port()), Addr: a.As4()}
	} else {
		zone, err := zoneID(a.Zone())
		if err != nil {
			return nil, err
		}
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(server.Port()), Addr: a.As16(), ZoneId: zone}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// From a connected UDP socket the kernel gives only what comes from the server's address and port, and says if there
	// is none; the port of our own is one that nobody can know.
	if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
		return nil, errors.Join(os.NewSyscallError("connect", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), server.String()), nil
}

// zoneID is the index of the interface that a link-local address is on, in the thread's network namespace.
func zoneID(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, err
	}
	return uint32(i.Index), nil
}

// within runs f in a network namespace; nil is the one of the process. It does so on a thread of its own, which ends if it
// cannot return to where it came from.
func within(netns *os.File, f func() error) error {
	if netns == nil {
		return f()
	}
	result := make(chan error)
	go func() { result <- inside(netns, f) }()
	return <-result
}

func inside(netns *os.File, f func() error) (err error) {
	runtime.LockOSThread()
	back, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return os.NewSyscallError("open", err)
	}
	defer func() { err = errors.Join(err, os.NewSyscallError("close", unix.Close(back))) }()
	if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return errdef.As(errdef.Denied, os.NewSyscallError("setns", err))
	}
	err = f()
	if unix.Setns(back, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}
