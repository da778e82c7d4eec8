package netstack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// maxDialling is how many connections from inside may be waiting for the host's; further SYNs are lost, and come again.
	maxDialling = 1024
	// dialTimeout is after how long one is forgotten. The guest's next SYN then begins anew, so that its patience decides, and not ours:
	// what never answers does not fill the table.
	dialTimeout = 20 * time.Second

	// keepaliveIdle, keepaliveInterval and keepaliveCount find out that an end has gone without a word: a container's network
	// namespace that ended before its connections did.
	keepaliveIdle     = 60 * time.Second
	keepaliveInterval = 15 * time.Second
	keepaliveCount    = 4

	// receiveBytes and sendBytes are how much a connection may hold of what comes from inside and of what goes there. The way to the guest
	// takes microseconds, and the one to the peer has the host's buffers, which grow with it; what matters is that the guest's kernel
	// may send some packets of 64 KiB before it has an answer. Less than 512 KiB carries less; more for sending carries no more.
	receiveBytes = 512 << 10
	sendBytes    = 256 << 10
	// bufferTotal is how much each of the two may be for all connections together, about. Those that come when there are many get
	// less, down to bufferLeast.
	bufferTotal = 32 << 20
	bufferLeast = 32 << 10

	// timeWait is how long a closed connection is remembered. The link loses and reorders nothing that could come late, and
	// the kernel inside has its own TIME-WAIT.
	timeWait = 100 * time.Millisecond
	// synRetries bounds how long the guest's kernel may be silent in a handshake: 1+2+4+8+16 s.
	synRetries = 4
)

// tuneTCP sets what gVisor's TCP does.
func (s *Stack) tuneTCP() error {
	for _, option := range []tcpip.SettableTransportProtocolOption{
		ptr(tcpip.TCPSACKEnabled(true)),
		ptr(tcpip.TCPModerateReceiveBufferOption(false)),
		// No RACK: its probes are for ways with loss. One that repeats a FIN would make gVisor wait a minute for an end that it has had.
		ptr(tcpip.TCPRecovery(0)),
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: bufferLeast, Default: receiveBytes, Max: receiveBytes},
		&tcpip.TCPSendBufferSizeRangeOption{Min: bufferLeast, Default: sendBytes, Max: sendBytes},
		ptr(tcpip.TCPTimeWaitTimeoutOption(timeWait)),
		ptr(tcpip.TCPSynRetriesOption(synRetries)),
	} {
		if err := s.ip.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("cannot set %T to %v: %s", option, option, err)
		}
	}
	return nil
}

func ptr[T any](v T) *T { return &v }

// tcpCount counts connections.
type tcpCount struct {
	n   atomic.Int32
	max int32
}

func (c *tcpCount) load() int32 { return c.n.Load() }

// acquire counts one more unless there are too many.
func (c *tcpCount) acquire() bool {
	if c.n.Add(1) <= c.max {
		return true
	}
	c.n.Add(-1)
	return false
}

func (c *tcpCount) release() { c.n.Add(-1) }

// dialler answers SYNs from inside: the host's connection is made first, so that the guest learns what became of it.
type dialler struct {
	s         *Stack
	forwarder *tcp.Forwarder
	patience  time.Duration

	mu sync.Mutex // guards dialling
	// dialling are the sequence numbers of the SYNs that wait, without which the guest's kernel does not believe an ICMP message.
	dialling map[stack.TransportEndpointID]uint32
}

func newDialler(s *Stack) *dialler {
	d := &dialler{s: s, patience: dialTimeout, dialling: map[stack.TransportEndpointID]uint32{}}
	d.forwarder = tcp.NewForwarder(s.ip, receiveBytes, 2*maxDialling, d.dial)
	return d
}

// handle takes TCP packets that belong to no connection.
func (d *dialler) handle(id stack.TransportEndpointID, p *stack.PacketBuffer) bool {
	h := header.TCP(p.TransportHeader().Slice())
	if h.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return false // gVisor answers with a reset
	}
	d.mu.Lock()
	full := len(d.dialling) >= maxDialling
	if !full {
		d.dialling[id] = h.SequenceNumber()
	}
	d.mu.Unlock()
	if full {
		d.s.link.dropped.Add(1)
		return true
	}
	return d.forwarder.HandlePacket(id, p)
}

// sequence is the sequence number of the SYN that waits.
func (d *dialler) sequence(id stack.TransportEndpointID) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dialling[id]
}

// done completes a request. What waits is forgotten after it, or a SYN in between would be remembered for ever.
func (d *dialler) done(r *tcp.ForwarderRequest, reset bool) {
	id := r.ID()
	r.Complete(reset)
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.dialling, id)
}

// dial makes the host's connection, then completes the guest's, and carries between the two.
func (d *dialler) dial(r *tcp.ForwarderRequest) {
	defer d.s.guard("TCP from inside", func() {})
	id := r.ID()
	to, ok := d.s.policy.destination(fromGvisor(id.LocalAddress))
	if !ok || !d.s.tcp.acquire() {
		d.done(r, true)
		return
	}
	defer d.s.tcp.release()
	host, err := dial(netip.AddrPortFrom(to, id.LocalPort), d.patience)
	if err != nil {
		d.fail(r, err)
		return
	}
	var queue waiter.Queue
	guest, e := r.CreateEndpoint(&queue)
	d.done(r, false)
	if e != nil {
		host.abort()
		return
	}
	d.s.relay(guest, &queue, host)
}

// fail tells the guest why the host has no connection for it.
func (d *dialler) fail(r *tcp.ForwarderRequest, err error) {
	id, sequence := r.ID(), d.sequence(r.ID())
	if errors.Is(err, os.ErrDeadlineExceeded) {
		d.done(r, false)
		return
	}
	why, known := failureOf(err)
	if !known || why == noPort {
		d.done(r, true)
		return
	}
	d.done(r, false)
	var first [8]byte
	binary.BigEndian.PutUint16(first[:], id.RemotePort)
	binary.BigEndian.PutUint16(first[2:], id.LocalPort)
	binary.BigEndian.PutUint32(first[4:], sequence)
	d.s.refuseQuoting(why, protocolTCP, fromGvisor(id.RemoteAddress), fromGvisor(id.LocalAddress), first, header.TCPMinimumSize-len(first))
}

// dialInside connects to an address inside as from.
func (s *Stack) dialInside(from, to netip.AddrPort, queue *waiter.Queue) (tcpip.Endpoint, error) {
	e, err := s.ip.NewEndpoint(tcp.ProtocolNumber, networkProtocol(to.Addr()), queue)
	if err != nil {
		return nil, gvisorError(err)
	}
	// The client's port, unless it has a connection with it already by way of another forward.
	if err = e.Bind(fullAddress(from)); err != nil {
		err = e.Bind(fullAddress(netip.AddrPortFrom(from.Addr(), 0)))
	}
	if err == nil {
		err = connect(e, to, queue)
	}
	if err != nil {
		e.Abort()
		return nil, gvisorError(err)
	}
	return e, nil
}

// connect waits until a connection is made or has failed.
func connect(e tcpip.Endpoint, to netip.AddrPort, queue *waiter.Queue) tcpip.Error {
	entry, made := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	err := e.Connect(fullAddress(to))
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		<-made
		return e.LastError()
	}
	return err
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: toGvisor(a.Addr()), Port: a.Port()}
}

func gvisorError(err tcpip.Error) error { return errors.New(err.String()) }
