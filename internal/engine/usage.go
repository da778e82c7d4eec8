package engine

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/runtime/cgroup"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// Usage is what a container uses at a moment. The zero value is one that does not run.
type Usage struct {
	cgroup.Usage
	Taken               time.Time
	ReceivedBytes, Sent uint64 // of all interfaces but the loopback
}

// Usage reads what a container uses. Without a control group it is added up from its processes: what those have used that are gone,
// and were nobody's children, is not known.
func (e *Engine) Usage(c *state.Container) (Usage, error) {
	p, err := e.process(c)
	if errdef.Is(err, errdef.Conflict) {
		return Usage{}, nil
	}
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Taken: time.Now()}
	if g, err := cgroup.Open(e.Host(), p.Cgroup); err == nil {
		u.Usage = g.Usage()
	} else {
		u.Usage = sumOf(membersByNamespace(p.PID))
	}
	if c.Config.Network != container.NetworkHost {
		data, _ := os.ReadFile(procFile(p.PID, "net/dev")) // if it has ended meanwhile, that is found out below
		u.ReceivedBytes, u.Sent = traffic(string(data))
	}
	fd := p.Open()
	if fd < 0 {
		return Usage{}, nil
	}
	return u, unix.Close(fd)
}

// Members are the processes of a running container, by their numbers on this host.
func (e *Engine) Members(c *state.Container) ([]int, error) {
	p, err := e.process(c)
	if err != nil {
		return nil, err
	}
	g, err := cgroup.Open(e.Host(), p.Cgroup)
	if err != nil || !g.Exists() {
		return membersByNamespace(p.PID), nil
	}
	return g.PIDs()
}

func procFile(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

// membersByNamespace are the processes in the pid namespace of pid, or, if that is ours, pid and its descendants.
func membersByNamespace(pid int) []int {
	its, err := os.Readlink(procFile(pid, "ns/pid"))
	if err != nil {
		return nil
	}
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	in := map[int]bool{pid: true}
	for more := true; more; {
		more = false
		for _, e := range entries {
			n, err := strconv.Atoi(e.Name())
			if err != nil || in[n] {
				continue
			}
			member := false
			if its == ours {
				parent, _ := strconv.Atoi(statFields(n)[1])
				member = in[parent]
			} else {
				ns, err := os.Readlink(procFile(n, "ns/pid"))
				member = err == nil && ns == its
			}
			if member {
				in[n], more = true, its == ours
			}
		}
	}
	var all []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && in[n] {
			all = append(all, n)
		}
	}
	return all
}

// statFields are the fields of /proc/PID/stat from the third on (proc_pid_stat(5)); all are empty if there is no such process.
func statFields(pid int) []string {
	data, err := os.ReadFile(procFile(pid, "stat"))
	f := make([]string, 50)
	if err != nil {
		return f
	}
	text := string(data)
	copy(f, strings.Fields(text[strings.LastIndexByte(text, ')')+1:])) // the name before may hold anything
	return f
}

// sumOf adds up what processes use.
func sumOf(pids []int) (u cgroup.Usage) {
	number := func(s string) uint64 {
		n, _ := strconv.ParseUint(s, 10, 64) // nothing of one that is gone
		return n
	}
	for _, pid := range pids {
		f := statFields(pid)
		for _, ticks := range f[11:15] { // utime, stime, cutime, cstime
			u.CPU += time.Duration(number(ticks)) * time.Second / state.TicksPerSecond
		}
		u.PIDs += number(f[17])
		u.MemoryBytes += number(f[21]) * uint64(os.Getpagesize())
		data, err := os.ReadFile(procFile(pid, "io"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			switch name, value, _ := strings.Cut(strings.TrimSpace(line), ": "); name {
			case "read_bytes":
				u.ReadBytes += number(value)
			case "write_bytes":
				u.WrittenBytes += number(value)
			}
		}
	}
	return u
}

// traffic adds up the bytes of /proc/net/dev.
func traffic(text string) (received, sent uint64) {
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !ok || strings.TrimSpace(name) == "lo" || len(f) < 9 {
			continue
		}
		r, _ := strconv.ParseUint(f[0], 10, 64)
		s, _ := strconv.ParseUint(f[8], 10, 64)
		received, sent = received+r, sent+s
	}
	return received, sent
}

// MemoryBytes is how much memory this host has.
func MemoryBytes() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}
