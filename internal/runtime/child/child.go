// Package child carries out a plan.Program in a cloned process that ends in execve.
//
// It decides nothing: order, flags and what may fail are the plan's. The child never runs Go's runtime: it is
// an interpreter over an array prepared by the parent (run, in machine_unsafe.go). There is no re-exec of the
// engine inside a container and no C.
//
// Report protocol, over a pipe that execve closes; every message is two 32-bit words in host order:
//
//	{^0, pid}         the program split (plan.Clone): pid is the process that goes on
//	{index, errno}    operation index failed with errno; the child has exited
//	end of file       execve succeeded (or the child was killed)
package child

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"berth/internal/runtime/plan"

	"golang.org/x/sys/unix"
)

// Child is a process that was started.
type Child struct {
	PID int
	// PIDFD refers to the process and to no other that may get its number; -1 for the child of another process, which alone can
	// be sure of that.
	PIDFD int

	// Left is, with a parent other than this process, the process that has ended when its program split: it is the parent's
	// to reap.
	Left int

	program *plan.Program
	report  *os.File
	layout  *layout
	foreign bool // it is the child of another process
	fifo    bool // the report has no end as long as this process has it open
}

// Failure is an operation of a program that failed.
type Failure struct {
	Index int
	Op    *plan.Op
	Errno syscall.Errno
}

func (f *Failure) Error() string {
	if f.Op.Origin != "" {
		return fmt.Sprintf("cannot %s (%s): %s: %v", f.Op.What, f.Op.Origin, f.Op.Call.Name, f.Errno)
	}
	return fmt.Sprintf("cannot %s: %s: %v", f.Op.What, f.Op.Call.Name, f.Errno)
}

func (f *Failure) Unwrap() error { return f.Errno }

// Options is what a program does not say.
type Options struct {
	// Inputs gives a descriptor for each input of the program but plan.InReport.
	Inputs map[string]int
	// Report, if not nil, takes the place of the report pipe: a FIFO that is open for reading and writing, and by whose name another
	// process can wait for the outcome after this one has gone. It stays the caller's.
	Report *os.File
	// Cgroup, if not nil, is a directory of cgroup version 2 in which the child is born (CLONE_INTO_CGROUP, Linux 5.7).
	Cgroup *os.File
}

// Start clones a child that carries out p. When p does not wait, the execve has succeeded on return; otherwise
// the caller lets it go on and calls Wait for the outcome.
func Start(p *plan.Program, o Options) (*Child, error) {
	c, writer, err := prepare(p, o)
	if err != nil {
		return nil, err
	}
	var errno syscall.Errno
	c.PID, c.PIDFD, errno = clone(p, c.layout, o.cgroup(), false)
	_ = unix.Close(writer)
	if errno != 0 {
		c.leave()
		return nil, os.NewSyscallError("clone3", errno)
	}
	if p.Waits {
		return c, nil
	}
	return c, c.Wait()
}

// StartUnder is Start for a child whose parent is another process: one that carries out the program parent, whose operation
// plan.Bear makes the child, and whose last one executes what stays as the parent. p waits. An error says that neither process is
// left, or that the child is: then the error is a *Failure of parent's last operations, and the Child is returned with it.
func StartUnder(p *plan.Program, o Options, parent *plan.Program, inputs map[string]int) (_ *Child, parentPID int, _ error) {
	c, writer, err := prepare(p, o)
	if err != nil {
		return nil, 0, err
	}
	c.foreign = true
	over, parentWriter, err := prepare(parent, Options{Inputs: inputs})
	if err != nil {
		_ = unix.Close(writer)
		c.leave()
		return nil, 0, err
	}
	defer over.leave()
	born, err := conceive(over.layout, p, c.layout, o.cgroup())
	if err != nil {
		_ = unix.Close(writer)
		_ = unix.Close(parentWriter)
		c.leave()
		return nil, 0, err
	}
	var errno syscall.Errno
	over.PID, over.PIDFD, errno = clone(parent, over.layout, -1, true)
	_ = unix.Close(writer)
	_ = unix.Close(parentWriter)
	if errno != 0 {
		c.leave()
		return nil, 0, os.NewSyscallError("clone3", errno)
	}
	c.PID = int(*born)
	f := over.said()
	if f == nil {
		_ = unix.Close(over.PIDFD) // whoever asks for the parent has its number, and it looks after itself
		return c, over.PID, nil
	}
	over.bury()
	if f.Op.Special == plan.Bear {
		c.leave()
		return nil, 0, os.NewSyscallError("clone3", f.Errno)
	}
	return c, over.PID, f
}

// leave gives back what the child was started with. A child that shares this process's memory must have executed its program or ended.
func (c *Child) leave() {
	_ = c.report.Close()
	c.layout.release()
	c.report, c.layout = nil, nil
}

// said is the failure of a child that has shared its parent's memory and so, on return from clone, has executed its program or
// ended. The end of the pipe is not waited for: its other side is the child's children's, too.
func (c *Child) said() *Failure {
	fd := int(c.report.Fd())
	var m [8]byte
	if unix.SetNonblock(fd, true) != nil {
		return nil
	}
	if n, err := unix.Read(fd, m[:]); err != nil || n != len(m) {
		return nil
	}
	index := binary.NativeEndian.Uint32(m[:])
	return &Failure{int(index), &c.program.Ops[index], syscall.Errno(binary.NativeEndian.Uint32(m[4:]))}
}

