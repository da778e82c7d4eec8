package plan

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// InGiven is the name of the input for the i-th mount of the spec, where the parent has made it.
func InGiven(i int) string { return fmt.Sprintf("mount%d", i) }

// Prepared is a mount that a container's parent makes, because it takes more than a list of system calls or rights over the host's files.
type Prepared struct {
	// Mount is its number in the spec.
	Mount int
	// IDMap says that it is a part of the host's files, whose owners are translated as the mount's mappings, or else the container's
	// user namespace, say; Recursive and AllBelow say whether what is mounted below is taken along, and translated.
	IDMap, Recursive, AllBelow bool
	Subpath                    string
	// CopyUp says that it is a new tmpfs with what the root has in its place. Settings are its file system's own options.
	CopyUp   bool
	Settings [][2]string
}

// PreparedMounts are the mounts of a spec that need Input.Given.
func PreparedMounts(s *specs.Spec) ([]Prepared, error) {
	var all []Prepared
	for i, m := range s.Mounts {
		if len(m.UIDMappings)+len(m.GIDMappings) == 0 && !needsParent(m.Options) {
			continue
		}
		o, err := parseOptions(m)
		if err != nil {
			return nil, err
		}
		p := Prepared{Mount: i, IDMap: o.idmap, Recursive: o.recursive, AllBelow: o.idmapAll, Subpath: o.subpath, CopyUp: o.copyUp}
		for _, set := range o.settings {
			p.Settings = append(p.Settings, [2]string{set.key, set.value})
		}
		all = append(all, p)
	}
	return all, nil
}

// givenInputs declares the mounts that the parent has made as inputs.
func (c *compiler) givenInputs() {
	if c.in.Served {
		c.input(InRoot)
	}
	for i := range c.spec.Mounts {
		if c.in.Given[i] {
			c.sources[mountKey(i)] = c.input(InGiven(i))
		}
	}
}

func needsParent(options []string) bool {
	for _, o := range options {
		if o == "idmap" || o == "ridmap" || o == "tmpcopyup" {
			return true
		}
	}
	return false
}

// sysctlPath is where a sysctl is below /proc/sys. As in sysctl(8), the first separator says which one it is: in "net.ipv4.conf.eth0/1.mtu"
// the other one is a dot of a name, as in "net/ipv4/conf/eth0.1/mtu".
func sysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '/' {
		return key
	}
	return strings.NewReplacer(".", "/", "/", ".").Replace(key)
}
