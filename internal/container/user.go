package container

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	"berth/internal/errdef"

	"github.com/moby/sys/user"
)

// User is who a process runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32
	Home     string
}

// LookupUser finds who spec ("user", "uid", "user:group", …; empty is root) and the further groups are, by the passwd and
// group files of the container, which may be missing (nil). Numbers need no entry there; names do.
func LookupUser(spec string, more []string, passwd, group []byte) (User, error) {
	if name, grp, has := strings.Cut(spec, ":"); has && (name == "" || grp == "") {
		return User{}, errdef.New(errdef.Invalid, "invalid user %q: it is USER[:GROUP]", spec)
	}
	for part := range strings.SplitSeq(spec, ":") {
		// A number too large for an id must not be cut to a smaller one (crun CVE-2026-30892).
		if part != "" && strings.Trim(part, "0123456789") == "" {
			if n, err := strconv.ParseUint(part, 10, 64); err != nil || n > math.MaxInt32 {
				return User{}, errdef.New(errdef.Invalid, "invalid user %q: %s is no id", spec, part)
			}
		}
	}
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return User{}, errdef.New(errdef.Invalid, "cannot find the user %q: %v", spec, err)
	}
	out := User{UID: uint32(u.Uid), GID: uint32(u.Gid), Home: u.Home}
	if out.Home == "" {
		out.Home = "/"
	}
	add := func(gid int) {
		for _, have := range out.Groups {
			if have == uint32(gid) {
				return
			}
		}
		out.Groups = append(out.Groups, uint32(gid))
	}
	add(u.Gid)
	for _, gid := range u.Sgids {
		add(gid)
	}
	if len(more) > 0 {
		gids, err := user.GetAdditionalGroups(more, bytes.NewReader(group))
		if err != nil {
			return User{}, errdef.New(errdef.Invalid, "cannot find the group: %v", err)
		}
		for _, gid := range gids {
			add(gid)
		}
	}
	return out, nil
}
