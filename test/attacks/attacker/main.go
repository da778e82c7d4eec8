// Command attacker is what tests of attacks run in containers, and give to images: each verb tries what a hostile image or
// process would, and says what came of it. It never judges: whether that is good is for the scripts to say
// (internal/cli/testdata/script/attack-*.txt). It is no tool against anything else.
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "attacker:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("which attack?")
	}
	verb, args := args[0], args[1:]
	need := func(n int) bool { return len(args) >= n }
	switch {
	case verb == "image" && need(1):
		return writeImage(args[0], args[1:])
	case verb == "steal" && need(1):
		return steal(args[0])
	case verb == "sockets":
		return sockets()
	case verb == "int80":
		return int80Sockets()
	case verb == "writable" && need(1):
		return writable(args)
	case verb == "watch" && need(1):
		return watch(args[0])
	case verb == "halt":
		return halt()
	case verb == "swap" && need(2):
		return swap(args[0], args[1])
	case verb == "take-pid" && need(1):
		return takePID(args[0])
	case verb == "abstract" && need(1):
		return abstract(args[0])
	case verb == "abstract-listen" && need(1):
		return abstractServer(args[0])
	case verb == "abstract-connect" && need(1):
		return abstractClient(args[0])
	case verb == "knock" && need(2):
		return knock(args[0], args[1])
	case verb == "garbage" && need(1):
		return garbage(args[0])
	case verb == "tun" && need(2):
		return tun(args[0], args[1])
	case verb == "datagram" && need(2):
		return datagram(args[0], args[1:])
	case verb == "datagrams" && need(2):
		return datagrams(args[0], args[1])
	case verb == "sleep":
		time.Sleep(time.Hour)
		return nil
	}
	return fmt.Errorf("no attack %q with %d arguments", verb, len(args))
}

// outcome is "done" or the name of an errno.
func outcome(err error) string {
	if err == nil {
		return "done"
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// note writes a file that a script waits for, at once and whole.
func note(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o666); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// await waits for a file that a script makes.
func await(path string) {
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
