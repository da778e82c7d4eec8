// Command crash kills commands of berth, and monitors, right after each of their system calls in turn, and checks from
// fresh processes that nothing that was reported is lost, that everything works, and that nothing is left when all has been
// removed. It does so as root and as a user without root: one with subordinate ids, if this host has such a user, else one who has one id.
// It needs root; BERTH_SHORT=1 takes some thirty system calls of each command instead of all.
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

	"berth/test/ordinary"
	"berth/test/ownnet"
	"berth/test/registry"
	"berth/test/tiny"
)

func main() {
	program := flag.String("berth", "bin/berth", "the program to test")
	only := flag.String("only", "", "only scenarios whose name contains this")
	jobs := flag.Int("jobs", 2, "how many commands are killed at the same time")
	kills := flag.Int("kills", 0, "how many kills are spread over a command; 0: all that there are, or 30 with BERTH_SHORT set")
	flag.Parse()
	if *kills == 0 && os.Getenv("BERTH_SHORT") != "" {
		*kills = 30
	}
	if err := run(*program, *only, *jobs, *kills); err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		os.Exit(1)
	}
}

// never is a number of system calls that nothing makes.
const never = 1 << 40

func run(program, only string, parallel, kills int) error {
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
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	user, restore, err := without()
	if err != nil {
		return err
	}
	defer restore()
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
	if err := writeSources(dir); err != nil {
		return err
	}
	var list []job
	rootless := userScenarios(user)
	if user != nil {
		rootless = append(rootless, changeScenarios(dir, true)...)
	}
	for _, s := range append(jobs(false, append(scenarios(archive, reference), changeScenarios(dir, false)...)), jobs(true, rootless)...) {
		if strings.Contains(s.name, only) {
			list = append(list, s)
		}
	}
	work := make(chan job)
	var wg sync.WaitGroup
	var mu sync.Mutex
	total, violations, began := 0, 0, time.Now()
	for i := range parallel {
		wg.Go(func() {
			// A tracer waits for every child of its thread, which must therefore have no child of another job's.
			runtime.LockOSThread()
			instances := map[bool]*instance{} // root's, and the user's
			for s := range work {
				n, bad, err := 0, 0, error(nil)
				in := instances[s.asUser]
				if in == nil {
					name, whose := fmt.Sprint("root", i), (*ordinary.User)(nil)
					if s.asUser {
						name, whose = fmt.Sprint("user", i), user
					}
					in, err = newInstance(filepath.Join(dir, name), program, whose)
				}
				if err == nil {
					instances[s.asUser] = in
					n, bad, err = in.series(s.scenario, kills)
				}
				mu.Lock()
				total, violations = total+n, violations+bad
				if err != nil {
					violations++
					fmt.Printf("%s: %v\n", s.name, err)
				}
				mu.Unlock()
				if err != nil {
					delete(instances, s.asUser)
					if err := in.end(); err != nil {
						fmt.Println(err)
					}
				}
			}
			for _, in := range instances {
				if err := in.end(); err != nil {
					fmt.Println(err)
				}
			}
		})
	}
	for _, s := range list {
		work <- s
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
func (in *instance) series(s scenario, kills int) (n, violations int, err error) {
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
	if kills > 0 {
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
	fmt.Printf("%-36s %4d system calls, %4d kills, %d violations, %v\n", s.name, o.calls, n, violations, time.Since(began).Round(time.Second))
	return n, violations, nil
}
