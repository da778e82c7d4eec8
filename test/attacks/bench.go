package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A mutant is berth without one defence.
type mutant struct {
	class   int // of the attack
	defence string
	file    string
	old     string // stands in the file once
	new     string
	test    test
}

func (m mutant) String() string { return fmt.Sprintf("%02d %s", m.class, m.defence) }

// A test is a script of internal/cli, which runs with a program that is built anew, or a Go test of a package.
type test struct {
	script string // as root, or
	user   string // without root, or
	pkg    string // of Go tests
	name   string
}

func asRoot(script string) test    { return test{script: "attack-" + script} }
func asUser(script string) test    { return test{user: "attack-" + script} }
func goTest(pkg, name string) test { return test{pkg: "./internal/" + pkg, name: name} }

func (t test) String() string {
	switch {
	case t.script != "":
		return t.script
	case t.user != "":
		return t.user + " without root"
	}
	return t.pkg + " " + t.name
}

// bench is what all mutants share.
type bench struct {
	dir      string // scratch
	root     string // of the module
	scripts  string // the compiled tests of internal/cli
	attacker string
	embedded map[string]string // what berth carries inside itself: file of the module -> file of ours
}

// newBench builds what does not change: the tests, the attacker, and the programs that berth carries.
func newBench(dir string) (*bench, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	b := &bench{dir: dir, root: root, scripts: filepath.Join(dir, "cli.test"), attacker: filepath.Join(dir, "attacker"), embedded: map[string]string{}}
	err = errors.Join(
		b.golang("test", "-c", "-o", b.scripts, "./internal/cli"),
		b.golang("build", "-o", b.attacker, "./test/attacks/attacker"),
		b.carry("berth-init"), b.carry("berth-box"), b.carry("berth-full"))
	delete(b.embedded, b.packed("berth-box")) // only berth-full carries that one, as the Makefile has it
	return b, errors.Join(err, b.carry("berth-uplink"))
}

func (b *bench) packed(name string) string {
	return filepath.Join(b.root, "internal/program/embedded", name+".gz")
}

// carry builds a program and packs it for the next one.
func (b *bench) carry(name string) error {
	path := filepath.Join(b.dir, name)
	overlay, err := b.overlay("carried", nil)
	if err == nil {
		err = b.pack(name, path, overlay)
	}
	b.embedded[b.packed(name)] = path + ".gz"
	return err
}

// uplinkCode is in the program that a user's networks are carried by.
const uplinkCode = "internal/network/netstack/"

// carriers are the programs that berth carries, and code that is in them and not in berth itself, or is used there alone.
var carriers = map[string][]string{
	"berth-uplink": {uplinkCode},
	"berth-full":   {"internal/fullcli/", "internal/build/", "internal/image/merged/resolve.go", "internal/image/unpack/", "internal/tree/", "internal/engine/copy.go"},
}

// carrier is the program that is to be built anew when a file is replaced; none is berth itself.
func (b *bench) carrier(file string) string {
	for name, code := range carriers {
		for _, path := range code {
			if strings.HasPrefix(file, filepath.Join(b.root, path)) {
				return name
			}
		}
	}
	return ""
}

// pack builds a program at path, and packs it beside it.
func (b *bench) pack(name, path, overlay string) error {
	if err := b.golang("build", "-overlay", overlay, "-trimpath", "-ldflags", "-s -w", "-o", path, "./cmd/"+name); err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path+".gz", packed.Bytes(), 0o644)
}

