package storage

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/internal/image/merged"

	"golang.org/x/sys/unix"
)

// inDirectory is where the suite runs: a directory that the test makes, or one on a btrfs.
const inDirectory = "BERTH_STORAGE_SUITE"

// TestOnBtrfs runs the suite on a btrfs, in a mount namespace that takes it away with it.
func TestOnBtrfs(t *testing.T) {
	if os.Getenv(inDirectory) != "" {
		t.Skip("this is it")
	}
	if _, err := exec.LookPath("mkfs.btrfs"); err != nil || os.Geteuid() != 0 {
		t.Skip("it takes root and btrfs-progs")
	}
	dir := t.TempDir()
	const script = `truncate -s 300M "$1/disk" && mkfs.btrfs -q "$1/disk" && mkdir "$1/at" && mount -o loop "$1/disk" "$1/at" || exit 77
shift; exec "$@"`
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", dir, self, "-test.run=^TestDrivers$", "-test.v")
	cmd.Env = append(os.Environ(), inDirectory+"="+filepath.Join(dir, "at"))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() == 77 {
		t.Skipf("no btrfs can be made and mounted here:\n%s", out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: TestDrivers/btrfs") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDrivers is what every driver has to do.
func TestDrivers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("layers have owners and whiteouts, which take root to make")
	}
	for _, name := range Names {
		t.Run(name, func(t *testing.T) {
			s := newSuite(t, name)
			s.prepares(t)
			s.keeps(t)
			for _, other := range Names {
				s.moves(t, other)
			}
			s.drops(t)
		})
	}
}

type suite struct {
	p      Place
	driver Driver
}

// newSuite makes two layers: the upper one hides a file and a directory of the lower one, and replaces another.
func newSuite(t *testing.T, name string) *suite {
	t.Helper()
	base := os.Getenv(inDirectory)
	if base == "" {
		base = t.TempDir()
	} else {
		base = filepath.Join(base, strings.ReplaceAll(t.Name(), "/", "-"))
	}
	var st unix.Statfs_t
	if err := errors.Join(os.MkdirAll(base, 0o755), unix.Statfs(base, &st)); err != nil {
		t.Fatal(err)
	}
	if name == Btrfs && st.Type != unix.BTRFS_SUPER_MAGIC {
		t.Skip("not on a btrfs: see TestOnBtrfs")
	}
	s := &suite{p: Place{
		Dir: filepath.Join(base, "container"), Layers: []string{filepath.Join(base, "two/tree"), filepath.Join(base, "one/tree")}, Points: filepath.Join(base, "points"), Durable: true,
	}}
	s.driver = open(t, name)
	two, one := s.p.Layers[0], s.p.Layers[1]
	for _, dir := range []string{one + "/dir/below", one + "/gone", one + "/opaque", two + "/opaque", s.p.Points + "/dev", s.p.Upper(), s.p.Work()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{
		one + "/dir/file": "one", one + "/dir/below/deep": "deep", one + "/gone/x": "x", one + "/opaque/hidden": "h", two + "/opaque/seen": "s", one + "/plain": "plain", two + "/plain": "newer", one + "/first": "linked",
	} {
		write(t, path, text)
	}
	when := time.Unix(1_600_000_000, 123456789)
	err := errors.Join(os.Link(one+"/first", one+"/second"), os.Symlink("dir/file", one+"/link"), os.Chown(one+"/plain", 5, 6), os.Chmod(one+"/dir", 0o750),
		unix.Mknod(two+"/gone", unix.S_IFCHR, 0), unix.Setxattr(two+"/opaque", "trusted.overlay.opaque", []byte("y"), 0), os.Chtimes(one+"/dir/file", when, when),
		unix.Setxattr(one+"/dir/file", "user.test", []byte("value"), 0))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t *testing.T, name string) Driver {
	t.Helper()
	d, err := Open(name)
	if err != nil || d.Name() != name {
		t.Fatal(d, err)
	}
	return d
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// look is all that the container consists of, as text.
func (s *suite) look(t *testing.T, d Driver) (all []string) {
	t.Helper()
	root, err := merged.OpenDir(d.Stack(s.p), "/")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	first := map[uint64]string{}
	var walk func(d *merged.Dir, at string)
	walk = func(d *merged.Dir, at string) {
		err := d.Entries(func(e merged.Entry) error {
			path := at + "/" + e.Name
			var st unix.Stat_t
			fd := e.In
			if e.Dir != nil {
				if err := unix.Fstat(e.Dir.FD(), &st); err != nil {
					return err
				}
				all = append(all, fmt.Sprintf("%s %o %d:%d", path, st.Mode, st.Uid, st.Gid))
				walk(e.Dir, path)
				return nil
			}
			full := fmt.Sprintf("/proc/self/fd/%d/%s", fd, e.Name)
			st = e.Stat
			line := fmt.Sprintf("%s %o %d:%d %d %d", path, st.Mode, st.Uid, st.Gid, st.Rdev, st.Nlink)
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFREG:
				text, err := os.ReadFile(full)
				if err != nil {
					return err
				}
				value := make([]byte, 100)
				n, _ := unix.Lgetxattr(full, "user.test", value)
				line += fmt.Sprintf(" %d.%d %q %q", st.Mtim.Sec, st.Mtim.Nsec, text, value[:max(n, 0)])
				if st.Nlink > 1 && first[st.Ino] == "" {
					first[st.Ino] = path
				}
				line += " " + first[st.Ino]
			case unix.S_IFLNK:
				to, err := os.Readlink(full)
				if err != nil {
					return err
				}
				line += " -> " + to
			}
			all = append(all, line)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	walk(root, "")
	return all
}

func (s *suite) same(t *testing.T, what string, want, got []string) {
	t.Helper()
	if !slices.Equal(want, got) {
		t.Errorf("%s: it was\n\t%s\nand is\n\t%s", what, strings.Join(want, "\n\t"), strings.Join(got, "\n\t"))
	}
}

// prepares shows that a container begins as its image, and that preparing it again changes nothing.
func (s *suite) prepares(t *testing.T) {
	t.Helper()
	image := s.look(t, whole{VFS}) // not there yet: the layers
	for range 2 {
		if err := s.driver.Prepare(s.p); err != nil {
			t.Fatal(err)
		}
		s.same(t, "prepared", image, s.look(t, s.driver))
		if found, err := s.driver.Changes(s.p); err != nil || len(found) != 0 {
			t.Errorf("changes of a new container: %+v, %v", found, err)
		}
	}
}

// keeps has the container change much, by way of a copy, since nothing is mounted here; what vfs has is then the driver's to take.
func (s *suite) keeps(t *testing.T) {
	t.Helper()
	copies := whole{VFS}
	if err := errors.Join(s.driver.Drop(s.p), copies.Prepare(s.p)); err != nil {
		t.Fatal(err)
	}
	tree := s.p.Tree()
	var before unix.Stat_t
	err := errors.Join(unix.Stat(tree+"/plain", &before), os.Remove(tree+"/dir/below/deep"), os.RemoveAll(tree+"/opaque"), os.Mkdir(tree+"/opaque", 0o700), os.Mkdir(tree+"/gone", 0o711),
		os.Link(tree+"/first", tree+"/third"), os.Remove(tree+"/link"), os.Symlink("dir/fil?", tree+"/link"), unix.Mkfifo(tree+"/fifo", 0o600),
		unix.Mknod(tree+"/device", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))), unix.Setxattr(tree+"/dir/file", "user.test", []byte("other"), 0), os.Chown(tree+"/dir", 7, 8))
	if err != nil {
		t.Fatal(err)
	}
	write(t, tree+"/new", "new")
	write(t, tree+"/gone/y", "y")
	write(t, tree+"/.wh.odd", "a name that means something in archives")
	write(t, tree+"/plain", "NEWER") // of the same size, and then of the same time
	if err := os.Chtimes(tree+"/plain", time.Unix(before.Atim.Unix()), time.Unix(before.Mtim.Unix())); err != nil {
		t.Fatal(err)
	}
	want := s.look(t, copies)
	if err := Move(s.p, copies, s.driver, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	s.same(t, "taken over", want, s.look(t, s.driver))
	found, err := s.driver.Changes(s.p)
	var text []string
	for _, c := range found {
		text = append(text, string(c.Kind)+c.Path)
	}
	for _, c := range []string{"A/new", "D/dir/below/deep", "D/opaque/seen", "A/gone", "A/gone/y", "C/dir"} {
		if !slices.Contains(text, c) {
			t.Errorf("%s is not in %v, %v", c, text, err)
		}
	}
}

// moves moves the container to another driver and back, with a record that cannot be written in between.
func (s *suite) moves(t *testing.T, name string) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(s.p.Dir, &st); err != nil || name == Btrfs && st.Type != unix.BTRFS_SUPER_MAGIC {
		return
	}
	other := open(t, name)
	full := errors.New("the disk is full")
	want := s.look(t, s.driver)
	for _, step := range [][2]Driver{{s.driver, other}, {other, s.driver}} {
		from, to := step[0], step[1]
		if from.Name() == Fuse && to.Name() != Fuse {
			s.mark(t)
		}
		for _, rest := range []string{s.p.Tree() + newSuffix, s.p.Upper() + newSuffix} { // of one that was killed
			if err := os.MkdirAll(rest+"/half", 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := Move(s.p, from, to, func() error { return full }); from.Name() != to.Name() && !errors.Is(err, full) {
			t.Errorf("from %s to %s with a record that cannot be written: %v", from.Name(), to.Name(), err)
		}
		s.same(t, "not moved to "+to.Name(), want, s.look(t, from))
		if err := Move(s.p, from, to, func() error { return nil }); err != nil {
			t.Fatalf("from %s to %s: %v", from.Name(), to.Name(), err)
		}
		s.same(t, "moved from "+from.Name()+" to "+to.Name(), want, s.look(t, to))
	}
}

// mark leaves in a directory that hides what is below it what fuse-overlayfs does.
func (s *suite) mark(t *testing.T) {
	t.Helper()
	dir := s.p.Upper() + "/gone"
	write(t, dir+"/"+merged.OpaqueMark, "")
	err := errors.Join(unix.Mknod(dir+"/"+merged.HiddenMark, unix.S_IFCHR, 0), unix.Setxattr(dir, "user.fuseoverlayfs.opaque", []byte("y"), 0))
	if err != nil {
		t.Fatal(err)
	}
}

// drops shows that nothing is left.
func (s *suite) drops(t *testing.T) {
	t.Helper()
	if err := errors.Join(s.driver.Drop(s.p), os.RemoveAll(s.p.Tree()+newSuffix), os.RemoveAll(s.p.Upper()+newSuffix)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tree", "upper/*", "work/*", "*.new"} {
		if left, _ := filepath.Glob(filepath.Join(s.p.Dir, name)); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	if err := DropBase(s.p.Layers[0]); err != nil || exists(filepath.Join(filepath.Dir(s.p.Layers[0]), BaseName)) {
		t.Errorf("the image's subvolume is left: %v", err)
	}
	if err := os.RemoveAll(s.p.Dir); err != nil {
		t.Error(err)
	}
}
