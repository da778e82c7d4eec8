package cli_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"berth/internal/host"
	"berth/internal/network"
	"berth/internal/runtime/cgroup"
	"berth/internal/runtime/userns"
	"berth/internal/storage"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// TestScript runs testdata/script: the real program, with real containers of the image inside it. Every script has an
// instance of its own, and fails if something of it is left.
//
// BERTH_BINARY names a program that is built already, for a user who may not write to the checkout. BERTH_TEST_SLOW says how
// many times slower than usual this machine is, if it is emulated: what the scripts wait for may take that much longer.
func TestScript(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the programs and runs containers")
	}
	if os.Geteuid() != 0 && !userNamespaces() {
		t.Skip("neither root nor are there unprivileged user namespaces: no container can be made")
	}
	program, attacker := build(t), buildAttacker(t)
	t.Setenv("BERTH_ATTACKER", attacker)
	slow, err := slowness()
	if err != nil {
		t.Fatal(err)
	}
	before := machine()
	ok := t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir:                 "testdata/script",
			Setup:               func(env *testscript.Env) error { return setup(env, program, attacker, slow) },
			Condition:           condition,
			RequireExplicitExec: true,
			RequireUniqueNames:  true,
			Deadline:            time.Now().Add(slow.times(14 * time.Minute)), // for all of them
			Cmds: map[string]func(*testscript.TestScript, bool, []string){
				"capture":    capture,
				"eventually": slow.eventually,
				"exitcode":   exitcode,
				"freeport":   freeport,
				"notifier":   notifier,
				"proxy":      startProxy,
				"registry":   startRegistry,
			},
		})
	})
	if left := slow.patiently(func() []string { return added(before, machine()) }); len(left) > 0 {
		t.Errorf("left on the machine:\n%s", strings.Join(left, "\n"))
	}
	if !ok {
		t.Log("the script's log above ends with the line that failed")
	}
	if os.Geteuid() == 0 {
		t.Run("without root", func(t *testing.T) { withoutRoot(t, program, attacker) })
	}
}

// factor is how many times slower than usual everything is.
type factor int

func slowness() (factor, error) {
	text := os.Getenv("BERTH_TEST_SLOW")
	if text == "" {
		return 1, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("BERTH_TEST_SLOW is %q, and should be a number of at least 1", text)
	}
	return factor(n), nil
}

func (f factor) times(d time.Duration) time.Duration { return time.Duration(f) * d }

// build makes the program as a release is made, and returns the directory that it is in.
func build(t *testing.T) string {
	if path := os.Getenv("BERTH_BINARY"); path != "" {
		return filepath.Dir(path)
	}
	for _, tool := range []string{"make", "gzip", "flock", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the program cannot be built without %s", tool)
		}
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	// What make reads is not what the go command knows this test to depend on. Looking at it makes it so: a result is
	// cached until one of these files changes.
	for _, dir := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") {
				_, err = os.Stat(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // some scripts run it as another user
		t.Fatal(err)
	}
	cmd := exec.Command("make", "-C", root, "build", "OUT="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the program: %v\n%s", err, out)
	}
	return dir
}

// setup gives a script its own instance. It is in a directory with a short name: a socket's path has at most 107 bytes.
func setup(env *testscript.Env, program, attacker string, slow factor) error {
	dir, err := os.MkdirTemp("/tmp", "bs-")
	if err != nil {
		return err
	}
	berth := filepath.Join(program, "berth")
	env.Setenv("PATH", program+":"+os.Getenv("PATH"))
	env.Setenv("PROGRAMS", program)
	env.Setenv("DEBIAN_TAR", debianTar())
	env.Setenv("SHOP", os.Getenv("BERTH_SHOP"))
	env.Setenv("HOME", dir)
	env.Setenv("ATTACKER", attacker)
	env.Setenv("INSTANCE", dir)
	env.Setenv("BERTH_DATA_ROOT", dir+"/d")
	env.Setenv("BERTH_RUN_ROOT", dir+"/r")
	// The instance's table of nftables. All scripts run on one host: of another's table a script keeps off.
	env.Setenv("TABLE", network.Store{Data: dir + "/d", Run: dir + "/r"}.TableName())
	env.Setenv("HOSTIP", hostIP().String())
	env.Setenv("HOSTNET", netip.PrefixFrom(hostIP(), 24).Masked().String())
	// How many seconds to sleep for something that is certain to have happened then.
	env.Setenv("NAP", strconv.FormatFloat(slow.times(300*time.Millisecond).Seconds(), 'f', -1, 64))
	// Where the user's own systemd is to be found; berth itself has no use for it here.
	env.Setenv("USER_RUNTIME", os.Getenv("XDG_RUNTIME_DIR"))
	// Out of the instance, for what a script gives to a container that runs as somebody else.
	if err := os.Chmod(env.WorkDir, 0o755); err != nil {
		return err
	}
	env.Defer(func() {
		fail := func(format string, args ...any) { env.T().Log(fmt.Sprintf(format, args...)); env.T().FailNow() }
		left, err := cleanUp(berth, dir, env.Vars, slow)
		switch {
		case err != nil:
			fail("cannot clean up: %v", err)
		case len(left) > 0:
			fail("the script has left:\n%s", strings.Join(left, "\n"))
		}
	})
	return nil
}

