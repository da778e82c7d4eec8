package program

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// unxz unpacks a file of the .xz format as the Makefile makes it: one stream of one block, by LZMA2 alone, checked by CRC32. It is a
// fifth smaller than gzip's and takes four times as long, for programs that few need. The format is described in xz-file-format.txt
// of XZ Utils, LZMA in lzma-specification.txt of the LZMA SDK.
func unxz(b []byte) ([]byte, error) {
	const (
		magic       = "\xfd7zXZ\x00\x00\x01" // with the flags of a stream with CRC32
		headBytes   = len(magic) + 4
		filterLZMA2 = 0x21
	)
	if len(b) < headBytes+8 || string(b[:len(magic)]) != magic {
		return nil, errors.New("not an .xz file with CRC32")
	}
	b = b[headBytes:]
	blockHead := (int(b[0]) + 1) * 4
	if blockHead > len(b) || b[1] != 0 || b[2] != filterLZMA2 {
		return nil, errors.New("not a block by LZMA2 alone")
	}
	b = b[blockHead:]
	z := lzma2{in: b}
	if err := z.unpack(); err != nil {
		return nil, err
	}
	check := b[min(len(b), (len(b)-len(z.in)+3)&^3):]
	if len(check) < 4 || binary.LittleEndian.Uint32(check) != crc32.ChecksumIEEE(z.out) {
		return nil, errors.New("its checksum is wrong")
	}
	return z.out, nil
}

var errLZMA = errors.New("its data are damaged")

// lzma2 unpacks LZMA2's chunks.
type lzma2 struct {
	in  []byte // what is left
	out []byte // all of it: the dictionary is its end
	lzma
}

// The control byte of a chunk.
const (
	chunkEnd        = 0
	chunkCopyReset  = 1 // uncompressed, and the dictionary is empty
	chunkCopy       = 2 // uncompressed
	chunkLZMA       = 0x80
	chunkNewState   = 0x20 // and above: the state begins anew
	chunkNewDetails = 0x40 // and above: with other properties
)

func (z *lzma2) take(n int) ([]byte, error) {
	if n > len(z.in) {
		return nil, errLZMA
	}
	b := z.in[:n]
	z.in = z.in[n:]
	return b, nil
}

func (z *lzma2) unpack() error {
	for {
		control, err := z.take(1)
		if err != nil || control[0] == chunkEnd {
			return err
		}
		if control[0] < chunkLZMA {
			err = z.copied(control[0])
		} else {
			err = z.packed(control[0])
		}
		if err != nil {
			return err
		}
	}
}

func (z *lzma2) copied(control byte) error {
	size, err := z.take(2)
	if err != nil || control > chunkCopy {
		return errLZMA
	}
	b, err := z.take(int(binary.BigEndian.Uint16(size)) + 1)
	z.out = append(z.out, b...)
	return err
}

func (z *lzma2) packed(control byte) error {
	sizes, err := z.take(4)
	if err != nil {
		return err
	}
	size := int(control&0x1f)<<16 + int(binary.BigEndian.Uint16(sizes)) + 1
	if control&0x60 >= chunkNewDetails {
		details, err := z.take(1)
		if err != nil || !z.setDetails(int(details[0])) {
			return errLZMA
		}
	}
	if control&0x60 >= chunkNewState {
		z.reset()
	}
	b, err := z.take(int(binary.BigEndian.Uint16(sizes[2:])) + 1)
	if err != nil {
		return err
	}
	z.out, err = z.decode(b, z.out, size)
	return err
}

// Sizes of LZMA's tables.
const (
	stateCount    = 12
	posStateCount = 16
	lenStates     = 4 // of the distance's slot, by the length of the match
	slotBits      = 6
	alignBits     = 4
	endDistances  = 128 // distances below it have models of their own for their lower bits
	firstModel    = 4   // slot from which on there are lower bits
	endModel      = 14  // slot from which on most of them are not modelled
)

type probability = uint16

const probabilityHalf probability = 1 << 10 // of 1<<11

