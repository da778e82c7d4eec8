package storage

import (
	"errors"
	"strings"
	"testing"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

func TestChoose(t *testing.T) {
	installed := func() error { return nil }
	missing := func() error { return errors.New("the program fuse-overlayfs is not installed") }
	never := func() error { t.Error("fuse-overlayfs is looked for where it does not matter"); return nil }
	old := Facts{Filesystem: unix.EXT4_SUPER_MAGIC, InUserNS: true, Old: true}
	for _, c := range []struct {
		summary, wanted string
		facts           Facts
		fuse            func() error
		want, why       string // or the error
	}{
		{"Overlay where it can be", "", Facts{ByFD: true}, never, Overlay, "layers are given to the kernel as descriptors"},
		{"An old kernel takes their names", "", Facts{}, never, Overlay, "layers are given to the kernel by name"},
		{"Root may mount overlays on old kernels", "", Facts{Old: true}, never, Overlay, "by name"},
		{"Without root, before 5.11, the program", "", old, installed, Fuse, "before Linux 5.11 only root may mount overlays; a program mounts"},
		{"or copies where it is not installed", "", old, missing, VFS, "before Linux 5.11 only root may mount overlays; each container is a copy"},
		{"or snapshots on a btrfs", "", Facts{Filesystem: unix.BTRFS_SUPER_MAGIC, InUserNS: true, Old: true}, missing, Btrfs, "a snapshot of its image"},
		{"A kernel without overlay", "", Facts{None: true}, installed, Fuse, "this kernel has no overlay file system; a program mounts"},
		{"and nothing installed", "", Facts{None: true}, missing, VFS, "this kernel has no overlay file system; each container is a copy"},
		{"which cannot be asked for", Overlay, Facts{None: true}, missing, "", "this kernel has no overlay file system"},
		{"Nothing writable on another's files", "", Facts{Filesystem: unix.NFS_SUPER_MAGIC}, missing, VFS, "the data root is on an NFS, which cannot hold"},
		{"Nothing layered on an overlay, whose whiteouts are not the program's", "", Facts{Filesystem: unix.OVERLAYFS_SUPER_MAGIC}, never, VFS, "on an overlay"},
		{"What is asked for", VFS, Facts{}, never, VFS, "as storage-driver says; each container is a copy"},
		{"Overlay too", Overlay, Facts{}, never, Overlay, "as storage-driver says"},
		{"unless it cannot be", Btrfs, Facts{}, never, "", "the data root is not on a btrfs"},
		{"nor overlay", Overlay, old, missing, "", "before Linux 5.11"},
		{"nor the program", Fuse, Facts{}, missing, "", "is not installed"},
		{"nor what there is not", "zfs", Facts{}, never, "", "there is none of that name, but overlay, fuse-overlayfs, btrfs, vfs"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			c.facts.Fuse = c.fuse
			got, err := Choose(c.facts, c.wanted)
			if c.want == "" {
				if !errdef.Is(err, errdef.Unsupported) || !strings.Contains(err.Error(), c.why) {
					t.Errorf("%+v, %v", got, err)
				}
				return
			}
			if err != nil || got.Name != c.want || !strings.Contains(got.Why, c.why) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}
