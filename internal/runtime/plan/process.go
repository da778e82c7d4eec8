package plan

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// finish is what the last part of a program needs beside the process.
type finish struct {
	filter      Filter
	filterFlags uintptr
	create      bool
	keyring     string
	preserve    int
}

// process is the last part of every program, of a container's first process and of exec alike: give up every right
// that the process is not to have, in the one order in which each step is still allowed to make the next.
func (c *compiler) process(p *specs.Process, f finish) error {
	capabilities, err := capabilitySets(p.Capabilities)
	if err != nil {
		return err
	}
	if f.keyring != "" {
		c.from("keyring")
		// Not fatal: a filter around us, or a full quota of keys, and the process has its parent's keyring.
		c.do("join a session keyring of its own", callKeyctl, flags(unix.KEYCTL_JOIN_SESSION_KEYRING, "KEYCTL_JOIN_SESSION_KEYRING"), Str(f.keyring)).
			Tolerate = errnos(unix.ENOSYS, unix.EPERM, unix.EDQUOT, unix.EACCES)
	}
	if err := c.limits(p); err != nil {
		return err
	}
	if err := c.scheduling(p); err != nil {
		return err
	}
	c.label(p)
	if c.spec.Linux.Personality != nil {
		if err := c.personality(c.spec.Linux.Personality); err != nil {
			return err
		}
	}
	// Before the working directory is entered: WORKDIR /proc/self/fd/N must find nothing of the host's (CVE-2024-21626).
	c.from("")
	closing := Op{Special: CloseAll, Call: callCloseRange, What: "close every descriptor that is not the process's", Args: []Arg{num(3 + f.preserve)}}
	if f.create {
		closing.Args = append(closing.Args, Ref(c.inputSlot(InReady)), Ref(c.inputSlot(InStart)))
	}
	if f.listens() {
		closing.Args = append(closing.Args, Ref(c.inputSlot(InListener)))
	}
	c.add(closing)

	c.from("capabilities")
	bounding := capabilities.bounding
	for n := 0; n <= c.in.Host.LastCap; n++ {
		if bounding&(1<<n) == 0 {
			c.do("never gain "+capabilityName(n), callPrctl, flags(unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"), Int{uintptr(n), capabilityName(n)}, num(0), num(0), num(0))
		}
	}
	c.from("user")
	c.do("keep capabilities across the change of user", callPrctl, flags(unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"), num(1), num(0), num(0), num(0))
	if !c.in.NoSetgroups {
		c.do("set the supplementary groups", callSetgroups, num(len(p.User.AdditionalGids)), groups(p.User.AdditionalGids))
	}
	c.do("set the group", callSetresgid, num(int(p.User.GID)), num(int(p.User.GID)), num(int(p.User.GID)))
	c.do("set the user", callSetresuid, num(int(p.User.UID)), num(int(p.User.UID)), num(int(p.User.UID)))
	umask := 0o022
	if p.User.Umask != nil {
		umask = int(*p.User.Umask)
	}
	c.do("set the mask of modes", callUmask, flags(umask, fmt.Sprintf("%#o", umask)))

	// Until the filter is loaded, CAP_SYS_ADMIN is what allows it; afterwards the filter may allow little else than
	// capset and execve.
	c.from("capabilities")
	const admin = 1 << unix.CAP_SYS_ADMIN
	held := capabilities
	held.permitted |= admin
	c.toWorkdir(p, held)
	where := c.out(unix.PathMax)
	c.do("see where that is", callGetcwd, where, num(where.N))
	c.add(Op{Special: Expect, Call: callGetcwd, What: "stay inside the container", Args: []Arg{where, Bytes{[]byte("/"), `"/"`}, num(0)}, Errno: unix.EXDEV})

	if f.create {
		c.find(p)
	}
	// Who is notified must have the listener before the process makes a call that it waits for: then the filter comes before the gate.
	if f.create && !f.listens() {
		c.gate()
	}
	// The filter is not loaded yet, and no handler of ours is left.
	c.from("")
	c.letSignalsThrough()
	if p.NoNewPrivileges {
		c.from("no_new_privs")
		c.do("gain no rights by execve", callPrctl, flags(unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"), num(1), num(0), num(0), num(0))
		c.finalRights(capabilities)
		c.filter(f)
	} else {
		if len(f.filter.Code) > 0 {
			held.effective |= admin
			c.from("seccomp")
			c.capset("be allowed to load the filter", held)
		}
		c.filter(f)
		c.finalRights(capabilities)
	}
	if f.listens() {
		c.gate()
	}
	c.execve(p)
	return nil
}

// toWorkdir gives the process its rights and takes it to its working directory: also where it may not go itself, as with WORKDIR /root and another
// user, if the container's root may (runc does so; engines and images count on it).
func (c *compiler) toWorkdir(p *specs.Process, held capabilitySet) {
	const what, rights = "go to the working directory", "take the rights of the process"
	reach := uint64(1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH)
	if !c.userNS { // whoever enters a user namespace has all of them there
		reach &= c.in.Host.Caps
	}
	if held.effective&(1<<unix.CAP_DAC_OVERRIDE) != 0 || reach == 0 {
		c.capset(rights, held)
		c.from("working directory")
		c.do(what, callChdir, Str(p.Cwd))
		return
	}
	more := held
	more.effective |= reach
	more.permitted |= reach
	c.capset("be able to reach the working directory", more)
	c.from("working directory")
	c.do(what, callChdir, Str(p.Cwd))
	c.unless(unix.EACCES, func() { // a file system to which these rights are nothing: then the process itself may
		c.capset("be the process alone", held)
		c.do(what, callChdir, Str(p.Cwd))
	})
	c.from("capabilities")
	c.capset(rights, held)
}

// listens reports whether somebody is asked about system calls (SCMP_ACT_NOTIFY).
func (f finish) listens() bool { return f.filterFlags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 }

// gate waits until the process may execute its program.
func (c *compiler) gate() {
	c.from("create")
	c.do("say that everything is ready", callWrite, Ref(c.inputSlot(InReady)), Bytes{[]byte{1}, `"\1"`}, num(1))
	c.add(Op{Special: WaitByte, Call: callRead, What: "wait for the start", Args: []Arg{Ref(c.inputSlot(InStart)), c.out(1), num(1)}})
}

func (c *compiler) finalRights(s capabilitySet) {
	c.from("capabilities")
	c.capset("have the capabilities of the process alone", s)
	for n := 0; n <= c.in.Host.LastCap; n++ {
		if s.ambient&s.inheritable&s.permitted&(1<<n) != 0 { // the kernel takes no others (capabilities(7))
			c.do("keep "+capabilityName(n)+" across execve", callPrctl, flags(unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"),
				flags(unix.PR_CAP_AMBIENT_RAISE, "PR_CAP_AMBIENT_RAISE"), Int{uintptr(n), capabilityName(n)}, num(0), num(0))
		}
	}
}

func (c *compiler) filter(f finish) {
	if len(f.filter.Code) == 0 {
		return
	}
	c.from("seccomp")
	const what = "filter system calls"
	args := []Arg{flags(unix.SECCOMP_SET_MODE_FILTER, "SECCOMP_SET_MODE_FILTER"), Int{V: f.filterFlags}, f.filter}
	if !f.listens() {
		c.do(what, callSeccomp, args...)
		return
	}
	listener := c.get("listener", what, callSeccomp, args...)
	c.add(Op{Special: SendFD, Call: callSendmsg, What: "send the parent what is notified", Args: []Arg{Ref(c.inputSlot(InListener)), listener}})
}

// execve tries the directories of the process's own PATH, in the container.
func (c *compiler) execve(p *specs.Process) {
	c.from("command")
	candidates := c.candidates(p)
	for i, candidate := range candidates {
		op := c.add(Op{Special: Exec, Call: callExecve, What: "run " + p.Args[0], Args: []Arg{Str(candidate), Strings(p.Args), Strings(p.Env)}})
		if i < len(candidates)-1 {
			op.Tolerate = errnos(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
		}
	}
}

// find says already when the container is created that there is nothing to run, as runc does and engines expect.
func (c *compiler) find(p *specs.Process) {
	c.from("command")
	candidates := c.candidates(p)
	for i, candidate := range candidates {
		op := c.add(Op{Special: Find, Call: callFaccessat, What: "find " + p.Args[0], Args: []Arg{atFDCWD, Str(candidate), flags(unix.X_OK, "X_OK")}})
		if last := len(candidates) - 1; i < last {
			op.Tolerate = errnos(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
			op.SkipOK = last - i
		}
	}
}

// candidates are the files that the process's program may be.
func (c *compiler) candidates(p *specs.Process) []string {
	if c.in.Program != "" {
		return []string{c.in.Program}
	}
	name := p.Args[0]
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var candidates []string
	for dir := range strings.SplitSeq(environment(p.Env, "PATH"), ":") {
		if !strings.HasPrefix(dir, "/") {
			dir = path.Join("/", p.Cwd, dir)
		}
		candidates = append(candidates, path.Join(dir, name))
	}
	return candidates
}

// environment is the last value of a variable; PATH that is not set has the kernel's and docker's default.
func environment(env []string, name string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], name+"="); ok {
			return v
		}
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

func groups(ids []uint32) Arg {
	if len(ids) == 0 {
		return null
	}
	b := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		b = binary.NativeEndian.AppendUint32(b, id)
	}
	return Bytes{b, fmt.Sprint(ids)}
}

// limits are resource limits and the OOM score.
func (c *compiler) limits(p *specs.Process) error {
	for i, l := range p.Rlimits {
		if slices.ContainsFunc(p.Rlimits[:i], func(other specs.POSIXRlimit) bool { return other.Type == l.Type }) {
			return fmt.Errorf("there are two limits of type %q", l.Type)
		}
		n, ok := rlimitNumber(l.Type)
		if !ok {
			return fmt.Errorf("there is no resource limit %q", l.Type)
		}
		c.from("limit " + l.Type)
		b := binary.NativeEndian.AppendUint64(nil, l.Soft)
		b = binary.NativeEndian.AppendUint64(b, l.Hard)
		c.do("limit "+l.Type, callPrlimit, num(0), Int{uintptr(n), l.Type}, Bytes{b, fmt.Sprintf("{%d, %d}", l.Soft, l.Hard)}, null)
	}
	if p.OOMScoreAdj != nil {
		c.from("oom score")
		c.writeOwn("oom_score_adj", "say how ready it is to be killed when memory runs out", fmt.Sprint(*p.OOMScoreAdj))
	}
	return nil
}

// writeOwn writes to a file of the process's own directory of a procfs that nobody else could have made. An image may have
// had something mounted in there: a mount whose place is a link to the file (CVE-2025-52881).
func (c *compiler) writeOwn(file, what, value string) {
	s := c.slot("own")
	c.openIn(s, "open "+file, c.procfs(), "self/"+file, unix.O_WRONLY, sameMount)
	fd := Ref(s)
	c.do(what, callWrite, fd, Bytes{[]byte(value), fmt.Sprintf("%q", value)}, num(len(value)))
	c.do("done with it", callClose, fd)
}

// label asks the security module for a label at execve.
func (c *compiler) label(p *specs.Process) {
	if p.ApparmorProfile != "" {
		c.from("apparmor")
		file := "attr/apparmor/exec"
		if !c.in.Host.Kernel.AtLeast(5, 8) {
			file = "attr/exec"
		}
		c.writeOwn(file, "be confined by AppArmor", "exec "+p.ApparmorProfile)
	}
	if p.SelinuxLabel != "" {
		c.from("selinux")
		c.writeOwn("attr/exec", "be labelled by SELinux", p.SelinuxLabel)
	}
}

func (c *compiler) personality(p *specs.LinuxPersonality) error {
	if len(p.Flags) > 0 {
		return fmt.Errorf("flags of a personality are not supported")
	}
	switch p.Domain {
	case specs.PerLinux:
		c.do("have the personality LINUX", callPersonality, num(0))
	case specs.PerLinux32:
		c.do("have the personality LINUX32", callPersonality, num(8))
	default:
		return fmt.Errorf("there is no personality %q", p.Domain)
	}
	return nil
}

func rlimitNumber(name string) (int, bool) {
	for i, n := range [...]string{
		"RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS", "RLIMIT_NPROC", "RLIMIT_NOFILE",
		"RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
	} {
		if n == name {
			return i, true
		}
	}
	return 0, false
}
