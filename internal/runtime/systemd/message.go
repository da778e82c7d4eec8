package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kinds of message and fields of a header (D-Bus specification 0.43, "Message Protocol").
const (
	methodCall, methodReturn, failure, signal = 1, 2, 3, 4

	fieldPath, fieldInterface, fieldMember, fieldErrorName = 1, 2, 3, 4
	fieldReplySerial, fieldDestination, fieldSignature     = 5, 6, 8
)

// The fixed part of a header: order of bytes, kind, flags, version; length of the body, serial, length of the fields.
const fixedHeader = 16

// maxMessage bounds what is read of one message. The specification allows 128 MiB; the answers that are read here are short.
const maxMessage = 1 << 20

// message is what is read: the header's fields that matter, and the body.
type message struct {
	kind        byte
	serial      uint32
	replySerial uint32
	member      string
	errorName   string
	signature   string
	body        []byte
	order       binary.ByteOrder
}

var errMalformed = errors.New("a message of systemd is malformed")

// size is how long the message is that begins with that fixed header.
func size(header []byte) (int, error) {
	order, err := byteOrder(header[0])
	if err != nil {
		return 0, err
	}
	body, fields := order.Uint32(header[4:]), order.Uint32(header[12:])
	if body > maxMessage || fields > maxMessage {
		return 0, fmt.Errorf("a message of more than %d bytes", maxMessage)
	}
	return padded(fixedHeader+int(fields), 8) + int(body), nil
}

func byteOrder(mark byte) (binary.ByteOrder, error) {
	switch mark {
	case 'l':
		return binary.LittleEndian, nil
	case 'B':
		return binary.BigEndian, nil
	}
	return nil, errMalformed
}

func padded(n, to int) int { return (n + to - 1) / to * to }

// parse reads a whole message.
func parse(data []byte) (m message, err error) {
	if len(data) < fixedHeader {
		return m, errMalformed
	}
	if n, err := size(data); err != nil || n != len(data) {
		return m, errors.Join(errMalformed, err)
	}
	m.order, _ = byteOrder(data[0])
	m.kind, m.serial = data[1], m.order.Uint32(data[8:])
	end := fixedHeader + int(m.order.Uint32(data[12:]))
	r := reader{data: data[:end], at: fixedHeader, order: m.order}
	for r.err == nil && r.at < end {
		r.align(8)
		m.field(&r)
	}
	m.body = data[padded(end, 8):]
	return m, r.err
}

// field reads one field of a header: a number and a variant.
func (m *message) field(r *reader) {
	code := r.byte()
	switch kind := r.signature(); kind {
	case "s", "o":
		value := r.string()
		switch code {
		case fieldMember:
			m.member = value
		case fieldErrorName:
			m.errorName = value
		}
	case "g":
		if value := r.signature(); code == fieldSignature {
			m.signature = value
		}
	case "u":
		if value := r.uint32(); code == fieldReplySerial {
			m.replySerial = value
		}
	default:
		r.fail() // the specification has no field of another type
	}
}

// strings are the strings and paths in a body of such values and numbers of 32 bits.
func (m *message) strings() ([]string, error) {
	r := reader{data: m.body, order: m.order}
	var all []string
	for _, c := range m.signature {
		switch c {
		case 's', 'o':
			all = append(all, r.string())
		case 'u':
			r.uint32()
		default:
			r.fail()
		}
	}
	return all, r.err
}

// reader reads values, each at its alignment, until something is not there.
type reader struct {
	data  []byte
	at    int
	order binary.ByteOrder
	err   error
}

func (r *reader) fail() { r.err = errMalformed }

func (r *reader) align(to int) { r.at = padded(r.at, to) }

// take takes n bytes.
func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || r.at > len(r.data) || n > len(r.data)-r.at {
		r.fail()
		return nil
	}
	r.at += n
	return r.data[r.at-n : r.at]
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	r.align(4)
	if b := r.take(4); b != nil {
		return r.order.Uint32(b)
	}
	return 0
}

// string and signature end with a NUL, which their lengths do not count.
func (r *reader) string() string { return r.text(int(r.uint32())) }

func (r *reader) signature() string { return r.text(int(r.byte())) }

func (r *reader) text(length int) string {
	b := r.take(length + 1)
	if b == nil || b[length] != 0 {
		r.fail()
		return ""
	}
	return string(b[:length])
}

// writer writes values, each at its alignment, little endian.
type writer struct{ data []byte }

func (w *writer) align(to int) {
	for len(w.data)%to != 0 {
		w.data = append(w.data, 0)
	}
}

func (w *writer) uint32(n uint32) {
	w.align(4)
	w.data = binary.LittleEndian.AppendUint32(w.data, n)
}

func (w *writer) uint64(n uint64) {
	w.align(8)
	w.data = binary.LittleEndian.AppendUint64(w.data, n)
}

func (w *writer) string(s string) {
	w.uint32(uint32(len(s)))
	w.data = append(append(w.data, s...), 0)
}

func (w *writer) signature(s string) {
	w.data = append(append(append(w.data, byte(len(s))), s...), 0)
}

// array writes a length and what elements writes, whose first value has that alignment. The padding before it does not count.
func (w *writer) array(alignment int, elements func()) {
	w.uint32(0)
	length := len(w.data) - 4
	w.align(alignment)
	first := len(w.data)
	elements()
	binary.LittleEndian.PutUint32(w.data[length:], uint32(len(w.data)-first))
}

// variant writes a value with its type.
func (w *writer) variant(value any) {
	switch v := value.(type) {
	case string:
		w.signature("s")
		w.string(v)
	case bool:
		w.signature("b")
		n := uint32(0)
		if v {
			n = 1
		}
		w.uint32(n)
	case uint64:
		w.signature("t")
		w.uint64(v)
	case []uint32:
		w.signature("au")
		w.array(4, func() {
			for _, n := range v {
				w.uint32(n)
			}
		})
	default:
		panic(fmt.Sprintf("systemd: no property has the type %T", value))
	}
}

// properties writes an array of names and values, each with its type.
func (w *writer) properties(all []Property) {
	w.array(8, func() {
		for _, p := range all {
			w.align(8)
			w.string(p.Name)
			w.variant(p.Value)
		}
	})
}

// encode writes a call of a method; destination and object say whose.
func encode(serial uint32, c call) []byte {
	w := &writer{data: []byte{'l', methodCall, 0, 1}}
	w.uint32(uint32(len(c.body.data)))
	w.uint32(serial)
	w.array(8, func() {
		field := func(code byte, kind, value string) {
			w.align(8)
			w.data = append(w.data, code)
			w.signature(kind)
			if kind == "g" {
				w.signature(value)
			} else {
				w.string(value)
			}
		}
		field(fieldPath, "o", c.path)
		field(fieldDestination, "s", c.destination)
		field(fieldInterface, "s", c.iface)
		field(fieldMember, "s", c.member)
		if c.signature != "" {
			field(fieldSignature, "g", c.signature)
		}
	})
	w.align(8)
	return append(w.data, c.body.data...)
}

// call is a call of a method of an object.
type call struct {
	destination, path, iface, member string
	signature                        string
	body                             writer
}
