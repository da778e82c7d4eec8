package container

import (
	"encoding/csv"
	"math/big"
	"path"
	"slices"
	"strconv"
	"strings"

	"berth/internal/errdef"

	"github.com/docker/go-units"
)

func cleanTarget(target string) string { return path.Clean("/" + target) }

// ParseVolume reads docker's -v: [SOURCE:]TARGET[:OPTIONS]. A source that begins with "/" or "." is a path of the host,
// relative to dir; any other is the name of a volume.
func ParseVolume(s, dir string) (Mount, error) {
	invalid := func(why string) (Mount, error) {
		return Mount{}, errdef.New(errdef.Invalid, "invalid volume specification %q: %s", s, why)
	}
	m := Mount{Type: MountVolume, Origin: "-v " + s}
	parts := strings.Split(s, ":")
	var options string
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2:
		// "/a:ro" is docker's path "ro", too; so only two paths or a name and a path.
		m.Source, m.Target = parts[0], parts[1]
	case 3:
		m.Source, m.Target, options = parts[0], parts[1], parts[2]
	default:
		return invalid("too many colons")
	}
	if len(parts) > 1 && m.Source == "" {
		return invalid("empty source")
	}
	if !path.IsAbs(m.Target) {
		return invalid("the path in the container must be absolute")
	}
	if m.Target = path.Clean(m.Target); m.Target == "/" {
		return invalid("the container's root cannot be a mount")
	}
	switch {
	case m.Source == "":
		m.Anonymous = true
	case m.Source == "~" || strings.HasPrefix(m.Source, "~/"):
		return invalid("the shell did not expand ~")
	case strings.HasPrefix(m.Source, "/"):
		m.Type, m.Source, m.MakeSource = MountBind, path.Clean(m.Source), true
	case m.Source == "." || m.Source == ".." || strings.HasPrefix(m.Source, "./") || strings.HasPrefix(m.Source, "../"):
		m.Type, m.Source, m.MakeSource = MountBind, path.Join(dir, m.Source), true
	default:
		if err := CheckVolumeName(m.Source); err != nil {
			return Mount{}, err
		}
	}
	if options == "" {
		return m, nil
	}
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "ro":
			m.ReadOnly = true
		case "rw", "z", "Z": // z and Z relabel for SELinux, where there is one
		case "cached", "delegated", "consistent": // on a Mac
		case "U":
			m.Own = true
		case "nocopy":
			if m.Type != MountVolume {
				return invalid("nocopy goes with a volume")
			}
			m.NoCopy = true
		case "private", "rprivate", "shared", "rshared", "slave", "rslave":
			if m.Type != MountBind {
				return invalid("only a bind mount has a propagation")
			}
			m.Propagation = option
		case "rbind", "bind":
			if m.Type != MountBind {
				return invalid(option + " goes with a path of the host")
			}
			m.NoRecursive = option == "bind"
		default:
			ids, is := strings.CutPrefix(option, "idmap")
			if !is || ids != "" && ids[0] != '=' {
				return invalid("invalid mode: " + option)
			}
			var err error
			if m.IDMap, err = parseIDMap(strings.TrimPrefix(ids, "=")); err != nil {
				return Mount{}, err
			}
		}
	}
	return m, nil
}

// parseIDMap reads podman's value of idmap: uids=FROM-TO-COUNT[#FROM-TO-COUNT...];gids=..., of which the one that is missing is as the other.
func parseIDMap(s string) (*IDMap, error) {
	if s == "" {
		return nil, errdef.Hint(errdef.New(errdef.Unsupported, "cannot map the ids of a mount: containers of root have no user namespace that would say how, and without root the kernel does not let you"),
			"say which owners are to be which: idmap=uids=0-1000-1;gids=0-1000-1 shows root's files as those of 1000; :U gives the source to the container's user")
	}
	invalid := func() (*IDMap, error) {
		return nil, errdef.New(errdef.Invalid, "invalid idmap %q: it is uids=FROM-TO-COUNT;gids=FROM-TO-COUNT, with # between several", s)
	}
	var m IDMap
	for part := range strings.SplitSeq(s, ";") {
		what, text, _ := strings.Cut(part, "=")
		ranges := map[string]*[]IDRange{"uids": &m.Users, "gids": &m.Groups}[what]
		if ranges == nil || *ranges != nil {
			return invalid()
		}
		for triple := range strings.SplitSeq(text, "#") {
			var n [3]uint32
			fields := strings.Split(triple, "-")
			if len(fields) != len(n) {
				return invalid()
			}
			for i, field := range fields {
				v, err := strconv.ParseUint(field, 10, 32)
				if err != nil {
					return invalid()
				}
				n[i] = uint32(v)
			}
			r := IDRange{n[0], n[1], n[2]}
			if r.Count == 0 || r.From+r.Count < r.From || r.To+r.Count < r.To {
				return invalid()
			}
			*ranges = append(*ranges, r)
		}
	}
	if m.Users == nil {
		m.Users = m.Groups
	}
	if m.Groups == nil {
		m.Groups = m.Users
	}
	return &m, nil
}

