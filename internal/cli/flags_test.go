package cli

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"berth/internal/container"
)

// samples are values of run's flags that differ from the default; several show several forms of a flag.
var samples = map[string][]string{
	"cap-add": {"SYS_ADMIN"}, "cap-drop": {"ALL"}, "cgroupns": {"host"}, "cidfile": {"x"}, "cpu-shares": {"512"}, "cpus": {"1.5"},
	"cpuset-cpus": {"0"}, "device": {"/dev/null:/dev/x:r", "/dev/x,optional", "vendor.com/class=name"}, "gpus": {"all", "driver=x,device=a,capabilities=compute,options=a=b"}, "domainname": {"d"}, "entrypoint": {"/x"}, "env": {"A=1"},
	"health-cmd": {"true"}, "health-interval": {"1s"}, "health-on-failure": {"kill"}, "health-retries": {"2"}, "health-start-interval": {"1s"}, "health-start-period": {"1s"}, "health-timeout": {"1s"}, "no-healthcheck": {"true"},
	"group-add": {"5"}, "hostname": {"h"}, "init": {"true"}, "interactive": {"true"}, "ipc": {"host"}, "label": {"a=b"},
	"log-driver": {"none", "local"}, "log-opt": {"max-size=1m", "max-file=2"}, "memory": {"1g"}, "memory-swap": {"2g"},
	"mount": {
		"type=image,src=a,dst=/i,image-subpath=x",
		"type=bind,src=/a,dst=/b,readonly,bind-propagation=shared,bind-recursive=disabled", "type=bind,src=/a,dst=/c,readonly,bind-recursive=writable", "src=vol,dst=/b,volume-nocopy,volume-label=a=b",
		"type=tmpfs,dst=/b,tmpfs-size=1m,tmpfs-mode=700", "src=vol,dst=/b,volume-subpath=a/b,volume-opt=type=tmpfs,volume-driver=local", "type=bind,src=/a,dst=/b,bind-create-src",
	},
	"name": {"nn"}, "network": {"host", "name=n,alias=a,ip=10.0.0.2,ip6=fd00::2,mac-address=02:00:00:00:00:01,gw-priority=5"}, "oom-score-adj": {"5"}, "pid": {"host"}, "pids-limit": {"5"}, "platform": {"linux/arm64"},
	"privileged": {"true"}, "pull": {"always"}, "quiet": {"true"}, "read-only": {"true"}, "restart": {"on-failure:3"}, "rm": {"true"},
	"security-opt": {"no-new-privileges", "mask=/a", "unmask=/b", "seccomp=unconfined", "apparmor=x", "systempaths=unconfined"}, "shm-size": {"1m"},
	"stop-signal": {"SIGQUIT"}, "stop-timeout": {"5"}, "sysctl": {"a=b"}, "systemd": {"always"}, "tmpfs": {"/b:exec"}, "tty": {"true"}, "ulimit": {"nofile=1:2"},
	"user": {"1"}, "userns": {"keep-id"}, "uts": {"host"}, "volume": {"/a:/b:U", "/a:/b:idmap=uids=1-2-3#4-5-6;gids=7-8-9", "/anonymous"}, "volumes-from": {"other:ro"}, "workdir": {"/w"},
	"add-host": {"db:10.0.0.1"}, "dns": {"10.0.0.53"}, "dns-option": {"ndots:1"}, "dns-search": {"example.com"}, "expose": {"80"},
	"ip": {"10.0.0.2"}, "ip6": {"fd00::2"}, "mac-address": {"02:00:00:00:00:01"}, "network-alias": {"db"},
	"publish": {"127.0.0.1:8000-8001:80/udp"}, "publish-all": {"true"},
	"blkio-weight": {"300"}, "blkio-weight-device": {"/dev/a:300"}, "cgroup-parent": {"/x"}, "cpu-period": {"5000"}, "cpu-quota": {"5000"},
	"cpu-rt-period": {"5000"}, "cpu-rt-runtime": {"5000"}, "cpuset-mems": {"0"}, "device-cgroup-rule": {"c 1:3 rwm"}, "device-read-bps": {"/dev/a:1mb"},
	"device-read-iops": {"/dev/a:5"}, "device-write-bps": {"/dev/a:1mb"}, "device-write-iops": {"/dev/a:5"}, "kernel-memory": {"1g"},
	"memory-reservation": {"1g"}, "memory-swappiness": {"0"}, "oom-kill-disable": {"true"}, "storage-opt": {"size=1g"},
	"annotation": {"a=b"}, "isolation": {"default"}, "link": {"a:b"}, "link-local-ip": {"169.254.8.8"}, "runtime": {"runc"}, "volume-driver": {"local"},
	"attach": {"STDIN"}, "detach": {"true"}, "detach-keys": {"ctrl-a"}, "explain": {"true"}, "sig-proxy": {"false"},
}

