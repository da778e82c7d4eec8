package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/event"
	"berth/internal/state"
	"berth/internal/tree"
	"berth/internal/volume"

	"golang.org/x/sys/unix"
)

// VolumeUses are the IDs of the containers that use each volume.
func (e *Engine) VolumeUses() (map[string][]string, error) { return e.Containers.VolumeUses() }

// unused refuses what is to be done to a volume that containers use.
func (e *Engine) unused(name, verb string) error {
	uses, err := e.VolumeUses()
	if err == nil && len(uses[name]) > 0 {
		err = errdef.New(errdef.Conflict, "%s %s: volume is in use - [%s]", verb, name, strings.Join(uses[name], ", "))
	}
	return err
}

// RemoveVolume removes a volume that no container uses.
func (e *Engine) RemoveVolume(name string) error {
	if err := e.unused(name, "remove"); err != nil {
		return err
	}
	return e.removeVolume(name)
}

func (e *Engine) removeVolume(name string) error {
	if err := e.Volumes.Remove(name, e.RemoveTree); err != nil {
		return err
	}
	e.Containers.NoteAll(volumeEvent(name, "destroy"))
	return nil
}

// CreateVolume makes a volume unless there is one of that name.
func (e *Engine) CreateVolume(v volume.Volume) error {
	created, err := e.Volumes.Create(v)
	if created && err == nil {
		e.Containers.NoteAll(volumeEvent(v.Name, "create"))
	}
	return e.unwritten("create the volume "+v.Name, err)
}

// RenameVolume gives a volume that no container uses another name.
func (e *Engine) RenameVolume(name, to string) error {
	if err := e.unused(name, "rename"); err != nil {
		return err
	}
	return e.Volumes.Rename(name, to)
}

// CloneVolume makes a volume with the content of another one, its labels and options.
func (e *Engine) CloneVolume(ctx context.Context, name, to string) error {
	v, err := e.OpenVolume(name)
	if err != nil {
		return err
	}
	return e.FillVolume(volume.Volume{Name: to, Labels: v.Labels, Options: v.Options}, func(dir *os.File) error {
		from, err := os.Open(e.Volumes.Path(name))
		if err != nil {
			return err
		}
		defer from.Close()
		return e.CopyAsItIs(ctx, from, dir)
	})
}

// CopyAsItIs copies what is in the directory from into the directory to, and what from itself has: owners, modes, times, attributes.
func (e *Engine) CopyAsItIs(ctx context.Context, from, to *os.File) error {
	opt := tree.Options{Owner: func(uid, gid uint32) (int, int, error) { return int(uid), int(gid), nil }, Notice: e.Notice}
	if err := tree.CopyContents(ctx, from, to, opt); err != nil {
		return err
	}
	return tree.Meta{Owner: opt.Owner}.CopyOf(from, to)
}

// FillVolume makes a volume that must not be there yet, whose directory fill fills.
func (e *Engine) FillVolume(v volume.Volume, fill func(dir *os.File) error) error {
	if _, err := e.Volumes.Load(v.Name); err == nil {
		return errdef.New(errdef.Conflict, "there is a volume %s already", v.Name)
	}
	created, err := e.Volumes.CreateFilled(v, func(path string) error {
		dir, err := os.Open(path)
		if err != nil {
			return err
		}
		defer dir.Close()
		if err := fill(dir); err != nil {
			return err
		}
		return disk.SyncFS(dir)
	})
	switch {
	case err != nil:
		return err
	case !created:
		return errdef.New(errdef.Conflict, "there is a volume %s already", v.Name)
	}
	e.Containers.NoteAll(volumeEvent(v.Name, "create"))
	return nil
}

// OpenVolume loads a volume whose content is to be read where it is.
func (e *Engine) OpenVolume(name string) (volume.Volume, error) {
	v, err := e.Volumes.Load(name)
	if err == nil && v.Mounted() {
		err = errdef.Hint(errdef.New(errdef.Unsupported, "the content of volume %s is not here: it is a %s that containers mount", name, v.Options[volume.OptType]),
			"copy it out of a container that uses it: berth cp")
	}
	return v, err
}

