package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/internal/errdef"
)

// tableSize is more than the highest system call number of any architecture (x32's 547), private ones of ARM aside;
// those stand behind it. A test checks it against calls.
const (
	tableSize    = 600
	privateCount = 16
)

// A slot says what happens to one system call number: 0 the default, n > 0 the verdict actions[n], n < 0 the list of
// clauses that begins at nodes[-n].
type slot int32

// table is what the rules say about one architecture.
type table struct {
	used    bool
	slots   [tableSize + privateCount]slot
	highest int32 // the highest number that the profile names, 0 if none
}

// index returns where number stands in the slots.
func (t *table) index(number int32) int32 {
	if number >= armPrivate {
		return number - armPrivate + tableSize
	}
	return number
}

// clause is the conditions of one rule; all must hold.
type clause struct {
	conds  []cond
	action int32 // index of actions
}

// node is an element of the list of clauses of one number.
type node struct {
	clause int32
	ints   uint8 // the arguments that are 32-bit integers, by bit
	narrow bool  // all of them come in 32-bit registers
	next   int32 // 0 ends the list
	last   int32 // in a list's first node: its end
	final  slot  // in a list's first node: what happens if none matches
	mux    bool  // made by placeMultiplexed: stays before the profile's own
}

type compiler struct {
	opt      Options
	native   arch
	tables   [archCount]table
	actions  []uint32 // the verdicts; the first is the default's
	clauses  []clause
	nodes    []node // nodes[0] is unused
	muxed    [len(multiplexers)][muxCalls]muxed
	notifies bool
	enosys   bool // numbers above the highest get ENOSYS
	unknown  []string
	summary  summary
	asm      assembler
	conds    []cond // spare memory for resolve

	registers bool // compare registers as libseccomp does, not what the kernel makes of them; for tests
}

// newCompiler checks what stands at the top of the profile.
func newCompiler(profile *specs.LinuxSeccomp, opt Options) (*compiler, error) {
	native, err := nativeArch(opt.Arch)
	if err != nil {
		return nil, err
	}
	if profile.DefaultAction == specs.ActNotify {
		// runc forbids it: whoever loads the filter could not hand the listener on.
		return nil, errdef.New(errdef.Invalid, "SCMP_ACT_NOTIFY cannot be the default action")
	}
	fallback, err := verdict(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	c := &compiler{opt: opt, native: native, actions: make([]uint32, 1, 8), nodes: make([]node, 1, 32)}
	c.actions[0] = fallback
	c.enosys = !passes(fallback) && fallback&retAction != unix.SECCOMP_RET_TRACE
	c.tables[native].used = true
	for _, name := range profile.Architectures {
		a, err := specArch(name)
		if err != nil {
			return nil, err
		}
		c.tables[a].used = true
	}
	return c, nil
}

// action returns the index of a verdict.
func (c *compiler) action(ret uint32) int32 {
	for i, known := range c.actions {
		if known == ret {
			return int32(i)
		}
	}
	c.actions = append(c.actions, ret)
	return int32(len(c.actions) - 1)
}

// addRule enters one entry of the profile's list.
func (c *compiler) addRule(rule *specs.LinuxSyscall) error {
	if len(rule.Names) == 0 {
		return errdef.New(errdef.Invalid, "a rule with action %s names no system call", rule.Action)
	}
	ret, err := verdict(rule.Action, rule.ErrnoRet)
	if err != nil {
		return fmtRule(rule, err)
	}
	action := c.action(ret)
	notify := ret&retAction == unix.SECCOMP_RET_USER_NOTIF
	c.notifies = c.notifies || notify

	// The rule's clauses: one with all its conditions, or one for each if an argument stands there twice.
	first := len(c.clauses)
	if len(rule.Args) > 0 {
		conds, repeated, err := conditions(rule.Args)
		if err != nil {
			return fmtRule(rule, err)
		}
		switch {
		case repeated:
			for i := range conds {
				c.clauses = append(c.clauses, clause{conds: conds[i : i+1 : i+1], action: action})
			}
		default:
			c.clauses = append(c.clauses, clause{conds: conds, action: action})
		}
		for i := first; i < len(c.clauses); i++ {
			if !slices.ContainsFunc(c.clauses[i].conds, cond.demands) {
				c.clauses = c.clauses[:first] // one that always holds makes the rule unconditional
			}
		}
	}
	clauses := len(c.clauses) - first
	for _, name := range rule.Names {
		// The lists of five architectures can share their code, so this says only what can never be small enough.
		if len(c.clauses)+len(c.nodes) > 16*maxInstructions {
			return tooLarge()
		}
		if name == "" {
			return errdef.New(errdef.Invalid, "a rule with action %s has an empty system call name", rule.Action)
		}
		if notify && name == "write" {
			// runc forbids it: the loader writes the listener's number to its parent.
			return errdef.New(errdef.Invalid, "SCMP_ACT_NOTIFY cannot be used for the write syscall")
		}
		row := lookup(name)
		if row == nil {
			c.unknown = append(c.unknown, name)
			continue
		}
		known := false
		if c.tables[i386].used {
			known = c.addMultiplexed(name, action, clauses > 0)
		}
		for a := range c.tables {
			t, number := &c.tables[a], row.numbers[a]
			if !t.used || number < 0 {
				continue
			}
			known = true
			if number < armPrivate {
				t.highest = max(t.highest, number)
			}
			if action == 0 {
				continue
			}
			s := &t.slots[t.index(number)]
			switch {
			case clauses == 0 && *s <= 0:
				*s = slot(action)
			case *s <= 0:
				for i := range clauses {
					n := node{clause: int32(first + i), ints: row.ints(arch(a)), narrow: !arch(a).wide()}
					if c.registers {
						n.ints, n.narrow = 0, n.narrow || arch(a) == x32
					}
					c.appendNode(s, n)
				}
			}
		}
		if !known {
			c.unknown = append(c.unknown, name)
		}
	}
	return nil
}

// width returns how much of an argument is compared.
func (n *node) width(arg uint8) width {
	switch {
	case n.narrow:
		return register32
	case n.ints>>arg&1 == 1:
		return int32s
	}
	return register64
}

// appendNode puts n at the end of s's list.
func (c *compiler) appendNode(s *slot, n node) {
	c.nodes = append(c.nodes, n)
	added := int32(len(c.nodes) - 1)
	if *s == 0 {
		*s = slot(-added)
		c.nodes[added].last = added
		return
	}
	c.join(*s, added)
}

// join puts the list that begins at node added behind the list s.
func (c *compiler) join(s slot, added int32) {
	head := &c.nodes[-s]
	c.nodes[head.last].next = added
	head.last = max(c.nodes[added].last, added)
}

// fmtRule says in which rule an error was found.
func fmtRule(rule *specs.LinuxSyscall, err error) error {
	more := ""
	if len(rule.Names) > 1 {
		more = ", ..."
	}
	return errdef.New(errdef.KindOf(err), "rule for %s%s: %w", rule.Names[0], more, err)
}

func tooLarge() error {
	return errdef.New(errdef.Invalid, "it needs more than the %d instructions that the kernel takes", maxInstructions)
}
