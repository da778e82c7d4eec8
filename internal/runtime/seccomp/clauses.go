package seccomp

import (
	"slices"

	"golang.org/x/sys/unix"

	"berth/internal/errdef"
)

// list is the clauses of one number as they are compared there, in the order in which they are tried.
type list struct {
	clauses []clause
	final   int32 // the verdict if none matches
	code    label // where they stand, once written
}

func (l *list) same(m *list) bool {
	return l.final == m.final && slices.EqualFunc(l.clauses, m.clauses, func(a, b clause) bool {
		return a.action == b.action && slices.Equal(a.conds, b.conds)
	})
}

// resolve returns the clauses that begin at node head, as they are compared.
func (c *compiler) resolve(head int32) (list, error) {
	l := list{final: int32(c.nodes[head].final)}
	count := 0
	for at := head; at != 0; at = c.nodes[at].next {
		count++
	}
	if count > maxInstructions {
		return list{}, tooLarge()
	}
	l.clauses = make([]clause, 0, count)
	own := 0 // where the profile's clauses begin
	for at := head; at != 0; at = c.nodes[at].next {
		from := &c.clauses[c.nodes[at].clause]
		if cap(c.conds)-len(c.conds) < len(from.conds) {
			c.conds = make([]cond, 0, 32+len(from.conds))
		}
		first, known := len(c.conds), always
		for _, condition := range from.conds {
			condition, result := condition.as(c.nodes[at].width(condition.arg))
			switch result {
			case never:
				known = never
			case depends:
				c.conds = append(c.conds, condition)
			}
		}
		if known == never {
			continue
		}
		conds := c.conds[first:len(c.conds):len(c.conds)]
		if len(conds) == 0 {
			// Nothing is left that an argument could fail: a rule without conditions, which beats all others.
			l.clauses, l.final = l.clauses[:own], from.action
			return l, nil
		}
		l.clauses = append(l.clauses, clause{conds: conds, action: from.action})
		if c.nodes[at].mux {
			own = len(l.clauses)
		}
	}
	return l, order(l.clauses[own:])
}

// order sorts clauses if their actions differ; it fails if two of them have the same conditions.
func order(clauses []clause) error {
	if !slices.ContainsFunc(clauses, func(c clause) bool { return c.action != clauses[0].action }) {
		return nil
	}
	slices.SortStableFunc(clauses, func(a, b clause) int { return compareClauses(a.conds, b.conds) })
	for i := range clauses {
		for j := i - 1; j >= 0 && compareClauses(clauses[j].conds, clauses[i].conds) == 0; j-- {
			if clauses[i].action != clauses[j].action && slices.Equal(clauses[i].conds, clauses[j].conds) {
				return errdef.New(errdef.Invalid, "two rules have the same conditions and different actions")
			}
		}
	}
	return nil
}

// writeClauses writes the code that decides by arguments, and notes in l where it stands.
func (s *assembler) writeClauses(l *list) {
	next, body := verdictLabel(l.final), verdictLabel(l.final) // the next clause, and that without its first load
	for i := len(l.clauses) - 1; i >= 0; i-- {
		conds := l.clauses[i].conds
		match := verdictLabel(l.clauses[i].action)
		for j := len(conds) - 1; j > 0; j-- {
			s.writeCond(&conds[j], match, next)
			match = s.load(firstWord(&conds[j]))
		}
		fail := next
		if i+1 < len(l.clauses) && keeps(conds, l.clauses[i+1].conds) {
			fail = body
		}
		body = s.writeCond(&conds[0], match, fail)
		// The load is left out if the clause before goes straight to the body.
		next = body
		if i == 0 || !keeps(l.clauses[i-1].conds, conds) {
			next = s.load(firstWord(&conds[0]))
		}
	}
	l.code = next
}

// keeps reports whether conds, when it fails, has just loaded what following loads first.
func keeps(conds, following []cond) bool {
	return len(conds) == 1 && !conds[0].wide && !conds[0].masks() && firstWord(&conds[0]) == firstWord(&following[0])
}

// firstWord returns the offset of what the code of a condition expects in the accumulator.
func firstWord(c *cond) uint32 {
	if c.wide {
		return highWord(c)
	}
	return lowWord(c)
}

func lowWord(c *cond) uint32  { return offsetArgs + 8*uint32(c.arg) }
func highWord(c *cond) uint32 { return lowWord(c) + 4 }

// masks reports whether the code of the narrow condition c changes the accumulator.
func (c *cond) masks() bool {
	return c.op == opMasked && c.value != 0 && c.mask != 0xffffffff && !oneBit(c.mask)
}

func oneBit(mask uint64) bool { return mask&(mask-1) == 0 }

// writeCond writes the code of one condition, the first load aside.
func (s *assembler) writeCond(c *cond, match, fail label) label {
	if !c.wide {
		return s.writeWord(c.op, uint32(c.value), uint32(c.mask), match, fail)
	}
	low, high := uint32(c.value), uint32(c.value>>32)
	switch c.op {
	case opEqual:
		s.writeWord(opEqual, low, 0, match, fail)
		return s.jump(unix.BPF_JEQ, high, s.load(lowWord(c)), fail)
	case opNotEqual:
		s.writeWord(opNotEqual, low, 0, match, fail)
		return s.jump(unix.BPF_JEQ, high, s.load(lowWord(c)), match)
	case opMasked:
		lowMask, highMask := uint32(c.mask), uint32(c.mask>>32)
		if lowMask == 0 {
			return s.writeWord(opMasked, high, highMask, match, fail)
		}
		s.writeWord(opMasked, low, lowMask, match, fail)
		return s.writeWord(opMasked, high, highMask, s.load(lowWord(c)), fail)
	case opLess, opLessEqual:
		// Not less is greater or equal.
		match, fail = fail, match
	}
	test := uint16(unix.BPF_JGT)
	if c.op == opGreaterEqual || c.op == opLess {
		test = unix.BPF_JGE
	}
	s.jump(test, low, match, fail)
	same := s.load(lowWord(c))
	if high != 0 {
		// Unless the upper half is greater or equal, the whole is less. At 0 it cannot be less.
		same = s.jump(unix.BPF_JEQ, high, same, fail)
	}
	return s.jump(unix.BPF_JGT, high, match, same)
}

// writeWord compares the 32 bits in the accumulator.
func (s *assembler) writeWord(o op, value, mask uint32, match, fail label) label {
	switch o {
	case opEqual:
		return s.jump(unix.BPF_JEQ, value, match, fail)
	case opNotEqual:
		return s.jump(unix.BPF_JEQ, value, fail, match)
	case opGreater:
		return s.jump(unix.BPF_JGT, value, match, fail)
	case opGreaterEqual:
		return s.jump(unix.BPF_JGE, value, match, fail)
	case opLess:
		return s.jump(unix.BPF_JGE, value, fail, match)
	case opLessEqual:
		return s.jump(unix.BPF_JGT, value, fail, match)
	}
	switch {
	case value == 0:
		return s.jump(unix.BPF_JSET, mask, fail, match)
	case mask == 0xffffffff:
		return s.jump(unix.BPF_JEQ, value, match, fail)
	case oneBit(uint64(mask)):
		return s.jump(unix.BPF_JSET, mask, match, fail)
	}
	s.jump(unix.BPF_JEQ, value, match, fail)
	s.and(mask)
	return label(len(s.code) - 1)
}
