package lsm

import (
	"os/exec"
	"strings"
	"testing"
)

func TestProgramProfileNamesTheProgram(t *testing.T) {
	for path, want := range map[string]string{
		"/usr/bin/berth":        `profile berth "/usr/bin/berth" flags=(unconfined) {`,
		"/opt/my tools/berth":   `profile berth "/opt/my tools/berth" flags=(unconfined) {`,
		`/opt/a*{b}[c]?"/berth`: `profile berth "/opt/a\*\{b\}\[c\]\?\"/berth" flags=(unconfined) {`,
	} {
		if p := ProgramProfile(path); !strings.Contains(p, "\n"+want+"\n") {
			t.Errorf("%s:\n%s", path, p)
		}
	}
}

// The default profile is read by every version of the parser, the program's by 4.0, which knows the rule userns.
func TestParserReadsTheProfiles(t *testing.T) {
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		t.Skip("apparmor_parser is not installed")
	}
	texts := map[string]string{"default": profile}
	version, err := exec.Command(parser, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(version), "version 4") || strings.Contains(string(version), "version 5") {
		texts["program"] = ProgramProfile("/usr/bin/berth")
	} else {
		// The older parser knows neither that ABI nor the rule; what is left must be right, the quoting above all.
		old := strings.NewReplacer("abi <abi/4.0>,\n", "", "  userns,\n", "").Replace(ProgramProfile(`/opt/a*{b}[c]?" d/berth`))
		texts["program, without what is new in 4.0"] = old
	}
	for name, text := range texts {
		cmd := exec.Command(parser, "--skip-kernel-load", "--skip-cache", "--debug")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
