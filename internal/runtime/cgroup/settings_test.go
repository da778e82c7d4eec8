package cgroup

import (
	"strings"
	"testing"

	"berth/internal/errdef"
	"berth/internal/host"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func p[T any](v T) *T { return &v }

func version(mode host.CgroupMode) *Group { return &Group{host: host.Facts{Cgroup: mode}, path: "/g"} }

func text(settings []Setting) string {
	var b strings.Builder
	for _, s := range settings {
		b.WriteString(s.File + " = " + s.Value)
		if s.Optional {
			b.WriteString(" (optional)")
		}
		if s.Else != nil {
			b.WriteString(" or " + s.Else.File + " = " + s.Else.Value)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// full has every limit that both versions know.
func full() *specs.LinuxResources {
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: p(int64(100 << 20)), Swap: p(int64(200 << 20)), Reservation: p(int64(50 << 20))},
		CPU: &specs.LinuxCPU{
			Shares: p(uint64(1024)), Quota: p(int64(50000)), Period: p(uint64(100000)), Burst: p(uint64(1000)), Idle: p(int64(0)),
			Cpus: "0-1", Mems: "0",
		},
		Pids: &specs.LinuxPids{Limit: p(int64(32))},
		BlockIO: &specs.LinuxBlockIO{
			Weight: p(uint16(500)),
			ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{
				{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: 8, Minor: 16}, Rate: 1 << 20},
			},
		},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}},
		Rdma:           map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: p(uint32(3)), HcaObjects: p(uint32(10000))}},
	}
}

func TestEveryLimitIsInTheFilesOfItsVersion(t *testing.T) {
	for mode, want := range map[host.CgroupMode]string{
		host.CgroupV1: `memory.limit_in_bytes = 104857600
memory.memsw.limit_in_bytes = 209715200 (optional)
memory.soft_limit_in_bytes = 52428800
cpu.shares = 1024
cpu.cfs_period_us = 100000
cpu.cfs_quota_us = 50000
cpu.cfs_burst_us = 1000
cpu.idle = 0
cpuset.cpus = 0-1
cpuset.mems = 0
pids.max = 32
blkio.bfq.weight = 500
blkio.throttle.read_bps_device = 8:16 1048576
hugetlb.2MB.limit_in_bytes = 4194304
rdma.max = mlx5_1 hca_handle=3 hca_object=10000
`,
		host.CgroupUnified: `memory.max = 104857600
memory.swap.max = 104857600 (optional)
memory.low = 52428800
cpu.weight = 100
cpu.max = 50000 100000
cpu.max.burst = 1000
cpu.idle = 0
cpuset.cpus = 0-1
cpuset.mems = 0
pids.max = 32
io.bfq.weight = default 500 or io.weight = default 4950
io.max = 8:16 rbps=1048576
hugetlb.2MB.max = 4194304
rdma.max = mlx5_1 hca_handle=3 hca_object=10000
`,
	} {
		got, err := version(mode).Settings(full())
		if err != nil {
			t.Fatal(mode, err)
		}
		if d := cmp.Diff(want, text(got)); d != "" {
			t.Errorf("%s:\n%s", mode, d)
		}
	}
}

func TestWhatAVersionLacksIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		mode host.CgroupMode
		r    specs.LinuxResources
	}{
		"unified on version 1":         {host.CgroupV1, specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}}},
		"swappiness on version 2":      {host.CgroupUnified, specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: p(uint64(0))}}},
		"no OOM killer on version 2":   {host.CgroupUnified, specs.LinuxResources{Memory: &specs.LinuxMemory{DisableOOMKiller: p(true)}}},
		"realtime on version 2":        {host.CgroupUnified, specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: p(int64(5))}}},
		"a network class on version 2": {host.CgroupUnified, specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: p(uint32(1))}}},
		"swap without memory":          {host.CgroupUnified, specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: p(int64(5))}}},
		"swap below memory":            {host.CgroupUnified, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: p(int64(6)), Swap: p(int64(5))}}},
	} {
		if _, err := version(c.mode).Settings(&c.r); !errdef.Is(err, errdef.Unsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, file := range []string{"", "../x.y", "cgroup.procs", "memory"} {
		r := specs.LinuxResources{Unified: map[string]string{file: "1"}}
		if _, err := version(host.CgroupUnified).Settings(&r); !errdef.Is(err, errdef.Invalid) {
			t.Errorf("unified %q: %v", file, err)
		}
	}
}

func TestUnlimitedIsWrittenAsEachVersionWritesIt(t *testing.T) {
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: p(int64(-1)), Swap: p(int64(-1))}, Pids: &specs.LinuxPids{Limit: p(int64(-1))},
		CPU: &specs.LinuxCPU{Quota: p(int64(-1))},
	}
	for mode, want := range map[host.CgroupMode]string{
		host.CgroupV1:      "memory.limit_in_bytes = -1\nmemory.memsw.limit_in_bytes = -1\ncpu.cfs_quota_us = -1\npids.max = max\n",
		host.CgroupUnified: "memory.max = max\nmemory.swap.max = max (optional)\ncpu.max = max\npids.max = max\n",
	} {
		got, err := version(mode).Settings(r)
		if d := cmp.Diff(want, text(got)); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", mode, err, d)
		}
	}
}

func TestWeightMeetsTheMarksOfBothScales(t *testing.T) {
	for shares, want := range map[uint64]uint64{1: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 40: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight(%d) = %d, not %d", shares, got, want)
		}
	}
	for s := uint64(3); s < 262144; s += 97 {
		if weight(s) < weight(s-1) || weight(s) > 10000 {
			t.Fatalf("weight(%d) = %d after %d", s, weight(s), weight(s-1))
		}
	}
}

func TestUpdateLiftsWhatIsNotNamed(t *testing.T) {
	for mode, want := range map[host.CgroupMode]string{
		host.CgroupV1:      "memory.memsw.limit_in_bytes = -1 (optional)\nmemory.limit_in_bytes = -1 (optional)\nmemory.soft_limit_in_bytes = -1 (optional)\ncpu.shares = 1024 (optional)\ncpu.cfs_quota_us = -1 (optional)\ncpu.cfs_period_us = 100000 (optional)\ncpu.rt_runtime_us = 0 (optional)\nblkio.bfq.weight = 100 (optional)\n",
		host.CgroupUnified: "memory.max = max (optional)\nmemory.swap.max = max (optional)\nmemory.low = 0 (optional)\ncpu.weight = 100 (optional)\ncpu.max = max 100000 (optional)\ncpuset.cpus = \n (optional)\ncpuset.mems = \n (optional)\nio.bfq.weight = default 100 (optional) or io.weight = default 100\n",
	} {
		g := version(mode)
		named, err := g.Settings(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: p(int64(5))}})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, text(g.lifted(named))); d != "" {
			t.Errorf("%s (-want +got):\n%s", mode, d)
		}
	}
}
