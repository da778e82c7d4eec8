package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/ident"
	"berth/internal/runtime/lifecycle"
	"berth/internal/state"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// join has a container join the process and IPC namespaces of others that it is to share. Without root it joins the user namespace that they
// belong to, too. owner is that one if it has joined it for its network already; files are to be closed when the container is started.
func join(s state.Store, c *state.Container, in *lifecycle.Input, owner *os.File) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
			files = nil
		}
	}()
	for _, n := range []struct {
		mode, what, name string
		kind             specs.LinuxNamespaceType
	}{
		{c.Config.PID, "PID", "pid", specs.PIDNamespace},
		{c.Config.IPC, "IPC", "ipc", specs.IPCNamespace},
	} {
		id, shares := container.Shares(n.mode)
		if !shares {
			continue
		}
		p, err := s.Process(id)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return files, err
		}
		ns, err := p.Namespace(n.name)
		if err != nil {
			return files, err
		}
		if ns == nil {
			if _, err := s.Load(id); err != nil {
				return files, err
			}
			return files, errdef.Hint(errdef.New(errdef.Conflict, "cannot join %s of a non running container: %s", n.what, id), "berth start %s", ident.Short(id))
		}
		files = append(files, ns)
		joinPath(in.Spec, n.kind, descriptor(ns))
		var user *os.File
		if in.Host.Rootless {
			if user, err = ownerOf(ns); err != nil {
				return files, err
			}
			files = append(files, user)
			if err := sameOwner(owner, user); err != nil {
				return files, err
			}
			owner = user
			in.Spec.Linux.UIDMappings, in.Spec.Linux.GIDMappings = nil, nil
			joinPath(in.Spec, specs.UserNamespace, descriptor(user))
		}
		if n.kind != specs.IPCNamespace {
			continue
		}
		mounts, err := p.Namespace("mnt")
		if err != nil || mounts == nil {
			return files, errors.Join(err, errdef.New(errdef.Conflict, "cannot join IPC of a non running container: %s", id))
		}
		files = append(files, mounts)
		if in.Shm, err = lifecycle.OpenShm(user, mounts); err != nil {
			return files, fmt.Errorf("cannot share the memory (%s) of container %s: %w", "/dev/shm", ident.Short(id), err)
		}
		files = append(files, in.Shm)
	}
	return files, nil
}

// joinPath has a container join a namespace, which it would otherwise make.
func joinPath(s *specs.Spec, kind specs.LinuxNamespaceType, path string) {
	for i, n := range s.Linux.Namespaces {
		if n.Type == kind {
			s.Linux.Namespaces[i].Path = path
		}
	}
}

// ownerOf is the user namespace to which a namespace belongs.
func ownerOf(ns *os.File) (*os.File, error) {
	fd, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return nil, fmt.Errorf("cannot find the user namespace of the container that is to be joined: %w", os.NewSyscallError("ioctl(NS_GET_USERNS)", err))
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "user namespace"), nil
}

// sameOwner refuses namespaces that belong to different user namespaces: a process is in one alone. No first one is any.
func sameOwner(first, second *os.File) error {
	if first == nil {
		return nil
	}
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(int(first.Fd()), &a), unix.Fstat(int(second.Fd()), &b)); err != nil {
		return err
	}
	if a.Dev != b.Dev || a.Ino != b.Ino {
		return errdef.New(errdef.Unsupported, "cannot share the namespaces of two containers: without root each container has a user namespace of its own")
	}
	return nil
}

// checkJoin refuses what cannot be shared without root: a network of the container's own would belong to another user namespace than its
// networks are reached from.
func checkJoin(c container.Config) error {
	_, pid := container.Shares(c.PID)
	_, ipc := container.Shares(c.IPC)
	if (pid || ipc) && c.OwnNetwork() {
		err := errdef.New(errdef.Unsupported, "cannot share the PID or IPC namespace of a container without root, and have an own network")
		return errdef.Hint(err, "share its network, too (--network container:NAME), or have none (--network none)")
	}
	return nil
}

// mountsOf is a name of the mount namespace of a process, which is no other's while a process is in it; empty if there is no such process.
func mountsOf(pid int) string {
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return ""
	}
	return name
}

// killWith kills the processes in a mount namespace, those of a container that has neither a PID namespace of its own nor a control group:
// nothing else holds them together. It goes on until there are none, for a while, since they may make others meanwhile.
func killWith(mounts string) {
	for end := time.Now().Add(5 * time.Second); mounts != "" && time.Now().Before(end); {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return
		}
		found := false
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || mountsOf(pid) != mounts {
				continue
			}
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				continue
			}
			if mountsOf(pid) == mounts { // it is still that process
				found = true
				_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			}
			_ = unix.Close(fd)
		}
		if !found {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
