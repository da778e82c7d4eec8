package lifecycle

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// OpenNull opens the null device for a container to have, with os.O_RDONLY or os.O_WRONLY. It is the host's, and whoever has it
// open may change its mode, owner and times, if he may do that to a file of root's; so root opens it through a read-only
// mount that is attached to nothing. Others cannot make one, and their containers cannot change a file of root's.
func OpenNull(flag int) (*os.File, error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, os.DevNull, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return os.OpenFile(os.DevNull, flag, 0)
	}
	defer unix.Close(tree)
	const attributes = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attributes}); err != nil && err != unix.ENOSYS {
		return nil, os.NewSyscallError("mount_setattr", err) // Linux 5.12 has it
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(tree), flag|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	return os.NewFile(uintptr(fd), os.DevNull), nil
}
