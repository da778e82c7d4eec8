package engine

import (
	"fmt"
	"os/user"
	"strconv"

	"berth/internal/host"
	"berth/internal/runtime/cgroup"
)

// EndsWithSessions says what ends a container that runs in the background when its user has logged out, and what to do about that;
// empty if nothing does. systemd stops a user's units ten seconds after the last session (logind.conf(5), UserStopDelaySec=),
// unless the user lingers.
func (e *Engine) EndsWithSessions() string {
	h := e.Host()
	choice, err := cgroup.Choose(h, cgroup.Driver(e.Settings.CgroupManager))
	if err != nil || choice.Driver != cgroup.Systemd || h.Groups.Top() {
		return ""
	}
	u, err := user.LookupId(strconv.Itoa(h.Groups.OuterUID))
	if err != nil || host.Lingers(u.Username) {
		return ""
	}
	return fmt.Sprintf("the container ends when %s has logged out; to keep it: loginctl enable-linger", u.Username)
}