// hostIP is an address of the host's that is not its loopback's: the one that it sends from. Nothing is sent. A host without any gets one
// that nobody has, and scripts that need it fail.
func hostIP() netip.Addr {
	c, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		return netip.AddrFrom4([4]byte{192, 0, 2, 2})
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// cleanUp removes an instance, and returns what of it berth had left behind when all its containers were gone.
func cleanUp(berth, dir string, vars []string, slow factor) ([]string, error) {
	run := func(args ...string) ([]byte, error) {
		cmd := exec.Command(berth, args...)
		cmd.Env = vars
		out, err := cmd.Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("berth %s: %w: %s", strings.Join(args, " "), err, exit.Stderr)
		}
		return out, err
	}
	var errs []error
	ids, err := run("ps", "-aq", "--no-trunc")
	errs = append(errs, err)
	if list := strings.Fields(string(ids)); len(list) > 0 {
		_, err := run(append([]string{"rm", "-f", "-v"}, list...)...)
		errs = append(errs, err)
	}
	left := slow.patiently(func() []string { return leftOf(dir) })
	// Some files of an unprivileged user's images and volumes belong to ids that only berth can remove.
	for _, kind := range [][2][]string{{{"images", "-q"}, {"rmi", "-f"}}, {{"volume", "ls", "-q"}, {"volume", "rm"}}} {
		names, err := run(kind[0]...)
		errs = append(errs, err)
		if list := strings.Fields(string(names)); len(list) > 0 {
			_, err := run(append(kind[1], list...)...)
			errs = append(errs, err)
		}
	}
	if os.Geteuid() == 0 {
		errs = append(errs, network.Store{Data: dir + "/d", Run: dir + "/r"}.Vacate())
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return left, errors.Join(append(errs, os.RemoveAll(dir))...)
}

// leftOf is what there is of an instance without containers that ought not to be there: processes that were started for it
// or look into it, mounts, and files in its run root.
func leftOf(dir string) []string {
	var left []string
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		for _, name := range []string{"cmdline", "environ", "mountinfo"} {
			data, _ := os.ReadFile(p + "/" + name)
			if strings.Contains(string(data), dir+"/") {
				line, _ := os.ReadFile(p + "/cmdline")
				left = append(left, fmt.Sprintf("process %s: %s", filepath.Base(p), strings.ReplaceAll(string(line), "\x00", " ")))
				break
			}
		}
	}
	_ = filepath.WalkDir(dir+"/r/containers", func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != dir+"/r/containers" {
			left = append(left, "file "+path)
		}
		return nil
	})
	for _, kind := range []string{"endpoints", "leases"} {
		held, _ := filepath.Glob(dir + "/r/networks/*/" + kind + "/*")
		for _, path := range held {
			left = append(left, "file "+path)
		}
	}
	for _, place := range []string{"containers", "names"} {
		entries, _ := os.ReadDir(filepath.Join(dir, "d", place))
		for _, e := range entries {
			left = append(left, "file "+filepath.Join(dir, "d", place, e.Name()))
		}
	}
	return left
}

// machine is what berth could leave outside of an instance: mounts, network links, and control groups without a process.
func machine() []string {
	var all []string
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 {
			all = append(all, "mount "+f[4])
		}
	}
	links, _ := net.Interfaces()
	for _, l := range links {
		all = append(all, "link "+l.Name)
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || !strings.HasPrefix(d.Name(), "berth-") {
			return nil
		}
		if procs, err := os.ReadFile(path + "/cgroup.procs"); err == nil && len(procs) == 0 {
			all = append(all, "control group "+path)
		}
		return fs.SkipDir
	})
	return all
}

func added(before, after []string) []string {
	return slices.DeleteFunc(after, func(s string) bool { return slices.Contains(before, s) })
}

// patiently is what remains: what goes away within a few seconds was just about to.
func (f factor) patiently(look func() []string) []string {
	left := look()
	for end := time.Now().Add(f.times(3 * time.Second)); len(left) > 0 && time.Now().Before(end); left = look() {
		time.Sleep(20 * time.Millisecond)
	}
	return left
}

// userNamespaces reports whether a user without privileges can make a user namespace.
func userNamespaces() bool {
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
	return cmd.Run() == nil
}

