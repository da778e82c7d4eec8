package netlink

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// MAC is the address of an Ethernet interface. The zero value lets the kernel choose.
type MAC [6]byte

func (m MAC) String() string {
	text := make([]byte, 0, 17)
	for i, c := range m {
		if i > 0 {
			text = append(text, ':')
		}
		text = hex.AppendEncode(text, []byte{c})
	}
	return string(text)
}

// ParseMAC reads six pairs of hexadecimal digits with colons, or dashes, between them.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	if len(s) != 17 {
		return m, errdef.New(errdef.Invalid, "invalid MAC address %q", s)
	}
	for i := range m {
		if i > 0 && s[3*i-1] != ':' && s[3*i-1] != '-' {
			return m, errdef.New(errdef.Invalid, "invalid MAC address %q", s)
		}
		if _, err := hex.Decode(m[i:i+1], []byte(s[3*i:3*i+2])); err != nil {
			return m, errdef.New(errdef.Invalid, "invalid MAC address %q", s)
		}
	}
	return m, nil
}

// MarshalText and UnmarshalText write and read the usual form.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is ParseMAC.
func (m *MAC) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMAC(string(text))
	return err
}

// NameBytes is how long the name of an interface may be: IFNAMSIZ without its NUL.
const NameBytes = 15

// linkHeader is struct ifinfomsg. Bits of flags that change does not name are left alone.
func linkHeader(index int, flags, change uint32) *Buffer {
	var h [unix.SizeofIfInfomsg]byte
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	binary.NativeEndian.PutUint32(h[8:], flags)
	binary.NativeEndian.PutUint32(h[12:], change)
	return NewBuffer(h[:]...)
}

const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL

const vethInfoPeer = 1 // VETH_INFO_PEER of linux/veth.h

// CreateBridge makes a bridge that is down, without spanning tree and without a delay before it forwards. Its address is fixed,
// or it would change with its ports and the containers' neighbour tables would be wrong. mtu 0 is the kernel's.
func CreateBridge(name string, mac MAC, mtu int) Request {
	m := linkHeader(0, 0, 0)
	m.String(unix.IFLA_IFNAME, name)
	commonLink(m, mac, mtu)
	m.Nest(unix.IFLA_LINKINFO, func() {
		m.String(unix.IFLA_INFO_KIND, "bridge")
		m.Nest(unix.IFLA_INFO_DATA, func() {
			m.Uint32(unix.IFLA_BR_STP_STATE, 0)
			m.Uint32(unix.IFLA_BR_FORWARD_DELAY, 0)
		})
	})
	return Request{Purpose: "create the bridge " + name, Type: unix.RTM_NEWLINK, Flags: create, Payload: m.Payload()}
}

func commonLink(m *Buffer, mac MAC, mtu int) {
	if mac != (MAC{}) {
		m.Bytes(unix.IFLA_ADDRESS, mac[:])
	}
	if mtu != 0 {
		m.Uint32(unix.IFLA_MTU, uint32(mtu))
	}
}

// Veth is a pair of interfaces: what goes into one comes out of the other.
type Veth struct {
	Name          string // this side
	Master        int    // the index of the bridge that this side joins; 0 is none
	MTU           int    // of both; 0 is the kernel's
	PeerName      string
	PeerMAC       MAC
	PeerNamespace *os.File // nil is this namespace
}

// CreateVeth makes a pair: this side up, the other side at once in its namespace under its last name. The other side is down:
// the kernel refuses (ENOTCONN) to set it up before it has a pair.
func CreateVeth(v Veth) Request {
	m := linkHeader(0, unix.IFF_UP, unix.IFF_UP)
	m.String(unix.IFLA_IFNAME, v.Name)
	commonLink(m, MAC{}, v.MTU)
	if v.Master != 0 {
		m.Uint32(unix.IFLA_MASTER, uint32(v.Master))
	}
	m.Nest(unix.IFLA_LINKINFO, func() {
		m.String(unix.IFLA_INFO_KIND, "veth")
		m.Nest(unix.IFLA_INFO_DATA, func() {
			m.Nest(vethInfoPeer, func() {
				m.Raw(linkHeader(0, 0, 0).Payload())
				m.String(unix.IFLA_IFNAME, v.PeerName)
				commonLink(m, v.PeerMAC, v.MTU)
				if v.PeerNamespace != nil {
					m.Uint32(unix.IFLA_NET_NS_FD, uint32(v.PeerNamespace.Fd()))
				}
			})
		})
	})
	return Request{Purpose: "create the veth pair " + v.Name + " and " + v.PeerName, Type: unix.RTM_NEWLINK, Flags: create, Payload: m.Payload()}
}

// Macvlan is an interface with an address of its own on another interface.
type Macvlan struct {
	Name      string
	Parent    int    // an index in the connection's namespace
	Mode      string // bridge, private, vepa or passthru
	MAC       MAC
	MTU       int
	Namespace *os.File
}

// macvlanModes are enum macvlan_mode of linux/if_link.h.
var macvlanModes = [...]struct {
	name  string
	value uint32
}{{"private", 1}, {"vepa", 2}, {"bridge", 4}, {"passthru", 8}}

