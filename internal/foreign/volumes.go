package foreign

import (
	"encoding/json"
	"errors"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"berth/internal/errdef"
	"berth/internal/foreign/bolt"

	"golang.org/x/sys/unix"
)

// Images reads the images.
func (s *Store) Images() ([]Image, error) {
	if s.Engine == Docker {
		return s.dockerImages()
	}
	return s.podmanImages()
}

// Volumes reads what is known of the volumes; notice is told what cannot be known.
func (s *Store) Volumes(notice func(text string)) ([]Volume, error) {
	names, err := s.names("volumes")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	known := s.podmanVolume
	if s.Engine == Docker {
		known = s.dockerVolume
	}
	volumes, err := known(notice)
	if err != nil {
		return nil, err
	}
	var all []Volume
	for _, name := range names {
		dir := path.Join("volumes", name)
		if !s.has(path.Join(dir, "_data")) {
			continue // metadata.db, backingFsBlockDev
		}
		v := volumes[name]
		v.Name, v.dir = name, path.Join(dir, "_data")
		if s.Engine == Docker {
			s.dockerOptions(dir, &v)
		}
		all = append(all, v)
	}
	return all, nil
}

// OpenVolume opens the directory of a volume's content.
func (s *Store) OpenVolume(v Volume) (*os.File, error) { return s.open(v.dir, unix.O_DIRECTORY) }

// database calls each with the keys of a bucket of the database of bbolt at name.
func (s *Store) database(name, bucket string, each func(db *bolt.DB, key, value []byte) error) error {
	data, err := s.read(name)
	if errdef.Is(err, errdef.NotFound) {
		return err
	}
	var db *bolt.DB
	if err == nil {
		db, err = bolt.Open(data)
	}
	var keys [][2][]byte
	if err == nil {
		err = db.Each(func(key, value []byte) error { keys = append(keys, [2][]byte{key, value}); return nil }, bucket)
	}
	for _, kv := range keys {
		err = errors.Join(err, each(db, kv[0], kv[1]))
	}
	if err != nil {
		return errdef.New(errdef.KindOf(err), "cannot read %s: %w", name, err)
	}
	return nil
}

// labelAnonymous marks docker's volumes without a name of their own.
const labelAnonymous = "com.docker.volume.anonymous"

// dockerVolume reads volumes/metadata.db (moby's volume/service/db.go): a bucket of JSON by the volumes' names.
func (s *Store) dockerVolume(notice func(text string)) (map[string]Volume, error) {
	all := map[string]Volume{}
	err := s.database("volumes/metadata.db", "volumes", func(_ *bolt.DB, key, value []byte) error {
		var m struct {
			Driver          string
			Labels, Options map[string]string
		}
		if err := json.Unmarshal(value, &m); err != nil {
			return errdef.New(errdef.Corrupt, "volume %s: %w", key, err)
		}
		v := Volume{Labels: m.Labels, Options: m.Options}
		_, marked := m.Labels[labelAnonymous]
		v.Anonymous = marked || hexName(string(key))
		if m.Driver != "local" && m.Driver != "" {
			v.Err = errdef.New(errdef.Unsupported, "it is of the driver %s", m.Driver)
		}
		all[string(key)] = v
		return nil
	})
	if errdef.Is(err, errdef.NotFound) {
		notice("there is no volumes/metadata.db: labels of volumes are not known")
		return all, nil
	}
	return all, err
}

// hexName reports whether an engine has made up a volume's name.
func hexName(name string) bool {
	return len(name) == 64 && strings.Trim(name, "0123456789abcdef") == ""
}

// dockerOptions reads volumes/NAME/opts.json (moby's volume/local/local.go), where the database does not say them.
func (s *Store) dockerOptions(dir string, v *Volume) {
	v.Anonymous = v.Anonymous || hexName(v.Name)
	data, err := s.read(path.Join(dir, "opts.json"))
	if err != nil || len(v.Options) > 0 {
		return
	}
	var o struct {
		MountType, MountOpts, MountDevice string
		Quota                             struct{ Size uint64 }
	}
	if err := json.Unmarshal(data, &o); err != nil {
		v.Err = errdef.New(errdef.Corrupt, "cannot read %s/opts.json: %w", dir, err)
		return
	}
	v.Options = map[string]string{}
	for key, value := range map[string]string{"type": o.MountType, "o": o.MountOpts, "device": o.MountDevice} {
		if value != "" {
			v.Options[key] = value
		}
	}
	if o.Quota.Size > 0 {
		v.Options["size"] = strconv.FormatUint(o.Quota.Size, 10)
	}
}

// podmanVolume reads libpod/bolt_state.db (podman's libpod/boltdb_state_internal.go): a bucket "vol" of a bucket for each volume.
func (s *Store) podmanVolume(notice func(text string)) (map[string]Volume, error) {
	all := map[string]Volume{}
	err := s.database("libpod/bolt_state.db", "vol", func(db *bolt.DB, name, _ []byte) error {
		return db.Each(func(key, value []byte) error {
			if string(key) != "config" {
				return nil
			}
			var m struct {
				Labels  map[string]string `json:"labels"`
				Options map[string]string `json:"volumeOptions"`
				Driver  string            `json:"volumeDriver"`
				IsAnon  bool              `json:"isAnon"`
			}
			if err := json.Unmarshal(value, &m); err != nil {
				return errdef.New(errdef.Corrupt, "volume %s: %w", name, err)
			}
			v := Volume{Labels: m.Labels, Options: m.Options, Anonymous: m.IsAnon}
			if m.Driver != "local" && m.Driver != "" {
				v.Err = errdef.New(errdef.Unsupported, "it is of the driver %s", m.Driver)
			}
			all[string(name)] = v
			return nil
		}, "vol", string(name))
	})
	if errdef.Is(err, errdef.NotFound) {
		if s.has("db.sql") || s.has("libpod/db.sql") {
			notice("podman keeps labels and options of volumes in a database of SQLite, which is not read: volumes come with their content alone")
		}
		return all, nil
	}
	return all, err
}

// User is a process that has a volume mounted; 0 means that none has.
func (s *Store) User(v Volume) (pid int, err error) {
	f, err := s.OpenVolume(v)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	place, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	device := strconv.Itoa(int(unix.Major(st.Dev))) + ":" + strconv.Itoa(int(unix.Minor(st.Dev)))
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	suffix := "/" + v.dir
	escapes := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		mounts, err := os.ReadFile("/proc/" + p.Name() + "/mountinfo")
		if err != nil {
			continue // another user's, or gone
		}
		for line := range strings.Lines(string(mounts)) {
			// proc_pid_mountinfo(5): the third field is the device, the fourth the directory of its file system that is mounted.
			fields := strings.Fields(line)
			if len(fields) < 4 || fields[2] != device {
				continue
			}
			if mounted := escapes.Replace(fields[3]); strings.HasSuffix(mounted, suffix) && strings.HasSuffix(place, mounted) {
				return pid, nil
			}
		}
	}
	return 0, nil
}