// CheckVolumeName reports whether name can be a volume's: docker's [a-zA-Z0-9][a-zA-Z0-9_.-]+.
func CheckVolumeName(name string) error { return checkName("volume", name) }

// CheckName reports whether name can be a container's.
func CheckName(name string) error { return checkName("container", name) }

func checkName(what, name string) error {
	ok := len(name) > 1 && len(name) <= 255
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = ok && (letter || i > 0 && (c == '_' || c == '.' || c == '-'))
	}
	if !ok {
		return errdef.New(errdef.Invalid, "Invalid %s name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", what, name)
	}
	return nil
}

// ParseMount reads docker's --mount: comma-separated key=value pairs, quoted as CSV. dir is for relative sources.
func ParseMount(s, dir string) (Mount, error) {
	invalid := func(format string, args ...any) (Mount, error) {
		return Mount{}, errdef.New(errdef.Invalid, format, args...)
	}
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return invalid("invalid mount %q: %v", s, err)
	}
	m := Mount{Type: MountVolume, Origin: "--mount " + s}
	volumeOnly, writable, subpathOf, recursive := false, false, "", ""
	for _, field := range fields {
		key, value, has := strings.Cut(field, "=")
		key = strings.ToLower(key)
		boolean := func() (bool, error) {
			if !has {
				return true, nil
			}
			return strconv.ParseBool(value)
		}
		var err error
		switch key {
		case "type":
			m.Type = MountType(strings.ToLower(value))
		case "source", "src":
			m.Source = value
		case "target", "dst", "destination":
			m.Target = value
		case "readonly", "ro":
			m.ReadOnly, err = boolean()
			writable = !m.ReadOnly
		case "volume-nocopy":
			m.NoCopy, err = boolean()
		case "bind-propagation":
			m.Propagation = value
		case "bind-nonrecursive":
			m.NoRecursive, err = boolean()
		case "bind-recursive":
			recursive = value
			switch value {
			case "enabled", "readonly":
			case "writable":
				m.WritableBelow = true
			case "disabled":
				m.NoRecursive = true
			default:
				return invalid("invalid value for bind-recursive: %s", value)
			}
		case "bind-create-src":
			m.MakeSource, err = boolean()
		case "consistency": // on a Mac
			switch value {
			case "default", "consistent", "cached", "delegated":
			default:
				return invalid("invalid value for consistency: %s", value)
			}
		case "volume-subpath", "image-subpath":
			of := strings.TrimSuffix(key, "-subpath")
			if value == "" || path.IsAbs(value) || slices.Contains(strings.Split(value, "/"), "..") {
				return invalid("invalid value for %s: %q leads out of the %s", key, value, of)
			}
			m.Subpath, subpathOf = path.Clean(value), of
		case "volume-driver":
			if value != "local" {
				return invalid("volume driver %q not found: there is only local", value)
			}
			volumeOnly = true
		case "volume-opt":
			k, v, has := strings.Cut(value, "=")
			if !has {
				return invalid("invalid volume option %q: it is KEY=VALUE", value)
			}
			if m.VolumeOptions == nil {
				m.VolumeOptions = map[string]string{}
			}
			m.VolumeOptions[k] = v
		case "u", "chown":
			m.Own, err = boolean()
		case "idmap":
			if m.IDMap, err = parseIDMap(value); err != nil {
				return Mount{}, err
			}
		case "volume-label":
			if m.Labels == nil {
				m.Labels = map[string]string{}
			}
			k, v, _ := strings.Cut(value, "=")
			m.Labels[k] = v
		case "tmpfs-size":
			m.TmpfsBytes, err = units.RAMInBytes(value)
		case "tmpfs-mode":
			mode, e := strconv.ParseUint(value, 8, 32)
			err = e
			mode32 := uint32(mode)
			m.TmpfsMode = &mode32
		default:
			if !has {
				return invalid("invalid field '%s' must be a key=value pair", field)
			}
			return invalid("unexpected key '%s' in '%s'", key, field)
		}
		if err != nil {
			return invalid("invalid value for %s: %s", key, value)
		}
	}
	switch m.Type {
	case MountBind:
		if m.Source == "" {
			return invalid("field Source must not be empty")
		}
		if !path.IsAbs(m.Source) {
			m.Source = path.Join(dir, m.Source)
		}
		m.Source = path.Clean(m.Source)
		switch m.Propagation {
		case "", "private", "rprivate", "shared", "rshared", "slave", "rslave":
		default:
			return invalid("invalid propagation %q", m.Propagation)
		}
	case MountVolume:
		if m.Source != "" {
			if err := CheckVolumeName(m.Source); err != nil {
				return Mount{}, err
			}
		}
		m.Anonymous = m.Source == ""
	case MountTmpfs:
		if m.Source != "" {
			return invalid("a tmpfs has no source")
		}
	case MountImage:
		switch {
		case m.Source == "":
			return invalid("an image mount needs a source, the name of the image")
		case writable:
			return invalid("an image is mounted read-only")
		}
		m.ReadOnly = true
	default:
		return invalid("mount type unknown: %q; bind, volume, image and tmpfs are known", m.Type)
	}
	switch {
	case m.Target == "":
		return invalid("target is required")
	case !path.IsAbs(m.Target):
		return invalid("the target %q must be an absolute path", m.Target)
	case path.Clean(m.Target) == "/":
		return invalid("the container's root cannot be a mount")
	case m.Type != MountTmpfs && (m.TmpfsBytes != 0 || m.TmpfsMode != nil):
		return invalid("tmpfs options go with type=tmpfs")
	case m.Type != MountBind && (m.Propagation != "" || m.NoRecursive || m.MakeSource || recursive != ""):
		return invalid("bind options go with type=bind")
	case (recursive == "writable" || recursive == "readonly") && !m.ReadOnly:
		return invalid("option 'bind-recursive=%s' requires 'readonly' to be specified in conjunction", recursive)
	case recursive == "readonly" && m.Propagation != "rprivate":
		return invalid("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction")
	case m.Type == MountTmpfs && m.Own:
		return invalid("only what is there already can be given to the container's user")
	case m.Type == MountImage && m.Own:
		return invalid("the files of an image cannot be given to the container's user")
	case m.IDMap != nil && m.Type != MountBind && m.Type != MountVolume:
		return invalid("idmap goes with type=bind or type=volume")
	case subpathOf != "" && subpathOf != string(m.Type):
		return invalid("%s-subpath goes with type=%s", subpathOf, subpathOf)
	case m.Type != MountVolume && (m.NoCopy || m.Labels != nil || m.VolumeOptions != nil || volumeOnly):
		return invalid("volume options go with type=volume")
	}
	m.Target = path.Clean(m.Target)
	return m, nil
}

