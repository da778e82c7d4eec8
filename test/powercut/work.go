package main

import (
	"errors"
	"fmt"
	"math/rand"
	"strings"
)

// try does a command that changes nothing that is checked by a name, or else says what becomes of those names of known if it succeeds; until
// then that is not known. It reports whether it succeeded. A refusal is no violation when it has one of the texts.
func (t *test) try(known map[string]fate, names []string, then fate, args []string, refusals ...string) bool {
	doubtful := false
	for _, name := range names {
		doubtful = doubtful || known[name] == unknown
		known[name] = unknown
	}
	before := t.down.Load()
	_, err := t.berth(args...)
	switch {
	case before, t.down.Load(), errors.Is(err, errGone): // what a command says of a dead disk says nothing
		t.interrupted.Add(1)
		return false
	case err == nil:
		for _, name := range names {
			known[name] = then
		}
		t.done.Add(1)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.finished[verb(args)]++
		return true
	}
	for _, text := range refusals {
		doubtful = doubtful || strings.Contains(err.Error(), text)
	}
	if !doubtful {
		t.violation("before the cut: %v", err)
	}
	return false
}

// verb is what a command does.
func verb(args []string) string {
	switch args[0] {
	case "image", "builder", "network", "system":
		return args[0] + " " + args[1]
	case "--keep-blobs=false":
		return strings.Join(args[:2], " ")
	}
	return args[0]
}

// work does one command of a worker.
func (t *test) work(w int, random *rand.Rand) {
	s := random.Intn(seeds)
	if w == 0 && t.moving && random.Intn(3) == 0 {
		t.move(random)
		return
	}
	switch n := random.Intn(20); {
	case n < 12:
		t.workOnImages(w, s, random)
	case n < 17 && t.moving:
		t.create(w, s)
	case n < 17:
		t.workOnContainers(w, s, random)
	case n < 20:
		t.workOnNetworks(w, s, random)
	}
}

func (t *test) workOnImages(w, s int, random *rand.Rand) {
	k := t.workers[w]
	kind := kinds[random.Intn(len(kinds))]
	name := imageName(kind, w, s)
	switch n := random.Intn(12); {
	case n < 4:
		args := add(kind, name, t.archive(kind, w, s))
		if kind == "pulled" && random.Intn(3) == 0 {
			args = append([]string{"--keep-blobs=false"}, args...)
		}
		t.try(k.images, []string{name}, present, args)
	case n < 6:
		if k.images[name] == present {
			t.try(k.images, []string{name}, absent, []string{"rmi", "-f", name})
		}
	case n < 7:
		if name := containerName("m", w, s); k.containers[name] == present && k.written[name] {
			t.try(k.images, []string{imageName("committed", w, s)}, present, []string{"commit", name, imageName("committed", w, s)})
		}
	case n < 8:
		if from := imageName([]string{"tiny", "built", "pulled", "committed"}[random.Intn(4)], w, s); k.images[from] == present {
			t.try(k.images, []string{imageName("tagged", w, s)}, present, []string{"tag", from, imageName("tagged", w, s)})
		}
	case n < 9:
		for _, made := range []string{"tagged", "committed"} {
			if name := imageName(made, w, s); k.images[name] == present {
				t.try(k.images, []string{name}, absent, []string{"rmi", name})
				return
			}
		}
	case n < 10:
		t.try(nil, nil, present, []string{"image", "prune", "-f"})
	case n < 11:
		t.try(nil, nil, present, []string{"builder", "prune", "-f"})
	case n < 12: // nobody else has this label
		t.try(k.images, []string{imageName("flat", w, s)}, absent, []string{"image", "prune", "-af", "--filter", "label=flat=" + imageName("flat", w, s)})
	}
}

func (t *test) workOnContainers(w, s int, random *rand.Rand) {
	k := t.workers[w]
	c := containerName("c", w, s)
	switch n := random.Intn(6); {
	case n < 2:
		if k.containers[c] != present {
			t.try(k.containers, []string{c}, present, []string{"run", "-d", "--name", c, "--network", "none", "box", "sleep", "1000"})
		}
	case n < 4:
		t.try(k.containers, []string{c}, absent, []string{"rm", "-f", c})
	case n < 5:
		t.try(nil, nil, present, []string{"run", "--rm", "--network", "none", "box", "true"})
	case n < 6:
		t.writeIn(w, s)
	}
}

// writeIn has a container whose files change, durably: what it writes is its own affair until somebody syncs it.
func (t *test) writeIn(w, s int) {
	k := t.workers[w]
	c := containerName("m", w, s)
	if k.containers[c] == present {
		if t.try(k.containers, []string{c}, absent, []string{"rm", "-f", c}) {
			delete(k.written, c)
		}
		return
	}
	delete(k.written, c)
	if !t.try(k.containers, []string{c}, present, writing(c, s)) {
		return
	}
	if err := t.machine.sync(); err == nil && !t.down.Load() {
		k.written[c] = true
		if w == 0 { // who moves them, and so knows
			k.drivers[c] = "overlay"
		}
	}
}

// create does what there is to do with containers that do not run.
func (t *test) create(w, s int) {
	k := t.workers[w]
	c := containerName("c", w, s)
	if k.containers[c] == present {
		t.try(k.containers, []string{c}, absent, []string{"rm", "-f", c})
		return
	}
	t.try(k.containers, []string{c}, present, []string{"create", "--name", c, "--network", "none", "box", "true"})
}

// move moves all containers to another storage driver. Those of the first worker, who calls it, have it after.
func (t *test) move(random *rand.Rand) {
	all := t.machine.drivers()
	to := all[random.Intn(len(all))]
	k := t.workers[0]
	for c := range k.drivers {
		k.drivers[c] = ""
	}
	if t.try(nil, nil, present, []string{"system", "migrate", "--to", to}, "while they run", "it has been started") {
		for c := range k.drivers {
			k.drivers[c] = to
		}
	}
}

func (t *test) workOnNetworks(w, s int, random *rand.Rand) {
	k := t.workers[w]
	name := networkName(w, s)
	switch n := random.Intn(6); {
	case n < 2:
		if k.networks[name] != present {
			t.try(k.networks, []string{name}, present, []string{"network", "create", "--subnet", fmt.Sprintf("10.%d.%d.0/24", 100+w, s), name})
		}
	case n < 3:
		t.try(k.networks, []string{name}, absent, []string{"network", "rm", "-f", name})
	case t.moving: // nothing is to run
	case n < 5:
		if k.networks[name] == present {
			t.try(nil, nil, present, t.publishing(w, name))
		}
	case n < 6:
		t.try(nil, nil, present, t.publishing(w, "bridge"))
	}
}

// publishing runs a container on a network, with a port that is the worker's.
func (t *test) publishing(w int, network string) []string {
	return []string{"run", "--rm", "--network", network, "-p", fmt.Sprintf("%d:80", 8100+w), "box", "true"}
}
