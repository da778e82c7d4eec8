package main

import (
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"time"

	"berth/test/tiny"
)

// kinds are the ways in which an image comes here: loaded, imported, built, pulled.
var kinds = []string{"tiny", "flat", "built", "pulled"}

func imageName(kind string, worker, seed int) string {
	name := fmt.Sprintf("%s%d:v%d", kind, worker, seed)
	if kind == "pulled" {
		return registryAddress + "/" + name
	}
	return name
}

// containerName is the worker's container of a seed: one that runs, or one that has written.
func containerName(kind string, worker, seed int) string {
	return fmt.Sprintf("%s%d-%d", kind, worker, seed)
}

func networkName(worker, seed int) string { return fmt.Sprintf("n%d-%d", worker, seed) }

func (t *test) data() string { return filepath.Join(t.machine.dir(), "data") }

func (t *test) berth(args ...string) (string, error) {
	return t.machine.berth(append([]string{"--data-root", t.data()}, args...)...)
}

func (t *test) archive(kind string, worker, seed int) string {
	return filepath.Join(t.machine.archives(), fmt.Sprintf("%s%d-%d.tar", kind, worker, seed))
}

// dockerfile unpacks an archive, whose times are always the same, and runs the program that is in it.
func dockerfile(archive string) []byte {
	return fmt.Appendf(nil, "FROM scratch\nADD %s /\nRUN [%q]\n", filepath.Base(archive), tiny.Program)
}

// add are the arguments that make an image of an archive, or fetch it.
func add(kind, name, archive string) []string {
	switch kind {
	case "flat":
		return []string{"import", "-c", "LABEL flat=" + name, archive, name}
	case "built":
		return []string{"build", "-q", "--network", "none", "-t", name, "-f", archive + ".Dockerfile", filepath.Dir(archive)}
	case "pulled":
		return []string{"pull", "-q", name}
	}
	return []string{"load", "-i", archive}
}

// writing runs a container that changes its files, as every container of the seed does.
func writing(name string, seed int) []string {
	script := "[ -e /new ] || { rm -r /home; mkdir /home; echo %d >/home/file; ln /home/file /home/other; rm -r /var; echo new >/new; chmod 700 /tmp; }; cat /home/other /new"
	return []string{"run", "--name", name, "--network", "none", "box", "sh", "-c", fmt.Sprintf(script, seed)}
}

// newTest makes the archives and learns what their layers hold from an instance in dir that is left alone. berth runs a
// command there.
func newTest(m machine, dir string, berth func(...string) (string, error), longest time.Duration, seed int64) (*test, error) {
	t := &test{
		machine: m, longest: longest, random: rand.New(rand.NewSource(seed)), chains: map[string][]string{},
		committed: map[string]bool{}, changes: map[int]string{}, finished: map[string]int{},
	}
	intact := filepath.Join(dir, "intact")
	here := func(args ...string) (string, error) {
		return berth(append([]string{"--data-root", intact}, args...)...)
	}
	if _, err := here("run", "--rm", "--network", "none", "box", "true"); err != nil {
		return nil, err
	}
	known, err := layers(intact)
	if err != nil {
		return nil, err
	}
	// learn returns the layers that are new.
	learn := func() (chains []string, err error) {
		now, err := layers(intact)
		for chain := range now {
			if _, old := known[chain]; !old {
				chains = append(chains, chain)
			}
		}
		known = now
		return chains, err
	}
	for w := range workers {
		t.workers[w] = newKnown()
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
				if _, err := here(args...); err != nil {
					return nil, err
				}
				if t.chains[name], err = learn(); err != nil {
					return nil, err
				}
			}
		}
	}
	t.reference = known
	for s := range seeds {
		if _, err := here(writing("written", s)...); err != nil {
			return nil, err
		}
		if t.changes[s], err = here("diff", "written"); err != nil {
			return nil, err
		}
		if _, err := here("commit", "written", "committed"); err != nil {
			return nil, err
		}
		if _, err := here("rm", "written"); err != nil {
			return nil, err
		}
		chains, err := learn()
		if err != nil {
			return nil, err
		}
		for _, chain := range chains {
			t.committed[known[chain]] = true
		}
	}
	return t, os.RemoveAll(intact)
}
