package spec

import (
	"strings"

	"berth/internal/errdef"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// allowedDevices may be used, and nodes of any made, in every container: docker's list.
var allowedDevices = [...]struct {
	kind         string
	major, minor int64
	access       string
}{
	{"c", -1, -1, "m"},
	{"b", -1, -1, "m"},
	{"c", 1, 3, "rwm"},
	{"c", 1, 5, "rwm"},
	{"c", 1, 7, "rwm"},
	{"c", 1, 8, "rwm"},
	{"c", 1, 9, "rwm"}, // null zero full random urandom
	{"c", 5, 0, "rwm"},
	{"c", 5, 1, "rwm"},
	{"c", 5, 2, "rwm"},
	{"c", 136, -1, "rwm"}, // tty console ptmx pts
}

// DefaultDeviceRules allow what every container may use.
func DefaultDeviceRules() []specs.LinuxDeviceCgroup {
	var rules []specs.LinuxDeviceCgroup
	for _, d := range allowedDevices {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: d.kind, Access: d.access}
		if d.major >= 0 {
			rule.Major = &d.major
		}
		if d.minor >= 0 {
			rule.Minor = &d.minor
		}
		rules = append(rules, rule)
	}
	return rules
}

func (b *builder) devices() {
	b.origins["devices"] = "default"
	rules := []specs.LinuxDeviceCgroup{{Allow: b.Config.Privileged, Access: "rwm"}}
	if b.Config.Privileged {
		b.spec.Linux.Devices = b.HostDevices
		b.origins["devices"] = "--privileged"
		for _, d := range b.HostDevices {
			b.origins["device "+d.Path] = "--privileged"
		}
	} else {
		rules = append(rules, DefaultDeviceRules()...)
	}
	for i, d := range b.Devices {
		b.spec.Linux.Devices = append(b.spec.Linux.Devices, d)
		b.origins["device "+d.Path] = "--device " + b.Config.Devices[i].Host
		if !b.Config.Privileged {
			access := b.Config.Devices[i].Permissions
			if access == "" {
				access = "rwm"
			}
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: access})
		}
	}
	b.spec.Linux.Resources = &specs.LinuxResources{Devices: rules}
}

// cpuPeriod is the time in microseconds in which a quota of CPU time is given; docker's.
const cpuPeriod = 100_000

func (b *builder) resources() error {
	r, out := b.Config.Resources, b.spec.Linux.Resources
	if r.MemoryBytes != 0 {
		const least = 6 << 20
		if r.MemoryBytes < least {
			return errdef.New(errdef.Invalid, "Minimum memory limit allowed is 6MB")
		}
		swap := r.MemorySwapBytes
		switch {
		case swap == 0:
			swap = 2 * r.MemoryBytes // docker's: as much swap as memory
		case swap > 0 && swap < r.MemoryBytes:
			return errdef.New(errdef.Invalid, "Minimum memoryswap limit should be larger than memory limit, see usage")
		}
		out.Memory = &specs.LinuxMemory{Limit: &r.MemoryBytes, Swap: &swap}
	} else if r.MemorySwapBytes > 0 {
		return errdef.New(errdef.Invalid, "You should always set the Memory limit when using Memoryswap limit, see usage")
	}
	if r.NanoCPUs > 0 || r.CPUShares > 0 || r.CPUSet != "" {
		out.CPU = &specs.LinuxCPU{Cpus: r.CPUSet}
		if r.NanoCPUs > 0 {
			period := uint64(cpuPeriod)
			quota := r.NanoCPUs * cpuPeriod / 1e9
			if quota < 1000 {
				return errdef.New(errdef.Invalid, "invalid number of CPUs: the least is 0.01")
			}
			out.CPU.Period, out.CPU.Quota = &period, &quota
		}
		if r.CPUShares > 0 {
			out.CPU.Shares = &r.CPUShares
		}
	}
	if r.PidsLimit != 0 {
		limit := r.PidsLimit
		out.Pids = &specs.LinuxPids{Limit: &limit}
	}
	return nil
}

// DeviceAccess reports whether s is a set of r, w and m.
func DeviceAccess(s string) bool {
	return s != "" && strings.Trim(s, "rwm") == ""
}