// MacvlanMode reports whether the kernel has a mode of that name.
func MacvlanMode(name string) (value uint32, ok bool) {
	for _, m := range macvlanModes {
		if m.name == name {
			return m.value, true
		}
	}
	return 0, false
}

// CreateMacvlan makes the interface at once in its namespace, up. An unknown mode is the kernel's error.
func CreateMacvlan(v Macvlan) Request {
	mode, _ := MacvlanMode(v.Mode)
	m := linkHeader(0, unix.IFF_UP, unix.IFF_UP)
	m.String(unix.IFLA_IFNAME, v.Name)
	commonLink(m, v.MAC, v.MTU)
	m.Uint32(unix.IFLA_LINK, uint32(v.Parent))
	if v.Namespace != nil {
		m.Uint32(unix.IFLA_NET_NS_FD, uint32(v.Namespace.Fd()))
	}
	m.Nest(unix.IFLA_LINKINFO, func() {
		m.String(unix.IFLA_INFO_KIND, "macvlan")
		m.Nest(unix.IFLA_INFO_DATA, func() { m.Uint32(unix.IFLA_MACVLAN_MODE, mode) })
	})
	return Request{Purpose: "create the macvlan interface " + v.Name, Type: unix.RTM_NEWLINK, Flags: create, Payload: m.Payload()}
}

// setLink begins a change of the link of that name.
func setLink(name string, flags, change uint32) *Buffer {
	m := linkHeader(0, flags, change)
	m.String(unix.IFLA_IFNAME, name)
	return m
}

// SetUp sets an interface up.
func SetUp(name string) Request {
	return Request{Purpose: "set " + name + " up", Type: unix.RTM_NEWLINK, Payload: setLink(name, unix.IFF_UP, unix.IFF_UP).Payload()}
}

// SetNoARP makes an interface one on which nobody is asked for an address: what is sent has its own (IFF_NOARP).
func SetNoARP(name string) Request {
	return Request{Purpose: "set " + name + " to resolve nothing", Type: unix.RTM_NEWLINK, Payload: setLink(name, unix.IFF_NOARP, unix.IFF_NOARP).Payload()}
}

// SetDown sets an interface down.
func SetDown(name string) Request {
	return Request{Purpose: "set " + name + " down", Type: unix.RTM_NEWLINK, Payload: setLink(name, 0, unix.IFF_UP).Payload()}
}

// SetMaster makes an interface a port of the bridge with that index; 0 takes it out.
func SetMaster(name string, master int) Request {
	m := setLink(name, 0, 0)
	m.Uint32(unix.IFLA_MASTER, uint32(master))
	return Request{Purpose: "set the bridge of " + name, Type: unix.RTM_NEWLINK, Payload: m.Payload()}
}

// SetMTU sets the largest packet of an interface, in bytes.
func SetMTU(name string, mtu int) Request {
	m := setLink(name, 0, 0)
	m.Uint32(unix.IFLA_MTU, uint32(mtu))
	return Request{Purpose: fmt.Sprintf("set the MTU of %s to %d", name, mtu), Type: unix.RTM_NEWLINK, Payload: m.Payload()}
}

// SetQueueLength sets how many packets may wait to leave by an interface.
func SetQueueLength(name string, packets int) Request {
	m := setLink(name, 0, 0)
	m.Uint32(unix.IFLA_TXQLEN, uint32(packets))
	return Request{Purpose: fmt.Sprintf("set the queue of %s to %d packets", name, packets), Type: unix.RTM_NEWLINK, Payload: m.Payload()}
}

// SetMAC sets the address of an interface.
func SetMAC(name string, mac MAC) Request {
	m := setLink(name, 0, 0)
	m.Bytes(unix.IFLA_ADDRESS, mac[:])
	return Request{Purpose: "set the address of " + name + " to " + mac.String(), Type: unix.RTM_NEWLINK, Payload: m.Payload()}
}

// Rename gives the interface with that index another name. Before Linux 6.2 it must be down.
func Rename(index int, name string) Request {
	m := linkHeader(index, 0, 0)
	m.String(unix.IFLA_IFNAME, name)
	return Request{Purpose: "rename an interface to " + name, Type: unix.RTM_NEWLINK, Payload: m.Payload()}
}

// Move moves the interface of that index to another namespace, where it is down and has no addresses, under a name; with "%d" in it
// the kernel chooses a number for it.
func Move(index int, ns *os.File, name string) Request {
	m := linkHeader(index, 0, 0)
	m.Uint32(unix.IFLA_NET_NS_FD, uint32(ns.Fd()))
	m.String(unix.IFLA_IFNAME, name)
	return Request{Purpose: fmt.Sprintf("move the interface %d to another namespace as %s", index, name), Type: unix.RTM_NEWLINK, Payload: m.Payload()}
}

