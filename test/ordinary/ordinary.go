// Package ordinary is a user without root, for tests that root runs: who he is, and where berth keeps what is his in the kernel.
//
// It makes no users, and gives nobody rights but to make devices of networks.
package ordinary

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// User is somebody without root.
type User struct {
	Name     string // empty: the host does not know him
	UID, GID uint32
}

// stranger is a number of a user and a group that no host has.
const stranger = 64321

// Find is a user of this host who has subordinate ids, if they can be mapped, or else one whom the host does not know, and who has
// one id.
func Find() User {
	data, _ := os.ReadFile("/etc/subuid")
	if _, err := exec.LookPath("newuidmap"); err != nil {
		data = nil
	}
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(line, ":")
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid > 0 {
			return User{name, uint32(uid), uint32(gid)}
		}
	}
	return User{UID: stranger, GID: stranger}
}

func (u User) String() string {
	if u.Name == "" {
		return fmt.Sprintf("user %d, who has one id", u.UID)
	}
	return "user " + u.Name + ", who has subordinate ids"
}

// Credential makes a process his.
func (u User) Credential() *syscall.Credential { return &syscall.Credential{Uid: u.UID, Gid: u.GID} }

// OpenTUN lets everybody make devices of networks, as udev does (50-udev-default.rules of systemd), until restore is called.
func OpenTUN() (restore func() error, err error) {
	const path = "/dev/net/tun"
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	return func() error { return os.Chmod(path, st.Mode().Perm()) }, os.Chmod(path, 0o666)
}

// Network opens the network namespace of the networks of a run root by way of a process that holds it; nil says that none does.
func Network(run string, pids []int) (*os.File, error) {
	text, err := os.ReadFile(filepath.Join(run, "rootless", "network"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	name := "net:[" + strings.TrimSpace(string(text)) + "]"
	for _, pid := range pids {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, path := range files {
			if to, err := os.Readlink(path); err != nil || to != name {
				continue
			}
			if f, err := os.Open(path); err == nil {
				return f, nil
			}
		}
	}
	return nil, nil
}

// UserNamespaces are the inode numbers of the user namespaces right below the host's that these processes are in, or below of.
func UserNamespaces(pids []int) map[uint64]bool {
	found := map[uint64]bool{}
	own, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return found
	}
	for _, pid := range pids {
		var last uint64
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		for err == nil {
			var st unix.Stat_t
			if unix.Fstat(fd, &st) != nil || st.Ino == own.Sys().(*syscall.Stat_t).Ino {
				break
			}
			last = st.Ino
			var above int
			above, err = unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
			_ = unix.Close(fd)
			fd = above
		}
		if err == nil {
			_ = unix.Close(fd)
		}
		if last != 0 {
			found[last] = true
		}
	}
	return found
}
