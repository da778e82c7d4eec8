// Package errdef says what kind of failure an error is and what its reader can do about it.
//
// A kind is what callers act on: exit codes, HTTP statuses and gRPC codes each follow from it in one
// switch of the front that needs them. A hint is the next step for a person. The package holds no
// texts of its own, does not log and does not print.
package errdef

import (
	"errors"
	"fmt"
)

// Kind is the class of a failure. The zero value means that nobody has said.
type Kind uint8

// The kinds. Each comment gives the docker exit status that follows from it when it is not 1 or 125.
const (
	Unknown       Kind = iota
	Invalid            // the request cannot be understood or contradicts itself
	NotFound           // the named thing does not exist
	Conflict           // the thing exists, or is in a state that forbids the request
	Denied             // the kernel, a registry or a policy refused
	Unavailable        // somebody else does not answer: a registry, a lock's holder
	Unsupported        // this host or this version cannot do it
	Corrupt            // bytes are not what their digest, length or format says
	NoSpace            // a file system or a quota is full
	NotExecutable      // the command was found and cannot be executed (126)
	NoCommand          // the command was not found (127)
	Cancelled          // the caller gave up
)

var names = [...]string{"unknown", "invalid", "not found", "conflict", "denied", "unavailable", "unsupported", "corrupt", "no space", "not executable", "no command", "cancelled"}

func (k Kind) String() string {
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// tagged is an error that carries a kind, a hint or both.
type tagged struct {
	error
	kind Kind
	hint string
}

func (e *tagged) Unwrap() error { return e.error }

// New returns an error of kind k; format and args are fmt.Errorf's, %w included.
func New(k Kind, format string, args ...any) error {
	return &tagged{error: fmt.Errorf(format, args...), kind: k}
}

// As gives err the kind k; nil stays nil. It wins over kinds that err carries further inside.
func As(k Kind, err error) error {
	if err == nil {
		return nil
	}
	return &tagged{error: err, kind: k}
}

// Hint adds the next step for a person, a phrase that starts in lower case, to err; nil stays nil.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &tagged{error: err, hint: fmt.Sprintf(format, args...)}
}

// KindOf returns the outermost kind that err or an error it wraps carries.
func KindOf(err error) Kind {
	for {
		var t *tagged
		if !errors.As(err, &t) {
			return Unknown
		}
		if t.kind != Unknown {
			return t.kind
		}
		err = t.error
	}
}

// Is reports whether err is of kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// HintOf returns the outermost hint of err, or "".
func HintOf(err error) string {
	for {
		var t *tagged
		if !errors.As(err, &t) {
			return ""
		}
		if t.hint != "" {
			return t.hint
		}
		err = t.error
	}
}
