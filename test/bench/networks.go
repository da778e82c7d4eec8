package main

import (
	"fmt"
	"os"
	"slices"

	"berth/test/tiny"
)

// networks compares containers that have a network with those that have none, and with podman's: an address on the default bridge, and a
// published port.
func (b *bench) networks() error {
	all := []contender{
		{name: "berth, none", argv: []string{b.berth, "run", "--rm", "--network", "none", "tiny", tiny.Program}},
		{name: "berth, bridge", argv: []string{b.berth, "run", "--rm", "tiny", tiny.Program}},
		{name: "berth, bridge and a port", argv: []string{b.berth, "run", "--rm", "-p", "18080:80", "tiny", tiny.Program}},
	}
	if b.podman != nil {
		all = append(all,
			contender{name: "podman, none", argv: with(b.podman, "run", "--rm", "--network", "none", "localhost/tiny", tiny.Program)},
			contender{name: "podman, bridge", argv: with(b.podman, "run", "--rm", "localhost/tiny", tiny.Program)},
			contender{name: "podman, bridge and a port", argv: with(b.podman, "run", "--rm", "-p", "18081:80", "localhost/tiny", tiny.Program)},
		)
	}
	docker, stop, err := b.docker(nil, "--bip", "10.79.0.1/24")
	if err != nil {
		fmt.Printf("docker: left out: %v\n", err)
		return compare("run --rm on a network", *rounds, all)
	}
	defer stop()
	if err := give([]peer{docker}, "tiny", b.root); err != nil {
		return err
	}
	for _, c := range []struct {
		name  string
		flags []string
	}{{"docker, none", []string{"--network", "none"}}, {"docker, bridge", nil}, {"docker, bridge and a port", []string{"-p", "18082:80"}}} {
		argv := slices.Concat(docker.argv, []string{"run", "--rm"}, docker.create, c.flags, []string{docker.prefix + "tiny", tiny.Program})
		all = append(all, contender{name: c.name, argv: argv})
	}
	return compare("run --rm on a network", *rounds, all)
}

// rootless compares containers of a user without root with podman's: without a network, and with one that leads out.
func (b *bench) rootless() error {
	const user = "64321"
	home := b.dir + "/home"
	if err := os.MkdirAll(home+"/run", 0o700); err != nil {
		return err
	}
	if err := do([]string{"chown", "-R", user + ":" + user, home}, []string{"chmod", "755", b.dir}); err != nil {
		return err
	}
	as := func(argv ...string) []string {
		return append([]string{
			"setpriv", "--reuid", user, "--regid", user, "--clear-groups", "env", "-i", "PATH=" + os.Getenv("PATH"),
			"HOME=" + home, "XDG_RUNTIME_DIR=" + home + "/run",
		}, argv...)
	}
	all := []peer{{name: "berth", argv: as(b.berth)}}
	if b.podman != nil {
		podman := as("podman", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
			"--storage-driver", "overlay", "--storage-opt", "overlay.ignore_chown_errors=true")
		all = append(all, peer{name: "podman", argv: podman, prefix: "localhost/"})
	}
	var contenders []contender
	for _, p := range all {
		if err := give([]peer{p}, "tiny", b.root); err != nil {
			fmt.Printf("%s: left out: %v\n", p.name, err)
			continue
		}
		for _, c := range []struct {
			name  string
			flags []string
		}{{"none", []string{"--network", "none"}}, {"with a network", nil}, {"with a port", []string{"-p", "18083:80"}}} {
			argv := slices.Concat(p.argv, []string{"run", "--rm"}, c.flags, []string{p.prefix + "tiny", tiny.Program})
			contenders = append(contenders, contender{name: p.name + ", " + c.name, argv: argv})
		}
	}
	return compare("run --rm without root", *rounds, contenders)
}
