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
	"runtime"
	"syscall"

	"berth/internal/runtime/plan"

	"golang.org/x/sys/unix"
)

// Child is a process that was started.
type Child struct {
	PID int
	// PIDFD refers to the process and to no other that may get its number.
	PIDFD int

	program *plan.Program
	report  *os.File
	layout  *layout
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
	// Cgroup, if not nil, is a directory of cgroup version 2 in which the child is born (CLONE_INTO_CGROUP, Linux 5.7).
	Cgroup *os.File
}

// Start clones a child that carries out p. When p does not wait, the execve has succeeded on return; otherwise
// the caller lets it go on and calls Wait for the outcome.
func Start(p *plan.Program, o Options) (*Child, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	report := os.NewFile(uintptr(pipe[0]), "report pipe")
	inputs := map[string]int{plan.InReport: pipe[1]}
	for name, fd := range o.Inputs {
		inputs[name] = fd
	}
	l, err := lay(p, inputs)
	if err != nil {
		_ = unix.Close(pipe[1])
		return nil, errors.Join(err, report.Close())
	}
	cgroup := -1
	if o.Cgroup != nil {
		cgroup = int(o.Cgroup.Fd())
	}
	pid, pidfd, errno := clone(p, l, cgroup)
	_ = unix.Close(pipe[1])
	if errno != 0 {
		_ = report.Close()
		return nil, os.NewSyscallError("clone3", errno)
	}
	c := &Child{PID: pid, PIDFD: pidfd, program: p, report: report, layout: l}
	if p.Waits {
		return c, nil
	}
	return c, c.Wait()
}

// Wait waits until the execve has succeeded; nil says so, a *Failure says which operation stood in the way. On an
// error the process is gone and reaped.
func (c *Child) Wait() error {
	if c.report == nil {
		return nil
	}
	defer func() {
		_ = c.report.Close()
		c.report = nil
		runtime.KeepAlive(c.layout) // until the child has left the memory that it may share
		c.layout = nil
	}()
	var failure *Failure
	split := 0
	for {
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

// follow takes the process that a split made for the child, and reaps the one that made it.
func (c *Child) follow(pid int) error {
	c.bury()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	c.PID, c.PIDFD = pid, pidfd
	return nil
}

// bury reaps a process that exits by itself.
func (c *Child) bury() {
	for {
		_, err := unix.Wait4(c.PID, nil, 0, nil)
		if err != unix.EINTR {
			break
		}
	}
	_ = unix.Close(c.PIDFD)
	c.PIDFD = -1
}
