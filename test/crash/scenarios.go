package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"berth/internal/network/uplink"
)

// which process of a scenario is killed.
type victim int

const (
	theCommand    victim = iota
	newMonitor           // the monitor that the command starts
	runningServer        // the monitor of the container "target", which runs already
	itsFirst             // the first process of the container that the command starts
	newUplink            // the uplink that the command starts
	runningUplink        // the uplink, which runs already
)

// monitorName is argv[0] of a monitor.
const monitorName = "berth-monitor"

// scenario is a command that is killed.
type scenario struct {
	name    string
	victim  victim
	prepare [][]string // commands that must work before
	args    []string
	check   func(in *instance, o outcome) []string // nil: nothing but what is checked after every kill
}

// job is a scenario, and whose it is.
type job struct {
	scenario
	asUser bool
}

func jobs(asUser bool, scenarios []scenario) (list []job) {
	for _, s := range scenarios {
		list = append(list, job{s, asUser})
	}
	return list
}

const image = "tiny:v1"

func scenarios(archive string, registry string) []scenario {
	load := []string{"load", "-i", archive}
	target := []string{"run", "-d", "--name", "target", "--network", "none", "box", "sleep", "1000"}
	short := []string{"run", "-d", "--name", "target", "--network", "none", "box", "true"}
	list := []scenario{
		{"load", theCommand, nil, load, afterLoad},
		{"tag", theCommand, [][]string{load}, []string{"tag", image, "tiny:v2"}, afterTag},
		{"rmi", theCommand, [][]string{load}, []string{"rmi", image}, afterRemoveImage},
		{"run -d", theCommand, nil, target, afterRun},
		{"run -d (monitor)", newMonitor, nil, target, afterRun},
		{"run -d true (monitor)", newMonitor, nil, short, afterRun},
		{"run --rm", theCommand, nil, []string{"run", "--rm", "--name", "target", "--network", "none", "box", "true"}, nil},
		{"run --rm (monitor)", newMonitor, nil, []string{"run", "--rm", "--name", "target", "--network", "none", "box", "true"}, nil},
		{"exec", theCommand, [][]string{target}, []string{"exec", "target", "true"}, mustRun},
		{"exec (monitor)", runningServer, [][]string{target}, []string{"exec", "target", "true"}, mustRun},
		{"stop", theCommand, [][]string{target}, []string{"stop", "-t", "1", "-s", "KILL", "target"}, afterStop},
		{"stop (monitor)", runningServer, [][]string{target}, []string{"stop", "-t", "1", "-s", "KILL", "target"}, afterStop},
		{"rm", theCommand, [][]string{short, {"wait", "target"}}, []string{"rm", "target"}, afterRemove},
		{"rm -f", theCommand, [][]string{target}, []string{"rm", "-f", "target"}, afterRemove},
		// Half a second after an exec a monitor executes its own program again; the command only passes the time.
		{"renewal (monitor)", runningServer, [][]string{target, {"exec", "target", "true"}}, []string{"run", "--rm", "--network", "none", "box", "sleep", "1"}, mustRun},
		{"rm -f (monitor)", runningServer, [][]string{target}, []string{"rm", "-f", "target"}, afterRemove},
	}
	list = append(list, migrateScenarios()...)
	list = append(list, runtimeScenarios()...)
	list = append(list, networkScenarios()...)
	if registry != "" {
		list = append(list, scenario{"pull", theCommand, nil, []string{"pull", registry}, nil})
	}
	return list
}

// one carries out a scenario once, kills at the n-th system call, and says what was wrong afterwards.
func (in *instance) one(s scenario, n int) (o outcome, wrong []string, err error) {
	witness := []string{"create", "--name", "witness", "--network", "none", "box", "true"}
	for _, args := range append([][]string{witness}, s.prepare...) {
		if _, err := in.berth(in.placed(args)...); err != nil {
			return o, nil, fmt.Errorf("cannot prepare %s: %w", s.name, err)
		}
	}
	in.see()
	s.args = in.placed(s.args)
	switch s.victim {
	case theCommand:
		o, err = in.start(s.args, "", n)
	case newMonitor:
		o, err = in.start(s.args, monitorName, n)
	case itsFirst:
		o, err = in.start(s.args, firstProcess, n)
	case newUplink:
		o, err = in.start(s.args, uplink.Program, n)
	case runningServer, runningUplink:
		var pid int
		if s.victim == runningServer {
			pid, err = in.monitorOf("target")
		} else {
			pid, err = in.uplink()
		}
		if err != nil {
			return o, nil, err
		}
		o, err = seize(pid, n, func() outcome {
			out, err := in.berth(s.args...)
			if err != nil {
				return outcome{exit: 1, output: out, stderr: err.Error()}
			}
			return outcome{output: out}
		})
	}
	if err != nil {
		return o, nil, err
	}
	in.see()
	if o.hung {
		wrong = append(wrong, fmt.Sprintf("it did not end within %v", patience))
	}
	wrong = append(wrong, in.usable()...)
	if s.check != nil {
		wrong = append(wrong, s.check(in, o)...)
	}
	return o, append(wrong, in.clean()...), nil
}

