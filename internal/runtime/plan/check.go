package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// check refuses what a program could not do, so that nothing of a spec is left out in silence.
func check(s *specs.Spec) error {
	switch {
	case s.Process == nil:
		return fmt.Errorf("the spec has no process")
	case len(s.Process.Args) == 0:
		return fmt.Errorf("the process has no arguments")
	case s.Root == nil:
		return fmt.Errorf("the spec has no root")
	case s.Linux == nil:
		return fmt.Errorf("the spec has no linux part")
	case !strings.HasPrefix(s.Process.Cwd, "/"):
		return fmt.Errorf("the working directory %q is not an absolute path", s.Process.Cwd)
	case s.Linux.RootfsPropagation != "" && propagationOf(s.Linux.RootfsPropagation) == 0:
		return fmt.Errorf("linux.rootfsPropagation is %q: there are shared, slave, private and unbindable, each with an r before it, too", s.Linux.RootfsPropagation)
	}
	if err := checkRDT(s.Linux.IntelRdt); err != nil {
		return err
	}
	mountNS, newTime := false, false
	seen := map[specs.LinuxNamespaceType]bool{}
	for _, n := range s.Linux.Namespaces {
		if seen[n.Type] {
			return fmt.Errorf("there are two namespaces of type %q", n.Type)
		}
		seen[n.Type] = true
		if n.Path != "" && !path.IsAbs(n.Path) {
			return fmt.Errorf("the path %q of the %s namespace is not absolute", n.Path, n.Type)
		}
		if namespaceFlag(n.Type) == 0 {
			return fmt.Errorf("there is no namespace of type %q", n.Type)
		}
		mountNS = mountNS || n.Type == specs.MountNamespace && n.Path == ""
		newTime = newTime || n.Type == specs.TimeNamespace && n.Path == ""
	}
	for _, name := range slices.Concat(s.Linux.MaskedPaths, s.Linux.ReadonlyPaths) {
		if !path.IsAbs(name) {
			return fmt.Errorf("%q in maskedPaths or readonlyPaths is not an absolute path", name)
		}
	}
	if len(s.Linux.TimeOffsets) > 0 && !newTime {
		return fmt.Errorf("timeOffsets need a time namespace of the container's own")
	}
	if a := s.Process.ExecCPUAffinity; a != nil {
		for _, list := range []string{a.Initial, a.Final} {
			if list == "" {
				continue
			}
			if _, err := numbers(list); err != nil {
				return fmt.Errorf("the processors %q of execCPUAffinity: %w", list, err)
			}
		}
	}
	if !mountNS {
		return fmt.Errorf("a container needs a mount namespace of its own")
	}
	return nil
}

// checkRDT refuses what config-linux.md ("Intel RDT") forbids, and then all that is left: no group of resctrl is made. One that asks for
// nothing needs none.
func checkRDT(r *specs.LinuxIntelRdt) error {
	if r == nil {
		return nil
	}
	if id := r.ClosID; id == "." || id == ".." || strings.ContainsAny(id, "/\n") {
		return fmt.Errorf("linux.intelRdt.closID %q cannot be the name of a directory", id)
	}
	for _, line := range append([]string{r.L3CacheSchema, r.MemBwSchema}, r.Schemata...) {
		resource, domains, ok := strings.Cut(line, ":")
		if line != "" && (!ok || resource == "" || domains == "" || strings.ContainsAny(line, "\n")) {
			return fmt.Errorf("linux.intelRdt has the line %q, which is not RESOURCE:DOMAIN=VALUE[;…]", line)
		}
	}
	if line := r.L3CacheSchema; line != "" && !strings.HasPrefix(line, "L3") {
		return fmt.Errorf("linux.intelRdt.l3CacheSchema is %q, which is not of L3", line)
	}
	if line := r.MemBwSchema; line != "" && !strings.HasPrefix(line, "MB:") {
		return fmt.Errorf("linux.intelRdt.memBwSchema is %q, which is not of MB", line)
	}
	return fmt.Errorf("linux.intelRdt is not supported: Intel RDT is not enabled here, and berth makes no groups of the kernel's resctrl")
}
