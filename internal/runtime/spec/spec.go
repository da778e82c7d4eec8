// Package spec writes OCI runtime specs: container.Config, a looked-up user and facts about the host in, a spec
// out. It is the only writer of specs in berth; run, exec and every other front use it.
//
// It is pure: paths of the host that a spec names were found by the caller, and nothing is opened here. It does not
// decide how a spec is carried out; that is runtime/plan.
package spec

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/lsm"
	"berth/internal/runtime/plan"
	"berth/internal/runtime/seccomp"
	"berth/internal/runtime/userns"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Version is the version of the runtime spec that is written.
const Version = "1.3.0"

// Input is what a spec is made of.
type Input struct {
	ID     string
	Config container.Config // merged with the image's; Source of a volume is a path
	User   container.User
	Host   host.Facts
	// Files are bound over the image's own.
	Hosts, HostnameFile, ResolvConf string
	// InitProgram is the path of the init for --init.
	InitProgram string
	// HostDevices are all devices of the host, for --privileged.
	HostDevices []specs.LinuxDevice
	// Devices are those that were asked for, looked up.
	Devices []Device
	// Mounts are further ones, which come after those of Config.
	Mounts []specs.Mount
	// BlockDevices are the numbers of those that limits are about (container.Resources.BlockDevices).
	BlockDevices map[string]Number
	// CgroupPath is the container's group, relative to the root of each hierarchy.
	CgroupPath string
	// UIDMaps and GIDMaps, when set, ask for a user namespace.
	UIDMaps, GIDMaps []specs.LinuxIDMapping
}

// Device is a device that was asked for: where it is on the host, what of it is allowed, of r, w and m, and by which flag.
type Device struct {
	specs.LinuxDevice
	Host, Access, Origin string
}

// Built is a spec and where its parts come from, as plan.Input.Origins and plan.Input.DeviceSources have it.
type Built struct {
	Spec          *specs.Spec
	Origins       map[string]string
	DeviceSources map[string]string
}

