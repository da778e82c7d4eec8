package disk

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A project is a number that directories hand down to what is made in them; a file system with quotas of projects counts what belongs to each
// (Documentation/filesystems/ext4, xfs_quota(8)). The calls are those of linux/quota.h and linux/fs.h, by descriptor since Linux 5.14.

const (
	quotaGet       = 0x800007<<8 | quotaOfProject // QCMD(Q_GETQUOTA, PRJQUOTA)
	quotaSet       = 0x800008<<8 | quotaOfProject
	quotaOfProject = 2
	quotaBlock     = 1024 // bytes: QIF_DQBLKSIZE
	quotaBlocks    = 1    // QIF_BLIMITS: the limits of blocks are meant

	ioctlGetAttributes = 0x801c581f // FS_IOC_FSGETXATTR
	ioctlSetAttributes = 0x401c5820 // FS_IOC_FSSETXATTR
	inheritProject     = 0x200      // FS_XFLAG_PROJINHERIT
)

// quota is struct if_dqblk.
type quota struct {
	HardBlocks, SoftBlocks, Bytes, HardFiles, SoftFiles, Files, BlockTime, FileTime uint64
	Valid                                                                           uint32
}

// attributes is struct fsxattr.
type attributes struct {
	Flags, ExtentSize, Extents, Project, CowExtentSize uint32
	_                                                  [8]byte
}

// LimitTrees bounds how many bytes the directories, which are empty and on one file system, may hold together. An error says why it cannot
// be: mostly that the file system keeps no quotas of projects, or that we are not the machine's root.
func LimitTrees(limitBytes int64, dirs ...string) error {
	first, err := os.Open(dirs[0])
	if err != nil {
		return err
	}
	defer first.Close()
	project, err := freeProject(first)
	if err != nil {
		return err
	}
	blocks := (uint64(limitBytes) + quotaBlock - 1) / quotaBlock
	if err := quotactl(first, quotaSet, project, &quota{HardBlocks: blocks, SoftBlocks: blocks, Valid: quotaBlocks}); err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := setProject(dir, project); err != nil {
			return errors.Join(err, forgetProject(first, project))
		}
	}
	return nil
}

// Unlimit takes away the limit that LimitTrees has set for dir, before dir is deleted. What has none, or is not there, is no error.
func Unlimit(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	a, err := attributesOf(f)
	if err != nil || a.Project == 0 {
		return nil //nolint:nilerr // a file system without projects
	}
	return forgetProject(f, a.Project)
}

func forgetProject(f *os.File, project uint32) error {
	return quotactl(f, quotaSet, project, &quota{Valid: quotaBlocks})
}

// freeProject is a project that nobody uses on a file system: nothing is counted for it, and nothing limits it.
func freeProject(f *os.File) (uint32, error) {
	for {
		var b [4]byte
		if _, err := rand.Read(b[:]); err != nil {
			return 0, err
		}
		project := binary.NativeEndian.Uint32(b[:])>>1 | 1<<30 // above what others choose by hand
		var q quota
		err := quotactl(f, quotaGet, project, &q)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return 0, err
		}
		if q.Bytes == 0 && q.Files == 0 && q.HardBlocks == 0 && q.HardFiles == 0 {
			return project, nil
		}
	}
}

func quotactl(f *os.File, command int, project uint32, q *quota) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, f.Fd(), uintptr(command), uintptr(project), uintptr(unsafe.Pointer(q)), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("quotactl_fd", errno)
	}
	return nil
}

func attributesOf(f *os.File) (a attributes, err error) {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlGetAttributes, uintptr(unsafe.Pointer(&a)))
	if errno != 0 {
		err = os.NewSyscallError("ioctl(FS_IOC_FSGETXATTR)", errno)
	}
	return a, err
}

func setProject(dir string, project uint32) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	a, err := attributesOf(f)
	if err != nil {
		return err
	}
	a.Project, a.Flags = project, a.Flags|inheritProject
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlSetAttributes, uintptr(unsafe.Pointer(&a)))
	if errno != 0 {
		return os.NewSyscallError("ioctl(FS_IOC_FSSETXATTR)", errno)
	}
	return nil
}
