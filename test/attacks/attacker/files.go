package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// writable tries to open every file below the directories for writing, and to make a directory in every directory, and
// prints what it could.
func writable(dirs []string) error {
	tried := 0
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil //nolint:nilerr // what cannot be read is not what is looked for
			case d.IsDir():
				tried++
				name := filepath.Join(path, "berth-attack")
				if unix.Mkdir(name, 0o755) == nil {
					fmt.Println("a directory in", path)
					_ = unix.Rmdir(name)
				}
			case d.Type().IsRegular():
				tried++
				if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
					fmt.Println("the file", path)
					_ = unix.Close(fd)
				}
			}
			return nil
		})
	}
	fmt.Println(tried, "tried")
	return nil
}

// swap exchanges two names until it is killed: whoever looks at one of them and then uses it finds the other.
func swap(a, b string) error {
	for {
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
			return fmt.Errorf("cannot exchange %s and %s: %w", a, b, err)
		}
	}
}

// abstract prints the unix sockets with an abstract name that a process has open.
func abstract(pid string) error {
	table, err := os.ReadFile("/proc/" + pid + "/net/unix")
	if err != nil {
		return err
	}
	names := map[string]string{} // inode -> name
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) == 8 && strings.HasPrefix(f[7], "@") {
			names["socket:["+f[6]+"]"] = f[7]
		}
	}
	fds, err := os.ReadDir("/proc/" + pid + "/fd")
	if err != nil {
		return err
	}
	sockets := 0
	for _, fd := range fds {
		to, _ := os.Readlink("/proc/" + pid + "/fd/" + fd.Name())
		if strings.HasPrefix(to, "socket:") {
			sockets++
		}
		if name, ok := names[to]; ok {
			fmt.Println("abstract socket", name)
		}
	}
	fmt.Println(sockets, "sockets")
	return nil
}
