// Command crash kills commands of berth, and monitors, right after each of their system calls in turn, and checks from
// fresh processes that nothing that was reported is lost, that everything works, and that nothing is left when all has been
// removed. It needs root; BERTH_SHORT=1 takes some thirty system calls of each command instead of all.
//
// It is no test of what a power cut does (test/powercut): a killed process leaves the kernel's caches as they are.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"berth/test/ownnet"
	"berth/test/registry"
	"berth/test/tiny"
)

func main() {
	program := flag.String("berth", "bin/berth", "the program to test")
	only := flag.String("only", "", "only scenarios whose name contains this")
	jobs := flag.Int("jobs", 2, "how many commands are killed at the same time")
	flag.Parse()
	if err := run(*program, *only, *jobs, os.Getenv("BERTH_SHORT") != ""); err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		os.Exit(1)
	}
}

// never is a number of system calls that nothing makes.
const never = 1 << 40

// kills is how many kills the short form spreads over a command.
const kills = 30

func run(program, only string, jobs int, short bool) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("cannot test: root is needed to trace containers")
	}
	if err := ownnet.Enter(); err != nil {
		return err
	}
	// A kill takes nothing that has been written, on a disk or not; in memory it is five times as quick.
	root := os.Getenv("TMPDIR")
	if root == "" {
		root = "/dev/shm"
	}
	dir, err := os.MkdirTemp(root, "berth-crash-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	archive := filepath.Join(dir, "tiny.tar")
	if err := os.WriteFile(archive, tiny.Image(image, 1), 0o644); err != nil {
		return err
	}
	reference := ""
	switch r, err := registry.Start(dir); {
	case errors.Is(err, registry.ErrNotInstalled):
		fmt.Println("pull: skipped:", err)
	case err != nil:
		return err
	default:
		defer r.Stop()
		config, layers := tiny.Parts(1)
		if err := r.Push("tiny", "v1", config, []registry.Layer{{Data: layers[0]}, {Data: layers[1]}}); err != nil {
			return err
		}
		reference = r.Address + "/tiny:v1"
	}
	work := make(chan scenario)
	var wg sync.WaitGroup
	var mu sync.Mutex
	total, violations, began := 0, 0, time.Now()
	for i := range jobs {
		wg.Go(func() {
			// A tracer waits for every child of its thread, which must therefore have no child of another job's.
			runtime.LockOSThread()
			in, err := newInstance(filepath.Join(dir, fmt.Sprint(i)), program)
			for s := range work {
				var n, bad int
				if err == nil {
					n, bad, err = in.series(s, short)
				}
				mu.Lock()
				total, violations = total+n, violations+bad
				if err != nil {
					violations++
					fmt.Printf("%s: %v\n", s.name, err)
				}
				mu.Unlock()
				if err == nil {
					continue
				}
				err = in.renew()
			}
		})
	}
	for _, s := range scenarios(archive, reference) {
		if strings.Contains(s.name, only) {
			work <- s
		}
	}
	close(work)
	wg.Wait()
	fmt.Printf("%d kills in %v, %d violations\n", total, time.Since(began).Round(time.Second), violations)
	if violations > 0 {
		return fmt.Errorf("%d violations", violations)
	}
	return nil
}

// series kills a scenario's victim after each of its system calls.
func (in *instance) series(s scenario, short bool) (n, violations int, err error) {
	began := time.Now()
	o, wrong, err := in.one(s, never)
	if err != nil {
		return 0, 0, err
	}
	if o.exit != 0 {
		wrong = append(wrong, "it failed: "+strings.TrimSpace(o.stderr))
	}
	if len(wrong) > 0 {
		return 0, 0, fmt.Errorf("not even without a kill: %s", strings.Join(wrong, "; "))
	}
	stride := 1
	if short {
		stride = max(1, o.calls/kills)
	}
	for at := 1; ; at += stride {
		k, wrong, err := in.one(s, at)
		if err != nil {
			return n, violations, err
		}
		for _, w := range wrong {
			fmt.Printf("%s, killed after system call %d: %s\n", s.name, at, w)
		}
		if len(wrong) > 0 {
			violations++
			if err := in.renew(); err != nil {
				return n, violations, err
			}
		}
		if !k.killed {
			break
		}
		n++
	}
	fmt.Printf("%-22s %4d system calls, %4d kills, %d violations, %v\n", s.name, o.calls, n, violations, time.Since(began).Round(time.Second))
	return n, violations, nil
}
