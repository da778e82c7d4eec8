package plan

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// scheduling says when and where a process runs, while it still has the rights to ask for more than it will have.
func (c *compiler) scheduling(p *specs.Process) error {
	if p.Scheduler != nil {
		c.from("scheduler")
		attr, text, err := schedAttr(p.Scheduler)
		if err != nil {
			return err
		}
		what := "be scheduled by " + string(p.Scheduler.Policy)
		if r := c.spec.Linux.Resources; r != nil && r.CPU != nil && r.CPU.Cpus != "" && p.Scheduler.Policy == specs.SchedDeadline {
			// sched_setattr(2), EPERM: such a process may run on every processor of the system.
			what += " (this process scheduler can't be used together with AllowedCPUs, resources.cpu.cpus)"
		}
		c.do(what, callSchedSetattr, num(0), Bytes{attr, text}, num(0))
	}
	if p.IOPriority != nil {
		c.from("io priority")
		class, ok := ioClasses[p.IOPriority.Class]
		if !ok {
			return fmt.Errorf("there is no class of I/O priority %q", p.IOPriority.Class)
		}
		if n := p.IOPriority.Priority; n < 0 || n > 7 {
			return fmt.Errorf("the I/O priority %d is not between 0 and 7", n)
		}
		// ioprio_set(2): the class is above bit 13; 1 is IOPRIO_WHO_PROCESS.
		c.do("have an I/O priority", callIoprioSet, flags(1, "IOPRIO_WHO_PROCESS"), num(0),
			flags(class<<13|p.IOPriority.Priority, fmt.Sprintf("%s, %d", p.IOPriority.Class, p.IOPriority.Priority)))
	}
	if m := c.spec.Linux.MemoryPolicy; m != nil {
		c.from("memory policy")
		return c.memoryPolicy(m)
	}
	return nil
}

// ioClasses are of linux/ioprio.h.
var ioClasses = map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}

// schedAttr is struct sched_attr (sched_setattr(2)).
func schedAttr(s *specs.Scheduler) (attr []byte, text string, _ error) {
	policy, ok := map[specs.LinuxSchedulerPolicy]uint32{
		specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3, specs.SchedISO: 4, specs.SchedIdle: 5, specs.SchedDeadline: 6,
	}[s.Policy]
	if !ok {
		return nil, "", fmt.Errorf("there is no scheduling policy %q", s.Policy)
	}
	realtime, deadline := s.Policy == specs.SchedFIFO || s.Policy == specs.SchedRR, s.Policy == specs.SchedDeadline
	switch {
	case s.Nice < -20 || s.Nice > 19:
		return nil, "", fmt.Errorf("the nice value %d is not between -20 and 19", s.Nice)
	case s.Priority != 0 && !realtime:
		return nil, "", fmt.Errorf("%s has no priority: that is for SCHED_FIFO and SCHED_RR", s.Policy)
	case s.Priority < 0 || s.Priority > 99:
		return nil, "", fmt.Errorf("the priority %d is not between 0 and 99", s.Priority)
	case !deadline && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0):
		return nil, "", fmt.Errorf("%s has no runtime, deadline and period: they are for SCHED_DEADLINE", s.Policy)
	}
	var bits uint64
	for _, f := range s.Flags {
		n, ok := map[specs.LinuxSchedulerFlag]uint64{
			specs.SchedFlagResetOnFork: 1, specs.SchedFlagReclaim: 2, specs.SchedFlagDLOverrun: 4, specs.SchedFlagKeepPolicy: 8,
			specs.SchedFlagKeepParams: 0x10, specs.SchedFlagUtilClampMin: 0x20, specs.SchedFlagUtilClampMax: 0x40,
		}[f]
		if !ok {
			return nil, "", fmt.Errorf("there is no scheduling flag %q", f)
		}
		bits |= n
	}
	attr = binary.NativeEndian.AppendUint32(nil, 56)
	attr = binary.NativeEndian.AppendUint32(attr, policy)
	attr = binary.NativeEndian.AppendUint64(attr, bits)
	attr = binary.NativeEndian.AppendUint32(attr, uint32(s.Nice))
	attr = binary.NativeEndian.AppendUint32(attr, uint32(s.Priority))
	for _, n := range []uint64{s.Runtime, s.Deadline, s.Period, 0} { // the last two halves are utilization clamps, which the spec has no words for
		attr = binary.NativeEndian.AppendUint64(attr, n)
	}
	return attr, fmt.Sprintf("{%s, flags=%#x, nice=%d, priority=%d, runtime=%d, deadline=%d, period=%d}", s.Policy, bits, s.Nice, s.Priority, s.Runtime, s.Deadline, s.Period), nil
}

