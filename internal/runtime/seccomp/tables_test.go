package seccomp

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestTableIsSortedAndFits(t *testing.T) {
	if !slices.IsSortedFunc(calls[:], func(a, b call) int { return strings.Compare(a.name, b.name) }) {
		t.Error("lookup needs the names in order")
	}
	seen := map[[2]int32]string{}
	for _, c := range calls {
		if row := lookup(c.name); row == nil || row.name != c.name {
			t.Errorf("lookup(%q) = %v", c.name, row)
		}
		for a, number := range c.numbers {
			if number >= tableSize && (arch(a) != arm || number < armPrivate || number >= armPrivate+privateCount) {
				t.Errorf("number %d of %s on %s has no slot", number, c.name, arch(a))
			}
			if other, twice := seen[[2]int32{int32(a), number}]; twice && number >= 0 {
				t.Errorf("%s and %s have the same number on %s", c.name, other, arch(a))
			}
			seen[[2]int32{int32(a), number}] = c.name
		}
	}
	for _, name := range []string{"", "a", "zzz", "reads"} {
		if row := lookup(name); row != nil {
			t.Errorf("lookup(%q) = %v", name, row)
		}
	}
}

// Where the kernel takes an int, and where it does not: samples of each kind of prototype.
func TestNarrowArguments(t *testing.T) {
	for name, want := range map[string]uint8{
		"socket": 0b111, "ioctl": 0b011, "personality": 0b1, "mmap": 0, "clone": 0, "unshare": 0, "ptrace": 0, "prctl": 0b1,
		"mknodat": 0b1101, "umount2": 0b10, "setns": 0b11, "futex": 0b100110, "arch_prctl": 0b1, "landlock_add_rule": 0b1011,
	} {
		if got := lookup(name).int32s; got != want {
			t.Errorf("%s: %#b, want %#b", name, got, want)
		}
	}
}

func TestNumbersAreLibseccomps(t *testing.T) {
	if err := exec.Command("/usr/bin/python3", "-c", "import seccomp").Run(); err != nil {
		t.Skip("no Python bindings of libseccomp (Debian: python3-seccomp) to compare with")
	}
	var names []string
	for _, c := range calls {
		names = append(names, c.name)
	}
	input, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "testdata/numbers.py")
	cmd.Stdin = bytes.NewReader(input)
	output, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var theirs map[string]map[string]int64
	if err := json.Unmarshal(output, &theirs); err != nil {
		t.Fatal(err)
	}
	compared := 0
	for a := range archCount {
		for _, c := range calls {
			number, known := theirs[a.String()][c.name]
			if !known || number < 0 && c.numbers[a] < 0 {
				continue
			}
			// The bindings answer with the multiplexer's number for what i386 reaches through one.
			if mux, _, ok := multiplexed(c.name); ok && a == i386 {
				if number != int64(multiplexers[mux].number) {
					t.Errorf("%s on 386 is multiplexed by %d, and we say %s", c.name, number, multiplexers[mux].name)
				}
				continue
			}
			if a == x32 {
				number &^= x32Bit
			}
			// The library may be older than the table, never the other way round.
			newer := c.numbers[a] >= 440 && c.numbers[a] < tableSize || c.name == "uprobe" || c.name == "uretprobe"
			if number < 0 && newer {
				continue
			}
			compared++
			if number != int64(c.numbers[a]) {
				t.Errorf("%s on %s: we %d, libseccomp %d", c.name, a, c.numbers[a], number)
			}
		}
	}
	if compared < 1500 {
		t.Errorf("only %d numbers compared", compared)
	}
}
