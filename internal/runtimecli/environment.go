package runtimecli

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"berth/internal/container"
	"berth/internal/disk"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	passwdFile = "etc/passwd"
	maxPasswd  = 4 << 20 // the largest that is read
)

// completeEnv gives a process an environment in which each variable is once, the last one's value, and HOME is the home of its user:
// the spec asks for neither, and runc's users count on both. passwd reads the container's passwd file.
func completeEnv(p *specs.Process, passwd func() []byte) {
	var env []string
	seen := map[string]bool{}
	for _, v := range slices.Backward(p.Env) {
		if name, _, _ := strings.Cut(v, "="); !seen[name] {
			seen[name] = true
			env = append(env, v)
		}
	}
	slices.Reverse(env)
	env = slices.DeleteFunc(env, func(v string) bool { return v == "HOME=" })
	if !slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "HOME=") }) {
		env = append(env, "HOME="+homeOf(p.User.UID, passwd()))
	}
	p.Env = env
}

func homeOf(uid uint32, passwd []byte) string {
	u, err := container.LookupUser(strconv.FormatUint(uint64(uid), 10), nil, passwd, nil)
	if err != nil || strings.ContainsRune(u.Home, 0) {
		return "/"
	}
	return u.Home
}

// passwdInside reads the passwd file of a process of a container.
func passwdInside(pid int) []byte { return readBelow("/proc/"+strconv.Itoa(pid)+"/root", passwdFile) }

// readBelow reads a file of a tree; what cannot be read is none.
func readBelow(root, file string) []byte {
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer dir.Close()
	data, err := disk.ReadBounded(int(dir.Fd()), file, maxPasswd)
	if err != nil {
		return nil
	}
	return data
}

// passwdOf reads the passwd file that a container will have: the one that is mounted there, or that of its root.
func passwdOf(c *specs.Spec) []byte {
	for _, m := range slices.Backward(c.Mounts) {
		if m.Destination == "/etc/passwd" && m.Source != "" {
			return readBelow("/", m.Source)
		}
	}
	return readBelow(c.Root.Path, passwdFile)
}
