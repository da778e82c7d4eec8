package host

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"berth/internal/disk"

	"golang.org/x/sys/unix"
)

// Groups is where this process's user may have control groups of version 2, and whom to ask for one.
type Groups struct {
	// OuterUID is the user as the host sees it: in a user namespace, the id outside to which ours leads.
	OuterUID int
	// Own is the group that this process is in, "/" for the top of what is mounted; empty where version 2 is not alone.
	Own string
	// Base is the group in which this process may make others: the top, or what has been delegated to its user; empty if none.
	Base string
	// Systemd are the sockets of the systemd that gives this user units, the best first: the machine's for who may make groups
	// at the top, else the user's own. Empty where systemd is not the first process or offers no socket to this user.
	Systemd []Socket
}

// Socket is where a systemd can be asked.
type Socket struct {
	Path string
	// Bus says that a message bus is between; otherwise systemd itself listens.
	Bus bool
}

// Top reports whether the user may make groups at the top: nothing need be delegated.
func (g Groups) Top() bool { return g.Base == "/" }

// ManagerGroup is the group of the systemd that is to be asked, below which are all of its units (user@.service(5)).
func (g Groups) ManagerGroup() string {
	if g.Top() {
		return "/"
	}
	uid := strconv.Itoa(g.OuterUID)
	return "/user.slice/user-" + uid + ".slice/user@" + uid + ".service"
}

const cgroupMount = "/sys/fs/cgroup"

// groups looks for a Groups.
func groups(mode CgroupMode) Groups {
	g := Groups{OuterUID: outerUID(os.Geteuid(), read("/proc/self/uid_map"))}
	if mode != CgroupUnified {
		return g
	}
	g.Own = OwnGroup(read("/proc/self/cgroup"))
	var fs unix.Statfs_t
	if unix.Statfs(cgroupMount, &fs) == nil && fs.Flags&unix.ST_RDONLY != 0 {
		return g // in a container, mostly: nothing can be made, nor below what systemd would make
	}
	g.Base = base(g.Own, func(path string, mode uint32) bool { return unix.Access(cgroupMount+path, mode) == nil })
	if exists("/run/systemd/system") { // sd_booted(3)
		for _, s := range sockets(g, os.Getenv) {
			if unix.Access(s.Path, unix.W_OK) == nil {
				g.Systemd = append(g.Systemd, s)
			}
		}
	}
	return g
}

// outerUID is the id outside to which uid leads by a map of user_namespaces(7); without one it is the same.
func outerUID(uid int, uidMap string) int {
	for line := range strings.Lines(uidMap) {
		var n [3]int
		for i, field := range strings.Fields(line) {
			if i < len(n) {
				n[i], _ = strconv.Atoi(field)
			}
		}
		if inside, outside, count := n[0], n[1], n[2]; uid >= inside && uid < inside+count {
			return outside + uid - inside
		}
	}
	return uid
}

// OwnGroup is the group of version 2 in the text of /proc/PID/cgroup.
func OwnGroup(text string) string {
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path
		}
	}
	return ""
}

// base is the highest group, from the top to own, in which groups can be made: systemd gives a user's manager one of
// its own (user@.service(5), Delegate=), an engine its containers. It takes three files to be somebody's
// (Documentation/admin-guide/cgroup-v2.rst, "Model of Delegation").
func base(own string, may func(path string, mode uint32) bool) string {
	if may("/", unix.W_OK) {
		return "/"
	}
	found := ""
	for at := own; strings.HasPrefix(at, "/") && at != "/"; at = path.Dir(at) {
		if may(at, unix.W_OK) && may(at+"/cgroup.procs", unix.W_OK) && may(at+"/cgroup.subtree_control", unix.W_OK) {
			found = at
		}
	}
	return found
}

// sockets are all places where the user's systemd may listen. Its own socket comes first: a bus is a process more on the way.
func sockets(g Groups, getenv func(string) string) []Socket {
	if g.Top() {
		return []Socket{{"/run/systemd/private", false}, {"/run/dbus/system_bus_socket", true}}
	}
	var all []Socket
	dirs := []string{"/run/user/" + strconv.Itoa(g.OuterUID)} // cron and su give no variable
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" && dir != dirs[0] {
		dirs = append([]string{dir}, dirs...)
	}
	for _, dir := range dirs {
		all = append(all, Socket{dir + "/systemd/private", false})
	}
	for _, address := range strings.Split(getenv("DBUS_SESSION_BUS_ADDRESS"), ";") {
		if rest, ok := strings.CutPrefix(address, "unix:path="); ok {
			name, _, _ := strings.Cut(rest, ",")
			all = append(all, Socket{name, true})
		}
	}
	for _, dir := range dirs {
		if s := (Socket{dir + "/bus", true}); !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// Lingers reports whether the user's systemd, and with it the user's units, outlives their sessions (loginctl(1), enable-linger).
func Lingers(user string) bool { return exists("/var/lib/systemd/linger/" + user) }

// Online are the numbers of the processors and of the nodes of memory that are in use, as the kernel lists them (cpuset(7), "List format");
// "" is unknown (Documentation/ABI/stable/sysfs-devices-system-cpu and sysfs-devices-node).
func Online() (cpus, nodes string) {
	return strings.TrimSpace(read("/sys/devices/system/cpu/online")), strings.TrimSpace(read("/sys/devices/system/node/has_memory"))
}

func read(path string) string {
	data, err := disk.Read(path)
	if err != nil {
		return ""
	}
	return string(data)
}
