package engine

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/image/merged"
	"berth/internal/runtime/userns"
	"berth/internal/state"
	"berth/internal/storage"
)

// chooseIDs gives a container the ids that --userns asks for. Its files are then not the image's own but copies, which have other
// owners: the kernel lets only root show a tree with other owners than it has (mount_setattr(2), MOUNT_ATTR_IDMAP). asOneself says that
// the caller has not said whom the container is to run as.
//
// The lock keeps others from choosing the same.
func (e *Engine) chooseIDs(c *state.Container, asOneself bool) (_ *disk.Lock, err error) {
	mode := c.Config.UserNS
	if mode == "" || mode == container.UserNSHost {
		return nil, nil
	}
	if !e.Host().Rootless {
		return nil, errdef.Hint(errdef.New(errdef.Unsupported, "--userns=%s is for users without root", mode), "run berth as the user whose containers these are to be")
	}
	lock, err := disk.TakeLock(filepath.Join(e.Settings.DataRoot, "ids.lock"))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Unlock()
		}
	}()
	same, err := userns.Same()
	if err != nil {
		return nil, err
	}
	if userns.Count(same.UID) < 2 || userns.Count(same.GID) < 2 {
		return nil, errdef.Hint(errdef.New(errdef.Unsupported, "--userns=%s needs more than one id, for the container's root beside its user", mode),
			"berth system check says how to get subordinate ids")
	}
	var maps userns.Maps
	if mode == container.UserNSKeepID {
		caller := host.Caller()
		maps = same.KeepID(caller)
		if asOneself {
			c.Config.User = fmt.Sprintf("%d:%d", caller.UID, caller.GID)
		}
	} else if maps, err = e.ownIDs(c, same); err != nil {
		return nil, err
	}
	c.UIDMaps, c.GIDMaps, c.Driver = maps.UID, maps.GID, storage.VFS
	return lock, nil
}

// leastIDs is how many ids a container of --userns=auto has at least; podman's number.
const leastIDs = 1024

// ownIDs are as many ids as the image knows users and groups, which no other container of its kind has.
func (e *Engine) ownIDs(c *state.Container, same userns.Maps) (userns.Maps, error) {
	layers, err := e.Images.Layers.Stack(c.Image.ChainIDs)
	if err != nil {
		return userns.Maps{}, err
	}
	size := uint32(leastIDs)
	for _, file := range []string{"etc/passwd", "etc/group"} {
		if data, err := merged.ReadFile(layers, file, 4<<20); err == nil {
			size = max(size, highestID(data)+1)
		}
	}
	others, err := e.Containers.List()
	if err != nil {
		return userns.Maps{}, err
	}
	var taken []userns.Maps
	for _, o := range others {
		if o.Config.UserNS == container.UserNSAuto {
			taken = append(taken, userns.Maps{UID: o.UIDMaps, GID: o.GIDMaps})
		}
	}
	maps, ok := same.Part(size, taken)
	if !ok {
		return maps, errdef.Hint(errdef.New(errdef.Conflict, "cannot give the container %d ids that no other one has: %d containers have had theirs of %d", size, len(taken), userns.Count(same.UID)),
			"remove containers made with --userns=auto, or have the ranges in /etc/subuid and /etc/subgid enlarged")
	}
	return maps, nil
}

// highestID is the highest number in the third field of passwd(5) or group(5), without that of nobody.
func highestID(file []byte) uint32 {
	const nobody = 65534
	highest := uint32(0)
	for line := range bytes.Lines(file) {
		fields := bytes.Split(bytes.TrimSpace(line), []byte(":"))
		if len(fields) < 3 {
			continue
		}
		if id, err := strconv.ParseUint(string(fields[2]), 10, 16); err == nil && id != nobody && id != nobody+1 {
			highest = max(highest, uint32(id))
		}
	}
	return highest
}
