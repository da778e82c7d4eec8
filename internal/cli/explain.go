package cli

import "fmt"

func (c *call) cmdExplain() error {
	e, of, err := c.container()
	if err != nil {
		return err
	}
	facts, err := e.ExplainRunning(of)
	if err != nil {
		return err
	}
	differ := 0
	for _, f := range facts {
		mark := " "
		if f.Differs() {
			mark, differ = "!", differ+1
		}
		origin := ""
		if f.Origin != "" {
			origin = "  <- " + f.Origin
		}
		fmt.Fprintf(c.out, "%s %-26s %s%s\n", mark, visible(f.What), visible(f.Kernel), visible(origin))
		if f.Differs() {
			fmt.Fprintf(c.out, "  %-26s planned: %s\n", "", visible(f.Plan))
		}
	}
	_, err = fmt.Fprintf(c.out, "%d differences from the plan\n", differ)
	return err
}
