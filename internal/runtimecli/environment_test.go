package runtimecli

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestEnvironmentHasEachVariableOnceAndAHome(t *testing.T) {
	const passwd = "root:x:0:0::/root:/bin/sh\nme:x:2000:2000::/home/me:/bin/sh\n"
	for _, c := range []struct {
		summary  string
		uid      uint32
		in, want []string
	}{
		{"The last one of a name counts, in its place", 0, []string{"A=1", "HOME=/h", "B=2", "A=3"}, []string{"HOME=/h", "B=2", "A=3"}},
		{"HOME is the user's, where nobody says so", 2000, []string{"A=1"}, []string{"A=1", "HOME=/home/me"}},
		{"An empty one counts as none, and what it has replaced does not come back", 0, []string{"HOME=/over", "HOME=", "A="}, []string{"A=", "HOME=/root"}},
		{"Who has no entry is at home at /", 77, nil, []string{"HOME=/"}},
		{"A name that begins another is another", 0, []string{"HOME=/h", "HOMES=1", "HO=2"}, []string{"HOME=/h", "HOMES=1", "HO=2"}},
	} {
		t.Run(c.summary, func(t *testing.T) {
			p := &specs.Process{Env: c.in, User: specs.User{UID: c.uid}}
			completeEnv(p, func() []byte { return []byte(passwd) })
			if !slices.Equal(p.Env, c.want) {
				t.Errorf("%q became %q, want %q", c.in, p.Env, c.want)
			}
		})
	}
}

func TestStreamsAreGivenToTheUserOutsideTheNamespace(t *testing.T) {
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 100000, Size: 10}}
	for _, c := range []struct {
		uid, want uint32
		maps      []specs.LinuxIDMapping
		mapped    bool
	}{{5, 5, nil, true}, {0, 1000, maps, true}, {10, 100009, maps, true}, {11, 0, maps, false}} {
		if got, mapped := onHost(c.uid, c.maps); got != c.want || mapped != c.mapped {
			t.Errorf("the user %d is %d (%v) on the host, want %d (%v)", c.uid, got, mapped, c.want, c.mapped)
		}
	}
}
