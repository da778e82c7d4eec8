package lifecycle

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"

	"berth/internal/image/merged"
	"berth/internal/runtime/plan"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// generated are the files that nearly every container has bound over its image's: what is asked of them is asked at every start.
var generated = []string{"/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}

// settleTargets takes bind mounts to where their destinations lead, if that is by links of the image to what is not there, such as an
// /etc/resolv.conf that is a link into a /run of the image's own host: the process that makes them opens a place, or makes it, and cannot
// make what a link names. It is a name alone that changes; where that leads is looked up again, beneath the root.
func settleTargets(in *Input) {
	if in.Served { // its files are another program's
		return
	}
	layers := []string{in.Spec.Root.Path}
	if o := in.Overlay; o != nil {
		layers = o.Lower
		if o.Upper != "" {
			layers = append([]string{o.Upper}, layers...)
		}
	}
	var mounts []specs.Mount
	for i, m := range in.Spec.Mounts {
		bound := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
		if !bound || m.Destination == plan.ShmPath || slices.Contains(generated, m.Destination) && !linked(layers, m.Destination) {
			continue
		}
		found, err := merged.Resolve(layers, m.Destination, true)
		to := path.Join("/", found.Path)
		if err != nil || found.Kind != 0 || to == path.Clean(m.Destination) {
			continue // what stands in the way is said when it is mounted
		}
		if mounts == nil {
			mounts, in.Origins = slices.Clone(in.Spec.Mounts), maps.Clone(in.Origins)
		}
		if from, has := in.Origins["mount "+m.Destination]; has {
			in.Origins["mount "+to] = from
		}
		mounts[i].Destination = to
	}
	if mounts != nil {
		s := *in.Spec
		s.Mounts = mounts
		in.Spec = &s
	}
}

// linked reports whether a layer has a link of that name.
func linked(layers []string, name string) bool {
	return slices.ContainsFunc(layers, func(dir string) bool {
		st, err := os.Lstat(filepath.Join(dir, name))
		return err == nil && st.Mode()&os.ModeSymlink != 0
	})
}
