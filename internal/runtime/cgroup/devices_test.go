package cgroup

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/internal/host"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// execute runs a filter as the kernel does (Documentation/bpf/standardization/instruction-set.rst), for the instructions that
// filters are made of.
func execute(t *testing.T, program []insn, kind, access, major, minor uint32) bool {
	t.Helper()
	context := map[int16]uint32{0: access<<16 | kind, 4: major, 8: minor}
	var r [11]uint64
	for pc := 0; pc < len(program); pc++ {
		i := program[pc]
		operand := uint64(uint32(i.imm))
		switch i.code {
		case unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W:
			r[i.dst] = uint64(context[i.off])
		case unix.BPF_ALU | bpfMov | unix.BPF_X:
			r[i.dst] = uint64(uint32(r[i.src]))
		case unix.BPF_ALU | bpfMov | unix.BPF_K:
			r[i.dst] = operand
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			r[i.dst] = uint64(uint32(r[i.dst]) & uint32(i.imm))
		case unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K:
			r[i.dst] = uint64(uint32(r[i.dst]) >> uint32(i.imm))
		case unix.BPF_JMP | bpfJNE | unix.BPF_K:
			if r[i.dst] != uint64(int64(i.imm)) {
				pc += int(i.off)
			}
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			if r[i.dst] == uint64(int64(i.imm)) {
				pc += int(i.off)
			}
		case unix.BPF_JMP | bpfExit:
			return r[rResult] != 0
		default:
			t.Fatalf("unknown instruction %#x", i.code)
		}
	}
	t.Fatal("the program has no end")
	return false
}

// allowed is what rules mean: for each kind of access, the last rule that names it.
func allowed(all []rule, kind byte, access string, major, minor int64) bool {
	for _, a := range access {
		ok := false
		for _, r := range all {
			if (r.kind == 'a' || r.kind == kind) && (r.major == every || r.major == major) && (r.minor == every || r.minor == minor) && strings.ContainsRune(r.access, a) {
				ok = r.allow
			}
		}
		if !ok {
			return false
		}
	}
	return true
}

func TestFilterDecidesAsTheRulesSay(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	numbers := []int64{every, 1, 5, 136}
	for n := range 400 {
		all := []rule{{kind: 'a', major: every, minor: every, access: "rwm"}}
		for range random.IntN(8) {
			all = append(all, rule{
				allow: random.IntN(2) == 0, kind: pick("a", "b", "c")[0], access: pick("r", "w", "m", "rw", "rwm", "wm"),
				major: numbers[random.IntN(4)], minor: numbers[random.IntN(4)],
			})
		}
		program := compileFilter(all)
		if len(all) > 3 && os.Geteuid() == 0 {
			fd, err := loadFilter(program)
			if err != nil {
				t.Fatalf("the kernel refuses the filter of %v: %v", all, err)
			}
			if err := unix.Close(fd); err != nil {
				t.Fatal(err)
			}
		}
		for _, kind := range []byte{'b', 'c'} {
			for _, access := range []string{"r", "w", "m", "rw", "rwm"} {
				for _, major := range []int64{1, 5, 7} {
					for _, minor := range []int64{1, 136} {
						number := uint32(bpfBlock)
						if kind == 'c' {
							number = bpfChar
						}
						want := allowed(all, kind, access, major, minor)
						if got := execute(t, program, number, uint32(accessMask(access)), uint32(major), uint32(minor)); got != want {
							t.Fatalf("round %d: %c %d:%d %s is %v under %v", n, kind, major, minor, access, got, all)
						}
					}
				}
			}
		}
	}
}

// The kernel's own answer, of each version that is there: only what is allowed can be opened.
func TestRulesHoldForARealProcess(t *testing.T) {
	limits := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
		{Access: "rwm"},
		{Allow: true, Type: "c", Major: p(int64(1)), Minor: p(int64(3)), Access: "rw"}, // null
		{Allow: true, Type: "c", Major: p(int64(1)), Minor: p(int64(5)), Access: "r"},  // zero
	}}
	dir := t.TempDir()
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7} {
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			t.Skip("this place takes no device nodes:", err)
		}
	}
	script := `for t in "<null" ">null" "<zero" ">zero" "<full"; do eval "( : $t ) 2>/dev/null" && echo "$t yes" || echo "$t no"; done`
	want := "<null yes\n>null yes\n<zero yes\n>zero no\n<full no\n"
	g := createTestGroup(t, limits)
	if got := runIn(t, g, dir, script); got != want {
		t.Errorf("%s: got\n%swant\n%s", g.host.Cgroup, got, want)
	}
	if g.host.CgroupBeside == "" {
		return
	}
	beside := &Group{host: host.Facts{Cgroup: host.CgroupUnified, Groups: host.Groups{Base: "/"}}, path: "/berth-test-beside", v2: g.host.CgroupBeside + "/berth-test-beside"}
	if err := mkdir(beside.v2); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := beside.Remove(); err != nil {
			t.Error(err)
		}
	}()
	if err := beside.limitDevices(limits); err != nil {
		t.Fatal(err)
	}
	if got := runIn(t, beside, dir, script); got != want {
		t.Errorf("version 2: got\n%swant\n%s", got, want)
	}
}

func TestARuleSaidTwiceIsWrittenOnceUnlessADenialCameBetween(t *testing.T) {
	null := rule{allow: true, kind: 'c', major: 1, minor: 3, access: "rwm"}
	zero := rule{allow: true, kind: 'c', major: 1, minor: 5, access: "rwm"}
	none := rule{kind: 'a', major: every, minor: every, access: "rwm"}
	got := withoutRepeats([]rule{none, none, null, zero, null, none, null, zero, zero})
	if want := []rule{none, null, zero, none, null, zero}; !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestRulesInVersionOnesWords(t *testing.T) {
	all, err := rules([]specs.LinuxDeviceCgroup{
		{Access: "rwm"},
		{Allow: true, Type: "c", Major: p(int64(5)), Minor: p(int64(0)), Access: "rw"},
		{Allow: true, Major: p(int64(8)), Access: "m"},
		{Allow: true, Type: "b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range all {
		lines = append(lines, r.lines()...)
	}
	if got, want := fmt.Sprint(strings.Join(lines, "; ")), "a; c 5:0 rw; b 8:* m; c 8:* m; b *:* rwm"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, bad := range []specs.LinuxDeviceCgroup{{Type: "p"}, {Access: "rx"}} {
		if _, err := rules([]specs.LinuxDeviceCgroup{bad}); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