// mountVolume makes a mount of a volume's options what they say: a directory of the host's, or a file system.
func (e *Engine) mountVolume(m *container.Mount, v volume.Volume) error {
	fstype, device := v.Options[volume.OptType], v.Options[volume.OptDevice]
	var options []string
	if o := v.Options[volume.OptO]; o != "" {
		options = strings.Split(o, ",")
	}
	if slices.Contains(options, "bind") || slices.Contains(options, "rbind") {
		if !path.IsAbs(device) {
			return errdef.New(errdef.Invalid, "cannot mount volume %s: its device %q is no absolute path", v.Name, device)
		}
		if _, err := os.Stat(device); err != nil {
			return errdef.New(errdef.Invalid, "cannot mount volume %s: %w", v.Name, err)
		}
		m.Source, m.NoRecursive = path.Clean(device), !slices.Contains(options, "rbind")
		m.ReadOnly = m.ReadOnly || slices.Contains(options, "ro")
		return nil
	}
	if e.Host().Rootless && fstype != "tmpfs" {
		return errdef.Hint(errdef.New(errdef.Unsupported, "cannot mount volume %s: the kernel lets only root mount %s", v.Name, fstype), "mount it on the host, and use a volume with --opt type=none --opt o=bind")
	}
	for _, o := range options {
		host, isAddress := strings.CutPrefix(o, "addr=")
		if !isAddress {
			continue
		}
		if _, err := netip.ParseAddr(host); err == nil {
			continue
		}
		return errdef.Hint(errdef.New(errdef.Invalid, "cannot mount volume %s: the kernel takes no names of hosts: %s", v.Name, o), "getent hosts %s says its address", host)
	}
	m.Filesystem, m.Source, m.Options = fstype, device, options
	return nil
}

// sharesMemory refuses to start a container with a volume in memory that another one has: each would have its own.
func (e *Engine) sharesMemory(c *state.Container) error {
	for _, v := range c.Volumes {
		known, err := e.Volumes.Load(v.Name)
		if err != nil || known.Options[volume.OptType] != "tmpfs" {
			continue // a volume that is gone is found out about elsewhere
		}
		uses, err := e.VolumeUses()
		if err != nil {
			return err
		}
		for _, id := range uses[v.Name] {
			if id != c.ID && e.Containers.Monitored(id) {
				return errdef.Hint(errdef.New(errdef.Conflict, "volume %s is in memory, and container %.12s has it: only one running container can", v.Name, id),
					"share a directory: --opt type=none --opt o=bind --opt device=/dev/shm/DIR")
			}
		}
	}
	return nil
}

// volumesFrom adds the mounts of other containers to those of a configuration, which win. Each of from is CONTAINER[:OPTIONS].
func (e *Engine) volumesFrom(cfg *container.Config) error {
	cfg.Mounts = slices.Clone(cfg.Mounts)
	for _, asked := range cfg.VolumesFrom {
		ref, options, _ := strings.Cut(asked, ":")
		readOnly := false
		for option := range strings.SplitSeq(options, ",") {
			switch option {
			case "ro":
				readOnly = true
			case "", "rw", "z", "Z": // z and Z are for SELinux
			default:
				return errdef.New(errdef.Invalid, "invalid mode: %s (--volumes-from %s)", option, asked)
			}
		}
		other, err := e.Containers.Resolve(ref)
		if err != nil {
			return err
		}
		for _, m := range other.Config.Mounts {
			if m.Type != container.MountBind && m.Type != container.MountVolume || taken(cfg.Mounts, m.Target) {
				continue
			}
			for _, v := range other.Volumes {
				if v.Target == m.Target {
					m.Source = v.Name
				}
			}
			m.Filesystem, m.Options, m.Origin, m.NoCopy = "", nil, "--volumes-from "+asked, true
			m.ReadOnly = m.ReadOnly || readOnly
			cfg.Mounts = append(cfg.Mounts, m)
		}
	}
	return nil
}

func taken(mounts []container.Mount, target string) bool {
	return slices.ContainsFunc(mounts, func(m container.Mount) bool { return m.Target == target })
}

// own gives what is bound into a container, and all that is in it, to the container's user (:U).
func own(dir string, uid, gid int) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = errors.Join(tree.Chown(f, uid, gid), f.Close())
	if errors.Is(err, unix.EINVAL) { // chown(2): no such id in this user namespace
		return errdef.New(errdef.Invalid, "cannot give %s to user %d, group %d: your containers have only the ids that /etc/subuid and /etc/subgid give you", dir, uid, gid)
	}
	if err != nil {
		return fmt.Errorf("cannot give %s to the container's user: %w", dir, err)
	}
	return nil
}

// PruneVolumes removes the volumes that no container uses, those with names only if all says so, but for those that keep names. It returns what it has
// removed, and how many bytes were in it.
func (e *Engine) PruneVolumes(p *Pruning, all bool, keep func(volume.Volume) bool) (removed []string, bytes int64, _ error) {
	uses, err := e.VolumeUses()
	if err != nil {
		return nil, 0, err
	}
	volumes, err := e.Volumes.List()
	if err != nil {
		return nil, 0, err
	}
	var errs error
	for _, v := range volumes {
		if !p.without(uses[v.Name]) || !all && !v.Anonymous || keep(v) {
			continue
		}
		size, err := tree.Bytes(e.Volumes.Path(v.Name))
		if err == nil && !p.Dry {
			err = e.RemoveVolume(v.Name)
		}
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		removed, bytes = append(removed, v.Name), bytes+size
	}
	if p.Dry {
		return removed, bytes, errs
	}
	e.NotePrune(event.Volume, bytes)
	return removed, bytes, errors.Join(errs, e.Volumes.Sweep(e.RemoveTree))
}
