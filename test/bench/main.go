// Command bench runs berth beside its peers, in alternation in one run, and prints medians, minima and ratios. It judges
// nothing, and is no test: `make bench` on a quiet machine, as root, with crun, runc, podman and bubblewrap installed; what is
// not installed is left out, and said.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/internal/container"
	"berth/internal/host"
	"berth/internal/runtime/spec"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// contender is a command to be timed.
type contender struct {
	name string
	argv []string
}

var rounds = flag.Int("n", 30, "rounds")

func main() {
	flag.Parse()
	if err := run(flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(berth string) error {
	if berth == "" || os.Geteuid() != 0 {
		return fmt.Errorf("usage, as root: bench [-n ROUNDS] BERTH")
	}
	berth, err := filepath.Abs(berth)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name, value := range map[string]string{"BERTH_DATA_ROOT": dir + "/d", "BERTH_RUN_ROOT": dir + "/r"} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	if out, err := exec.Command(berth, "run", "--rm", "--network", "none", "box", "true").CombinedOutput(); err != nil {
		return fmt.Errorf("berth does not run: %w: %s", err, out)
	}
	root, err := rootFS(dir)
	if err != nil {
		return err
	}
	if err := bundles(dir, root, berth); err != nil {
		return err
	}
	if err := engines(dir, root, berth); err != nil {
		return err
	}
	return starts(dir, berth)
}

// rootFS is the tree of the box image, for those who take a directory.
func rootFS(dir string) (string, error) {
	trees, err := filepath.Glob(dir + "/d/layers/*/tree")
	if err != nil || len(trees) != 1 {
		return "", fmt.Errorf("cannot find the tree of the box image: %v %w", trees, err)
	}
	root := dir + "/rootfs"
	return root, exec.Command("cp", "-a", trees[0], root).Run()
}

// bundles compares the bare runtimes, on the bundle of `runc spec` and on one as docker makes it. crun 1.8 refuses a version 2
// hierarchy beside version 1: the runtimes run in a mount namespace without it.
func bundles(dir, root, berth string) error {
	plain, realistic := dir+"/plain", dir+"/realistic"
	for _, b := range []string{plain, realistic} {
		if err := os.MkdirAll(b, 0o755); err != nil {
			return err
		}
	}
	built, err := spec.Build(spec.Input{ID: "bench", Host: host.Probe(), Config: container.Config{Command: []string{"/bin/true"}, Network: "none"}, User: container.User{Home: "/"}})
	if err != nil {
		return err
	}
	full := built.Spec
	full.Version, full.Root.Path, full.Linux.CgroupsPath, full.Hostname = "1.0.2", root, "", "bench"
	if err := write(realistic, full); err != nil {
		return err
	}
	bare := &specs.Spec{
		Version: "1.0.2", Hostname: "bench", Root: &specs.Root{Path: root, Readonly: true},
		Process: &specs.Process{Args: []string{"/bin/true"}, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{}},
		Mounts:  full.Mounts,
		Linux:   &specs.Linux{Namespaces: full.Linux.Namespaces, MaskedPaths: full.Linux.MaskedPaths, ReadonlyPaths: full.Linux.ReadonlyPaths},
	}
	if err := write(plain, bare); err != nil {
		return err
	}
	for _, b := range []struct{ name, dir string }{{"plain bundle", plain}, {"bundle with docker's filter, capabilities, limits", realistic}} {
		within := func(argv ...string) []string {
			script := "mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec \"$@\""
			return append([]string{"unshare", "-m", "sh", "-c", script, "sh"}, argv...)
		}
		compare(b.name, []contender{
			{"berth", within(berth, "runtime", "run", "-b", b.dir, "bench-berth")},
			{"crun", within("crun", "run", "-b", b.dir, "bench-crun")},
			{"runc", within("runc", "run", "-b", b.dir, "bench-runc")},
			{"(the wrapper alone)", within("true")},
		})
	}
	return nil
}

func write(dir string, s *specs.Spec) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(dir+"/config.json", data, 0o644)
}

// engines compares run --rm and exec.
func engines(dir, root, berth string) error {
	podman := []string{"podman", "--root", dir + "/p", "--runroot", dir + "/q", "--tmpdir", dir + "/t", "--cgroup-manager", "cgroupfs", "--storage-driver", "overlay"}
	with := func(argv ...string) []string { return append(slices.Clone(podman), argv...) }
	havePodman := false
	if _, err := exec.LookPath("podman"); err == nil {
		tar := exec.Command("sh", "-c", "tar -C "+root+" -c . | "+strings.Join(with("import", "-", "localhost/box"), " "))
		out, err := tar.CombinedOutput()
		if havePodman = err == nil; !havePodman {
			fmt.Printf("podman left out: %s\n", strings.TrimSpace(string(out)))
		}
	}
	runs := []contender{
		{"berth", []string{berth, "run", "--rm", "--network", "none", "box", "/bin/true"}},
		{"bubblewrap", []string{"bwrap", "--unshare-all", "--bind", root, "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"}},
	}
	if havePodman {
		runs = append(runs, contender{"podman", with("run", "--rm", "--network", "none", "localhost/box", "/bin/true")})
	}
	compare("run --rm", runs)
	if out, err := exec.Command(berth, "run", "-d", "--name", "bench", "--network", "none", "box", "sleep", "1000").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	defer func() { _ = exec.Command(berth, "rm", "-f", "bench").Run() }()
	execs := []contender{{"berth", []string{berth, "exec", "bench", "/bin/true"}}}
	if havePodman {
		argv := with("run", "-d", "--name", "bench", "--network", "none", "localhost/box", "/bin/sleep", "1000")
		if err := exec.Command(argv[0], argv[1:]...).Run(); err == nil {
			defer func() {
				argv := with("rm", "-f", "-t", "0", "bench")
				_ = exec.Command(argv[0], argv[1:]...).Run()
			}()
			execs = append(execs, contender{"podman", with("exec", "bench", "/bin/true")})
		}
	}
	compare("exec", execs)
	memory("monitor", "berth-monitor", dir)
	memory("conmon", "conmon", dir)
	return nil
}

// memory prints what the processes of a program whose command line names dir have for themselves.
func memory(name, program, dir string) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if _, notPID := strconv.Atoi(e.Name()); notPID != nil || err != nil || !strings.Contains(string(line), program) || !strings.Contains(string(line), dir) {
			continue
		}
		rollup, _ := os.ReadFile("/proc/" + e.Name() + "/smaps_rollup")
		for l := range strings.Lines(string(rollup)) {
			if strings.HasPrefix(l, "Private_Dirty:") || strings.HasPrefix(l, "Pss:") {
				fmt.Printf("  %-28s %s", name, l)
			}
		}
	}
}

