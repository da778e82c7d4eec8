package dns

import (
	"encoding/binary"
	"net/netip"
)

// Types, classes and response codes of RFC 1035, 3596 and 6891.
const (
	typeA    = 1
	typePTR  = 12
	typeAAAA = 28
	typeOPT  = 41
	typeANY  = 255

	classIN = 1

	success    = 0
	formatErr  = 1
	serverFail = 2
	noName     = 3
	notImpl    = 4
	refused    = 5
	badVersion = 16 // its upper eight bits are in the OPT record
)

// The bits of a header's second word.
const (
	bitResponse  = 1 << 15
	bitTruncated = 1 << 9
	bitRecurse   = 1 << 8 // asked for
	bitAvailable = 1 << 7
	bitNoCheck   = 1 << 4
	opcodes      = 0xf << 11
)

const (
	headerLength = 12
	optLength    = 11
	maxLabel     = 63
	maxName      = 255

	// maxQuery is the longest message that is taken from a client. A question has 271 bytes at most, and what rides with
	// it (EDNS options, a signature) is small.
	maxQuery = 4096
	// maxAnswer is the longest answer of our own over UDP, whatever the client would take: some 250 addresses.
	maxAnswer = 4096
)

// query is a message from a client, as far as it matters here. Slices belong to the message's buffer or to the query
// itself, and are overwritten by the next.
type query struct {
	msg    []byte
	end    int // of the question
	id     uint16
	flags  uint16
	qtype  uint16
	class  uint16
	labels int
	name   []byte // lower case, without the last dot
	// plain is false for a name with a label that has a dot in it: written with dots, it would be another name.
	plain   bool
	edns    bool
	size    int // the longest answer that the client takes over UDP
	version byte
	dnssec  uint16 // the flags of the OPT record

	space [maxName]byte
}

// verdict is what becomes of a message.
type verdict uint8

const (
	drop    verdict = iota // it is no query, or too short to say so
	reply                  // with the answer or the error that is there
	forward                // somebody else may know
)

// parse reads a query and returns the response code that it deserves, and whether it deserves one at all. It follows no
// compression pointers: a question has none, and behind the question names are only skipped.
func (q *query) parse(msg []byte) (code int, ok bool) {
	if len(msg) < headerLength {
		return 0, false
	}
	q.msg, q.end = msg, headerLength
	q.id, q.flags = binary.BigEndian.Uint16(msg), binary.BigEndian.Uint16(msg[2:])
	q.qtype, q.class, q.labels, q.name, q.plain = 0, 0, 0, nil, true
	q.edns, q.size, q.version, q.dnssec = false, 512, 0, 0
	// Two servers that take each other's errors for queries would never stop.
	if q.flags&bitResponse != 0 {
		return 0, false
	}
	if q.flags&opcodes != 0 {
		return notImpl, true
	}
	if binary.BigEndian.Uint16(msg[4:]) != 1 {
		return formatErr, true
	}
	at := headerLength
	name := q.space[:0]
	for {
		if at >= len(msg) {
			return formatErr, true
		}
		n := int(msg[at])
		at++
		if n == 0 {
			break
		}
		if n > maxLabel || at+n > len(msg) || at+n-headerLength >= maxName {
			return formatErr, true
		}
		if q.labels > 0 {
			name = append(name, '.')
		}
		for _, c := range msg[at : at+n] {
			if c == '.' {
				q.plain = false
			}
			name = append(name, lower(c))
		}
		q.labels++
		at += n
	}
	if at+4 > len(msg) {
		return formatErr, true
	}
	q.qtype, q.class = binary.BigEndian.Uint16(msg[at:]), binary.BigEndian.Uint16(msg[at+2:])
	q.name, q.end = name, at+4
	if !q.parseRest(msg) {
		return formatErr, true
	}
	if q.version != 0 {
		return badVersion, true
	}
	return success, true
}

// parseRest looks for the OPT record behind the question. Every record takes eleven bytes at least, so that the length of
// the message bounds the work, not the counts in its header.
func (q *query) parseRest(msg []byte) bool {
	at := q.end
	additional := int(binary.BigEndian.Uint16(msg[10:]))
	before := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:]))
	for i := range before + additional {
		start := at
		var ok bool
		if at, ok = skipName(msg, at); !ok || at+10 > len(msg) {
			return false
		}
		kind, class := binary.BigEndian.Uint16(msg[at:]), binary.BigEndian.Uint16(msg[at+2:])
		ttl, length := binary.BigEndian.Uint32(msg[at+4:]), int(binary.BigEndian.Uint16(msg[at+8:]))
		if at += 10 + length; at > len(msg) {
			return false
		}
		if kind != typeOPT || i < before {
			continue
		}
		if q.edns || msg[start] != 0 { // there is one, and it belongs to the root
			return false
		}
		q.edns, q.size, q.version, q.dnssec = true, max(int(class), 512), byte(ttl>>16), uint16(ttl)
	}
	return true
}

