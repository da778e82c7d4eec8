package host

import (
	"os"
	"os/user"
	"strconv"
)

// FindHome sets the variable HOME as a login would where it is missing, as it is under cron and su on some hosts: from the caller's
// line in /etc/passwd. Without one it stays unset.
func FindHome() {
	if os.Getenv("HOME") != "" {
		return
	}
	if u, err := user.LookupId(strconv.Itoa(Caller().UID)); err == nil && u.HomeDir != "" {
		_ = os.Setenv("HOME", u.HomeDir) // it fails for names and values that are none
	}
}