// defaultCapabilities are docker's.
var defaultCapabilities = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// maskedPaths and readonlyPaths are docker's.
var (
	maskedPaths = [...]string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = [...]string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// KeepGroupsAnnotation says, with the value 1, that a container keeps the supplementary groups of its caller; crun's name for it.
const KeepGroupsAnnotation = "run.oci.keep_original_groups"

// ShmBytes is the size of /dev/shm unless told otherwise.
const ShmBytes = 64 << 20

// builder holds a spec that is being written.
type builder struct {
	Input
	spec    *specs.Spec
	origins map[string]string
}

// Build writes the spec of a container. An error is about the options: two that exclude each other, a name that does
// not exist.
func Build(in Input) (Built, error) {
	b := &builder{Input: in, origins: map[string]string{}, spec: &specs.Spec{
		Version: Version,
		Root:    &specs.Root{Path: "rootfs", Readonly: in.Config.ReadOnly},
		Linux:   &specs.Linux{CgroupsPath: in.CgroupPath},
	}}
	if in.Config.ReadOnly {
		b.origins["root"] = "--read-only"
	}
	process, err := Process(in)
	if err != nil {
		return Built{}, err
	}
	b.spec.Process = process
	b.processOrigins()
	b.namespaces()
	if err := b.mounts(); err != nil {
		return Built{}, err
	}
	if err := b.devices(); err != nil {
		return Built{}, err
	}
	b.resources()
	b.protection()
	if b.spec.Linux.Seccomp, err = Seccomp(in.Config, process.Capabilities.Bounding, in.Host); err != nil {
		return Built{}, err
	}
	b.sysctls()
	b.spec.Annotations = maps.Clone(in.Config.Annotations)
	if in.Config.KeepsGroups() {
		if b.spec.Annotations == nil {
			b.spec.Annotations = map[string]string{}
		}
		b.spec.Annotations[KeepGroupsAnnotation] = "1"
	}
	sources := map[string]string{}
	for _, d := range in.Devices {
		sources[d.Path] = d.Host
	}
	return Built{b.spec, b.origins, sources}, nil
}

// Process writes the process of a container, also that of an exec.
func Process(in Input) (*specs.Process, error) {
	c := in.Config
	capabilities, err := Capabilities(c, in.Host)
	if err != nil {
		return nil, err
	}
	p := &specs.Process{
		Terminal:        c.TTY,
		Args:            c.Args(),
		Cwd:             c.Workdir,
		NoNewPrivileges: c.Security.NoNewPrivileges,
		User:            specs.User{UID: in.User.UID, GID: in.User.GID, AdditionalGids: in.User.Groups},
		Capabilities:    &specs.LinuxCapabilities{Bounding: capabilities},
	}
	if len(p.Args) == 0 {
		return nil, errdef.Hint(errdef.New(errdef.Invalid, "no command specified"), "the image names no command either; give one after the image")
	}
	if c.Init {
		p.Args = append([]string{initPath, "--"}, p.Args...)
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	if !strings.HasPrefix(p.Cwd, "/") {
		return nil, errdef.New(errdef.Invalid, "the working directory '%s' is invalid, it needs to be an absolute path", p.Cwd)
	}
	if in.User.UID == 0 {
		// A process of another user has them only in its bounding set, as execve would leave it; the inheritable and
		// the ambient set are empty (CVE-2022-24769).
		p.Capabilities.Effective, p.Capabilities.Permitted = capabilities, capabilities
	}
	p.Env = Env(in)
	switch profile := c.Security.AppArmor; {
	case profile == "unconfined":
	case profile != "" && !in.Host.AppArmor:
		return nil, errdef.New(errdef.Unsupported, "cannot apply the AppArmor profile %q: this host has no AppArmor", profile)
	case profile != "":
		p.ApparmorProfile = profile
	case in.Host.AppArmor && in.Host.Root() && !c.Privileged: // only root may load the default profile
		p.ApparmorProfile = lsm.DefaultProfile
	}
	if c.OOMScoreAdj != 0 {
		p.OOMScoreAdj = &c.OOMScoreAdj
	}
	p.Rlimits = limits(c, in.Host)
	return p, nil
}

// initPath is where the init of --init is in the container; docker has it there, too.
const initPath = "/sbin/docker-init"

// Env is the environment of a process: docker's own variables, which the caller's and the image's replace.
func Env(in Input) []string {
	c := in.Config
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if name := Hostname(in); name != "" {
		env = append(env, "HOSTNAME="+name)
	}
	if c.TTY {
		env = append(env, "TERM=xterm")
	}
	if c.RunsSystemd() {
		env = append(env, systemdEnv(in)...)
	}
	for _, v := range c.Env {
		name, _, _ := strings.Cut(v, "=")
		if i := slices.IndexFunc(env, func(o string) bool { return strings.HasPrefix(o, name+"=") }); i >= 0 {
			env[i] = v
		} else {
			env = append(env, v)
		}
	}
	if !slices.ContainsFunc(env, func(o string) bool { return strings.HasPrefix(o, "HOME=") }) {
		env = append(env, "HOME="+in.User.Home)
	}
	return env
}

// Hostname is the container's host name: what was asked for, or its short ID; empty is the host's own. One that shares the network of
// another has that one's name as what was asked for.
func Hostname(in Input) string {
	_, shares := in.Config.SharesNetwork()
	switch {
	case in.Config.Hostname != "" || shares:
		return in.Config.Hostname
	case in.Config.UTS == "host" || in.Config.Network == container.NetworkHost:
		return ""
	}
	return in.ID[:min(12, len(in.ID))]
}

// Capabilities are those that --cap-add, --cap-drop and --privileged leave, in the order of their numbers.
func Capabilities(c container.Config, h host.Facts) ([]string, error) {
	var all uint64
	for n := 0; n <= h.LastCap; n++ {
		all |= 1 << n
	}
	all &= h.Bounding
	number := func(flag, name string) (uint64, error) {
		if strings.EqualFold(name, "ALL") {
			return all, nil
		}
		n, ok := plan.CapabilityNumber(name)
		if !ok {
			return 0, errdef.New(errdef.Invalid, "invalid %s: unknown capability: \"CAP_%s\"", flag, strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
		}
		return 1 << n, nil
	}
	var added, dropped, set uint64
	addAll, dropAll := false, false
	for _, name := range c.CapAdd {
		n, err := number("--cap-add", name)
		if err != nil {
			return nil, err
		}
		added |= n
		addAll = addAll || strings.EqualFold(name, "ALL")
	}
	for _, name := range c.CapDrop {
		n, err := number("--cap-drop", name)
		if err != nil {
			return nil, err
		}
		if strings.EqualFold(name, "ALL") {
			dropAll = true
		} else {
			dropped |= n
		}
	}
	for _, name := range defaultCapabilities {
		n, _ := plan.CapabilityNumber(name)
		set |= 1 << n
	}
	switch { // docker's order
	case c.Privileged:
		set = all
	case addAll:
		set = all &^ dropped
	case dropAll:
		set = added
	default:
		set = set&^dropped | added
	}
	return plan.CapabilityNames(set & h.Bounding), nil
}

// Seccomp is the filter of a container: none, the caller's, or docker's default for its capabilities.
func Seccomp(c container.Config, capabilities []string, h host.Facts) (*specs.LinuxSeccomp, error) {
	switch {
	case !h.Seccomp && c.Security.Seccomp != "" && c.Security.Seccomp != "unconfined":
		return nil, errdef.New(errdef.Unsupported, "cannot filter system calls: this kernel has no seccomp")
	case c.Security.Seccomp == "unconfined" || c.Privileged && c.Security.Seccomp == "" || !h.Seccomp:
		return nil, nil
	case c.Security.Seccomp != "":
		return seccomp.Load([]byte(c.Security.Seccomp), capabilities, h.Arch, h.Kernel)
	}
	return seccomp.Default(capabilities, h.Arch, h.Kernel), nil
}

// limits are --ulimit, and the number of open files: 1,024 for programs that use select(2), up to 524,288 for those
// that ask for more, as docker has it since it follows systemd's default.
func limits(c container.Config, h host.Facts) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	files := false
	for _, u := range c.Ulimits {
		files = files || u.Name == "nofile"
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	if !files {
		hard := min(h.MaxFiles, 524288)
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: min(1024, hard), Hard: hard})
	}
	return out
}

func (b *builder) namespaces() {
	c := b.Config
	add := func(t specs.LinuxNamespaceType) {
		b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: t})
	}
	add(specs.MountNamespace)
	if c.PID != "host" {
		add(specs.PIDNamespace)
	}
	if c.Network != container.NetworkHost {
		add(specs.NetworkNamespace) // which may be another container's; who carries the spec out knows
		b.origins["network"] = "--network " + c.Network
	}
	if c.IPC != "host" {
		add(specs.IPCNamespace)
	}
	if c.UTS != "host" {
		add(specs.UTSNamespace)
		b.spec.Hostname = Hostname(b.Input)
		b.spec.Domainname = c.Domainname
	}
	// docker shares it with privileged containers on version 1. Here they do not: what an engine inside makes is to be below the
	// container's own group, within its limits, and to go with it.
	if c.Cgroupn != "host" {
		add(specs.CgroupNamespace)
	}
	if b.UIDMaps != nil {
		add(specs.UserNamespace)
		b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = b.UIDMaps, b.GIDMaps
	}
	b.origins["hostname"] = origin(c.Hostname != "", "--hostname "+c.Hostname)
	b.origins["domainname"] = "--domainname " + c.Domainname
	b.origins["user namespace"] = "a container without root"
	b.origins["namespace cgroup"] = origin(c.Cgroupn != "", "--cgroupns "+c.Cgroupn)
}