// ParseTmpfs reads docker's --tmpfs: TARGET[:OPTIONS], options as mount(8) takes them.
func ParseTmpfs(s string) (Mount, error) {
	target, options, _ := strings.Cut(s, ":")
	if !path.IsAbs(target) || path.Clean(target) == "/" {
		return Mount{}, errdef.New(errdef.Invalid, "invalid tmpfs %q: it needs an absolute path that is not /", s)
	}
	m := Mount{Type: MountTmpfs, Target: path.Clean(target), Origin: "--tmpfs " + s}
	if options == "" {
		return m, nil
	}
	for option := range strings.SplitSeq(options, ",") {
		key, value, has := strings.Cut(option, "=")
		switch key {
		case "size":
			n, err := units.RAMInBytes(value)
			if err != nil || n <= 0 {
				return Mount{}, errdef.New(errdef.Invalid, "invalid tmpfs %q: invalid size %q", s, value)
			}
			m.TmpfsBytes = n
		case "mode":
			n, err := strconv.ParseUint(value, 8, 32)
			if err != nil {
				return Mount{}, errdef.New(errdef.Invalid, "invalid tmpfs %q: invalid mode %q", s, value)
			}
			mode := uint32(n)
			m.TmpfsMode = &mode
		case "ro":
			m.ReadOnly = true
		case "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "noatime", "relatime", "strictatime", "nodiratime", "diratime", "sync", "dirsync":
			m.Options = append(m.Options, option)
		case "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge":
			if !has || value == "" {
				return Mount{}, errdef.New(errdef.Invalid, "invalid tmpfs %q: %s needs a value", s, key)
			}
			m.Options = append(m.Options, option)
		default:
			return Mount{}, errdef.New(errdef.Invalid, "invalid tmpfs option [%q]", option)
		}
	}
	return m, nil
}

