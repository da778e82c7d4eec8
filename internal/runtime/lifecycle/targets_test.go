package lifecycle

import (
	"os"
	"path/filepath"
	"testing"

	"berth/internal/runtime/plan"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestMountsAreTakenToWhereLinksOfTheImageLead(t *testing.T) {
	upper, lower := t.TempDir(), t.TempDir()
	for _, dir := range []string{lower + "/etc", lower + "/there"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{
		"etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf", "data": "/mnt/data", "out": "../../../../nowhere", "known": "there", "round": "round",
	} {
		if err := os.Symlink(to, filepath.Join(lower, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ summary, destination, want string }{
		{"A link into what is not there", "/etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"},
		{"A link on the way", "/data/sub/file", "/mnt/data/sub/file"},
		{"A link that would leave the root stays in it", "/out/x", "/nowhere/x"},
		{"A link to what is there is followed when it is mounted", "/known", "/known"},
		{"So is what is no link", "/etc/hosts", "/etc/hosts"},
		{"A link that leads nowhere is an error of the mount", "/round/x", "/round/x"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			given := &specs.Spec{Root: &specs.Root{Path: "/nonexistent"}, Mounts: []specs.Mount{{Destination: "/proc", Type: "proc"}, {Destination: c.destination, Type: "bind"}}}
			in := Input{Spec: given, Overlay: &plan.Overlay{Upper: upper, Lower: []string{lower}}, Origins: map[string]string{"mount " + c.destination: "-v"}}
			settleTargets(&in)
			if got := in.Spec.Mounts[1].Destination; got != c.want || in.Origins["mount "+got] != "-v" {
				t.Errorf("%s is %s (%v), want %s", c.destination, got, in.Origins, c.want)
			}
			if given.Mounts[1].Destination != c.destination {
				t.Error("the caller's spec has changed")
			}
		})
	}
}
