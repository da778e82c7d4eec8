package storage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"unsafe"

	"berth/internal/disk"

	"golang.org/x/sys/unix"
)

// BaseName is the subvolume beside a layer's tree that has all that the layer and those below it make together: what containers of the
// driver btrfs are snapshots of. It is made for the first of them, and goes with the layer.
const BaseName = "whole"

// The ioctls of btrfs (linux/btrfs.h), and what they take: struct btrfs_ioctl_vol_args, and for snapshots btrfs_ioctl_vol_args_v2, both of
// 4096 bytes.
const (
	subvolCreate   = 0x5000940e // _IOW(0x94, 14, struct btrfs_ioctl_vol_args)
	snapDestroy    = 0x5000940f // _IOW(0x94, 15, struct btrfs_ioctl_vol_args)
	snapCreateV2   = 0x50009417 // _IOW(0x94, 23, struct btrfs_ioctl_vol_args_v2)
	subvolSetFlags = 0x4008941a // _IOW(0x94, 26, __u64)
	volumeNameMax  = 4087
	volume2NameMax = 4039
)

type volumeArgs struct {
	fd   int64
	name [volumeNameMax + 1]byte
}

type volumeArgs2 struct {
	fd      int64
	transid uint64
	flags   uint64
	_       [4]uint64
	name    [volume2NameMax + 1]byte
}

// volumeCall calls an ioctl about a name in the directory dir.
func volumeCall(what string, request uintptr, dir string, args unsafe.Pointer) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), request, uintptr(args)); errno != 0 {
		return os.NewSyscallError(what, errno)
	}
	return nil
}

func makeSubvolume(path string) error {
	var args volumeArgs
	copy(args.name[:volumeNameMax], filepath.Base(path))
	if err := volumeCall("BTRFS_IOC_SUBVOL_CREATE", subvolCreate, filepath.Dir(path), unsafe.Pointer(&args)); err != nil {
		return failed("make the subvolume "+path, err)
	}
	return os.Chmod(path, 0o755) // whatever the umask
}

// removeSubvolume removes a subvolume with all that is in it. Without root that is allowed only where the file system is mounted with
// user_subvol_rm_allowed; an empty one can be removed as a directory by its owner (Linux 4.18).
func removeSubvolume(path string) error {
	var args volumeArgs
	copy(args.name[:volumeNameMax], filepath.Base(path))
	return volumeCall("BTRFS_IOC_SNAP_DESTROY", snapDestroy, filepath.Dir(path), unsafe.Pointer(&args))
}

// removeSubvolumesIn removes the subvolumes below a directory, as far as it may; those that it may not it makes writable.
func removeSubvolumesIn(dir string) {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Type != unix.BTRFS_SUPER_MAGIC {
		return
	}
	var found []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != dir && isSubvolume(path) {
			found = append(found, path)
			writable(path)
		}
		return nil
	})
	for _, path := range slices.Backward(found) { // those below before those above
		_ = removeSubvolume(path)
	}
}

// isSubvolume reports whether a directory is one: its number is BTRFS_FIRST_FREE_OBJECTID (linux/btrfs_tree.h).
func isSubvolume(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Ino == 256
}

// writable takes away what keeps a subvolume from being changed.
func writable(path string) {
	var flags uint64
	if d, err := os.Open(path); err == nil {
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, d.Fd(), subvolSetFlags, uintptr(unsafe.Pointer(&flags)))
		_ = d.Close()
	}
}

// snapshot makes a subvolume that begins as another one is.
func snapshot(of, path string) error {
	source, err := os.Open(of)
	if err != nil {
		return err
	}
	defer source.Close()
	args := volumeArgs2{fd: int64(source.Fd())}
	copy(args.name[:volume2NameMax], filepath.Base(path))
	return failed("make a snapshot of "+of, volumeCall("BTRFS_IOC_SNAP_CREATE_V2", snapCreateV2, filepath.Dir(path), unsafe.Pointer(&args)))
}

// baseOf is the subvolume beside the topmost layer that has all of a stack; it is made if need be, durably, since others will have parts of it that
// are durable.
func baseOf(top string, stack []string) (string, error) {
	dir := filepath.Dir(top)
	base := filepath.Join(dir, BaseName)
	if exists(base) {
		return base, nil
	}
	lock, err := disk.LockDir(dir)
	if err != nil {
		return "", err
	}
	defer lock.Unlock()
	if exists(base) {
		return base, nil // made meanwhile
	}
	made := base + newSuffix
	err = remove(made)
	if err == nil {
		err = makeSubvolume(made)
	}
	if err == nil {
		err = Fill(made, "/", stack, nil)
	}
	if err == nil {
		err = syncFileSystem(made)
	}
	if err == nil {
		err = os.Rename(made, base)
	}
	if err != nil {
		return "", errors.Join(failed("make the subvolume that containers are snapshots of", err), remove(made))
	}
	return base, nil
}

// SweepBase removes a subvolume beside a layer's tree that somebody has died over.
func SweepBase(tree string) error {
	made := filepath.Join(filepath.Dir(tree), BaseName+newSuffix)
	if !exists(made) {
		return nil
	}
	lock, err := disk.TryLockDir(filepath.Dir(tree))
	if errors.Is(err, disk.ErrLocked) {
		return nil // it is being made
	}
	if err != nil {
		return err
	}
	defer lock.Unlock()
	return remove(made)
}

// DropBase removes the subvolume beside a layer's tree: the layer has changed, or nothing is to be a snapshot any more. One in the making is left
// to whoever makes it.
func DropBase(tree string) error {
	dir := filepath.Dir(tree)
	lock, err := disk.TryLockDir(dir)
	if errors.Is(err, disk.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Unlock()
	base := filepath.Join(dir, BaseName)
	return errors.Join(remove(base+newSuffix), remove(base))
}
