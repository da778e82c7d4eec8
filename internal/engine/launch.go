package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/monitor"
	"berth/internal/settings"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// MonitorName is argv[0] of a monitor.
const MonitorName = "berth-monitor"

// start starts a container with a monitor, in that network namespace, or in one of its own if it is nil. The caller holds the
// container's lock.
func (e *Engine) start(c *state.Container, network *lifecycle.Network, request monitor.AttachRequest) (*Session, error) {
	if err := e.Containers.MakeMountPoints(); err != nil {
		return nil, err
	}
	if c.RuntimeProgram != "" {
		return e.startForeign(c, request)
	}
	alive, err := e.alive(c)
	if err != nil {
		return nil, err
	}
	defer alive.Unlock() // from here on it is the monitor's
	program, err := e.monitorProgram()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	o := options(e.Containers, c)
	o.Alive, o.Host, o.RemoveTree, o.Network = alive, e.Host, e.RemoveTree, network
	o.Settle, o.Notice, o.Home, o.CgroupManager = e.settlePorts, e.Notice, e.home, cgroup.Driver(e.Settings.CgroupManager)
	o.HostLoopback, o.Uplink, o.CDIDirs, o.Program = e.Settings.HostLoopback, e.Settings.RootlessUplink, e.Settings.CDIDirs(), e.Program
	if request.Stdin || request.Output {
		e.Containers.Note(c, "attach")
	}
	conn, err := monitor.Begin(o, monitor.Launch{Program: program, Args: e.monitorArgs("attend", c.ID), Env: e.monitorEnv()}, request)
	if err != nil {
		return nil, explainedStart(e.Settings, err)
	}
	e.Containers.NoteAll(append(c.VolumeEvents("mount"), c.Event("start"))...)
	return &Session{c, conn, e.Settings}, nil
}

// alive takes the lock that a container's monitor holds as long as it lives.
func (e *Engine) alive(c *state.Container) (*disk.Lock, error) {
	alive, err := e.Containers.TakeAlive(c.ID)
	if errors.Is(err, disk.ErrLocked) {
		return nil, errdef.New(errdef.Conflict, "container %s is already running", c.Name)
	}
	return alive, err
}

// adopt starts a monitor for a container that is without one, and returns the connection to it. The caller holds the container's
// lock.
func (e *Engine) adopt(c *state.Container) (*monitor.Conn, error) {
	return e.meet(c, "adopt", monitor.AttachRequest{})
}

// meet starts a monitor that does what verb says, and returns the connection to it, which is for what request asks.
func (e *Engine) meet(c *state.Container, verb string, request monitor.AttachRequest) (_ *monitor.Conn, err error) {
	alive, err := e.alive(c)
	if err != nil {
		return nil, err
	}
	defer alive.Unlock() // from here on it is the monitor's
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "monitor")
	defer theirs.Close()
	conn, err := monitor.FromFile(os.NewFile(uintptr(fds[0]), "monitor"))
	if err != nil {
		return nil, err
	}
	if err = e.startMonitor(verb, c.ID, theirs); err == nil {
		request.Version = monitor.Version
		err = conn.Send(monitor.FrameAttach, request, int(alive.File().Fd()))
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// monitorArgs are the arguments of a monitor.
func (e *Engine) monitorArgs(verb, id string) []string {
	return []string{MonitorName, verb, e.Settings.DataRoot, e.Settings.RunRoot, id}
}

// startMonitor starts a monitor that adopts, or starts: in a session of its own, with nothing of its caller's but a socket.
func (e *Engine) startMonitor(verb, id string, socket *os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	args, files := e.monitorArgs(verb, id), []uintptr{null.Fd(), null.Fd(), null.Fd(), socket.Fd()}
	if !host.Privileged() {
		_, err := place(e.Containers).Start(programInside, args, e.monitorEnv(), files)
		return err
	}
	program, err := e.monitorProgram()
	if err != nil {
		return err
	}
	defer program.Close()
	// Above the numbers that the monitor's own descriptors get, one of which may be the program's.
	fd, err := unix.FcntlInt(program.Fd(), unix.F_DUPFD_CLOEXEC, 4)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	defer unix.Close(fd)
	// Not os.StartProcess: the first one of a process starts another one to try pidfds out, and nobody here waits for a monitor.
	host.Exactly(func() {
		_, err = syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(fd),
			args, &syscall.ProcAttr{Dir: "/", Env: e.monitorEnv(), Files: files, Sys: &syscall.SysProcAttr{Setsid: true}})
	})
	if err != nil {
		return fmt.Errorf("cannot start the container's monitor: %w", err)
	}
	return nil
}