// overlay writes the file that tells the go command which files to read in the place of others.
func (b *bench) overlay(name string, more map[string]string) (string, error) {
	replace := map[string]string{}
	for _, m := range []map[string]string{b.embedded, more} {
		for from, to := range m {
			replace[from] = to
		}
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(b.dir, name+".json")
	return path, os.WriteFile(path, data, 0o644)
}

func (b *bench) golang(args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// baseline runs every test with all defences: each must pass.
func (b *bench) baseline(chosen []mutant) error {
	done := map[test]bool{}
	var errs error
	for _, m := range chosen {
		if done[m.test] {
			continue
		}
		done[m.test] = true
		passed, out, err := b.attempt(m.test, nil, "baseline")
		if err != nil || !passed {
			errs = errors.Join(errs, fmt.Errorf("%s fails on the unchanged tree: %w\n%s", m.test, err, out))
		}
	}
	return errs
}

// try reports whether a mutant is found by its test, and what that said.
func (b *bench) try(m mutant, worker int) (killed bool, why string, err error) {
	path := filepath.Join(b.root, m.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return false, "", err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return false, "", fmt.Errorf("%s has the text of the defence %d times: %q", m.file, n, m.old)
	}
	name := fmt.Sprint("mutant", worker)
	changed := filepath.Join(b.dir, name+".go")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o644); err != nil {
		return false, "", err
	}
	passed, out, err := b.attempt(m.test, map[string]string{path: changed}, name)
	return !passed, reason(out), err
}

// reason is the line of a test's output that says what failed.
func reason(out string) string {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "FAIL: testdata/script/"); ok {
			return rest
		}
		if _, rest, ok := strings.Cut(line, "_test.go:"); ok && !strings.HasPrefix(line, "attacks_test.go") {
			return "line " + rest
		}
	}
	return "it failed"
}

// patience is how long one test may take.
const patience = 100 * time.Second

// attempt builds what a test needs, with some files replaced, and runs it. Only a test that ran and failed has not passed;
// what does not compile, or runs no test, is an error.
func (b *bench) attempt(t test, replace map[string]string, name string) (passed bool, out string, err error) {
	overlay, err := b.overlay(name, replace)
	if err != nil {
		return false, "", err
	}
	for file := range replace {
		carried := b.carrier(file)
		if carried == "" || t.pkg != "" {
			continue
		}
		path, inside := filepath.Join(b.dir, name+"-"+carried), maps.Clone(replace)
		inside[b.packed("berth-box")] = filepath.Join(b.dir, "berth-box.gz") // berth-full carries it
		if overlay, err = b.overlay(name, inside); err == nil {
			err = b.pack(carried, path, overlay)
		}
		if err != nil {
			return false, "", err
		}
		replaced := maps.Clone(replace)
		replaced[b.packed(carried)] = path + ".gz"
		if overlay, err = b.overlay(name, replaced); err != nil {
			return false, "", err
		}
		break
	}
	program := filepath.Join(b.dir, name+".d", "berth")
	pattern, dir := "^"+t.name+"$", filepath.Join(b.root, t.pkg)
	binary := filepath.Join(b.dir, name+".test")
	switch {
	case t.pkg != "":
		err = b.golang("test", "-c", "-overlay", overlay, "-o", binary, t.pkg)
	case t.script != "":
		pattern = "^TestScript$/^scripts$/^" + t.script + "$"
	default:
		pattern = "^TestScript$/^without root$/^" + t.user + "$"
	}
	if t.pkg == "" {
		binary, dir = b.scripts, filepath.Join(b.root, "internal/cli")
		err = b.golang("build", "-overlay", overlay, "-o", program, "./cmd/berth")
	}
	if err != nil {
		return false, "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.v", "-test.run="+pattern)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BERTH_BINARY="+program, "BERTH_ATTACKER="+b.attacker)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A file, and not a pipe, whose end would be that of the last process that a failed script has left.
	said, err := os.Create(filepath.Join(b.dir, name+".out"))
	if err != nil {
		return false, "", err
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	err = cmd.Run()
	data, readErr := os.ReadFile(said.Name())
	if readErr != nil {
		return false, "", readErr
	}
	out = string(data)
	last := t.name + t.script + t.user
	switch {
	case ctx.Err() != nil:
		return false, out, fmt.Errorf("%s has not ended after %v; its last words: %q", t, patience, out[max(0, len(out)-500):])
	case strings.Contains(out, "--- SKIP") && !strings.Contains(out, "--- FAIL"):
		return false, out, fmt.Errorf("%s was skipped:\n%s", t, out)
	case err == nil && strings.Contains(out, last):
		return true, out, nil
	case err != nil && strings.Contains(out, "--- FAIL"):
		return false, out, nil
	}
	return false, out, fmt.Errorf("%s was not run: %w\n%s", t, err, out)
}