// lzma is the state of LZMA's decoder between chunks.
type lzma struct {
	lc, lp, pb int // bits of context: of a literal's predecessor, and of its and a match's position

	state int
	reps  [4]int // the last distances, less one

	literals   []probability // 0x300 for each context
	isMatch    [stateCount * posStateCount]probability
	isRep      [stateCount]probability
	isRepG0    [stateCount]probability
	isRepG1    [stateCount]probability
	isRepG2    [stateCount]probability
	isRep0Long [stateCount * posStateCount]probability
	slots      [lenStates][1 << slotBits]probability
	distances  [endDistances]probability
	align      [1 << alignBits]probability
	matchLen   lengths
	repLen     lengths
}

// lengths are the models of a length.
type lengths struct {
	choice, choice2 probability
	low, mid        [posStateCount][1 << 3]probability
	high            [1 << 8]probability
}

// setDetails sets the properties that a byte holds.
func (z *lzma) setDetails(b int) bool {
	z.lc, z.lp, z.pb = b%9, b/9%5, b/45
	return z.pb < 5 && z.lc+z.lp <= 4
}

func half(all []probability) {
	for i := range all {
		all[i] = probabilityHalf
	}
}

// reset begins the state anew.
func (z *lzma) reset() {
	z.state, z.reps = 0, [4]int{}
	z.literals = make([]probability, 0x300<<(z.lc+z.lp))
	for _, all := range [][]probability{
		z.literals, z.isMatch[:], z.isRep[:], z.isRepG0[:], z.isRepG1[:], z.isRepG2[:], z.isRep0Long[:], z.distances[:], z.align[:],
	} {
		half(all)
	}
	for i := range z.slots {
		half(z.slots[i][:])
	}
	for _, l := range []*lengths{&z.matchLen, &z.repLen} {
		l.choice, l.choice2 = probabilityHalf, probabilityHalf
		for i := range l.low {
			half(l.low[i][:])
			half(l.mid[i][:])
		}
		half(l.high[:])
	}
}

// rangeCoder reads bits, each by its probability. Beyond its input it reads zeros, and says so at the end.
type rangeCoder struct {
	in          []byte
	at          int
	width, code uint32
}

func newRangeCoder(b []byte) (rangeCoder, bool) {
	if len(b) < 5 || b[0] != 0 {
		return rangeCoder{}, false
	}
	return rangeCoder{in: b, at: 5, width: 1<<32 - 1, code: binary.BigEndian.Uint32(b[1:])}, true
}

// more reads a byte when the range has become narrow.
func (r *rangeCoder) more() {
	r.width <<= 8
	r.code <<= 8
	if r.at < len(r.in) {
		r.code |= uint32(r.in[r.at])
	}
	r.at++
}

// probabilityShift is how quickly a probability follows what is seen.
const probabilityShift = 5

func (r *rangeCoder) bit(p *probability) int {
	if r.width < 1<<24 {
		r.more()
	}
	v := uint32(*p)
	bound := r.width >> 11 * v
	if r.code < bound {
		r.width = bound
		*p = probability(v + (1<<11-v)>>probabilityShift)
		return 0
	}
	r.width -= bound
	r.code -= bound
	*p = probability(v - v>>probabilityShift)
	return 1
}

// direct reads n bits that are as likely 0 as 1.
func (r *rangeCoder) direct(n int) (v int) {
	for range n {
		if r.width < 1<<24 {
			r.more()
		}
		r.width >>= 1
		v <<= 1
		if r.code >= r.width {
			r.code -= r.width
			v |= 1
		}
	}
	return v
}

// tree reads as many bits as the models have levels, the highest first.
func (r *rangeCoder) tree(models []probability) int {
	m := 1
	for m < len(models) {
		m = m<<1 | r.bit(&models[m])
	}
	return m - len(models)
}

// reverse reads n bits, the lowest first.
func (r *rangeCoder) reverse(models []probability, n int) (v int) {
	m := 1
	for i := range n {
		b := r.bit(&models[m])
		m = m<<1 | b
		v |= b << i
	}
	return v
}

