// Package runtimecli is the front for those who bring an OCI bundle instead of an image: it reads a bundle's config.json and
// runs it by runtime/lifecycle, as `runc run` does in the foreground.
//
// It has no images, names, logs or monitor. Of the OCI runtime's verbs only run is here.
package runtimecli

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/spec"
	"berth/internal/runtime/userns"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options are those of `berth runtime run`.
type Options struct {
	ID      string
	Dir     string // of the bundle; empty is the working directory
	PidFile string
	// Terminal is used for a process with a terminal: its size to begin with, zero if there is none, and what connects its
	// console with ours. The returned function waits for the end of its output and lets go.
	Rows, Columns uint16
	Connect       func(console *os.File) (disconnect func(), err error)
}

// maxConfig is the largest config.json that is read.
const maxConfig = 8 << 20

// Run runs the container of a bundle with our own standard input, output and error, and returns its exit status.
func Run(o Options) (int, error) {
	if container.CheckName(o.ID) != nil {
		return 0, errdef.New(errdef.Invalid, "the container ID %q is not made of letters, digits, '_', '.' and '-'", o.ID)
	}
	in, err := input(o)
	if err != nil {
		return 0, err
	}
	if p := in.Spec.Process; p.Terminal && o.Rows > 0 {
		p.ConsoleSize = &specs.Box{Height: uint(o.Rows), Width: uint(o.Columns)}
	}
	r, err := lifecycle.Start(in)
	if err != nil {
		return 0, err
	}
	defer unix.Close(r.PIDFD)
	if o.PidFile != "" {
		if err := disk.Replace(o.PidFile, []byte(strconv.Itoa(r.PID)), 0o644, disk.Volatile); err != nil {
			_ = unix.PidfdSendSignal(r.PIDFD, unix.SIGKILL, nil, 0)
			return 0, errors.Join(err, end(in, r, nil))
		}
	}
	disconnect := func() {}
	if r.Console != nil {
		defer r.Console.Close()
		if disconnect, err = o.Connect(r.Console); err != nil {
			_ = unix.PidfdSendSignal(r.PIDFD, unix.SIGKILL, nil, 0)
			return 0, errors.Join(err, end(in, r, nil))
		}
	}
	defer lifecycle.ProxySignals(func(n unix.Signal) {
		if n != unix.SIGWINCH || r.Console == nil { // its own terminal tells it
			_ = unix.PidfdSendSignal(r.PIDFD, n, nil, 0)
		}
	})()
	var ws unix.WaitStatus
	err = end(in, r, &ws)
	disconnect()
	if err != nil {
		return 0, err
	}
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

// end waits for the container's end and gives its control group back.
func end(in lifecycle.Input, r *lifecycle.Running, ws *unix.WaitStatus) error {
	for {
		if _, err := unix.Wait4(r.PID, ws, 0, nil); err != unix.EINTR {
			if err != nil {
				return os.NewSyscallError("wait4", err)
			}
			break
		}
	}
	if in.Driver != cgroup.FS {
		return nil
	}
	g, err := cgroup.Open(in.Host, in.Spec.Linux.CgroupsPath)
	if err != nil {
		return err
	}
	return g.Remove()
}

// input reads a bundle.
func input(o Options) (lifecycle.Input, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return lifecycle.Input{}, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return lifecycle.Input{}, errdef.New(errdef.NotFound, "cannot open the bundle: %w", err)
	}
	defer f.Close()
	data, err := disk.ReadBounded(int(f.Fd()), "config.json", maxConfig)
	if err != nil {
		return lifecycle.Input{}, errdef.New(errdef.NotFound, "cannot read the bundle's config.json: %w", err)
	}
	probed := make(chan host.Facts, 1)
	go func() { probed <- host.Probe() }()
	s, err := parseConfig(data)
	if err != nil {
		return lifecycle.Input{}, errdef.New(errdef.Invalid, "cannot read the bundle's config.json: %w", err)
	}
	if s.Root == nil || s.Process == nil || s.Linux == nil {
		return lifecycle.Input{}, errdef.New(errdef.Invalid, "the bundle's config.json needs root, process and linux")
	}
	if !filepath.IsAbs(s.Root.Path) {
		s.Root.Path = filepath.Join(dir, s.Root.Path)
	}
	h := <-probed
	in := lifecycle.Input{ID: o.ID, Spec: s, Host: h, MountPoint: s.Root.Path}
	if !h.Privileged() {
		in.Maps = userns.Maps{UID: s.Linux.UIDMappings, GID: s.Linux.GIDMappings, Single: len(s.Linux.UIDMappings) == 1 && s.Linux.UIDMappings[0].Size == 1}
		return in, nil
	}
	in.Maps, in.Driver = userns.Maps{UID: s.Linux.UIDMappings, GID: s.Linux.GIDMappings}, cgroup.FS
	if s.Linux.CgroupsPath == "" {
		s.Linux.CgroupsPath = cgroup.PathOf(h, cgroup.FS, "", o.ID)
	}
	if !filepath.IsAbs(s.Linux.CgroupsPath) {
		s.Linux.CgroupsPath = filepath.Join("/", s.Linux.CgroupsPath)
	}
	if s.Linux.Resources == nil {
		s.Linux.Resources = &specs.LinuxResources{}
	}
	// A bundle's rules for devices come before what every container may use (config-linux.md, "Default Devices").
	if len(s.Linux.Resources.Devices) > 0 {
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, spec.DefaultDeviceRules()...)
	}
	return in, nil
}
