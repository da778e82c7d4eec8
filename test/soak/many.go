package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"berth/internal/engine"
)

// crowd is how many containers there are at once, and how many clients work beside them, for how long.
type crowd struct {
	containers, clients int
	during              time.Duration
}

// starters is how many containers of the crowd are started at once: more than this machine has processors.
const starters = 8

// looks is how often each command is timed that looks at the crowd.
const looks = 5

func member(n int) string { return fmt.Sprintf("member%d", n) }

// soakCrowd starts many containers that stay, looks at them, has clients run, exec, stop and remove others beside them, and removes all.
func soakCrowd(program string, c crowd) error {
	in, err := newInstance(program, nil)
	if err != nil {
		return err
	}
	defer in.remove()
	if _, err := in.berth("run", "--rm", "--network", "none", "box", "true"); err != nil {
		return err
	}
	before := available()
	began := time.Now()
	failed := atEach(c.containers, starters, func(n int) error {
		_, err := in.berth("run", "-d", "--name", member(n), "--cidfile", in.cidfile(int64(-n-1)), "--network", "none", "box", "sleep", "1000000")
		return err
	})
	took := time.Since(began)
	fmt.Printf("%d containers, %d started at once: %.1f starts a second\n", c.containers, starters, float64(c.containers)/took.Seconds())
	if taken := before - available(); before > 0 && c.containers > 0 {
		dirty := in.dirty()
		fmt.Printf("memory of each: %d KiB of the machine's, of that %d KiB private to its monitor (half have less)\n", taken/int64(c.containers), middle(dirty))
		if len(dirty) != c.containers {
			failed = append(failed, fmt.Errorf("there are %d monitors", len(dirty)))
		}
	}
	for _, args := range [][]string{{"ps"}, {"ps", "-aq"}, {"stats", "--no-stream"}, {"inspect", member(0)}, {"system", "df"}} {
		failed = append(failed, in.lookAt(c.containers, args)...)
	}
	failed = append(failed, in.serve(c)...)

	began = time.Now()
	const each = 50 // names of one command
	failed = append(failed, atEach((c.containers+each-1)/each, 2, func(n int) error {
		args := []string{"rm", "-f"}
		for i := n * each; i < min((n+1)*each, c.containers); i++ {
			args = append(args, member(i))
		}
		_, err := in.berth(args...)
		return err
	})...)
	fmt.Printf("all removed in %v\n", time.Since(began).Round(time.Millisecond))
	left := append(in.left(), in.mounts()...)
	for _, what := range left[:min(len(left), enough)] {
		fmt.Println(what, "is left")
	}
	for _, err := range failed[:min(len(failed), enough)] {
		fmt.Println(err)
	}
	if len(failed) > 0 || len(left) > 0 {
		return fmt.Errorf("of the crowd %d commands failed, %d things are left", len(failed), len(left))
	}
	return nil
}

// atEach calls do for 0 to n-1, some at once, and returns what has failed.
func atEach(n, atOnce int, do func(n int) error) (failed []error) {
	var next atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := do(int(i)); err != nil {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return failed
}

// lookAt times a command; those that list the crowd must list all of it.
func (in *instance) lookAt(containers int, args []string) (failed []error) {
	var took durations
	for range looks {
		began := time.Now()
		out, err := in.berth(args...)
		took = append(took, time.Since(began))
		lines := strings.Count(out, "\n")
		if err == nil && (args[0] == "ps" || args[0] == "stats") && lines < containers {
			err = fmt.Errorf("berth %s has %d lines of %d containers", args[0], lines, containers)
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	fmt.Println(took.text(strings.Join(args, " ")))
	return failed
}

// serve has the clients work: each with containers of its own, one after the other.
func (in *instance) serve(c crowd) []error {
	w := &work{in: in}
	end := time.Now().Add(c.during)
	var rounds atomic.Int64
	var wg sync.WaitGroup
	for client := range c.clients {
		wg.Go(func() {
			name := fmt.Sprint("client", client)
			for time.Now().Before(end) {
				n := rounds.Add(1)
				w.do("run -d", "run", "-d", "--name", name, "--cidfile", in.cidfile(n), "--network", "none", "box", "sleep", "1000000")
				w.do("exec", "exec", name, "true")
				w.do("stop", "stop", "-t", "0", name)
				w.do("rm", "rm", name)
			}
		})
	}
	wg.Wait()
	if c.clients == 0 {
		return nil
	}
	fmt.Printf("%d clients run, exec, stop and rm for %v: %.0f commands a second, %d failed\n", c.clients, c.during, float64(4*rounds.Load())/c.during.Seconds(), w.failed.Load())
	for _, kind := range []string{"run -d", "exec", "stop", "rm"} {
		fmt.Println(w.took[kind].text(kind))
	}
	if n := w.failed.Load(); n > 0 {
		return []error{fmt.Errorf("%d commands of clients failed", n)}
	}
	return nil
}

// dirty is what each monitor has for itself, in KiB.
func (in *instance) dirty() (all []int64) {
	for _, pid := range in.pids() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if !strings.HasPrefix(string(line), engine.MonitorName+"\x00") {
			continue
		}
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it has ended
		}
		all = append(all, kib(string(rollup), "Private_Dirty:"))
	}
	return all
}

func middle(all []int64) int64 {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// kib is the number behind a name in a file as /proc/meminfo is.
func kib(text, name string) int64 {
	_, rest, found := strings.Cut(text, name)
	fields := strings.Fields(rest)
	if !found || len(fields) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// available is how much memory this machine has left, in KiB; 0 if it does not say.
func available() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	return kib(string(text), "MemAvailable:")
}

// mounts are the instance's mounts, of which a host never has any.
func (in *instance) mounts() (left []string) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, in.dir+string(filepath.Separator)) {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	return left
}
