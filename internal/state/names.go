package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/ident"
)

func (s Store) nameFile(name string) string { return filepath.Join(s.Data, "names", name) }

// lockNames takes the lock under which names are taken and given back. Whoever holds it sees no half-made container:
// a temporary directory, or a name without a container, is then the rest of a command that was killed.
func (s Store) lockNames() (*disk.Lock, error) {
	return disk.TakeLock(filepath.Join(s.Data, "containers.lock"))
}

// takeName makes the file of the container's name. The caller holds the lock on names.
func (s Store) takeName(c *Container, d disk.Durability) error {
	asked := c.Name != ""
	for try := 0; ; try++ {
		if !asked {
			c.Name = ident.Name(try)
		}
		err := disk.Create(s.nameFile(c.Name), []byte(c.ID), 0o600, d)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		owner, err := disk.Read(s.nameFile(c.Name))
		if err == nil && !s.owns(string(owner), c.Name) {
			if err := os.Remove(s.nameFile(c.Name)); err != nil {
				return err
			}
			continue
		}
		if asked {
			return errdef.Hint(errdef.New(errdef.Conflict, "Conflict. The container name \"/%s\" is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", c.Name, owner),
				"berth rm %s", c.Name)
		}
	}
}

// owns reports whether there is such a container and the name is its own: a rename that was cut off leaves two.
func (s Store) owns(id, name string) bool {
	if !ident.Is(id) {
		return false
	}
	c, err := s.Load(id)
	return err == nil && c.Name == name
}

// leads reports whether the file of a name says that it is the container's.
func (s Store) leads(name, id string) bool {
	owner, err := disk.Read(s.nameFile(name))
	return err == nil && string(owner) == id
}

// exists reports whether there is such a container. What a power cut has left of one that was not to outlive the boot
// is none.
func (s Store) exists(id string) bool {
	if !ident.Is(id) {
		return false
	}
	_, err := s.Load(id)
	return err == nil
}

// Rename gives a container another name.
func (s Store) Rename(c *Container, name string) error {
	names, err := s.lockNames()
	if err != nil {
		return err
	}
	defer names.Unlock()
	old := c.Name
	renamed := *c
	renamed.Name = name
	if err := s.takeName(&renamed, disk.Durable); err != nil {
		return err
	}
	// From here on two names lead to the container; the one in its config is the one that counts.
	if err := writeJSON(s.configFile(c.ID), renamed, disk.Durable); err != nil {
		return errors.Join(err, os.Remove(s.nameFile(name)))
	}
	*c = renamed
	return os.Remove(s.nameFile(old))
}

// Resolve finds a container by name, ID or the beginning of an ID.
func (s Store) Resolve(ref string) (*Container, error) {
	name := strings.TrimPrefix(ref, "/")
	if container.CheckName(name) == nil {
		id, err := disk.Read(s.nameFile(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil && s.owns(string(id), name) {
			return s.Load(string(id))
		}
	}
	if ident.Is(ref) {
		if s.exists(ref) && len(ref) == 64 {
			return s.Load(ref)
		}
		ids, err := s.IDs()
		if err != nil {
			return nil, err
		}
		var found string
		for _, id := range ids {
			if strings.HasPrefix(id, ref) {
				if found != "" {
					return nil, errdef.New(errdef.Invalid, "multiple IDs found with provided prefix: %s", ref)
				}
				found = id
			}
		}
		if found != "" && s.exists(found) {
			return s.Load(found)
		}
	}
	return nil, errdef.Hint(errdef.New(errdef.NotFound, "No such container: %s", ref), "berth ps -a lists the containers")
}
