package cli

import (
	"strconv"
	"strings"

	"berth/internal/container"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/state"
)

// The limits of a container are asked for by run and create, and changed by update, which knows some of them.

func limits(o *options) *container.Resources { return &o.config.Resources }

// changeableLimits are the flags of the limits that a container can be given while it runs.
func changeableLimits() []flag {
	all := []flag{
		{"blkio-weight", "", "uint16", "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)", set(func(o *options, v string) error {
			n, err := strconv.ParseUint(v, 10, 16)
			limits(o).BlockWeight = uint16(n)
			return err
		})},
		{"cpu-period", "", "int", "Limit CPU CFS (Completely Fair Scheduler) period", microseconds(func(o *options) *int64 { return &limits(o).CPUPeriod })},
		{"cpu-quota", "", "int", "Limit CPU CFS (Completely Fair Scheduler) quota", microseconds(func(o *options) *int64 { return &limits(o).CPUQuota })},
		{"cpu-rt-period", "", "int", "Limit the CPU real-time period in microseconds", microseconds(func(o *options) *int64 { return &limits(o).CPURealtimePeriod })},
		{"cpu-rt-runtime", "", "int", "Limit the CPU real-time runtime in microseconds", microseconds(func(o *options) *int64 { return &limits(o).CPURealtimeRuntime })},
		{"cpu-shares", "c", "int", "CPU shares (relative weight)", set(func(o *options, v string) (err error) {
			limits(o).CPUShares, err = strconv.ParseUint(v, 10, 64)
			return err
		})},
		{"cpus", "", "decimal", "Number of CPUs", set(func(o *options, v string) (err error) {
			limits(o).NanoCPUs, err = container.ParseCPUs(v)
			return err
		})},
		{"cpuset-cpus", "", "string", "CPUs in which to allow execution (0-3, 0,1)", text(func(o *options) *string { return &limits(o).CPUSet })},
		{"cpuset-mems", "", "string", "MEMs in which to allow execution (0-3, 0,1)", text(func(o *options) *string { return &limits(o).CPUSetMemory })},
		{"memory", "m", "bytes", "Memory limit", bytesOf(func(o *options) *int64 { return &limits(o).MemoryBytes })},
		{"memory-reservation", "", "bytes", "Memory soft limit", bytesOf(func(o *options) *int64 { return &limits(o).MemoryReservationBytes })},
		{"memory-swap", "", "bytes", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap", set(func(o *options, v string) (err error) {
			if v == "-1" {
				limits(o).MemorySwapBytes = -1
				return nil
			}
			limits(o).MemorySwapBytes, err = container.ParseBytes(v)
			return err
		})},
		{"pids-limit", "", "int", "Tune container pids limit (set -1 for unlimited)", set(func(o *options, v string) (err error) {
			limits(o).PidsLimit, err = strconv.ParseInt(v, 10, 64)
			o.pidsGiven = true
			return err
		})},
	}
	for i, f := range all {
		all[i].set = func(c *call, v string) error {
			c.options.limitsGiven = true
			return f.set(c, v)
		}
	}
	return all
}

func updateFlags() []flag {
	return sortFlags(append(changeableLimits(), flag{"restart", "", "string", "Restart policy to apply when a container exits", set(func(o *options, v string) (err error) {
		o.restartGiven = true
		o.config.Restart, err = container.ParseRestart(v)
		return err
	})}))
}

func (c *call) cmdUpdate() error {
	o := &c.options
	asked := engine.UpdateOptions{}
	if o.limitsGiven {
		asked.Limits = &container.ResourceChange{Resources: o.config.Resources, PidsGiven: o.pidsGiven}
	}
	if o.restartGiven {
		asked.Restart = &o.config.Restart
	}
	if asked == (engine.UpdateOptions{}) {
		return c.usage("you must provide one or more flags when using this command")
	}
	return c.eachContainer(func(e *engine.Engine, of *state.Container) error { return e.Update(of, asked) })
}

// limitFlags are the flags of all limits.
func limitFlags() []flag {
	devices := func(at func(r *container.Resources) *[]container.DeviceValue, parse func(string) (container.DeviceValue, error)) func(*call, string) error {
		return set(func(o *options, v string) error {
			d, err := parse(v)
			*at(limits(o)) = append(*at(limits(o)), d)
			return err
		})
	}
	return append(changeableLimits(), []flag{
		{"blkio-weight-device", "", "list", "Block IO weight (relative device weight) (path:weight)", devices(func(r *container.Resources) *[]container.DeviceValue { return &r.BlockWeightDevices }, container.ParseWeightDevice)},
		{"cgroup-parent", "", "string", "Optional parent cgroup for the container", text(func(o *options) *string { return &o.config.CgroupParent })},
		{"device-cgroup-rule", "", "list", "Add a rule to the cgroup allowed devices list", set(func(o *options, v string) error {
			o.config.DeviceRules = append(o.config.DeviceRules, v)
			_, err := container.ParseDeviceRule(v)
			return err
		})},
		{"device-read-bps", "", "list", "Limit read rate (bytes per second) from a device", devices(func(r *container.Resources) *[]container.DeviceValue { return &r.BlockReadBytes }, container.ParseByteRate)},
		{"device-read-iops", "", "list", "Limit read rate (IO per second) from a device", devices(func(r *container.Resources) *[]container.DeviceValue { return &r.BlockReadOps }, container.ParseOpsRate)},
		{"device-write-bps", "", "list", "Limit write rate (bytes per second) to a device", devices(func(r *container.Resources) *[]container.DeviceValue { return &r.BlockWriteBytes }, container.ParseByteRate)},
		{"device-write-iops", "", "list", "Limit write rate (IO per second) to a device", devices(func(r *container.Resources) *[]container.DeviceValue { return &r.BlockWriteOps }, container.ParseOpsRate)},
		{"kernel-memory", "", "bytes", "Kernel memory limit (discarded: Linux has none since 5.16; --memory counts the kernel's memory, too)", bytesOf(func(o *options) *int64 { return &o.kernelMemory })},
		{"memory-swappiness", "", "int", "Tune container memory swappiness (0 to 100)", set(func(o *options, v string) error {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < -1 || n > 100 {
				return errdef.New(errdef.Invalid, "Invalid value: %s, valid memory swappiness range is 0-100", v)
			}
			if limits(o).MemorySwappiness = &n; n == -1 { // docker's word for the host's own
				limits(o).MemorySwappiness = nil
			}
			return nil
		})},
		{"oom-kill-disable", "", "", "Disable OOM Killer", boolean(func(o *options) *bool { return &limits(o).OOMKillDisable })},
		{"storage-opt", "", "list", "Storage driver options for the container (size=BYTES)", set(func(o *options, v string) (err error) {
			o.config.StorageBytes, err = container.ParseStorage(v)
			return err
		})},
	}...)
}

func bytesOf(at func(o *options) *int64) func(*call, string) error {
	return set(func(o *options, v string) (err error) {
		*at(o), err = container.ParseBytes(v)
		return err
	})
}

func microseconds(at func(o *options) *int64) func(*call, string) error {
	return set(func(o *options, v string) error {
		n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		*at(o) = n
		return err
	})
}
