package engine

import (
	"strings"

	"berth/internal/container"
	"berth/internal/state"
)

// ViewAskedMount is a mount as --mount has asked for it.
type ViewAskedMount struct {
	Type          container.MountType
	Source        string `json:",omitempty"`
	Target        string
	ReadOnly      bool               `json:",omitempty"`
	BindOptions   *ViewBindOptions   `json:",omitempty"`
	VolumeOptions *ViewVolumeOptions `json:",omitempty"`
	TmpfsOptions  *ViewTmpfsOptions  `json:",omitempty"`
	ImageOptions  *ViewImageOptions  `json:",omitempty"`
}

// ViewBindOptions, ViewVolumeOptions, ViewTmpfsOptions and ViewImageOptions are what only mounts of one type have.
type (
	ViewBindOptions struct {
		Propagation          string `json:",omitempty"`
		NonRecursive         bool   `json:",omitempty"`
		CreateMountpoint     bool   `json:",omitempty"`
		ReadOnlyNonRecursive bool   `json:",omitempty"`
	}
	ViewVolumeOptions struct {
		NoCopy       bool              `json:",omitempty"`
		Labels       map[string]string `json:",omitempty"`
		Subpath      string            `json:",omitempty"`
		DriverConfig *struct {
			Options map[string]string `json:",omitempty"`
		} `json:",omitempty"`
	}
	ViewTmpfsOptions struct {
		SizeBytes int64  `json:",omitempty"`
		Mode      uint32 `json:",omitempty"`
	}
	ViewImageOptions struct {
		Subpath string `json:",omitempty"`
	}
)

// viewMounts fills in what a container has mounted, and by which flags: docker tells -v, --mount and --tmpfs apart.
func viewMounts(v *View, c *state.Container) {
	v.Mounts = []ViewMount{}
	for _, m := range c.Config.Mounts {
		vm := ViewMount{Type: m.Type, Source: m.Source, Destination: m.Target, RW: !m.ReadOnly, Propagation: m.Propagation}
		if m.Type == container.MountBind {
			vm.Propagation = orDefault(m.Propagation, "rprivate")
		}
		for _, vol := range c.Volumes {
			if vol.Target == m.Target {
				vm.Name, vm.Driver = vol.Name, "local"
			}
		}
		flag, value, _ := strings.Cut(m.Origin, " ")
		switch flag {
		case "-v":
			parts := strings.Split(value, ":")
			if len(parts) > 2 {
				vm.Mode = parts[2]
			}
			if m.Anonymous {
				v.Config.Volumes = withKey(v.Config.Volumes, m.Target)
				break
			}
			bind := orDefault(vm.Name, m.Source) + ":" + m.Target
			if vm.Mode != "" {
				bind += ":" + vm.Mode
			}
			v.HostConfig.Binds = append(v.HostConfig.Binds, bind)
			if m.Type == container.MountVolume {
				vm.Mode = orDefault(vm.Mode, "z") // docker's word for a volume of which nothing is said
			}
		case "VOLUME":
			v.Config.Volumes = withKey(v.Config.Volumes, m.Target)
		case "--mount":
			v.HostConfig.Mounts = append(v.HostConfig.Mounts, viewAskedMount(m, vm.Name))
		case "--tmpfs":
			_, options, _ := strings.Cut(value, ":")
			if v.HostConfig.Tmpfs == nil {
				v.HostConfig.Tmpfs = map[string]string{}
			}
			v.HostConfig.Tmpfs[m.Target] = options
			continue // docker lists it nowhere else
		}
		v.Mounts = append(v.Mounts, vm)
	}
}

func withKey(m map[string]struct{}, key string) map[string]struct{} {
	if m == nil {
		m = map[string]struct{}{}
	}
	m[key] = struct{}{}
	return m
}

// viewAskedMount is a mount of --mount, of the volume of that name if it is one.
func viewAskedMount(m container.Mount, volume string) ViewAskedMount {
	asked := ViewAskedMount{Type: m.Type, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	switch m.Type {
	case container.MountBind:
		o := ViewBindOptions{m.Propagation, m.NoRecursive, m.MakeSource, m.WritableBelow}
		if o != (ViewBindOptions{}) {
			asked.BindOptions = &o
		}
	case container.MountVolume:
		if asked.Source = volume; m.Anonymous {
			asked.Source = ""
		}
		if m.NoCopy || m.Labels != nil || m.Subpath != "" || m.VolumeOptions != nil {
			asked.VolumeOptions = &ViewVolumeOptions{NoCopy: m.NoCopy, Labels: m.Labels, Subpath: m.Subpath}
			if m.VolumeOptions != nil {
				asked.VolumeOptions.DriverConfig = &struct {
					Options map[string]string `json:",omitempty"`
				}{m.VolumeOptions}
			}
		}
	case container.MountImage:
		if m.Subpath != "" {
			asked.ImageOptions = &ViewImageOptions{m.Subpath}
		}
	case container.MountTmpfs:
		if m.TmpfsBytes != 0 || m.TmpfsMode != nil {
			asked.TmpfsOptions = &ViewTmpfsOptions{SizeBytes: m.TmpfsBytes}
			if m.TmpfsMode != nil {
				asked.TmpfsOptions.Mode = *m.TmpfsMode
			}
		}
	}
	return asked
}
