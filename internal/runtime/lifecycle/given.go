package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"

	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/runtime/child"
	"berth/internal/runtime/plan"
	"berth/internal/runtime/userns"
	"berth/internal/tree"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// OpenGiven makes the mounts of a spec that take a parent's hand, for Input.Given: they are attached to nothing, and the caller's to close.
// There are none without the rights of root.
func OpenGiven(s *specs.Spec) (_ map[int]*os.File, err error) {
	wanted, err := plan.PreparedMounts(s)
	if err != nil || len(wanted) == 0 {
		return nil, errdef.As(errdef.Invalid, err)
	}
	given := map[int]*os.File{}
	defer func() {
		if err != nil {
			CloseGiven(given)
		}
	}()
	for _, w := range wanted {
		m := s.Mounts[w.Mount]
		make := func() (*os.File, error) { return translated(m, w, s.Linux) }
		if w.CopyUp {
			make = func() (*os.File, error) { return copiedUp(m, w, s.Root.Path) }
		}
		f, err := make()
		if err != nil {
			kind := errdef.Invalid
			if errors.Is(err, unix.EPERM) {
				kind = errdef.Denied
			}
			return given, errdef.As(kind, fmt.Errorf("cannot prepare the mount at %s: %w", m.Destination, err))
		}
		given[w.Mount] = f
	}
	return given, nil
}

// Planned is what OpenGiven would give, with nothing opened, for a program that is only to be read.
func Planned(s *specs.Spec) (map[int]*os.File, error) {
	wanted, err := plan.PreparedMounts(s)
	if err != nil {
		return nil, errdef.As(errdef.Invalid, err)
	}
	given := map[int]*os.File{}
	for _, w := range wanted {
		given[w.Mount] = nil
	}
	return given, nil
}

// CloseGiven closes what OpenGiven has opened.
func CloseGiven(given map[int]*os.File) {
	for _, f := range given {
		_ = f.Close()
	}
}

// numbersOf are the mounts that are given.
func numbersOf(given map[int]*os.File) map[int]bool {
	numbers := map[int]bool{}
	for i := range given {
		numbers[i] = true
	}
	return numbers
}

// translated is a part of the host's files in which owners are others.
func translated(m specs.Mount, w plan.Prepared, linux *specs.Linux) (_ *os.File, err error) {
	maps := userns.Maps{UID: m.UIDMappings, GID: m.GIDMappings}
	if len(maps.UID) == 0 {
		maps.UID, maps.GID = linux.UIDMappings, linux.GIDMappings
	}
	if len(maps.UID) == 0 {
		return nil, errors.New("its option idmap needs uidMappings and gidMappings, of its own or of the container's user namespace")
	}
	namespace, err := namespaceWith(maps)
	if err != nil {
		return nil, err
	}
	defer namespace.Close()
	tree, err := openTree(m.Source, w)
	if err != nil {
		return nil, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(namespace.Fd())}
	how := uint(unix.AT_EMPTY_PATH)
	if w.AllBelow {
		how |= unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(int(tree.Fd()), "", how, &attr); err != nil {
		if err == unix.EINVAL {
			err = fmt.Errorf("%w: the file system of %s cannot have the owners of its files translated", err, m.Source)
		}
		return nil, errors.Join(os.NewSyscallError("mount_setattr", err), tree.Close())
	}
	return tree, nil
}

func openTree(source string, w plan.Prepared) (*os.File, error) {
	how := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if w.Recursive {
		how |= unix.AT_RECURSIVE
	}
	at, name := unix.AT_FDCWD, source
	if w.Subpath != "" {
		whole, err := os.Open(source)
		if err != nil {
			return nil, err
		}
		defer whole.Close()
		part, err := disk.OpenIn(int(whole.Fd()), w.Subpath, unix.O_PATH|unix.O_CLOEXEC, 0, disk.InRoot)
		if err != nil {
			return nil, err
		}
		defer unix.Close(part)
		at, name, how = part, "", how|unix.AT_EMPTY_PATH
	}
	fd, err := unix.OpenTree(at, name, how)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: source, Err: err}
	}
	return os.NewFile(uintptr(fd), source), nil
}

// namespaceWith is a user namespace with these maps, in which nobody is.
func namespaceWith(maps userns.Maps) (_ *os.File, err error) {
	waits, word, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer waits.Close()
	keeper, err := child.Start(plan.CompileKeeper(unix.CLONE_NEWUSER), child.Options{Inputs: map[string]int{plan.InGo: int(waits.Fd()), plan.InGoEnd: int(word.Fd())}})
	if err != nil {
		return nil, errors.Join(err, word.Close())
	}
	defer func() { err = errors.Join(err, word.Close(), keeper.End()) }()
	if err := maps.Write(keeper.PID); err != nil {
		return nil, fmt.Errorf("cannot map the ids: %w", err)
	}
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", keeper.PID))
}

// copiedUp is a new tmpfs with what is in its place in the root.
func copiedUp(m specs.Mount, w plan.Prepared, root string) (_ *os.File, err error) {
	made, err := newTmpfs(m.Source, w.Settings)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, made.Close())
		}
	}()
	top, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	fd, err := disk.OpenIn(int(top.Fd()), m.Destination, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0, disk.InRoot)
	if errors.Is(err, unix.ENOENT) {
		return made, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: m.Destination, Err: err}
	}
	from := os.NewFile(uintptr(fd), m.Destination)
	defer from.Close()
	inside, err := unix.Openat(int(made.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	to := os.NewFile(uintptr(inside), "tmpfs")
	defer to.Close()
	owner := func(uid, gid uint32) (int, int, error) { return int(uid), int(gid), nil }
	if err := tree.CopyContents(context.Background(), from, to, tree.Options{Owner: owner}); err != nil {
		return nil, err
	}
	for _, s := range w.Settings {
		if s[0] == "mode" || s[0] == "uid" || s[0] == "gid" {
			return made, nil // what was asked for counts
		}
	}
	return made, tree.Meta{Owner: owner}.CopyOf(from, to)
}

// newTmpfs is a new file system, which lasts as long as the descriptor: it is attached to nothing.
func newTmpfs(source string, settings [][2]string) (*os.File, error) {
	ctx, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(ctx)
	if source != "" {
		settings = append([][2]string{{"source", source}}, settings...)
	}
	for _, s := range settings {
		set := func() error { return unix.FsconfigSetString(ctx, s[0], s[1]) }
		if s[1] == "" {
			set = func() error { return unix.FsconfigSetFlag(ctx, s[0]) }
		}
		if err := set(); err != nil {
			return nil, fmt.Errorf("its option %q: %w", s[0], os.NewSyscallError("fsconfig", err))
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	mount, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(mount), "tmpfs"), nil
}
