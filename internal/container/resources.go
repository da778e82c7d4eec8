package container

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"berth/internal/errdef"

	"github.com/docker/go-units"
)

// Resources are limits enforced by control groups. Zero means no limit.
type Resources struct {
	MemoryBytes            int64  `json:",omitempty"`
	MemorySwapBytes        int64  `json:",omitempty"` // memory and swap together; -1: swap without limit; see Swap
	MemoryReservationBytes int64  `json:",omitempty"`
	MemorySwappiness       *int64 `json:",omitempty"` // 0 to 100
	OOMKillDisable         bool   `json:",omitempty"`

	NanoCPUs  int64  `json:",omitempty"` // 1e9 is one CPU
	CPUShares uint64 `json:",omitempty"`
	// A quota of CPU time is given in each period; both are in microseconds, also those of real-time tasks. A quota of -1 is none.
	CPUPeriod          int64  `json:",omitempty"`
	CPUQuota           int64  `json:",omitempty"`
	CPURealtimePeriod  int64  `json:",omitempty"`
	CPURealtimeRuntime int64  `json:",omitempty"`
	CPUSet             string `json:",omitempty"`
	CPUSetMemory       string `json:",omitempty"` // nodes of memory

	PidsLimit int64 `json:",omitempty"` // -1: none

	BlockWeight        uint16        `json:",omitempty"` // 10 to 1000
	BlockWeightDevices []DeviceValue `json:",omitempty"`
	// Bytes and operations a second.
	BlockReadBytes  []DeviceValue `json:",omitempty"`
	BlockWriteBytes []DeviceValue `json:",omitempty"`
	BlockReadOps    []DeviceValue `json:",omitempty"`
	BlockWriteOps   []DeviceValue `json:",omitempty"`
}

// DeviceValue is a weight or a rate of a block device of the host.
type DeviceValue struct {
	Path  string
	Value uint64
}

// BlockDevices are the paths of the devices that limits are about, each once.
func (r Resources) BlockDevices() []string {
	var paths []string
	for _, list := range [][]DeviceValue{r.BlockWeightDevices, r.BlockReadBytes, r.BlockWriteBytes, r.BlockReadOps, r.BlockWriteOps} {
		for _, d := range list {
			if !slices.Contains(paths, d.Path) {
				paths = append(paths, d.Path)
			}
		}
	}
	return paths
}

// Swap is the limit of memory and swap together that is in force: a limit of memory alone allows as much swap as memory. 0 is none,
// -1 swap without limit.
func (r Resources) Swap() int64 {
	if r.MemorySwapBytes == 0 && r.MemoryBytes > 0 {
		return 2 * r.MemoryBytes
	}
	return r.MemorySwapBytes
}

// Processors is what a host has to compute with.
type Processors struct {
	Count int
	// Online and Nodes are the numbers of the processors and of the nodes of memory, as the kernel lists them ("0-3,5"); "" is unknown.
	Online, Nodes string
}

// The least values that docker allows, and the bounds of a weight and a period.
const (
	leastMemory                 = 6 << 20
	leastWeight, greatestWeight = 10, 1000
	leastPeriod, greatestPeriod = 1000, 1_000_000 // microseconds
	leastNanoCPUs               = 1e7
)

