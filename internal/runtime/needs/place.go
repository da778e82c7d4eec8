package needs

import (
	"fmt"
	"strings"

	"berth/internal/host"

	"golang.org/x/sys/unix"
)

// Magic numbers of file systems that are somewhere else (linux/magic.h; fuse is fs/fuse/inode.c's).
const (
	nfsMagic  = 0x6969
	afsMagic  = 0x5346414f
	fuseMagic = 0x65735546
)

// lowSpace is how much room is little: less and the next pull will probably fail.
const lowSpace = 1 << 30

// place judges the file system of a root.
func place(name string, p host.Place) Finding {
	f := Finding{Name: name, OK: true, For: "images and containers", Found: p.Dir}
	flag := "--" + strings.ReplaceAll(name, " ", "-") + " DIR"
	remote := ""
	switch p.Type {
	case nfsMagic:
		remote = "NFS"
	case afsMagic:
		remote = "AFS"
	case fuseMagic:
		remote = "FUSE"
	}
	switch {
	case p.Errno != 0 && p.Errno != unix.ENOENT:
		f.OK, f.Needed, f.Found, f.Hint = false, true, p.Dir+": "+p.Errno.Error(), "choose another with "+flag
	case remote != "":
		f.OK, f.Found = false, fmt.Sprintf("%s is on %s", p.Dir, remote)
		f.For = "overlay's writable layers, locks between commands and ownership of files, none of which work there"
		f.Hint = "put it on a local disk: " + flag
	case name == DataRoot && p.NoExec:
		f.OK, f.Found = false, p.Dir+" is mounted noexec"
		f.For = "pull, load, import and output by templates, which are a program that is unpacked there"
		f.Hint = "mount it with exec, or choose another with " + flag
	case name == DataRoot && p.Type == unix.OVERLAYFS_SUPER_MAGIC:
		f.OK, f.Found = false, p.Dir+" is on an overlay, which cannot hold another's writable layer"
		f.For = "quick starts: containers get copies of their images instead of layers over them"
		f.Hint = "put a volume there: start the container that this is with -v berth:" + p.Dir
	case name == DataRoot && p.Full:
		f.OK, f.Needed, f.Found = false, true, p.Dir+" is on a file system without any inodes left"
		f.For = "every new file"
		f.Hint = "remove files; berth image prune; berth container prune; or put it elsewhere with " + flag
	case name == DataRoot && p.Free < lowSpace:
		f.OK, f.Found = false, fmt.Sprintf("%s has %d MiB left", p.Dir, p.Free>>20)
		f.For = "pulling images"
		f.Hint = "berth image prune; berth container prune; or put it elsewhere with " + flag
	}
	return f
}
