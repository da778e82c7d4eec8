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
	"berth/internal/host"
	"berth/internal/image/layer"
	"berth/internal/image/merged"
	"berth/internal/runtime/cdi"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/needs"
	"berth/internal/runtime/plan"
	"berth/internal/runtime/spec"
	"berth/internal/runtime/userns"
	"berth/internal/state"
	"berth/internal/storage"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Assemble decides all that starting a container needs, and changes nothing but the files of /etc that the container is
// given. layers are the container's layers, the topmost first.
// manager is the driver of control groups that is asked for, if any; cdiDirs are where CDI's specifications are.
func Assemble(s state.Store, c *state.Container, h host.Facts, layers []string, manager cgroup.Driver, cdiDirs []string) (lifecycle.Input, error) {
	choice, err := cgroup.Choose(h, manager)
	if err != nil {
		return lifecycle.Input{}, err
	}
	if err := cgroup.CheckParent(choice.Driver, c.Config.CgroupParent); err != nil {
		return lifecycle.Input{}, err
	}
	upper, _ := s.Writable(c)
	in := spec.Input{
		ID: c.ID, Config: c.Config, Host: h, CgroupPath: cgroup.PathOf(h, choice.Driver, c.Config.CgroupParent, c.ID),
		Hosts: EtcFile(s, c, "hosts"), HostnameFile: EtcFile(s, c, "hostname"), ResolvConf: EtcFile(s, c, "resolv.conf"),
		InitProgram: c.InitProgram,
	}
	var maps userns.Maps
	if h.Rootless {
		if sharesHost(s, c) {
			in.Config.Network = container.NetworkHost // there is nobody's but the host's to join
		}
		var err error
		if maps, err = idMaps(c); err != nil {
			return lifecycle.Input{}, err
		}
		in.UIDMaps, in.GIDMaps = maps.UID, maps.GID
	}
	stack := append([]string{upper}, layers...)
	if storage.Whole(c.Driver) {
		stack = []string{s.Tree(c)}
		if _, err := os.Stat(stack[0]); err != nil {
			stack = layers // it is only to be explained
		}
	}
	if in.User, err = LookupUser(stack, c.Config); err != nil {
		return lifecycle.Input{}, err
	}
	if maps.UID != nil && !maps.Have(in.User.UID, in.User.GID) {
		return lifecycle.Input{}, errdef.Hint(errdef.New(errdef.Invalid, "cannot run as user %d, group %d: your containers have only the ids that /etc/subuid and /etc/subgid give you", in.User.UID, in.User.GID),
			"choose another with --user, or have the ranges enlarged (usermod --add-subuids)")
	}
	if in.Devices, err = devices(c.Config.Devices); err != nil {
		return lifecycle.Input{}, err
	}
	if c.Config.Privileged {
		in.HostDevices = hostDevices()
	}
	edits, err := cdi.Resolve(cdiDirs, c.Config.Requests)
	if err == nil {
		err = edit(&in, edits)
	}
	if err != nil {
		return lifecycle.Input{}, err
	}
	if in.BlockDevices, err = BlockDevices(c.Config.Resources); err != nil {
		return lifecycle.Input{}, err
	}
	built, err := spec.Build(in)
	if err != nil {
		return lifecycle.Input{}, err
	}
	out := lifecycle.Input{
		ID: c.ID, Spec: built.Spec, Origins: built.Origins, DeviceSources: built.DeviceSources, Host: h, Maps: maps, Driver: choice.Driver,
		Overlay:    overlayOf(s, c, h, layers),
		MountPoint: s.Run,
	}
	if out.Images, err = imagesOf(s, c, h); err != nil {
		return lifecycle.Input{}, err
	}
	if c.Step != "" {
		if points := state.StepPoints(c.Step); isDir(points) {
			out.Overlay.Lower = append(out.Overlay.Lower, points)
		}
	}
	if c.UIDMaps != nil {
		out.MountPoint = "/tmp" // whoever its root is, he gets there
	}
	if _, shares := in.Config.SharesNetwork(); shares && h.Rootless {
		joinPaths(built.Spec, "/proc/PID/ns/user", "/proc/PID/ns/net") // whose, is seen at the start
	}
	switch {
	case storage.Whole(c.Driver):
		out.Overlay, out.MakeWorkdir, out.Spec.Root.Path = nil, true, s.Tree(c)
	case c.Driver == storage.Fuse:
		out.Overlay, out.MakeWorkdir, out.Served = nil, true, true
	}
	return out, checkLimits(choice, out.Spec.Linux.Resources, h)
}

// overlayOf is the root file system of a container.
func overlayOf(s state.Store, c *state.Container, h host.Facts, layers []string) *plan.Overlay {
	upper, work := s.Writable(c)
	return &plan.Overlay{
		Lower: append(slices.Clone(layers), s.MountPoints()), Upper: upper, Work: work, UserXattr: h.InUserNS,
		Volatile: c.Config.AutoRemove,
	}
}

