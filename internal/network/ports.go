package network

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// PortRequest is what somebody wants published.
type PortRequest struct {
	Protocol Protocol
	// HostIP is the address on which the port is published. The zero value is the network's choice, mostly every address.
	HostIP netip.Addr
	// HostPort to HostPortEnd are the ports of the host from which one that is free is taken; 0 is any. HostPortEnd 0 is HostPort.
	HostPort, HostPortEnd uint16
	ContainerPort         uint16
}

// Published is one published port, as it is recorded.
type Published struct {
	Protocol      Protocol
	HostIP        netip.Addr // 0.0.0.0 and :: are every address of their family
	HostPort      uint16
	ContainerPort uint16
}

// Protocol is "tcp", "udp" or "sctp".
type Protocol string

// The protocols.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// number is the protocol's in IP; 0 is unknown.
func (p Protocol) number() uint8 {
	switch p {
	case TCP:
		return unix.IPPROTO_TCP
	case UDP:
		return unix.IPPROTO_UDP
	case SCTP:
		return unix.IPPROTO_SCTP
	}
	return 0
}

// Docker's range of ports that it chooses itself.
const ephemeralFirst, ephemeralLast = 32768, 60999

// hostAddresses are the addresses on which a port is published: those of the families that the container has, and none of a network
// where nothing needs to be published.
func hostAddresses(n Network, asked netip.Addr) ([]netip.Addr, error) {
	o, err := n.options()
	if err != nil || n.Driver == DriverMacvlan { // a container there is on the wire with all its ports
		return nil, err
	}
	_, ipv4 := n.subnet(true)
	_, ipv6 := n.subnet(false)
	ipv4 = ipv4 || n.Driver == DriverBridge && len(n.Subnets) == 0 // "bridge" before its first start
	asked = asked.Unmap()
	switch {
	case asked.IsValid() && (asked.Is4() && !ipv4 || asked.Is6() && !ipv6):
		return nil, errdef.New(errdef.Invalid, "cannot publish on %s: the network %s has no subnet of that family", asked, n.Name)
	case asked.Is6() && asked.IsLoopback() && !answersToLoopback6():
		return nil, errdef.Hint(errdef.New(errdef.Unsupported, "cannot publish on ::1: answers could not come back, as this host sends the frames of its bridges through its packet filter"),
			"publish on 127.0.0.1, or sysctl -w net.bridge.bridge-nf-call-ip6tables=0")
	case asked.IsValid():
		return []netip.Addr{asked}, nil
	case o.hostBinding.IsValid() && ipv4:
		return []netip.Addr{o.hostBinding}, nil
	}
	var all []netip.Addr
	if ipv4 {
		all = append(all, netip.IPv4Unspecified())
	}
	if ipv6 {
		all = append(all, netip.IPv6Unspecified())
	}
	return all, nil
}

// Reserve takes ports of the host for an endpoint of a network and returns what is then to be published, with the sockets that
// hold the ports: no other program can take them until the last copy of each is closed. The sockets listen but take in no
// packet. The ports of the host are those of the calling thread's network namespace. name is the container's, for errors.
func (s Store) Reserve(n Network, name string, wanted []PortRequest) (published []Published, sockets []*os.File, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(sockets))
			published, sockets = nil, nil
		}
	}()
	for _, w := range wanted {
		addresses, err := hostAddresses(n, w.HostIP)
		if err != nil {
			return published, sockets, err
		}
		if len(addresses) == 0 {
			continue
		}
		port, files, err := s.reserveOne(w, addresses)
		sockets = append(sockets, files...)
		if err != nil {
			return published, sockets, fmt.Errorf("driver failed programming external connectivity on endpoint %s: %w", name, err)
		}
		for _, a := range addresses {
			published = append(published, Published{w.Protocol, a, port, w.ContainerPort})
		}
	}
	return published, sockets, nil
}

// Hold takes the ports again that a record names: for a process that takes a running container over.
func (s Store) Hold(published []Published) (sockets []*os.File, err error) {
	for _, p := range published {
		f, err := s.reserve(p.Protocol, netip.AddrPortFrom(p.HostIP, p.HostPort))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot hold the port %s/%s: %w", netip.AddrPortFrom(p.HostIP, p.HostPort), p.Protocol, err), closeAll(sockets))
		}
		sockets = append(sockets, f)
	}
	return sockets, nil
}

func closeAll(files []*os.File) error {
	var errs error
	for _, f := range files {
		errs = errors.Join(errs, f.Close())
	}
	return errs
}

// candidates are the ports to try: the first, and how many from there on within first to last, around the end.
func candidates(w PortRequest, chance uint32) (first, last, start uint16) {
	switch {
	case w.HostPort == 0:
		return ephemeralFirst, ephemeralLast, uint16(ephemeralFirst + chance%(ephemeralLast-ephemeralFirst+1))
	case w.HostPortEnd == 0:
		return w.HostPort, w.HostPort, w.HostPort
	}
	return w.HostPort, w.HostPortEnd, w.HostPort
}

