// Package userns finds the ids that an unprivileged user may give to containers, and writes the id maps of a new user
// namespace, by newuidmap and newgidmap where there are subordinate ids, else by mapping the one id that needs
// no permission.
//
// It does not create namespaces, and does not decide who runs in one.
package userns

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	"berth/internal/errdef"
	"berth/internal/host"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Maps are the id maps of a user namespace.
type Maps struct {
	UID, GID []specs.LinuxIDMapping
	// Single says that only the user's own id is mapped; setgroups(2) is then forbidden.
	Single bool
	// Why says, when Single, what is missing for more.
	Why string
}

// Ours returns the maps for the containers of the caller: its own id as 0, its subordinate ids from 1 on.
func Ours() Maps {
	u := host.Caller()
	uid, gid := u.UID, u.GID
	m := Maps{
		UID: []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(uid), Size: 1}},
		GID: []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(gid), Size: 1}},
	}
	for _, program := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(program); err != nil {
			m.Single, m.Why = true, program+" is not installed (package uidmap)"
			return m
		}
	}
	name := strconv.Itoa(uid)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	for _, f := range []struct {
		path string
		to   *[]specs.LinuxIDMapping
	}{{"/etc/subuid", &m.UID}, {"/etc/subgid", &m.GID}} {
		ranges := subordinate(f.path, name, uid)
		if len(ranges) == 0 {
			m.UID, m.GID = m.UID[:1], m.GID[:1]
			m.Single, m.Why = true, fmt.Sprintf("%s has no range for %s", f.path, name)
			return m
		}
		next := uint32(1)
		for _, r := range ranges {
			*f.to = append(*f.to, specs.LinuxIDMapping{ContainerID: next, HostID: r.HostID, Size: r.Size})
			next += r.Size
		}
	}
	return m
}

// Same returns maps for a user namespace below that of this process, in which every id is what it is here.
func Same() (Maps, error) {
	var m Maps
	for _, f := range []struct {
		path string
		to   *[]specs.LinuxIDMapping
	}{{"/proc/self/uid_map", &m.UID}, {"/proc/self/gid_map", &m.GID}} {
		data, err := os.ReadFile(f.path)
		if err != nil {
			return m, err
		}
		for line := range strings.Lines(string(data)) {
			var here, above, size uint32
			if _, err := fmt.Sscan(line, &here, &above, &size); err != nil {
				return m, errdef.New(errdef.Corrupt, "cannot read %s: %w", f.path, err)
			}
			*f.to = append(*f.to, specs.LinuxIDMapping{ContainerID: here, HostID: here, Size: size})
		}
	}
	return m, nil
}

// KeepID are the maps that give the caller, id 0 here, the id that he has outside, and everybody else the next one that is left.
func (m Maps) KeepID(caller host.User) Maps {
	return Maps{UID: keep(m.UID, uint32(caller.UID)), GID: keep(m.GID, uint32(caller.GID)), Single: m.Single}
}

func keep(here []specs.LinuxIDMapping, id uint32) []specs.LinuxIDMapping {
	last := Count(here)
	if id >= last { // nobody else has it
		return append([]specs.LinuxIDMapping{{ContainerID: id, HostID: 0, Size: 1}}, some(0, 1, last-1)...)
	}
	all := some(0, 1, id)
	all = append(all, specs.LinuxIDMapping{ContainerID: id, HostID: 0, Size: 1})
	return append(all, some(id+1, id+1, last-id-1)...)
}

func some(first, here, size uint32) []specs.LinuxIDMapping {
	if size == 0 {
		return nil
	}
	return []specs.LinuxIDMapping{{ContainerID: first, HostID: here, Size: size}}
}

// Count is how many ids there are from 0 on without a gap.
func Count(maps []specs.LinuxIDMapping) uint32 {
	next := uint32(0)
	for more := true; more; {
		more = false
		for _, r := range maps {
			if r.ContainerID == next && r.Size > 0 {
				next, more = next+r.Size, true
			}
		}
	}
	return next
}