// withoutFlag are the fields of container.Config that are filled otherwise.
var withoutFlag = map[string]string{
	"Image":             "the first argument",
	"Command":           "the arguments after it",
	"Network":           "the first of Networks",
	"Mounts.Filesystem": "the options of the volume",
	"Shell":             "the image's",
	"Log.Labels":        "what --log-opt labels-regex matches",
	"Log.Env":           "what --log-opt env-regex matches",
}

// reached adds the names of the fields of v that are not zero to names, those of structures and lists by their parts.
func reached(v reflect.Value, name string, names map[string]bool) {
	switch kind := v.Kind(); {
	case kind == reflect.Struct && v.Type() != reflect.TypeFor[netip.Addr]():
		for i := range v.NumField() {
			reached(v.Field(i), join(name, v.Type().Field(i).Name), names)
		}
	case kind == reflect.Slice:
		for i := range v.Len() {
			reached(v.Index(i), name, names)
		}
	default:
		if !v.IsZero() {
			names[name] = true
		}
	}
}

// fields are the names that reached could find for a type.
func fields(t reflect.Type, name string) []string {
	switch kind := t.Kind(); {
	case kind == reflect.Struct && t != reflect.TypeFor[netip.Addr]():
		var all []string
		for i := range t.NumField() {
			all = append(all, fields(t.Field(i).Type, join(name, t.Field(i).Name))...)
		}
		return all
	case kind == reflect.Slice:
		return fields(t.Elem(), name)
	}
	return []string{name}
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "." + b
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// An option that no flag reaches is one that nobody can ask for.
func TestEveryFieldOfAContainersConfigHasAFlag(t *testing.T) {
	envFile := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(envFile, []byte("# comment\nFROM_FILE=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	seen := map[string]bool{}
	for _, f := range runFlags() {
		if seen[f.name] {
			t.Errorf("--%s is in the table twice", f.name)
		}
		seen[f.name] = true
		values := samples[f.name]
		if f.name == "env-file" || f.name == "label-file" {
			values = []string{envFile}
		}
		if len(values) == 0 {
			t.Errorf("--%s has no sample here", f.name)
		}
		for _, v := range values {
			c := new(call)
			if err := f.set(c, v); err != nil {
				t.Errorf("--%s %s: %v", f.name, v, err)
			}
			if reflect.DeepEqual(c.options, options{}) {
				t.Errorf("--%s %s is accepted and changes nothing", f.name, v)
			}
			reached(reflect.ValueOf(c.options.config), "", names)
			reached(reflect.ValueOf(c.options.networks), "Networks", names)
			reached(reflect.ValueOf(c.options.endpoint), "Networks", names)
		}
	}
	for name := range samples {
		if !seen[name] {
			t.Errorf("there is a sample for --%s and no such flag", name)
		}
	}
	for _, name := range fields(reflect.TypeFor[container.Config](), "") {
		why, excepted := withoutFlag[name]
		switch {
		case !names[name] && !excepted:
			t.Errorf("no flag of run reaches container.Config.%s", name)
		case names[name] && excepted:
			t.Errorf("container.Config.%s has a flag now; it is excepted as %s", name, why)
		}
	}
}

func TestFlagsRefuseWhatTheyDoNotKnow(t *testing.T) {
	for name, values := range map[string][]string{
		"annotation": {"=x"}, "isolation": {"hyperv"}, "label-file": {"/nonexistent"}, "link": {"", "a:b:c", ":a"}, "link-local-ip": {"x", "10.0.0.1"}, "runtime": {"./crun"}, "volume-driver": {"x"},
		"blkio-weight": {"x", "65536"}, "blkio-weight-device": {"/dev/a"}, "cpu-period": {"x"}, "cpu-quota": {"x"}, "cpu-rt-period": {"x"}, "cpu-rt-runtime": {"x"},
		"device-cgroup-rule": {"x"}, "device-read-bps": {"x"}, "device-read-iops": {"x"}, "device-write-bps": {"x"}, "device-write-iops": {"x"}, "kernel-memory": {"x"},
		"memory-reservation": {"x"}, "memory-swappiness": {"x", "101", "-2"}, "storage-opt": {"x", "size=0", "a=b"},
		"add-host": {"x", "a:b"}, "dns": {"x"}, "expose": {"x", "80/x"}, "ip": {"x", "::1"}, "ip6": {"10.0.0.1"}, "mac-address": {"x"}, "network": {"", "a=b"},
		"publish": {"x", "1-2:3-5", "a:80:80", "[::1:80:80", "0", "80/x"}, "cgroupns": {"x"}, "cpu-shares": {"x", "-1"}, "cpus": {"x"}, "device": {"x", "/dev/a:b:c:d", "/dev/a:/b:x", "a.com/b=", "a/b=-c"}, "gpus": {"", "x", "count=x", "a=b", "count=1,device=2", "1,2"}, "env": {"", "=x"},
		"env-file": {"/nonexistent"}, "health-interval": {"x", "-1s"}, "health-on-failure": {"x"}, "health-retries": {"x", "-1"}, "health-start-interval": {"5"}, "health-start-period": {"-1s"}, "health-timeout": {"-1s"}, "hostname": {"", "a b", "-a"}, "ipc": {"x"}, "label": {"=x"}, "log-driver": {"gelf"},
		"log-opt": {"max-size", "=x"}, "memory": {"x"}, "memory-swap": {"-2"}, "mount": {"x", "type=image,dst=/b", "type=image,src=a,dst=/b,readonly=false", "type=image,src=a,dst=/b,volume-subpath=x", "type=image,src=a,dst=/b,image-subpath=/x", "src=a,dst=/b,image-subpath=x", "type=image,src=a,dst=/b,volume-nocopy", "type=tmpfs,dst=/b,idmap=uids=0-1-1", "src=a,dst=/b,idmap=x", "type=bind,src=/a,dst=/b,volume-subpath=x", "src=a,dst=/b,volume-subpath=../x", "src=a,dst=/b,volume-driver=x", "src=a,dst=/b,bind-recursive=disabled", "type=bind,src=/a,dst=/b,bind-recursive=readonly", "type=bind,src=/a,dst=/b,readonly,bind-recursive=readonly"}, "oom-score-adj": {"1001", "x"},
		"pid": {"x"}, "pids-limit": {"x"}, "pull": {"x"}, "restart": {"x"}, "security-opt": {"x"}, "shm-size": {"x"}, "stop-signal": {"SIGX"},
		"stop-timeout": {"x"}, "sysctl": {"x"}, "tmpfs": {"x"}, "ulimit": {"x"}, "uts": {"x"}, "volume": {"x", "/a:/b:idmap", "/a:/b:idmap=uids=0-1-0", "/a:/b:idmap=uids=4294967295-1-2", "/a:/b:idmapped", "/a:/b:x"}, "attach": {"x"}, "detach-keys": {"ctrl-1"},
	} {
		flags := runFlags()
		i := slices.IndexFunc(flags, func(f flag) bool { return f.name == name })
		if i < 0 {
			t.Errorf("there is no --%s", name)
			continue
		}
		for _, v := range values {
			if err := flags[i].set(new(call), v); err == nil {
				t.Errorf("--%s %q is accepted", name, v)
			}
		}
	}
}

func TestEnvironmentFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	t.Setenv("FROM_HERE", "here")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("\ufeffA=1\n\n  # comment\n\tB=\"quoted\" # kept\nFROM_HERE\nE=\n")
	got, err := readEnvFile(file)
	if want := []string{"A=1", "B=\"quoted\" # kept", "FROM_HERE=here", "E="}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
	for _, text := range []string{"A B=1\n", "=1\n"} {
		write(text)
		if got, err := readEnvFile(file); err == nil {
			t.Errorf("%q is read as %q", text, got)
		}
	}
}

func TestDetachKeys(t *testing.T) {
	for in, want := range map[string]string{"": "\x10\x11", "a": "a", "ctrl-a,b": "\x01b", "ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_": "\x00\x1b\x1c\x1d\x1e\x1f", "CTRL-P,Q": "\x10Q"} {
		if got, err := parseDetachKeys(in); err != nil || string(got) != want {
			t.Errorf("%q is %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"ab", "ctrl-", "ctrl-1", ",", "a,"} {
		if got, err := parseDetachKeys(in); err == nil {
			t.Errorf("%q is %q", in, got)
		}
	}
}
