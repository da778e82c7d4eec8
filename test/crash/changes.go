package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// payload is what is copied, imported and kept in volumes: more than one write, and of bytes that tell where they belong.
var payload = bytes.Repeat([]byte("0123456789abcdef"), 40_000)

const (
	changed  = "tiny:v3" // the name of an image that a commit makes; clean knows it
	theirs   = "theirs"  // docker's directory, beside the instances
	copied   = "/etc/copied"
	limit    = "67108864"
	fileName = "payload"
)

// writeSources writes what the scenarios of this file copy from, for all instances below dir.
func writeSources(dir string) error {
	volume := filepath.Join(dir, theirs, "volumes", "data", "_data")
	return errors.Join(
		os.MkdirAll(volume, 0o755), os.MkdirAll(filepath.Join(dir, theirs, "image"), 0o755),
		os.WriteFile(filepath.Join(volume, fileName), payload, 0o644), os.WriteFile(filepath.Join(dir, fileName), payload, 0o644),
	)
}

// changeScenarios are the commands that change containers, volumes and images without a network. A user's limits depend on the host.
func changeScenarios(dir string, asUser bool) []scenario {
	source := filepath.Join(dir, fileName)
	target := []string{"run", "-d", "--name", "target", "--network", "none", "box", "sleep", "1000"}
	created := []string{"create", "--name", "target", "--network", "none", "--restart", "always", "box", "sleep", "1000"}
	doomed := []string{"create", "--name", "target", "--label", "doomed", "--network", "none", "box", "true"}
	// As the host's going down leaves it: one that is started again whatever had stopped it.
	stopped := [][]string{{"run", "-d", "--name", "target", "--network", "none", "--restart", "always", "box", "sleep", "1000"}, {"stop", "-t", "0", "target"}}
	volume := []string{"volume", "create", "--label", "a=b", "data"}
	// A container has the volume made and fills it, so that its content is the payload.
	filled := [][]string{
		{"create", "--name", "filler", "--network", "none", "-v", "data:/v", "box", "true"},
		{"start", "-a", "filler"},
		{"cp", source, "filler:/v/" + fileName},
		{"rm", "filler"},
	}
	list := []scenario{
		{"create", theCommand, nil, created, afterRun},
		{"start", theCommand, [][]string{created}, []string{"start", "target"}, afterRun},
		{"start (monitor)", newMonitor, [][]string{created}, []string{"start", "target"}, afterRun},
		{"restart", theCommand, [][]string{target}, []string{"restart", "-t", "0", "target"}, afterRun},
		{"pause", theCommand, [][]string{target}, []string{"pause", "target"}, afterPause},
		{"unpause", theCommand, [][]string{target, {"pause", "target"}}, []string{"unpause", "target"}, afterPause},
		{"cp into a stopped container", theCommand, [][]string{created}, []string{"cp", source, "target:" + copied}, afterCopy},
		{"cp into a running container", theCommand, [][]string{target}, []string{"cp", source, "target:" + copied}, afterCopy},
		{"commit", theCommand, [][]string{target}, []string{"commit", "target", changed}, afterCommit},
		{"container prune", theCommand, [][]string{doomed}, []string{"container", "prune", "-f", "--filter", "label=doomed"}, afterRemove},
		{"volume create", theCommand, nil, volume, afterVolume(true)},
		{"volume rm", theCommand, filled, []string{"volume", "rm", "data"}, afterVolume(false)},
		{"volume prune", theCommand, filled, []string{"volume", "prune", "-fa"}, afterVolume(false)},
		{"volume rename", theCommand, filled, []string{"volume", "rename", "data", "other"}, afterVolumeRename},
		{"volume clone", theCommand, filled, []string{"volume", "clone", "data", "other"}, afterVolumeCopy},
		{"system import", theCommand, nil, []string{"system", "import", "--from", "docker", "--root", filepath.Join(dir, theirs)}, afterImport(dir)},
		{"system boot", theCommand, stopped, []string{"system", "boot"}, afterBoot},
		{"system boot (monitor)", newMonitor, stopped, []string{"system", "boot"}, afterBoot},
	}
	if !asUser {
		return append(list, scenario{"update", theCommand, [][]string{target}, []string{"update", "-m", limit, "--memory-swap", limit, "target"}, afterUpdate})
	}
	for i := range list {
		list[i].name = "without root: " + list[i].name
	}
	// Docker's directory is root's: a user brings nothing over from there, volumes least of all.
	return append(list[:len(list)-3], list[len(list)-2:]...)
}

func afterPause(in *instance, o outcome) (wrong []string) {
	status, err := in.status("target")
	if err != nil {
		return []string{err.Error()}
	}
	switch status {
	case "paused":
		wrong = in.must([]string{"unpause", "target"})
	case "running":
	default:
		wrong = append(wrong, "the container is "+status)
	}
	return append(wrong, mustRun(in, o)...)
}

