// Command berth-init is PID 1 of a container that was started with --init: it starts the container's command, hands
// every signal on to it, reaps whatever ends, and ends with the command's exit status. It does nothing else: no restart,
// no configuration, no output except for the reason why the command cannot be started.
//
// It imports only what it needs, not even fmt, because its pages are every such container's.
package main

import (
	"os"
	"os/signal"
	"syscall"
	"unsafe"
)

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fail(125, "usage: docker-init [--] COMMAND [ARGUMENT...]")
	}
	// Signals are collected before the command exists, so that none is lost while it starts.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	path, err := look(args[0])
	if err != nil {
		fail(status(err), "docker-init: cannot execute "+args[0]+": "+err.Error())
	}
	attr := &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Foreground: isTerminal(0), Ctty: 0},
	}
	command, err := syscall.ForkExec(path, args, attr)
	if err != nil {
		fail(status(err), "docker-init: cannot execute "+args[0]+": "+err.Error())
	}
	for s := range signals {
		switch s {
		case syscall.SIGCHLD:
			if code, ended := reap(command); ended {
				os.Exit(code)
			}
		case syscall.SIGURG: // Go's runtime sends it to itself (runtime/preempt_unix); nobody else does
		case syscall.SIGTTIN, syscall.SIGTTOU: // these are about our own use of the terminal
		default:
			_ = syscall.Kill(command, s.(syscall.Signal)) // it may have ended: then SIGCHLD is next
		}
	}
}

// reap collects all that have ended and says whether the command is among them, with the exit status that follows.
func reap(command int) (code int, ended bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil || pid <= 0:
			return code, ended
		case pid == command && status.Signaled():
			code, ended = 128+int(status.Signal()), true
		case pid == command:
			code, ended = status.ExitStatus(), true
		}
	}
}

// look finds a command as execvp(3) does: the first that may be executed, and EACCES if there are only others.
func look(name string) (string, error) {
	for i := 0; i < len(name); i++ {
		if name[i] == '/' {
			return name, nil // the kernel says what is wrong with it
		}
	}
	list := os.Getenv("PATH")
	if list == "" {
		list = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	found := error(syscall.ENOENT)
	for start, i := 0, 0; i <= len(list); i++ {
		if i < len(list) && list[i] != ':' {
			continue
		}
		dir := list[start:i]
		start = i + 1
		if dir == "" {
			dir = "."
		}
		path := dir + "/" + name
		var st syscall.Stat_t
		if syscall.Stat(path, &st) != nil || st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			continue
		}
		if syscall.Access(path, 1) == nil {
			return path, nil
		}
		found = syscall.EACCES
	}
	return "", found
}

// status is docker's exit status for a command that cannot be started.
func status(err error) int {
	if err == syscall.ENOENT || err == syscall.ENOTDIR {
		return 127
	}
	return 126
}

func isTerminal(fd uintptr) bool {
	var t syscall.Termios
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TCGETS, uintptr(unsafe.Pointer(&t)))
	return errno == 0
}

func fail(code int, text string) {
	_, _ = syscall.Write(2, []byte(text+"\n"))
	os.Exit(code)
}
