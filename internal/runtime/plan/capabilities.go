package plan

import (
	"encoding/binary"
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// capabilitySet is the five sets of a process, one bit a capability.
type capabilitySet struct{ bounding, effective, permitted, inheritable, ambient uint64 }

// capabilityNames are in the order of their numbers (linux/capability.h; CAP_CHECKPOINT_RESTORE is of Linux 5.9).
var capabilityNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN",
	"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// CapabilityNames lists the capabilities of mask, by number.
func CapabilityNames(mask uint64) []string {
	var names []string
	for n, name := range capabilityNames {
		if mask&(1<<n) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// CapabilityNumber is the number of a capability by its name, in any case and with or without "CAP_".
func CapabilityNumber(name string) (int, bool) {
	name = strings.ToUpper(name)
	if !strings.HasPrefix(name, "CAP_") {
		name = "CAP_" + name
	}
	for n, known := range capabilityNames {
		if known == name {
			return n, true
		}
	}
	return 0, false
}

func capabilityName(n int) string {
	if n < len(capabilityNames) {
		return capabilityNames[n]
	}
	return fmt.Sprintf("capability %d", n)
}

func capabilitySets(c *specs.LinuxCapabilities) (capabilitySet, error) {
	var s capabilitySet
	if c == nil {
		return s, nil
	}
	for _, set := range []struct {
		names []string
		into  *uint64
	}{{c.Bounding, &s.bounding}, {c.Effective, &s.effective}, {c.Permitted, &s.permitted}, {c.Inheritable, &s.inheritable}, {c.Ambient, &s.ambient}} {
		for _, name := range set.names {
			n, ok := CapabilityNumber(name)
			if !ok {
				return s, fmt.Errorf("there is no capability %q", name)
			}
			*set.into |= 1 << n
		}
	}
	return s, nil
}

// capset sets the effective, permitted and inheritable sets.
func (c *compiler) capset(what string, s capabilitySet) {
	header := binary.NativeEndian.AppendUint32(nil, unix.LINUX_CAPABILITY_VERSION_3)
	header = binary.NativeEndian.AppendUint32(header, 0)
	var data []byte
	for _, half := range []int{0, 32} {
		for _, set := range []uint64{s.effective, s.permitted, s.inheritable} {
			data = binary.NativeEndian.AppendUint32(data, uint32(set>>half))
		}
	}
	c.do(what, callCapset, Bytes{header, "{_LINUX_CAPABILITY_VERSION_3, 0}"},
		Bytes{data, fmt.Sprintf("{effective=%#x, permitted=%#x, inheritable=%#x}", s.effective, s.permitted, s.inheritable)})
}