// monitorOf finds the monitor of a container, by its command line.
func (in *instance) monitorOf(container string) (int, error) {
	id, err := in.berth("ps", "-aq", "--no-trunc", "--filter", "name="+container)
	if err != nil {
		return 0, err
	}
	for _, pid := range in.processes() {
		cmdline, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if f := strings.Split(string(cmdline), "\x00"); f[0] == monitorName && strings.Contains(string(cmdline), strings.TrimSpace(id)) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("cannot find the monitor of container %s", container)
}

// usable is what holds after every kill.
func (in *instance) usable() (wrong []string) {
	for _, try := range []struct {
		args []string
		want string
	}{
		{[]string{"ps", "-a", "--format", "{{.Names}}"}, "witness\n"},
		{[]string{"images", "--format", "{{.Repository}}:{{.Tag}}"}, "box:latest\n"},
		{[]string{"run", "--rm", "--network", "none", "--cidfile", in.room(), "box", "true"}, ""},
	} {
		out, err := in.berth(try.args...)
		if err != nil {
			wrong = append(wrong, err.Error())
		} else if !strings.Contains(out, try.want) {
			wrong = append(wrong, fmt.Sprintf("berth %s does not list %q: %q", try.args[0], try.want, out))
		}
	}
	if id, err := os.ReadFile(in.lastRoom()); err == nil {
		in.ids[strings.TrimSpace(string(id))] = true
		_ = os.Remove(in.lastRoom())
	}
	return wrong
}

// room is a path for a file that does not exist yet.
func (in *instance) room() string     { in.rooms++; return in.lastRoom() }
func (in *instance) lastRoom() string { return filepath.Join(in.dir, "cid"+strconv.Itoa(in.rooms)) }

// status is what berth says a container is doing, "" of one that is not listed.
func (in *instance) status(container string) (string, error) {
	out, err := in.berth("ps", "-a", "--filter", "name="+container, "--format", "{{.State}}")
	return strings.TrimSpace(out), err
}

func (in *instance) runsTiny(name string) []string {
	if _, err := in.berth("run", "--rm", "--network", "none", name); err != nil {
		return []string{err.Error()}
	}
	return nil
}

func (in *instance) hasImage(name string) (bool, error) {
	out, err := in.berth("images", "--format", "{{.Repository}}:{{.Tag}}")
	return strings.Contains(out, name+"\n"), err
}

// afterLoad: an image that is listed is whole; one that was reported is listed; loading again works.
func afterLoad(in *instance, o outcome) (wrong []string) {
	there, err := in.hasImage(image)
	if err != nil {
		return []string{err.Error()}
	}
	if !there && strings.Contains(o.output, "Loaded image") {
		wrong = append(wrong, "the image was reported and is not there")
	}
	if there {
		wrong = append(wrong, in.runsTiny(image)...)
	}
	if _, err := in.berth("load", "-i", filepath.Join(filepath.Dir(in.dir), "tiny.tar")); err != nil {
		wrong = append(wrong, err.Error())
	}
	return append(wrong, in.runsTiny(image)...)
}

func afterTag(in *instance, o outcome) []string {
	wrong := in.runsTiny(image)
	there, err := in.hasImage("tiny:v2")
	switch {
	case err != nil:
		wrong = append(wrong, err.Error())
	case there:
		wrong = append(wrong, in.runsTiny("tiny:v2")...)
	case o.exit == 0:
		wrong = append(wrong, "the tag was made and is not there")
	}
	return wrong
}

func afterRemoveImage(in *instance, o outcome) (wrong []string) {
	there, err := in.hasImage(image)
	switch {
	case err != nil:
		wrong = append(wrong, err.Error())
	case there && o.exit == 0:
		wrong = append(wrong, "the image was removed and is there")
	case there:
		wrong = in.runsTiny(image)
		if _, err := in.berth("rmi", image); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	return wrong
}

// afterRun: what was reported is listed, and whatever is listed can be stopped, started and removed.
func afterRun(in *instance, o outcome) (wrong []string) {
	status, err := in.status("target")
	if err != nil {
		return []string{err.Error()}
	}
	if status == "" {
		if strings.TrimSpace(o.output) != "" {
			wrong = append(wrong, "the container was reported and is not listed")
		}
		return wrong
	}
	commands := [][]string{{"start", "target"}, {"stop", "-t", "0", "target"}, {"rm", "target"}}
	if status == "running" && !strings.Contains(o.output, "true") {
		if _, err := in.berth("exec", "target", "true"); err != nil {
			if again, _ := in.status("target"); again == "running" {
				wrong = append(wrong, err.Error())
			}
		}
	}
	for _, args := range commands {
		if _, err := in.berth(args...); err != nil {
			wrong = append(wrong, fmt.Sprintf("of a container that is %s: %v", status, err))
		}
	}
	return wrong
}

func mustRun(in *instance, _ outcome) (wrong []string) {
	status, err := in.status("target")
	if err != nil {
		return []string{err.Error()}
	}
	if status != "running" {
		wrong = append(wrong, "the container is "+status+", and nobody has stopped it")
	}
	if _, err := in.berth("exec", "target", "true"); err != nil {
		wrong = append(wrong, err.Error())
	}
	return wrong
}

func afterStop(in *instance, o outcome) (wrong []string) {
	status, err := in.status("target")
	if err != nil {
		return []string{err.Error()}
	}
	if o.exit == 0 && status != "exited" {
		wrong = append(wrong, "the container was stopped and is "+status)
	}
	for _, args := range [][]string{{"stop", "-t", "0", "target"}, {"start", "target"}, {"exec", "target", "true"}} {
		if _, err := in.berth(args...); err != nil {
			wrong = append(wrong, fmt.Sprintf("of a container that was %s: %v", status, err))
		}
	}
	return wrong
}

func afterRemove(in *instance, o outcome) (wrong []string) {
	status, err := in.status("target")
	switch {
	case err != nil:
		wrong = append(wrong, err.Error())
	case o.exit == 0 && status != "":
		wrong = append(wrong, "the container was removed and is "+status)
	case status != "":
		if _, err := in.berth("rm", "-f", "target"); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	// Its name is free again.
	if _, err := in.berth("create", "--name", "target", "--network", "none", "box", "true"); err != nil {
		wrong = append(wrong, err.Error())
	}
	return wrong
}
