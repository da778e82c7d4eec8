package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/ident"
	"berth/internal/network"
	"berth/internal/network/dns"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/lifecycle"
	"berth/internal/runtime/monitor"
	"berth/internal/runtime/plan"
	"berth/internal/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Fact is one thing about a running container: what was planned, and what the kernel says. They differ when both are said
// and are not the same.
type Fact struct {
	What, Plan, Kernel, Origin string
}

// Differs reports whether the kernel says something else than the plan.
func (f Fact) Differs() bool { return f.Plan != f.Kernel }

// ExplainRunning reads a running container back from the kernel and compares it with its plan.
func (e *Engine) ExplainRunning(c *state.Container) ([]Fact, error) {
	p, err := e.process(c)
	if err != nil {
		return nil, err
	}
	in, err := e.Planned(c)
	if err != nil {
		return nil, err
	}
	r := &reality{dir: "/proc/" + strconv.Itoa(p.PID), in: in, host: e.Host()}
	if r.status, err = os.ReadFile(r.dir + "/status"); err != nil {
		return nil, errdef.New(errdef.Conflict, "container %s is not running", c.ID)
	}
	r.namespaces()
	owner, err := e.networkOf(c, r)
	if err != nil {
		return nil, err
	}
	r.identity()
	r.rights()
	r.limits()
	if err := r.mounts(); err != nil {
		return nil, err
	}
	if in.Driver != cgroup.None {
		r.cgroups(p)
	}
	held, err := e.Endpoints(owner)
	if err != nil {
		return nil, err
	}
	r.interfaces(held)
	if err := e.endpoints(r, owner, held); err != nil {
		return nil, err
	}
	// Between the first file and the last the process may have ended, and its number be somebody else's.
	if fd := p.Open(); fd >= 0 {
		_ = unix.Close(fd)
		return r.facts, nil
	}
	return nil, errdef.New(errdef.Conflict, "container %s has just ended", c.ID)
}

type reality struct {
	dir    string
	status []byte
	in     lifecycle.Input
	host   host.Facts
	facts  []Fact
}

func (r *reality) add(what, planned, kernel, origin string) {
	r.facts = append(r.facts, Fact{what, planned, kernel, r.in.Origins[origin]})
}

// field is a line of /proc/PID/status.
func (r *reality) field(name string) string {
	for line := range strings.Lines(string(r.status)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(rest), " ")
		}
	}
	return ""
}

func (r *reality) namespaces() {
	own := map[specs.LinuxNamespaceType]bool{}
	for _, n := range r.in.Spec.Linux.Namespaces {
		own[n.Type] = true
	}
	for _, n := range []struct {
		file string
		kind specs.LinuxNamespaceType
	}{
		{"mnt", specs.MountNamespace},
		{"pid", specs.PIDNamespace},
		{"ipc", specs.IPCNamespace},
		{"uts", specs.UTSNamespace},
		{"user", specs.UserNamespace},
		{"cgroup", specs.CgroupNamespace},
	} {
		theirs, err1 := os.Readlink(r.dir + "/ns/" + n.file)
		ours, err2 := os.Readlink("/proc/self/ns/" + n.file)
		if err1 != nil || err2 != nil {
			continue
		}
		word := func(b bool) string {
			if b {
				return "its own"
			}
			return "the host's"
		}
		r.add("namespace "+n.file, word(own[n.kind]), word(theirs != ours), "namespace "+string(n.kind))
	}
}

// networkOf compares the network namespace, and returns the container whose it is as far as that is known.
func (e *Engine) networkOf(c *state.Container, r *reality) (*state.Container, error) {
	theirs, err := os.Readlink(r.dir + "/ns/net")
	if err != nil {
		return c, nil //nolint:nilerr // it has ended; the caller finds that out
	}
	same := func(dir string) bool {
		its, err := os.Readlink(dir + "/ns/net")
		return err == nil && its == theirs
	}
	planned, kernel, owner := "its own", "its own", c
	if same("/proc/self") {
		kernel = "the host's"
	}
	if c.Config.Network == container.NetworkHost {
		planned = "the host's"
	}
	if id, shares := c.Config.SharesNetwork(); shares {
		planned = "container " + ident.Short(id) + "'s"
		if p, err := e.Containers.Process(id); err == nil && same("/proc/"+strconv.Itoa(p.PID)) {
			kernel = planned
		}
		if owner, err = e.networkOwner(c); err != nil {
			return c, err
		}
	}
	r.add("namespace net", planned, kernel, "network")
	return owner, nil
}

