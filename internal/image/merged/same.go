package merged

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"berth/internal/tree"

	"golang.org/x/sys/unix"
)

// sameFile reports whether what is called name in two directories, and has the same type, is the same in both.
func sameFile(a, b int, name string, st, from *unix.Stat_t) (bool, error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return readlink(a, name) == readlink(b, name), nil
	case unix.S_IFREG:
	default:
		return true, nil
	}
	if st.Nlink != from.Nlink { // another name may be the first of a file that is the same
		return false, nil
	}
	var files [2]*os.File
	for i, dir := range [...]int{a, b} {
		f, err := tree.OpenEntry(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			return false, err
		}
		defer f.Close()
		files[i] = f
	}
	if !sameAttributes(int(files[0].Fd()), int(files[1].Fd())) {
		return false, nil
	}
	return sameContent(files[0], files[1], st.Size)
}

func readlink(dir int, name string) string {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, b)
	if err != nil {
		return fmt.Sprintf("?%d %v", dir, err) // like nothing else
	}
	return string(b[:n])
}

// sameContent compares files of size bytes.
func sameContent(a, b io.Reader, size int64) (bool, error) {
	const piece = 256 << 10
	n := min(size+1, piece) // one more meets the end
	x, y := make([]byte, n), make([]byte, n)
	for {
		n, err := io.ReadFull(a, x)
		m, err2 := io.ReadFull(b, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return err2 == err, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// sameAttributes reports whether two files have the same extended attributes, as far as they are the files' own.
func sameAttributes(a, b int) bool {
	return slices.Equal(attributes(a), attributes(b))
}

func attributes(fd int) (all []string) {
	if n, err := unix.Flistxattr(fd, nil); err != nil || n == 0 { // most have none
		return nil
	}
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(fd, list)
	if err != nil {
		return nil
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if !tree.Carried(name) {
			continue
		}
		if n, err := unix.Fgetxattr(fd, name, value); err == nil {
			all = append(all, name+"="+string(value[:n]))
		}
	}
	slices.Sort(all)
	return all
}
