package engine

import (
	"os"
	"path/filepath"
	"testing"

	"berth/internal/errdef"
	"berth/internal/settings"
)

// In /tmp anybody may have made the run root before its user.
func TestARunRootOfSomebodyElseIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const other = 64321
	for _, c := range []struct {
		summary string
		make    func(dir, own string) error
		ok      bool
	}{
		{"Nothing", func(string, string) error { return nil }, true},
		{"Our own", func(dir, _ string) error { return os.Mkdir(dir, 0o700) }, true},
		{"A link of our own", func(dir, own string) error { return os.Symlink(own, dir) }, true},
		{"Somebody else's", func(dir, _ string) error { return os.Chown(mkdir(dir), other, other) }, false},
		{"Everybody's", func(dir, _ string) error { return os.Chmod(mkdir(dir), 0o777) }, false},
		{"Somebody else's link to what is ours", func(dir, own string) error {
			if err := os.Symlink(own, dir); err != nil {
				return err
			}
			return os.Lchown(dir, other, other)
		}, false},
		{"A link to nothing", func(dir, own string) error { return os.Symlink(own+"/none", dir) }, false},
		{"A file", func(dir, _ string) error { return os.WriteFile(dir, nil, 0o600) }, false},
	} {
		t.Run(c.summary, func(t *testing.T) {
			at := t.TempDir()
			run := filepath.Join(at, "run")
			if err := c.make(run, mkdir(filepath.Join(at, "own"))); err != nil {
				t.Fatal(err)
			}
			err := makeRoots(settings.Values{DataRoot: filepath.Join(at, "data"), RunRoot: run})
			if (err == nil) != c.ok || err != nil && !errdef.Is(err, errdef.Denied) && c.summary != "A link to nothing" {
				t.Errorf("%v", err)
			}
		})
	}
}

// mkdir returns the directory that it makes.
func mkdir(dir string) string {
	_ = os.Mkdir(dir, 0o700) // seen by what is done with it
	return dir
}