// networkOwner is the container whose network namespace another one shares: it, or the one whose that one shares.
func (e *Engine) networkOwner(c *state.Container) (*state.Container, error) {
	for {
		id, shares := c.Config.SharesNetwork()
		if !shares {
			return c, nil
		}
		next, err := e.Containers.Load(id)
		if errdef.Is(err, errdef.NotFound) {
			return c, nil // it has been removed, and its endpoints with it
		}
		if err != nil {
			return c, err
		}
		c = next
	}
}

func (r *reality) identity() {
	p := r.in.Spec.Process
	if r.in.Maps.UID != nil {
		return // the numbers here are the host's, those of the plan the container's
	}
	four := func(n uint32) string { return strings.TrimSpace(strings.Repeat(fmt.Sprint(n)+" ", 4)) }
	r.add("user ids", four(p.User.UID), r.field("Uid"), "user")
	r.add("group ids", four(p.User.GID), r.field("Gid"), "user")
	groups := make([]string, len(p.User.AdditionalGids))
	sorted := slices.Clone(p.User.AdditionalGids)
	slices.Sort(sorted)
	for i, g := range sorted {
		groups[i] = fmt.Sprint(g)
	}
	r.add("groups", strings.Join(groups, " "), r.field("Groups"), "user")
}

func (r *reality) rights() {
	p := r.in.Spec.Process
	for _, set := range []struct {
		what, field string
		planned     []string
	}{
		{"bounding capabilities", "CapBnd", p.Capabilities.Bounding},
		{"permitted capabilities", "CapPrm", p.Capabilities.Permitted},
		{"effective capabilities", "CapEff", p.Capabilities.Effective},
		{"inheritable capabilities", "CapInh", p.Capabilities.Inheritable},
		{"ambient capabilities", "CapAmb", p.Capabilities.Ambient},
	} {
		mask, err := strconv.ParseUint(r.field(set.field), 16, 64)
		if err != nil {
			continue
		}
		r.add(set.what, short(set.planned), short(plan.CapabilityNames(mask)), "capabilities")
	}
	flag := map[bool]string{false: "0", true: "1"}
	r.add("no new privileges", flag[p.NoNewPrivileges], r.field("NoNewPrivs"), "no_new_privs")
	mode := "0 (none)"
	if r.in.Spec.Linux.Seccomp != nil {
		mode = "2 (filter)"
	}
	kernel := map[string]string{"0": "0 (none)", "1": "1 (strict)", "2": "2 (filter)"}[r.field("Seccomp")]
	r.add("seccomp", mode, kernel, "seccomp")
	if r.host.AppArmor {
		data, _ := os.ReadFile(r.dir + "/attr/apparmor/current")
		want := "unconfined"
		if p.ApparmorProfile != "" {
			want = p.ApparmorProfile + " (enforce)"
		}
		r.add("AppArmor", want, strings.TrimSpace(string(data)), "apparmor")
	}
}

func short(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strings.ToLower(strings.TrimPrefix(n, "CAP_"))
	}
	slices.Sort(out)
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ",")
}

