package main

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"berth/test/tiny"
)

var many = flag.Int("many", 1000, "containers that are there when the longest list is shown")

// containers compares the commands on containers that people type, with podman and docker.
func (b *bench) containers() error {
	all, stop, err := b.peers()
	if err != nil {
		return err
	}
	defer stop()
	if err := give(all[1:], "tiny", b.root); err != nil {
		return err
	}
	defer func() {
		for _, p := range all {
			attempt(p.call("rm", "-f", "one"))
		}
	}()
	for _, part := range []struct {
		what   string
		before func(p peer) [][]string // what may fail is the first
		argv   func(p peer) []string
	}{
		{"create", nothing, fresh},
		{"start", func(p peer) [][]string { return [][]string{fresh(p)} }, func(p peer) []string { return p.call("start", "one") }},
		{"stop", func(p peer) [][]string { return [][]string{fresh(p), p.call("start", "one")} }, func(p peer) []string { return p.call("stop", "one") }},
		{"rm", func(p peer) [][]string { return [][]string{fresh(p)} }, func(p peer) []string { return p.call("rm", "one") }},
		{"inspect", func(p peer) [][]string { return [][]string{fresh(p)} }, func(p peer) []string { return p.call("inspect", "one") }},
		{"stats --no-stream", func(p peer) [][]string { return [][]string{fresh(p), p.call("start", "one")} }, func(p peer) []string { return p.call("stats", "--no-stream", "one") }},
	} {
		var contenders []contender
		for _, p := range all {
			contenders = append(contenders, contender{name: p.name, argv: part.argv(p), before: func() error {
				attempt(p.call("rm", "-f", "one"))
				return do(part.before(p)...)
			}})
		}
		if err := compare(part.what, *rounds, contenders); err != nil {
			return err
		}
	}
	return b.lists(all)
}

func nothing(peer) [][]string { return nil }

// fresh makes a container that any signal would not end, and that asks for one that ends it.
func fresh(p peer) []string {
	return p.make("create", "tiny", []string{"--name", "one", "--stop-signal", "KILL"}, tiny.Pause)
}

// lists compares ps with no, some and many containers.
func (b *bench) lists(all []peer) error {
	there := 0
	defer func() {
		for _, p := range all {
			for i := range there {
				attempt(p.call("rm", "-f", fmt.Sprint("many", i)))
			}
		}
	}()
	for _, n := range []int{0, 100, *many} {
		for ; there < n; there++ {
			for _, p := range all {
				if err := do(p.make("create", "tiny", []string{"--name", fmt.Sprint("many", there)}, tiny.Program)); err != nil {
					return err
				}
			}
		}
		var contenders []contender
		for _, p := range all {
			contenders = append(contenders, contender{name: p.name, argv: p.call("ps", "-a"), before: func() error {
				if n == 0 {
					attempt(p.call("rm", "-f", "one"))
				}
				return nil
			}})
		}
		if err := compare(fmt.Sprintf("ps -a, %d containers", n), *rounds, contenders); err != nil {
			return err
		}
	}
	return nil
}

// Sizes of what is copied.
const (
	bigFile    = 1 << 30
	smallFiles = 30_000
)

// copies compares what reads much of a container: cp, diff and export, with the tools that do nothing else.
func (b *bench) copies() error {
	all, stop, err := b.peers()
	if err != nil {
		return err
	}
	defer stop()
	root := b.dir + "/copied"
	if err := fill(root); err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if err := give(all, "copied", root); err != nil {
		return err
	}
	out := b.dir + "/out"
	clean := func() error { return os.RemoveAll(out) }
	for _, part := range []struct {
		what  string
		plain []string
		argv  func(p peer) []string
	}{
		{"cp of a gigabyte", []string{"cp", root + "/big", out}, func(p peer) []string { return p.call("cp", "one:/big", out) }},
		{"cp of 30,000 files", []string{"cp", "-r", root + "/small", out}, func(p peer) []string { return p.call("cp", "one:/small", out) }},
		{"export", []string{"sh", "-c", "tar -C " + root + " -c . | sha256sum"}, func(p peer) []string { return p.call("export", "-o", out, "one") }},
	} {
		contenders := []contender{}
		for _, p := range all {
			attempt(p.call("rm", "-f", "one"))
			if err := do(p.make("create", "copied", []string{"--name", "one"}, "/none")); err != nil {
				return err
			}
			contenders = append(contenders, contender{name: p.name, argv: part.argv(p), before: clean})
		}
		contenders = append(contenders, contender{name: part.plain[0], argv: part.plain, before: clean})
		if err := compare(part.what, *pulls, contenders); err != nil {
			return err
		}
	}
	for _, p := range all {
		attempt(p.call("rm", "-f", "one"))
	}
	return clean()
}

// fill makes a large file and many small ones.
func fill(root string) error { return errors.Join(fillBig(root+"/big"), fillSmall(root)) }

// fillBig makes a file of bigFile bytes.
func fillBig(path string) error {
	big, err := create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	if _, err := rand.Read(block); err != nil {
		return err
	}
	for range bigFile / len(block) {
		if _, err := big.Write(block); err != nil {
			return err
		}
	}
	return big.Close()
}

// fillSmall makes smallFiles files of a thousand bytes each in root/small.
func fillSmall(root string) error {
	block := make([]byte, 1000)
	if _, err := rand.Read(block); err != nil {
		return err
	}
	for i := range smallFiles {
		f, err := create(fmt.Sprintf("%s/small/%d/%d", root, i/100, i))
		if err != nil {
			return err
		}
		if _, err := f.Write(block); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func create(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.Create(path)
}
