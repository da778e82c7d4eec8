package plan

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

func (a attr) String() string {
	return bits(a.set, []bitName{
		{unix.MOUNT_ATTR_RDONLY, "MOUNT_ATTR_RDONLY"},
		{unix.MOUNT_ATTR_NOSUID, "MOUNT_ATTR_NOSUID"},
		{unix.MOUNT_ATTR_NODEV, "MOUNT_ATTR_NODEV"},
		{unix.MOUNT_ATTR_NOEXEC, "MOUNT_ATTR_NOEXEC"},
		{unix.MOUNT_ATTR_NOATIME, "MOUNT_ATTR_NOATIME"},
		{unix.MOUNT_ATTR_STRICTATIME, "MOUNT_ATTR_STRICTATIME"},
		{unix.MOUNT_ATTR_NODIRATIME, "MOUNT_ATTR_NODIRATIME"},
		{unix.MOUNT_ATTR_NOSYMFOLLOW, "MOUNT_ATTR_NOSYMFOLLOW"},
	})
}

func openFlags(n int) string {
	access := [...]string{"O_RDONLY", "O_WRONLY", "O_RDWR"}[n&unix.O_ACCMODE]
	if n&unix.O_PATH != 0 {
		access = "O_PATH"
	}
	rest := bits(uint64(n&^(unix.O_ACCMODE|unix.O_PATH)), []bitName{
		{unix.O_DIRECTORY, "O_DIRECTORY"}, {unix.O_NOFOLLOW, "O_NOFOLLOW"}, {unix.O_NOCTTY, "O_NOCTTY"}, {unix.O_CLOEXEC, "O_CLOEXEC"},
	})
	if rest == "0" {
		return access
	}
	return access + "|" + rest
}

func resolveFlags(n uint64) string {
	return bits(n, []bitName{
		{unix.RESOLVE_IN_ROOT, "RESOLVE_IN_ROOT"},
		{unix.RESOLVE_BENEATH, "RESOLVE_BENEATH"},
		{unix.RESOLVE_NO_MAGICLINKS, "RESOLVE_NO_MAGICLINKS"},
		{unix.RESOLVE_NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"},
		{unix.RESOLVE_NO_XDEV, "RESOLVE_NO_XDEV"},
	})
}

func namespaceFlags(n uint64) string {
	return bits(n, []bitName{
		{unix.CLONE_NEWUSER, "CLONE_NEWUSER"},
		{unix.CLONE_NEWNS, "CLONE_NEWNS"},
		{unix.CLONE_NEWPID, "CLONE_NEWPID"},
		{unix.CLONE_NEWNET, "CLONE_NEWNET"},
		{unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
		{unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
		{unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
		{unix.CLONE_NEWTIME, "CLONE_NEWTIME"},
	})
}

func propagationName(n uint64) string {
	switch n {
	case unix.MS_PRIVATE:
		return "MS_PRIVATE"
	case unix.MS_SLAVE:
		return "MS_SLAVE"
	case unix.MS_SHARED:
		return "MS_SHARED"
	case unix.MS_UNBINDABLE:
		return "MS_UNBINDABLE"
	}
	return fmt.Sprintf("%#x", n)
}

type bitName struct {
	bit  uint64
	name string
}

// bits names the bits of n; what has no name is printed as a number.
func bits(n uint64, names []bitName) string {
	var out []string
	for _, b := range names {
		// STRICTATIME is one value of a field whose other bits are names too.
		if n&b.bit == b.bit {
			out = append(out, b.name)
			n &^= b.bit
		}
	}
	if n != 0 || len(out) == 0 {
		if n == 0 {
			return "0"
		}
		out = append(out, fmt.Sprintf("%#x", n))
	}
	return strings.Join(out, "|")
}
