package plan_test

import (
	"slices"
	"strings"
	"testing"

	"berth/internal/container"
	"berth/internal/runtime/plan"

	"golang.org/x/sys/unix"
)

// positions of the lines of a program that contain all of some texts.
func positions(lines []string, texts ...string) []int {
	var at []int
	for i, line := range lines {
		if !slices.ContainsFunc(texts, func(s string) bool { return !strings.Contains(line, s) }) {
			at = append(at, i)
		}
	}
	return at
}

// everything is a container with all that has an order.
func everything(t *testing.T, noNewPrivileges bool) []string {
	t.Helper()
	s := newScene(facts(6, 18))
	c := &s.spec.Config
	c.Mounts = []container.Mount{
		{Type: container.MountBind, Source: "/src", Target: "/data"},
		{Type: container.MountBind, Source: "/shared", Target: "/shared", Propagation: "rshared"},
	}
	c.ReadOnly, c.Workdir, c.TTY = true, "/work", true
	c.Security.NoNewPrivileges = noNewPrivileges
	return strings.Split(strings.TrimSpace(print(t, s.compile(t))), "\n")
}

func TestOrderOfOperations(t *testing.T) {
	for _, c := range []struct {
		summary       string
		before, after []string
		noNewPrivs    bool
	}{
		{"What is shared with the host is taken before mounts stop being the host's", []string{"open_tree(", `"/shared"`}, []string{"mount(NULL", "MS_SLAVE"}, false},
		{"All else is taken in its turn: a mount's place in mountinfo is by when it was made", []string{"# mount it at /proc"}, []string{"open_tree(", `"/src"`}, false},
		{"Sources are the host's: they are taken before the root is entered", []string{"open_tree(", `"/src"`}, []string{"pivot_root("}, false},
		{"What hides masked files is the host's null device, which the image cannot have made", []string{"open_tree(AT_FDCWD", `"/dev/null"`}, []string{"pivot_root("}, false},
		{"Nothing is mounted before mounts are cut off from the host", []string{"mount(NULL", "MS_SLAVE"}, []string{"move_mount("}, false},
		{"The control group is entered before the cgroup namespace is made, whose root it becomes", []string{"enter the control group"}, []string{"unshare(CLONE_NEWCGROUP"}, false},
		{"Every mount is there before anything is masked, or it would cover the mask", []string{"mount it at "}, []string{"# hide "}, false},
		{"Every mount is there before anything is write-protected", []string{"mount it at "}, []string{"# cover "}, false},
		{"Masks are complete before the root is entered", []string{"# hide "}, []string{"pivot_root("}, false},
		{"Write protection is complete before the root is entered", []string{"# cover "}, []string{"pivot_root("}, false},
		{"The read-only root comes after the places of mounts are made in it", []string{"mkdirat("}, []string{"# make the root read-only"}, false},
		{"The host's root is let go of after another one is there", []string{"pivot_root("}, []string{"umount2("}, false},
		{"Descriptors are closed before the working directory is entered: /proc/self/fd leads nowhere (CVE-2024-21626)", []string{"close_range("}, []string{`chdir("/work")`}, false},
		{"Where the working directory is, is looked at after it is entered", []string{`chdir("/work")`}, []string{"getcwd("}, false},
		{"The working directory is entered as the user", []string{"setresuid("}, []string{`chdir("/work")`}, false},
		{"The bounding set is reduced while there is CAP_SETPCAP, before the user changes", []string{"PR_CAPBSET_DROP"}, []string{"setresuid("}, false},
		{"Groups are set while there is CAP_SETGID", []string{"setgroups("}, []string{"setresuid("}, false},
		{"The group is set while there is CAP_SETGID", []string{"setresgid("}, []string{"setresuid("}, false},
		{"Limits are set while there is CAP_SYS_RESOURCE", []string{"prlimit64("}, []string{"setresuid("}, false},
		{"Without no_new_privs only CAP_SYS_ADMIN may load the filter, so the filter comes before the last capset", []string{"seccomp("}, []string{"have the capabilities of the process alone"}, false},
		{"With no_new_privs the filter comes last, and need not allow capset", []string{"have the capabilities of the process alone"}, []string{"seccomp("}, true},
		{"no_new_privs is set before the filter that depends on it", []string{"PR_SET_NO_NEW_PRIVS"}, []string{"seccomp("}, true},
		{"The terminal's first side is sent before the root is left", []string{"SCM_RIGHTS"}, []string{"pivot_root("}, false},
	} {
		t.Run(c.summary, func(t *testing.T) {
			lines := everything(t, c.noNewPrivs)
			before, after := positions(lines, c.before...), positions(lines, c.after...)
			if len(before) == 0 || len(after) == 0 {
				t.Fatalf("%d lines have %q, %d have %q", len(before), c.before, len(after), c.after)
			}
			if slices.Max(before) > slices.Min(after) {
				t.Errorf("this comes too late:\n%s\nthis comes too early:\n%s", lines[slices.Max(before)], lines[slices.Min(after)])
			}
		})
	}
}

func TestExecveIsLast(t *testing.T) {
	for _, c := range programs {
		p := c.make(t)
		first := slices.IndexFunc(p.Ops, func(op plan.Op) bool { return op.Special == plan.Exec })
		if first < 0 {
			t.Errorf("%s: nothing is executed", c.name)
			continue
		}
		for _, op := range p.Ops[first:] {
			if op.Special != plan.Exec {
				t.Errorf("%s: %q comes after execve", c.name, op.What)
			}
		}
		if last := p.Ops[len(p.Ops)-1]; len(last.Tolerate) > 0 {
			t.Errorf("%s: the last execve tolerates %v, and nothing would follow", c.name, last.Tolerate)
		}
	}
}

