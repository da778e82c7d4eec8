package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/image"
	"berth/internal/image/store"
	"berth/internal/runtime/lifecycle"
	"berth/internal/storage"

	"golang.org/x/sys/unix"
)

// ImageMount is an image whose files are shown at a path, for reading, in one mount namespace.
//
//	RUN/images/ID/mount.json   this, written before the mount is made
//	RUN/images/ID/tree         where it is
//	RUN/images/ID/empty        the lowest layer: overlayfs wants two
//	DATA/mounted/ID            a copy of its files, with a storage driver that mounts no layers
type ImageMount struct {
	ID        image.Digest   `json:"id"`
	Name      string         `json:"name"` // as it was given
	Chain     []image.Digest `json:"chain"`
	Namespace string         `json:"namespace"` // "mnt:[4026531841]"
	Path      string         `json:"-"`
}

func (e *Engine) imageMountDir(id image.Digest) string {
	return filepath.Join(e.Settings.RunRoot, "images", id.Hex())
}

// imageCopyDir is on the file system of the layers, with which a copy may share its blocks.
func (e *Engine) imageCopyDir(id image.Digest) string {
	return filepath.Join(e.Settings.DataRoot, imageCopies, id.Hex())
}

const imageCopies = "mounted"

// MountImage shows the files of an image, and says where. Without root that is for processes inside the user namespace alone, of which this
// one must be. The layers are mounted as those of a new container would be, or are copied where that is what its driver does.
func (e *Engine) MountImage(ctx context.Context, name string, im store.Image) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("cannot mount image %s: %w", name, err) }
	if !host.Privileged() {
		return fail(errdef.Hint(errdef.New(errdef.Denied, "without root its files can be shown only inside the user namespace of your containers"),
			"berth unshare sh -c 'ls \"$(berth image mount %s)\"'", name))
	}
	driver, err := e.Driver()
	if err != nil {
		return fail(err)
	}
	release, err := e.Images.Content.HoldAdditions(ctx) // nobody sweeps its layers until the mount says that it is used
	if err != nil {
		return fail(err)
	}
	defer release()
	layers, err := e.Images.Layers.Stack(im.Chain)
	if err != nil {
		return fail(err)
	}
	namespace, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return fail(err)
	}
	lock, err := e.lockImageMounts()
	if err != nil {
		return fail(err)
	}
	defer lock.Unlock()
	dir := e.imageMountDir(im.ID)
	at := filepath.Join(dir, "tree")
	if old, err := readImageMount(dir); err == nil {
		if old.Namespace == namespace && isMountPoint(at) {
			return at, nil
		}
		if old.Namespace != namespace && mountedIn(old.Namespace, at) {
			return fail(errdef.New(errdef.Conflict, "it is mounted in another mount namespace"))
		}
	}
	for _, d := range []string{at, filepath.Join(dir, "empty")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fail(err)
		}
	}
	data, err := json.Marshal(ImageMount{ID: im.ID, Name: name, Chain: im.Chain, Namespace: namespace})
	if err != nil {
		return fail(err)
	}
	if err := disk.Replace(filepath.Join(dir, "mount.json"), data, 0o600, disk.Volatile); err != nil {
		return fail(err)
	}
	switch {
	case driver.Name == storage.Fuse:
		err = e.mountServed(layers, at)
	case storage.Whole(driver.Name):
		err = e.mountCopy(im.ID, layers, at)
	default:
		err = mountStack(append(layers, filepath.Join(dir, "empty")), at, e.Host().InUserNS)
	}
	if err != nil {
		return fail(errors.Join(err, e.RemoveTree(e.imageCopyDir(im.ID)), os.RemoveAll(dir)))
	}
	return at, nil
}

// readOnly are the flags of an image's mount.
const readOnly = unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID

