package seccomp

// A multiplexer is a system call of i386 whose first argument says which call is meant.
type multiplexer struct {
	name   string
	number int32
	mask   uint64 // the part of the first argument that the kernel looks at
}

// net/socket.c takes the whole int; ipc/syscall.c takes the lower half and keeps a version in the upper one.
var multiplexers = [...]multiplexer{
	{"socketcall", 102, 0xffffffff},
	{"ipc", 117, 0xffff},
}

// muxCalls is more than the highest code of a multiplexed call (ipc's SHMCTL).
const muxCalls = 25

// multiplexed returns the multiplexer of a call and its code there. The codes stand in include/uapi/linux/net.h and
// include/uapi/linux/ipc.h.
func multiplexed(name string) (mux int, code uint32, ok bool) {
	switch name {
	case "socket":
		return 0, 1, true
	case "bind":
		return 0, 2, true
	case "connect":
		return 0, 3, true
	case "listen":
		return 0, 4, true
	case "accept":
		return 0, 5, true
	case "getsockname":
		return 0, 6, true
	case "getpeername":
		return 0, 7, true
	case "socketpair":
		return 0, 8, true
	case "send":
		return 0, 9, true
	case "recv":
		return 0, 10, true
	case "sendto":
		return 0, 11, true
	case "recvfrom":
		return 0, 12, true
	case "shutdown":
		return 0, 13, true
	case "setsockopt":
		return 0, 14, true
	case "getsockopt":
		return 0, 15, true
	case "sendmsg":
		return 0, 16, true
	case "recvmsg":
		return 0, 17, true
	case "accept4":
		return 0, 18, true
	case "recvmmsg":
		return 0, 19, true
	case "sendmmsg":
		return 0, 20, true
	case "semop":
		return 1, 1, true
	case "semget":
		return 1, 2, true
	case "semctl":
		return 1, 3, true
	case "semtimedop":
		return 1, 4, true
	case "msgsnd":
		return 1, 11, true
	case "msgrcv":
		return 1, 12, true
	case "msgget":
		return 1, 13, true
	case "msgctl":
		return 1, 14, true
	case "shmat":
		return 1, 21, true
	case "shmdt":
		return 1, 22, true
	case "shmget":
		return 1, 23, true
	case "shmctl":
		return 1, 24, true
	}
	return 0, 0, false
}

// muxed is what the profile says about one multiplexed call. Verdicts are indices of actions; 0, the default, stands for
// none, as rules with the default's action say nothing if there are others.
type muxed struct {
	named          bool
	always         int32 // of the first rule without conditions
	denied, passed int32 // of the first rules with conditions: that keeps the call from happening, and that does not
}

// addMultiplexed notes what a rule says about a call that i386 also makes through socketcall or ipc, and reports
// whether name is one.
func (c *compiler) addMultiplexed(name string, action int32, conditional bool) bool {
	mux, code, ok := multiplexed(name)
	if !ok {
		return false
	}
	t := &c.tables[i386]
	t.highest = max(t.highest, multiplexers[mux].number)
	m := &c.muxed[mux][code]
	m.named = true
	first := &m.always
	if conditional {
		first = &m.denied
		if passes(c.actions[action]) {
			first = &m.passed
		}
	}
	if *first == 0 {
		*first = action
	}
	return true
}

// placeMultiplexed enters the rules for socketcall and ipc that follow from those for the calls behind them. It runs
// after all rules are known: what a rule says about a call with arguments outlives a rule that allows the multiplexer.
func (c *compiler) placeMultiplexed() {
	t := &c.tables[i386]
	if !t.used {
		return
	}
	for mux := range multiplexers {
		s := &t.slots[multiplexers[mux].number]
		whole := *s // what the rules for the multiplexer itself say
		var head slot
		for code := range c.muxed[mux] {
			m := &c.muxed[mux][code]
			if !m.named {
				continue
			}
			action := m.always
			if action == 0 {
				action = m.denied
			}
			if action == 0 && c.opt.TrustSocketcall {
				action = m.passed
			}
			// What keeps a call from happening counts even if the multiplexer as a whole is allowed.
			pinned := !c.opt.TrustSocketcall && !passes(c.actions[action])
			// Beside a verdict for the whole multiplexer only what is pinned counts, and the default needs no clause
			// if there is nothing to keep from it.
			if whole > 0 && (!pinned || slot(action) == whole) || action == 0 && (whole == 0 || !pinned) {
				continue
			}
			c.clauses = append(c.clauses, clause{
				conds:  []cond{{op: opMasked, mask: multiplexers[mux].mask, value: uint64(code)}},
				action: action,
			})
			c.appendNode(&head, node{clause: int32(len(c.clauses) - 1), narrow: true, mux: true})
		}
		switch {
		case head == 0:
		case whole > 0:
			*s = head
			c.nodes[-head].final = whole
		default:
			// Clauses for the multiplexer itself come after: they cannot say more exactly what is meant.
			if whole < 0 {
				c.join(head, int32(-whole))
			}
			*s = head
		}
	}
}
