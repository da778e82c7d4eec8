package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/runtime/lsm"
	"berth/internal/runtime/needs"
	"berth/internal/settings"
)

func (c *call) cmdConfig() error {
	var rows [][]string
	for _, k := range settings.Keys {
		rows = append(rows, []string{k.Name, c.settings.Get(k.Name), c.sources[k.Name], k.Help})
	}
	if err := table(c.out, []string{"KEY", "VALUE", "FROM", "MEANING"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.out, "\nfiles: %s\n", strings.Join(settings.Files(), ", "))
	return err
}

func (c *call) cmdCheck() error {
	all := engine.Check(c.settings)
	for _, f := range all {
		mark, color := "ok     ", green
		switch {
		case !f.OK && f.Needed:
			mark, color = "MISSING", red
		case !f.OK:
			mark, color = "absent ", yellow
		}
		mark = paint(c.out, color, mark)
		fmt.Fprintf(c.out, "%s  %-24s %s\n", mark, f.Name, visible(f.Found))
		if !f.OK {
			fmt.Fprintf(c.out, "         needed for: %s\n", f.For)
			if f.Hint != "" {
				fmt.Fprintf(c.out, "         next step:  %s\n", visible(f.Hint))
			}
		}
	}
	missing := needs.Missing(all)
	if len(missing) == 0 {
		return nil
	}
	names := make([]string, len(missing))
	for i, f := range missing {
		names[i] = f.Name
	}
	return errdef.Hint(errdef.New(errdef.Unsupported, "no container can be started here, for want of: %s", strings.Join(names, ", ")), "%s", missing[0].Advice())
}

// cmdAppArmorProfile prints the profile by which this program may make user namespaces where AppArmor forbids them.
func (c *call) cmdAppArmorProfile() error {
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program's own file: %w", err)
	}
	_, err = io.WriteString(c.out, lsm.ProgramProfile(path))
	return err
}
