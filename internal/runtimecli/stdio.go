package runtimecli

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// giveStreams gives our standard streams to the user of a process, who could not open them again by /dev/stdout otherwise: engines make
// them, and count on it. Devices stay as they are, since they are the host's (a /dev/null that belongs to a container's user would be), and
// so does what cannot be given away.
func giveStreams(p *specs.Process, maps []specs.LinuxIDMapping) {
	uid, mapped := onHost(p.User.UID, maps)
	if p.Terminal || !mapped {
		return
	}
	for fd := range 3 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Uid == uid {
			continue
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFIFO, unix.S_IFREG, unix.S_IFSOCK:
			_ = unix.Fchown(fd, int(uid), -1)
		}
	}
}

// onHost is a user's id outside the user namespace with these maps, if it has one there; without any it is the same.
func onHost(uid uint32, maps []specs.LinuxIDMapping) (uint32, bool) {
	if len(maps) == 0 {
		return uid, true
	}
	for _, m := range maps {
		if uid >= m.ContainerID && uint64(uid) < uint64(m.ContainerID)+uint64(m.Size) {
			return m.HostID + (uid - m.ContainerID), true
		}
	}
	return 0, false
}
