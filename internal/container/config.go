// Package container is the model of a container: what was asked for, in one struct that every front fills and
// nobody else repeats, docker's short forms of it, and how it merges with an image's configuration.
//
// It does no input or output, and knows neither the OCI runtime spec (runtime/spec makes that of a Config) nor
// where anything is stored.
package container

import (
	"slices"
	"strings"
	"time"

	"berth/internal/image"
)

// Config is all that can be asked of a container. The zero value of a field asks for docker's default.
type Config struct {
	Name  string `json:",omitempty"`
	Image string // as the caller wrote it

	// Command and Entrypoint are argv; an Entrypoint that is set, even to nothing, replaces the image's and its Cmd.
	Command       []string          `json:",omitempty"`
	Entrypoint    []string          `json:",omitempty"`
	EntrypointSet bool              `json:",omitempty"`
	Env           []string          `json:",omitempty"` // NAME=VALUE
	Workdir       string            `json:",omitempty"`
	User          string            `json:",omitempty"` // user[:group], names or numbers, looked up in the container
	Groups        []string          `json:",omitempty"` // --group-add
	Labels        map[string]string `json:",omitempty"`
	Annotations   map[string]string `json:",omitempty"` // of the OCI spec
	Hostname      string            `json:",omitempty"`
	Domainname    string            `json:",omitempty"`

	TTY         bool `json:",omitempty"`
	Interactive bool `json:",omitempty"` // standard input stays open
	// Attach are the streams that whoever has made the container wanted to see: stdin, stdout, stderr. It is remembered alone.
	Attach     []string `json:",omitempty"`
	Init       bool     `json:",omitempty"` // an init of ours is process 1
	Systemd    string   `json:",omitempty"` // always, false, or true when empty: RunsSystemd
	ReadOnly   bool     `json:",omitempty"`
	Privileged bool     `json:",omitempty"`
	AutoRemove bool     `json:",omitempty"`

	CapAdd   []string `json:",omitempty"`
	CapDrop  []string `json:",omitempty"`
	Security Security `json:",omitzero"`
	Mounts   []Mount  `json:",omitempty"`
	// VolumesFrom are CONTAINER[:ro]: its mounts, too.
	VolumesFrom []string          `json:",omitempty"`
	Devices     []Device          `json:",omitempty"`
	Requests    []DeviceRequest   `json:",omitempty"`
	Ulimits     []Ulimit          `json:",omitempty"`
	Sysctls     map[string]string `json:",omitempty"`
	Resources   Resources         `json:",omitzero"`
	// CgroupParent is the group that the container's own is made in: a path with the driver cgroupfs, a slice with systemd.
	CgroupParent string   `json:",omitempty"`
	DeviceRules  []string `json:",omitempty"` // --device-cgroup-rule, as ParseDeviceRule takes them
	// StorageBytes is how much the writable layer may hold at most.
	StorageBytes int64 `json:",omitempty"`
	ShmBytes     int64 `json:",omitempty"`
	OOMScoreAdj  int   `json:",omitempty"`

	// Network is docker's network mode, what the container was made with: none, host, container:ID, or the first of Networks as they
	// were then.
	Network string `json:",omitempty"`
	// Networks are those that the container has an interface on, the one with the default route first; none with none, host and
	// container:ID.
	Networks   []Endpoint `json:",omitempty"`
	Ports      []Port     `json:",omitempty"`
	PublishAll bool       `json:",omitempty"`
	Exposed    []string   `json:",omitempty"` // "80/tcp", with those of the image
	DNS        []string   `json:",omitempty"`
	DNSSearch  []string   `json:",omitempty"`
	DNSOptions []string   `json:",omitempty"`
	Hosts      []Host     `json:",omitempty"` // further lines of /etc/hosts
	PID        string     `json:",omitempty"` // host, container:ID, or private when empty
	IPC        string     `json:",omitempty"` // host, none, private, shareable, container:ID
	UTS        string     `json:",omitempty"` // host
	Cgroupn    string     `json:",omitempty"` // host, private
	UserNS     string     `json:",omitempty"` // host, keep-id, auto; one of its own without root when empty

	// Links are containers of the default bridge whose addresses, ports and environment this one is told of, and other names for
	// containers on networks with names.
	Links []Link `json:",omitempty"`

	Platform string `json:",omitempty"`
	// Runtime is the name of what starts the container, or the path of another OCI runtime. VolumeDriver is "local", or empty.
	Runtime      string        `json:",omitempty"`
	VolumeDriver string        `json:",omitempty"`
	Isolation    string        `json:",omitempty"` // "default", or empty, which is the same
	StopSignal   string        `json:",omitempty"`
	StopTimeout  *int          `json:",omitempty"` // seconds
	Restart      RestartPolicy `json:",omitzero"`
	Log          LogConfig     `json:",omitzero"`

	// Health is how the container is found to be well; a Test of NONE says that it is not looked for, whatever the image says.
	Health image.Healthcheck `json:",omitzero"`
	// HealthOnFailure is what is done when it is not, podman's word: none when empty.
	HealthOnFailure string `json:",omitempty"`
	// Shell is what a command of Health is given to, if it is not docker's (/bin/sh -c).
	Shell []string `json:",omitempty"`
}