// origin is the flag if it was given, else the word default.
func origin(given bool, flag string) string {
	if given {
		return flag
	}
	return "default"
}

func (b *builder) processOrigins() {
	c := b.Config
	b.origins["command"] = "command"
	b.origins["user"] = origin(c.User != "", "--user "+c.User)
	b.origins["working directory"] = origin(c.Workdir != "", "--workdir "+c.Workdir)
	b.origins["terminal"] = "--tty"
	b.origins["stdio"] = "default"
	b.origins["keyring"] = "default"
	b.origins["cgroup"] = "default"
	b.origins["apparmor"] = origin(c.Security.AppArmor != "", "--security-opt apparmor="+c.Security.AppArmor)
	b.origins["no_new_privs"] = "--security-opt no-new-privileges"
	b.origins["oom score"] = "--oom-score-adj"
	b.origins["seccomp"] = origin(c.Security.Seccomp != "", "--security-opt seccomp")
	var flags []string
	for _, name := range c.CapAdd {
		flags = append(flags, "--cap-add "+name)
	}
	for _, name := range c.CapDrop {
		flags = append(flags, "--cap-drop "+name)
	}
	if c.Privileged {
		flags = append(flags, "--privileged")
	}
	b.origins["capabilities"] = origin(len(flags) > 0, strings.Join(flags, " "))
	for _, l := range b.spec.Process.Rlimits {
		b.origins["limit "+l.Type] = "default"
	}
	for _, u := range c.Ulimits {
		b.origins["limit RLIMIT_"+strings.ToUpper(u.Name)] = fmt.Sprintf("--ulimit %s=%d:%d", u.Name, u.Soft, u.Hard)
	}
	for key := range c.Sysctls {
		b.origins["sysctl "+key] = "--sysctl"
	}
}

