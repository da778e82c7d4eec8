package container

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"strings"

	"berth/internal/errdef"
)

// User is who a process runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32
	Home     string
}

// LookupUser finds who spec ("user", "uid", "user:group", …; empty is root) and the further groups are, by the passwd and
// group files of the container, which may be missing (nil). Numbers need no entry there; names do.
//
// It is strict where a number decides who somebody is: an id is decimal digits up to 2^31-1, as docker has it, and never
// cut (crun CVE-2026-30892). Entries of the files whose ids are anything else do not count.
func LookupUser(spec string, more []string, passwd, group []byte) (User, error) {
	who, grp, has := strings.Cut(spec, ":")
	if has && (who == "" || grp == "" || strings.Contains(grp, ":")) {
		return User{}, errdef.New(errdef.Invalid, "invalid user %q: it is USER[:GROUP]", spec)
	}
	if who == "" {
		who = "0"
	}
	out := User{Home: "/"}
	entry, known := findUser(passwd, who)
	switch id, numeric, err := parseID(who); {
	case err != nil:
		return User{}, errdef.New(errdef.Invalid, "invalid user %q: %w", spec, err)
	case known:
		out.UID, out.GID = entry.uid, entry.gid
		if entry.home != "" {
			out.Home = entry.home
		}
	case numeric:
		out.UID = id
	default:
		return User{}, errdef.New(errdef.Invalid, "cannot find the user %q: unable to find user %s: no matching entries in passwd file", spec, who)
	}
	if has {
		gid, err := findGroup(group, grp)
		if err != nil {
			return User{}, errdef.New(errdef.Invalid, "cannot find the user %q: %w", spec, err)
		}
		out.GID = gid
	}
	out.add(out.GID)
	if known && !has {
		eachGroup(group, func(_ string, gid uint32, members string) bool {
			if slices.Contains(strings.Split(members, ","), entry.name) {
				out.add(gid)
			}
			return true
		})
	}
	for _, name := range more {
		if name == KeepGroups {
			continue // they are not known by number in there
		}
		gid, err := findGroup(group, name)
		if err != nil {
			return User{}, errdef.New(errdef.Invalid, "cannot find the group: %w", err)
		}
		out.add(gid)
	}
	return out, nil
}

func (u *User) add(gid uint32) {
	if !slices.Contains(u.Groups, gid) {
		u.Groups = append(u.Groups, gid)
	}
}

// parseID reads an id, and reports whether s is meant as one: digits are an id whatever names there are.
func parseID(s string) (id uint32, numeric bool, _ error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > math.MaxInt32 {
		return 0, false, errdef.New(errdef.Invalid, "uids and gids must be in range 0-%d, and %s is not", math.MaxInt32, s)
	}
	return uint32(n), true, nil
}

// An account is an entry of passwd(5).
type account struct {
	name     string
	uid, gid uint32
	home     string
}

// findUser finds the first entry of a name or an id.
func findUser(passwd []byte, who string) (account, bool) {
	id, numeric, _ := parseID(who)
	for line := range bytes.Lines(passwd) {
		f := strings.Split(strings.TrimSpace(string(line)), ":")
		if len(f) < 4 {
			continue
		}
		uid, isUID, _ := parseID(f[2])
		gid, isGID, _ := parseID(f[3])
		if !isUID || !isGID || numeric && uid != id || !numeric && f[0] != who {
			continue
		}
		a := account{name: f[0], uid: uid, gid: gid}
		if len(f) > 5 {
			a.home = f[5]
		}
		return a, true
	}
	return account{}, false
}

// findGroup finds a group by its name or id; an id needs no entry.
func findGroup(group []byte, name string) (uint32, error) {
	id, numeric, err := parseID(name)
	if err != nil || numeric {
		return id, err
	}
	found := false
	eachGroup(group, func(have string, gid uint32, _ string) bool {
		id, found = gid, have == name
		return !found
	})
	if !found {
		return 0, errdef.New(errdef.Invalid, "unable to find group %s: no matching entries in group file", name)
	}
	return id, nil
}

// eachGroup gives the entries of group(5) to f until it returns false.
func eachGroup(group []byte, f func(name string, gid uint32, members string) bool) {
	for line := range bytes.Lines(group) {
		fields := strings.Split(strings.TrimSpace(string(line)), ":")
		if len(fields) < 3 {
			continue
		}
		gid, ok, _ := parseID(fields[2])
		if !ok {
			continue
		}
		members := ""
		if len(fields) > 3 {
			members = fields[3]
		}
		if !f(fields[0], gid, members) {
			return
		}
	}
}
