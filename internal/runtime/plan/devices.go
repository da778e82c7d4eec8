package plan

import (
	"encoding/binary"
	"fmt"
	"path"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func errnos(e ...syscall.Errno) []syscall.Errno { return e }

// defaultDevices are what every container has in its own /dev (runtime-spec, config-linux.md, "Default Devices").
var defaultDevices = [...]struct {
	name         string
	major, minor uint32
}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

// defaultLinks are the symbolic links of /dev.
var defaultLinks = [...]struct{ name, to string }{
	{"fd", "/proc/self/fd"},
	{"stdin", "/proc/self/fd/0"},
	{"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"},
	{"core", "/proc/kcore"},
	{"ptmx", "pts/ptmx"},
}

// devices fills /dev. Without a tmpfs there it is the image's or the host's, and left alone but for the devices asked for.
func (c *compiler) devices() error {
	asked := map[string]bool{}
	for _, d := range c.spec.Linux.Devices {
		if !strings.HasPrefix(d.Path, "/") {
			return fmt.Errorf("the device %q has no absolute path", d.Path)
		}
		asked[path.Clean(d.Path)] = true
	}
	if c.dev != 0 {
		c.from("devices")
		for _, d := range defaultDevices {
			if asked["/dev/"+d.name] {
				continue
			}
			if c.userNS {
				// mknod of a device is not allowed in a user namespace: the host's own is bound instead.
				fd := c.get("device", "take /dev/"+d.name+" of the host", callOpenTree, atFDCWD, Str("/dev/"+d.name), flags(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC"))
				c.bindDevice(c.dev, d.name, fd)
				continue
			}
			c.do("make /dev/"+d.name, callMknodat, c.dev, Str(d.name), Int{unix.S_IFCHR | 0o666, "S_IFCHR|0666"}, deviceNumber(d.major, d.minor))
		}
		for _, l := range defaultLinks {
			c.do("link /dev/"+l.name, callSymlinkat, Str(l.to), c.dev, Str(l.name))
		}
	}
	for _, d := range c.spec.Linux.Devices {
		if c.dev != 0 && path.Clean(d.Path) == "/dev/ptmx" {
			continue // it is the link to that of the container's own devpts
		}
		if err := c.device(d); err != nil {
			return err
		}
	}
	return nil
}

func deviceNumber(major, minor uint32) Int {
	return Int{uintptr(unix.Mkdev(major, minor)), fmt.Sprintf("makedev(%d, %d)", major, minor)}
}

// bindDevice binds an open device over a new empty file.
func (c *compiler) bindDevice(dir Ref, name string, fd Ref) {
	c.do("make a file to bind it over", callMknodat, dir, Str(name), Int{unix.S_IFREG | 0o666, "S_IFREG|0666"}, num(0)).Tolerate = errnos(unix.EEXIST)
	c.attachAt("bind it", fd, dir, name)
	c.do("done with it", callClose, fd)
}

// device makes one device of the spec.
func (c *compiler) device(d specs.LinuxDevice) error {
	c.from("device " + d.Path)
	kind, text := uint32(0), ""
	switch d.Type {
	case "c", "u":
		kind, text = unix.S_IFCHR, "S_IFCHR"
	case "b":
		kind, text = unix.S_IFBLK, "S_IFBLK"
	case "p":
		kind, text = unix.S_IFIFO, "S_IFIFO"
	default:
		return fmt.Errorf("the device %s has the unknown type %q", d.Path, d.Type)
	}
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	dir, name := path.Split(path.Clean(d.Path))
	at := c.dev
	if dir != "/dev/" || at == 0 {
		at = c.target(c.root, dir, "the directory of "+d.Path, aDirectory, inRoot)
	}
	if c.userNS {
		c.bindDevice(at, name, c.sources["device "+d.Path])
		return nil
	}
	number := deviceNumber(uint32(d.Major), uint32(d.Minor))
	if kind == unix.S_IFIFO {
		number = num(0)
	}
	c.do("make "+d.Path, callMknodat, at, Str(name), Int{uintptr(kind | mode), fmt.Sprintf("%s|%#o", text, mode)}, number)
	if d.UID != nil || d.GID != nil {
		c.do("give it to its owner", callFchownat, at, Str(name), id(d.UID), id(d.GID), flags(unix.AT_SYMLINK_NOFOLLOW, "AT_SYMLINK_NOFOLLOW"))
	}
	return nil
}

// id is an id that may be left as it is.
func id(n *uint32) Int {
	if n == nil {
		return Int{^uintptr(0), "-1"}
	}
	return num(int(*n))
}

// stdioInputs declares where standard input, output and error come from.
func (c *compiler) stdioInputs(p *specs.Process, inherit bool) {
	switch {
	case p.Terminal:
		c.input(InConsole)
	case !inherit:
		c.input(InStdin)
		c.input(InStdout)
		c.input(InStderr)
	}
}

// console makes the terminal in the container's own devpts, or moves the given pipes to 0, 1 and 2. No path is
// opened: the peer comes from the master by TIOCGPTPEER (runc CVE-2025-52565).
func (c *compiler) console(p *specs.Process) {
	if !p.Terminal {
		c.stdio(c.in.Inherit)
		return
	}
	c.from("terminal")
	pts := c.pts
	if pts == 0 {
		pts = c.slotOpen("pts", "find /dev/pts", c.root, "/dev/pts", unix.O_PATH)
	}
	peer := c.terminal(pts, p)
	if c.dev != 0 {
		c.do("make a file for /dev/console", callMknodat, c.dev, Str("console"), Int{unix.S_IFREG | 0o600, "S_IFREG|0600"}, num(0))
		fd := c.get("console", "take the terminal", callOpenTree, peer, empty,
			flags(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH"))
		c.attachAt("bind it at /dev/console", fd, c.dev, "console")
		c.do("done with it", callClose, fd)
	}
}

func (c *compiler) slotOpen(name, what string, dir Ref, file string, how int) Ref {
	s := c.slot(name)
	c.openIn(s, what, dir, file, how, inRoot)
	return Ref(s)
}

// terminal opens a new terminal, sends its master side to the parent, and makes the other standard input, output and
// error and the controlling terminal of a new session; it returns that other side.
func (c *compiler) terminal(pts Ref, p *specs.Process) Ref {
	// What is mounted at /dev/pts may be the caller's own directory, where ptmx leads anywhere.
	s := c.slot("master")
	c.openIn(s, "open a new terminal", pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY, beneath)
	master := Ref(s)
	c.do("unlock it", callIoctl, master, flags(unix.TIOCSPTLCK, "TIOCSPTLCK"), Bytes{make([]byte, 4), "0"})
	peer := c.get("terminal", "open its other side", callIoctl, master, flags(unix.TIOCGPTPEER, "TIOCGPTPEER"), flags(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, "O_RDWR|O_NOCTTY|O_CLOEXEC"))
	if p.User.UID != 0 {
		c.do("give it to the user", callFchown, peer, num(int(p.User.UID)), Int{^uintptr(0), "-1"})
	}
	if size := p.ConsoleSize; size != nil && size.Width > 0 {
		var b [8]byte // struct winsize
		binary.NativeEndian.PutUint16(b[0:], uint16(size.Height))
		binary.NativeEndian.PutUint16(b[2:], uint16(size.Width))
		c.do("set its size", callIoctl, peer, flags(unix.TIOCSWINSZ, "TIOCSWINSZ"), Bytes{b[:], fmt.Sprintf("{%d rows, %d columns}", size.Height, size.Width)})
	}
	c.add(Op{Special: SendFD, Call: callSendmsg, What: "send its first side to the parent", Args: []Arg{Ref(c.inputSlot(InConsole)), master}})
	c.do("which now has it alone", callClose, master)
	c.do("begin a session", callSetsid)
	c.do("make the terminal its own", callIoctl, peer, flags(unix.TIOCSCTTY, "TIOCSCTTY"), num(0))
	for fd := range 3 {
		c.do(fmt.Sprintf("make it descriptor %d", fd), callDup3, peer, num(fd), num(0))
	}
	return peer
}

// stdio moves the given descriptors to 0, 1 and 2.
func (c *compiler) stdio(inherit bool) {
	c.from("stdio")
	c.do("begin a session", callSetsid)
	if inherit {
		return
	}
	for fd, name := range []string{InStdin, InStdout, InStderr} {
		c.do("set "+name, callDup3, Ref(c.inputSlot(name)), num(fd), num(0))
	}
}
