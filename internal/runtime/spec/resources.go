package spec

import (
	"slices"

	"berth/internal/container"

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

func (b *builder) devices() error {
	b.origins["devices"] = "default"
	rules := []specs.LinuxDeviceCgroup{{Allow: b.Config.Privileged, Access: "rwm"}}
	if b.Config.Privileged {
		b.spec.Linux.Devices = slices.Clone(b.HostDevices)
		b.origins["devices"] = "--privileged"
		for _, d := range b.HostDevices {
			b.origins["device "+d.Path] = "--privileged"
		}
	} else {
		rules = append(rules, DefaultDeviceRules()...)
	}
	for _, d := range b.Devices {
		same := func(have specs.LinuxDevice) bool { return have.Path == d.Path }
		b.spec.Linux.Devices = append(slices.DeleteFunc(b.spec.Linux.Devices, same), d.LinuxDevice)
		b.origins["device "+d.Path] = d.Origin
		if !b.Config.Privileged {
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: d.Access})
		}
	}
	if !b.Config.Privileged {
		for _, text := range b.Config.DeviceRules {
			r, err := container.ParseDeviceRule(text)
			if err != nil {
				return err
			}
			rules = append(rules, ociRule(r))
		}
	}
	b.spec.Linux.Resources = &specs.LinuxResources{Devices: rules}
	return nil
}

// ociRule is what allows what a rule says.
func ociRule(r container.DeviceRule) specs.LinuxDeviceCgroup {
	out := specs.LinuxDeviceCgroup{Allow: true, Type: r.Type, Access: r.Access}
	if r.Major != container.AllNumbers {
		out.Major = &r.Major
	}
	if r.Minor != container.AllNumbers {
		out.Minor = &r.Minor
	}
	return out
}

// cpuPeriod is the time in microseconds in which a quota of CPU time is given; docker's.
const cpuPeriod = 100_000

// Number is the number of a device.
type Number struct{ Major, Minor int64 }

// Resources are limits in the words of the OCI spec. devices are the numbers of the block devices that limits are about.
func Resources(r container.Resources, devices map[string]Number) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: memory(r), CPU: processors(r), Pids: pids(r), BlockIO: blockIO(r, devices)}
}

func memory(r container.Resources) *specs.LinuxMemory {
	m := &specs.LinuxMemory{Limit: given(r.MemoryBytes), Reservation: given(r.MemoryReservationBytes), Swap: given(r.Swap())}
	if r.MemorySwappiness != nil {
		swappiness := uint64(*r.MemorySwappiness)
		m.Swappiness = &swappiness
	}
	if r.OOMKillDisable {
		m.DisableOOMKiller = &r.OOMKillDisable
	}
	if *m == (specs.LinuxMemory{}) {
		return nil
	}
	return m
}

func processors(r container.Resources) *specs.LinuxCPU {
	c := &specs.LinuxCPU{
		Shares: given(r.CPUShares), Period: given(uint64(r.CPUPeriod)), Quota: given(r.CPUQuota), RealtimePeriod: given(uint64(r.CPURealtimePeriod)),
		RealtimeRuntime: given(r.CPURealtimeRuntime), Cpus: r.CPUSet, Mems: r.CPUSetMemory,
	}
	if r.NanoCPUs > 0 {
		period, quota := uint64(cpuPeriod), r.NanoCPUs*cpuPeriod/1e9
		c.Period, c.Quota = &period, &quota
	}
	if *c == (specs.LinuxCPU{}) {
		return nil
	}
	return c
}

func pids(r container.Resources) *specs.LinuxPids {
	if r.PidsLimit == 0 {
		return nil
	}
	return &specs.LinuxPids{Limit: &r.PidsLimit}
}

func blockIO(r container.Resources, devices map[string]Number) *specs.LinuxBlockIO {
	rates := func(of []container.DeviceValue) (out []specs.LinuxThrottleDevice) {
		for _, d := range of {
			n := devices[d.Path]
			out = append(out, specs.LinuxThrottleDevice{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: n.Major, Minor: n.Minor}, Rate: d.Value})
		}
		return out
	}
	b := &specs.LinuxBlockIO{
		Weight: given(r.BlockWeight), ThrottleReadBpsDevice: rates(r.BlockReadBytes), ThrottleWriteBpsDevice: rates(r.BlockWriteBytes),
		ThrottleReadIOPSDevice: rates(r.BlockReadOps), ThrottleWriteIOPSDevice: rates(r.BlockWriteOps),
	}
	for _, d := range r.BlockWeightDevices {
		n, weight := devices[d.Path], uint16(d.Value)
		b.WeightDevice = append(b.WeightDevice, specs.LinuxWeightDevice{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: n.Major, Minor: n.Minor}, Weight: &weight})
	}
	if b.Weight == nil && len(r.BlockDevices()) == 0 {
		return nil
	}
	return b
}

// given is a limit of the spec, which leaves out what is not asked for.
func given[T comparable](limit T) *T {
	var none T
	if limit == none {
		return nil
	}
	return &limit
}

func (b *builder) resources() {
	devices := b.spec.Linux.Resources.Devices
	b.spec.Linux.Resources = Resources(b.Config.Resources, b.BlockDevices)
	b.spec.Linux.Resources.Devices = devices
}
