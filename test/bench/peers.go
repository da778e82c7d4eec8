package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// peer is an engine that is compared, berth among them: how it is called, and with what it makes containers here.
type peer struct {
	name   string
	argv   []string
	create []string // flags of create and run that it needs besides
	prefix string   // of the names of its images
	// insecure are flags of pull and push for a registry without TLS.
	insecure []string
}

// call is a command of the peer.
func (p peer) call(args ...string) []string { return append(slices.Clone(p.argv), args...) }

// make are the arguments of create or run for a container of that image, without a network.
func (p peer) make(verb, image string, flags []string, command ...string) []string {
	args := slices.Concat(p.argv, []string{verb, "--network", "none"}, p.create, flags, []string{p.prefix + image})
	return append(args, command...)
}

// do runs commands one after the other.
func do(commands ...[]string) error {
	for _, c := range commands {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(c, " "), err, out)
		}
	}
	return nil
}

// attempt runs commands of which any may fail.
func attempt(commands ...[]string) {
	for _, c := range commands {
		_ = exec.Command(c[0], c[1:]...).Run()
	}
}

// errLeftOut says that an engine is not there.
var errLeftOut = errors.New("not installed")

// peers are the engines that are there, with a docker daemon that stop ends.
func (b *bench) peers() (all []peer, stop func(), err error) {
	all = []peer{{name: "berth", argv: []string{b.berth}}}
	if b.podman != nil {
		all = append(all, peer{name: "podman", argv: b.podman, prefix: "localhost/"})
	}
	docker, stop, err := b.docker(nil, "--bridge", "none", "--iptables=false", "--ip-masq=false")
	if err != nil {
		fmt.Printf("docker: left out: %v\n", err)
		return all, func() {}, nil
	}
	return append(all, docker), stop, nil
}

// docker starts a daemon that keeps everything in b.dir. within is the beginning of the command, network are flags.
func (b *bench) docker(within []string, network ...string) (p peer, stop func(), err error) {
	for _, program := range []string{"dockerd", "docker"} {
		if _, err := exec.LookPath(program); err != nil {
			return p, nil, errors.New("not installed")
		}
	}
	at := b.dir + "/docker"
	if err := os.MkdirAll(at, 0o700); err != nil {
		return p, nil, err
	}
	if err := os.WriteFile(at+"/config", []byte("{}"), 0o600); err != nil {
		return p, nil, err
	}
	log, err := os.Create(at + "/log")
	if err != nil {
		return p, nil, err
	}
	defer log.Close()
	argv := slices.Concat(within, []string{
		"dockerd", "--config-file", at + "/config", "--data-root", at + "/d", "--exec-root", at + "/x", "--pidfile", at + "/pid",
		"-H", "unix://" + at + "/s", "--exec-opt", "native.cgroupdriver=cgroupfs",
	}, network)
	daemon := exec.Command(argv[0], argv[1:]...)
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		return p, nil, err
	}
	stop = func() {
		_ = daemon.Process.Signal(os.Interrupt)
		_ = daemon.Wait()
	}
	p = peer{name: "docker", argv: []string{"docker", "-H", "unix://" + at + "/s"}, create: []string{"--ulimit", "nofile=1024:1024"}}
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if err := do(p.call("version")); err == nil {
			return p, stop, nil
		} else if time.Since(begin) > 30*time.Second {
			stop()
			return p, nil, err
		}
	}
}

// give imports a tree, as tar writes it, into all peers.
func give(all []peer, name, tree string) error {
	for _, p := range all {
		if err := do([]string{"sh", "-c", "tar -C " + tree + " -c . | " + strings.Join(p.call("import", "-", p.prefix+name), " ")}); err != nil {
			return err
		}
	}
	return nil
}
