package spec_test

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/runtime/spec"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const allCaps = 1<<(unix.CAP_CHECKPOINT_RESTORE+1) - 1

func facts() host.Facts {
	return host.Facts{
		Arch: "amd64", Kernel: host.Version{Major: 6, Minor: 18}, Caps: allCaps, Bounding: allCaps, LastCap: unix.CAP_CHECKPOINT_RESTORE,
		Cgroup: host.CgroupUnified, MaxFiles: 1 << 20, Seccomp: true, LastGroup: math.MaxInt32,
	}
}

// input is `run --network none IMAGE sh` with what change adds.
func input(change func(*spec.Input)) spec.Input {
	in := spec.Input{
		ID: "0123456789abcdef0123456789abcdef", Host: facts(), User: container.User{Home: "/root"},
		Config: container.Config{Command: []string{"sh"}, Network: "none"},
	}
	if change != nil {
		change(&in)
	}
	return in
}

func build(t *testing.T, change func(*spec.Input)) *specs.Spec {
	t.Helper()
	b, err := spec.Build(input(change))
	if err != nil {
		t.Fatal(err)
	}
	return b.Spec
}

// refused checks that a container is refused as invalid, with a text that users of docker know.
func refused(t *testing.T, want string, change func(*spec.Input)) {
	t.Helper()
	_, err := spec.Build(input(change))
	if !errdef.Is(err, errdef.Invalid) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an invalid request with %q", err, want)
	}
}

func TestCapabilities(t *testing.T) {
	defaults := "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP"
	for _, c := range []struct {
		summary, add, drop string
		privileged         bool
		want               string
		number             int // instead of want
	}{
		{"Docker's fourteen by default", "", "", false, defaults, 0},
		{"One more", "SYS_ADMIN", "", false, strings.Replace(defaults, "MKNOD", "SYS_ADMIN MKNOD", 1), 0},
		{"One less", "", "NET_RAW", false, strings.Replace(defaults, "NET_RAW ", "", 1), 0},
		{"A name in small letters and with CAP_", "", "cap_net_raw", false, strings.Replace(defaults, "NET_RAW ", "", 1), 0},
		{"None", "", "ALL", false, "", 0},
		{"None but one", "NET_RAW", "ALL", false, "NET_RAW", 0},
		{"None but one, in small letters", "net_raw", "all", false, "NET_RAW", 0},
		{"All", "ALL", "", false, "", 41},
		{"All but one", "ALL", "SYS_ADMIN", false, "", 40},
		{"All wins over none", "ALL", "ALL", false, "", 41},
		{"One that is there is added again", "CHOWN", "", false, defaults, 0},
		{"Privileged has all", "", "", true, "", 41},
		{"Privileged has all, whatever is dropped", "", "NET_RAW ALL", true, "", 41},
		{"What is added and dropped is added", "NET_ADMIN CHOWN", "NET_ADMIN CHOWN", false, strings.Replace(defaults, "NET_RAW", "NET_ADMIN NET_RAW", 1), 0},
	} {
		t.Run(c.summary, func(t *testing.T) {
			cfg := container.Config{CapAdd: strings.Fields(c.add), CapDrop: strings.Fields(c.drop), Privileged: c.privileged}
			got, err := spec.Capabilities(cfg, facts())
			if err != nil {
				t.Fatal(err)
			}
			if c.number > 0 {
				if len(got) != c.number {
					t.Errorf("got %d: %q", len(got), got)
				}
				return
			}
			if text := strings.ReplaceAll(strings.Join(got, " "), "CAP_", ""); text != c.want {
				t.Errorf("got  %s\nwant %s", text, c.want)
			}
		})
	}
}

func TestUnknownCapabilityIsNamedWithItsFlag(t *testing.T) {
	refused(t, `invalid --cap-add: unknown capability: "CAP_FLY"`, func(in *spec.Input) { in.Config.CapAdd = []string{"fly"} })
	refused(t, `invalid --cap-drop: unknown capability: "CAP_FLY"`, func(in *spec.Input) { in.Config.CapDrop = []string{"CAP_FLY"} })
}