func (l *lengths) read(r *rangeCoder, posState int) int {
	const least = 2
	switch {
	case r.bit(&l.choice) == 0:
		return least + r.tree(l.low[posState][:])
	case r.bit(&l.choice2) == 0:
		return least + 8 + r.tree(l.mid[posState][:])
	}
	return least + 16 + r.tree(l.high[:])
}

// decode adds size bytes that b packs to out.
func (z *lzma) decode(b, out []byte, size int) ([]byte, error) {
	r, ok := newRangeCoder(b)
	if !ok || z.literals == nil {
		return out, errLZMA
	}
	for end := len(out) + size; len(out) < end; {
		posState := len(out) & (1<<z.pb - 1)
		if r.bit(&z.isMatch[z.state*posStateCount+posState]) == 0 {
			c, ok := z.literal(&r, out)
			if !ok {
				return out, errLZMA
			}
			out = append(out, c)
			continue
		}
		n := z.match(&r, posState)
		from := len(out) - 1 - z.reps[0]
		if from < 0 || n > end-len(out) {
			return out, errLZMA
		}
		for range n { // what is copied may reach into itself
			out = append(out, out[from])
			from++
		}
	}
	if r.at > len(r.in) {
		return out, errLZMA
	}
	return out, nil
}

// literal reads one byte.
func (z *lzma) literal(r *rangeCoder, out []byte) (byte, bool) {
	var before int
	if len(out) > 0 {
		before = int(out[len(out)-1])
	}
	context := (len(out)&(1<<z.lp-1))<<z.lc | before>>(8-z.lc)
	models := z.literals[0x300*context:][:0x300]
	m := 1
	if z.state >= 7 { // after a match: the byte that it would have had next is unlikely
		at := len(out) - 1 - z.reps[0]
		if at < 0 {
			return 0, false
		}
		for would := int(out[at]); m < 0x100; {
			bit := would >> 7 & 1
			would <<= 1
			got := r.bit(&models[(1+bit)<<8|m])
			m = m<<1 | got
			if got != bit {
				break
			}
		}
	}
	for m < 0x100 {
		m = m<<1 | r.bit(&models[m])
	}
	switch {
	case z.state < 4:
		z.state = 0
	case z.state < 10:
		z.state -= 3
	default:
		z.state -= 6
	}
	return byte(m), true
}

// after returns one of two states: the first if the last was a literal.
func (z *lzma) after(literal, match int) int {
	if z.state < 7 {
		return literal
	}
	return match
}

// match reads the length of a match, and moves its distance to the front of reps.
func (z *lzma) match(r *rangeCoder, posState int) int {
	if r.bit(&z.isRep[z.state]) == 0 {
		n := z.matchLen.read(r, posState)
		z.state = z.after(7, 10)
		z.reps = [4]int{z.distance(r, n), z.reps[0], z.reps[1], z.reps[2]}
		return n
	}
	switch {
	case r.bit(&z.isRepG0[z.state]) == 0:
		if r.bit(&z.isRep0Long[z.state*posStateCount+posState]) == 0 {
			z.state = z.after(9, 11)
			return 1
		}
	case r.bit(&z.isRepG1[z.state]) == 0:
		z.reps[0], z.reps[1] = z.reps[1], z.reps[0]
	case r.bit(&z.isRepG2[z.state]) == 0:
		z.reps = [4]int{z.reps[2], z.reps[0], z.reps[1], z.reps[3]}
	default:
		z.reps = [4]int{z.reps[3], z.reps[0], z.reps[1], z.reps[2]}
	}
	n := z.repLen.read(r, posState)
	z.state = z.after(8, 11)
	return n
}

// distance reads a distance, less one, of a match of n bytes.
func (z *lzma) distance(r *rangeCoder, n int) int {
	slot := r.tree(z.slots[min(n-2, lenStates-1)][:])
	if slot < firstModel {
		return slot
	}
	bits := slot>>1 - 1
	high := (2 | slot&1) << bits
	if slot < endModel {
		return high + r.reverse(z.distances[high-slot:], bits)
	}
	return high + r.direct(bits-alignBits)<<alignBits + r.reverse(z.align[:], alignBits)
}
