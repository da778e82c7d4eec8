// Package etcfiles decides what a container finds in /etc/hosts and /etc/resolv.conf: docker's texts, from the host's
// files and the options given.
//
// It writes nothing, knows no network's addresses but those it is told, and answers no queries (network/dns does).
// Whatever comes from an option or an image is checked to be one word, so that a line feed in a host name cannot become a
// line of its own.
package etcfiles

import (
	"errors"
	"io/fs"
	"strings"
	"unicode/utf8"

	"berth/internal/disk"
	"berth/internal/errdef"

	"golang.org/x/sys/unix"
)

// The host's files.
const (
	HostsPath      = "/etc/hosts"
	ResolvConfPath = "/etc/resolv.conf"
	// ResolvedPath is where systemd-resolved writes the servers that it asks itself.
	ResolvedPath = "/run/systemd/resolve/resolv.conf"
)

// The most that is read of the host's files. Lists of blocked names in /etc/hosts have some ten megabytes.
const (
	HostsLimit      = 16 << 20
	ResolvConfLimit = 64 << 10
)

// Read returns a file of the host's of at most limit bytes, or nothing if there is none, as docker takes it.
func Read(path string, limit int64) ([]byte, error) {
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(root) }()
	data, err := disk.ReadBounded(root, path, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// word refuses what would be more than one word of a file of /etc, or nothing, or a comment.
func word(what, s string) error {
	if s == "" || len(s) > 255 || !utf8.ValidString(s) {
		return errdef.New(errdef.Invalid, "%s %q is empty, too long or no text", what, s)
	}
	bad := func(r rune) bool {
		// Space and what controls a terminal, in ASCII and behind it; the two separators are line ends to some readers.
		return r <= ' ' || r >= 0x7f && r <= 0xa0 || r == '#' || r == ';' || r == 0x2028 || r == 0x2029
	}
	if strings.IndexFunc(s, bad) >= 0 {
		return errdef.New(errdef.Invalid, "%s %q has a space, a control character or a comment in it", what, s)
	}
	return nil
}
