package plan_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/host"
	"berth/internal/runtime/plan"
	"berth/internal/runtime/spec"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func built(t testing.TB) *specs.Spec {
	t.Helper()
	b, err := spec.Build(newScene(facts(6, 18)).spec)
	if err != nil {
		t.Fatal(err)
	}
	return b.Spec
}

func TestSpecsThatCannotBeCarriedOutAreRefused(t *testing.T) {
	for _, c := range []struct {
		summary string
		change  func(s *specs.Spec)
		want    string
	}{
		{"No process", func(s *specs.Spec) { s.Process = nil }, "no process"},
		{"No arguments", func(s *specs.Spec) { s.Process.Args = nil }, "no arguments"},
		{"No root", func(s *specs.Spec) { s.Root = nil }, "no root"},
		{"No linux part", func(s *specs.Spec) { s.Linux = nil }, "no linux part"},
		{"A relative working directory", func(s *specs.Spec) { s.Process.Cwd = "work" }, `working directory "work"`},
		{"A namespace of no known type", func(s *specs.Spec) { s.Linux.Namespaces[1].Type = "moon" }, `type "moon"`},
		{"Two namespaces of a type", func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[1]) }, "two namespaces"},
		{"No mount namespace", func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, "mount namespace"},
		{"Somebody else's mount namespace", func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/mnt" }, "mount namespace"},
		{"A sysctl of the host", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.panic": "1"} }, `"kernel.panic" belongs to the whole host`},
		{"A sysctl that climbs out", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.../kernel/panic": "1"} }, "belongs to the whole host"},
		{"A sysctl of the network of the host", func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.core.somaxconn": "1"}
			s.Linux.Namespaces = without(s.Linux.Namespaces, specs.NetworkNamespace)
		}, "needs a network namespace"},
		{"A host name without a uts namespace", func(s *specs.Spec) { s.Linux.Namespaces = without(s.Linux.Namespaces, specs.UTSNamespace) }, "needs a uts namespace"},
		{"A domain name without a uts namespace", func(s *specs.Spec) {
			s.Hostname, s.Domainname = "", "example"
			s.Linux.Namespaces = without(s.Linux.Namespaces, specs.UTSNamespace)
		}, "domain name needs a uts namespace"},
		{"An unknown capability", func(s *specs.Spec) { s.Process.Capabilities.Ambient = []string{"CAP_FLY"} }, `no capability "CAP_FLY"`},
		{"A device of an unknown type", func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "q"}} }, `unknown type "q"`},
		{"A device without an absolute path", func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "dev/x", Type: "c"}} }, "no absolute path"},
		{"A mount option without its value", func(s *specs.Spec) { s.Mounts[1].Options = []string{"size="} }, `"size=" of the mount at /dev has no value`},
		{"A tmpfs with content that the parent has not made", func(s *specs.Spec) { s.Mounts[1].Options = []string{"tmpcopyup"} }, `the mount at /dev has not been made`},
		{"Content for what is no tmpfs", func(s *specs.Spec) { s.Mounts[0].Options = []string{"tmpcopyup"} }, `is for a tmpfs alone`},
		{"A mount without a type", func(s *specs.Spec) { s.Mounts[1].Type = "" }, "no type"},
		{"Owners translated in a new file system", func(s *specs.Spec) { s.Mounts[1].UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }, "cannot translate owners"},
		{"Users translated and not groups", func(s *specs.Spec) {
			s.Mounts[1] = specs.Mount{Destination: "/data", Type: "bind", Source: "/data", UIDMappings: []specs.LinuxIDMapping{{Size: 1}}}
		}, "needs both uidMappings and gidMappings"},
		{"Owners translated by nobody", func(s *specs.Spec) {
			s.Mounts[1] = specs.Mount{Destination: "/data", Type: "bind", Source: "/data", Options: []string{"idmap"}}
		}, "the mount at /data has not been made"},
		{"An unknown resource limit", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_FUN"}} }, `"RLIMIT_FUN"`},
		{"Two resource limits of a type", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU"}, {Type: "RLIMIT_CORE"}, {Type: "RLIMIT_CPU"}}
		}, `two limits of type "RLIMIT_CPU"`},
		{"A masked path that is relative", func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"proc/keys"} }, `"proc/keys"`},
		{"A read-only path that is relative", func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"proc/sys"} }, `"proc/sys"`},
		{"A namespace by a relative path", func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "ns/pid" }, `path "ns/pid"`},
		{"An unknown personality", func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "PLAN9"} }, `"PLAN9"`},
		{"Time offsets without a time namespace", func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1}}
		}, "timeOffsets need a time namespace"},
		{"A clock that is not of a time namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"realtime": {Secs: 1}}
		}, `no clock "realtime"`},
		{"A propagation that there is not", func(s *specs.Spec) { s.Linux.RootfsPropagation = "strange" }, `rootfsPropagation is "strange"`},
		{"A class of RDT that leads elsewhere", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: ".."} }, `closID ".."`},
		{"A line of RDT that is none", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{Schemata: []string{"L3"}} }, `the line "L3"`},
		{"A bandwidth that is a cache", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{MemBwSchema: "L3:0=f"} }, "not of MB"},
		{"A scheduling policy that there is not", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_FAIR"} }, `policy "SCHED_FAIR"`},
		{"A nice value out of range", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 20} }, "nice value 20"},
		{"A deadline of another policy", func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Deadline: 3}
		}, "for SCHED_DEADLINE"},
		{"A class of I/O that there is not", func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_SOON"} }, `"IOPRIO_CLASS_SOON"`},
		{"An I/O priority out of range", func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
		}, "I/O priority 8"},
		{"Processors that are no list", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "3-1"} }, `the processors "3-1"`},
		{"A memory policy without a mode", func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} }, "invalid memory policy mode"},
		{"A memory policy that there is not", func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_FAR"} }, `invalid memory policy mode: there is no "MPOL_FAR"`},
		{"Memory nodes that are no list", func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0,99999"}
		}, `invalid memory policy nodes "0,99999"`},
		{"Intel RDT", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} }, "intelRdt is not supported"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			s := built(t)
			c.change(s)
			_, err := plan.Compile(plan.Input{Spec: s, Host: facts(6, 18), Overlay: &overlay, MountPoint: "/m"})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
	if _, err := plan.CompileExec(plan.ExecInput{Process: &specs.Process{}}); err == nil {
		t.Error("exec of nothing is compiled")
	}
}

