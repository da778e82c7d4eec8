package plan

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Print writes a program as text, an operation a line, in the style of strace: what is called, with which arguments,
// what the result is kept as, which failures are none, what it is for and where it comes from.
func (p *Program) Print(w io.Writer) error {
	if p.CloneFlags != 0 {
		if _, err := fmt.Fprintf(w, "clone3(%s)\n", namespaceFlags(uint64(p.CloneFlags))); err != nil {
			return err
		}
	}
	for i := range p.Ops {
		if _, err := fmt.Fprintf(w, "%4d  %s\n", i, p.line(i)); err != nil {
			return err
		}
	}
	return nil
}

func (p *Program) line(i int) string {
	op := &p.Ops[i]
	var b strings.Builder
	b.WriteString(op.Call.Name)
	switch op.Special {
	case Reset:
		b.WriteString("(1..64, SIG_DFL)")
	case CloseAll:
		b.WriteString("(" + p.arg(op.Args[0]) + ", ~0) but for report")
		for _, a := range op.Args[1:] {
			b.WriteString(", " + p.arg(a))
		}
	case Expect:
		fmt.Fprintf(&b, " must begin with %s", p.arg(op.Args[1]))
	case SendFD:
		fmt.Fprintf(&b, "(%s, SCM_RIGHTS %s)", p.arg(op.Args[0]), p.arg(op.Args[1]))
	default:
		args := make([]string, len(op.Args))
		for i, a := range op.Args {
			args[i] = p.arg(a)
		}
		b.WriteString("(" + strings.Join(args, ", ") + ")")
	}
	if op.Save != NoSlot {
		b.WriteString(" = " + p.slotName(op.Save))
	}
	for _, e := range op.Tolerate {
		b.WriteString(" or " + unix.ErrnoName(e))
	}
	if op.SkipOK > 0 {
		fmt.Fprintf(&b, "; then to %d", i+1+op.SkipOK)
	}
	if op.SkipTolerated > 0 {
		fmt.Fprintf(&b, "; else to %d", i+1+op.SkipTolerated)
	}
	b.WriteString("  # " + op.What)
	if op.Origin != "" {
		b.WriteString("  <- " + op.Origin)
	}
	return b.String()
}

func (p *Program) slotName(s Slot) string {
	return p.SlotNames[s-1] + "$" + strconv.Itoa(int(s))
}

func (p *Program) arg(a Arg) string {
	switch a := a.(type) {
	case Int:
		if a.Text != "" {
			return a.Text
		}
		return strconv.FormatInt(int64(a.V), 10)
	case Str:
		return strconv.Quote(string(a))
	case Ref:
		return p.slotName(Slot(a))
	case Bytes:
		if a.Text != "" {
			return a.Text
		}
		return strconv.Quote(string(a.B))
	case Out:
		return fmt.Sprintf("buffer$%d", a.ID)
	case Strings:
		quoted := make([]string, len(a))
		for i, s := range a {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case Filter:
		return "{" + a.Text + "}"
	}
	return "?"
}