// starts compares the start of commands with that of a Go program that does nothing.
func starts(dir, berth string) error {
	source := dir + "/empty/main.go"
	if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		return err
	}
	empty := dir + "/empty/empty"
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", empty, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	compare("start", []contender{
		{"berth version", []string{berth, "version"}},
		{"berth ps", []string{berth, "ps"}},
		{"berth images", []string{berth, "images"}},
		{"berth ps --format (full)", []string{berth, "ps", "--format", "{{.ID}}"}},
		{"an empty Go program", []string{empty}},
	})
	return nil
}

// compare times the contenders in turn, after a round that does not count, and prints medians, minima and the ratio of the
// first one's median to each.
func compare(what string, all []contender) {
	fmt.Printf("%s (%d rounds)\n", what, *rounds)
	all = slices.DeleteFunc(all, func(c contender) bool {
		err := exec.Command(c.argv[0], c.argv[1:]...).Run()
		if err != nil {
			fmt.Printf("  %-28s left out: %v\n", c.name, err)
		}
		return err != nil
	})
	times := make([][]time.Duration, len(all))
	for range *rounds {
		for i, c := range all {
			cmd := exec.Command(c.argv[0], c.argv[1:]...)
			begin := time.Now()
			if err := cmd.Run(); err == nil {
				times[i] = append(times[i], time.Since(begin))
			}
		}
	}
	var first time.Duration
	for i, c := range all {
		if len(times[i]) == 0 {
			continue
		}
		slices.Sort(times[i])
		median := times[i][len(times[i])/2]
		if i == 0 {
			first = median
		}
		fmt.Printf("  %-28s median %8.2f ms   min %8.2f ms   berth/this %.2f\n", c.name,
			float64(median.Microseconds())/1000, float64(times[i][0].Microseconds())/1000, float64(first)/float64(median))
	}
}