// memoryModes and memoryFlags are of linux/mempolicy.h.
var (
	memoryModes = map[specs.MemoryPolicyModeType]int{
		specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3, specs.MpolLocal: 4, specs.MpolPreferredMany: 5,
		specs.MpolWeightedInterleave: 6,
	}
	memoryFlags = map[specs.MemoryPolicyFlagType]int{specs.MpolFStaticNodes: 1 << 15, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFNumaBalancing: 1 << 13}
)

// MemoryPolicies are the modes and flags of memory policies that Compile knows.
func MemoryPolicies() (modes, flags []string) {
	for _, m := range sortedKeys(memoryModes) {
		modes = append(modes, string(m))
	}
	for _, f := range sortedKeys(memoryFlags) {
		flags = append(flags, string(f))
	}
	return modes, flags
}

func (c *compiler) memoryPolicy(m *specs.LinuxMemoryPolicy) error {
	mode, ok := memoryModes[m.Mode]
	if !ok {
		return fmt.Errorf("invalid memory policy mode: there is no %q", m.Mode)
	}
	for _, f := range m.Flags {
		n, ok := memoryFlags[f]
		if !ok {
			return fmt.Errorf("invalid memory policy flag: there is no %q", f)
		}
		mode |= n
	}
	what := "have the memory policy " + string(m.Mode)
	if m.Nodes == "" {
		c.do(what, callSetMempolicy, num(mode), null, num(0))
		return nil
	}
	mask, err := numbers(m.Nodes)
	if err != nil {
		return fmt.Errorf("invalid memory policy nodes %q: %w", m.Nodes, err)
	}
	c.do(what, callSetMempolicy, num(mode), Bytes{mask, m.Nodes}, num(8*len(mask)+1)) // the kernel takes one bit less than it is told
	return nil
}

// affinity is on which processors a further process runs: before it is in the container's control group, and there.
func (c *compiler) affinity(what, list string) error {
	mask, err := numbers(list)
	if err != nil {
		return fmt.Errorf("the processors %q of execCPUAffinity: %w", list, err)
	}
	c.do(what, callSetaffinity, num(0), num(len(mask)), Bytes{mask, list})
	return nil
}

// lastNumber is the highest number of a processor or node: more than any kernel has (8192 processors, 1024 nodes).
const lastNumber = 8191

// numbers is a set of numbers such as "0-3,7" (cpuset(7), "List format"), as the kernel takes it: a bit each, in whole words.
func numbers(list string) ([]byte, error) {
	mask := make([]byte, 0, 8)
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || from > to || to > lastNumber {
			return nil, fmt.Errorf("%q is not a number or a range of at most %d", part, lastNumber)
		}
		for len(mask) <= int(to)/64*8 {
			mask = append(mask, make([]byte, 8)...)
		}
		for n := from; n <= to; n++ {
			word := mask[n/64*8:][:8]
			binary.NativeEndian.PutUint64(word, binary.NativeEndian.Uint64(word)|1<<(n%64))
		}
	}
	return mask, nil
}

// timeOffsets sets the clocks of a new time namespace, as long as nobody is in it, and enters it. The host's /proc is still there.
func (c *compiler) timeOffsets() error {
	clocks := c.spec.Linux.TimeOffsets
	c.from("time namespace")
	if len(clocks) > 0 {
		text := ""
		for _, clock := range sortedKeys(clocks) {
			if clock != "monotonic" && clock != "boottime" {
				return fmt.Errorf("there is no clock %q in a time namespace: there are monotonic and boottime", clock)
			}
			if clocks[clock].Nanosecs > 999_999_999 {
				return fmt.Errorf("the offset of %s has %d nanoseconds, which is a second or more", clock, clocks[clock].Nanosecs)
			}
			text += fmt.Sprintf("%s %d %d\n", clock, clocks[clock].Secs, clocks[clock].Nanosecs)
		}
		fd := c.get("offsets", "open the clocks of the new time namespace", callOpenat, atFDCWD, Str("/proc/self/timens_offsets"), flags(unix.O_WRONLY|unix.O_CLOEXEC, "O_WRONLY|O_CLOEXEC"))
		c.do("set them", callWrite, fd, Bytes{[]byte(text), fmt.Sprintf("%q", text)}, num(len(text)))
		c.do("done with it", callClose, fd)
	}
	fd := c.get("ns", "open the new time namespace", callOpenat, atFDCWD, Str("/proc/self/ns/time_for_children"), flags(unix.O_RDONLY|unix.O_CLOEXEC, "O_RDONLY|O_CLOEXEC"))
	c.do("enter it", callSetns, fd, flags(unix.CLONE_NEWTIME, "CLONE_NEWTIME"))
	c.do("done with it", callClose, fd)
	return nil
}
