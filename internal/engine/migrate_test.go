package engine

import (
	"strings"
	"testing"

	"berth/internal/errdef"
	"berth/internal/state"
	"berth/internal/storage"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func listed(name, driver string, status state.Status) Listed {
	return Listed{Container: &state.Container{Name: name, Driver: driver}, Record: state.Record{Status: status}}
}

func TestPlanMigration(t *testing.T) {
	limited, mapped, foreign := listed("limited", "", state.Exited), listed("mapped", storage.VFS, state.Exited), listed("foreign", "", state.Exited)
	limited.Config.StorageBytes = 1
	mapped.UIDMaps = []specs.LinuxIDMapping{{}}
	foreign.RuntimeProgram, foreign.Config.Runtime = "/usr/bin/crun", "crun"
	for _, c := range []struct {
		summary, to string
		all         []Listed
		moves       string
		stays       string // or what the error has
	}{
		{"What has another driver is moved", storage.VFS, []Listed{listed("a", "", state.Exited), listed("b", storage.VFS, state.Exited), listed("c", storage.Btrfs, state.Created)}, "a c", ""},
		{"An empty record is overlay", storage.Overlay, []Listed{listed("a", "", state.Exited), listed("b", storage.Fuse, state.Created)}, "b", ""},
		{"Nothing while one of them runs", storage.VFS, []Listed{listed("b", "", state.Running), listed("a", "", state.Paused), listed("c", "", state.Exited)}, "", "while they run: a, b"},
		{"What has the driver may run", storage.VFS, []Listed{listed("a", storage.VFS, state.Running), listed("b", "", state.Exited)}, "b", ""},
		{"What needs its driver keeps it", storage.Fuse, []Listed{limited, mapped, foreign, listed("a", "", state.Exited)}, "a", "limited mapped foreign"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			m, err := planMigration(c.all, c.to)
			if err != nil {
				if !errdef.Is(err, errdef.Conflict) || c.stays == "" || !strings.Contains(err.Error(), c.stays) {
					t.Error(err)
				}
				return
			}
			var moves, stays []string
			for _, c := range m.Moves {
				moves = append(moves, c.Name)
			}
			for _, s := range m.Stays {
				stays = append(stays, s.Container.Name)
			}
			if got := strings.Join(moves, " "); got != c.moves {
				t.Errorf("moves %s", got)
			}
			if got := strings.Join(stays, " "); got != c.stays {
				t.Errorf("stays %s", got)
			}
		})
	}
}