// ParseRestart reads docker's --restart: no, always, unless-stopped, on-failure[:N].
func ParseRestart(s string) (RestartPolicy, error) {
	name, count, has := strings.Cut(s, ":")
	p := RestartPolicy{Name: name}
	switch name {
	case "", RestartNo:
		p.Name = ""
	case RestartAlways, RestartUnlessStopped, RestartOnFailure:
	default:
		return p, errdef.New(errdef.Invalid, "invalid restart policy: unknown policy '%s'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'", name)
	}
	if !has {
		return p, nil
	}
	if name != RestartOnFailure {
		return p, errdef.New(errdef.Invalid, "invalid restart policy: maximum retry count can only be used with 'on-failure'")
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 {
		return p, errdef.New(errdef.Invalid, "invalid restart policy: maximum retry count must be a positive integer: %q", count)
	}
	p.Retries = n
	return p, nil
}

// ParseCPUs reads docker's --cpus, a decimal number of CPUs, into nano-CPUs.
func ParseCPUs(s string) (int64, error) {
	cpus, ok := new(big.Rat).SetString(s)
	if !ok || strings.Trim(s, "0123456789.") != "" || cpus.Cmp(big.NewRat(1e6, 1)) > 0 {
		return 0, errdef.New(errdef.Invalid, "invalid number of CPUs %q", s)
	}
	nano := cpus.Mul(cpus, big.NewRat(1e9, 1))
	if !nano.IsInt() {
		return 0, errdef.New(errdef.Invalid, "invalid number of CPUs %q: it is too precise", s)
	}
	return nano.Num().Int64(), nil
}

// ParseBytes reads a size with docker's suffixes (b, k, m, g, powers of 1024).
func ParseBytes(s string) (int64, error) {
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 {
		return 0, errdef.New(errdef.Invalid, "invalid size: '%s'", s)
	}
	return n, nil
}

// ParseUlimit reads docker's --ulimit: NAME=SOFT[:HARD].
func ParseUlimit(s string) (Ulimit, error) {
	u, err := units.ParseUlimit(s)
	if err != nil {
		return Ulimit{}, errdef.New(errdef.Invalid, "invalid ulimit %q: %v", s, err)
	}
	return Ulimit{u.Name, u.Soft, u.Hard}, nil
}

// ParseSecurity reads one --security-opt into sec. readFile gives the text of a seccomp profile.
func ParseSecurity(sec *Security, s string, readFile func(string) ([]byte, error)) error {
	key, value, has := strings.Cut(s, "=")
	if !has {
		// docker's older form
		key, value, has = strings.Cut(s, ":")
	}
	switch key {
	case "no-new-privileges":
		if !has {
			sec.NoNewPrivileges = true
			return nil
		}
		b, err := strconv.ParseBool(value)
		if err != nil {
			return errdef.New(errdef.Invalid, "invalid --security-opt %q: %q is neither true nor false", s, value)
		}
		sec.NoNewPrivileges = b
		return nil
	case "seccomp":
		switch value {
		case "unconfined":
			sec.Seccomp = value
		case "builtin", "":
			sec.Seccomp = ""
		default:
			text, err := readFile(value)
			if err != nil {
				return errdef.New(errdef.Invalid, "cannot open the seccomp profile %s: %w", value, err)
			}
			sec.Seccomp = string(text)
		}
		return nil
	case "apparmor":
		if value != "" {
			sec.AppArmor = value
			return nil
		}
	case "systempaths":
		if value == "unconfined" {
			sec.UnmaskAll = true
			return nil
		}
	case "mask", "unmask": // podman's
		for at := range strings.SplitSeq(value, ":") {
			if key == "unmask" && strings.EqualFold(at, "all") {
				sec.UnmaskAll = true
				continue
			}
			if _, err := path.Match(at, "/"); err != nil || !path.IsAbs(at) {
				return errdef.New(errdef.Invalid, "invalid --security-opt %q: %q is no absolute path", s, at)
			}
			if key == "mask" {
				sec.Mask = append(sec.Mask, path.Clean(at))
			} else {
				sec.Unmask = append(sec.Unmask, path.Clean(at))
			}
		}
		return nil
	case "label":
		if value == "disable" {
			return nil // no label is set where there is no SELinux
		}
		return errdef.New(errdef.Unsupported, "cannot set the SELinux label %q: this host has no SELinux", value)
	}
	return errdef.New(errdef.Invalid, "invalid --security-opt: %q; no-new-privileges, seccomp=, apparmor=, label=, mask=, unmask=, systempaths=unconfined are known", s)
}