// monitorEnv is what a monitor needs of its caller's environment.
func (e *Engine) monitorEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "PATH", "HOME", "USER", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "DBUS_SESSION_BUS_ADDRESS", "GOCOVERDIR", host.InsideName:
			env = append(env, v)
		}
	}
	if e.Settings.HostLoopback {
		env = append(env, settings.HostLoopbackEnv+"=true")
	}
	if manager := e.Settings.CgroupManager; manager != "" {
		env = append(env, settings.CgroupManagerEnv+"="+manager)
	}
	if e.Settings.RootlessUplink != "" {
		env = append(env, settings.RootlessUplinkEnv+"="+e.Settings.RootlessUplink)
	}
	return append(env, settings.CDIDirsEnv+"="+e.Settings.CDISpecDirs, "GOMAXPROCS=1")
}

// self is this program's file.
const self = "/proc/self/exe"

// Protect makes this process one whose program no container can write to, by executing it again if need be. The first process of a
// container is for a moment a copy of the process that starts it, and /proc/PID/exe leads to that one's file: an image could have it
// executed, and keep it open (CVE-2019-5736).
func Protect() error {
	const again = "BERTH_PROTECTED" // says to the next one that it is executed by this
	tried := os.Getenv(again) != ""
	if err := os.Unsetenv(again); err != nil {
		return err
	}
	if protected() {
		return nil
	}
	if tried {
		return errdef.New(errdef.Unsupported, "cannot start containers: the program's own file could be written to from there")
	}
	program, err := ownProgram()
	if err != nil {
		return err
	}
	defer program.Close()
	if program.Name() == self {
		return nil // nobody here may write to it
	}
	return os.NewSyscallError("execve", syscall.Exec("/proc/self/fd/"+strconv.Itoa(int(program.Fd())), os.Args, append(os.Environ(), again+"=1")))
}

// ReadOnly is a way to a program that starts containers by which no container can write to it, so that Protect has nothing to do there; path itself,
// if there is none. What it opens goes with the next execve.
func ReadOnly(path string) string {
	fd, err := readOnlyMount(path)
	if err != nil {
		return path
	}
	return "/proc/self/fd/" + strconv.Itoa(fd)
}

// readOnlyMount opens a file through a mount of its own that is attached to nothing.
func readOnlyMount(path string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("mount_setattr", err)
	}
	return fd, nil
}

// protected reports whether nobody can write to this program's file by way of /proc/PID/exe: it is on a read-only mount, or a sealed
// copy in memory.
func protected() bool {
	var fs unix.Statfs_t
	if unix.Statfs(self, &fs) == nil && fs.Flags&unix.ST_RDONLY != 0 {
		return true
	}
	f, err := os.Open(self)
	if err != nil {
		return false
	}
	defer f.Close()
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	return err == nil && seals&unix.F_SEAL_WRITE != 0
}

// lent says to the full program by which descriptor it has the quick one, of which its monitors are made.
const lent = "BERTH_LENT"

// Lend lends this program, which no container can write to, to the one that this process is about to execute, and returns the
// variable that says so.
func Lend() (string, error) {
	program, err := ownProgram()
	if err != nil {
		return "", err
	}
	defer program.Close()
	fd, err := unix.FcntlInt(program.Fd(), unix.F_DUPFD, 3) // for the next program to have
	if err != nil {
		return "", os.NewSyscallError("fcntl", err)
	}
	return lent + "=" + strconv.Itoa(fd), nil
}

// borrowed is the program that another one has lent to this one, or nil.
func borrowed() *os.File {
	fd, err := strconv.Atoi(os.Getenv(lent))
	if err != nil {
		return nil
	}
	_ = os.Unsetenv(lent)
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "berth")
}

