package lifecycle

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ProxySignals calls send for the signals that this process gets, until stop is called, but not for those that concern this
// process alone: of its children, of its pipes, and of Go's scheduler.
//
// It takes Go's runtime two switches of threads to begin with each signal, 1 ms for all 64 (sched_switch, two processors),
// just when the container needs them. So those that people and programs send come first, and the others when it has started.
func ProxySignals(send func(unix.Signal)) (stop func()) {
	signals, done := make(chan os.Signal, 16), make(chan struct{})
	first := []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE}
	signal.Notify(signals, first...)
	const last = 64 // SIGRTMAX
	others := time.AfterFunc(50*time.Millisecond, func() {
		for n := unix.Signal(1); n <= last; n++ {
			switch n {
			case unix.SIGCHLD, unix.SIGURG, unix.SIGKILL, unix.SIGSTOP:
			default:
				if !slices.Contains(first, os.Signal(n)) {
					signal.Notify(signals, n)
				}
			}
		}
	})
	go func() {
		for {
			select {
			case s := <-signals:
				if n := s.(syscall.Signal); n != unix.SIGPIPE {
					send(n)
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		others.Stop()
		signal.Stop(signals)
		close(done)
	}
}
