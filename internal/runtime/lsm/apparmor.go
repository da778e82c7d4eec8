// Package lsm loads the AppArmor profile that confines containers unless they are told otherwise.
//
// It labels no process (runtime/plan does), and writes no policy of SELinux's. Compiling a profile needs apparmor_parser, one
// of the few programs that berth calls.
package lsm

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"berth/internal/errdef"
	"berth/internal/host"
)

// DefaultProfile is the name of the profile.
const DefaultProfile = "berth-default"

// profiles lists what the kernel has loaded, a line each: "NAME (enforce)".
const profiles = "/sys/kernel/security/apparmor/profiles"

// profile denies what masked and read-only paths hide, too, so that one of the two may fail; besides that a container's
// processes may do what capabilities and namespaces leave them, and see and signal only each other.
const profile = `#include <tunables/global>

profile berth-default flags=(attach_disconnected,mediate_deleted) {
  #include <abstractions/base>

  network,
  capability,
  file,
  umount,

  signal (receive) peer=unconfined,
  signal (receive) peer=berth,
  signal (send,receive) peer=berth-default,
  ptrace (trace,read,tracedby,readby) peer=berth-default,

  deny mount,
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/mem rwklx,
  deny @{PROC}/kmem rwklx,
  deny @{PROC}/kcore rwklx,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`

// Ensure loads the default profile unless it is loaded, and refuses another that is not. Whoever may not see what is
// loaded, which only root may, hears from the kernel whether the profile is there.
func Ensure(name string) error {
	data, err := os.ReadFile(profiles)
	if errors.Is(err, fs.ErrPermission) && (host.Caller().UID != 0 || name != DefaultProfile) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return errdef.New(errdef.Unsupported, "cannot see which AppArmor profiles are loaded: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if end := strings.LastIndex(line, " ("); end > 0 && line[:end] == name {
			return nil
		}
	}
	if name != DefaultProfile {
		return errdef.Hint(errdef.New(errdef.Invalid, "the AppArmor profile %q is not loaded", name),
			"load it with apparmor_parser -r FILE; %s lists those that are", profiles)
	}
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		for _, path := range []string{"/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"} {
			if _, e := os.Stat(path); e == nil {
				parser, err = path, nil
				break
			}
		}
	}
	if err != nil {
		return errdef.Hint(errdef.New(errdef.Unsupported, "cannot load the AppArmor profile %s: apparmor_parser is not installed", DefaultProfile),
			"apt-get install apparmor, or run the container with --security-opt apparmor=unconfined")
	}
	cmd := exec.Command(parser, "--replace", "--skip-cache")
	cmd.Stdin = strings.NewReader(profile)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errdef.New(errdef.Unsupported, "cannot load the AppArmor profile %s: %s: %w", DefaultProfile, bytes.TrimSpace(out), err)
	}
	return nil
}
