package plan_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/internal/container"
	"berth/internal/host"
	"berth/internal/runtime/plan"
	"berth/internal/runtime/spec"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew")

// allCaps is what root has on a host whose newest capability is CAP_CHECKPOINT_RESTORE.
const allCaps = 1<<(unix.CAP_CHECKPOINT_RESTORE+1) - 1

// facts are of a host that can do everything, with control groups of version 1.
func facts(major, minor int) host.Facts {
	return host.Facts{
		Arch: "amd64", Kernel: host.Version{Major: major, Minor: minor}, Caps: allCaps, Bounding: allCaps, LastCap: unix.CAP_CHECKPOINT_RESTORE,
		Cgroup: host.CgroupV1, MaxFiles: 1 << 20, Seccomp: true, LastGroup: 1<<31 - 1,
		CgroupMounts: []host.CgroupMount{{Path: "/sys/fs/cgroup/cpu,cpuacct", Options: "cpu,cpuacct"}, {Path: "/sys/fs/cgroup/systemd", Options: "name=systemd"}},
	}
}

var (
	filter  = plan.Filter{Code: make([]unix.SockFilter, 1), Text: "a filter"}
	overlay = plan.Overlay{Lower: []string{"/data/layers/b", "/data/layers/a"}, Upper: "/data/containers/c/upper", Work: "/data/containers/c/work"}
)

// scene is what a container is made of, before its spec is built and compiled.
type scene struct {
	spec spec.Input
	plan plan.Input
}

// newScene is `run alpine sh` on h, as the engine asks for it.
func newScene(h host.Facts) *scene {
	return &scene{
		spec: spec.Input{
			ID: "0123456789abcdef", Config: container.Config{Command: []string{"sh"}, Network: "none"},
			User: container.User{Groups: []uint32{0, 10}, Home: "/root"}, Host: h, CgroupPath: "/berth/0123456789abcdef",
			Hosts: "/data/containers/c/hosts", HostnameFile: "/data/containers/c/hostname",
		},
		plan: plan.Input{
			Host: h, Overlay: &overlay, MountPoint: "/run/berth/root", Filter: filter, CgroupTasks: 1, Await: true, Network: true, Keyring: "_ses.c",
			FileSources: map[string]bool{"/data/containers/c/hosts": true, "/data/containers/c/hostname": true},
		},
	}
}

func (s *scene) compile(t testing.TB) *plan.Program {
	t.Helper()
	built, err := spec.Build(s.spec)
	if err != nil {
		t.Fatal(err)
	}
	s.plan.Spec, s.plan.Origins = built.Spec, built.Origins
	p, err := plan.Compile(s.plan)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// programs are the cases of the golden files, by the name of the file.
var programs = []struct {
	name, summary string
	make          func(t testing.TB) *plan.Program
}{
	{"default", "A container with nothing asked for, layers given as descriptors", func(t testing.TB) *plan.Program {
		return newScene(facts(6, 18)).compile(t)
	}},
	{"unified", "The control groups of version 2 are one file system", func(t testing.TB) *plan.Program {
		h := facts(6, 18)
		h.Cgroup, h.CgroupMounts = host.CgroupUnified, nil
		return newScene(h).compile(t)
	}},
	{"linux-6.1", "Before Linux 6.13 layers are named by the numbers of their descriptors", func(t testing.TB) *plan.Program {
		return newScene(facts(6, 1)).compile(t)
	}},
	{"linux-5.10", "Before Linux 5.12 attributes of mounts are set by remounting", func(t testing.TB) *plan.Program {
		s := newScene(facts(5, 10))
		s.spec.Config.Mounts = []container.Mount{{Type: container.MountBind, Source: "/src", Target: "/data", ReadOnly: true}}
		return s.compile(t)
	}},
	{"terminal", "The terminal is the container's own, and its first side goes to the parent", func(t testing.TB) *plan.Program {
		s := newScene(facts(6, 18))
		s.spec.Config.TTY = true
		s.spec.User = container.User{UID: 1000, GID: 1000, Home: "/"}
		return s.compile(t)
	}},
	{"rootless", "In a user namespace devices are bound, and the child waits for its id maps", func(t testing.TB) *plan.Program {
		h := facts(6, 18)
		h.UID, h.GID = 1000, 1000
		s := newScene(h)
		s.spec.UIDMaps = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 1}}
		s.spec.GIDMaps = s.spec.UIDMaps
		s.plan.NoSetgroups = true
		o := overlay
		o.UserXattr = true
		s.plan.Overlay, s.plan.CgroupTasks, s.plan.Network, s.plan.Loopback = &o, 0, false, true
		return s.compile(t)
	}},
	{"read-only", "The root is read-only, and so are the files bound over it", func(t testing.TB) *plan.Program {
		s := newScene(facts(6, 18))
		s.spec.Config.ReadOnly = true
		return s.compile(t)
	}},
	{"binds", "A file is bound over a file and a directory over a directory; read-only includes what is mounted below", func(t testing.TB) *plan.Program {
		s := newScene(facts(6, 18))
		s.spec.Config.Mounts = []container.Mount{
			{Type: container.MountBind, Source: "/src/dir", Target: "/data", Origin: "-v /src/dir:/data"},
			{Type: container.MountBind, Source: "/src/file", Target: "/etc/file", ReadOnly: true, Origin: "-v /src/file:/etc/file:ro"},
			{Type: container.MountBind, Source: "/src/shared", Target: "/shared", Propagation: "rshared", NoRecursive: true},
		}
		s.plan.FileSources["/src/file"] = true
		return s.compile(t)
	}},
	{"images", "An image is shown whole, a part of another one over a file", func(t testing.TB) *plan.Program {
		return withImages(t, facts(6, 18))
	}},
	{"images-linux-6.1", "Before Linux 6.13 the layers of images, too, are named by the numbers of their descriptors", func(t testing.TB) *plan.Program {
		return withImages(t, facts(6, 1))
	}},
	{"privileged", "Nothing is masked, no capability is dropped, no call is filtered, every device is there", func(t testing.TB) *plan.Program {
		s := newScene(facts(6, 18))
		s.spec.Config.Privileged = true
		s.spec.HostDevices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
		s.plan.Filter = plan.Filter{}
		return s.compile(t)
	}},
	{"no-new-privileges", "The filter is the last thing before execve, so it need allow nothing else", func(t testing.TB) *plan.Program {
		s := newScene(facts(6, 18))
		s.spec.Config.Security.NoNewPrivileges = true
		return s.compile(t)
	}},
	{"create", "The child reports that it is ready, and waits for the start", func(t testing.TB) *plan.Program {
		s := newScene(facts(6, 18))
		s.plan.Create = true
		return s.compile(t)
	}},
	{"exec", "A further process joins every namespace at once and splits to be in the pid namespace", func(t testing.TB) *plan.Program {
		return compileExec(t, false)
	}},
	{"exec-terminal", "A further process with a terminal opens it in the container", func(t testing.TB) *plan.Program {
		return compileExec(t, true)
	}},
}