// monitorProgram opens the program of monitors: the one that was lent, else this one.
func (e *Engine) monitorProgram() (*os.File, error) {
	if e.lent == nil {
		return ownProgram()
	}
	fd, err := unix.FcntlInt(e.lent.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "berth"), nil
}

// ownProgram opens this program in a way in which no container can write to it: the children of a monitor are for a moment
// processes of their container, too. As root that is a read-only mount attached to nothing; otherwise the file itself if it is not
// ours to change, else a sealed copy.
func ownProgram() (*os.File, error) {
	if protected() {
		return os.Open(self)
	}
	if fd, err := readOnlyMount(self); err == nil {
		return os.NewFile(uintptr(fd), "berth"), nil
	}
	if !ours() {
		return os.Open(self)
	}
	return sealedCopy(self)
}

// ours reports whether this user may change this program's file.
func ours() bool {
	var st unix.Stat_t
	return unix.Stat(self, &st) != nil || int(st.Uid) == os.Geteuid() || unix.Access(self, unix.W_OK) == nil
}

// same reports whether an open file is this program's.
func same(f *os.File) bool {
	var a, b unix.Stat_t
	return unix.Fstat(int(f.Fd()), &a) == nil && unix.Stat(self, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
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

// MonitorMain is the main function of a monitor: args are verb, data root, run root and the container's ID. One that adopts or starts speaks
// with the command over descriptor 3; the others have what they inherit as a fifth argument.
func MonitorMain(args []string) error {
	if len(args) < 4 {
		return errNoMonitor
	}
	s := state.Store{Data: args[1], Run: args[2]}
	switch verb := args[0]; {
	case verb == "adopt" && len(args) == 4:
		return meetMain(s, args[3], monitor.Adopt)
	case verb == "start" && len(args) == 4:
		return meetMain(s, args[3], monitor.Start)
	case verb == "attend" && len(args) == 5:
		return inheritMain(s, args[3], args[4], monitor.Attend)
	case verb == "renew" && len(args) == 5:
		return inheritMain(s, args[3], args[4], monitor.Renew)
	}
	return errNoMonitor
}

var errNoMonitor = errdef.New(errdef.Invalid, "a monitor is started by other commands")

// options is what every monitor of a container is told.
func options(s state.Store, c *state.Container) monitor.Options {
	return monitor.Options{
		Home: home(s), HostLoopback: os.Getenv(settings.HostLoopbackEnv) == "true", Uplink: os.Getenv(settings.RootlessUplinkEnv), CDIDirs: filepath.SplitList(os.Getenv(settings.CDIDirsEnv)),
		CgroupManager: cgroup.Driver(os.Getenv(settings.CgroupManagerEnv)),
		Store:         s, Container: c, Host: sync.OnceValue(host.Probe), RemoveTree: os.RemoveAll,
		Layers: func() ([]string, error) { return layersOf(s.Data, c.Image.ChainIDs) },
	}
}

func inheritMain(s state.Store, id, inherited string, stay func(monitor.Options) error) error {
	i, err := monitor.ParseInherited(inherited)
	if err != nil {
		return err
	}
	alive := i.Lock()
	c, err := s.Load(id)
	if err != nil {
		return err
	}
	o := options(s, c)
	o.Inherited, o.Alive = i, alive
	return stay(o)
}

func meetMain(s state.Store, id string, stay func(monitor.Options) error) error {
	conn, err := monitor.FromFile(os.NewFile(3, "command"))
	if err != nil {
		return err
	}
	first, err := monitor.Await(conn)
	if errors.Is(err, io.EOF) {
		return nil // left alone by a command that was killed
	}
	if err != nil {
		return err
	}
	files := conn.Files()
	if len(files) != 1 {
		return errNoMonitor
	}
	alive := disk.Inherited(files[0])
	if err := monitor.Journal(s.RunDir(id)); err != nil {
		return err
	}
	c, err := s.Load(id)
	if err != nil {
		return err
	}
	o := options(s, c)
	o.First, o.Alive = first, alive
	return stay(o)
}
