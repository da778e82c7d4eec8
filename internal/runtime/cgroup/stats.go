package cgroup

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"berth/internal/host"
)

// Stats is all that a group's files say about what it uses, in the words of `runc events`, whose readers know version 1: what version 2
// says is put into them. What the host has no controller for is left out.
type Stats struct {
	CPU     CPUStats                `json:"cpu"`
	CPUSet  CPUSetStats             `json:"cpuset"`
	Memory  MemoryStats             `json:"memory"`
	PIDs    PIDStats                `json:"pids"`
	Blkio   BlkioStats              `json:"blkio"`
	Hugetlb map[string]LimitedStats `json:"hugetlb"`
	// RDT and Interfaces have no source: berth makes no groups of resctrl, and the interfaces are not its.
	RDT        struct{} `json:"intel_rdt"`
	Interfaces []string `json:"network_interfaces"`
}

// CPUStats are times in nanoseconds.
type CPUStats struct {
	Usage struct {
		Total        uint64   `json:"total"`
		PerCPU       []uint64 `json:"percpu,omitempty"`
		PerCPUKernel []uint64 `json:"percpu_kernel,omitempty"`
		PerCPUUser   []uint64 `json:"percpu_user,omitempty"`
		Kernel       uint64   `json:"kernel"`
		User         uint64   `json:"user"`
	} `json:"usage"`
	Throttling struct {
		Periods          uint64 `json:"periods,omitempty"`
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
	PSI *Pressure `json:"psi,omitempty"`
}

// CPUSetStats are a cpuset's processors, nodes and switches (version 1).
type CPUSetStats struct {
	CPUs             []uint16 `json:"cpus,omitempty"`
	CPUExclusive     uint64   `json:"cpu_exclusive"`
	Mems             []uint16 `json:"mems,omitempty"`
	MemHardwall      uint64   `json:"mem_hardwall"`
	MemExclusive     uint64   `json:"mem_exclusive"`
	MemoryMigrate    uint64   `json:"memory_migrate"`
	SpreadPage       uint64   `json:"memory_spread_page"`
	SpreadSlab       uint64   `json:"memory_spread_slab"`
	MemoryPressure   uint64   `json:"memory_pressure"`
	SchedLoad        uint64   `json:"sched_load_balance"`
	RelaxDomainLevel int64    `json:"sched_relax_domain_level"`
}

// LimitedStats are of one thing that may be limited.
type LimitedStats struct {
	Limit   uint64 `json:"limit,omitempty"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// MemoryStats are bytes; Raw is the file memory.stat.
type MemoryStats struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     LimitedStats      `json:"usage"`
	Swap      LimitedStats      `json:"swap"` // and memory
	Kernel    LimitedStats      `json:"kernel"`
	KernelTCP LimitedStats      `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
	PSI       *Pressure         `json:"psi,omitempty"`
}

// PIDStats counts processes and threads.
type PIDStats struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

// BlkioStats are by block devices.
type BlkioStats struct {
	ServiceBytes []BlkioEntry `json:"ioServiceBytesRecursive,omitempty"`
	Serviced     []BlkioEntry `json:"ioServicedRecursive,omitempty"`
	PSI          *Pressure    `json:"psi,omitempty"`
}

// BlkioEntry is what a group has done with a device.
type BlkioEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

// Pressure is how long somebody, or everybody, of the group waited for a resource (Documentation/accounting/psi.rst).
type Pressure struct {
	Some PressureLine `json:"some"`
	Full PressureLine `json:"full"`
}

// PressureLine are shares of time in percent, and microseconds.
type PressureLine struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

// Stats reads what the group's files say.
func (g *Group) Stats() *Stats {
	s := &Stats{Hugetlb: map[string]LimitedStats{}}
	if g.host.Cgroup == host.CgroupV1 {
		g.stats1(s)
	} else {
		g.stats2(s)
	}
	return s
}

func (g *Group) stats1(s *Stats) {
	if d, ok := g.v1With("cpuacct"); ok {
		u := &s.CPU.Usage
		u.Total, u.PerCPU = value(d.path+"/cpuacct.usage"), numbersOf(d.path+"/cpuacct.usage_percpu")
		fields := fieldsOf(d.path + "/cpuacct.usage_all") // cpu user system, and a line a processor
		for i := 3; i+2 < len(fields); i += 3 {
			u.PerCPUUser, u.PerCPUKernel = append(u.PerCPUUser, parse(fields[i+1])), append(u.PerCPUKernel, parse(fields[i+2]))
		}
		const tick = 10_000_000 // of cpuacct.stat: USER_HZ is 100 on every architecture of ours
		u.User, u.Kernel = keyed(d.path+"/cpuacct.stat", "user")*tick, keyed(d.path+"/cpuacct.stat", "system")*tick
	}
	if d, ok := g.v1With("cpu"); ok {
		t := &s.CPU.Throttling
		t.Periods, t.ThrottledPeriods, t.ThrottledTime = keyed(d.path+"/cpu.stat", "nr_periods"), keyed(d.path+"/cpu.stat", "nr_throttled"), keyed(d.path+"/cpu.stat", "throttled_time")
	}
	if d, ok := g.v1With("cpuset"); ok {
		at := d.path + "/cpuset."
		s.CPUSet = CPUSetStats{
			CPUs: listOf(at + "cpus"), CPUExclusive: value(at + "cpu_exclusive"), Mems: listOf(at + "mems"), MemHardwall: value(at + "mem_hardwall"),
			MemExclusive: value(at + "mem_exclusive"), MemoryMigrate: value(at + "memory_migrate"), SpreadPage: value(at + "memory_spread_page"),
			SpreadSlab: value(at + "memory_spread_slab"), MemoryPressure: value(at + "memory_pressure"), SchedLoad: value(at + "sched_load_balance"),
		}
		s.CPUSet.RelaxDomainLevel, _ = strconv.ParseInt(strings.Join(fieldsOf(at+"sched_relax_domain_level"), ""), 10, 64)
	}
	if d, ok := g.v1With("memory"); ok {
		at := d.path + "/memory."
		limited := func(prefix string) LimitedStats {
			return LimitedStats{Limit: value(prefix + "limit_in_bytes"), Usage: value(prefix + "usage_in_bytes"), Max: value(prefix + "max_usage_in_bytes"), Failcnt: value(prefix + "failcnt")}
		}
		s.Memory.Raw = pairsOf(at + "stat")
		s.Memory.Cache = s.Memory.Raw["cache"]
		s.Memory.Usage, s.Memory.Swap, s.Memory.Kernel, s.Memory.KernelTCP = limited(at), limited(at+"memsw."), limited(at+"kmem."), limited(at+"kmem.tcp.")
	}
	if d, ok := g.v1With("pids"); ok {
		s.PIDs = PIDStats{value(d.path + "/pids.current"), value(d.path + "/pids.max")} // "max" is none
	}
	if d, ok := g.v1With("blkio"); ok {
		s.Blkio.ServiceBytes = blkio1(d.path+"/blkio.throttle.io_service_bytes_recursive", d.path+"/blkio.throttle.io_service_bytes")
		s.Blkio.Serviced = blkio1(d.path+"/blkio.throttle.io_serviced_recursive", d.path+"/blkio.throttle.io_serviced")
	}
	if d, ok := g.v1With("hugetlb"); ok {
		for _, size := range hugeSizes(d.path, ".usage_in_bytes") {
			at := d.path + "/hugetlb." + size + "."
			s.Hugetlb[size] = LimitedStats{Usage: value(at + "usage_in_bytes"), Max: value(at + "max_usage_in_bytes"), Failcnt: value(at + "failcnt")}
		}
	}
}

// blkio1 reads the first of the files that is there: lines "8:0 Read 1", and at the end a Total of all.
func blkio1(files ...string) []BlkioEntry {
	var all []BlkioEntry
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			if len(fields) != 3 {
				continue
			}
			major, minor, _ := strings.Cut(fields[0], ":")
			all = append(all, BlkioEntry{parse(major), parse(minor), fields[1], parse(fields[2])})
		}
		return all
	}
	return nil
}