// Values of UserNS. Docker knows the first; the others are podman's words.
const (
	UserNSHost   = "host"    // as root: none; without: that of all the user's containers
	UserNSKeepID = "keep-id" // the caller has his own id in it
	UserNSAuto   = "auto"    // ids that no other such container has
)

// KeepGroups is the value of --group-add by which a container has its caller's supplementary groups.
const KeepGroups = "keep-groups"

// KeepsGroups reports whether the container has the supplementary groups of its caller, and no others.
func (c Config) KeepsGroups() bool { return slices.Contains(c.Groups, KeepGroups) }

// Security is what --security-opt says.
type Security struct {
	NoNewPrivileges bool `json:",omitempty"`
	// Seccomp is "unconfined", or the text of a profile, or empty for the default one.
	Seccomp string `json:",omitempty"`
	// AppArmor is "unconfined", the name of a loaded profile, or empty for the default one.
	AppArmor string `json:",omitempty"`
	// Mask are further paths that are hidden; Unmask are paths, with the wildcards of path.Match, of those that would be hidden or
	// write-protected and are not to be.
	Mask   []string `json:",omitempty"`
	Unmask []string `json:",omitempty"`
	// UnmaskAll leaves /proc and /sys as the kernel shows them (systempaths=unconfined).
	UnmaskAll bool `json:",omitempty"`
}

// MountType is the kind of a mount.
type MountType string

const (
	MountBind   MountType = "bind"
	MountVolume MountType = "volume"
	MountTmpfs  MountType = "tmpfs"
	MountImage  MountType = "image"
)

// Mount is one mount of a container, from -v, --mount, --tmpfs or the image's VOLUME.
type Mount struct {
	Type        MountType
	Source      string `json:",omitempty"` // path of the host, name of a volume or of an image; a volume without one is anonymous
	Target      string // absolute, clean
	ReadOnly    bool   `json:",omitempty"`
	Propagation string `json:",omitempty"`
	NoRecursive bool   `json:",omitempty"` // bind, not rbind
	// WritableBelow leaves what is mounted below a read-only source as it is.
	WritableBelow bool              `json:",omitempty"`
	NoCopy        bool              `json:",omitempty"` // do not fill a new volume from the image
	MakeSource    bool              `json:",omitempty"` // -v makes a missing source, --mount does not
	Anonymous     bool              `json:",omitempty"` // goes with its container
	TmpfsBytes    int64             `json:",omitempty"`
	TmpfsMode     *uint32           `json:",omitempty"`
	Options       []string          `json:",omitempty"` // further options of a tmpfs, or of Filesystem
	Labels        map[string]string `json:",omitempty"` // of a new volume
	VolumeOptions map[string]string `json:",omitempty"` // of a new volume, as of "volume create --opt"
	// Filesystem is the type of what the source is a device of, for a volume whose options say so.
	Filesystem string `json:",omitempty"`
	Subpath    string `json:",omitempty"` // of a volume or an image: only that part of it
	Own        bool   `json:",omitempty"` // :U gives the source to the container's user
	IDMap      *IDMap `json:",omitempty"` // whose the source's files are in the container
	Origin     string `json:",omitempty"` // the flag it comes from
}

// IDMap translates the owners of files: one that a file system knows by an ID of From is one of To where it is mounted.
type IDMap struct {
	Users, Groups []IDRange
}

// IDRange are Count IDs that follow each other.
type IDRange struct{ From, To, Count uint32 }

// Device is a device of the host in the container, or all of those in a directory.
type Device struct {
	Host, Path  string
	Permissions string // of r, w, m
	Optional    bool   `json:",omitempty"` // the container starts without it where there is none
}

