// Command powercut cuts the power of a file system under a working berth, over and over, and checks what is there after
// the journal's replay: blobs match their digests, layers are whole, and what a command had reported done is done: images, containers and
// networks that were reported are there, what a container had written is, too, and whatever is there works. Three workers pull, load, import,
// build, commit, tag, remove and prune at once, and run or create containers; in every third cycle the first of them moves the containers between
// storage drivers. After every hundredth cut all is removed, and what is left then is something that no prune sees.
//
// The cut of an ext4 or xfs is its ioctl for a shutdown without a flush of the journal: what it had not written is lost. That of a btrfs seals the
// file beneath it against all writing, and a copy of the file is what is mounted then. A disk that loses what it has acknowledged, or reorders
// it, is not tested. It needs root and the file system's mkfs; BERTH_SHORT=1 makes a tenth of the cuts.
//
// With -remote it is another machine that loses its power as a whole, at once and unasked (SysRq b). Its value is the command
// that starts this program with -agent there, as root.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/test/ownnet"

	"golang.org/x/sys/unix"
)

func main() {
	program := flag.String("berth", "bin/berth", "the program to test")
	cuts := flag.Int("cuts", 0, "how many cuts; 0: 2000 of an ext4, 400 of another, and a tenth with BERTH_SHORT set")
	kind := flag.String("filesystem", "ext4", "that loses its power: ext4, xfs or btrfs")
	seed := flag.Int64("seed", time.Now().UnixNano(), "of the random numbers")
	inside := flag.String("inside", "", "internal: the scratch directory, in namespaces of its own")
	outer := flag.String("outer", "", "internal: the pid namespace outside")
	other := flag.String("remote", "", "the command that starts the agent on a machine that is to lose its power")
	isAgent := flag.Bool("agent", false, "be the agent on the machine that is to lose its power")
	longest := flag.Duration("longest", 250*time.Millisecond, "between a boot and a cut")
	keep := flag.String("keep", "", "stop at the first violation, and copy the data root to this directory")
	flag.Parse()
	if *isAgent {
		if err := agent(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "powercut:", err)
			os.Exit(1)
		}
		return
	}
	if *cuts == 0 {
		*cuts = 400
		if *kind == "ext4" {
			*cuts = 2000
		}
		if os.Getenv("BERTH_SHORT") != "" {
			*cuts /= 10
		}
	}
	var err error
	switch {
	case *other != "":
		err = runRemote(*program, strings.Fields(*other), *cuts, *longest, *seed)
	case *inside == "":
		err = enclose(*program, *kind, *keep, *cuts, *longest, *seed)
	default:
		err = run(*inside, *outer, *kind, *keep, *cuts, *longest, *seed)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "powercut:", err)
		os.Exit(1)
	}
}

// enclose starts this program again as the first process of its own pid, mount and network namespaces: all that it starts dies with
// it, and its mounts and networks are nobody else's.
func enclose(program, kind, keep string, cuts int, longest time.Duration, seed int64) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("cannot test: root is needed to mount a file system")
	}
	root := os.Getenv("TMPDIR")
	if root == "" {
		root = "/dev/shm"
	}
	dir, err := os.MkdirTemp(root, "berth-powercut-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "berth"), data, 0o755); err != nil {
		return err
	}
	outer, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return err
	}
	fmt.Printf("seed %d\n", seed)
	cmd := exec.Command("/proc/self/exe", "-inside", dir, "-outer", outer, "-filesystem", kind, "-keep", keep, "-cuts", strconv.Itoa(cuts), "-longest", longest.String(), "-seed", strconv.FormatInt(seed, 10))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	return cmd.Run()
}

// enough violations say what there is to say.
const enough = 40

func run(dir, outer, kind, keep string, cuts int, longest time.Duration, seed int64) error {
	// What follows kills every process that it sees.
	if here, err := os.Readlink("/proc/self/ns/pid"); err != nil || os.Getpid() != 1 || here == outer {
		return fmt.Errorf("cannot test: this is no pid namespace of its own")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	if err := ownnet.Uplink(); err != nil {
		return err
	}
	if err := serveImages(); err != nil {
		return err
	}
	d, err := newDisk(dir, kind)
	if err != nil {
		return err
	}
	m := &local{dir, d}
	t, err := newTest(m, dir, m.berth, longest, seed)
	if err != nil {
		return err
	}
	t.keep = keep
	return t.run(cuts)
}

// runRemote cuts another machine's power.
func runRemote(program string, start []string, cuts int, longest time.Duration, seed int64) error {
	dir, err := os.MkdirTemp("", "berth-powercut-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "berth"), data, 0o755); err != nil {
		return err
	}
	if err := serveImages(); err != nil {
		return err
	}
	fmt.Printf("seed %d\n", seed)
	m := &remote{start: start}
	if err := m.connect(); err != nil {
		return err
	}
	here := func(args ...string) (string, error) { return berthIn(dir, args...) }
	t, err := newTest(m, dir, here, longest, seed)
	if err != nil {
		return err
	}
	if err := m.sync(); err != nil { // what the machine itself needs to come back
		return err
	}
	t.everyCut = true
	return t.run(cuts)
}

func (t *test) run(cuts int) error {
	began := time.Now()
	for i := range cuts {
		if err := t.cycle(); err != nil {
			return fmt.Errorf("cut %d: %w", i+1, err)
		}
		if t.violations >= enough || t.violations > 0 && t.keep != "" {
			break
		}
		if t.everyCut {
			fmt.Printf("cut %d of %d after %v: %d commands done, %d interrupted, %d violations\n", t.cuts, cuts,
				time.Since(began).Round(time.Second), t.done.Load(), t.interrupted.Load(), t.violations)
		}
	}
	took := time.Since(began)
	fmt.Printf("%d cuts in %v (%.1f a second), %d commands done, %d interrupted, %d violations\n",
		t.cuts, took.Round(time.Second), float64(t.cuts)/took.Seconds(), t.done.Load(), t.interrupted.Load(), t.violations)
	if t.unmountable > 0 {
		fmt.Printf("after %d cuts the kernel could not mount what it had written\n", t.unmountable)
	}
	if t.unmountable > cuts/20 {
		return fmt.Errorf("too few of the cuts say anything")
	}
	var verbs []string
	for verb, n := range t.finished {
		verbs = append(verbs, fmt.Sprintf("%d %s", n, verb))
	}
	slices.Sort(verbs)
	fmt.Printf("done: %s\n", strings.Join(verbs, ", "))
	if t.violations > 0 {
		return fmt.Errorf("%d violations", t.violations)
	}
	return nil
}
