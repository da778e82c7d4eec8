package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

var steps = flag.Int("steps", 200, "RUN instructions of the longest build")

const (
	stages    = 8
	builtSize = 20 // steps of the Dockerfile that is built again and again
)

// builder is somebody who builds: argv is followed by flags and the context.
type builder struct {
	name    string
	argv    []string
	noCache string
	prefix  string // of the names of its images
}

// build is a build of a context.
func (b builder) build(dir string, flags ...string) []string {
	argv := append([]string{}, b.argv...)
	return append(append(argv, flags...), dir)
}

// builds compares building with BuildKit in docker's daemon and with buildah.
func (b *bench) builds() error {
	root := b.dir + "/shell"
	if err := shellTree(root); err != nil {
		return err
	}
	all, stop, err := b.builders(root)
	if err != nil {
		return err
	}
	defer stop()
	for _, part := range []func([]builder) error{b.rebuilds, b.parallel, b.bigCopy, b.manySteps} {
		if err := part(all); err != nil {
			return err
		}
	}
	return nil
}

// builders are berth and those that are installed, each with the image "shell" of a tree.
func (b *bench) builders(root string) (all []builder, stop func(), err error) {
	stop = func() {}
	all = []builder{{name: "berth", argv: []string{b.berth, "build", "-q", "--network", "none"}, noCache: "--no-cache"}}
	engines := []peer{{argv: []string{b.berth}}}
	if docker, end, err := b.docker(nil, "--bridge", "none", "--iptables=false", "--ip-masq=false"); err != nil {
		fmt.Printf("docker: left out: %v\n", err)
	} else {
		stop = end
		engines = append(engines, docker)
		argv := append([]string{"env", "DOCKER_BUILDKIT=1"}, docker.call("build", "-q", "--network", "none")...)
		all = append(all, builder{name: "docker, BuildKit", argv: argv, noCache: "--no-cache"})
	}
	if err := give(engines, "shell", root); err != nil {
		stop()
		return nil, nil, err
	}
	if _, err := exec.LookPath("buildah"); err != nil {
		fmt.Println("buildah: left out: not installed")
		return all, stop, nil
	}
	buildah := []string{"buildah", "--root", b.dir + "/buildah/r", "--runroot", b.dir + "/buildah/n", "--storage-driver", "overlay"}
	archive := b.dir + "/shell.tar"
	if err := do([]string{b.berth, "save", "-o", archive, "shell"}, with(buildah, "pull", "-q", "docker-archive:"+archive)); err != nil {
		fmt.Printf("buildah: left out: %v\n", err)
		return all, stop, nil
	}
	argv := with(buildah, "build", "-q", "--layers", "--network", "none", "--pull=never")
	return append(all, builder{name: "buildah", argv: argv, noCache: "--no-cache", prefix: "localhost/"}), stop, nil
}

// context writes a context with nothing but a Dockerfile; its images have the names of the builder.
func (b *bench) context(name, prefix, text string) (dir string, err error) {
	dir = b.dir + "/contexts/" + name
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, os.WriteFile(dir+"/Dockerfile", []byte(strings.ReplaceAll(text, "FROM shell", "FROM "+prefix+"shell")), 0o600)
}

// rebuilds compares building again what has not changed, or of which the last file has, in a context of many files.
func (b *bench) rebuilds(all []builder) error {
	var text strings.Builder
	text.WriteString("FROM shell\nCOPY small /small\n")
	for i := range builtSize - 2 {
		fmt.Fprintf(&text, "RUN true %d\n", i)
	}
	text.WriteString("COPY last /last\n")
	var same, changed []contender
	changes := 0
	for i, p := range all {
		dir, err := b.context(fmt.Sprint("again", i), p.prefix, text.String())
		if err != nil {
			return err
		}
		if err := fillSmall(dir); err != nil {
			return err
		}
		touch := func() error {
			changes++
			return os.WriteFile(dir+"/last", fmt.Append(nil, changes), 0o600)
		}
		if err := touch(); err != nil {
			return err
		}
		same = append(same, contender{name: p.name, argv: p.build(dir)})
		changed = append(changed, contender{name: p.name, argv: p.build(dir), before: touch})
	}
	find := contender{name: "find of the context", argv: []string{"find", b.dir + "/contexts/again0", "-size", "+1000000"}}
	time.Sleep(3 * time.Second) // so that berth believes times of files: they are older than two seconds
	if err := compare(fmt.Sprintf("the same again: %d steps, %d files", builtSize, smallFiles), *pulls, append(same, find)); err != nil {
		return err
	}
	return compare("again, the last file changed", *pulls, append(changed, find))
}