func skipName(msg []byte, at int) (int, bool) {
	for at < len(msg) {
		switch n := int(msg[at]); {
		case n == 0:
			return at + 1, true
		case n >= 0xc0:
			return at + 2, at+2 <= len(msg)
		case n > maxLabel:
			return 0, false
		default:
			at += 1 + n
		}
	}
	return 0, false
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// begin starts an answer in out, which it returns with the question in it.
func (q *query) begin(out []byte, code int) []byte {
	flags := uint16(bitResponse|bitAvailable) | q.flags&(opcodes|bitRecurse|bitNoCheck) | uint16(code&0xf)
	out = binary.BigEndian.AppendUint16(out[:0], q.id)
	out = binary.BigEndian.AppendUint16(out, flags)
	questions := uint16(0)
	if q.end > headerLength {
		questions = 1
	}
	out = binary.BigEndian.AppendUint16(out, questions)
	out = append(out, 0, 0, 0, 0, 0, 0)
	return append(out, q.msg[headerLength:q.end]...)
}

// finish gives an answer its count and, to a client that has sent one, its OPT record.
func (q *query) finish(out []byte, answers, code int) []byte {
	binary.BigEndian.PutUint16(out[6:], uint16(answers))
	if !q.edns {
		return out
	}
	binary.BigEndian.PutUint16(out[10:], 1)
	out = append(out, 0)
	out = binary.BigEndian.AppendUint16(out, typeOPT)
	out = binary.BigEndian.AppendUint16(out, maxQuery)
	out = append(out, byte(code>>4), 0)
	out = binary.BigEndian.AppendUint16(out, q.dnssec&bitResponse) // DO, which is to be repeated (RFC 3225)
	return append(out, 0, 0)
}

// fail is the whole answer of a query that has failed.
func (q *query) fail(out []byte, code int) []byte { return q.finish(q.begin(out, code), 0, code) }

// appendRecord appends a record about the name in the question, without its data.
func appendRecord(out []byte, kind uint16, length int) []byte {
	out = append(out, 0xc0, headerLength) // a pointer to the name in the question
	out = binary.BigEndian.AppendUint16(out, kind)
	out = binary.BigEndian.AppendUint16(out, classIN)
	out = binary.BigEndian.AppendUint32(out, ttl)
	return binary.BigEndian.AppendUint16(out, uint16(length))
}

const recordLength = 12 // of what appendRecord appends

// appendName appends a name written with dots, and returns nil if it cannot be one.
func appendName(out []byte, name string) []byte {
	start, label := len(out), len(out)
	out = append(out, 0)
	for i := range len(name) {
		if name[i] != '.' {
			out = append(out, name[i])
			continue
		}
		if n := len(out) - label - 1; n == 0 || n > maxLabel {
			return nil
		}
		out[label] = byte(len(out) - label - 1)
		label = len(out)
		out = append(out, 0)
	}
	n := len(out) - label - 1
	if n > maxLabel || n == 0 && len(name) > 0 && label == start {
		return nil
	}
	if n > 0 { // no dot at the end
		out[label] = byte(n)
		out = append(out, 0)
	}
	if len(out)-start > maxName {
		return nil
	}
	return out
}

// reverse returns the address that a name of in-addr.arpa or ip6.arpa stands for.
func reverse(name []byte) (netip.Addr, bool) {
	const v4, v6 = ".in-addr.arpa", ".ip6.arpa"
	if n := len(name) - len(v4); n > 0 && string(name[n:]) == v4 {
		return reverse4(name[:n])
	}
	if n := len(name) - len(v6); n > 0 && string(name[n:]) == v6 {
		return reverse6(name[:n])
	}
	return netip.Addr{}, false
}

func reverse4(name []byte) (netip.Addr, bool) {
	var a [4]byte
	at := 0
	for i := 3; i >= 0; i-- {
		start, n := at, 0
		for ; at < len(name) && '0' <= name[at] && name[at] <= '9' && n <= 255; at++ {
			n = n*10 + int(name[at]-'0')
		}
		if at == start || n > 255 || at-start > 1 && name[start] == '0' {
			return netip.Addr{}, false
		}
		a[i] = byte(n)
		if i > 0 {
			if at == len(name) || name[at] != '.' {
				return netip.Addr{}, false
			}
			at++
		}
	}
	return netip.AddrFrom4(a), at == len(name)
}

func reverse6(name []byte) (netip.Addr, bool) {
	if len(name) != 32*2-1 {
		return netip.Addr{}, false
	}
	var a [16]byte
	for i := range 32 {
		c := name[i*2]
		if i > 0 && name[i*2-1] != '.' {
			return netip.Addr{}, false
		}
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		default:
			return netip.Addr{}, false
		}
		a[15-i/2] |= c << (4 * (i % 2))
	}
	return netip.AddrFrom16(a), true
}

// answers reports whether msg answers what was asked: the same number and the same question. complete is false for a
// server that leaves the question out, which is only believed when it says that it has failed.
func answers(msg []byte, id uint16, question []byte) (complete, ok bool) {
	if len(msg) < headerLength || binary.BigEndian.Uint16(msg) != id {
		return false, false
	}
	flags := binary.BigEndian.Uint16(msg[2:])
	if flags&bitResponse == 0 || flags&opcodes != 0 {
		return false, false
	}
	switch binary.BigEndian.Uint16(msg[4:]) {
	case 0:
		return false, flags&0xf != success
	case 1:
	default:
		return false, false
	}
	if len(msg) < headerLength+len(question) {
		return false, false
	}
	got := msg[headerLength : headerLength+len(question)]
	kind := len(question) - 4
	for i, c := range question {
		// Lengths of labels are no letters; type and class are compared as they are.
		if c != got[i] && (i >= kind || lower(c) != lower(got[i])) {
			return false, false
		}
	}
	return true, true
}