// Check refuses limits that make no sense by themselves or together, or that h has not what it takes for.
func (r Resources) Check(h Processors) error {
	invalid := func(format string, args ...any) error { return errdef.New(errdef.Invalid, format, args...) }
	swap, cpus := r.MemorySwapBytes, h.Count
	switch {
	case r.MemoryBytes > 0 && r.MemoryBytes < leastMemory:
		return invalid("Minimum memory limit allowed is 6MB")
	case r.MemoryBytes > 0 && swap > 0 && swap < r.MemoryBytes:
		return invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.MemoryBytes == 0 && swap > 0:
		return invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < 0 || *r.MemorySwappiness > 100):
		return invalid("Invalid value: %d, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.MemoryReservationBytes > 0 && r.MemoryReservationBytes < leastMemory:
		return invalid("Minimum memory reservation allowed is 6MB")
	case r.MemoryBytes > 0 && r.MemoryReservationBytes > r.MemoryBytes:
		return invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.NanoCPUs != 0 && r.CPUPeriod != 0:
		return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs != 0 && r.CPUQuota != 0:
		return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs != 0 && (r.NanoCPUs < leastNanoCPUs || r.NanoCPUs > int64(cpus)*1e9):
		return invalid("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", cpus, cpus)
	case r.CPUPeriod != 0 && (r.CPUPeriod < leastPeriod || r.CPUPeriod > greatestPeriod):
		return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < leastPeriod:
		return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.CPURealtimePeriod < 0 || r.CPURealtimeRuntime < 0:
		return invalid("cpu real-time period and runtime cannot be negative")
	case r.CPURealtimePeriod != 0 && r.CPURealtimeRuntime > r.CPURealtimePeriod:
		return invalid("cpu real-time runtime cannot be higher than cpu real-time period")
	case r.BlockWeight != 0 && (r.BlockWeight < leastWeight || r.BlockWeight > greatestWeight):
		return invalid("Range of blkio weight is from 10 to 1000")
	}
	for _, set := range []struct{ short, long, value, available string }{
		{"cpus", "CPUs", r.CPUSet, h.Online}, {"mems", "memory nodes", r.CPUSetMemory, h.Nodes},
	} {
		wanted, ok := parseSet(set.value)
		if !ok {
			return invalid("Invalid value %s for cpuset %s", set.value, set.short)
		}
		there, known := parseSet(set.available)
		if known && len(there) > 0 && !within(wanted, there) {
			return invalid("Requested %s are not available - requested %s, available: %s", set.long, set.value, set.available)
		}
	}
	return nil
}

// span is the numbers from the first to the last.
type span struct{ first, last uint64 }

// parseSet reads a list of numbers and ranges of them (cpuset(7), "List format"), which may be empty; false if it is none.
func parseSet(s string) ([]span, bool) {
	if s == "" {
		return nil, true
	}
	var all []span
	for part := range strings.SplitSeq(s, ",") {
		first, last, ranged := strings.Cut(part, "-")
		a, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return nil, false
		}
		b := a
		if ranged {
			if b, err = strconv.ParseUint(last, 10, 16); err != nil || b < a {
				return nil, false
			}
		}
		all = append(all, span{a, b})
	}
	return all, true
}

// within reports whether every number of a set is in another one.
func within(set, other []span) bool {
	for _, s := range set {
		for n := s.first; n <= s.last; n++ {
			if !slices.ContainsFunc(other, func(o span) bool { return o.first <= n && n <= o.last }) {
				return false
			}
		}
	}
	return true
}

// ResourceChange is what `update` asks for: the fields of Resources that are not zero, and what zero would say of the others.
type ResourceChange struct {
	Resources
	// PidsGiven says that PidsLimit is asked for; 0 is then no limit.
	PidsGiven bool
}