// prepare lays a program out in memory and makes its report pipe, whose second end the caller closes after the clone.
func prepare(p *plan.Program, o Options) (_ *Child, writer int, _ error) {
	var pipe [2]int
	var err error
	if o.Report != nil {
		for i := range pipe {
			pipe[i], err = unix.FcntlInt(o.Report.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return nil, 0, os.NewSyscallError("fcntl", err)
			}
		}
	} else if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, 0, os.NewSyscallError("pipe2", err)
	}
	report := os.NewFile(uintptr(pipe[0]), "report pipe")
	inputs := map[string]int{plan.InReport: pipe[1]}
	for name, fd := range o.Inputs {
		inputs[name] = fd
	}
	l, err := lay(p, inputs)
	if err != nil {
		_ = unix.Close(pipe[1])
		return nil, 0, errors.Join(err, report.Close())
	}
	return &Child{PIDFD: -1, program: p, report: report, layout: l, fifo: o.Report != nil}, pipe[1], nil
}

// cgroup is the descriptor of Options.Cgroup, or -1.
func (o Options) cgroup() int {
	if o.Cgroup == nil {
		return -1
	}
	return int(o.Cgroup.Fd())
}

// Wait waits until the execve has succeeded; nil says so, a *Failure says which operation stood in the way. On an
// error the process is gone, and reaped unless it is another process's child.
func (c *Child) Wait() error {
	if c.report == nil {
		return nil
	}
	return c.outcome(func() bool { return true })
}

// WaitReady waits until the child has said, by the pipe whose other end is its input plan.InReady, that only the execve is left. Like Wait
// it returns a *Failure that stood in the way. The child must be the only one who has that other end.
func (c *Child) WaitReady(ready *os.File) error {
	n, err := ready.Read(make([]byte, 1))
	if err != nil && n != 0 {
		return fmt.Errorf("cannot read what the child says: %w", err)
	}
	fd := int32(c.report.Fd())
	if err := c.outcome(func() bool {
		poll := []unix.PollFd{{Fd: fd, Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n == 1
	}); err != nil {
		return err
	}
	if n == 0 {
		c.bury()
		return errors.New("the process was killed before it was ready")
	}
	return nil
}

// outcome takes in what the child reports, as long as more comes.
func (c *Child) outcome(more func() bool) error {
	defer c.leave()
	var failure *Failure
	split := 0
	for more() {
		var m [8]byte
		n, err := c.report.Read(m[:])
		if n == 0 {
			break
		}
		if err != nil || n != len(m) {
			c.bury()
			return fmt.Errorf("cannot read what the child reports: %d bytes: %w", n, err)
		}
		// A child that shares memory is suspended until the one that it made has gone on or failed; so the failure
		// comes before the news of the split.
		index, value := binary.NativeEndian.Uint32(m[:]), binary.NativeEndian.Uint32(m[4:])
		if index == ^uint32(0) {
			split = int(value)
		} else {
			failure = &Failure{int(index), &c.program.Ops[index], syscall.Errno(value)}
		}
	}
	if split != 0 {
		if err := c.follow(split); err != nil {
			return err
		}
	}
	if failure != nil {
		// It must be reaped: as a zombie it would keep the pid namespace that it has entered from ending.
		c.bury()
		return failure
	}
	return nil
}

// Outcome reads from the report FIFO of a child that another process has made: the operation that failed and its error, which is zero when
// the execve has succeeded. It returns when the child has closed the FIFO.
func Outcome(report *os.File) (index int, errno syscall.Errno, _ error) {
	for {
		var m [8]byte
		switch n, err := report.Read(m[:]); {
		case n == 0:
			return index, errno, nil
		case err != nil || n != len(m):
			return 0, 0, fmt.Errorf("cannot read what the child reports: %d bytes: %w", n, err)
		}
		if i := binary.NativeEndian.Uint32(m[:]); i != ^uint32(0) {
			index, errno = int(i), syscall.Errno(binary.NativeEndian.Uint32(m[4:]))
		}
	}
}

// End waits for the end of a child whose program does not execute another.
func (c *Child) End() error {
	var err error
	if c.fifo {
		err = c.outcome(func() bool { return false }) // it would have no end
	} else {
		err = c.Wait()
	}
	if c.PIDFD >= 0 {
		c.bury()
	}
	return err
}

// Exit waits for the end of the program that a child has executed, and says how it ended.
func (c *Child) Exit() (status unix.WaitStatus, err error) {
	for {
		_, err = unix.Wait4(c.PID, &status, 0, nil)
		if err != unix.EINTR {
			break
		}
	}
	_ = unix.Close(c.PIDFD)
	c.PIDFD = -1
	return status, os.NewSyscallError("wait4", err)
}

// Receive takes a descriptor that a child has sent (plan.SendFD).
func Receive(socket *os.File) (*os.File, error) {
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), data, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("a child has sent %d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("a child has sent %d descriptors: %w", len(fds), err)
	}
	return os.NewFile(uintptr(fds[0]), "of a child"), nil
}

// follow takes the process that a split made for the child, and reaps the one that made it.
func (c *Child) follow(pid int) error {
	if c.foreign {
		c.Left, c.PID = c.PID, pid
		return nil
	}
	c.bury()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	c.PID, c.PIDFD = pid, pidfd
	return nil
}

// bury reaps a process that exits by itself, if it is a child of ours.
func (c *Child) bury() {
	for !c.foreign {
		_, err := unix.Wait4(c.PID, nil, 0, nil)
		if err != unix.EINTR {
			break
		}
	}
	_ = unix.Close(c.PIDFD)
	c.PIDFD = -1
}