// sysctls are the caller's, and two that let a container use what needs no privilege in a network of its own: every
// port, and ping.
func (b *builder) sysctls() {
	out := map[string]string{}
	if b.Config.OwnNetwork() {
		out["net.ipv4.ip_unprivileged_port_start"] = "0"
		out["net.ipv4.ping_group_range"] = fmt.Sprintf("0 %d", lastGroup(b.Input))
	}
	for k, v := range b.Config.Sysctls {
		out[k] = v
	}
	if len(out) > 0 {
		b.spec.Linux.Sysctl = out
	}
}

// lastGroup is the greatest group up to which the container has all; a sysctl of groups takes no other (ipv4_ping_group_range of
// net/ipv4/sysctl_net_ipv4.c).
func lastGroup(in Input) uint32 {
	if in.GIDMaps == nil {
		return in.Host.LastGroup
	}
	return max(userns.Count(in.GIDMaps), 1) - 1
}

// protection hides and write-protects what the kernel shows of the host.
func (b *builder) protection() {
	b.origins["masked paths"], b.origins["read-only paths"] = "default", "default"
	if len(b.Config.Security.Mask)+len(b.Config.Security.Unmask) > 0 {
		b.origins["masked paths"], b.origins["read-only paths"] = "--security-opt mask, unmask", "--security-opt unmask"
	}
	b.spec.Linux.MaskedPaths, b.spec.Linux.ReadonlyPaths = Protected(b.Config)
}

// Protected are the paths that are hidden from a container, and those that are write-protected in it.
func Protected(c container.Config) (masked, readonly []string) {
	s := c.Security
	left := func(paths []string) []string {
		if c.Privileged || s.UnmaskAll {
			return nil
		}
		return slices.DeleteFunc(slices.Clone(paths), func(p string) bool {
			return slices.ContainsFunc(s.Unmask, func(pattern string) bool {
				match, err := path.Match(pattern, p)
				return err == nil && match
			})
		})
	}
	return append(left(maskedPaths[:]), s.Mask...), left(readonlyPaths[:])
}
