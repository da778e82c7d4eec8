package cgroup

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// version1 turns limits into the files of Documentation/admin-guide/cgroup-v1.
func (l *list) version1(r *specs.LinuxResources) {
	if m := r.Memory; m != nil {
		given(l, "memory", "memory.limit_in_bytes", m.Limit)
		given(l, "memory", "memory.memsw.limit_in_bytes", m.Swap)
		if m.Swap != nil && m.Limit != nil && *m.Swap == 2**m.Limit {
			// docker's default where nobody spoke of swap; a kernel that does not count swap limits memory alone.
			l.settings[len(l.settings)-1].Optional = true
		}
		given(l, "memory", "memory.soft_limit_in_bytes", m.Reservation)
		given(l, "memory", "memory.kmem.tcp.limit_in_bytes", m.KernelTCP)
		if m.Swappiness != nil {
			l.set("memory", "memory.swappiness", number(*m.Swappiness))
		}
		if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
			l.set("memory", "memory.oom_control", "1")
		}
	}
	if c := r.CPU; c != nil {
		given(l, "cpu", "cpu.shares", c.Shares)
		given(l, "cpu", "cpu.cfs_period_us", c.Period)
		given(l, "cpu", "cpu.cfs_quota_us", c.Quota)
		given(l, "cpu", "cpu.cfs_burst_us", c.Burst)
		given(l, "cpu", "cpu.rt_period_us", c.RealtimePeriod)
		given(l, "cpu", "cpu.rt_runtime_us", c.RealtimeRuntime)
		if c.Idle != nil {
			l.set("cpu", "cpu.idle", number(*c.Idle))
		}
		l.cpuset(c)
	}
	l.pids(r.Pids)
	if b := r.BlockIO; b != nil {
		given(l, "blkio", "blkio.bfq.weight", b.Weight)
		given(l, "blkio", "blkio.leaf_weight", b.LeafWeight)
		for _, d := range b.WeightDevice {
			if d.Weight != nil {
				l.set("blkio", "blkio.bfq.weight_device", fmt.Sprintf("%s %d", device(d.Major, d.Minor), *d.Weight))
			}
			if d.LeafWeight != nil {
				l.set("blkio", "blkio.leaf_weight_device", fmt.Sprintf("%s %d", device(d.Major, d.Minor), *d.LeafWeight))
			}
		}
		for _, t := range throttles(b) {
			for _, d := range t.devices {
				l.set("blkio", t.file, fmt.Sprintf("%s %d", device(d.Major, d.Minor), d.Rate))
			}
		}
	}
	for _, h := range r.HugepageLimits {
		l.set("hugetlb", "hugetlb."+h.Pagesize+".limit_in_bytes", number(h.Limit))
	}
	if n := r.Network; n != nil {
		given(l, "net_cls", "net_cls.classid", n.ClassID)
		for _, p := range n.Priorities {
			l.set("net_prio", "net_prio.ifpriomap", fmt.Sprintf("%s %d", p.Name, p.Priority))
		}
	}
	l.rdma(r)
}

// pids has the same file in both versions. The process itself is counted: with a limit of 0 there is room for it alone, as with 1, which is
// what the kernel is told, since it would take it for a group that nobody may enter.
func (l *list) pids(p *specs.LinuxPids) {
	if p != nil && p.Limit != nil {
		limit := *p.Limit
		if limit == 0 {
			limit = 1
		}
		l.set("pids", "pids.max", limitOf(limit, "max"))
	}
}

// cpuset has the same files in both versions.
func (l *list) cpuset(c *specs.LinuxCPU) {
	if c.Cpus != "" {
		l.set("cpuset", "cpuset.cpus", c.Cpus)
	}
	if c.Mems != "" {
		l.set("cpuset", "cpuset.mems", c.Mems)
	}
}

// rdma has the same file in both versions.
func (l *list) rdma(r *specs.LinuxResources) {
	for _, name := range sorted(r.Rdma) {
		value := name
		if n := r.Rdma[name].HcaHandles; n != nil {
			value += fmt.Sprintf(" hca_handle=%d", *n)
		}
		if n := r.Rdma[name].HcaObjects; n != nil {
			value += fmt.Sprintf(" hca_object=%d", *n)
		}
		l.set("rdma", "rdma.max", value)
	}
}
