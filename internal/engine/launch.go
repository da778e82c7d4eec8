package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/monitor"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// MonitorName is argv[0] of a monitor.
const MonitorName = "berth-monitor"

// launch starts a monitor for a container and returns the connection to it. The caller holds the container's lock.
func (e *Engine) launch(c *state.Container, adopt bool, request monitor.AttachRequest) (*monitor.Conn, error) {
	verb := "run"
	if adopt {
		verb = "adopt"
	}
	m := e.summon(c.ID, verb)
	if m.err != nil {
		return nil, m.err
	}
	return m.conn, e.begin(c, m, request)
}

// summons is a monitor that waits for the word to begin, or why there is none.
type summons struct {
	conn *monitor.Conn
	err  error
}

// summon starts a monitor for the container with that ID, which need not exist yet.
func (e *Engine) summon(id, verb string) summons {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return summons{err: os.NewSyscallError("socketpair", err)}
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "monitor"), os.NewFile(uintptr(fds[1]), "monitor")
	defer theirs.Close()
	conn, err := monitor.FromFile(ours)
	if err != nil {
		return summons{err: err}
	}
	if err := e.startMonitor(id, verb, theirs); err != nil {
		return summons{err: errors.Join(err, conn.Close())}
	}
	return summons{conn: conn}
}

// begin tells a monitor to do what it was summoned for, and hands it the lock "alive". On an error the monitor is dismissed.
func (e *Engine) begin(c *state.Container, m summons, request monitor.AttachRequest) (err error) {
	defer func() {
		if err != nil {
			m.dismiss()
		}
	}()
	if err := os.MkdirAll(e.Containers.RunDir(c.ID), 0o700); err != nil {
		return err
	}
	alive, err := disk.TryLock(e.Containers.AlivePath(c.ID))
	if errors.Is(err, disk.ErrLocked) {
		return errdef.New(errdef.Conflict, "container %s is already running", c.Name)
	}
	if err != nil {
		return err
	}
	defer alive.Unlock() // from here on it is the monitor's
	request.Version = monitor.Version
	return m.conn.Send(monitor.FrameAttach, request, int(alive.File().Fd()))
}

// dismiss sends a monitor away that has not begun, and waits until it has gone.
func (m summons) dismiss() {
	if m.conn != nil {
		m.conn.Dismiss()
	}
}

// startMonitor starts the process: in a session of its own, with nothing of its caller's but a socket.
func (e *Engine) startMonitor(id, verb string, socket *os.File) error {
	program, err := ownProgram()
	if err != nil {
		return err
	}
	defer program.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	// Not os.StartProcess: the first one of a process starts another one to try pidfds out, and nobody here waits for a monitor.
	_, err = syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(int(program.Fd())),
		[]string{MonitorName, verb, e.Settings.DataRoot, e.Settings.RunRoot, id},
		&syscall.ProcAttr{
			Dir: "/", Env: monitorEnv(), Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), socket.Fd()},
			Sys: &syscall.SysProcAttr{Setsid: true},
		})
	if err != nil {
		return fmt.Errorf("cannot start the container's monitor: %w", err)
	}
	return nil
}

// monitorEnv is what a monitor needs of its caller's environment.
func monitorEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "PATH", "HOME", "USER", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "GOCOVERDIR":
			env = append(env, v)
		}
	}
	return append(env, "GOMAXPROCS=2")
}

// ownProgram opens this program in a way in which no container can write to it: the children of a monitor are for a moment
// processes of their container, and /proc/PID/exe of a process leads to its program's file (CVE-2019-5736). As root
// that is a read-only mount attached to nothing; otherwise the file itself if it is not ours to change, else a sealed copy.
func ownProgram() (*os.File, error) {
	const self = "/proc/self/exe"
	fd, err := unix.OpenTree(unix.AT_FDCWD, self, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		f := os.NewFile(uintptr(fd), self)
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err == nil {
			return f, nil
		}
		_ = f.Close()
	}
	var st unix.Stat_t
	if err := unix.Stat(self, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: self, Err: err}
	}
	if int(st.Uid) != os.Geteuid() && unix.Access(self, unix.W_OK) != nil {
		return os.Open(self)
	}
	return sealedCopy(self)
}

// sealedCopy copies a program into memory that nobody can change any more.
func sealedCopy(path string) (*os.File, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	fd, err := unix.MemfdCreate("berth", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	out := os.NewFile(uintptr(fd), "berth")
	if _, err = io.Copy(out, in); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// MonitorMain is the main function of a monitor: args are verb, data root, run root and the container's ID; descriptor 3 is
// the connection to the command. One that renews itself has a fifth argument.
func MonitorMain(args []string) error {
	s := state.Store{}
	switch {
	case len(args) == 5 && args[0] == "renew":
		return renewed(args)
	case len(args) == 4:
		s.Data, s.Run = args[1], args[2]
	default:
		return errdef.New(errdef.Invalid, "a monitor is started by other commands")
	}
	conn, err := monitor.FromFile(os.NewFile(3, "command"))
	if err != nil {
		return err
	}
	h := host.Probe()
	first, err := monitor.Await(conn)
	if errors.Is(err, io.EOF) {
		return nil // dismissed, or left alone by a command that was killed
	}
	if err != nil {
		return err
	}
	files := conn.Files()
	if len(files) != 1 {
		return errdef.New(errdef.Invalid, "a monitor is started by other commands")
	}
	alive := disk.Inherited(files[0])
	if err := writeJournal(s.RunDir(args[3])); err != nil {
		return err
	}
	c, err := s.Load(args[3])
	if err != nil {
		return err
	}
	layers, err := layersOf(args[1], c.Image.ChainIDs)
	if err != nil {
		return errors.Join(conn.Send(monitor.FrameFailed, monitor.Failed{Kind: errdef.KindOf(err), Message: err.Error(), Hint: errdef.HintOf(err)}), err)
	}
	o := monitor.Options{Store: s, Container: c, Host: h, Layers: layers, First: first, Alive: alive, RemoveTree: removeTree}
	if args[0] == "adopt" {
		return monitor.Adopt(o)
	}
	return monitor.Run(o)
}

// writeJournal makes what the monitor says of itself, at its worst a panic, go to its log.
func writeJournal(dir string) error {
	f, err := os.OpenFile(dir+"/monitor.log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("dup3", unix.Dup3(int(f.Fd()), 2, 0))
}

// renewed is MonitorMain of a monitor that has executed its program again.
func renewed(args []string) error {
	inherited, err := monitor.ParseInherited(args[4])
	if err != nil {
		return err
	}
	alive, s := inherited.Lock(), state.Store{Data: args[1], Run: args[2]}
	c, err := s.Load(args[3])
	if err != nil {
		return err
	}
	layers, err := layersOf(args[1], c.Image.ChainIDs)
	if err != nil {
		return err
	}
	return monitor.Renew(monitor.Options{Store: s, Container: c, Host: host.Probe(), Layers: layers, Inherited: inherited, Alive: alive, RemoveTree: removeTree})
}