func (s Store) reserveOne(w PortRequest, addresses []netip.Addr) (uint16, []*os.File, error) {
	if w.Protocol.number() == 0 || w.ContainerPort == 0 || w.HostPortEnd != 0 && w.HostPortEnd < w.HostPort {
		return 0, nil, errdef.New(errdef.Invalid, "invalid published port %d-%d:%d/%s", w.HostPort, w.HostPortEnd, w.ContainerPort, w.Protocol)
	}
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	first, last, port := candidates(w, binary.NativeEndian.Uint32(b[:]))
	var err error
	for range int(last) - int(first) + 1 {
		var files []*os.File
		if files, err = s.reserveAll(w.Protocol, addresses, port); err == nil {
			return port, files, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return 0, nil, err
		}
		if port++; port > last || port == 0 {
			port = first
		}
	}
	if first != last {
		return 0, nil, errdef.New(errdef.Conflict, "all ports from %d to %d are already allocated", first, last)
	}
	return 0, nil, s.taken(w.Protocol, addresses[0], first)
}

// taken words, as docker does, that a port is held by a container of this instance or by another program.
func (s Store) taken(p Protocol, a netip.Addr, port uint16) error {
	bind := netip.AddrPortFrom(a, port)
	endpoints, _ := s.allEndpoints() // the bind has failed, whoever it was
	for _, e := range endpoints {
		for _, have := range e.Ports {
			if have.Protocol == p && have.HostPort == port && collide(have.HostIP, a) {
				return allocated(Published{HostIP: a, HostPort: port}, e.Name)
			}
		}
	}
	return errdef.New(errdef.Conflict, "Bind for %s failed: address already in use", bind)
}

// allocated is docker's error for a port that another container has.
func allocated(p Published, owner string) error {
	return errdef.Hint(errdef.New(errdef.Conflict, "Bind for %s failed: port is already allocated", netip.AddrPortFrom(p.HostIP, p.HostPort)), "the container %s has it", owner)
}

func collide(a, b netip.Addr) bool {
	return a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified())
}

func (s Store) reserveAll(p Protocol, addresses []netip.Addr, port uint16) ([]*os.File, error) {
	var files []*os.File
	for _, a := range addresses {
		f, err := s.reserve(p, netip.AddrPortFrom(a, port))
		if err != nil {
			return nil, errors.Join(err, closeAll(files))
		}
		files = append(files, f)
	}
	return files, nil
}

// reserve binds a socket. A listening TCP socket is what others collide with whatever their options are, and it may be made
// although connections of an earlier one wait for their end (SO_REUSEADDR). Packets for the container are sent on before
// they meet the socket; others, when the rules are gone, are dropped by a filter rather than answered by nobody. Of IPv6 the socket
// does not listen where connections to ::1 do meet it: they are to be refused at once.
func (s Store) reserve(p Protocol, at netip.AddrPort) (*os.File, error) {
	family := unix.AF_INET
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(at.Port())}
	if at.Addr().Is4() {
		sa = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	kind := unix.SOCK_STREAM
	if p == UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, int(p.number()))
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT) {
		return nil, errdef.New(errdef.Unsupported, "cannot publish %s: the kernel does not speak %s", at, p)
	}
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	listens := p != UDP && (family == unix.AF_INET || s.Home != nil || answersToLoopback6())
	err = prepare(fd, family, listens)
	if s.Home != nil {
		err = errors.Join(err, open(fd, listens, sa))
	} else {
		err = errors.Join(err, occupy(fd, listens, sa))
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot bind %s/%s: %w", at, p, err)
	}
	return os.NewFile(uintptr(fd), at.String()+"/"+string(p)), nil
}

// prepare sets what a socket needs before it is bound.
func prepare(fd, family int, listens bool) error {
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if !listens {
		return nil
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
}

// backlog is how many connections wait to be taken, at most; net.core.somaxconn may say less.
const backlog = 4096

// open binds a socket for the uplink, which takes what comes.
func open(fd int, listens bool, sa unix.Sockaddr) error {
	err := unix.Bind(fd, sa)
	if err == unix.EACCES {
		return errdef.Hint(errdef.New(errdef.Denied, "this port is for root only: %w", os.NewSyscallError("bind", err)),
			"publish on a port from 1024 on, or let users have lower ones: sysctl -w net.ipv4.ip_unprivileged_port_start=0")
	}
	if err != nil || !listens {
		return os.NewSyscallError("bind", err)
	}
	return os.NewSyscallError("listen", unix.Listen(fd, backlog))
}

// occupy binds a socket that keeps others from the port, and takes in nothing.
func occupy(fd int, listens bool, sa unix.Sockaddr) error {
	dropAll := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	program := unix.SockFprog{Len: 1, Filter: &dropAll[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, sa); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if !listens {
		return nil
	}
	return os.NewSyscallError("listen", unix.Listen(fd, 1))
}
