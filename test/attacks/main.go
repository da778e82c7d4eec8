// Command attacks takes berth's defences away, one at a time, and requires that the test of the attack then fails: a test
// that passes without the defence shows nothing. The files stay as they are; the compiler reads changed ones in their place
// (go build -overlay).
//
// It needs root, for attacks that only root's containers allow, and works in a mount namespace with a /dev/null of its own:
// what is harmed without a defence is not the host's. BERTH_SHORT=1 takes one defence of each class. The table is in
// mutants_runtime.go, mutants_images.go and mutants_networks.go; docs/attacks.md explains it.
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
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	only := flag.String("only", "", "only mutants whose class and name contain this")
	jobs := flag.Int("jobs", 2, "how many are tried at the same time")
	inside := flag.String("inside", "", "internal: the scratch directory, in a mount namespace of its own")
	flag.Parse()
	var err error
	if *inside == "" {
		err = enclose()
	} else {
		err = run(*inside, *only, *jobs, os.Getenv("BERTH_SHORT") != "")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "attacks:", err)
		os.Exit(1)
	}
}

// enclose starts this program again in a mount namespace of its own.
func enclose() error {
	if os.Geteuid() != 0 {
		return errors.New("cannot test: root is needed for containers of root")
	}
	dir, err := os.MkdirTemp("", "berth-attacks-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("/proc/self/exe", append([]string{"-inside", dir}, os.Args[1:]...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	return cmd.Run()
}

// ownNull puts a null device of this namespace's over the host's.
func ownNull(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	place := filepath.Join(dir, "dev")
	if err := os.Mkdir(place, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", place, "tmpfs", 0, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	null := filepath.Join(place, "null")
	if err := errors.Join(unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.Chmod(null, 0o666)); err != nil {
		return os.NewSyscallError("mknod", err)
	}
	return os.NewSyscallError("mount", unix.Mount(null, "/dev/null", "", unix.MS_BIND, ""))
}

// kernelSettings are what an attack that succeeds may change in the kernel; they are put back after each.
var kernelSettings = [...]string{"/proc/sys/kernel/core_pattern", "/proc/sys/net/ipv4/ip_default_ttl"}

func remember() (restore func() error, err error) {
	var values [len(kernelSettings)][]byte
	for i, path := range kernelSettings {
		if values[i], err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	return func() (err error) {
		for i, path := range kernelSettings {
			now, readErr := os.ReadFile(path)
			err = errors.Join(err, readErr)
			if string(now) != string(values[i]) {
				err = errors.Join(err, os.WriteFile(path, values[i], 0))
			}
		}
		return errors.Join(err, unix.Chmod("/dev/null", 0o666), unix.Chown("/dev/null", 0, 0))
	}, nil
}

func run(dir, only string, jobs int, short bool) error {
	if err := ownNull(dir); err != nil {
		return err
	}
	restore, err := remember()
	if err != nil {
		return err
	}
	chosen := choose(only, short)
	b, err := newBench(dir)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := b.baseline(chosen); err != nil {
		return err
	}
	fmt.Printf("every test passes with all defences (%v)\n", time.Since(began).Round(time.Second))
	work := make(chan mutant)
	var wg sync.WaitGroup
	var mu sync.Mutex
	survived, broken := 0, 0
	for worker := range jobs {
		wg.Go(func() {
			for m := range work {
				killed, why, err := b.try(m, worker)
				mu.Lock()
				switch {
				case err != nil:
					broken++
					fmt.Printf("ERROR    %s: %v\n", m, err)
				case killed:
					fmt.Printf("killed   %s: %s: %.160s\n", m, m.test, why)
				default:
					survived++
					fmt.Printf("SURVIVED %s: %s passes without it\n", m, m.test)
				}
				if err := restore(); err != nil {
					broken++
					fmt.Printf("ERROR    cannot put the kernel's settings back: %v\n", err)
				}
				mu.Unlock()
			}
		})
	}
	for _, m := range chosen {
		work <- m
	}
	close(work)
	wg.Wait()
	fmt.Printf("%d defences taken away, %d noticed by their tests, %d survived, %d errors, %v\n",
		len(chosen), len(chosen)-survived-broken, survived, broken, time.Since(began).Round(time.Second))
	if survived+broken > 0 {
		return errors.New("a test of an attack shows nothing, or its mutant no longer fits the code")
	}
	return nil
}

// choose takes the mutants that were asked for: all, or the first of each class.
func choose(only string, short bool) []mutant {
	var out []mutant
	last := 0
	for _, m := range slices.Concat(runtimeMutants(), imageMutants(), buildMutants(), networkMutants()) {
		if !strings.Contains(m.String(), only) || short && m.class == last {
			continue
		}
		last = m.class
		out = append(out, m)
	}
	return out
}
