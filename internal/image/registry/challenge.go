package registry

import "strings"

// challenge is one way in that a server offers (RFC 9110, section 11.6.1).
type challenge struct {
	scheme string            // in lower case
	params map[string]string // names in lower case
}

// parseChallenges reads the values of WWW-Authenticate headers. What cannot be understood ends the value it stands
// in: a challenge that was understood before it still counts.
func parseChallenges(values []string) []challenge {
	const most = 16 // more than anybody has reason to offer
	var all []challenge
	for _, value := range values {
		p := challengeParser{value}
		for len(all) < most {
			p.skip(", \t")
			scheme := p.token()
			if scheme == "" || p.rest != "" && p.rest[0] != ' ' && p.rest[0] != ',' {
				break
			}
			c := challenge{strings.ToLower(scheme), map[string]string{}}
			p.skipToken68()
			if !p.params(c.params) {
				break
			}
			all = append(all, c)
		}
	}
	return all
}

type challengeParser struct{ rest string }

func (p *challengeParser) skip(set string) { p.rest = strings.TrimLeft(p.rest, set) }

func (p *challengeParser) token() string {
	n := 0
	for n < len(p.rest) && isTokenByte(p.rest[n]) {
		n++
	}
	t := p.rest[:n]
	p.rest = p.rest[n:]
	return t
}

// skipToken68 passes over what "Negotiate abc==" has in the place of parameters; no scheme of ours has it.
func (p *challengeParser) skipToken68() {
	s := strings.TrimLeft(p.rest, " \t")
	n := 0
	for n < len(s) && (isTokenByte(s[n]) || s[n] == '/') {
		n++
	}
	after := strings.TrimLeft(s[n:], "=")
	if end := strings.TrimLeft(after, " \t"); n > 0 && (end == "" || end[0] == ',') {
		p.rest = end
	}
}

// params reads name=value pairs until something else comes: the next challenge's scheme, which is left unread.
func (p *challengeParser) params(into map[string]string) bool {
	for {
		p.skip(", \t")
		before := p.rest
		name := p.token()
		p.skip(" \t")
		if name == "" || !strings.HasPrefix(p.rest, "=") {
			// The scheme of another challenge, or the end. A token68 ("Negotiate abc==") ends here, too.
			p.rest = before
			return true
		}
		p.rest = p.rest[1:]
		p.skip(" \t")
		value, ok := p.value()
		if !ok {
			return false
		}
		name = strings.ToLower(name)
		if _, twice := into[name]; twice { // RFC 9110: names must not repeat; two readings are one too many
			return false
		}
		into[name] = value
	}
}

func (p *challengeParser) value() (string, bool) {
	if !strings.HasPrefix(p.rest, `"`) {
		t := p.token()
		return t, t != ""
	}
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return b.String(), true
		case c == '\\' && i+1 < len(p.rest):
			i++
			b.WriteByte(p.rest[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// isTokenByte is tchar of RFC 9110, section 5.6.2.
func isTokenByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c < 0x80 && strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