func condition(name string) (bool, error) {
	switch name {
	case "debian":
		return debianTar() != "", nil
	case "shop": // `make shop` has made its images
		return os.Getenv("BERTH_SHOP") != "", nil
	case "root":
		return os.Geteuid() == 0, nil
	case "registry": // there is a registry's program
		return haveRegistry(), nil
	case "userns":
		return userNamespaces(), nil
	case "subids": // this user has subordinate ids, and more than one
		return len(userns.Ours().UID) > 1, nil
	case "projectquotas": // of an ext4 that is made here
		return os.Geteuid() == 0 && projectQuotas() == nil, nil
	case "btrfs", "xfs": // one can be made here, and mounted
		return os.Geteuid() == 0 && mountable(name) == nil, nil
	case "fuse": // a program may serve files for containers
		_, err := storage.FuseProgram()
		return err == nil, nil
	case "loop": // files can be mounted
		f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
		if err == nil {
			err = f.Close()
		}
		return os.Geteuid() == 0 && err == nil, nil
	case "ia32":
		return exec.Command(os.Getenv("BERTH_ATTACKER"), "int80").Run() == nil, nil
	case "cgroup2":
		_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
		return err == nil, nil
	case "cgroup1":
		_, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes")
		return err == nil, nil
	case "apparmor":
		data, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
		return strings.HasPrefix(string(data), "Y"), nil
	case "whiteoutfiles": // an overlay may have whiteouts that are files, and so be made on another overlay
		return host.Probe().Kernel.AtLeast(6, 7), nil
	case "groups": // of all kinds, by whichever driver
		return allGroups(host.Probe()), nil
	case "systemd": // as the manager of this user's control groups
		return len(host.Probe().Groups.Systemd) > 0, nil
	case "userssh": // root may log "user" in, on a host with systemd
		if _, err := exec.LookPath("loginctl"); err != nil || os.Geteuid() != 0 {
			return false, nil
		}
		return exec.Command("nsenter", "-t1", "-n", "ssh", "-o", "BatchMode=yes", "user@localhost", "true").Run() == nil, nil
	case "usersystemd": // systemd as a manager of this user's processes
		_, err := os.Stat(filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "systemd/private"))
		return os.Geteuid() != 0 && os.Getenv("XDG_RUNTIME_DIR") != "" && err == nil, nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// mountable makes a file system and mounts it, for a moment.
func mountable(fstype string) error {
	dir, err := os.MkdirTemp("", "mountable-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("sh", "-c", "truncate -s 320M disk && mkfs."+fstype+" -q disk && mkdir mnt && mount -o loop disk mnt && umount mnt")
	cmd.Dir = dir
	return cmd.Run()
}

// projectQuotas makes an ext4 with quotas of projects and mounts it, for a moment.
func projectQuotas() error {
	dir, err := os.MkdirTemp("", "quotas-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	const script = "truncate -s 64M disk && mkfs.ext4 -q -O quota,project -E quotatype=prjquota disk && mkdir mnt && mount -o loop,prjquota disk mnt && umount mnt"
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	return cmd.Run()
}

// allGroups reports whether this user's containers have control groups that can limit all that the scripts limit.
func allGroups(h host.Facts) bool {
	choice, err := cgroup.Choose(h, "")
	if err != nil || choice.Driver == cgroup.None || h.Cgroup != host.CgroupUnified {
		return err == nil && choice.Driver != cgroup.None
	}
	from := h.Groups.ManagerGroup()
	if choice.Driver == cgroup.FS {
		from = h.Groups.Base
	}
	data, err := os.ReadFile("/sys/fs/cgroup" + from + "/cgroup.controllers")
	have := strings.Fields(string(data))
	return err == nil && !slices.ContainsFunc([]string{"cpu", "cpuset", "memory", "pids"}, func(c string) bool { return !slices.Contains(have, c) })
}

// debianTar is the root file system of a Debian: the one that is named, or the one that `make debian` has made.
func debianTar() string {
	path := os.Getenv("BERTH_DEBIAN_TAR")
	if path == "" {
		path = "../../.cache/debian.tar"
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// freeport NAME: the variable is a port of 127.0.0.1 that nobody listens on.
func freeport(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport NAME")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Check(l.Close())
	ts.Setenv(args[0], port)
}

// exitcode N PROGRAM [ARG...]: the program ends with status N.
func exitcode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode N PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	if err != nil {
		ts.Fatalf("exitcode: %q is no number", args[0])
	}
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("exitcode: %v", err)
	}
	if code != want {
		ts.Fatalf("%s ended with %d, not %d", strings.Join(args[1:], " "), code, want)
	}
}

// eventually REGEXP PROGRAM [ARG...]: within ten seconds, or as many times that as the machine is slow, the program prints to standard output what matches.
func (f factor) eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually REGEXP PROGRAM [ARG...]")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for end := time.Now().Add(f.times(10 * time.Second)); ; time.Sleep(30 * time.Millisecond) {
		_ = ts.Exec(args[1], args[2:]...) // what it prints decides
		out := ts.ReadFile("stdout")
		if want.MatchString(out) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s has not printed what matches %q, but at last:\n%s", strings.Join(args[1:], " "), args[0], out)
		}
	}
}

// capture NAME [REGEXP]: the variable is what the last program has printed, or what the parentheses in REGEXP match of it.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: capture NAME [REGEXP]")
	}
	out := strings.TrimSpace(ts.ReadFile("stdout"))
	if len(args) == 2 {
		re, err := regexp.Compile("(?m)" + args[1])
		ts.Check(err)
		m := re.FindStringSubmatch(out)
		if len(m) != 2 {
			ts.Fatalf("%q does not match once, in parentheses, in:\n%s", args[1], out)
		}
		out = m[1]
	}
	ts.Setenv(args[0], out)
}
