package cgroup

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/host"
)

// files writes the files of a group.
func files(t *testing.T, dir string, content map[string]string) {
	t.Helper()
	for name, text := range content {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStatsOfVersion2AreInTheWordsOfVersion1(t *testing.T) {
	dir := t.TempDir()
	files(t, dir, map[string]string{
		"cpu.stat":            "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 3\nthrottled_usec 7\n",
		"cpu.pressure":        "some avg10=1.50 avg60=0.25 avg300=0.00 total=99\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
		"memory.stat":         "anon 5\nfile 6\n",
		"memory.current":      "100\n",
		"memory.max":          "1000\n",
		"memory.peak":         "300\n",
		"memory.events":       "low 0\nmax 8\noom 0\n",
		"memory.swap.current": "11\n",
		"memory.swap.max":     "500\n",
		"pids.current":        "2\n",
		"pids.max":            "max\n",
		"io.stat":             "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n",
		"hugetlb.2MB.current": "7\n", "hugetlb.2MB.events": "max 1\n", "hugetlb.2MB.rsvd.current": "1\n",
	})
	g := &Group{host: host.Facts{Cgroup: host.CgroupUnified}, v2: dir}
	text, err := json.Marshal(g.Stats())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"cpu":{"usage":{"total":30000,"kernel":10000,"user":20000},"throttling":{"periods":4,"throttledPeriods":3,"throttledTime":7000},"psi":{"some":{"avg10":1.5,"avg60":0.25,"avg300":0,"total":99},"full":{"avg10":0,"avg60":0,"avg300":0,"total":5}}}`,
		`"memory":{"cache":6,"usage":{"limit":1000,"usage":100,"max":300,"failcnt":8},"swap":{"limit":1500,"usage":111,"failcnt":0}`,
		`"raw":{"anon":5,"file":6}`,
		`"pids":{"current":2}`,
		`"ioServiceBytesRecursive":[{"major":8,"minor":16,"op":"Read","value":1},{"major":8,"minor":16,"op":"Write","value":2},{"major":8,"minor":16,"op":"Discard","value":5}]`,
		`"ioServicedRecursive":[{"major":8,"minor":16,"op":"Read","value":3}`,
		`"hugetlb":{"2MB":{"usage":7,"failcnt":1}}`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s\nlacks %s", text, want)
		}
	}
	files(t, dir, map[string]string{"memory.max": "max\n"})
	if s := g.Stats(); s.Memory.Usage.Limit != 1<<64-1 || s.Memory.Swap.Limit != 1<<64-1 {
		t.Errorf("without a limit of memory the limits are %d and %d, want the largest number", s.Memory.Usage.Limit, s.Memory.Swap.Limit)
	}
}

func TestStatsOfVersion1(t *testing.T) {
	dir := t.TempDir()
	files(t, dir, map[string]string{
		"cpuacct.usage": "9\n", "cpuacct.usage_percpu": "4 5 \n", "cpuacct.usage_all": "cpu user system\n0 1 2\n1 3 4\n", "cpuacct.stat": "user 2\nsystem 3\n",
		"cpuset.cpus": "0-1,3\n", "cpuset.mems": "0\n", "cpuset.sched_relax_domain_level": "-1\n", "cpuset.sched_load_balance": "1\n",
		"memory.limit_in_bytes": "64\n", "memory.usage_in_bytes": "32\n", "memory.max_usage_in_bytes": "33\n", "memory.failcnt": "2\n", "memory.stat": "cache 4\nrss 5\n",
		"pids.current": "1\n", "pids.max": "12\n",
		"blkio.throttle.io_service_bytes_recursive": "8:0 Read 1\n8:0 Total 1\nTotal 1\n",
	})
	g := &Group{host: host.Facts{Cgroup: host.CgroupV1}, v1: []directory{{dir, "/", []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio"}}}}
	text, err := json.Marshal(g.Stats())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"usage":{"total":9,"percpu":[4,5],"percpu_kernel":[2,4],"percpu_user":[1,3],"kernel":30000000,"user":20000000}`,
		`"cpuset":{"cpus":[0,1,3],"cpu_exclusive":0,"mems":[0]`, `"sched_load_balance":1,"sched_relax_domain_level":-1`,
		`"memory":{"cache":4,"usage":{"limit":64,"usage":32,"max":33,"failcnt":2}`, `"raw":{"cache":4,"rss":5}`,
		`"pids":{"current":1,"limit":12}`, `"ioServiceBytesRecursive":[{"major":8,"op":"Read","value":1},{"major":8,"op":"Total","value":1}]}`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s\nlacks %s", text, want)
		}
	}
}

func TestGroupsBelow(t *testing.T) {
	cpu, pids := t.TempDir(), t.TempDir()
	for _, dir := range []string{cpu, pids} {
		if err := os.MkdirAll(dir+"/both", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(cpu+"/one", 0o755); err != nil {
		t.Fatal(err)
	}
	g := &Group{host: host.Facts{Cgroup: host.CgroupV1}, path: "/c", v1: []directory{{cpu, "/", []string{"cpu", "cpuacct"}}, {pids, "/", []string{"pids"}}}}
	for _, c := range []struct {
		summary string
		wanted  []string
		want    []string
		err     string
	}{
		{"A path is one in every hierarchy", []string{"both"}, []string{cpu + "/both", pids + "/both"}, ""},
		{"The root is the container's own", []string{"/"}, []string{cpu, pids}, ""},
		{"With controllers the others stay", []string{"cpu,cpuacct:one"}, []string{cpu + "/one", pids}, ""},
		{"What leads out is refused", []string{".."}, nil, "bad sub cgroup path"},
		{"So is what leads out by a detour", []string{"cpu:both/../.."}, nil, "bad sub cgroup path"},
		{"A controller that there is not", []string{"whaaat:/"}, nil, "unknown controller"},
		{"A group that there is not", []string{"one"}, nil, "error adding pid"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			below, err := g.Below(c.wanted)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("got the error %v, want one with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := below.Paths(); strings.Join(got, " ") != strings.Join(c.want, " ") {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