func withImages(t testing.TB, h host.Facts) *plan.Program {
	t.Helper()
	s := newScene(h)
	s.spec.Config.Mounts = []container.Mount{
		{Type: container.MountImage, Source: "whole", Target: "/whole", ReadOnly: true, Origin: "--mount type=image,src=whole,dst=/whole"},
		{Type: container.MountImage, Source: "part", Target: "/etc/part", ReadOnly: true, Subpath: "dir/file"},
	}
	s.plan.Images = map[string]plan.Image{
		"/whole":    {Lower: []string{"/data/layers/d", "/data/mountpoints/dev"}},
		"/etc/part": {Lower: []string{"/data/layers/f", "/data/layers/e", "/data/mountpoints/dev"}, File: true},
	}
	return s.compile(t)
}

func compileExec(t testing.TB, tty bool) *plan.Program {
	t.Helper()
	s := newScene(facts(6, 18))
	s.spec.Config.TTY = tty
	process, err := spec.Process(s.spec)
	if err != nil {
		t.Fatal(err)
	}
	if tty {
		process.ConsoleSize = &specs.Box{Height: 24, Width: 80}
	}
	p, err := plan.CompileExec(plan.ExecInput{
		Process: process, Host: s.spec.Host, Filter: filter, CgroupTasks: 1, Keyring: "_ses.c",
		Namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func print(t testing.TB, p *plan.Program) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Print(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestProgramsAreWhatTheGoldenFilesSay(t *testing.T) {
	for _, c := range programs {
		t.Run(c.name, func(t *testing.T) {
			p := c.make(t)
			checkProgram(t, p)
			got := "# " + c.summary + "\n" + print(t, p)
			file := filepath.Join("testdata", c.name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("the program has changed; go test -update writes %s anew, and git diff shows what that means:\n%s", file, firstDifference(got, string(want)))
			}
		})
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "got  " + g[i] + "\nwant " + w[i]
		}
	}
	return "one is the beginning of the other"
}

func TestGoldenFilesBelongToCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, c := range programs {
		known[c.name+".golden"] = true
	}
	for _, f := range files {
		if !known[filepath.Base(f)] {
			t.Errorf("no case writes %s", f)
		}
	}
}

func TestSameInputSameProgram(t *testing.T) {
	make := func() string {
		s := newScene(facts(6, 18))
		s.spec.Config.Sysctls = map[string]string{"net.a": "1", "net.b": "2", "net.c": "3", "net.d": "4", "kernel.sem": "5", "fs.mqueue.x": "6"}
		return print(t, s.compile(t))
	}
	first := make()
	for range 20 {
		if again := make(); again != first {
			t.Fatal("two compilations of one input differ: " + firstDifference(again, first))
		}
	}
}
