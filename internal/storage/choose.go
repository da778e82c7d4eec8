package storage

import (
	"fmt"
	"slices"
	"strings"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// Facts are what the choice of a driver depends on.
type Facts struct {
	// Filesystem is the type of the data root's, as statfs(2) says it.
	Filesystem int64
	// InUserNS says that this is a user namespace, where the kernel mounts overlays since 5.11 (Old says that it is older).
	InUserNS, Old bool
	// None says that the kernel has no overlay, and no module of it either.
	None bool
	// ByFD says that the kernel takes the layers of an overlay as descriptors.
	ByFD bool
	// Fuse says why fuse-overlayfs cannot be used, or nothing; it is asked only where that matters.
	Fuse func() error
}

// elsewhere are the file systems that the kernel refuses for the writable layer: their files are another's to change (ovl_dentry_remote in
// fs/overlayfs/util.c), or they have no extended attributes. The numbers are those of linux/magic.h, and of the file systems' own headers.
var elsewhere = map[int64]string{
	unix.NFS_SUPER_MAGIC: "an NFS", unix.V9FS_MAGIC: "a 9p", unix.SMB_SUPER_MAGIC: "an SMB", unix.CIFS_SUPER_MAGIC: "an SMB", unix.SMB2_SUPER_MAGIC: "an SMB",
	unix.FUSE_SUPER_MAGIC: "a FUSE", unix.MSDOS_SUPER_MAGIC: "a FAT", unix.EXFAT_SUPER_MAGIC: "an exFAT", unix.ECRYPTFS_SUPER_MAGIC: "an eCryptfs",
}

// Choice is a driver, and why it is that one.
type Choice struct{ Name, Why string }

// Choose finds the driver of new containers. wanted is the setting, if there is one: it is an error where that cannot be.
func Choose(f Facts, wanted string) (Choice, error) {
	if wanted == "" {
		return choose(f), nil
	}
	if why := f.against(wanted); why != "" {
		err := errdef.New(errdef.Unsupported, "cannot use the storage driver %s: %s", wanted, why)
		return Choice{}, errdef.Hint(err, "leave out the setting storage-driver: then it is %s", choose(f).Name)
	}
	why := "as storage-driver says"
	if about := about(wanted); about != "" {
		why += "; " + about
	}
	return Choice{wanted, why}, nil
}

func choose(f Facts) Choice {
	without := f.against(Overlay)
	if without == "" {
		how := "by name"
		if f.ByFD {
			how = "as descriptors"
		}
		return Choice{Overlay, "layers are given to the kernel " + how}
	}
	for _, name := range Names[1:] {
		if f.against(name) == "" {
			return Choice{name, without + "; " + about(name)}
		}
	}
	return Choice{VFS, without}
}

// about says what a container's files are.
func about(name string) string {
	switch name {
	case Fuse:
		return "a program mounts each container's layers"
	case Btrfs:
		return "each container is a snapshot of its image"
	case VFS:
		return "each container is a copy of its image"
	}
	return ""
}

// against is why a driver cannot be used, or empty.
func (f Facts) against(name string) string {
	const onOverlay = "the data root is on an overlay, which cannot hold another's writable layer"
	switch {
	case name == VFS:
	case name == Btrfs && f.Filesystem != unix.BTRFS_SUPER_MAGIC:
		return "the data root is not on a btrfs"
	case name == Btrfs:
	case !slices.Contains(Names[:], name):
		return "there is none of that name, but " + strings.Join(Names[:], ", ")
	case f.Filesystem == unix.OVERLAYFS_SUPER_MAGIC:
		return onOverlay
	case name == Overlay && f.None:
		return "this kernel has no overlay file system"
	case name == Overlay && elsewhere[f.Filesystem] != "":
		return "the data root is on " + elsewhere[f.Filesystem] + ", which cannot hold an overlay's writable layer"
	case name == Overlay && f.InUserNS && f.Old:
		return "before Linux 5.11 only root may mount overlays"
	case name == Fuse:
		if err := f.Fuse(); err != nil {
			return fmt.Sprint(err)
		}
	}
	return ""
}