// mountServed has a program show the layers.
func (e *Engine) mountServed(layers []string, at string) error {
	root, err := storage.Serve(storage.Place{Layers: layers}, e.Settings.DataRoot, lifecycle.MountFuse)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := unix.MoveMount(int(root.Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	return e.protect(at)
}

// mountCopy shows a copy of what the layers make together.
func (e *Engine) mountCopy(id image.Digest, layers []string, at string) error {
	dir := e.imageCopyDir(id)
	if err := e.RemoveTree(dir); err != nil { // of somebody who has died
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := storage.Fill(dir, "/", layers, nil); err != nil {
		return fmt.Errorf("cannot copy its files: %w", err)
	}
	if err := unix.Mount(dir, at, "", unix.MS_BIND, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return e.protect(at)
}

// protect makes what is mounted read-only, or takes it away again.
func (e *Engine) protect(at string) error {
	err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|readOnly, "")
	if err != nil {
		err = errors.Join(os.NewSyscallError("mount", err), unix.Unmount(at, unix.MNT_DETACH))
	}
	return err
}

// sweepImageCopies removes copies that are mounted nowhere any more.
func (e *Engine) sweepImageCopies() error {
	entries, err := os.ReadDir(filepath.Join(e.Settings.DataRoot, imageCopies))
	if err != nil || len(entries) == 0 {
		return nil //nolint:nilerr // there are none
	}
	if err := os.MkdirAll(filepath.Dir(e.imageMountsLock()), 0o700); err != nil { // nothing of it after a boot
		return err
	}
	lock, err := disk.TryLock(e.imageMountsLock())
	if errors.Is(err, disk.ErrLocked) {
		return nil // one may be in the making
	}
	if err != nil {
		return err
	}
	defer lock.Unlock()
	mounts, err := e.ImageMounts()
	if err != nil {
		return err
	}
	errs := []error{}
	for _, entry := range entries {
		if !slices.ContainsFunc(mounts, func(m ImageMount) bool { return m.ID.Hex() == entry.Name() }) {
			errs = append(errs, e.RemoveTree(filepath.Join(e.Settings.DataRoot, imageCopies, entry.Name())))
		}
	}
	return errors.Join(errs...)
}

// mountStack mounts layers, the topmost first, by their descriptors: their names would not fit into one page.
func mountStack(layers []string, at string, userXattr bool) error {
	var lower []string
	for _, l := range layers {
		fd, err := unix.Open(l, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: l, Err: err}
		}
		defer unix.Close(fd)
		lower = append(lower, "/proc/self/fd/"+strconv.Itoa(fd))
	}
	options := "lowerdir=" + strings.Join(lower, ":")
	if userXattr {
		options += ",userxattr"
	}
	if len(options) >= os.Getpagesize() {
		return errdef.New(errdef.Unsupported, "it has %d layers, more than can be mounted so", len(layers)-1)
	}
	return os.NewSyscallError("mount", unix.Mount("berth", at, "overlay", readOnly, options))
}

// UnmountImage takes the files of an image away again. One that is not mounted is errdef.NotFound.
func (e *Engine) UnmountImage(id image.Digest, force bool) error {
	fail := func(err error) error { return fmt.Errorf("cannot unmount image %s: %w", id.Short(), err) }
	lock, err := e.lockImageMounts()
	if err != nil {
		return fail(err)
	}
	defer lock.Unlock()
	dir := e.imageMountDir(id)
	m, err := readImageMount(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fail(errdef.New(errdef.NotFound, "it is not mounted"))
	}
	if err != nil {
		return fail(err)
	}
	at := filepath.Join(dir, "tree")
	switch own, err := os.Readlink("/proc/self/ns/mnt"); {
	case err != nil:
		return fail(err)
	case own != m.Namespace && mountedIn(m.Namespace, at):
		return fail(errdef.Hint(errdef.New(errdef.Conflict, "it is mounted in another mount namespace"), "unmount it there, or end the processes in it"))
	case own == m.Namespace && isMountPoint(at):
		flags := unix.UMOUNT_NOFOLLOW
		if force {
			flags |= unix.MNT_DETACH
		}
		if err := unix.Unmount(at, flags); err == unix.EBUSY {
			return fail(errdef.Hint(errdef.New(errdef.Conflict, "something uses its files"), "end it, or use --force"))
		} else if err != nil {
			return fail(os.NewSyscallError("umount2", err))
		}
	}
	return errors.Join(e.RemoveTree(e.imageCopyDir(id)), os.RemoveAll(dir))
}

// ImageMounts are the images that are mounted, wherever that is. What a namespace has taken with it is left out.
func (e *Engine) ImageMounts() ([]ImageMount, error) {
	dir := filepath.Join(e.Settings.RunRoot, "images")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []ImageMount
	for _, entry := range entries {
		if !entry.IsDir() { // the lock
			continue
		}
		m, err := readImageMount(filepath.Join(dir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if m.Path = filepath.Join(dir, entry.Name(), "tree"); m.shown() {
			all = append(all, m)
		}
	}
	return all, nil
}

// shown reports whether the mount is there. Of another namespace only its being there is known.
func (m ImageMount) shown() bool {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err == nil && own == m.Namespace {
		return isMountPoint(m.Path)
	}
	return mountedIn(m.Namespace, m.Path)
}

func readImageMount(dir string) (ImageMount, error) {
	var m ImageMount
	data, err := os.ReadFile(filepath.Join(dir, "mount.json"))
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	return m, err
}

func (e *Engine) lockImageMounts() (*disk.Lock, error) {
	if err := os.MkdirAll(filepath.Dir(e.imageMountsLock()), 0o700); err != nil {
		return nil, err
	}
	return disk.TakeLock(e.imageMountsLock())
}

func (e *Engine) imageMountsLock() string {
	return filepath.Join(e.Settings.RunRoot, "images", ".lock")
}

// isMountPoint reports whether something is mounted at a path: then it is another mount than the directory that it is in.
func isMountPoint(path string) bool {
	var at, above unix.Statx_t
	return unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &at) == nil &&
		unix.Statx(unix.AT_FDCWD, filepath.Dir(path), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &above) == nil && at.Mnt_id != above.Mnt_id
}

// mountedIn reports whether a process is in a mount namespace in which something is mounted at path. The number of a namespace that has gone soon is
// another one's, so that there is somebody in it says nothing.
func mountedIn(namespace, path string) bool {
	escaped := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(path)
	found, _ := filepath.Glob("/proc/[0-9]*/ns/mnt") // the pattern is well formed
	for _, link := range found {
		if ns, err := os.Readlink(link); err != nil || ns != namespace {
			continue
		}
		mounts, err := os.ReadFile(filepath.Join(link, "../../mountinfo"))
		if err != nil {
			continue // it has just gone
		}
		for line := range strings.Lines(string(mounts)) {
			if f := strings.Fields(line); len(f) > 4 && f[4] == escaped { // proc_pid_mountinfo(5)
				return true
			}
		}
		return false
	}
	return false
}
