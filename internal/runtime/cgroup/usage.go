package cgroup

import (
	"bytes"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"berth/internal/host"
)

// Usage is what a group has used, and uses. What the host has no controller for is 0.
type Usage struct {
	CPU time.Duration
	// MemoryBytes is without what the page cache can let go of at once, as docker has it. MemoryLimit is 0 if there is none.
	MemoryBytes, MemoryLimit uint64
	PIDs                     uint64 // and threads
	ReadBytes, WrittenBytes  uint64 // of block devices
}

// Usage reads what the group has used.
func (g *Group) Usage() Usage {
	if g.host.Cgroup == host.CgroupV1 {
		return g.usage1()
	}
	u := Usage{
		CPU:         time.Duration(keyed(g.v2+"/cpu.stat", "usage_usec")) * time.Microsecond,
		MemoryBytes: less(value(g.v2+"/memory.current"), keyed(g.v2+"/memory.stat", "inactive_file")),
		MemoryLimit: value(g.v2 + "/memory.max"), PIDs: value(g.v2 + "/pids.current"),
	}
	for _, f := range fieldsOf(g.v2 + "/io.stat") { // 8:0 rbytes=1 wbytes=2 …
		switch key, v, _ := strings.Cut(f, "="); key {
		case "rbytes":
			u.ReadBytes += parse(v)
		case "wbytes":
			u.WrittenBytes += parse(v)
		}
	}
	return u
}

func (g *Group) usage1() Usage {
	var u Usage
	if d, ok := g.v1With("cpuacct"); ok {
		u.CPU = time.Duration(value(d.path + "/cpuacct.usage"))
	}
	if d, ok := g.v1With("memory"); ok {
		u.MemoryBytes = less(value(d.path+"/memory.usage_in_bytes"), keyed(d.path+"/memory.stat", "total_inactive_file"))
		u.MemoryLimit = value(d.path + "/memory.limit_in_bytes")
		if u.MemoryLimit > math.MaxInt64>>1 { // none is a number just below that of all addresses
			u.MemoryLimit = 0
		}
	}
	if d, ok := g.v1With("pids"); ok {
		u.PIDs = value(d.path + "/pids.current")
	}
	if d, ok := g.v1With("blkio"); ok {
		fields := fieldsOf(d.path + "/blkio.throttle.io_service_bytes_recursive") // 8:0 Read 1, and at the end a Total of all
		for i := 1; i+1 < len(fields); i++ {
			switch fields[i] {
			case "Read":
				u.ReadBytes += parse(fields[i+1])
			case "Write":
				u.WrittenBytes += parse(fields[i+1])
			}
		}
	}
	return u
}

func less(a, b uint64) uint64 { return a - min(a, b) }

// value reads a file that says one number; 0 if it says none.
func value(path string) uint64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	return parse(string(bytes.TrimSpace(data)))
}

func parse(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func fieldsOf(path string) []string {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}
