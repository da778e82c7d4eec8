package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// ProbeName is argv[0] of the process that tries what the making of a container does.
const ProbeName = "berth-probe"

// ProbeMain is that process's main function: it runs as root of namespaces of its own, tries one thing after another, and
// prints a line each. Nothing of it is seen outside, and all of it goes with the process.
func ProbeMain(w io.Writer) error {
	var failed error
	say := func(name string, err error) {
		if _, e := fmt.Fprintf(w, "%s %d\n", name, int(errnoOf(err))); e != nil {
			failed = e
		}
	}
	for _, c := range trialCalls {
		_, _, errno := unix.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], 0)
		if c.name == "fsopen" || c.name == "move_mount" || c.name == "pivot_root" || c.name == "open_tree" {
			// These look at rights before they look at arguments; the mounts below tell whether rights are missing.
			if errno != unix.ENOSYS {
				errno = 0
			}
		}
		say(c.name, errnoOrNil(absence(errno)))
	}
	fd, err := newMount("proc")
	if err == nil {
		_ = unix.Close(fd)
	}
	say(TrialProc, err)
	options := "lowerdir=lower,upperdir=upper,workdir=work"
	if is, _ := userNamespace(); is {
		options += ",userxattr"
	}
	if err = unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err == nil {
		err = mountScratch()
	}
	say(TrialMount, err)
	if err == nil {
		say(TrialOverlay, unix.Mount("overlay", "root", "overlay", 0, options))
	}
	runtime.LockOSThread() // the namespaces are this thread's
	for _, n := range [...]struct {
		name string
		flag int
	}{
		{TrialNetwork, unix.CLONE_NEWNET},
		{TrialIPC, unix.CLONE_NEWIPC},
		{TrialUTS, unix.CLONE_NEWUTS},
		{TrialCgroup, unix.CLONE_NEWCGROUP},
	} {
		err := unix.Unshare(n.flag)
		say(n.name, err)
		if n.name == TrialUTS && err == nil {
			say("sethostname", unix.Sethostname([]byte(ProbeName)))
		}
	}
	say(TrialNFT, nfTablesGeneration())
	return failed
}

// scratch is where the trials mount: any directory will do, since nobody else sees it.
const scratch = "/proc"

// mountScratch mounts a tmpfs by the calls with which a container's mounts are made.
func mountScratch() error {
	fd, err := newMount("tmpfs")
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, scratch, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	if err := unix.Chdir(scratch); err != nil {
		return err
	}
	for _, dir := range [...]string{"lower", "upper", "work", "root"} {
		if err := unix.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// newMount makes a file system and a mount that is attached to nothing.
func newMount(fstype string) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
}

// nf_tables' messages (linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h).
const (
	nfTablesSubsystem = 10
	getGeneration     = nfTablesSubsystem<<8 | 16 // NFT_MSG_GETGEN
)

// nfTablesGeneration asks nf_tables for the generation of its rules: a module that is absent cannot answer. The answer to an
// unknown subsystem is EINVAL (nfnetlink_rcv_msg).
func nfTablesGeneration() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	wait := unix.NsecToTimeval(2e9)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return err
	}
	request := make([]byte, 20) // struct nlmsghdr, struct nfgenmsg
	binary.NativeEndian.PutUint32(request[0:], uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], getGeneration)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < 20 {
		return unix.EBADMSG
	}
	if binary.NativeEndian.Uint16(answer[4:]) == unix.NLMSG_ERROR {
		return errnoOrNil(syscall.Errno(-int32(binary.NativeEndian.Uint32(answer[16:]))))
	}
	return nil
}

// errnoOf is the error number of a failed call; one without a number counts as EIO.
func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return errno
	}
	return unix.EIO
}

func errnoOrNil(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return os.NewSyscallError("trial", errno)
}
