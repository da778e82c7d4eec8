package cli

import (
	"errors"
	"fmt"

	"berth/internal/state"
	"berth/internal/storage"

	"github.com/docker/go-units"
)

// cmdMigrate moves containers from one storage driver to another.
func (c *call) cmdMigrate() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	m, err := e.PlanMigration(c.options.to)
	if err != nil {
		return err
	}
	for _, s := range m.Stays {
		e.Notice(fmt.Sprintf("%s stays with the storage driver %s: %s", s.Container.Name, storage.Of(s.Container.Driver).Name(), s.Why))
	}
	if c.options.dry {
		for _, of := range m.Moves {
			written, all, err := e.Sizes(of)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(c.out, "%s: %s -> %s (%s written, %s in all)\n", of.Name, storage.Of(of.Driver).Name(), m.To, units.HumanSize(float64(written)), units.HumanSize(float64(all))); err != nil {
				return err
			}
		}
		return nil
	}
	var failed error
	err = e.Migrate(c.context(), m, func(of *state.Container, from string) {
		if _, err := fmt.Fprintf(c.out, "%s: %s -> %s\n", of.Name, from, m.To); err != nil {
			failed = err
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	if next, err := e.Driver(); err != nil || next.Name != m.To {
		e.Notice(fmt.Sprintf("new containers get the storage driver %s; the setting storage-driver = %q changes that", next.Name, m.To))
	}
	return nil
}