func TestFilterIsTheLastCallBeforeExecveWithNoNewPrivs(t *testing.T) {
	lines := everything(t, true)
	filter, exec := positions(lines, "seccomp(")[0], positions(lines, "execve(")[0]
	if exec != filter+1 {
		t.Errorf("between the filter and execve: %q", lines[filter+1:exec])
	}
}

func TestWorkingDirectoryIsCheckedAtOnce(t *testing.T) {
	lines := everything(t, false)
	at := positions(lines, `chdir("/work")`)[0]
	if !strings.Contains(lines[at+1], "getcwd(") || !strings.Contains(lines[at+2], `must begin with "/"`) {
		t.Errorf("after the working directory is entered:\n%s", strings.Join(lines[at+1:at+3], "\n"))
	}
}

func TestUserWithoutRightsKeepsOnlySysAdminUntilTheFilterIsLoaded(t *testing.T) {
	s := newScene(facts(6, 18))
	s.spec.User = container.User{UID: 1000, GID: 1000}
	lines := strings.Split(print(t, s.compile(t)), "\n")
	var sets []string
	for _, i := range positions(lines, "capset(") {
		_, set, _ := strings.Cut(lines[i], "}, ")
		set, _, _ = strings.Cut(set, ")")
		sets = append(sets, set)
	}
	want := []string{
		"{effective=0x6, permitted=0x200006, inheritable=0x0}", // to get to a working directory that is not the user's
		"{effective=0x0, permitted=0x200000, inheritable=0x0}", // if that did not help
		"{effective=0x0, permitted=0x200000, inheritable=0x0}",
		"{effective=0x200000, permitted=0x200000, inheritable=0x0}",
		"{effective=0x0, permitted=0x0, inheritable=0x0}",
	}
	if !slices.Equal(sets, want) {
		t.Errorf("capset calls:\n got %q\nwant %q", sets, want)
	}
}

// A mount of the image's or the caller's is named by its own path; that must not be taken for anything of ours.
func TestInputsStandBeforeAllOtherSlots(t *testing.T) {
	s := newScene(facts(6, 18))
	s.plan.Create = true
	for _, name := range []string{plan.InReady, plan.InStart, plan.InReport, plan.InStdin, plan.InCgroup(0)} {
		s.spec.Config.Mounts = append(s.spec.Config.Mounts, container.Mount{Type: container.MountTmpfs, Target: "/run/" + name})
	}
	p := s.compile(t)
	checkProgram(t, p)
	ready := slices.Index(p.SlotNames, plan.InReady) + 1
	if ready < 1 || ready > len(p.Inputs) {
		t.Fatalf("slot %d is %s, of %d inputs", ready, plan.InReady, len(p.Inputs))
	}
	i := slices.IndexFunc(p.Ops, func(op plan.Op) bool { return op.What == "say that everything is ready" })
	if p.Ops[i].Args[0] != plan.Ref(ready) {
		t.Errorf("readiness is written to slot %v, not to the input %d", p.Ops[i].Args[0], ready)
	}
}

// checkProgram checks what internal/runtime/child relies on.
func checkProgram(t testing.TB, p *plan.Program) {
	t.Helper()
	if len(p.Inputs) == 0 || p.Inputs[0] != plan.InReport || !slices.Equal(p.SlotNames[:len(p.Inputs)], p.Inputs) {
		t.Fatalf("inputs %q, slots %q", p.Inputs, p.SlotNames)
	}
	defined := map[plan.Slot]bool{}
	for s := range p.Inputs {
		defined[plan.Slot(s+1)] = true
	}
	for i, op := range p.Ops {
		if len(op.Tolerate) > 4 {
			t.Errorf("operation %d (%s) tolerates %d errors", i, op.What, len(op.Tolerate))
		}
		if op.SkipOK < 0 || i+1+op.SkipOK >= len(p.Ops) && op.SkipOK > 0 {
			t.Errorf("operation %d (%s) leads to %d of %d", i, op.What, i+1+op.SkipOK, len(p.Ops))
		}
		if op.SkipTolerated < 0 || i+1+op.SkipTolerated >= len(p.Ops) && op.SkipTolerated > 0 {
			t.Errorf("operation %d (%s) leads to %d of %d", i, op.What, i+1+op.SkipTolerated, len(p.Ops))
		}
		if op.What == "" {
			t.Errorf("operation %d does not say what it is for", i)
		}
		for _, a := range op.Args {
			if ref, ok := a.(plan.Ref); ok && !defined[plan.Slot(ref)] {
				t.Errorf("operation %d (%s) uses slot %d, which nothing before it fills", i, op.What, ref)
			}
		}
		if op.Save != plan.NoSlot {
			if int(op.Save) > len(p.SlotNames) {
				t.Fatalf("operation %d (%s) fills slot %d of %d", i, op.What, op.Save, len(p.SlotNames))
			}
			defined[op.Save] = true
		}
	}
	if p.CloneFlags&unix.CLONE_NEWUSER != 0 && !p.Waits {
		t.Error("a child with a user namespace waits for its maps, and the program does not say so")
	}
}
