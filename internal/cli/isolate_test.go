package cli_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"berth/internal/network/etcfiles"
	"berth/internal/network/netlink"

	"golang.org/x/sys/unix"
)

// isolated says that the tests run in a network namespace of their own.
const isolated = "BERTH_TEST_ISOLATED"

// TestMain gives the tests a network namespace of their own where it can: containers on networks change the one they are started
// from, and the machine's is nobody's to change. It looks as a host does that has one network card.
func TestMain(m *testing.M) {
	// Servers that scripts start end by SIGINT. A shell that runs the tests in its background has it ignored, here and, by inheritance, there;
	// what is caught here is back at its default there.
	if signal.Ignored(os.Interrupt) {
		signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	}
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	if os.Getenv(isolated) != "" {
		if err := uplink(); err != nil {
			fmt.Fprintln(os.Stderr, "cannot make the tests' network:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "cannot run the tests in a network namespace of their own:", err)
		os.Exit(1)
	}
}

// uplink makes what the tests' host has: its loopback, an address, a default route and name servers.
func uplink() error {
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer c.Close()
	const name = "uplink"
	if err := c.Do(netlink.CreateBridge(name, netlink.MAC{2, 0, 0, 0, 0, 1}, 0), netlink.SetUp("lo"), netlink.SetUp(name)); err != nil {
		return err
	}
	link, err := c.LinkByName(name)
	if err != nil {
		return err
	}
	err = c.Do(
		netlink.AddAddress(link.Index, netip.MustParsePrefix("10.99.0.1/24")),
		netlink.AddRoute(netlink.Route{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Gateway: netip.MustParseAddr("10.99.0.2"), Index: link.Index}),
	)
	if err != nil {
		return err
	}
	text, err := etcfiles.Read("/etc/resolv.conf", etcfiles.ResolvConfLimit)
	if err != nil {
		return err
	}
	for _, server := range etcfiles.Parse(text).Servers {
		add := netlink.AddAddress(link.Index, netip.PrefixFrom(server, server.BitLen()))
		if err := c.Do(add.Tolerate(unix.EEXIST)); err != nil && !server.IsLoopback() {
			return err
		}
		if err := knowNothing(netip.AddrPortFrom(server, 53)); err != nil {
			return err
		}
	}
	return nil
}

// knowNothing answers as the host's name server would for names that it does not know: at once. From a server that is not there a
// container would hear nothing for some seconds.
func knowNothing(at netip.AddrPort) error {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	go func() {
		msg := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(msg)
			if err != nil {
				return
			}
			if n > 3 {
				msg[2], msg[3] = msg[2]|0x80, 0x83 // an answer, recursion available, no such name
				_, _ = conn.WriteToUDPAddrPort(msg[:n], from)
			}
		}
	}()
	return nil
}
