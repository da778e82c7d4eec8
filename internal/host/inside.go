package host

import (
	"fmt"
	"math"
	"os"
	"strings"

	"berth/internal/disk"

	"golang.org/x/sys/unix"
)

// User is who somebody is outside of the user namespace of his containers.
type User struct{ UID, GID int }

// InsideName is the variable that says to a process of the user namespace of a user's containers who he is outside.
const InsideName = "BERTH_INSIDE"

// InsideVariable is the variable, with its value, for a process that this one starts in the user namespace of his containers.
func InsideVariable() string {
	u := Caller()
	return fmt.Sprintf("%s=%d:%d", InsideName, u.UID, u.GID)
}

// Inside reports whether this process is in the user namespace of a user's containers, and who he is outside.
func Inside() (u User, _ bool) {
	n, err := fmt.Sscanf(os.Getenv(InsideName), "%d:%d", &u.UID, &u.GID)
	if err != nil || n != 2 {
		return User{}, false
	}
	if is, _ := userNamespace(); !is { // whoever has set the variable
		return User{}, false
	}
	return u, true
}

// Caller is who called berth, as he is outside of any namespace of berth's.
func Caller() User {
	if u, ok := Inside(); ok {
		return u
	}
	return User{os.Geteuid(), os.Getegid()}
}

// userNamespace looks at the id map of this process (user_namespaces(7)): that of the machine's first namespace maps every id to itself.
func userNamespace() (is, singleID bool) {
	lines := 0
	for l := range strings.Lines(readAll("/proc/self/uid_map")) {
		var in, out, size uint64
		if n, err := fmt.Sscan(l, &in, &out, &size); err != nil || n != 3 {
			return false, false
		}
		lines++
		is, singleID = in != 0 || out != 0 || size != 1<<32-1, lines == 1 && size == 1
	}
	return is, singleID
}

// lastGroup is Facts.LastGroup by a map of user_namespaces(7).
func lastGroup(gidMap string) uint32 {
	next := uint64(0)
	for more := true; more; {
		more = false
		for l := range strings.Lines(gidMap) {
			var in, out, size uint64
			if n, err := fmt.Sscan(l, &in, &out, &size); err == nil && n == 3 && in == next && size > 0 {
				next, more = next+size, true
			}
		}
	}
	return uint32(min(max(next, 1)-1, math.MaxInt32))
}

func readAll(path string) string {
	data, err := disk.Read(path)
	if err != nil {
		return ""
	}
	return string(data)
}

// Privileged reports what Facts.Privileged does, of this process, without looking at anything else.
func Privileged() bool {
	if os.Geteuid() != 0 {
		return false
	}
	return effectiveCapabilities()&(1<<unix.CAP_SYS_ADMIN) != 0
}
