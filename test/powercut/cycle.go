package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"berth/test/tiny"
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
	// berth runs a command to its end. errGone says that the power was cut meanwhile, if that is known.
	berth(args ...string) (string, error)
	write(path string, data []byte) error
	layers(root string) (map[string]string, error)
	brokenBlobs(root string) ([]string, error)
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

// test is the state of a run. A name belongs to one worker, who alone changes what is known of it.
type test struct {
	machine    machine
	longest    time.Duration // between a boot and a cut
	random     *rand.Rand
	reference  map[string]string   // layer -> what its tree holds
	chains     map[string][]string // image -> its layers
	images     [workers]map[string]fate
	containers [workers]map[string]fate
	networks   [workers]map[string]fate
	down       atomic.Bool
	cuts       int
	violations int
	everyCut   bool // is worth a line
	mu         sync.Mutex

	done, interrupted atomic.Int64
}

func (t *test) data() string { return filepath.Join(t.machine.dir(), "data") }

func (t *test) berth(args ...string) (string, error) {
	return t.machine.berth(append([]string{"--data-root", t.data()}, args...)...)
}

func imageName(kind string, worker, seed int) string {
	return fmt.Sprintf("%s%d:v%d", kind, worker, seed)
}

func (t *test) archive(kind string, worker, seed int) string {
	return filepath.Join(t.machine.archives(), fmt.Sprintf("%s%d-%d.tar", kind, worker, seed))
}

// kinds are the ways in which an image comes here: loaded, imported, built.
var kinds = []string{"tiny", "flat", "built"}

// dockerfile unpacks an archive, whose times are always the same, and runs the program that is in it.
func dockerfile(archive string) []byte {
	return fmt.Appendf(nil, "FROM scratch\nADD %s /\nRUN [%q]\n", filepath.Base(archive), tiny.Program)
}

// add are the arguments that make an image of an archive.
func add(kind, name, archive string) []string {
	switch kind {
	case "flat":
		return []string{"import", archive, name}
	case "built":
		return []string{"build", "-q", "--network", "none", "-t", name, "-f", archive + ".Dockerfile", filepath.Dir(archive)}
	}
	return []string{"load", "-i", archive}
}

// newTest makes the archives and learns what their layers hold from an instance in dir that is left alone. berth runs a
// command there.
func newTest(m machine, dir string, berth func(...string) (string, error), longest time.Duration, seed int64) (*test, error) {
	t := &test{machine: m, longest: longest, random: rand.New(rand.NewSource(seed)), chains: map[string][]string{}}
	intact := filepath.Join(dir, "intact")
	if _, err := berth("--data-root", intact, "run", "--rm", "--network", "none", "box", "true"); err != nil {
		return nil, err
	}
	known, err := layers(intact)
	if err != nil {
		return nil, err
	}
	for w := range workers {
		t.images[w], t.containers[w], t.networks[w] = map[string]fate{}, map[string]fate{}, map[string]fate{}
		for s := range seeds {
			for _, kind := range kinds {
				// Workers share the layers of a seed, so that they also meet each other.
				name, path := imageName(kind, w, s), filepath.Join(dir, "archive.tar")
				data, args := tiny.Image(name, s), add(kind, name, path)
				switch kind {
				case "flat":
					data = tiny.Rootfs(1000 + s)
				case "built":
					data = tiny.Rootfs(2000 + s)
				}
				there := t.archive(kind, w, s)
				if err := errors.Join(os.WriteFile(path, data, 0o644), os.WriteFile(path+".Dockerfile", dockerfile(path), 0o644)); err != nil {
					return nil, err
				}
				if err := errors.Join(m.write(there, data), m.write(there+".Dockerfile", dockerfile(there))); err != nil {
					return nil, err
				}
				if w > 0 {
					t.chains[name] = t.chains[imageName(kind, 0, s)]
					continue
				}
				if _, err := berth(append([]string{"--data-root", intact}, args...)...); err != nil {
					return nil, err
				}
				now, err := layers(intact)
				if err != nil {
					return nil, err
				}
				for chain := range now {
					if _, old := known[chain]; !old {
						t.chains[name] = append(t.chains[name], chain)
					}
				}
				known = now
			}
		}
	}
	t.reference = known
	return t, os.RemoveAll(intact)
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
	if bootErr := t.machine.boot(over); err != nil || bootErr != nil {
		return errors.Join(err, bootErr)
	}
	before := t.violations
	t.verify()
	t.machine.rest()
	if t.violations > before {
		return t.renew() // so that what follows is not the same violation again
	}
	return nil
}

// renew begins from nothing.
func (t *test) renew() error {
	for w := range workers {
		t.images[w], t.containers[w], t.networks[w] = map[string]fate{}, map[string]fate{}, map[string]fate{}
	}
	return t.machine.forget(t.data())
}