func without(all []specs.LinuxNamespace, t specs.LinuxNamespaceType) []specs.LinuxNamespace {
	var rest []specs.LinuxNamespace
	for _, n := range all {
		if n.Type != t {
			rest = append(rest, n)
		}
	}
	return rest
}

func TestCommandIsLookedUpInTheContainersOwnPath(t *testing.T) {
	for _, c := range []struct {
		summary, name string
		env           []string
		want          []string
	}{
		{"A name is tried in each directory", "sh", []string{"PATH=/a:/b"}, []string{"/a/sh", "/b/sh"}},
		{"The last PATH counts", "sh", []string{"PATH=/a", "PATH=/b"}, []string{"/b/sh"}},
		{"An empty and a relative directory are the working directory's", "sh", []string{"PATH=:bin"}, []string{"/work/sh", "/work/bin/sh"}},
		{"A path is taken as it is", "./sh", []string{"PATH=/a"}, []string{"./sh"}},
		{"Without PATH there is the usual one", "sh", nil, []string{"/usr/local/sbin/sh", "/usr/local/bin/sh", "/usr/sbin/sh", "/usr/bin/sh", "/sbin/sh", "/bin/sh"}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			s := built(t)
			s.Process.Args, s.Process.Env, s.Process.Cwd = []string{c.name}, c.env, "/work"
			p, err := plan.Compile(plan.Input{Spec: s, Host: facts(6, 18), Overlay: &overlay, MountPoint: "/m"})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, op := range p.Ops {
				if op.Special == plan.Exec {
					got = append(got, string(op.Args[0].(plan.Str)))
				}
			}
			if strings.Join(got, " ") != strings.Join(c.want, " ") {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestCapabilityNames(t *testing.T) {
	for _, name := range []string{"CAP_NET_RAW", "net_raw", "cap_net_raw", "NET_RAW"} {
		if n, ok := plan.CapabilityNumber(name); !ok || n != 13 {
			t.Errorf("%s is %d, %v", name, n, ok)
		}
	}
	if names := plan.CapabilityNames(allCaps); len(names) != 41 || names[0] != "CAP_CHOWN" || names[40] != "CAP_CHECKPOINT_RESTORE" {
		t.Errorf("the capabilities are %q", names)
	}
	if _, ok := plan.CapabilityNumber("ALL"); ok {
		t.Error("ALL is a capability")
	}
}

func FuzzCompile(f *testing.F) {
	for _, name := range []string{"default", "rootless", "terminal", "binds", "privileged"} {
		for _, c := range programs {
			if c.name == name {
				f.Add(specOf(f, name), uint8(6), uint8(18), true)
				f.Add(specOf(f, name), uint8(5), uint8(10), false)
			}
		}
	}
	f.Add([]byte(`{"process":{"args":["a"],"cwd":"/"},"root":{},"linux":{"namespaces":[{"type":"mount"}],"devices":[{"path":"/dev/x","type":"c"}]}}`), uint8(6), uint8(1), true)
	files, _ := filepath.Glob("testdata/*.json")
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil {
			f.Add(data, uint8(6), uint8(1), true)
		}
	}
	f.Fuzz(func(t *testing.T, config []byte, major, minor uint8, layers bool) {
		var s specs.Spec
		if json.Unmarshal(config, &s) != nil {
			return
		}
		h := facts(int(major), int(minor))
		if minor%2 == 1 {
			h.Cgroup = host.CgroupUnified
		}
		in := plan.Input{Spec: &s, Host: h, MountPoint: "/m", Filter: filter, Keyring: "k", Loopback: true, CgroupTasks: 2, Create: layers, Inherit: !layers}
		if layers {
			in.Overlay = &overlay
		}
		p, err := plan.Compile(in)
		if err != nil {
			return
		}
		checkProgram(t, p)
		_ = print(t, p)
		exec, err := plan.CompileExec(plan.ExecInput{Process: s.Process, Host: h, Namespaces: p.CloneFlags, Filter: filter, Keyring: "k"})
		if err != nil {
			t.Fatalf("a process that can be run cannot be run by exec: %v", err)
		}
		checkProgram(t, exec)
		_ = print(t, exec)
	})
}

// specOf is a spec as JSON, for the fuzzer to begin with.
func specOf(f *testing.F, name string) []byte {
	f.Helper()
	s := newScene(facts(6, 18))
	switch name {
	case "rootless":
		s.spec.UIDMaps = []specs.LinuxIDMapping{{HostID: 1000, Size: 1}}
		s.spec.GIDMaps = s.spec.UIDMaps
		s.spec.Config.Privileged = true
		s.spec.HostDevices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
	case "terminal":
		s.spec.Config.TTY = true
	case "privileged":
		s.spec.Config.Privileged = true
	}
	b, err := spec.Build(s.spec)
	if err != nil {
		f.Fatal(err)
	}
	data, err := json.Marshal(b.Spec)
	if err != nil {
		f.Fatal(err)
	}
	return data
}
