package build

import (
	"strconv"
	"strings"

	"berth/internal/errdef"
)

// parseMode reads --chmod: an octal number, or clauses as of chmod(1), "u=rwX,go-w". Empty changes nothing.
func parseMode(s string) (func(old uint32, dir bool) uint32, error) {
	if s == "" {
		return nil, nil
	}
	invalid := errdef.New(errdef.Invalid, "invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", s)
	if s[0] >= '0' && s[0] <= '9' {
		n, err := strconv.ParseUint(s, 8, 32)
		if err != nil || n > 0o7777 {
			return nil, invalid
		}
		return func(uint32, bool) uint32 { return uint32(n) }, nil
	}
	var clauses []clause
	for text := range strings.SplitSeq(s, ",") {
		who := strings.IndexFunc(text, func(r rune) bool { return !strings.ContainsRune("ugoa", r) })
		if who < 0 {
			return nil, invalid
		}
		for rest := text[who:]; ; {
			if rest == "" || !strings.ContainsRune("+-=", rune(rest[0])) {
				return nil, invalid
			}
			end := strings.IndexAny(rest[1:], "+-=") + 1
			if end == 0 {
				end = len(rest)
			}
			c := clause{who: text[:who], op: rest[0], what: rest[1:end]}
			if strings.Trim(c.what, "rwxXstugo") != "" {
				return nil, invalid
			}
			clauses = append(clauses, c)
			if rest = rest[end:]; rest == "" {
				break
			}
		}
	}
	return func(mode uint32, dir bool) uint32 {
		for _, c := range clauses {
			mode = c.apply(mode, dir)
		}
		return mode
	}, nil
}

// clause is one of chmod's, "go-w".
type clause struct {
	who, what string
	op        byte
}

func (c clause) apply(mode uint32, dir bool) uint32 {
	who := c.who
	if who == "" || strings.Contains(who, "a") {
		who = "ugo"
	}
	var bits, mask uint32
	for _, w := range who {
		shift, special := uint32(0), uint32(0)
		switch w {
		case 'u':
			shift, special = 6, 0o4000
		case 'g':
			shift, special = 3, 0o2000
		}
		mask |= 0o7<<shift | special
		for _, x := range c.what {
			switch x {
			case 'r':
				bits |= 4 << shift
			case 'w':
				bits |= 2 << shift
			case 'x':
				bits |= 1 << shift
			case 'X':
				if dir || mode&0o111 != 0 {
					bits |= 1 << shift
				}
			case 's':
				bits |= special
			case 'u':
				bits |= mode >> 6 & 7 << shift
			case 'g':
				bits |= mode >> 3 & 7 << shift
			case 'o':
				bits |= mode & 7 << shift
			}
		}
	}
	if strings.Contains(c.what, "t") {
		bits |= 0o1000
		mask |= 0o1000
	}
	switch c.op {
	case '+':
		return mode | bits
	case '-':
		return mode &^ bits
	}
	if dir {
		mask &^= 0o6000 // chmod(1) leaves them to a directory unless they are named
		mask |= bits & 0o6000
	}
	return mode&^mask | bits
}