// DeviceRequest asks for devices that somebody else describes, by a specification of CDI (github.com/cncf-tags/container-device-interface).
type DeviceRequest struct {
	Driver string `json:",omitempty"` // "cdi" of --device; empty of --gpus, or what that says
	// IDs are qualified names of CDI (vendor.com/class=name), or of --gpus the names of GPUs; without any, Count GPUs are asked for, -1 all.
	IDs          []string          `json:",omitempty"`
	Count        int               `json:",omitempty"`
	Capabilities []string          `json:",omitempty"`
	Options      map[string]string `json:",omitempty"`
}

// Ulimit is a resource limit; Name is docker's ("nofile").
type Ulimit struct {
	Name       string
	Soft, Hard int64 // -1: unlimited
}

// Restart policies.
const (
	RestartNo            = "no"
	RestartAlways        = "always"
	RestartOnFailure     = "on-failure"
	RestartUnlessStopped = "unless-stopped"
)

// RestartPolicy says when a container that has ended is started again.
type RestartPolicy struct {
	Name    string `json:",omitempty"`
	Retries int    `json:",omitempty"` // on-failure: how often; 0 is without limit
}

// Lasting reports whether a container with that policy is to be there for good.
func (p RestartPolicy) Lasting() bool { return p.Name != "" }

// DefaultStopTimeout is how long stop waits before it kills.
const DefaultStopTimeout = 10 * time.Second

// Merge fills what c leaves open from the image's configuration, as docker does: the command line wins; the
// image's Cmd only goes with the image's Entrypoint; variables and labels are united.
func Merge(c Config, im image.Config) Config {
	if !c.EntrypointSet {
		if len(c.Command) == 0 {
			c.Command = im.Cmd
		}
		c.Entrypoint = im.Entrypoint
	}
	c.Env = mergeEnv(c.Env, im.Env)
	if c.Workdir == "" {
		c.Workdir = im.WorkingDir
	}
	if c.User == "" {
		c.User = im.User
	}
	if c.StopSignal == "" {
		c.StopSignal = im.StopSignal
	}
	if c.StopSignal == "" && c.RunsSystemd() {
		c.StopSignal = SystemdStopSignal
	}
	if len(im.Labels) > 0 {
		labels := make(map[string]string, len(im.Labels)+len(c.Labels))
		for k, v := range im.Labels {
			labels[k] = v
		}
		for k, v := range c.Labels {
			labels[k] = v
		}
		c.Labels = labels
	}
	c.Health = mergeHealth(c.Health, im.Healthcheck)
	if len(c.Health.Test) > 0 {
		c.Shell = im.Shell
	}
	c.Exposed = slices.Clone(c.Exposed)
	for _, e := range sorted(im.ExposedPorts) {
		ports, _ := ParseExpose(e) // what an image says amiss publishes nothing
		for _, p := range ports {
			if !slices.Contains(c.Exposed, p) {
				c.Exposed = append(c.Exposed, p)
			}
		}
	}
	for _, target := range sorted(im.Volumes) {
		clean := cleanTarget(target)
		taken := slices.ContainsFunc(c.Mounts, func(m Mount) bool { return m.Target == clean })
		if clean != "/" && !taken {
			c.Mounts = append(c.Mounts, Mount{Type: MountVolume, Target: clean, Anonymous: true, Origin: "VOLUME of the image"})
		}
	}
	return c
}

func sorted(m map[string]struct{}) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// mergeEnv is the command line's variables, of which later ones replace earlier ones in place, and those of the image that it does not name:
// in that order, as docker's inspect has them. A name without "=" takes the variable away.
func mergeEnv(own, image []string) []string {
	var out, gone []string
	named := func(name string) func(string) bool {
		return func(v string) bool { return strings.HasPrefix(v, name+"=") }
	}
	for _, v := range own {
		name, _, set := strings.Cut(v, "=")
		i := slices.IndexFunc(out, named(name))
		switch {
		case !set:
			out, gone = slices.DeleteFunc(out, named(name)), append(gone, name)
		case i >= 0:
			out[i] = v
		default:
			out = append(out, v)
		}
	}
	for _, v := range image {
		name, _, set := strings.Cut(v, "=")
		if set && !slices.ContainsFunc(out, named(name)) && !slices.Contains(gone, name) {
			out = append(out, v)
		}
	}
	return out
}

// Args is the command line of the container's first process.
func (c Config) Args() []string {
	return append(slices.Clone(c.Entrypoint), c.Command...)
}
