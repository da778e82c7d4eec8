package plan

import (
	"encoding/binary"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The system calls of programs, by name. Numbers differ by architecture, names do not.
var (
	callOpenat       = Call{unix.SYS_OPENAT, "openat"}
	callOpenat2      = Call{unix.SYS_OPENAT2, "openat2"}
	callMkdirat      = Call{unix.SYS_MKDIRAT, "mkdirat"}
	callMknodat      = Call{unix.SYS_MKNODAT, "mknodat"}
	callSymlinkat    = Call{unix.SYS_SYMLINKAT, "symlinkat"}
	callFchownat     = Call{unix.SYS_FCHOWNAT, "fchownat"}
	callFchown       = Call{unix.SYS_FCHOWN, "fchown"}
	callFsopen       = Call{unix.SYS_FSOPEN, "fsopen"}
	callFsconfig     = Call{unix.SYS_FSCONFIG, "fsconfig"}
	callFsmount      = Call{unix.SYS_FSMOUNT, "fsmount"}
	callOpenTree     = Call{unix.SYS_OPEN_TREE, "open_tree"}
	callMoveMount    = Call{unix.SYS_MOVE_MOUNT, "move_mount"}
	callMountSetattr = Call{unix.SYS_MOUNT_SETATTR, "mount_setattr"}
	callMount        = Call{unix.SYS_MOUNT, "mount"}
	callUmount2      = Call{unix.SYS_UMOUNT2, "umount2"}
	callPivotRoot    = Call{unix.SYS_PIVOT_ROOT, "pivot_root"}
	callFchdir       = Call{unix.SYS_FCHDIR, "fchdir"}
	callChdir        = Call{unix.SYS_CHDIR, "chdir"}
	callGetcwd       = Call{unix.SYS_GETCWD, "getcwd"}
	callUmask        = Call{unix.SYS_UMASK, "umask"}
	callClose        = Call{unix.SYS_CLOSE, "close"}
	callWrite        = Call{unix.SYS_WRITE, "write"}
	callRead         = Call{unix.SYS_READ, "read"}
	callDup3         = Call{unix.SYS_DUP3, "dup3"}
	callIoctl        = Call{unix.SYS_IOCTL, "ioctl"}
	callSendmsg      = Call{unix.SYS_SENDMSG, "sendmsg"}
	callSocket       = Call{unix.SYS_SOCKET, "socket"}
	callSetns        = Call{unix.SYS_SETNS, "setns"}
	callUnshare      = Call{unix.SYS_UNSHARE, "unshare"}
	callClone        = Call{unix.SYS_CLONE, "clone"}
	callSethostname  = Call{unix.SYS_SETHOSTNAME, "sethostname"}
	callSetdomain    = Call{unix.SYS_SETDOMAINNAME, "setdomainname"}
	callSetsid       = Call{unix.SYS_SETSID, "setsid"}
	callKeyctl       = Call{unix.SYS_KEYCTL, "keyctl"}
	callPrlimit      = Call{unix.SYS_PRLIMIT64, "prlimit64"}
	callPrctl        = Call{unix.SYS_PRCTL, "prctl"}
	callCapset       = Call{unix.SYS_CAPSET, "capset"}
	callSetgroups    = Call{unix.SYS_SETGROUPS, "setgroups"}
	callSetresgid    = Call{unix.SYS_SETRESGID, "setresgid"}
	callSetresuid    = Call{unix.SYS_SETRESUID, "setresuid"}
	callSeccomp      = Call{unix.SYS_SECCOMP, "seccomp"}
	callSchedSetattr = Call{unix.SYS_SCHED_SETATTR, "sched_setattr"}
	callSetaffinity  = Call{unix.SYS_SCHED_SETAFFINITY, "sched_setaffinity"}
	callIoprioSet    = Call{unix.SYS_IOPRIO_SET, "ioprio_set"}
	callSetMempolicy = Call{unix.SYS_SET_MEMPOLICY, "set_mempolicy"}
	callPersonality  = Call{unix.SYS_PERSONALITY, "personality"}
	callSigprocmask  = Call{unix.SYS_RT_SIGPROCMASK, "rt_sigprocmask"}
	callSigaction    = Call{unix.SYS_RT_SIGACTION, "rt_sigaction"}
	callClone3       = Call{unix.SYS_CLONE3, "clone3"}
	callFcntl        = Call{unix.SYS_FCNTL, "fcntl"}
	callCloseRange   = Call{unix.SYS_CLOSE_RANGE, "close_range"}
	callFaccessat    = Call{unix.SYS_FACCESSAT, "faccessat"}
	callExecve       = Call{unix.SYS_EXECVE, "execve"}
)

// builder collects operations. origin is what the operations that follow come from.
type builder struct {
	p      Program
	origin string
	outs   int
}

// input declares a slot that the parent fills.
func (b *builder) input(name string) Ref {
	b.p.Inputs = append(b.p.Inputs, name)
	return Ref(b.slot(name))
}

// slot declares a slot.
func (b *builder) slot(name string) Slot {
	b.p.SlotNames = append(b.p.SlotNames, name)
	return Slot(len(b.p.SlotNames))
}

// out declares memory of n bytes that the kernel writes.
func (b *builder) out(n int) Out {
	b.outs++
	return Out{b.outs, n}
}

// do adds a system call; the returned Op may be amended until the next one is added.
func (b *builder) do(what string, c Call, args ...Arg) *Op {
	return b.add(Op{Call: c, Args: args, What: what})
}

// get is do whose result is kept in a new slot.
func (b *builder) get(name, what string, c Call, args ...Arg) Ref {
	s := b.slot(name)
	b.do(what, c, args...).Save = s
	return Ref(s)
}

// reset is the first operation of every program: a handler of the parent's must not run in the child.
func (b *builder) reset() {
	b.add(Op{Special: Reset, Call: callSigaction, What: "put every signal back to its default"})
}

// letSignalsThrough ends the blocking of signals in which a child begins.
func (b *builder) letSignalsThrough() {
	b.do("let signals through", callSigprocmask, flags(unix.SIG_SETMASK, "SIG_SETMASK"), Bytes{make([]byte, 8), "[]"}, null, num(8))
}

func (b *builder) add(op Op) *Op {
	op.Origin = b.origin
	b.p.Ops = append(b.p.Ops, op)
	return &b.p.Ops[len(b.p.Ops)-1]
}

// unless lets the last operation, when it succeeds, leave out what then adds; a tolerated failure goes on with it.
func (b *builder) unless(tolerated syscall.Errno, then func()) {
	i := len(b.p.Ops) - 1
	b.p.Ops[i].Tolerate = append(b.p.Ops[i].Tolerate, tolerated)
	then()
	b.p.Ops[i].SkipOK = len(b.p.Ops) - 1 - i
}

// onlyIf lets the last operation, when it fails with a tolerated error, leave out what then adds.
func (b *builder) onlyIf(tolerated []syscall.Errno, then func()) {
	i := len(b.p.Ops) - 1
	b.p.Ops[i].Tolerate = append(b.p.Ops[i].Tolerate, tolerated...)
	then()
	b.p.Ops[i].SkipTolerated = len(b.p.Ops) - 1 - i
}

func num(n int) Int { return Int{V: uintptr(n)} }

func flags(n int, text string) Int { return Int{uintptr(n), text} }

var (
	atFDCWD = Int{^uintptr(99), "AT_FDCWD"} // -100
	null    = Int{0, "NULL"}
	empty   = Str("")
)

// How a place in the container's tree is looked up.
const (
	inRoot     = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	noSymlinks = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS
	sameMount  = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
	beneath    = sameMount | unix.RESOLVE_NO_SYMLINKS
)

// openIn opens name, resolved beneath dir, into slot s.
func (b *builder) openIn(s Slot, what string, dir Arg, name string, how int, resolve uint64) *Op {
	var h [24]byte // struct open_how: flags, mode, resolve
	binary.NativeEndian.PutUint64(h[0:], uint64(how|unix.O_CLOEXEC))
	binary.NativeEndian.PutUint64(h[16:], resolve)
	text := "{" + openFlags(how) + ", " + resolveFlags(resolve) + "}"
	op := b.do(what, callOpenat2, dir, Str(relative(name)), Bytes{h[:], text}, num(len(h)))
	op.Save = s
	return op
}

// relative is name as openat2 takes it with RESOLVE_IN_ROOT: the root itself is ".".
func relative(name string) string {
	name = strings.TrimLeft(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	return name
}

// kindOfTarget is what a mount needs to find at its target.
type kindOfTarget bool

const (
	aDirectory kindOfTarget = false
	aFile      kindOfTarget = true
)

// target opens the place of a mount beneath root and makes what is missing of it; every step is looked up again
// beneath root, so a link in the image leads nowhere else.
func (b *builder) target(root Ref, name, what string, kind kindOfTarget, resolve uint64) Ref {
	s := b.slot("target")
	b.openIn(s, "find "+what, root, name, unix.O_PATH, resolve)
	b.unless(unix.ENOENT, func() {
		parts := strings.Split(relative(name), "/")
		dir := root
		step := b.slot("parent")
		for i, part := range parts {
			here := strings.Join(parts[:i+1], "/")
			lastOne := i == len(parts)-1
			to := step
			if lastOne {
				to = s
			}
			b.openIn(to, "find /"+here, root, here, unix.O_PATH, resolve)
			b.unless(unix.ENOENT, func() {
				if lastOne && kind == aFile {
					b.do("make the file /"+here, callMknodat, dir, Str(part), Int{unix.S_IFREG | 0o644, "S_IFREG|0644"}, num(0)).
						Tolerate = []syscall.Errno{unix.EEXIST}
				} else {
					b.do("make the directory /"+here, callMkdirat, dir, Str(part), flags(0o755, "0755")).
						Tolerate = []syscall.Errno{unix.EEXIST}
				}
				b.openIn(to, "find /"+here, root, here, unix.O_PATH, resolve)
			})
			dir = Ref(to)
		}
	})
	return Ref(s)
}

// attach moves the mount of fd to an open place.
func (b *builder) attach(what string, fd, at Ref) *Op {
	return b.do(what, callMoveMount, fd, empty, at, empty,
		flags(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH"))
}

// attachAt moves the mount of fd to name directly in the open directory dir.
func (b *builder) attachAt(what string, fd, dir Ref, name string) *Op {
	return b.do(what, callMoveMount, fd, empty, dir, Str(name), flags(unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"))
}

// setting is a parameter of a new file system: a flag when value is empty and isFlag says so.
type setting struct {
	key, value string
	fd         Ref
}

// fsmount makes a new file system and a mount of it that is not attached to anything yet.
func (b *builder) fsmount(name, fstype string, settings []setting, attributes attr) Ref {
	ctx := b.get("fs", "begin a "+fstype, callFsopen, Str(fstype), flags(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC"))
	for _, s := range settings {
		switch {
		case s.fd != 0:
			b.do("set its "+s.key, callFsconfig, ctx, flags(unix.FSCONFIG_SET_FD, "FSCONFIG_SET_FD"), Str(s.key), null, s.fd)
		case s.value == "":
			b.do("set its "+s.key, callFsconfig, ctx, flags(unix.FSCONFIG_SET_FLAG, "FSCONFIG_SET_FLAG"), Str(s.key), null, num(0))
		default:
			b.do("set its "+s.key, callFsconfig, ctx, flags(unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING"), Str(s.key), Str(s.value), num(0))
		}
	}
	b.do("make the "+fstype, callFsconfig, ctx, flags(unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"), null, null, num(0))
	fd := b.get(name, "mount the "+fstype+", attached to nothing yet", callFsmount, ctx, flags(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"),
		flags(int(attributes.set), attributes.String()))
	b.do("done with its making", callClose, ctx)
	return fd
}

// attr are MOUNT_ATTR_* to set and to clear.
type attr struct{ set, clear uint64 }

// setattr changes the attributes or the propagation of a mount.
func (b *builder) setattr(what string, fd Ref, a attr, propagation uint64, recursive bool) {
	if a == (attr{}) && propagation == 0 {
		return
	}
	var m [32]byte // struct mount_attr: attr_set, attr_clr, propagation, userns_fd
	binary.NativeEndian.PutUint64(m[0:], a.set)
	binary.NativeEndian.PutUint64(m[8:], a.clear)
	binary.NativeEndian.PutUint64(m[16:], propagation)
	text := "{set=" + attr{set: a.set}.String()
	if a.clear != 0 {
		text += ", clr=" + attr{set: a.clear}.String()
	}
	if propagation != 0 {
		text += ", propagation=" + propagationName(propagation)
	}
	how, howText := unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"
	if recursive {
		how, howText = how|unix.AT_RECURSIVE, howText+"|AT_RECURSIVE"
	}
	b.do(what, callMountSetattr, fd, empty, flags(how, howText), Bytes{m[:], text + "}"}, num(len(m)))
}
