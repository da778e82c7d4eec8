package cgroup

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"berth/internal/errdef"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// version2 turns limits into the files of Documentation/admin-guide/cgroup-v2.rst. The spec's words are version 1's; how they
// are converted is written in runc's and crun's documentation (crun.1, "Cgroup v2").
func (l *list) version2(r *specs.LinuxResources) {
	if m := r.Memory; m != nil {
		l.memory2(m)
	}
	if c := r.CPU; c != nil {
		l.cpu2(c)
	}
	l.pids(r.Pids)
	if b := r.BlockIO; b != nil {
		l.io2(b)
	}
	for _, h := range r.HugepageLimits {
		l.set("hugetlb", "hugetlb."+h.Pagesize+".max", number(h.Limit))
	}
	if n := r.Network; n != nil && (n.ClassID != nil && *n.ClassID != 0 || len(n.Priorities) > 0) {
		l.fail("a class or priority of the network needs version 1 of control groups, and this host has version 2")
	}
	l.rdma(r)
	for _, file := range sorted(r.Unified) {
		if file == "" || strings.ContainsAny(file, "/\x00") || !strings.Contains(file, ".") || strings.HasPrefix(file, "cgroup.") {
			l.err = errdef.New(errdef.Invalid, "%q is not the name of a limit of a control group", file)
			return
		}
		l.set("", file, r.Unified[file])
	}
}

func (l *list) fail(format string, args ...any) {
	if l.err == nil {
		l.err = errdef.New(errdef.Unsupported, format, args...)
	}
}

func (l *list) memory2(m *specs.LinuxMemory) {
	var limit, swap int64
	if m.Limit != nil {
		limit = *m.Limit
	}
	if m.Swap != nil {
		swap = *m.Swap
	}
	if limit != 0 {
		l.set("memory", "memory.max", limitOf(limit, "max"))
	}
	switch {
	case swap < 0 || limit < 0 && swap == 0:
		l.settings = append(l.settings, Setting{Controller: "memory", File: "memory.swap.max", Value: "max", Optional: true})
	case swap == 0:
	case limit <= 0:
		l.fail("a limit of memory and swap needs a limit of memory")
	case swap < limit:
		l.fail("a limit of memory and swap of %d bytes is below that of memory, %d", swap, limit)
	default:
		// Version 1 counts both together, version 2 swap alone.
		l.set("memory", "memory.swap.max", number(swap-limit))
		l.settings[len(l.settings)-1].Optional = swap == 2*limit // docker's default where nobody spoke of swap
	}
	given(l, "memory", "memory.low", m.Reservation)
	if m.Swappiness != nil {
		l.fail("swappiness needs version 1 of control groups, and this host has version 2")
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		l.fail("switching the OOM killer off needs version 1 of control groups, and this host has version 2")
	}
}

func (l *list) cpu2(c *specs.LinuxCPU) {
	if c.Shares != nil && *c.Shares != 0 {
		l.set("cpu", "cpu.weight", strconv.FormatUint(weight(*c.Shares), 10))
	}
	quota, period := "max", ""
	if c.Quota != nil && *c.Quota > 0 {
		quota = number(*c.Quota)
	}
	if c.Period != nil && *c.Period != 0 {
		period = " " + number(*c.Period)
	}
	if c.Quota != nil && *c.Quota != 0 || period != "" {
		l.set("cpu", "cpu.max", quota+period)
	}
	given(l, "cpu", "cpu.max.burst", c.Burst)
	if c.Idle != nil {
		l.set("cpu", "cpu.idle", number(*c.Idle))
	}
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 || c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		l.fail("realtime limits of processors need version 1 of control groups, and this host has version 2")
	}
	l.cpuset(c)
}

// weight converts shares (2 to 262144, 1024 by default) to a weight (1 to 10000, 100 by default), so that the three marks
// meet: 10^((x^2 + 125x)/612 - 7/34) with x = log2(shares). The formula is Kubernetes's and runc's (kubernetes issue 131216).
func weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	x := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (x*x+125*x)/612-7.0/34)))
}

func (l *list) io2(b *specs.LinuxBlockIO) {
	// The BFQ scheduler has a file of its own and version 1's scale; of the other one, 10 to 1000 becomes 1 to 10000.
	share := func(of string, w *uint16) {
		if w != nil && *w != 0 {
			l.set("io", "io.bfq.weight", fmt.Sprintf("%s %d", of, *w))
			l.settings[len(l.settings)-1].Else = &Setting{Controller: "io", File: "io.weight", Value: fmt.Sprintf("%s %d", of, ioWeight(*w))}
		}
	}
	share("default", b.Weight)
	for _, d := range b.WeightDevice {
		share(device(d.Major, d.Minor), d.Weight)
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			l.set("io", "io.max", fmt.Sprintf("%s %s=%d", device(d.Major, d.Minor), t.key, d.Rate))
		}
	}
}
