package monitor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/runtime/cdi"
	"berth/internal/runtime/spec"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// devices looks up the devices that --device asks for.
func devices(asked []container.Device) (all []spec.Device, err error) {
	for _, d := range asked {
		found, err := devicesAt(d)
		if d.Optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			err = errdef.New(errdef.Invalid, "error gathering device information while adding custom device %q: %w", d.Host, bare(err))
			return nil, errdef.Hint(err, "--device %s,optional starts the container without it", d.Host)
		}
		all = append(all, found...)
	}
	return all, nil
}

// bare is the cause of an error, without the call and the path that it is about.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// devicesAt are a device that is asked for, or those in a directory. A link leads to where it leads.
func devicesAt(d container.Device) (all []spec.Device, err error) {
	host, err := filepath.EvalSymlinks(d.Host)
	if err != nil {
		return nil, err
	}
	add := func(at string) error {
		found, err := device(at, filepath.Join(d.Path, strings.TrimPrefix(at, host)))
		all = append(all, spec.Device{LinuxDevice: found, Host: at, Access: d.Permissions, Origin: "--device " + d.Host})
		return err
	}
	if st, err := os.Stat(host); err != nil || !st.IsDir() {
		err := add(host)
		return all, err
	}
	err = filepath.WalkDir(host, func(at string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeDevice == 0 {
			return err
		}
		return add(at)
	})
	if err == nil && len(all) == 0 {
		err = errors.New("there is no device in the directory")
	}
	return all, err
}

// edit gives a container what CDI says that it needs for its devices.
func edit(in *spec.Input, e cdi.Edits) error {
	in.Config.Env = slices.Concat(in.Config.Env, e.Env)
	for _, m := range e.Mounts {
		out := specs.Mount{Destination: m.ContainerPath, Source: m.HostPath, Type: m.Type, Options: m.Options}
		if out.Type == "" {
			out.Type = "bind"
		}
		if out.Type == "bind" && !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
			out.Options = append([]string{"rbind"}, m.Options...)
		}
		in.Mounts = append(in.Mounts, out)
	}
	for _, gid := range e.AdditionalGIDs {
		in.User.Groups = append(slices.Clip(in.User.Groups), uint32(gid))
	}
	for _, n := range e.Nodes {
		host := n.HostPath
		if host == "" {
			host = n.Path
		}
		d, err := described(n, host)
		if err != nil {
			return errdef.New(errdef.Invalid, "cannot give the container the device %s, which CDI describes: %w", host, bare(err))
		}
		access := n.Permissions
		if access == "" {
			access = "rwm"
		}
		in.Devices = append(in.Devices, spec.Device{LinuxDevice: d, Host: host, Access: access, Origin: "CDI"})
	}
	return nil
}

// described is a device of the host as CDI describes it.
func described(n cdi.Node, host string) (specs.LinuxDevice, error) {
	d, err := device(host, n.Path)
	if n.Type != "" && n.Major != nil && n.Minor != nil {
		d.Type, d.Major, d.Minor, err = n.Type, int64(*n.Major), int64(*n.Minor), nil
		d.Path = n.Path
	}
	if n.FileMode != nil {
		mode := os.FileMode(*n.FileMode & 0o777)
		d.FileMode = &mode
	}
	for _, id := range []struct {
		to   **uint32
		from *cdi.Number
	}{{&d.UID, n.UID}, {&d.GID, n.GID}} {
		if id.from != nil {
			value := uint32(*id.from)
			*id.to = &value
		}
	}
	return d, err
}

// hostDevices are all devices of the host, for --privileged.
func hostDevices() (all []specs.LinuxDevice) {
	_ = filepath.WalkDir("/dev", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // a device that goes away meanwhile
		}
		if e.IsDir() {
			switch path {
			case "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev":
				return fs.SkipDir
			}
			return nil
		}
		switch path {
		case "/dev/console", "/dev/ptmx", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty":
			return nil
		}
		if e.Type()&fs.ModeDevice != 0 {
			if d, err := device(path, path); err == nil {
				all = append(all, d)
			}
		}
		return nil
	})
	return all
}

// BlockDevices looks up the numbers of the block devices that limits are about.
func BlockDevices(r container.Resources) (map[string]spec.Number, error) {
	numbers := map[string]spec.Number{}
	for _, path := range r.BlockDevices() {
		d, err := device(path, path)
		if err == nil && d.Type != "b" {
			err = errors.New("it is no block device")
		}
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "cannot limit the traffic of %s: %w", path, err)
		}
		numbers[path] = spec.Number{Major: d.Major, Minor: d.Minor}
	}
	return numbers, nil
}

// device is the device of the host at a path, as the container is to have it.
func device(host, path string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(host, &st); err != nil {
		return specs.LinuxDevice{}, err
	}
	d := specs.LinuxDevice{Path: path, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), UID: &st.Uid, GID: &st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return d, errors.New("it is no device")
	}
	mode := os.FileMode(st.Mode & 0o777)
	d.FileMode = &mode
	return d, nil
}