// parallel compares stages that do not depend on each other.
func (b *bench) parallel(all []builder) error {
	var text, last strings.Builder
	last.WriteString("FROM shell\n")
	for i := range stages {
		fmt.Fprintf(&text, "FROM shell AS s%d\nRUN sleep 1; echo %d >/f\n", i, i)
		fmt.Fprintf(&last, "COPY --from=s%d /f /f%d\n", i, i)
	}
	return b.cold(fmt.Sprintf("%d stages of a second each", stages), "stages", text.String()+last.String(), *pulls, all, nil)
}

// bigCopy compares copying a gigabyte into a layer, with cp and a sync.
func (b *bench) bigCopy(all []builder) error {
	big := b.dir + "/big"
	if err := fillBig(big); err != nil {
		return err
	}
	defer os.Remove(big)
	to := b.dir + "/copy-of-big"
	defer os.Remove(to)
	plain := []contender{{
		name: "cp and sync", argv: []string{"sh", "-c", "cp " + big + " " + to + " && sync -f " + to},
		before: func() error { return errors.Join(os.RemoveAll(to), settle()) },
	}}
	err := b.cold("COPY of a gigabyte", "big", "FROM shell\nCOPY big /\n", min(*pulls, 3), all, func(dir string) error {
		return errors.Join(os.RemoveAll(dir+"/big"), os.Link(big, dir+"/big"))
	}, plain...)
	return err
}

// settle waits until what was written is on the disk.
func settle() error { return do([]string{"sync"}) }

// manySteps compares commands that do nothing.
func (b *bench) manySteps(all []builder) error {
	// 125 layers are the most that an image can have for docker: the steps are those of several stages.
	const most = 100
	var text strings.Builder
	for i := range *steps {
		if i%most == 0 {
			fmt.Fprintf(&text, "FROM shell AS s%d\n", i/most)
			if i > 0 {
				fmt.Fprintf(&text, "COPY --from=s%d /bin/true /x\n", i/most-1)
			}
		}
		fmt.Fprintf(&text, "RUN true %d\n", i)
	}
	return b.cold(fmt.Sprintf("%d RUN true", *steps), "steps", text.String(), min(*pulls, 3), all, nil)
}

// cold compares builds that find nothing in their caches. prepare completes the context of each.
func (b *bench) cold(what, name, text string, rounds int, all []builder, prepare func(dir string) error, plain ...contender) error {
	var contenders []contender
	for i, p := range all {
		dir, err := b.context(fmt.Sprint(name, i), p.prefix, text)
		if err != nil {
			return err
		}
		if prepare != nil {
			if err := prepare(dir); err != nil {
				return err
			}
		}
		contenders = append(contenders, contender{name: p.name, argv: p.build(dir, p.noCache), before: settle})
	}
	return compare(what, rounds, append(contenders, plain...))
}

var library = regexp.MustCompile(`(?m)(?:=> |^\s+)(/\S+) \(`)

// shellTree is a tree with a shell and a few programs of this host, and the libraries that they need.
func shellTree(root string) error {
	for _, name := range []string{"sh", "true", "sleep", "echo", "cat"} {
		from, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		out, err := exec.Command("ldd", from).Output()
		if err != nil {
			return fmt.Errorf("ldd %s: %w", from, err)
		}
		if err := copyTo(from, root+"/bin/"+name, 0o755); err != nil {
			return err
		}
		for _, found := range library.FindAllSubmatch(bytes.TrimRight(out, "\n"), -1) {
			if err := copyTo(string(found[1]), root+string(found[1]), 0o755); err != nil {
				return err
			}
		}
	}
	return nil
}

func copyTo(from, to string, mode os.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, mode))
}