// ServeRoot has the root of a container served by a program, if its storage driver wants that (lifecycle.Input.Served); the mount is the caller's to
// close.
func ServeRoot(s state.Store, c *state.Container, layers []string) (*os.File, error) {
	if c.Driver != storage.Fuse {
		return nil, nil
	}
	return storage.Serve(storage.Place{Dir: s.FilesDir(c), Layers: layers, Points: s.MountPoints()}, s.Data, lifecycle.MountFuse)
}

// AssembleRoot decides how the files of a container that does not run are mounted, for lifecycle.OpenRoot. Unless it is to be written to, its writable
// layer is one to be read, too.
func AssembleRoot(s state.Store, c *state.Container, h host.Facts, layers []string, write bool) (lifecycle.Input, error) {
	images, err := imagesOf(s, c, h)
	if err != nil {
		return lifecycle.Input{}, err
	}
	in := lifecycle.Input{
		Host: h, MountPoint: s.Run, Overlay: overlayOf(s, c, h, layers),
		Spec:   &specs.Spec{Root: &specs.Root{Path: s.Tree(c), Readonly: c.Config.ReadOnly}, Linux: &specs.Linux{}, Mounts: spec.Binds(c.Config)},
		Images: images,
	}
	in.Overlay.Volatile = false // a volatile layer is mounted once
	switch {
	case storage.Whole(c.Driver):
		in.Overlay = nil
	case c.Driver == storage.Fuse:
		in.Overlay, in.Served = nil, true
	case !write:
		in.Overlay.Lower = append([]string{in.Overlay.Upper}, in.Overlay.Lower...)
		in.Overlay.Upper, in.Overlay.Work = "", ""
	}
	return in, nil
}

// imagesOf are the images that are mounted in a container.
func imagesOf(s state.Store, c *state.Container, h host.Facts) (map[string]plan.Image, error) {
	var all map[string]plan.Image
	for _, m := range c.Config.Mounts {
		if m.Type != container.MountImage {
			continue
		}
		layers, err := layer.Open(filepath.Join(s.Data, "layers")).Stack(c.Mounted[m.Target].ChainIDs)
		if err != nil {
			return nil, err
		}
		part, err := merged.Resolve(layers, m.Subpath, true)
		if err != nil {
			return nil, err
		}
		if all == nil {
			all = map[string]plan.Image{}
		}
		all[m.Target] = plan.Image{Lower: append(layers, s.Nothing()), UserXattr: h.InUserNS, File: part.Kind != unix.S_IFDIR}
	}
	return all, nil
}

func isDir(p string) bool {
	st, err := os.Lstat(p)
	return err == nil && st.IsDir()
}

// checkLimits refuses limits where there is no control group to set them for.
func checkLimits(c cgroup.Choice, r *specs.LinuxResources, h host.Facts) error {
	limited := cgroup.Limited(r)
	if c.Driver != cgroup.None || len(limited) == 0 {
		return nil
	}
	err := errdef.New(errdef.Unsupported, "cannot limit %s: %s", strings.Join(limited, " and "), c.Why)
	if h.Cgroup != host.CgroupUnified {
		return errdef.Hint(err, "run it as root, or without limits")
	}
	return errdef.Hint(err, "run it as root, or have a systemd of your own: %s", needs.DelegateCommand(h.Groups.OuterUID))
}

// idMaps are the ids of a container without root: those of its user's namespace, unless it was made with others. None are for one that is
// in that namespace itself.
func idMaps(c *state.Container) (userns.Maps, error) {
	switch {
	case c.UIDMaps != nil:
		return userns.Maps{UID: c.UIDMaps, GID: c.GIDMaps}, nil
	case c.Config.UserNS == container.UserNSHost:
		return userns.Maps{}, nil
	}
	return userns.Same()
}

// LookupUser finds whom a container runs as in the layers of its tree: it reads passwd and group of the container's tree. An image may have made anything of them; only a regular
// file of a sane size is read.
func LookupUser(stack []string, c container.Config) (container.User, error) {
	const limit = 4 << 20
	read := func(name string) ([]byte, error) {
		data, err := merged.ReadFile(stack, name, limit)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return nil, nil
		}
		if err != nil {
			return nil, errdef.New(errdef.Invalid, "cannot read %s of the image: %w", name, err)
		}
		return data, nil
	}
	passwd, err := read("etc/passwd")
	if err != nil {
		return container.User{}, err
	}
	group, err := read("etc/group")
	if err != nil {
		return container.User{}, err
	}
	return container.LookupUser(c.User, c.Groups, passwd, group)
}
