package runtimecli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"berth/internal/errdef"
	"berth/internal/runtime/lifecycle"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A service manager that starts the runtime may hand it sockets (LISTEN_FDS, sd_listen_fds(3)), and wait until it hears that the service is
// ready (NOTIFY_SOCKET, sd_notify(3)). The container gets the sockets, and a socket of its own to say so; whoever starts it listens there,
// and passes on nothing but the readiness and the number of the process.
const (
	notifyDir        = "notify" // below the container's directory; bound over insideNotifyDir
	notifyFile       = "notify.sock"
	insideNotifyDir  = "/run/notify"
	notifyVariable   = "NOTIFY_SOCKET"
	maxNotification  = 4096
	notifyPollMillis = 100
	readyPrefix      = "READY="
)

// serve gives the process of a new container what a service manager has given us.
func (o Options) serve(c *specs.Spec, dir string) error {
	p := c.Process
	if o.ListenFDs > 0 {
		// The process is 1 in a pid namespace of its own, where alone the number can be known before.
		p.Env = append(without(without(p.Env, "LISTEN_FDS"), "LISTEN_PID"), fmt.Sprintf("LISTEN_FDS=%d", o.ListenFDs), "LISTEN_PID=1")
	}
	if o.NotifySocket == "" {
		return nil
	}
	if err := checkNotifySocket(o.NotifySocket); err != nil {
		return err
	}
	source := filepath.Join(dir, notifyDir)
	if err := os.Mkdir(source, 0o755); err != nil {
		return err
	}
	c.Mounts = append(c.Mounts, specs.Mount{Destination: insideNotifyDir, Type: "bind", Source: source, Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"}})
	p.Env = append(without(p.Env, notifyVariable), notifyVariable+"="+filepath.Join(insideNotifyDir, notifyFile))
	return nil
}

func without(env []string, variable string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, variable+"=") })
}

func checkNotifySocket(path string) error {
	if (path[0] != '/' && path[0] != '@') || len(path) > 107 {
		return errdef.New(errdef.Invalid, "%s is %q, and should be the path of a socket, or @ and a name, of at most 107 bytes", notifyVariable, path)
	}
	return nil
}

// readiness is the socket at which a container says that it is ready.
type readiness struct {
	fd int
	to string
}

// listenReadiness makes the socket of a container that is about to start; nil is for one of which nobody waits to hear.
func (h *held) listenReadiness(notifySocket string) (*readiness, error) {
	path := filepath.Join(h.dir, notifyDir, notifyFile)
	if _, err := os.Lstat(filepath.Dir(path)); err != nil || notifySocket == "" {
		return nil, nil
	}
	if err := checkNotifySocket(notifySocket); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// By its directory's descriptor: a socket's path has at most 107 bytes.
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir, notifyFile)})
		_ = unix.Close(dir)
	}
	if err == nil {
		err = os.Chmod(path, 0o777) // whoever the container's process is
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make the socket at which the container says that it is ready: %w", err), unix.Close(fd))
	}
	return &readiness{fd, notifySocket}, nil
}

func (r *readiness) close() {
	if r != nil {
		_ = unix.Close(r.fd)
	}
}

// wait returns when the container has said that it is ready, and the service manager has heard it, or when its process has ended.
func (r *readiness) wait(alive func() bool, pid int) error {
	if r == nil {
		return nil
	}
	defer r.close()
	message := make([]byte, maxNotification)
	for {
		poll := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, notifyPollMillis)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("poll", err)
		case n == 0 && !alive():
			return nil
		case n == 0:
		default:
			n, _, err := unix.Recvfrom(r.fd, message, 0)
			if err != nil {
				return os.NewSyscallError("recvfrom", err)
			}
			for line := range bytes.SplitSeq(message[:n], []byte("\n")) {
				if bytes.HasPrefix(line, []byte(readyPrefix)) {
					return r.tell(pid)
				}
			}
		}
	}
}

func (r *readiness) tell(pid int) error {
	to := &unix.SockaddrUnix{Name: r.to}
	if err := unix.Sendto(r.fd, fmt.Appendf(nil, "READY=1\nMAINPID=%d\n", pid), 0, to); err != nil {
		return fmt.Errorf("cannot say at %s that the container is ready: %w", r.to, os.NewSyscallError("sendto", err))
	}
	return nil
}

// ready waits, for who leaves the container alone, until it is ready; else it listens on while it runs.
func (s Store) ready(r *readiness, running *lifecycle.Running, begun uint64, detach bool) error {
	wait := func() error {
		return r.wait(func() bool { return record{PID: running.PID, Begun: begun}.alive() }, running.PID)
	}
	if r == nil || detach {
		return wait()
	}
	go func() {
		if err := wait(); err != nil && s.Warn != nil {
			s.Warn(err)
		}
	}()
	return nil
}
