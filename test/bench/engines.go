package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"berth/internal/container"
	"berth/internal/host"
	"berth/internal/runtime/spec"
	"berth/test/tiny"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// bundles compares the bare runtimes, on the bundle of `runc spec` and on one as docker makes it, and with bubblewrap.
func (b *bench) bundles() error {
	plain, realistic := b.dir+"/plain", b.dir+"/realistic"
	built, err := spec.Build(spec.Input{ID: "bench", Host: host.Probe(), Config: container.Config{Command: []string{tiny.Program}, Network: "none"}, User: container.User{Home: "/"}})
	if err != nil {
		return err
	}
	full := built.Spec
	full.Version, full.Root.Path, full.Linux.CgroupsPath, full.Hostname = "1.0.2", b.root, "", "bench"
	if err := write(realistic, full); err != nil {
		return err
	}
	bare := &specs.Spec{
		Version: "1.0.2", Hostname: "bench", Root: &specs.Root{Path: b.root, Readonly: true},
		Process: &specs.Process{Args: []string{tiny.Program}, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{}},
		Mounts:  full.Mounts,
		Linux:   &specs.Linux{Namespaces: full.Linux.Namespaces, MaskedPaths: full.Linux.MaskedPaths, ReadonlyPaths: full.Linux.ReadonlyPaths},
	}
	if err := write(plain, bare); err != nil {
		return err
	}
	for _, bundle := range []struct{ name, dir string }{{"plain bundle", plain}, {"bundle with docker's filter, capabilities, limits", realistic}} {
		if err := compare(bundle.name, *rounds, []contender{
			{name: "berth", argv: []string{b.berth, "runtime", "run", "-b", bundle.dir, "bench-berth"}},
			{name: "crun", argv: []string{"crun", "run", "-b", bundle.dir, "bench-crun"}},
			{name: "runc", argv: []string{"runc", "run", "-b", bundle.dir, "bench-runc"}},
			b.bubblewrap(),
		}); err != nil {
			return err
		}
	}
	return nil
}

func write(bundle string, s *specs.Spec) error {
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		return err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(bundle+"/config.json", data, 0o644)
}

// bubblewrap makes the same namespaces and the mounts that its users give it.
func (b *bench) bubblewrap() contender {
	return contender{name: "bubblewrap", argv: []string{"bwrap", "--unshare-all", "--bind", b.root, "/", "--proc", "/proc", "--dev", "/dev", tiny.Program}}
}

func (b *bench) run() error {
	all := []contender{
		{name: "berth", argv: []string{b.berth, "run", "--rm", "--network", "none", "tiny", tiny.Program}},
		b.bubblewrap(),
	}
	if b.podman != nil {
		all = append(all, contender{name: "podman", argv: with(b.podman, "run", "--rm", "--network", "none", "localhost/tiny", tiny.Program)})
	}
	return compare("run --rm --network none", *rounds, all)
}

func (b *bench) exec() error {
	stop, err := b.sleepers(1)
	if err != nil {
		return err
	}
	defer stop()
	all := []contender{{name: "berth", argv: []string{b.berth, "exec", "bench0", tiny.Program}}}
	if b.podman != nil {
		all = append(all, contender{name: "podman", argv: with(b.podman, "exec", "bench0", tiny.Program)})
	}
	return compare("exec", *rounds, all)
}

// memory compares what the process per container has for itself, with ten containers running.
func (b *bench) memory() error {
	const running = 10
	stop, err := b.sleepers(running)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Printf("memory of the process per container (%d running)\n", running)
	for _, program := range []string{"berth-monitor", "conmon"} {
		dirty, pss, err := footprint(program)
		if err != nil {
			return err
		}
		if len(dirty) > 0 {
			fmt.Printf("  %-28s private dirty: median %5d KiB, max %5d KiB   proportional: median %5d KiB\n", program,
				dirty[len(dirty)/2], dirty[len(dirty)-1], pss[len(pss)/2])
		}
	}
	return nil
}

// sleepers starts containers named bench0, bench1, ... that do nothing, with berth and podman.
func (b *bench) sleepers(n int) (stop func(), err error) {
	remove := [][]string{{b.berth, "rm", "-f"}}
	if b.podman != nil {
		remove = append(remove, with(b.podman, "rm", "-f", "-t", "0"))
	}
	stop = func() {
		for i := range n {
			for _, r := range remove {
				_ = exec.Command(r[0], append(slices.Clone(r[1:]), fmt.Sprint("bench", i))...).Run()
			}
		}
	}
	for i := range n {
		name := fmt.Sprint("bench", i)
		commands := [][]string{{b.berth, "run", "-d", "--name", name, "--network", "none", "tiny", tiny.Pause}}
		if b.podman != nil {
			commands = append(commands, with(b.podman, "run", "-d", "--name", name, "--network", "none", "localhost/tiny", tiny.Pause))
		}
		for _, c := range commands {
			if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
				stop()
				return nil, fmt.Errorf("%s: %w: %s", c[0], err, out)
			}
		}
	}
	return stop, nil
}

// footprint is the private dirty and the proportional memory, in KiB and sorted, of each process of that program.
func footprint(program string) (dirty, pss []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil {
			continue // not a process, or none any more
		}
		name, _, _ := strings.Cut(string(line), "\x00")
		if filepath.Base(name) != program {
			continue
		}
		rollup, err := os.ReadFile("/proc/" + e.Name() + "/smaps_rollup")
		if err != nil {
			return nil, nil, err
		}
		for l := range strings.Lines(string(rollup)) {
			fields := strings.Fields(l)
			if len(fields) < 2 {
				continue
			}
			n, _ := strconv.Atoi(fields[1])
			switch fields[0] {
			case "Private_Dirty:":
				dirty = append(dirty, n)
			case "Pss:":
				pss = append(pss, n)
			}
		}
	}
	slices.Sort(dirty)
	slices.Sort(pss)
	return dirty, pss, nil
}

// starts compares the start of commands with that of a Go program that does nothing.
func (b *bench) starts() error {
	source := b.dir + "/empty/main.go"
	if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		return err
	}
	empty := b.dir + "/empty/empty"
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", empty, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return compare("start", *rounds, []contender{
		{name: "an empty Go program", argv: []string{empty}},
		{name: "berth version", argv: []string{b.berth, "version"}},
		{name: "berth ps", argv: []string{b.berth, "ps"}},
		{name: "berth images", argv: []string{b.berth, "images"}},
		{name: "berth run --help", argv: []string{b.berth, "run", "--help"}},
		{name: "berth exec --help", argv: []string{b.berth, "exec", "--help"}},
		{name: "berth pull --help (full)", argv: []string{b.berth, "pull", "--help"}},
		{name: "berth ps --format (full)", argv: []string{b.berth, "ps", "--format", "{{.ID}}"}},
	})
}
