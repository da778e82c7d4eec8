package container

import "path"

// Values of Systemd, podman's words. With the empty one, and with true, it is the command that says whether systemd is to run.
const (
	SystemdAuto   = "true"
	SystemdNever  = "false"
	SystemdAlways = "always"
)

// SystemdStopSignal asks systemd to shut down (systemd(1), "Signals"); of SIGTERM it only executes itself again.
const SystemdStopSignal = "SIGRTMIN+3"

// RunsSystemd reports whether the container's first process is a systemd, or another init that boots a whole system: what that needs it is
// given. Unless told, it is one whose command is systemd or an init in one of the places where podman looks for one (podman-run(1),
// --systemd).
func (c Config) RunsSystemd() bool {
	args := c.Args()
	switch {
	case c.Systemd == SystemdAlways:
		return true
	case c.Systemd == SystemdNever, c.Init, len(args) == 0: // an init of ours is process 1
		return false
	}
	switch args[0] {
	case "/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init":
		return true
	}
	return path.Base(args[0]) == "systemd"
}
