// Command berth-uplink is the uplink of a user's networks: it carries what comes out of the user's network namespace as connections of
// the host's, and published ports inside. berth starts it when it is needed (network/uplink says how, and speaks to it), and it ends
// when it is not. It is a program of its own because nobody else shall pay for a network stack.
//
//	berth-uplink SOCKET DEVICE CONFIG
//
// SOCKET and DEVICE are the numbers of inherited descriptors, CONFIG is uplink.Config as JSON. With Config.Pasta, DEVICE is the user's
// network namespace.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"

	"berth/internal/network/netstack"
	"berth/internal/network/pasta"
	"berth/internal/network/uplink"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "berth-uplink:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: berth-uplink SOCKET DEVICE CONFIG")
	}
	socket, err := inherited(args[0])
	if err != nil {
		return err
	}
	device, err := inherited(args[1])
	if err != nil {
		return err
	}
	var c uplink.Config
	if err := json.Unmarshal([]byte(args[2]), &c); err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	if err := protect(); err != nil {
		return err
	}
	tuneRuntime()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	way, err := open(device, c)
	if err != nil {
		return err
	}
	s, err := newServer(way, socket, c)
	if err != nil {
		return errors.Join(err, way.Close())
	}
	return errors.Join(s.serve(stop), way.Close())
}

// open starts what carries.
func open(device *os.File, c uplink.Config) (way, error) {
	if c.Pasta == "" {
		stack, err := netstack.New(device, c, os.Stderr)
		return ownStack{stack}, err
	}
	u, err := pasta.Start(device, c, os.Stderr)
	return byPasta{u}, err
}

// inherited is a descriptor that the program was started with. It is for no program that this one starts.
func inherited(number string) (*os.File, error) {
	fd, err := strconv.Atoi(number)
	if err != nil {
		return nil, fmt.Errorf("%q is no descriptor", number)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", fd, os.NewSyscallError("fcntl", err))
	}
	return os.NewFile(uintptr(fd), "descriptor "+number), nil
}

// protect gives up what the program never needs. Containers have the same user: one that came to see the process could otherwise trace
// it, and be on the host's network.
func protect() error {
	for _, p := range []struct {
		name   string
		option int
		value  uintptr
	}{{"PR_SET_DUMPABLE", unix.PR_SET_DUMPABLE, 0}, {"PR_SET_NO_NEW_PRIVS", unix.PR_SET_NO_NEW_PRIVS, 1}} {
		if err := unix.Prctl(p.option, p.value, 0, 0, 0); err != nil {
			return fmt.Errorf("cannot set %s: %w", p.name, os.NewSyscallError("prctl", err))
		}
	}
	return nil
}
