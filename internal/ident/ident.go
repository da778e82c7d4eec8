// Package ident makes the IDs and the names of things.
//
// It does not know what exists: whether a name is taken, and which thing the beginning of an ID means, is said by
// whoever keeps the things.
package ident

import (
	"crypto/rand"
	"encoding/hex"
)

// ShortLength is how many digits of an ID are shown.
const ShortLength = 12

// New returns an ID: 64 hexadecimal digits of chance. The first twelve are never all decimal, since a short ID is also
// a host name, and a host name of digits alone would be taken for an address.
func New() string {
	for {
		var b [32]byte
		_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
		id := hex.EncodeToString(b[:])
		for _, c := range id[:ShortLength] {
			if c >= 'a' {
				return id
			}
		}
	}
}

// Short is the beginning of an ID as it is shown.
func Short(id string) string { return id[:min(ShortLength, len(id))] }

// Is reports whether s could be an ID or the beginning of one.
func Is(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

var moods = [...]string{
	"amber", "brave", "brisk", "calm", "clear", "crisp", "deep", "eager", "early", "fair", "fleet", "fresh", "gentle", "glad", "grand",
	"hardy", "keen", "kind", "light", "lively", "loyal", "mellow", "merry", "neat", "noble", "proud", "quick", "quiet", "ready", "sharp",
	"silent", "sleek", "smart", "snug", "solid", "sound", "steady", "stout", "sunny", "swift", "tidy", "trim", "true", "vivid", "warm", "wise",
}

var vessels = [...]string{
	"ark", "barge", "bark", "brig", "canoe", "caravel", "catboat", "clipper", "coaster", "cog", "coracle", "corvette", "cutter", "dhow",
	"dinghy", "dory", "ferry", "frigate", "galleon", "galley", "gig", "junk", "kayak", "ketch", "launch", "lighter", "lugger", "packet",
	"pinnace", "pontoon", "pram", "proa", "punt", "raft", "sampan", "schooner", "scow", "skiff", "sloop", "smack", "tender", "tug", "whaler", "yawl",
}

// Name returns a name that is easy to remember: a mood and a vessel. From the third try on it has a number, too.
func Name(try int) string {
	var b [4]byte
	_, _ = rand.Read(b[:])
	name := moods[int(b[0])%len(moods)] + "_" + vessels[int(b[1])%len(vessels)]
	if try > 1 {
		name += hex.EncodeToString(b[2:])
	}
	return name
}