// Change is r with the limits of a change in the place of its own, or an error that says which of them do not go together.
func (r Resources) Change(c ResourceChange) (Resources, error) {
	conflict := func(format string, args ...any) (Resources, error) {
		return r, errdef.New(errdef.Conflict, format, args...)
	}
	switch {
	case c.NanoCPUs != 0 && r.CPUPeriod != 0:
		return conflict("Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set")
	case c.NanoCPUs != 0 && r.CPUQuota != 0:
		return conflict("Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set")
	case c.CPUPeriod != 0 && r.NanoCPUs != 0:
		return conflict("Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set")
	case c.CPUQuota != 0 && r.NanoCPUs != 0:
		return conflict("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set")
	case c.MemorySwapBytes == 0 && r.MemorySwapBytes > 0 && c.MemoryBytes > r.MemorySwapBytes:
		return conflict("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
	}
	if c.PidsGiven {
		r.PidsLimit = c.PidsLimit
	}
	replace(&r.MemoryBytes, c.MemoryBytes)
	replace(&r.MemorySwapBytes, c.MemorySwapBytes)
	replace(&r.MemoryReservationBytes, c.MemoryReservationBytes)
	replace(&r.NanoCPUs, c.NanoCPUs)
	replace(&r.CPUShares, c.CPUShares)
	replace(&r.CPUPeriod, c.CPUPeriod)
	replace(&r.CPUQuota, c.CPUQuota)
	replace(&r.CPURealtimePeriod, c.CPURealtimePeriod)
	replace(&r.CPURealtimeRuntime, c.CPURealtimeRuntime)
	replace(&r.CPUSet, c.CPUSet)
	replace(&r.CPUSetMemory, c.CPUSetMemory)
	replace(&r.BlockWeight, c.BlockWeight)
	return r, nil
}

// replace sets a limit to one that is asked for.
func replace[T comparable](limit *T, asked T) {
	var none T
	if asked != none {
		*limit = asked
	}
}

// ParseWeightDevice reads docker's --blkio-weight-device: PATH:WEIGHT.
func ParseWeightDevice(s string) (DeviceValue, error) {
	at, value, err := deviceValue(s)
	if err != nil {
		return DeviceValue{}, err
	}
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil || n != 0 && (n < leastWeight || n > greatestWeight) {
		return DeviceValue{}, errdef.New(errdef.Invalid, "invalid weight for device: %s", s)
	}
	return DeviceValue{at, n}, nil
}

// ParseByteRate reads docker's --device-read-bps: PATH:BYTES a second, with a unit.
func ParseByteRate(s string) (DeviceValue, error) {
	at, value, err := deviceValue(s)
	if err != nil {
		return DeviceValue{}, err
	}
	n, err := units.RAMInBytes(value)
	if err != nil || n < 0 {
		return DeviceValue{}, errdef.New(errdef.Invalid, "invalid rate for device: %s. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb", s)
	}
	return DeviceValue{at, uint64(n)}, nil
}

// ParseOpsRate reads docker's --device-read-iops: PATH:OPERATIONS a second.
func ParseOpsRate(s string) (DeviceValue, error) {
	at, value, err := deviceValue(s)
	if err != nil {
		return DeviceValue{}, err
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return DeviceValue{}, errdef.New(errdef.Invalid, "invalid rate for device: %s. The correct format is <device-path>:<number>. Number must be a positive integer", s)
	}
	return DeviceValue{at, n}, nil
}

func deviceValue(s string) (at, value string, err error) {
	at, value, has := strings.Cut(s, ":")
	switch {
	case !has || at == "":
		return "", "", errdef.New(errdef.Invalid, "bad format: %s", s)
	case !strings.HasPrefix(at, "/dev/"):
		return "", "", errdef.New(errdef.Invalid, "bad format for device path: %s", s)
	}
	return path.Clean(at), value, nil
}

// DeviceRule is a rule about devices: which kinds of access ("rwm") to which numbers of a type ('a', 'b' or 'c') are allowed.
type DeviceRule struct {
	Type         string
	Major, Minor int64 // AllNumbers: every one
	Access       string
}

// AllNumbers is "*" in a rule.
const AllNumbers = -1

// ParseDeviceRule reads docker's --device-cgroup-rule: TYPE MAJOR:MINOR ACCESS.
func ParseDeviceRule(s string) (DeviceRule, error) {
	kind, rest, _ := strings.Cut(s, " ")
	numbers, access, _ := strings.Cut(rest, " ")
	major, minor, _ := strings.Cut(numbers, ":")
	r := DeviceRule{Type: kind, Access: access}
	var ok [2]bool
	r.Major, ok[0] = deviceNumber(major)
	r.Minor, ok[1] = deviceNumber(minor)
	if !slices.Contains([]string{"a", "b", "c"}, kind) || !ok[0] || !ok[1] || !DeviceAccess(access) || len(access) > 3 {
		return DeviceRule{}, errdef.New(errdef.Invalid, "invalid device cgroup format '%s'", s)
	}
	return r, nil
}

func deviceNumber(s string) (int64, bool) {
	if s == "*" {
		return AllNumbers, true
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return int64(n), err == nil
}

// DeviceAccess reports whether s is a set of r, w and m.
func DeviceAccess(s string) bool {
	return s != "" && strings.Trim(s, "rwm") == ""
}

// ParseStorage reads docker's --storage-opt; size=BYTES is the option that there is.
func ParseStorage(s string) (sizeBytes int64, err error) {
	key, value, has := strings.Cut(s, "=")
	if !has {
		return 0, errdef.New(errdef.Invalid, "invalid storage option: %s", s)
	}
	if !strings.EqualFold(key, "size") {
		return 0, errdef.New(errdef.Invalid, "Unknown option %s", key)
	}
	n, err := units.RAMInBytes(value)
	if err != nil || n <= 0 {
		return 0, errdef.New(errdef.Invalid, "invalid size: '%s'", value)
	}
	return n, nil
}
