package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Network is a network namespace that is being made, or another container's.
type Network struct {
	made chan struct{}
	ns   *os.File
	err  error
}

// MakeNetwork begins to make a network namespace in which the loopback interface is on. That takes the kernel a millisecond, in which
// this process can do something else.
func MakeNetwork() *Network {
	n := &Network{made: make(chan struct{})}
	go func() {
		defer close(n.made)
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		n.ns, n.err = newNetwork()
	}()
	return n
}

// SharedNetwork is the network namespace of another container. Close closes ns.
func SharedNetwork(ns *os.File) *Network {
	n := &Network{made: make(chan struct{}), ns: ns}
	close(n.made)
	return n
}

// Wait returns the namespace when it is made.
func (n *Network) Wait() (*os.File, error) {
	<-n.made
	return n.ns, n.err
}

// Close lets go of the namespace, which lives on while a process is in it.
func (n *Network) Close() {
	if ns, _ := n.Wait(); ns != nil {
		_ = ns.Close()
	}
}

// newNetwork moves the calling thread to a new network namespace.
func newNetwork() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, os.NewSyscallError("unshare", err)
	}
	const path = "/proc/thread-self/ns/net"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	ns := os.NewFile(uintptr(fd), path)
	if err := loopbackOn(); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// loopbackOn switches the loopback interface of the calling thread's namespace on.
func loopbackOn() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("cannot switch the loopback interface on: %w", os.NewSyscallError("ioctl", err))
	}
	return nil
}

// ownNetwork reports whether a container has a network namespace of its own, and whether this process can make it: in a user
// namespace only the container itself can.
func ownNetwork(s *specs.Spec) (own, ours bool) {
	ours = true
	for _, n := range s.Linux.Namespaces {
		own = own || n.Type == specs.NetworkNamespace && n.Path == ""
		ours = ours && n.Type != specs.UserNamespace
	}
	return own, own && ours
}