// work does one command of a worker.
func (t *test) work(w int, random *rand.Rand) {
	kind := kinds[random.Intn(len(kinds))]
	s := random.Intn(seeds)
	name := imageName(kind, w, s)
	images, containers, networks := t.images[w], t.containers[w], t.networks[w]
	change := func(known map[string]fate, name string, then fate, args ...string) {
		before := known[name]
		known[name] = unknown
		_, err := t.berth(args...)
		switch {
		case t.down.Load(), errors.Is(err, errGone): // what a command says of a dead disk says nothing
			t.interrupted.Add(1)
		case err == nil:
			known[name] = then
			t.done.Add(1)
		case before != unknown:
			t.violation("before the cut: %v", err)
		}
	}
	switch n := random.Intn(18); {
	case n < 3:
		change(images, name, present, add(kind, name, t.archive(kind, w, s))...)
	case n < 5:
		if images[name] == present {
			change(images, name, absent, "rmi", "-f", name)
		}
	case n < 7:
		c := fmt.Sprintf("c%d-%d", w, s)
		if containers[c] != present {
			change(containers, c, present, "run", "-d", "--name", c, "--network", "none", "box", "sleep", "1000")
		}
	case n < 9:
		c := fmt.Sprintf("c%d-%d", w, s)
		change(containers, c, absent, "rm", "-f", c)
	case n < 11:
		change(map[string]fate{"": present}, "", present, "run", "--rm", "--network", "none", "box", "true")
	case n < 12 && w == 0:
		change(map[string]fate{"": present}, "", present, "image", "prune", "-f")
	case n < 14:
		if name := networkName(w, s); networks[name] != present {
			change(networks, name, present, "network", "create", "--subnet", fmt.Sprintf("10.%d.%d.0/24", 100+w, s), name)
		}
	case n < 16:
		if name := networkName(w, s); networks[name] == present {
			change(map[string]fate{"": present}, "", present, t.publishing(w, name)...)
		}
	case n < 17:
		change(map[string]fate{"": present}, "", present, t.publishing(w, "bridge")...)
	case n < 18:
		change(networks, networkName(w, s), absent, "network", "rm", "-f", networkName(w, s))
	}
}

func networkName(worker, seed int) string { return fmt.Sprintf("n%d-%d", worker, seed) }

// publishing runs a container on a network, with a port that is the worker's.
func (t *test) publishing(w int, network string) []string {
	return []string{"run", "--rm", "--network", network, "-p", fmt.Sprintf("%d:80", 8100+w), "box", "true"}
}

// verify checks what is there after the boot, and learns what became of what nobody had reported.
func (t *test) verify() {
	broken, err := t.machine.brokenBlobs(t.data())
	if err != nil {
		t.violation("%v", err)
	}
	for _, b := range broken {
		t.violation("blob %s does not match its digest", b)
	}
	found, err := t.machine.layers(t.data())
	if err != nil {
		t.violation("%v", err)
	}
	for chain, text := range found {
		if want, known := t.reference[chain]; !known {
			t.violation("layer %s is none of ours", chain)
		} else if text != want {
			t.violation("layer %s is not whole: it holds\n%sand should hold\n%s", chain, text, want)
		}
	}
	if _, err := t.berth("run", "--rm", "--network", "none", "box", "true"); err != nil {
		t.violation("%v", err)
	}
	images, err := t.berth("images", "--format", "{{.Repository}}:{{.Tag}}")
	if err != nil {
		t.violation("%v", err)
	}
	containers, err2 := t.berth("ps", "-a", "--format", "{{.Names}}")
	if err2 != nil {
		t.violation("%v", err2)
	}
	networks, err3 := t.berth("network", "ls", "--format", "{{.Name}}")
	if err3 != nil {
		t.violation("%v", err3)
	}
	if err != nil || err2 != nil || err3 != nil {
		return
	}
	var there, onNetworks []string
	for w := range workers {
		for s := range seeds {
			for _, kind := range kinds {
				name := imageName(kind, w, s)
				if t.settle(t.images[w], name, images) {
					there = append(there, name)
					for _, chain := range t.chains[name] {
						if _, ok := found[chain]; !ok {
							t.violation("image %s has no layer %s", name, chain)
						}
					}
				}
			}
			t.settle(t.containers[w], fmt.Sprintf("c%d-%d", w, s), containers)
			if name := networkName(w, s); t.settle(t.networks[w], name, networks) {
				onNetworks = append(onNetworks, name)
			}
		}
	}
	// What is there can be used: no lease of before the cut, and nothing half made, stands in the way.
	on := "bridge"
	if len(onNetworks) > 0 && t.cuts%2 == 0 {
		on = onNetworks[t.random.Intn(len(onNetworks))]
	}
	if _, err := t.berth(t.publishing(0, on)...); err != nil {
		t.violation("%v", err)
	}
	if len(there) == 0 {
		return
	}
	if _, err := t.berth(append([]string{"image", "inspect"}, there...)...); err != nil {
		t.violation("%v", err)
	}
	if said, err := t.berth(append([]string{"image", "verify"}, there...)...); err != nil { // the blobs of what was built are made of their layers
		t.violation("%s%v", said, err)
	}
	if t.cuts%4 != 0 {
		return
	}
	name := there[t.random.Intn(len(there))]
	if _, err := t.berth("run", "--rm", "--network", "none", name, tiny.Program); err != nil {
		t.violation("%v", err)
	}
}

// settle compares what is known of a name with a list of names, and returns whether it is in there.
func (t *test) settle(known map[string]fate, name, list string) bool {
	there := strings.Contains("\n"+list, "\n"+name+"\n")
	switch {
	case known[name] == present && !there:
		t.violation("%s was reported and is gone", name)
	case known[name] == absent && there:
		t.violation("%s was removed and is back", name)
	}
	known[name] = absent
	if there {
		known[name] = present
	}
	return there
}