// content is what cp brings out of a container; nil of what is not there.
func (in *instance) content(path string) ([]byte, error) {
	to := in.room()
	defer os.Remove(to)
	out, err := in.berth("cp", path, to)
	if err != nil && strings.Contains(err.Error(), "Could not find the file") {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(to)
}

// whole says what is wrong with a file that is there or not, but never in part.
func (in *instance) whole(path string, must bool) []string {
	got, err := in.content(path)
	switch {
	case err != nil:
		return []string{err.Error()}
	case got == nil && must:
		return []string{path + " was reported and is not there"}
	case got != nil && !bytes.Equal(got, payload):
		return []string{fmt.Sprintf("%s has %d of %d bytes", path, len(got), len(payload))}
	}
	return nil
}

func afterCopy(in *instance, o outcome) []string {
	wrong := in.whole("target:"+copied, o.exit == 0)
	wrong = append(wrong, in.must([]string{"cp", filepath.Join(filepath.Dir(in.dir), fileName), "target:" + copied})...)
	for _, w := range in.whole("target:"+copied, true) {
		wrong = append(wrong, "copied again: "+w)
	}
	return wrong
}

// afterCommit: an image that is listed can be run, and the container runs on, and is not frozen.
func afterCommit(in *instance, o outcome) (wrong []string) {
	there, err := in.hasImage(changed)
	switch {
	case err != nil:
		return []string{err.Error()}
	case !there && o.exit == 0:
		wrong = append(wrong, "the image was reported and is not there")
	case there:
		wrong = in.must([]string{"run", "--rm", "--network", "none", changed, "true"})
	}
	status, err := in.status("target")
	if err != nil || status == "paused" {
		return append(wrong, fmt.Sprintf("the container is %s, %v", status, err))
	}
	return append(wrong, mustRun(in, o)...)
}

func (in *instance) hasVolume(name string) (bool, error) {
	out, err := in.berth("volume", "ls", "-q")
	return strings.Contains("\n"+out, "\n"+name+"\n"), err
}

// holds is what is wrong with a volume that must have the payload.
func (in *instance) holds(name string) []string {
	wrong := in.must([]string{"create", "--name", "reader", "--network", "none", "-v", name + ":/v", "box", "true"})
	wrong = append(wrong, in.whole("reader:/v/"+fileName, true)...)
	return append(wrong, in.must([]string{"rm", "reader"})...)
}

// afterVolume: a volume is there as a whole, or not at all, and can be made and removed again.
func afterVolume(made bool) func(*instance, outcome) []string {
	return func(in *instance, o outcome) (wrong []string) {
		there, err := in.hasVolume("data")
		switch {
		case err != nil:
			return []string{err.Error()}
		case o.exit == 0 && there != made:
			wrong = append(wrong, fmt.Sprintf("it was reported, and the volume is there: %t", there))
		case there && made:
			if label, err := in.berth("volume", "inspect", "-f", "{{.Labels.a}}", "data"); err != nil || label != "b\n" {
				wrong = append(wrong, fmt.Sprintf("its label is %q, %v", label, err))
			}
		case there:
			wrong = append(wrong, in.holds("data")...)
		}
		return append(wrong, in.must([]string{"volume", "create", "data"}, []string{"volume", "rm", "data"})...)
	}
}

func afterVolumeRename(in *instance, o outcome) (wrong []string) {
	was, err := in.hasVolume("data")
	is, err2 := in.hasVolume("other")
	name := "data"
	switch {
	case err != nil || err2 != nil || was == is || was && o.exit == 0:
		return []string{fmt.Sprintf("there is the old one: %t, the new one: %t, %v, %v", was, is, err, err2)}
	case is:
		name = "other"
	}
	return append(in.holds(name), in.must([]string{"volume", "rm", name})...)
}

func afterVolumeCopy(in *instance, o outcome) (wrong []string) {
	there, err := in.hasVolume("other")
	switch {
	case err != nil:
		return []string{err.Error()}
	case there:
		wrong = append(in.holds("other"), in.must([]string{"volume", "rm", "other"})...)
	case o.exit == 0:
		wrong = append(wrong, "the copy was reported and is not there")
	}
	return append(append(wrong, in.holds("data")...), in.must([]string{"volume", "clone", "data", "other"}, []string{"volume", "rm", "other", "data"})...)
}

func afterImport(dir string) func(*instance, outcome) []string {
	return func(in *instance, o outcome) (wrong []string) {
		there, err := in.hasVolume("data")
		switch {
		case err != nil:
			return []string{err.Error()}
		case there:
			wrong = in.holds("data")
		case o.exit == 0:
			wrong = append(wrong, "the volume was reported and is not there")
		}
		wrong = append(wrong, in.must([]string{"system", "import", "--from", "docker", "--root", filepath.Join(dir, theirs)})...)
		return append(append(wrong, in.holds("data")...), in.must([]string{"volume", "rm", "data"})...)
	}
}

// afterBoot: called again, it starts what has not been started.
func afterBoot(in *instance, o outcome) []string {
	return append(in.must([]string{"system", "boot"}), mustRun(in, o)...)
}

// afterUpdate: the kernel's limit is what the configuration says.
func afterUpdate(in *instance, o outcome) (wrong []string) {
	said, err := in.berth("inspect", "-f", "{{.HostConfig.Memory}}", "target")
	if err != nil {
		return []string{err.Error()}
	}
	is, err := in.berth("exec", "target", "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true")
	if err != nil {
		return []string{err.Error()}
	}
	if said, is = strings.TrimSpace(said), strings.TrimSpace(is); (said == limit) != (is == limit) || o.exit == 0 && said != limit {
		wrong = append(wrong, fmt.Sprintf("the limit is said to be %s and is %s", said, is))
	}
	return append(wrong, mustRun(in, o)...)
}

// sweepVolumes has what killed commands have left of volumes removed, which is kept for a minute in case somebody is at it.
func (in *instance) sweepVolumes() error {
	left, err := filepath.Glob(filepath.Join(in.data(), "volumes", ".tmp-*"))
	old := time.Now().Add(-time.Hour)
	for _, path := range left {
		err = errors.Join(err, os.Chtimes(path, old, old))
	}
	_, err2 := in.berth("volume", "prune", "-fa")
	return errors.Join(err, err2)
}
