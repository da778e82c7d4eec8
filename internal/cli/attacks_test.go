package cli_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// buildAttacker makes the program that the scripts attack-* run in containers. BERTH_ATTACKER names one that is built already.
func buildAttacker(t *testing.T) string {
	if path := os.Getenv("BERTH_ATTACKER"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "attacker")
	cmd := exec.Command("go", "build", "-o", path, "berth/test/attacks/attacker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the attacker (BERTH_ATTACKER may name one): %v\n%s", err, out)
	}
	return path
}

// A user and group that no machine has.
const stranger = 64321

// withoutRoot runs scripts about attacks and networks again, as a user who has no privileges at all: this test in another process.
func withoutRoot(t *testing.T, program, attacker string) {
	dir, err := os.MkdirTemp("/tmp", "bu-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Glob("testdata/script/attack-*.txt")
	networks, err2 := filepath.Glob("testdata/script/networks-*.txt")
	builds, err3 := filepath.Glob("testdata/script/build*.txt")
	images, err4 := filepath.Glob("testdata/script/images*.txt")
	rootless, err5 := filepath.Glob("testdata/script/rootless*.txt")
	if err := errors.Join(err, err2, err3, err4, err5); err != nil || len(scripts) == 0 || len(networks) == 0 {
		t.Fatalf("%d scripts, %d of networks: %v", len(scripts), len(networks), err)
	}
	scripts = slices.Concat(scripts, networks, builds, images, rootless, []string{
		"testdata/script/devices.txt", "testdata/script/links.txt", "testdata/script/metadata.txt",
		"testdata/script/modes.txt", "testdata/script/registries.txt", "testdata/script/runtime-rootless.txt", "testdata/script/update.txt",
	})
	openDevices(t)
	files := [][2]string{{self, "cli.test"}, {filepath.Join(program, "berth"), "berth"}, {attacker, "attacker"}}
	for _, s := range scripts {
		files = append(files, [2]string{s, s})
	}
	for _, d := range []string{"testdata/script", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range files {
		data, err := os.ReadFile(f[0])
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, f[1]), data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, "tmp")} {
		if err := os.Chown(path, stranger, stranger); err != nil {
			t.Fatal(err)
		}
	}
	// One process for all that are asked for: it runs two at a time, and looks at its end whether anything is left of them. The subtests
	// wait until it has ended.
	var chosen []string
	var said map[string]string
	for _, s := range scripts {
		name := strings.TrimSuffix(filepath.Base(s), ".txt")
		t.Run(name, func(t *testing.T) {
			chosen = append(chosen, name)
			t.Parallel()
			switch r := said["scripts/"+name]; {
			case strings.HasPrefix(r, "PASS"):
			case strings.HasPrefix(r, "SKIP"):
				t.Skip(r)
			default:
				t.Errorf("it has not passed, or not been run:\n%s", r)
			}
		})
	}
	cmd := exec.Command(filepath.Join(dir, "cli.test"), "-test.v", "-test.run=^TestScript$/^scripts$/^("+strings.Join(chosen, "|")+")$")
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + filepath.Join(dir, "tmp"),
		"BERTH_BINARY=" + filepath.Join(dir, "berth"), "BERTH_ATTACKER=" + filepath.Join(dir, "attacker"),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	out, err := cmd.CombinedOutput()
	said = results(string(out))
	if err != nil && !strings.Contains(string(out), "--- FAIL: TestScript/scripts/") { // or a subtest says it
		t.Errorf("%v\n%s", err, out)
	}
}

// results are the verdict on each subtest of TestScript, and what it has logged, as a test binary says them with -test.v.
func results(out string) map[string]string {
	said, verdicts := map[string]string{}, map[string]string{}
	name := ""
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && words[0] == "===": // RUN, PAUSE, CONT, NAME
			name = strings.TrimPrefix(words[2], "TestScript/")
		case len(words) == 4 && words[0] == "---" && strings.HasPrefix(words[2], "TestScript/"):
			verdicts[strings.TrimPrefix(words[2], "TestScript/")] = strings.TrimSuffix(words[1], ":")
		default:
			said[name] += line
		}
	}
	for name, verdict := range verdicts {
		said[name] = verdict + "\n" + said[name]
	}
	return said
}

// openDevices lets every user make devices of networks and file systems of his own, as udev does (50-udev-default.rules of systemd), until the end of
// the test.
func openDevices(t *testing.T) {
	for _, path := range []string{"/dev/net/tun", "/dev/fuse"} {
		st, err := os.Stat(path)
		if err != nil {
			t.Logf("what takes it cannot be tried: %v", err)
			continue
		}
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Chmod(path, st.Mode().Perm()); err != nil {
				t.Error(err)
			}
		})
	}
}