// SetPort sets what a port of a bridge may do: hairpin lets a frame leave where it came in, which a container needs to reach
// itself through a port that it publishes; isolated ports cannot reach each other (Linux 4.18).
func SetPort(name string, hairpin, isolated bool) Request {
	m := setLink(name, 0, 0)
	m.Nest(unix.IFLA_LINKINFO, func() {
		m.String(unix.IFLA_INFO_SLAVE_KIND, "bridge")
		m.Nest(unix.IFLA_INFO_SLAVE_DATA, func() {
			m.Uint8(unix.IFLA_BRPORT_MODE, bit(hairpin))
			m.Uint8(unix.IFLA_BRPORT_ISOLATED, bit(isolated))
		})
	})
	return Request{Purpose: "set what the bridge port " + name + " may do", Type: unix.RTM_NEWLINK, Payload: m.Payload()}
}

// DisablePort stops a bridge from sending to a port and from listening to it. Unlike the removal of an interface it does not wait
// for the kernel's other processors, which takes some 25 ms.
func DisablePort(name string) Request {
	m := setLink(name, 0, 0)
	m.Nest(unix.IFLA_LINKINFO, func() {
		m.String(unix.IFLA_INFO_SLAVE_KIND, "bridge")
		m.Nest(unix.IFLA_INFO_SLAVE_DATA, func() { m.Uint8(unix.IFLA_BRPORT_STATE, stateDisabled) })
	})
	return Request{Purpose: "disable the bridge port " + name, Type: unix.RTM_NEWLINK, Payload: m.Payload()}
}

const stateDisabled = 0 // BR_STATE_DISABLED of linux/if_bridge.h

func bit(on bool) uint8 {
	if on {
		return 1
	}
	return 0
}

// DeleteLink removes an interface, and with one side of a pair the other.
func DeleteLink(name string) Request {
	return Request{Purpose: "delete the interface " + name, Type: unix.RTM_DELLINK, Payload: setLink(name, 0, 0).Payload()}
}

// Link is an interface.
type Link struct {
	Index  int
	Name   string
	Kind   string // "bridge", "veth", ...; empty for hardware and lo
	Up     bool
	Master int // the index of its bridge; 0 is none
	MTU    int
	MAC    MAC
}

// LinkByName finds an interface. One that is not there is an error of kind NotFound that wraps ENODEV.
func (c *Conn) LinkByName(name string) (Link, error) {
	return c.oneLink(Request{Purpose: "find the interface " + name, Type: unix.RTM_GETLINK, Payload: setLink(name, 0, 0).Payload()})
}

// LinkByIndex is LinkByName by the interface's number.
func (c *Conn) LinkByIndex(index int) (Link, error) {
	return c.oneLink(Request{Purpose: fmt.Sprintf("find the interface %d", index), Type: unix.RTM_GETLINK, Payload: linkHeader(index, 0, 0).Payload()})
}

func (c *Conn) oneLink(r Request) (Link, error) {
	answers, err := c.Get(r)
	if errors.Is(err, unix.ENODEV) {
		return Link{}, errdef.As(errdef.NotFound, err)
	}
	if err != nil {
		return Link{}, err
	}
	if answers[0] == nil || answers[0].Type != unix.RTM_NEWLINK {
		return Link{}, fmt.Errorf("cannot %s: the kernel's answer names none", r.Purpose)
	}
	return parseLink(answers[0].Payload)
}

// Links lists all interfaces.
func (c *Conn) Links() ([]Link, error) {
	messages, err := c.Dump(Request{Purpose: "list the interfaces", Type: unix.RTM_GETLINK, Payload: linkHeader(0, 0, 0).Payload()})
	if err != nil {
		return nil, err
	}
	return parseAll(messages, unix.RTM_NEWLINK, parseLink)
}

// parseAll reads the messages of one type.
func parseAll[T any](messages []Message, kind uint16, parse func([]byte) (T, error)) ([]T, error) {
	all := make([]T, 0, len(messages))
	for _, m := range messages {
		if m.Type != kind {
			continue
		}
		one, err := parse(m.Payload)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

func parseLink(b []byte) (Link, error) {
	var l Link
	if len(b) < unix.SizeofIfInfomsg {
		return l, errMalformed
	}
	l.Index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	l.Up = binary.NativeEndian.Uint32(b[8:])&unix.IFF_UP != 0
	attributes, err := ParseAttributes(b[unix.SizeofIfInfomsg:])
	if err != nil {
		return l, err
	}
	for _, a := range attributes {
		var n uint32
		switch a.Kind {
		case unix.IFLA_IFNAME:
			l.Name = a.Text()
		case unix.IFLA_MASTER:
			n, err = a.Uint32()
			l.Master = int(n)
		case unix.IFLA_MTU:
			n, err = a.Uint32()
			l.MTU = int(n)
		case unix.IFLA_ADDRESS:
			if len(a.Value) == len(l.MAC) {
				copy(l.MAC[:], a.Value)
			}
		case unix.IFLA_LINKINFO:
			l.Kind, err = linkKind(a.Value)
		}
		if err != nil {
			return l, err
		}
	}
	return l, nil
}

func linkKind(info []byte) (string, error) {
	attributes, err := ParseAttributes(info)
	for _, a := range attributes {
		if a.Kind == unix.IFLA_INFO_KIND {
			return a.Text(), nil
		}
	}
	return "", err
}
