package seccomp

import (
	"golang.org/x/sys/unix"

	"berth/internal/errdef"
)

// segment is a run of system call numbers that are decided alike; it ends where the next one begins.
type segment struct {
	start  uint32
	target label
}

// assemble writes the whole program: a dispatch over the kernel's architectures, then one search tree for each.
func (c *compiler) assemble() ([]unix.SockFilter, error) {
	s := &c.asm
	s.code = make([]unix.SockFilter, 0, 512)
	enosys := int32(0)
	if c.enosys {
		enosys = c.action(retENOSYS)
	}
	kill := c.action(badArch)
	s.actions, c.summary.actions = c.actions, c.actions

	// i386 and arm stand behind amd64 and arm64; the native architecture is written last, nearest to the start.
	order := [...]arch{arm, arm64, i386, amd64}
	if c.native == arm64 {
		order = [...]arch{i386, amd64, arm, arm64}
	}
	var sections [len(order)]label
	segments := make([]segment, 0, 256)
	lists := make([]list, 0, 8)
	for i, a := range order {
		if !c.tables[a].used && (a != amd64 || !c.tables[x32].used) {
			continue
		}
		segments = segments[:0]
		var err error
		if segments, err = c.segments(segments, &lists, a, enosys); err != nil {
			return nil, err
		}
		if a == amd64 {
			if segments, err = c.addX32(segments, &lists, enosys, kill); err != nil {
				return nil, err
			}
		}
		s.begin(s.tree(segments, 0, len(segments)))
		sections[i] = s.load(offsetNumber)
		if len(s.code) > maxInstructions {
			return nil, tooLarge()
		}
	}

	next := verdictLabel(kill)
	for i, a := range order {
		if sections[i] != 0 {
			next = s.jump(unix.BPF_JEQ, a.audit(), sections[i], next)
		}
	}
	s.load(offsetArch)
	if len(s.code) > maxInstructions {
		return nil, tooLarge()
	}
	return s.finish(), nil
}

// segments appends the segments of one architecture, which reach to the end of the numbers. enosys is the verdict on
// numbers above the highest.
func (c *compiler) segments(segments []segment, lists *[]list, a arch, enosys int32) ([]segment, error) {
	t := &c.tables[a]
	base := uint32(0)
	if a == x32 {
		base = x32Bit
	}
	c.summary.archs[a] = archSummary{used: true, verdicts: make([]int, len(c.actions))}
	above := verdictLabel(0)
	if t.highest > 0 {
		above = verdictLabel(enosys)
		if c.enosys {
			c.summary.archs[a].highest = t.highest
		}
	}
	for i := range t.slots {
		decided, start := t.slots[i], base+uint32(i)
		if i >= tableSize {
			if a != arm {
				return segments, nil
			}
			start = uint32(i) - tableSize + armPrivate
		}
		target, err := c.target(decided, lists)
		if err != nil {
			return nil, errdef.New(errdef.KindOf(err), "%s: %w", nameOf(a, int32(start&^base)), err)
		}
		if len(c.asm.code) > maxInstructions {
			return nil, tooLarge()
		}
		if decided == 0 && int32(i) > t.highest && i < tableSize {
			target = above
		}
		c.summary.count(a, decided, target)
		if i == 0 || segments[len(segments)-1].target != target {
			segments = append(segments, segment{start, target})
		}
	}
	return append(segments, segment{armPrivate + privateCount, above}), nil
}

// target returns where a number with slot s is decided; clauses are written if no other number has the same.
func (c *compiler) target(s slot, lists *[]list) (label, error) {
	if s >= 0 {
		return verdictLabel(int32(s)), nil
	}
	l, err := c.resolve(int32(-s))
	if err != nil {
		return 0, err
	}
	if len(l.clauses) == 0 {
		return verdictLabel(l.final), nil
	}
	for i := range *lists {
		if l.same(&(*lists)[i]) {
			return (*lists)[i].code, nil
		}
	}
	c.asm.writeClauses(&l)
	*lists = append(*lists, l)
	return l.code, nil
}

// addX32 appends the upper part of the numbers of AUDIT_ARCH_X86_64 to amd64's segments. If x32 is not in the profile,
// numbers with its bit are a foreign architecture's; those without, above 0x7fffffff, are amd64's and unknown; and
// -1 is how a tracer skips a call.
func (c *compiler) addX32(segments []segment, lists *[]list, enosys, kill int32) ([]segment, error) {
	if !c.tables[amd64].used {
		segments = append(segments[:0], segment{0, verdictLabel(kill)})
	}
	if c.tables[x32].used {
		return c.segments(segments, lists, x32, enosys)
	}
	segments = append(segments, segment{x32Bit, verdictLabel(kill)})
	if c.enosys && c.tables[amd64].highest > 0 {
		segments = append(segments, segment{0x80000000, verdictLabel(enosys)}, segment{0xc0000000, verdictLabel(kill)})
	}
	return append(segments, segment{0xffffffff, verdictLabel(0)}), nil
}

// maxSingles is how many lone numbers are compared one after the other before the search tree is used.
const maxSingles = 3

// tree writes a search tree over segments[low:high] for a number within them, and returns its root.
func (s *assembler) tree(segments []segment, low, high int) label {
	if high-low == 1 {
		return segments[low].target
	}
	for i := low; i < low+2; i++ {
		if ok := singles(segments, low, high, segments[i].target); ok {
			root := segments[i].target
			for j := high - 1; j >= low; j-- {
				if segments[j].target != segments[i].target {
					root = s.jump(unix.BPF_JEQ, segments[j].start, segments[j].target, root)
				}
			}
			return root
		}
	}
	middle := low + (high-low)/2
	right := s.tree(segments, middle, high)
	left := s.tree(segments, low, middle)
	return s.jump(unix.BPF_JGE, segments[middle].start, right, left)
}

// singles reports whether segments[low:high] are all decided by target, but for a few lone numbers.
func singles(segments []segment, low, high int, target label) bool {
	count := 0
	for i := low; i < high; i++ {
		if segments[i].target == target {
			continue
		}
		count++
		if count > maxSingles {
			return false
		}
		// The last segment of all ends with the last number.
		if i+1 == len(segments) && segments[i].start != 0xffffffff || i+1 < len(segments) && segments[i+1].start != segments[i].start+1 {
			return false
		}
	}
	return true
}
