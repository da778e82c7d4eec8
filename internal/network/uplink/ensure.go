package uplink

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"berth/internal/disk"
	"berth/internal/host"

	"golang.org/x/sys/unix"
)

// Starter is what it takes to start an uplink.
type Starter struct {
	Program string // the path of berth-uplink
	Config  Config
	// Device makes the device inside, up and with its addresses (MakeDevice, Config.Requests), and returns its file, which Ensure closes.
	// With Config.Pasta it returns the network namespace.
	Device func() (*os.File, error)
	// Keep is what the uplink keeps open as long as it lives: the network namespace that it is for, so that others find it there.
	Keep *os.File
	// Started is told the number of an uplink that was started, before anybody is connected to it.
	Started func(pid int) error
}

// Ensure connects to the uplink of the run root, which it starts if there is none. The calling thread must be in the host's network
// namespace: that is where the uplink will be. An uplink that is started is a child of the calling process, whom nobody waits for.
func Ensure(s Starter) (*Client, error) {
	lock, err := Lock(s.Config.Run)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	client, err := connect(s.Config.Run)
	if gone(err) {
		if err = s.start(); err == nil {
			client, err = connect(s.Config.Run)
		}
	}
	return client, err
}

// connect connects to an uplink that answers: one that is being killed may still have a socket.
func connect(run string) (*Client, error) {
	conn, err := dial(run)
	if err != nil {
		return nil, err
	}
	c := NewClient(conn, run)
	if _, err := c.Status(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Lock takes the lock of those who come and go.
func Lock(run string) (*disk.Lock, error) { return disk.TakeLock(filepath.Join(run, lockName)) }

// TryLock is Lock that returns disk.ErrLocked rather than wait.
func TryLock(run string) (*disk.Lock, error) { return disk.TryLock(filepath.Join(run, lockName)) }

// RemoveSocket removes the socket of a run root; the caller has the lock.
func RemoveSocket(run string) error {
	if err := os.Remove(filepath.Join(run, socketName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// gone reports whether connecting has failed because there is no uplink.
func gone(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, errEnded)
}

// start starts an uplink. The caller has the lock.
func (s Starter) start() error {
	if err := s.Config.Check(); err != nil {
		return err
	}
	socket, err := listen(s.Config.Run)
	if err != nil {
		return fmt.Errorf("cannot listen for clients of the uplink: %w", err)
	}
	defer socket.Close()
	device, err := s.Device()
	if err != nil {
		return err
	}
	defer device.Close()
	pid, err := Start(s.Program, s.Config, socket, device, s.Keep)
	if err == nil && s.Started != nil {
		err = s.Started(pid)
	}
	return err
}

// backlog is how many clients may wait for an uplink to take their connections.
const backlog = 128

// listen makes the socket of a run root in place of a stale one. Only its owner may connect.
func listen(run string) (*os.File, error) {
	if err := RemoveSocket(run); err != nil {
		return nil, err
	}
	d, err := os.Open(run)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	socket := os.NewFile(uintptr(fd), socketName)
	// The mode of the file comes from that of the socket, less the umask (unix_bind, Linux 2.6.33).
	err = os.NewSyscallError("fchmod", unix.Fchmod(fd, 0o600))
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: socketAddress(d).Name}))
	}
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, backlog))
	}
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return socket, nil
}

// The program's descriptors, and its arguments: their numbers, and the configuration as JSON.
const (
	socketFD = 3
	deviceFD = 4
)

// Start starts the program, detached, with a listening socket, a device and what it is to keep, if that is not nil, and returns its
// number. Its errors go to uplink.log.
func Start(program string, c Config, socket, device, keep *os.File) (int, error) {
	config, err := json.Marshal(c)
	if err != nil {
		return -1, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return -1, err
	}
	defer null.Close()
	words, err := openLog(c.Run)
	if err != nil {
		return -1, err
	}
	defer words.Close()
	files := []*os.File{null, null, words, socket, device}
	if keep != nil {
		files = append(files, keep)
	}
	var p *os.Process
	host.Exactly(func() {
		p, err = os.StartProcess(program, []string{Program, fmt.Sprint(socketFD), fmt.Sprint(deviceFD), string(config)}, &os.ProcAttr{
			Dir:   "/",
			Env:   []string{},
			Files: files,
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
	})
	if err != nil {
		return -1, fmt.Errorf("cannot start the uplink: %w", err)
	}
	go func() { _, _ = p.Wait() }() // for as long as this process lives it is the parent
	return p.Pid, nil
}

// maxLog is how long the log may be before it is begun anew, in bytes.
const maxLog = 1 << 20

// openLog opens the log to add to it: it also says why an earlier uplink died.
func openLog(run string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(run, logName), os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Size() > maxLog {
		err = f.Truncate(0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
