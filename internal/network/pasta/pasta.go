// Package pasta is the other uplink of a user's networks, for who asks for it: what leaves them is carried by the program pasta
// (https://passt.top), and published ports by connections that are made inside. It needs the rights of root of the user namespace
// that the networks belong to, because it makes sockets in there. It carries no packet itself, and starts pasta for one namespace only.
//
// The words are those of network/uplink. Clients of forwards appear inside with the address of the bridge, since the connection is
// made there; network/netstack keeps theirs.
package pasta

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"berth/internal/errdef"
	"berth/internal/network/netlink"
	"berth/internal/network/uplink"

	"golang.org/x/sys/unix"
)

// Uplink is a running pasta, and what is forwarded beside it.
type Uplink struct {
	ns    *os.File
	since time.Time
	pid   int
	ended chan struct{}
	calls chan func() // for the thread inside

	tcp, udp, forwards atomic.Int32
}

// Start starts the pasta of the configuration on a user's network namespace, which it takes. Pasta's words go to log. It must be called in the
// host's network namespace.
func Start(ns *os.File, c uplink.Config, log *os.File) (*Uplink, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	u := &Uplink{ns: ns, since: time.Now(), ended: make(chan struct{}), calls: make(chan func())}
	if err := u.enter(); err != nil {
		return nil, err
	}
	// A device that is left belongs to a pasta whose uplink was killed; without it, that one ends.
	if err := u.inside(func() error { return removeDevice(c.Device) }); err != nil {
		return nil, err
	}
	if err := u.run(c, log); err != nil {
		return nil, err
	}
	if err := u.inside(func() error { return setUpDevice(c) }); err != nil {
		return nil, errors.Join(err, u.Close())
	}
	return u, nil
}

// arguments are pasta's: it makes the device, and forwards nothing by itself. Of the host's interfaces it needs none, for the addresses are
// given: with lo it also starts on a host that has no default route.
func arguments(c uplink.Config) []string {
	args := []string{
		"--foreground", "--quiet", "--netns", "/proc/self/fd/0", "--no-netns-quit", "--pid", "/proc/self/fd/1",
		"--ns-ifname", c.Device, "--interface", "lo", "--mac-addr", gatewayMAC, "--mtu", strconv.Itoa(c.MTU), "--dns", "none",
		"--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none", "--no-dhcp", "--no-dhcpv6", "--no-ra",
	}
	if !c.HostLoopback {
		args = append(args, "--no-map-gw")
	}
	for _, a := range []uplink.Addresses{c.IPv4, c.IPv6} {
		if !a.Guest.IsValid() {
			continue
		}
		args = append(args, "--address", a.Guest.Addr().String(), "--gateway", a.Gateway.String())
		if a.Guest.Addr().Is4() {
			args = append(args, "--netmask", strconv.Itoa(a.Guest.Bits()))
		}
	}
	return args
}

// gatewayMAC is the link-layer address of pasta's end of the device, a locally administered one.
const gatewayMAC = "02:62:65:72:74:68"

// run starts pasta and waits until it has made the device. It dies with this process.
func (u *Uplink) run(c uplink.Config, log *os.File) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := &exec.Cmd{
		Path: c.Pasta, Args: append([]string{filepath.Base(c.Pasta)}, arguments(c)...), Dir: "/", Env: []string{},
		Stdin: u.ns, Stdout: w, Stderr: log, SysProcAttr: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL},
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the signal comes at the end of the thread that is the parent
		err := cmd.Start()
		_ = w.Close()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(u.ended)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("cannot start pasta: %w", err)
	}
	u.pid = cmd.Process.Pid
	_ = r.SetReadDeadline(time.Now().Add(patience))
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || strings.TrimSpace(line) != strconv.Itoa(u.pid) {
		err = errdef.New(errdef.Unavailable, "cannot start %s on the user's networks: it has not said that it is ready", c.Pasta)
		return errors.Join(err, u.Close())
	}
	return nil
}

// patience is how long pasta may take to start, and a container to take a connection.
const patience = 10 * time.Second

func removeDevice(name string) error {
	conn, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.LinkByName(name); err != nil {
		return nil
	}
	return conn.Do(netlink.DeleteLink(name))
}

func setUpDevice(c uplink.Config) error {
	conn, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer conn.Close()
	link, err := conn.LinkByName(c.Device)
	if err != nil {
		return err
	}
	return conn.Do(append(c.Requests(link), netlink.SetUp("lo"))...)
}

// enter starts the thread inside. It stays there until the process ends: it cannot come back.
func (u *Uplink) enter() error {
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		err := os.NewSyscallError("setns", unix.Setns(int(u.ns.Fd()), unix.CLONE_NEWNET))
		entered <- err
		if err != nil {
			return
		}
		for f := range u.calls {
			f()
		}
	}()
	if err := <-entered; err != nil {
		return fmt.Errorf("cannot enter the network namespace of the user's networks: %w", err)
	}
	return nil
}

// inside calls f, which must be quick, on the thread inside.
func (u *Uplink) inside(f func() error) error {
	done := make(chan error, 1)
	u.calls <- func() { done <- f() }
	return <-done
}

// Status says what is carried beside pasta, which does not say what it does.
func (u *Uplink) Status() uplink.Status {
	return uplink.Status{Since: u.since, Pasta: u.pid, TCP: int(u.tcp.Load()), UDP: int(u.udp.Load()), Forwards: int(u.forwards.Load())}
}

// Failed is closed when pasta has ended.
func (u *Uplink) Failed() <-chan struct{} { return u.ended }

// Close ends pasta.
func (u *Uplink) Close() error {
	select {
	case <-u.ended:
		return nil
	default:
	}
	if err := unix.Kill(u.pid, unix.SIGKILL); err != nil {
		return os.NewSyscallError("kill", err)
	}
	<-u.ended
	return nil
}

// dial makes a connection to a container.
func (u *Uplink) dial(kind int, to netip.AddrPort) (*os.File, error) {
	family, address := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if to.Addr().Is6() {
		family, address = unix.AF_INET6, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	}
	var fd int
	if err := u.inside(func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return os.NewSyscallError("socket", err)
	}); err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), to.String()) // in there, whoever uses it
	if err := connect(f, address); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func connect(f *os.File, to unix.Sockaddr) error {
	raw, err := f.SyscallConn()
	if err == nil {
		err = f.SetWriteDeadline(time.Now().Add(patience))
	}
	if err != nil {
		return err
	}
	begun := false
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		if begun { // it is writable when the connection is made, or cannot be
			var errno int
			if errno, failure = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); failure == nil && errno != 0 {
				failure = syscall.Errno(errno)
			}
			return true
		}
		begun = true
		failure = unix.Connect(int(fd), to)
		return failure != unix.EINPROGRESS
	})
	return errors.Join(err, os.NewSyscallError("connect", failure))
}
