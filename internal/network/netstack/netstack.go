// Package netstack is TCP/IP in user space for the uplink of a user's networks: it reads packets from a TUN device, ends their TCP
// connections, UDP flows and echo requests in gVisor's network stack or in its own, and carries what they contain by ordinary sockets
// of the host; and the other way round for published ports. It needs no privilege. It makes neither the device nor the sockets that
// it listens on, and routes nothing: every packet ends here.
//
// The words are those of network/uplink. What happens to a packet from inside:
//
//	link.read         one packet with its virtio-net header, up to 64 KiB of a connection at once      link.go, vnet.go
//	  admit           what cannot be meant for us is dropped                                           packet.go
//	  UDP             flows.fromGuest -> a host socket for each flow, or the reply to a client         flows.go, udp.go
//	  echo requests   flows.fromGuest -> a ping socket for each flow                                   ping.go
//	  TCP, fragments, ICMP errors -> gVisor
//	    SYN           dialler: the host's connection first, then the handshake                         tcp.go
//	    data          relay: a goroutine for each direction of a connection                            relay.go
//
// Where a packet may lead is decided in one place, policy.destination. Locks are never held over two of the package's structures.
package netstack

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"berth/internal/network/uplink"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// nic is the number of the only interface.
const nic = 1

// Stack carries what comes from one device.
type Stack struct {
	policy  policy
	ip      *stack.Stack
	link    *link
	flows   *flows
	dialler *dialler
	log     io.Writer // where defects are written
	since   time.Time

	tcp      tcpCount
	forwards atomic.Int32 // sockets

	mu     sync.Mutex // guards what follows
	inside map[netip.Prefix]int
}

// New starts to carry what comes from a device that uplink.MakeTUN made. It takes the device. Defects of single connections are
// written to log.
func New(device *os.File, c uplink.Config, log io.Writer) (*Stack, error) {
	if err := c.Check(); err != nil {
		return nil, errors.Join(err, device.Close())
	}
	s := newStack(c, log)
	l, err := newLink(device, c.MTU, s.policy.gateways())
	if err != nil {
		return nil, errors.Join(err, device.Close())
	}
	s.link = l
	if err := s.configure(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	go l.read()
	go l.writeHandshakes()
	return s, nil
}

// newStack makes a stack without a link.
func newStack(c uplink.Config, log io.Writer) *Stack {
	limits := descriptorLimits()
	s := &Stack{policy: newPolicy(c), log: log, since: time.Now(), tcp: tcpCount{max: int32(limits.tcp)}, inside: map[netip.Prefix]int{}}
	s.flows = newFlows(s, limits)
	s.ip = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	return s
}

// configure gives gVisor's stack its interface, its addresses and what it shall do with connections.
func (s *Stack) configure() error {
	s.link.datagram = s.flows.fromGuest
	if err := s.tuneTCP(); err != nil {
		return err
	}
	s.dialler = newDialler(s)
	s.ip.SetTransportProtocolHandler(tcp.ProtocolNumber, s.dialler.handle)
	s.ip.SetTransportProtocolHandler(udp.ProtocolNumber, s.reassembled)
	if err := s.ip.CreateNIC(nic, s.link); err != nil {
		return fmt.Errorf("cannot make the stack's interface: %s", err)
	}
	// Every address is ours: guests speak to anybody's, and clients of forwards keep theirs.
	if err := s.ip.SetPromiscuousMode(nic, true); err != nil {
		return fmt.Errorf("cannot take packets for all addresses: %s", err)
	}
	if err := s.ip.SetSpoofing(nic, true); err != nil {
		return fmt.Errorf("cannot speak for all addresses: %s", err)
	}
	for _, gateway := range s.policy.gateways() {
		address := tcpip.ProtocolAddress{Protocol: networkProtocol(gateway), AddressWithPrefix: toGvisor(gateway).WithPrefix()}
		if err := s.ip.AddProtocolAddress(nic, address, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("cannot add the address %s to the stack: %s", gateway, err)
		}
	}
	s.ip.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	return nil
}

// Close ends everything: connections are reset, the device is closed.
func (s *Stack) Close() error {
	s.flows.closeAll()
	s.ip.Close()
	return s.link.shut()
}

// Failed is closed when the device has gone.
func (s *Stack) Failed() <-chan struct{} { return s.link.ended }

// Status says what the stack does. Clients are the caller's to count.
func (s *Stack) Status() uplink.Status {
	u, echo := s.flows.count()
	return uplink.Status{
		Since: s.since, TCP: int(s.tcp.load()), UDP: u, Echo: echo, Forwards: int(s.forwards.Load()),
		Sent: s.link.fromGuest.Load(), Received: s.link.toGuest.Load(), Dropped: s.link.dropped.Load(),
	}
}

// guard is deferred by goroutines that serve one connection or flow: a defect that shows there ends it, and no other. One that
// shows in gVisor's own goroutines ends the program, which its users start again.
func (s *Stack) guard(what string, end func()) {
	if r := recover(); r != nil {
		fmt.Fprintf(s.log, "%s %s %v\n%s", time.Now().Format(time.RFC3339), what, r, debug.Stack())
		end()
	}
}

// addInside remembers networks inside that came with forwards.
func (s *Stack) addInside(prefixes []netip.Prefix, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range prefixes {
		if s.inside[p] += n; s.inside[p] == 0 {
			delete(s.inside, p)
		}
	}
}

// isInside reports whether an address is one of those inside, whose answers would not come back here.
func (s *Stack) isInside(a netip.Addr) bool {
	if s.policy.isInside(a) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.inside {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func toGvisor(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func fromGvisor(a tcpip.Address) netip.Addr {
	out, _ := netip.AddrFromSlice(a.AsSlice())
	return out
}

func networkProtocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}