func (r *reality) limits() {
	data, err := os.ReadFile(r.dir + "/limits")
	if err != nil {
		return
	}
	names := map[string]string{
		"RLIMIT_NOFILE": "Max open files", "RLIMIT_NPROC": "Max processes", "RLIMIT_CORE": "Max core file size", "RLIMIT_CPU": "Max cpu time",
		"RLIMIT_FSIZE": "Max file size", "RLIMIT_DATA": "Max data size", "RLIMIT_STACK": "Max stack size", "RLIMIT_RSS": "Max resident set",
		"RLIMIT_MEMLOCK": "Max locked memory", "RLIMIT_AS": "Max address space", "RLIMIT_LOCKS": "Max file locks", "RLIMIT_SIGPENDING": "Max pending signals",
		"RLIMIT_MSGQUEUE": "Max msgqueue size", "RLIMIT_NICE": "Max nice priority", "RLIMIT_RTPRIO": "Max realtime priority", "RLIMIT_RTTIME": "Max realtime timeout",
	}
	number := func(n uint64) string {
		if n == ^uint64(0) {
			return "unlimited"
		}
		return strconv.FormatUint(n, 10)
	}
	for _, l := range r.in.Spec.Process.Rlimits {
		for line := range strings.Lines(string(data)) {
			if rest, ok := strings.CutPrefix(line, names[l.Type]+" "); ok {
				f := strings.Fields(rest)
				if len(f) < 2 {
					continue
				}
				planned, kernel := number(l.Soft)+" "+number(l.Hard), f[0]+" "+f[1]
				if number(l.Hard) == f[1] {
					planned = kernel // the soft limit is the process's own to move, and Go programs do
				}
				r.add("limit "+l.Type, planned, kernel, "limit "+l.Type)
			}
		}
	}
}

// mounts compares what is mounted where: the type, and whether it is read-only.
func (r *reality) mounts() error {
	data, err := os.ReadFile(r.dir + "/mountinfo")
	if err != nil {
		return err
	}
	type mounted struct{ kind, access string }
	now := map[string]mounted{}
	places := map[string]string{} // where the mount with this ID is
	var order []string
	for line := range strings.Lines(string(data)) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(g) < 1 {
			continue
		}
		at := unescape(f[4])
		places[f[0]] = at
		if _, twice := now[at]; !twice {
			order = append(order, at)
		}
		now[at] = mounted{g[0], strings.SplitN(f[5], ",", 2)[0]}
	}
	planned := map[string]bool{"/": true}
	rootAccess := "rw"
	if r.in.Spec.Root.Readonly {
		rootAccess = "ro"
	}
	say := func(m mounted) string {
		if m.kind == "" {
			return "not mounted"
		}
		return m.kind + " " + m.access
	}
	rootKind := "overlay"
	if r.in.Overlay == nil {
		rootKind = now["/"].kind // what a copy is on
	}
	r.add("mount /", rootKind+" "+rootAccess, say(now["/"]), "root")
	for _, m := range r.in.Spec.Mounts {
		at := filepath.Clean(m.Destination)
		have, there := now[at]
		if !there { // a link of the image's may lead to it
			if led := places[r.mountAt(at)]; led != "" {
				planned[led] = true
				have = now[led]
			}
		}
		planned[at] = true
		want := mounted{m.Type, "rw"}
		if slices.Contains(m.Options, "ro") {
			want.access = "ro"
		}
		switch {
		case m.Type == "bind":
			want.kind = have.kind // what is bound has the type it has
			if have.kind == "" {
				want.kind = "bind"
			}
		case m.Type == "cgroup" && r.host.Cgroup == host.CgroupV1:
			want.kind = "tmpfs"
		case m.Type == "cgroup":
			want.kind = "cgroup2"
		}
		r.add("mount "+at, say(want), say(have), "mount "+at)
	}
	own := append(slices.Clone(r.in.Spec.Linux.MaskedPaths), r.in.Spec.Linux.ReadonlyPaths...)
	for _, at := range order {
		expected := planned[at] || slices.Contains(own, at) || strings.HasPrefix(at, "/sys/fs/cgroup/") || at == "/dev/console" ||
			r.in.Maps.UID != nil && strings.HasPrefix(at, "/dev/") // devices of the host, bound because none may be made
		for _, m := range r.in.Spec.Mounts {
			if m.Type == "bind" && strings.HasPrefix(at, filepath.Clean(m.Destination)+"/") {
				expected = true // what was mounted below a source came with it
			}
		}
		if !expected {
			r.add("mount "+at, "not mounted", say(now[at]), "")
		}
	}
	return nil
}

