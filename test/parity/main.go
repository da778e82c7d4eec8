// Command parity walks through command lines as docker's documentation, courses and scripts have them, with docker and with berth, each on
// a small host of its own and with the same image, and compares what they print, say and exit with.
//
// What no two runs have alike (ids, times, addresses, sizes) is normalised; of messages, what scripts look for must be there, the words
// around it are berth's own. What differs on purpose stands in the scenario with its reason. The docker is Debian's 20.10: where a newer
// one (25 to 28) does otherwise, berth does as the newer, and the reason says so.
package main

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	berth := flag.String("berth", "", "berth's program")
	docker := flag.String("docker", "/usr/bin/docker", "docker's client, of version 20.10")
	from := flag.String("scenarios", "test/parity/scenarios", "directory of scenarios")
	only := flag.String("only", "", "only scenarios whose file or title contains this")
	verbose := flag.Bool("v", false, "print what berth prints as an allowance has it")
	answers := flag.String("answers", "", "file of docker's answers: what stands there is not asked again")
	engine := flag.String("engine", "", "internal: walk with this engine")
	dir := flag.String("dir", "", "internal: where the engine keeps everything")
	flag.Parse()
	if err := run(*berth, *docker, *from, *only, *answers, *verbose, *engine, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "parity:", err)
		os.Exit(1)
	}
}

func run(berth, docker, from, only, answers string, verbose bool, engine, dir string) error {
	scenarios, err := readScenarios(from)
	if err != nil {
		return err
	}
	scenarios = slices.DeleteFunc(scenarios, func(s scenario) bool { return !strings.Contains(s.File+" "+s.Title, only) })
	if engine != "" {
		if engine == "docker" && answers != "" {
			dockers, err := readKnown(answers)
			if err != nil {
				return err
			}
			scenarios = slices.DeleteFunc(scenarios, func(s scenario) bool { return dockers[s.key()] != nil })
		}
		return walk(engine, berth, docker, dir, filepath.Join(dir, engine+".json"), scenarios)
	}
	dockers := known{}
	if answers != "" {
		if dockers, err = readKnown(answers); err != nil {
			return err
		}
	}
	missing := slices.ContainsFunc(scenarios, func(s scenario) bool { return dockers[s.key()] == nil })
	if why := cannot(docker); why != "" && missing {
		fmt.Println("skipped:", why)
		return nil
	}
	if berth, err = filepath.Abs(berth); err != nil {
		return err
	}
	dir, err = os.MkdirTemp("/tmp", "berth-parity-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	defer removeGroups()
	engines := []string{"berth"}
	if missing {
		engines = append(engines, "docker")
	}
	walkErr := walks(engines, func(engine string) []string {
		return []string{"-engine", engine, "-berth", berth, "-docker", docker, "-scenarios", from, "-only", only, "-answers", answers, "-dir", dir}
	})
	added, err := readKnown(filepath.Join(dir, "docker.json"))
	if err != nil {
		return err
	}
	maps.Copy(dockers, added)
	if answers != "" && len(added) > 0 {
		if err := dockers.write(answers); err != nil {
			return err
		}
	}
	berths, err := readKnown(filepath.Join(dir, "berth.json"))
	if err := errors.Join(walkErr, err); err != nil {
		return err
	}
	return report(scenarios, dockers, berths, verbose)
}

// cannot says why the engines cannot be compared here.
func cannot(docker string) string {
	if os.Geteuid() != 0 {
		return "docker's daemon needs root"
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		return "there is no dockerd"
	}
	out, err := exec.Command(docker, "--version").Output()
	if err != nil || !strings.HasPrefix(string(out), "Docker version 20.10.") {
		return docker + " is no docker of version 20.10, to which the scenarios' reasons refer"
	}
	return ""
}

// walks has engines walk at the same time, each in namespaces that end with it.
func walks(engines []string, args func(engine string) []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var started []*exec.Cmd
	for _, engine := range engines {
		// The first process of the namespaces is a shell, which waits for what the engines leave to it.
		cmd := exec.Command("bash", append([]string{"-c", `"$@"; exit $?`, "bash", self}, args(engine)...)...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
			Pdeathsig:  unix.SIGKILL,
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		started = append(started, cmd)
	}
	var errs []error
	for _, w := range started {
		errs = append(errs, w.Wait())
	}
	return errors.Join(errs...)
}

// report prints every difference that is not allowed, and every allowance that nothing needed.
func report(scenarios []scenario, docker, berth known, verbose bool) error {
	steps, differing, allowed := 0, 0, 0
	for _, s := range scenarios {
		for j, step := range s.Steps {
			steps++
			allowed += min(1, len(step.Allowed))
			found, unneeded := compare(step, s.Everywhere, docker[s.key()][j], berth[s.key()][j])
			if len(found)+len(unneeded) == 0 {
				continue
			}
			differing++
			fmt.Printf("%s:%d: %s\n$ %s\n", s.File, step.Line, s.Title, step.Command)
			for _, d := range found {
				fmt.Printf("  %s\n    docker%s\n    berth %s\n", d.what, indented(d.docker), indented(d.berth))
				if verbose && (d.what == "stdout" || d.what == "stderr") {
					fmt.Printf("~ %s \n| %s\n", d.what, strings.ReplaceAll(d.berth, "\n", "\n| "))
				}
			}
			for _, a := range unneeded {
				fmt.Printf("  no such difference: %s %s\n", a.What, a.Reason)
			}
		}
	}
	fmt.Printf("%d commands in %d scenarios: %d differ as they should not, %d differ on purpose\n", steps, len(scenarios), differing, allowed)
	if differing > 0 {
		return fmt.Errorf("%d of %d commands differ", differing, steps)
	}
	return nil
}

func indented(text string) string {
	if !strings.Contains(text, "\n") {
		return " " + text
	}
	return "\n      " + strings.ReplaceAll(text, "\n", "\n      ")
}
