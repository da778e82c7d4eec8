// Package uplink is how berth's programs reach the uplink of a user's networks: a process of their own, berth-uplink, that stands in
// the host's network namespace and carries what comes out of the user's network namespace as ordinary connections of the host, without
// any privilege. The package starts that process, speaks to it, and makes the device between the two. It does not carry a packet, and
// imports none of the code that does (network/netstack).
//
// Words: *inside* is the network namespace with the user's bridges, which masquerades for them, so that all that leaves it has one
// address, the *guest's*. The *device* (a TUN, or else a pair of interfaces with a packet socket) leads out of it; what reads the device is the *stack*, whose own address is the
// *gateway's*. A *forward* is a listening socket of the host's whose connections are carried inside: a published port.
//
// With Config.Pasta it is the program pasta that makes a device (a TAP) and carries what comes out of it. berth-uplink starts it, ends
// when it ends, and takes it along when it ends itself; it inherits the network namespace where it would otherwise inherit the device.
//
// # Coming and going
//
// Uplinks are counted by nobody: RUN/uplink.sock has one as long as somebody is connected to it, and Config.Linger longer. RUN/uplink.lock
// (flock) decides between those who come and one that goes.
//
//	a client that comes              the uplink that goes
//	1 takes the lock, waiting        1 nobody has been connected for Linger
//	2 connects to the socket,        2 tries the lock; if it is taken, somebody comes: waits for Linger again
//	  and asks for the status        3 somebody is connected, or waits in the backlog: unlocks, goes on
//	3 answered: unlocks, is done     4 removes the socket
//	4 refused, closed, or no socket: 5 ends; the kernel gives the lock back, and closes the device, which
//	  removes the stale socket         ends with its last descriptor
//	5 binds and listens
//	6 makes the device
//	7 starts the program, which
//	  inherits socket and device
//	8 connects to its own socket,
//	  and asks for the status
//	9 unlocks
//
// A client that dies between 5 and 7 leaves a socket on which nobody listens: the next one's step 4. One that dies after 7 leaves an
// uplink without clients, which ends after Linger. An uplink that dies leaves a stale socket; its device is gone, its clients see the
// end of their connections (Client.Ended), and call Ensure again.
//
// # Messages
//
// Each way a message is four bytes of length (big endian) and JSON. Sockets follow their message, in their order: at most 253
// (SCM_MAX_FD) on each further byte, which is zero.
//
//	client -> uplink                                   uplink -> client
//	  Request{Forward} and a socket for each forward     Answer{}, or Answer{Error}: none of the forwards is carried then
//	  Request{Status}                                    Answer{Status}
//
// A Request{Forward} replaces the earlier one of its connection. Forwards end with the connection; TCP connections that are
// established go on until one of their ends closes them.
package uplink

import (
	"net/netip"
	"time"

	"berth/internal/errdef"
	"berth/internal/network/netlink"
)

// Files in the run root.
const (
	socketName = "uplink.sock"
	lockName   = "uplink.lock"
	logName    = "uplink.log"
)

// Program is the name of the program.
const Program = "berth-uplink"

// Config is what an uplink is started with.
type Config struct {
	Run string // the run root
	MTU int    // of the device, in bytes
	// Pasta is the path of the program that carries instead of berth-uplink; Device is the name of the device that it makes.
	Pasta  string `json:",omitempty"`
	Device string `json:",omitempty"`
	// IPv4 and IPv6 are the addresses on the device; the zero value is none of that family.
	IPv4, IPv6 Addresses
	// Inside are the networks inside, besides those of the addresses above. A client of a forward with an address in one of them
	// appears inside with the gateway's, because answers to its own would not come back.
	Inside []netip.Prefix `json:",omitempty"`
	// HostLoopback lets those inside reach the host's 127.0.0.1 and ::1, at the gateway's address. Otherwise that is the address
	// that the host itself uses on its default route.
	HostLoopback bool `json:",omitempty"`
	// Linger is how long the uplink stays when nobody is connected.
	Linger time.Duration
}

// Addresses are those of one family on the device.
type Addresses struct {
	Guest   netip.Prefix // inside: its address, with the length of the subnet
	Gateway netip.Addr   // the stack's address in that subnet
}

// Check reports what is wrong with a configuration.
func (c Config) Check() error {
	if c.MTU < 1280 || c.MTU > 65520 {
		return errdef.New(errdef.Invalid, "an uplink cannot have an MTU of %d: from 1280 to 65520 is possible", c.MTU)
	}
	if !c.IPv4.Guest.IsValid() && !c.IPv6.Guest.IsValid() {
		return errdef.New(errdef.Invalid, "an uplink needs an address")
	}
	for _, of := range []struct {
		Addresses
		is4 bool
	}{{c.IPv4, true}, {c.IPv6, false}} {
		if of.Addresses == (Addresses{}) {
			continue
		}
		if !of.Gateway.IsValid() || of.Gateway.Is4() != of.is4 || of.Gateway.Is4In6() || !of.Guest.Contains(of.Gateway) || of.Guest.Addr() == of.Gateway {
			return errdef.New(errdef.Invalid, "an uplink cannot have the gateway %s for %s", of.Gateway, of.Guest)
		}
	}
	return nil
}

// queueLength is how many packets may wait for the stack. The kernel's 500 are fewer than the segments of 1448 bytes in the receive
// windows of a few connections, and what does not fit is lost.
const queueLength = 2000

// Requests are what makes the device usable inside, once it is there: it is up, with the guest's addresses and the default routes.
func (c Config) Requests(device netlink.Link) []netlink.Request {
	requests := []netlink.Request{
		netlink.SetMTU(device.Name, c.MTU), netlink.SetQueueLength(device.Name, queueLength), netlink.SetUp(device.Name),
	}
	for _, a := range []Addresses{c.IPv4, c.IPv6} {
		if !a.Guest.IsValid() {
			continue
		}
		requests = append(requests, netlink.AddAddress(device.Index, a.Guest))
		for _, to := range c.outside(a.Gateway.Is4()) {
			requests = append(requests, netlink.AddRoute(netlink.Route{To: to, Gateway: a.Gateway, Index: device.Index}))
		}
	}
	return requests
}

// outside is what the device leads to. pasta connects to whatever it is asked to, which must not be the host's loopback by another name
// (::ffff:127.0.0.1): it gets packets for global and for local unicast addresses only (RFC 4291, RFC 4193).
func (c Config) outside(is4 bool) []netip.Prefix {
	switch {
	case is4:
		return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
	case c.Pasta != "":
		return []netip.Prefix{netip.MustParsePrefix("2000::/3"), netip.MustParsePrefix("fc00::/7")}
	}
	return []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

// Protocol is TCP or UDP.
type Protocol string

// The protocols that can be forwarded.
const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

// Forward says where the connections of a socket go.
type Forward struct {
	Protocol Protocol
	Target   netip.AddrPort // inside
}

// Status is what an uplink tells about itself.
type Status struct {
	Since    time.Time // when it was started
	Pasta    int       `json:",omitempty"` // the number of the pasta that carries; the packets of that one are not counted
	TCP      int       // connections, those that are being made included
	UDP      int       // flows
	Echo     int       // flows of echo requests
	Forwards int       // sockets
	Clients  int
	Sent     uint64 // bytes of packets from inside
	Received uint64 // bytes of packets to inside
	Dropped  uint64 // packets from inside that led nowhere
}