func TestCapabilitiesStayWithinTheBoundingSetOfTheHost(t *testing.T) {
	h := facts()
	h.Bounding &^= 1 << unix.CAP_NET_RAW
	for _, c := range []container.Config{{}, {Privileged: true}, {CapAdd: []string{"ALL"}}} {
		got, err := spec.Capabilities(c, h)
		if err != nil || slices.Contains(got, "CAP_NET_RAW") || !slices.Contains(got, "CAP_CHOWN") {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}

func TestOnlyRootHasCapabilitiesInEffect(t *testing.T) {
	root := build(t, nil).Process.Capabilities
	if len(root.Bounding) != 14 || len(root.Effective) != 14 || len(root.Permitted) != 14 || len(root.Inheritable)+len(root.Ambient) != 0 {
		t.Errorf("root has %+v", root)
	}
	other := build(t, func(in *spec.Input) { in.User.UID = 1000 }).Process.Capabilities
	if len(other.Bounding) != 14 || len(other.Effective)+len(other.Permitted)+len(other.Inheritable)+len(other.Ambient) != 0 {
		t.Errorf("another user has %+v", other)
	}
}

func TestEnvironment(t *testing.T) {
	const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, c := range []struct {
		summary string
		change  func(*spec.Input)
		want    []string
	}{
		{"Docker's own variables", nil, []string{path, "HOSTNAME=0123456789ab", "HOME=/root"}},
		{"TERM goes with a terminal", func(in *spec.Input) { in.Config.TTY = true }, []string{path, "HOSTNAME=0123456789ab", "TERM=xterm", "HOME=/root"}},
		{"A variable replaces docker's in its place", func(in *spec.Input) {
			in.Config.Env = []string{"A=1", "PATH=/bin", "HOSTNAME=x", "B="}
		}, []string{"PATH=/bin", "HOSTNAME=x", "A=1", "B=", "HOME=/root"}},
		{"The later of two wins", func(in *spec.Input) { in.Config.Env = []string{"A=1", "A=2"} }, []string{path, "HOSTNAME=0123456789ab", "A=2", "HOME=/root"}},
		{"The name of one begins that of another", func(in *spec.Input) { in.Config.Env = []string{"AB=1", "A=2"} }, []string{path, "HOSTNAME=0123456789ab", "AB=1", "A=2", "HOME=/root"}},
		{"HOME is the caller's", func(in *spec.Input) { in.Config.Env = []string{"HOME=/x"} }, []string{path, "HOSTNAME=0123456789ab", "HOME=/x"}},
		{"The host's name is not told apart where the container has it", func(in *spec.Input) { in.Config.UTS = "host" }, []string{path, "HOME=/root"}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			if got := build(t, c.change).Process.Env; !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestHostname(t *testing.T) {
	for _, c := range []struct {
		summary string
		config  container.Config
		want    string
		uts     bool
	}{
		{"The short ID", container.Config{}, "0123456789ab", true},
		{"What is asked for", container.Config{Hostname: "box"}, "box", true},
		{"The host's, with its network", container.Config{Network: "host"}, "", true},
		{"What is asked for, with the host's network", container.Config{Network: "host", Hostname: "box"}, "box", true},
		{"The host's own", container.Config{UTS: "host"}, "", false},
		{"Another container's, with its network", container.Config{Network: "container:1", Hostname: "other"}, "other", true},
		{"The host's, with the network of a container on the host's", container.Config{Network: "container:1"}, "", true},
	} {
		t.Run(c.summary, func(t *testing.T) {
			s := build(t, func(in *spec.Input) { c.config.Command = []string{"sh"}; in.Config = c.config })
			own := slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UTSNamespace })
			if s.Hostname != c.want || own != c.uts {
				t.Errorf("host name %q, uts namespace %v", s.Hostname, own)
			}
		})
	}
}

func TestNamespaces(t *testing.T) {
	for _, c := range []struct {
		summary string
		change  func(*spec.Input)
		want    string
	}{
		{"All but user", nil, "mount pid network ipc uts cgroup"},
		{"Those of the host", func(in *spec.Input) {
			in.Config.Network, in.Config.PID, in.Config.IPC, in.Config.UTS, in.Config.Cgroupn = "host", "host", "host", "host", "host"
		}, "mount"},
		{"Privileged has its own control groups, of version 1 as well", func(in *spec.Input) {
			in.Config.Privileged, in.Host.Cgroup = true, host.CgroupV1
		}, "mount pid network ipc uts cgroup"},
		{"Privileged has its own of version 2", func(in *spec.Input) { in.Config.Privileged = true }, "mount pid network ipc uts cgroup"},
		{"A user namespace with maps", func(in *spec.Input) { in.UIDMaps = []specs.LinuxIDMapping{{Size: 1}} }, "mount pid network ipc uts cgroup user"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			var got []string
			for _, n := range build(t, c.change).Linux.Namespaces {
				got = append(got, string(n.Type))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	infinity := ^uint64(0)
	for _, c := range []struct {
		summary string
		max     uint64
		ulimits []container.Ulimit
		want    []specs.POSIXRlimit
	}{
		{"Few open files, more for who asks", 1 << 20, nil, []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 524288}}},
		{"No more than the host allows", 4096, nil, []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 4096}}},
		{"Even less than usual", 512, nil, []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 512, Hard: 512}}},
		{"What the caller says", 1 << 20, []container.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}, {Name: "core", Soft: -1, Hard: -1}}, []specs.POSIXRlimit{
			{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}, {Type: "RLIMIT_CORE", Soft: infinity, Hard: infinity},
		}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			got := build(t, func(in *spec.Input) { in.Host.MaxFiles, in.Config.Ulimits = c.max, c.ulimits }).Process.Rlimits
			if !slices.Equal(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestResources(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		summary string
		asked   container.Resources
		want    string // JSON, without devices
	}{
		{"None", container.Resources{}, `{}`},
		{"As much swap as memory", container.Resources{MemoryBytes: gib}, `{"memory":{"limit":1073741824,"swap":2147483648}}`},
		{"No swap", container.Resources{MemoryBytes: gib, MemorySwapBytes: gib}, `{"memory":{"limit":1073741824,"swap":1073741824}}`},
		{"Swap without limit", container.Resources{MemoryBytes: gib, MemorySwapBytes: -1}, `{"memory":{"limit":1073741824,"swap":-1}}`},
		{"One and a half CPUs", container.Resources{NanoCPUs: 1_500_000_000}, `{"cpu":{"quota":150000,"period":100000}}`},
		{"The least share of a CPU", container.Resources{NanoCPUs: 10_000_000}, `{"cpu":{"quota":1000,"period":100000}}`},
		{"Shares and a set", container.Resources{CPUShares: 512, CPUSet: "0-1"}, `{"cpu":{"shares":512,"cpus":"0-1"}}`},
		{"Processes", container.Resources{PidsLimit: 100}, `{"pids":{"limit":100}}`},
		{"Processes without limit", container.Resources{PidsLimit: -1}, `{"pids":{"limit":-1}}`},
		{"A period and a quota", container.Resources{CPUPeriod: 50_000, CPUQuota: 25_000}, `{"cpu":{"quota":25000,"period":50000}}`},
		{"Real-time tasks", container.Resources{CPURealtimePeriod: 100, CPURealtimeRuntime: 50}, `{"cpu":{"realtimeRuntime":50,"realtimePeriod":100}}`},
		{"Nodes of memory", container.Resources{CPUSetMemory: "0"}, `{"cpu":{"mems":"0"}}`},
		{
			"What memory is beside its limit",
			container.Resources{MemoryReservationBytes: gib, MemorySwappiness: new(int64), OOMKillDisable: true},
			`{"memory":{"reservation":1073741824,"swappiness":0,"disableOOMKiller":true}}`,
		},
		{"A weight, and that of a device", container.Resources{BlockWeight: 300, BlockWeightDevices: []container.DeviceValue{{Path: "/dev/a", Value: 500}}}, `{"blockIO":{"weight":300,"weightDevice":[{"major":8,"minor":1,"weight":500}]}}`},
		{"The rate of a device", container.Resources{BlockReadBytes: []container.DeviceValue{{Path: "/dev/a", Value: 1024}}}, `{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":1,"rate":1024}]}}`},
		{"The least memory", container.Resources{MemoryBytes: 6 << 20}, `{"memory":{"limit":6291456,"swap":12582912}}`},
	} {
		t.Run(c.summary, func(t *testing.T) {
			r := build(t, func(in *spec.Input) {
				in.Config.Resources, in.BlockDevices = c.asked, map[string]spec.Number{"/dev/a": {Major: 8, Minor: 1}}
			}).Linux.Resources
			r.Devices = nil
			got, err := json.Marshal(r)
			if err != nil || string(got) != c.want {
				t.Errorf("got %s (%v), want %s", got, err, c.want)
			}
		})
	}
}

func TestDevices(t *testing.T) {
	mode := func(rules []specs.LinuxDeviceCgroup) string {
		var out []string
		for _, r := range rules {
			s := "deny"
			if r.Allow {
				s = "allow"
			}
			number := func(n *int64) string {
				if n == nil {
					return "*"
				}
				b, _ := json.Marshal(*n)
				return string(b)
			}
			out = append(out, s+" "+r.Type+number(r.Major)+":"+number(r.Minor)+" "+r.Access)
		}
		return strings.Join(out, "\n")
	}
	fuse := specs.LinuxDevice{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}
	s := build(t, func(in *spec.Input) {
		in.Devices = []spec.Device{{LinuxDevice: fuse, Access: "rw"}}
		in.HostDevices = []specs.LinuxDevice{{Path: "/dev/mem", Type: "c", Major: 1, Minor: 1}}
	})
	want := "deny *:* rwm\nallow c*:* m\nallow b*:* m\nallow c1:3 rwm\nallow c1:5 rwm\nallow c1:7 rwm\nallow c1:8 rwm\nallow c1:9 rwm\n" +
		"allow c5:0 rwm\nallow c5:1 rwm\nallow c5:2 rwm\nallow c136:* rwm\nallow c10:229 rw"
	if got := mode(s.Linux.Resources.Devices); got != want {
		t.Errorf("rules:\n%s\nwant:\n%s", got, want)
	}
	if len(s.Linux.Devices) != 1 || s.Linux.Devices[0].Path != "/dev/fuse" {
		t.Errorf("devices %+v", s.Linux.Devices)
	}
	s = build(t, func(in *spec.Input) { in.Config.Privileged, in.HostDevices = true, []specs.LinuxDevice{fuse} })
	if got := mode(s.Linux.Resources.Devices); got != "allow *:* rwm" || len(s.Linux.Devices) != 1 {
		t.Errorf("privileged: %s and %+v", got, s.Linux.Devices)
	}
}

func TestSeccompIsChosen(t *testing.T) {
	own := `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}`
	for _, c := range []struct {
		summary string
		change  func(*spec.Input)
		filter  bool
		calls   int // 0: many
	}{
		{"Docker's filter by default", nil, true, 0},
		{"None when unconfined", func(in *spec.Input) { in.Config.Security.Seccomp = "unconfined" }, false, 0},
		{"None when privileged", func(in *spec.Input) { in.Config.Privileged = true }, false, 0},
		{"The caller's", func(in *spec.Input) { in.Config.Security.Seccomp = own }, true, 1},
		{"The caller's when privileged, too", func(in *spec.Input) { in.Config.Security.Seccomp, in.Config.Privileged = own, true }, true, 1},
		{"None where the kernel has none", func(in *spec.Input) { in.Host.Seccomp = false }, false, 0},
	} {
		t.Run(c.summary, func(t *testing.T) {
			f := build(t, c.change).Linux.Seccomp
			if (f != nil) != c.filter {
				t.Fatalf("filter %+v", f)
			}
			calls := 0
			if f != nil {
				for _, s := range f.Syscalls {
					calls += len(s.Names)
				}
			}
			if f != nil && (c.calls > 0 && calls != c.calls || c.calls == 0 && calls < 200) {
				t.Errorf("it names %d system calls", calls)
			}
		})
	}
	if _, err := spec.Build(input(func(in *spec.Input) { in.Config.Security.Seccomp = "{" })); err == nil {
		t.Error("a broken profile is accepted")
	}
}

func TestPrivilegedIsNotProtected(t *testing.T) {
	if l := build(t, nil).Linux; len(l.MaskedPaths) == 0 || len(l.ReadonlyPaths) == 0 {
		t.Errorf("a plain container has %q masked and %q read-only", l.MaskedPaths, l.ReadonlyPaths)
	}
	for _, change := range []func(*spec.Input){
		func(in *spec.Input) { in.Config.Privileged = true },
		func(in *spec.Input) { in.Config.Security.UnmaskAll = true },
	} {
		if l := build(t, change).Linux; len(l.MaskedPaths)+len(l.ReadonlyPaths) != 0 {
			t.Errorf("%q masked and %q read-only", l.MaskedPaths, l.ReadonlyPaths)
		}
	}
}

func TestCommand(t *testing.T) {
	refused(t, "no command specified", func(in *spec.Input) { in.Config.Command = nil })
	refused(t, "'work' is invalid, it needs to be an absolute path", func(in *spec.Input) { in.Config.Workdir = "work" })
	p := build(t, func(in *spec.Input) {
		in.Config.Entrypoint, in.Config.Command, in.Config.Init, in.InitProgram = []string{"/entry"}, []string{"a"}, true, "/data/init"
	}).Process
	if !slices.Equal(p.Args, []string{"/sbin/docker-init", "--", "/entry", "a"}) || p.Cwd != "/" {
		t.Errorf("arguments %q in %s", p.Args, p.Cwd)
	}
}

func TestAppArmor(t *testing.T) {
	for _, c := range []struct {
		summary string
		change  func(*spec.Input)
		want    string
	}{
		{"The host has none", nil, ""},
		{"The default profile", func(in *spec.Input) { in.Host.AppArmor = true }, "berth-default"},
		{"Unconfined", func(in *spec.Input) { in.Host.AppArmor, in.Config.Security.AppArmor = true, "unconfined" }, ""},
		{"Privileged", func(in *spec.Input) { in.Host.AppArmor, in.Config.Privileged = true, true }, ""},
		{"Without root nobody may load the default", func(in *spec.Input) { in.Host.AppArmor, in.Host.Rootless = true, true }, ""},
		{"One that is asked for, privileged", func(in *spec.Input) {
			in.Host.AppArmor, in.Config.Privileged, in.Config.Security.AppArmor = true, true, "mine"
		}, "mine"},
		{"One that is asked for, without root", func(in *spec.Input) {
			in.Host.AppArmor, in.Host.Rootless, in.Config.Security.AppArmor = true, true, "mine"
		}, "mine"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			if got := build(t, c.change).Process.ApparmorProfile; got != c.want {
				t.Errorf("profile %q, not %q", got, c.want)
			}
		})
	}
	_, err := spec.Build(input(func(in *spec.Input) { in.Config.Security.AppArmor = "mine" }))
	if !errdef.Is(err, errdef.Unsupported) {
		t.Errorf("a profile on a host without AppArmor: %v", err)
	}
}

func TestSysctls(t *testing.T) {
	if s := build(t, nil).Linux.Sysctl; len(s) != 0 {
		t.Errorf("a container without a network has %v", s)
	}
	s := build(t, func(in *spec.Input) {
		in.Config.Network, in.Config.Networks = "bridge", []container.Endpoint{{Network: "bridge"}}
		in.Config.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "1024", "kernel.sem": "1"}
	}).Linux.Sysctl
	if len(s) != 3 || s["net.ipv4.ip_unprivileged_port_start"] != "1024" || s["net.ipv4.ping_group_range"] != "0 2147483647" || s["kernel.sem"] != "1" {
		t.Errorf("sysctls %v", s)
	}
	// The other container's, which may have the host's.
	if s := build(t, func(in *spec.Input) { in.Config.Network = container.ShareNetwork("0123") }).Linux.Sysctl; len(s) != 0 {
		t.Errorf("a container in the network of another one has %v", s)
	}
}
