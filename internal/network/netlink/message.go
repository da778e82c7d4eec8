package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes of linux/netlink.h. Everything is aligned to four bytes, and numbers are in the machine's own order unless said.
const (
	headerBytes    = 16 // struct nlmsghdr
	attributeBytes = 4  // struct nlattr
	nested         = 0x8000
	kindMask       = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
)

// Buffer is a message's payload while it is put together: a fixed header, then attributes.
type Buffer struct{ b []byte }

// NewBuffer starts a payload with a fixed header, which is copied.
func NewBuffer(header ...byte) *Buffer {
	return &Buffer{append(make([]byte, 0, 256), header...)}
}

// Payload is what has been put together.
func (m *Buffer) Payload() []byte { return m.b }

// Len is how many bytes have been put together.
func (m *Buffer) Len() int { return len(m.b) }

func (m *Buffer) begin(kind uint16) int {
	at := len(m.b)
	m.b = append(m.b, 0, 0)
	m.b = binary.NativeEndian.AppendUint16(m.b, kind)
	return at
}

// end writes the length of the attribute that began at at, and aligns what follows. A length that its 16 bits cannot hold is
// an error of this program: who adds many elements splits them.
func (m *Buffer) end(at int) {
	length := len(m.b) - at
	if length > 0xffff {
		panic(fmt.Sprintf("netlink: an attribute of %d bytes", length))
	}
	binary.NativeEndian.PutUint16(m.b[at:], uint16(length))
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

// Raw appends bytes as they are, aligned: for a fixed header inside an attribute.
func (m *Buffer) Raw(value []byte) {
	m.b = append(m.b, value...)
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

// Bytes appends an attribute.
func (m *Buffer) Bytes(kind uint16, value []byte) {
	at := m.begin(kind)
	m.b = append(m.b, value...)
	m.end(at)
}

// String appends an attribute that ends with a NUL.
func (m *Buffer) String(kind uint16, value string) {
	at := m.begin(kind)
	m.b = append(append(m.b, value...), 0)
	m.end(at)
}

// Flag appends an attribute without a value.
func (m *Buffer) Flag(kind uint16) { m.end(m.begin(kind)) }

// Uint8 appends a number.
func (m *Buffer) Uint8(kind uint16, v uint8) { m.Bytes(kind, []byte{v}) }

// Uint16 appends a number.
func (m *Buffer) Uint16(kind, v uint16) {
	at := m.begin(kind)
	m.b = binary.NativeEndian.AppendUint16(m.b, v)
	m.end(at)
}

// Uint32 appends a number.
func (m *Buffer) Uint32(kind uint16, v uint32) {
	at := m.begin(kind)
	m.b = binary.NativeEndian.AppendUint32(m.b, v)
	m.end(at)
}

// NetUint32 appends a number in network order, as all of netfilter's are.
func (m *Buffer) NetUint32(kind uint16, v uint32) {
	at := m.begin(kind)
	m.b = binary.BigEndian.AppendUint32(m.b, v)
	m.end(at)
}

// Nest appends an attribute that holds what fill appends.
func (m *Buffer) Nest(kind uint16, fill func()) {
	at := m.begin(kind | nested)
	fill()
	m.end(at)
}

// Attribute is one attribute that was read: its value lies in the buffer that was parsed.
type Attribute struct {
	Kind  uint16
	Value []byte
}

var errMalformed = errors.New("malformed netlink message")

// ParseAttributes reads a row of attributes. A length that does not fit is an error, never a shorter row.
func ParseAttributes(b []byte) ([]Attribute, error) {
	var all []Attribute
	for len(b) > 0 {
		if len(b) < attributeBytes {
			return nil, errMalformed
		}
		length := int(binary.NativeEndian.Uint16(b))
		if length < attributeBytes || length > len(b) {
			return nil, errMalformed
		}
		all = append(all, Attribute{binary.NativeEndian.Uint16(b[2:]) & kindMask, b[attributeBytes:length]})
		b = b[min(align(length), len(b)):]
	}
	return all, nil
}

func align(n int) int { return (n + 3) &^ 3 }

// Uint32 is the value as a number, or an error when it has another size.
func (a Attribute) Uint32() (uint32, error) {
	if len(a.Value) != 4 {
		return 0, fmt.Errorf("%w: attribute %d has %d bytes and should have 4", errMalformed, a.Kind, len(a.Value))
	}
	return binary.NativeEndian.Uint32(a.Value), nil
}

// NetUint32 is the value as a number in network order.
func (a Attribute) NetUint32() (uint32, error) {
	if len(a.Value) != 4 {
		return 0, fmt.Errorf("%w: attribute %d has %d bytes and should have 4", errMalformed, a.Kind, len(a.Value))
	}
	return binary.BigEndian.Uint32(a.Value), nil
}

// Text is the value up to its NUL.
func (a Attribute) Text() string {
	for i, c := range a.Value {
		if c == 0 {
			return string(a.Value[:i])
		}
	}
	return string(a.Value)
}

// Message is one message that was read: its payload lies in the buffer that was parsed.
type Message struct {
	Type, Flags uint16
	Seq         uint32
	Payload     []byte
}

// ParseMessages reads the messages of one datagram.
func ParseMessages(b []byte) ([]Message, error) {
	var all []Message
	for len(b) > 0 {
		if len(b) < headerBytes {
			return nil, errMalformed
		}
		length := binary.NativeEndian.Uint32(b)
		if length < headerBytes || uint64(length) > uint64(len(b)) {
			return nil, errMalformed
		}
		all = append(all, Message{
			Type:    binary.NativeEndian.Uint16(b[4:]),
			Flags:   binary.NativeEndian.Uint16(b[6:]),
			Seq:     binary.NativeEndian.Uint32(b[8:]),
			Payload: b[headerBytes:length],
		})
		b = b[min(align(int(length)), len(b)):]
	}
	return all, nil
}

// appendMessage appends a request as it is sent.
func appendMessage(b []byte, r Request, seq uint32) []byte {
	at := len(b)
	b = binary.NativeEndian.AppendUint32(b, uint32(headerBytes+len(r.Payload)))
	b = binary.NativeEndian.AppendUint16(b, r.Type)
	b = binary.NativeEndian.AppendUint16(b, r.Flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // to the kernel
	b = append(b, r.Payload...)
	for (len(b)-at)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
