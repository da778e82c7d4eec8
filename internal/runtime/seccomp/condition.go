package seccomp

import (
	"cmp"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/internal/errdef"
)

// op is how an argument is compared.
type op uint8

const (
	opGreater op = iota
	opGreaterEqual
	opLess
	opLessEqual
	opEqual
	opNotEqual
	opMasked
)

// cond is a condition on one argument. mask is only for opMasked.
type cond struct {
	arg         uint8
	op          op
	wide        bool // compare 64 bits; otherwise value and mask have no more than 32
	value, mask uint64
}

// conditions translates the conditions of a rule, in the order of the arguments, and reports whether an argument
// stands there more than once.
func conditions(args []specs.LinuxSeccompArg) (conds []cond, repeated bool, err error) {
	conds = make([]cond, 0, len(args))
	var seen [6]bool
	for i := range args {
		arg := &args[i]
		if arg.Index >= uint(len(seen)) {
			return nil, false, errdef.New(errdef.Invalid, "a system call has no argument %d: they are 0 to 5", arg.Index)
		}
		c := cond{arg: uint8(arg.Index), value: arg.Value}
		switch arg.Op {
		case specs.OpNotEqual:
			c.op = opNotEqual
		case specs.OpLessThan:
			c.op = opLess
		case specs.OpLessEqual:
			c.op = opLessEqual
		case specs.OpEqualTo:
			c.op = opEqual
		case specs.OpGreaterEqual:
			c.op = opGreaterEqual
		case specs.OpGreaterThan:
			c.op = opGreater
		case specs.OpMaskedEqual:
			c.op, c.mask, c.value = opMasked, arg.Value, arg.ValueTwo&arg.Value
		default:
			return nil, false, errdef.New(errdef.Invalid, "%q is not a comparison", arg.Op)
		}
		repeated = repeated || seen[arg.Index]
		seen[arg.Index] = true
		conds = append(conds, c)
	}
	if !repeated {
		slices.SortFunc(conds, func(a, b cond) int { return cmp.Compare(a.arg, b.arg) })
	}
	return conds, repeated, nil
}

// width is how much of an argument is compared.
type width uint8

const (
	register64 width = iota // a 64-bit register
	int32s                  // a 64-bit register of which the kernel takes the lower half
	register32              // a 32-bit register
)

// outcome is what is known about a condition without looking at an argument.
type outcome uint8

const (
	depends outcome = iota
	always
	never
)

// as returns c as it is compared with an argument of width w.
func (c cond) as(w width) (cond, outcome) {
	const low = 0xffffffff
	if w == int32s && c.value>>31 == 1<<33-1 {
		c.value &= low // a negative int
	}
	switch {
	case c.op == opMasked && w == int32s && c.value > low:
		return c, never
	case c.op == opMasked && (c.mask <= low || w != register64):
		c.mask &= low
		c.wide = false
	case w == register64:
		c.wide = true
	case w == int32s && c.value > low:
		// No 32-bit number reaches it.
		if c.op == opNotEqual || c.op == opLess || c.op == opLessEqual {
			return c, always
		}
		return c, never
	default:
		c.wide = false
	}
	if !c.wide {
		c.value &= low
	}
	if !c.demands() {
		return c, always
	}
	return c, depends
}

// demands reports whether a value can fail c.
func (c cond) demands() bool { return c.op != opMasked || c.mask != 0 }

// compareClauses orders clauses of one call that have different actions as libseccomp tries them: those that begin
// with a later argument first, equality before "less" before "greater", and the narrower range first.
func compareClauses(a, b []cond) int {
	for i := range min(len(a), len(b)) {
		x, y := a[i], b[i]
		if order := cmp.Or(cmp.Compare(y.arg, x.arg), cmp.Compare(opClass(y.op), opClass(x.op))); order != 0 {
			return order
		}
		order := cmp.Compare(y.value, x.value)
		if opClass(x.op) == opClass(opLess) {
			order = -order
		}
		if order != 0 {
			return order
		}
	}
	return cmp.Compare(len(a), len(b))
}

func opClass(o op) int {
	switch o {
	case opGreater, opGreaterEqual:
		return 1
	case opLess, opLessEqual:
		return 2
	}
	return 3
}