func (g *Group) stats2(s *Stats) {
	const us = 1000
	stat := pairsOf(g.v2 + "/cpu.stat")
	s.CPU.Usage.Total, s.CPU.Usage.User, s.CPU.Usage.Kernel = stat["usage_usec"]*us, stat["user_usec"]*us, stat["system_usec"]*us
	s.CPU.Throttling.Periods, s.CPU.Throttling.ThrottledPeriods, s.CPU.Throttling.ThrottledTime = stat["nr_periods"], stat["nr_throttled"], stat["throttled_usec"]*us
	s.CPU.PSI, s.Memory.PSI, s.Blkio.PSI = pressureOf(g.v2+"/cpu.pressure"), pressureOf(g.v2+"/memory.pressure"), pressureOf(g.v2+"/io.pressure")

	s.Memory.Raw = pairsOf(g.v2 + "/memory.stat")
	s.Memory.Cache = s.Memory.Raw["file"]
	limited := func(name string) LimitedStats {
		at := g.v2 + "/" + name
		return LimitedStats{Limit: limitValue(at + ".max"), Usage: value(at + ".current"), Max: value(at + ".peak"), Failcnt: keyed(at+".events", "max")}
	}
	s.Memory.Usage, s.Memory.Swap = limited("memory"), limited("memory.swap")
	s.Memory.Swap.Usage += s.Memory.Usage.Usage // version 1 counts both together
	if s.Memory.Swap.Limit != math.MaxUint64 && s.Memory.Usage.Limit != math.MaxUint64 {
		s.Memory.Swap.Limit += s.Memory.Usage.Limit
	} else {
		s.Memory.Swap.Limit = math.MaxUint64
	}
	s.PIDs = PIDStats{value(g.v2 + "/pids.current"), value(g.v2 + "/pids.max")}
	s.blkio2(g.v2 + "/io.stat")
	for _, size := range hugeSizes(g.v2, ".current") {
		at := g.v2 + "/hugetlb." + size
		s.Hugetlb[size] = LimitedStats{Usage: value(at + ".current"), Failcnt: keyed(at+".events", "max")}
	}
}

