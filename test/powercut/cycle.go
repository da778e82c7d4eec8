package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

// fate is what is known of a name.
type fate int

const (
	unknown fate = iota // a command that was to change it did not report
	present
	absent
)

const (
	workers = 3
	seeds   = 6 // different images of each worker
)

// machine is what berth works on and what loses its power.
type machine interface {
	// dir is where the data root is, on the file system that a cut hurts; archives is where images come from.
	dir() string
	archives() string
	// drivers are the storage drivers that containers can be moved to.
	drivers() []string
	// berth runs a command to its end. errGone says that the power was cut meanwhile, if that is known.
	berth(args ...string) (string, error)
	write(path string, data []byte) error
	layers(root string) (map[string]string, error)
	brokenBlobs(root string) ([]string, error)
	leftovers(root string) ([]string, error)
	sync() error
	forget(root string) error // removes it
	// cut cuts the power, and calls down before anything that a command says may be untrue.
	cut(down func()) error
	// boot brings the machine back; over is closed when all commands have ended, which they do once the power is cut.
	boot(over <-chan struct{}) error
	// rest waits until nothing of what was checked is running any more.
	rest()
}

// errGone says that a command's machine has lost its power.
var errGone = errors.New("the machine is gone")

// errAnew says that the kernel could not mount what it had written, and that the file system is a new one.
var errAnew = errors.New("the file system is new")

// known is what is known of what one worker has made. A name belongs to one worker, who alone changes what is known of it.
type known struct {
	images, containers, networks map[string]fate
	// written are the containers that have written their files, and drivers what has been reported of how they lie on disk.
	written map[string]bool
	drivers map[string]string
}

func newKnown() known {
	return known{map[string]fate{}, map[string]fate{}, map[string]fate{}, map[string]bool{}, map[string]string{}}
}

// test is the state of a run.
type test struct {
	machine    machine
	longest    time.Duration // between a boot and a cut
	random     *rand.Rand
	reference  map[string]string   // layer -> what its tree holds
	committed  map[string]bool     // what the trees of committed layers hold, whose digests have a time in them
	changes    map[int]string      // seed -> what diff says of a container that has written
	chains     map[string][]string // image -> its layers
	workers    [workers]known
	moving     bool // this cycle moves containers between drivers, which takes that none is running
	down       atomic.Bool
	cuts       int
	violations int
	// unmountable counts the cuts after which the kernel could not mount its file system; they say nothing of berth.
	unmountable int
	everyCut    bool   // is worth a line
	keep        string // where the data root goes at the first violation
	mu          sync.Mutex

	done, interrupted atomic.Int64
	finished          map[string]int // verb -> commands; guarded by mu
}

func (t *test) violation(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.violations++
	fmt.Printf("cut %d: %s\n", t.cuts, fmt.Sprintf(format, args...))
}

// cycle lets the workers work, cuts the power, boots, and checks.
func (t *test) cycle() error {
	t.cuts++
	t.down.Store(false)
	t.moving = t.cuts%3 == 0
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for w := range workers {
		random := rand.New(rand.NewSource(t.random.Int63()))
		wg.Go(func() {
			for ctx.Err() == nil {
				t.work(w, random)
			}
		})
	}
	time.Sleep(5*time.Millisecond + time.Duration(t.random.Int63n(int64(t.longest))))
	err := t.machine.cut(func() { t.down.Store(true) })
	cancel()
	over := make(chan struct{})
	go func() {
		defer close(over)
		wg.Wait()
	}()
	switch bootErr := t.machine.boot(over); {
	case err == nil && errors.Is(bootErr, errAnew):
		t.unmountable++
		return t.renew()
	case err != nil || bootErr != nil:
		return errors.Join(err, bootErr)
	}
	before := t.violations
	t.verify()
	t.machine.rest()
	if t.cuts%100 == 0 && t.violations == before {
		return t.empty()
	}
	if t.violations > before && t.keep != "" {
		return exec.Command("cp", "-a", t.data(), t.keep).Run()
	}
	if t.violations > before {
		return t.renew() // so that what follows is not the same violation again
	}
	return nil
}

// renew begins from nothing.
func (t *test) renew() error {
	for w := range workers {
		t.workers[w] = newKnown()
	}
	return t.machine.forget(t.data())
}

// empty removes all that there is with berth's own commands; what is left then no prune would ever have seen.
func (t *test) empty() error {
	var args []string
	for w := range workers {
		for name, fate := range t.workers[w].containers {
			if fate == present {
				args = append(args, name)
			}
		}
	}
	for _, args := range [][]string{append([]string{"rm", "-f"}, args...), {"system", "prune", "-af"}, {"image", "prune", "-af"}, {"builder", "prune", "-af"}} {
		if len(args) == 2 && args[0] == "rm" {
			continue
		}
		if _, err := t.berth(args...); err != nil {
			t.violation("%v", err)
		}
	}
	left, err := t.machine.leftovers(t.data())
	if err != nil {
		return err
	}
	for _, path := range left {
		t.violation("no prune removes %s", path)
	}
	if len(left) > 0 && t.keep != "" {
		return exec.Command("cp", "-a", t.data(), t.keep).Run()
	}
	return t.renew()
}