// Part are the maps of size ids that no other part has: taken are those of all others. It is false when there are not as many left.
func (m Maps) Part(size uint32, taken []Maps) (Maps, bool) {
	uid, ok1 := part(m.UID, size, taken, func(t Maps) []specs.LinuxIDMapping { return t.UID })
	gid, ok2 := part(m.GID, size, taken, func(t Maps) []specs.LinuxIDMapping { return t.GID })
	return Maps{UID: uid, GID: gid}, ok1 && ok2
}

func part(here []specs.LinuxIDMapping, size uint32, taken []Maps, of func(Maps) []specs.LinuxIDMapping) ([]specs.LinuxIDMapping, bool) {
	last := Count(here)
	first := uint32(1) // 0 is the caller himself
	for moved := true; moved; {
		moved = false
		for _, t := range taken {
			for _, r := range of(t) {
				if r.HostID < first+size && first < r.HostID+r.Size {
					first, moved = r.HostID+r.Size, true
				}
			}
		}
	}
	return some(0, first, size), first+size <= last
}

// User is the number here of the user id in there.
func (m Maps) User(id uint32) (uint32, bool) { return translate(m.UID, id) }

// Group is the number here of the group id in there.
func (m Maps) Group(id uint32) (uint32, bool) { return translate(m.GID, id) }

// UserOf and GroupOf are the numbers in there of a user and a group here.
func (m Maps) UserOf(id uint32) (uint32, bool) { return translateBack(m.UID, id) }

// GroupOf is UserOf for a group.
func (m Maps) GroupOf(id uint32) (uint32, bool) { return translateBack(m.GID, id) }

func translateBack(maps []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, r := range maps {
		if id >= r.HostID && id-r.HostID < r.Size {
			return r.ContainerID + id - r.HostID, true
		}
	}
	return 0, false
}

func translate(maps []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, r := range maps {
		if id >= r.ContainerID && id-r.ContainerID < r.Size {
			return r.HostID + id - r.ContainerID, true
		}
	}
	return 0, false
}

// Have reports whether there are a user and a group of these numbers in there.
func (m Maps) Have(user, group uint32) bool {
	_, ok1 := m.User(user)
	_, ok2 := m.Group(group)
	return ok1 && ok2
}

// subordinate reads the ranges of a user, by name or by number (subuid(5)).
func subordinate(path, name string, uid int) []specs.LinuxIDMapping {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var out []specs.LinuxIDMapping
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) != 3 || fields[0] != name && fields[0] != strconv.Itoa(uid) {
			continue
		}
		start, err1 := strconv.ParseUint(fields[1], 10, 32)
		size, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err1 == nil && err2 == nil && size > 0 {
			out = append(out, specs.LinuxIDMapping{HostID: uint32(start), Size: uint32(size)})
		}
	}
	return out
}

// Write writes the maps of the user namespace of process pid.
func (m Maps) Write(pid int) error {
	if m.Single || os.Geteuid() == 0 {
		if m.Single {
			// Since Linux 3.19 a group map without privilege needs this first.
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/setgroups", pid), []byte("deny"), 0); err != nil {
				return err
			}
		}
		for _, f := range []struct {
			file string
			maps []specs.LinuxIDMapping
		}{{"uid_map", m.UID}, {"gid_map", m.GID}} {
			var text strings.Builder
			for _, r := range f.maps {
				fmt.Fprintf(&text, "%d %d %d\n", r.ContainerID, r.HostID, r.Size)
			}
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, f.file), []byte(text.String()), 0); err != nil {
				return err
			}
		}
		return nil
	}
	for _, f := range []struct {
		program string
		maps    []specs.LinuxIDMapping
	}{{"newuidmap", m.UID}, {"newgidmap", m.GID}} {
		args := []string{strconv.Itoa(pid)}
		for _, r := range f.maps {
			args = append(args, fmt.Sprint(r.ContainerID), fmt.Sprint(r.HostID), fmt.Sprint(r.Size))
		}
		if out, err := exec.Command(f.program, args...).CombinedOutput(); err != nil {
			return errdef.Hint(errdef.New(errdef.Denied, "cannot map the ids of the user namespace: %s: %s: %w", f.program, bytes.TrimSpace(out), err),
				"see that /etc/subuid and /etc/subgid have a range for you, and that %s is setuid root", f.program)
		}
	}
	return nil
}