// mountAt is the ID of the mount whose root a path of the container's leads to; nothing if that is in the midst of one.
func (r *reality) mountAt(path string) string {
	root, err := unix.Open(r.dir+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(root)
	fd, err := disk.OpenIn(root, path, unix.O_PATH, 0, disk.InRoot)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st)
	if err != nil || st.Mask&unix.STATX_MNT_ID == 0 || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return ""
	}
	return strconv.FormatUint(st.Mnt_id, 10)
}

// unescape turns the octal escapes of mountinfo back (proc_pid_mountinfo(5)).
func unescape(s string) string {
	if !strings.Contains(s, "\\") {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// cgroups compares the control group and the limits in it.
func (r *reality) cgroups(p state.Process) {
	g, err := cgroup.Open(r.host, p.Cgroup)
	if err != nil {
		return
	}
	pid, _ := strconv.Atoi(filepath.Base(r.dir))
	in := "elsewhere"
	if pids, err := g.PIDs(); err == nil && slices.Contains(pids, pid) {
		in = p.Cgroup
	}
	r.add("control group", r.in.Spec.Linux.CgroupsPath, in, "cgroup")
	read := func(names ...string) string {
		for _, dir := range g.Paths() {
			for _, name := range names {
				if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
					return strings.TrimSpace(string(data))
				}
			}
		}
		return "unknown"
	}
	res := r.in.Spec.Linux.Resources
	if m := res.Memory; m != nil && m.Limit != nil {
		r.facts = append(r.facts, Fact{"memory limit", fmt.Sprint(*m.Limit), read("memory.max", "memory.limit_in_bytes"), "--memory"})
	}
	if l := res.Pids; l != nil && l.Limit != nil && *l.Limit > 0 {
		r.facts = append(r.facts, Fact{"pids limit", fmt.Sprint(*l.Limit), read("pids.max"), "--pids-limit"})
	}
	if c := res.CPU; c != nil && c.Quota != nil {
		planned, kernel := fmt.Sprintf("%d %d", *c.Quota, *c.Period), read("cpu.max")
		if r.host.Cgroup == host.CgroupV1 {
			kernel = read("cpu.cfs_quota_us") + " " + read("cpu.cfs_period_us")
		}
		r.facts = append(r.facts, Fact{"cpu quota and period", planned, kernel, "--cpus"})
	}
}

// endpoints compares what the container holds of its networks with what the kernel does, and where its queries for names go.
func (e *Engine) endpoints(r *reality, owner *state.Container, held []network.Endpoint) error {
	ns, err := os.Open(r.dir + "/ns/net")
	if err != nil {
		return nil //nolint:nilerr // it has ended; the caller finds that out
	}
	defer ns.Close()
	for _, h := range held {
		found, err := e.Networks().Compare(h, ns)
		if err != nil {
			return err
		}
		for _, f := range found {
			origin := "--network " + h.Network
			if f.Port {
				origin = "-p"
			}
			r.facts = append(r.facts, Fact{f.What, f.Record, f.Kernel, origin})
		}
	}
	if !monitor.Named(owner.Config) || len(held) == 0 {
		return nil
	}
	port, err := network.ResolverPort(ns)
	if err != nil {
		return err
	}
	kernel := "is led nowhere"
	if port != 0 {
		kernel = "is led to the monitor"
	}
	r.add("port 53 of "+dns.Address().String(), "is led to the monitor", kernel, "network")
	return nil
}

// interfaces compares the network's interfaces, for a network of the container's own, with those that its endpoints have.
func (r *reality) interfaces(held []network.Endpoint) {
	own := slices.ContainsFunc(r.in.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	data, err := os.ReadFile(r.dir + "/net/dev")
	if err != nil || !own {
		return
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	// Tunnels that the kernel puts into every new network namespace say nothing about the container.
	names = slices.DeleteFunc(names, func(n string) bool {
		return slices.Contains([]string{"tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"}, n)
	})
	slices.Sort(names)
	planned := []string{"lo"}
	for _, e := range held {
		planned = append(planned, e.Interface)
	}
	slices.Sort(planned)
	r.add("network interfaces", strings.Join(planned, " "), strings.Join(names, " "), "network")
}
