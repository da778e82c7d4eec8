// Command bench runs berth beside its peers, in alternation in one run, and prints medians, minima and ratios. It judges
// nothing, and is no test: `make bench` on a quiet machine, as root, with crun, runc, podman, conmon, bubblewrap, docker-registry
// and skopeo's relatives installed; what is not installed is left out, and said. Parts may be
// named: "traffic" compares what networks carry, "rootless" containers of a user. The part "drivers" compares berth with itself, on a host
// with systemd: `make bench BENCH=drivers`.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

var (
	rounds  = flag.Int("n", 30, "rounds of what takes milliseconds")
	pulls   = flag.Int("pulls", 5, "rounds of pull and of what is done with images; 0 leaves them out")
	program = flag.String("berth", "bin/berth", "the berth to measure")
)

// section is a part of the benchmark, by the name that an argument chooses.
type section struct {
	name string
	run  func(*bench) error
}

var sections = []section{
	{"bundles", (*bench).bundles},
	{"run", (*bench).run},
	{"networks", (*bench).networks},
	{"traffic", (*bench).traffic},
	{"rootless", (*bench).rootless},
	{"exec", (*bench).exec},
	{"containers", (*bench).containers},
	{"copies", (*bench).copies},
	{"builds", (*bench).builds},
	{"memory", (*bench).memory},
	{"start", (*bench).starts},
	{"pull", (*bench).pull},
	{"images", (*bench).images},
}

// bench is what the parts share.
type bench struct {
	dir    string   // short: podman limits the length of its paths
	berth  string   // the program
	root   string   // a tree with programs that do nothing
	podman []string // podman with the flags that keep it in dir; nil where it is not installed or does not work
}

func main() {
	flag.Parse()
	if flag.NArg() == 2 && (flag.Arg(0) == "serve" || measures[flag.Arg(0)] != nil) {
		if err := measureMain(flag.Arg(0), flag.Arg(1)); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if err := start(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func start() error {
	if os.Geteuid() != 0 {
		return errors.New("run it as root: the peers need it")
	}
	if slices.Equal(flag.Args(), []string{driversPart}) {
		return drivers()
	}
	for _, name := range flag.Args() {
		if !slices.ContainsFunc(sections, func(s section) bool { return s.name == name }) {
			return fmt.Errorf("there is no part %q", name)
		}
	}
	if !isolated() {
		return isolate()
	}
	return measure()
}

func measure() (err error) {
	if err := prepare(); err != nil {
		return err
	}
	b := &bench{dir: workDir}
	if b.berth, err = filepath.Abs(*program); err != nil {
		return err
	}
	// The peers are Debian's packages, whatever else somebody has put before them.
	path := "/usr/sbin:/usr/bin:/sbin:/bin:" + os.Getenv("PATH")
	for name, value := range map[string]string{"BERTH_DATA_ROOT": b.dir + "/d", "BERTH_RUN_ROOT": b.dir + "/r", "PATH": path} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	if b.root, err = tree(b.dir); err != nil {
		return err
	}
	image := exec.Command("sh", "-c", "tar -C "+b.root+" -c . | "+b.berth+" import - tiny")
	if out, err := image.CombinedOutput(); err != nil {
		return fmt.Errorf("berth does not import: %w: %s", err, out)
	}
	b.findPodman()
	for _, s := range sections {
		if flag.NArg() > 0 && !slices.Contains(flag.Args(), s.name) {
			continue
		}
		if err := s.run(b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// findPodman gives podman a storage of its own with the same image.
func (b *bench) findPodman() {
	if _, err := exec.LookPath("podman"); err != nil {
		fmt.Println("podman: left out: not installed")
		return
	}
	podman := b.podmanAt("p")
	image := exec.Command("sh", "-c", "tar -C "+b.root+" -c . | "+strings.Join(podman, " ")+" import - localhost/tiny")
	if out, err := image.CombinedOutput(); err != nil {
		fmt.Printf("podman: left out: %v: %s\n", err, out)
		return
	}
	b.podman = podman
}

// podmanAt is podman with its storage in a directory below b.dir.
func (b *bench) podmanAt(name string) []string {
	at := b.dir + "/" + name
	return []string{
		"podman", "--root", at + "/r", "--runroot", at + "/n", "--tmpdir", at + "/t",
		"--cgroup-manager", "cgroupfs", "--storage-driver", "overlay", "--events-backend", "none",
	}
}

// with adds arguments to podman's.
func with(podman []string, argv ...string) []string { return append(slices.Clone(podman), argv...) }