// blkio2 reads lines "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6".
func (s *Stats) blkio2(file string) {
	data, _ := os.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		major, minor, _ := strings.Cut(fields[0], ":")
		for _, f := range fields[1:] {
			key, n, _ := strings.Cut(f, "=")
			into := &s.Blkio.ServiceBytes
			if strings.HasSuffix(key, "ios") {
				into = &s.Blkio.Serviced
			}
			op := map[byte]string{'r': "Read", 'w': "Write", 'd': "Discard"}[key[0]]
			*into = append(*into, BlkioEntry{parse(major), parse(minor), op, parse(n)})
		}
	}
}

// limitValue is value for a file in which no limit is "max".
func limitValue(file string) uint64 {
	data, err := os.ReadFile(file)
	if err == nil && string(bytes.TrimSpace(data)) == "max" {
		return math.MaxUint64
	}
	return value(file)
}

// hugeSizes are the sizes of huge pages of which a group has files with that end.
func hugeSizes(dir, suffix string) []string {
	files, _ := filepath.Glob(dir + "/hugetlb.*" + suffix)
	var sizes []string
	for _, f := range files {
		size := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "hugetlb."), suffix)
		if !strings.Contains(size, ".") { // not of those for reservations
			sizes = append(sizes, size)
		}
	}
	return sizes
}

// pairsOf reads a file of lines "KEY VALUE".
func pairsOf(file string) map[string]uint64 {
	fields := fieldsOf(file)
	pairs := make(map[string]uint64, len(fields)/2)
	for i := 0; i+1 < len(fields); i += 2 {
		pairs[fields[i]] = parse(fields[i+1])
	}
	return pairs
}

func numbersOf(file string) []uint64 {
	var all []uint64
	for _, f := range fieldsOf(file) {
		all = append(all, parse(f))
	}
	return all
}

// listOf reads a set such as "0-3,7" (cpuset(7), "List format").
func listOf(file string) []uint16 {
	var all []uint16
	for part := range strings.SplitSeq(strings.Join(fieldsOf(file), ""), ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		for n := from; err1 == nil && err2 == nil && n <= to; n++ {
			all = append(all, uint16(n))
		}
	}
	return all
}

// pressureOf reads lines "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"; nil where the kernel does not count it.
func pressureOf(file string) *Pressure {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	p := &Pressure{}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) != 5 {
			continue
		}
		var l PressureLine
		for _, f := range fields[1:] {
			key, n, _ := strings.Cut(f, "=")
			switch key {
			case "avg10":
				l.Avg10, _ = strconv.ParseFloat(n, 64)
			case "avg60":
				l.Avg60, _ = strconv.ParseFloat(n, 64)
			case "avg300":
				l.Avg300, _ = strconv.ParseFloat(n, 64)
			case "total":
				l.Total = parse(n)
			}
		}
		if fields[0] == "some" {
			p.Some = l
		} else {
			p.Full = l
		}
	}
	return p
}
