package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"time"
)

// contender is a command to be timed.
type contender struct {
	name   string
	argv   []string
	before func() error // makes things as they must be; not timed
}

// compare times the contenders in turn, after a round that does not count, and prints medians, minima and the ratio of the
// first one's median to each. One that fails in the first round is left out, and its words are printed.
func compare(what string, rounds int, all []contender) error {
	fmt.Printf("%s (%d rounds)\n", what, rounds)
	failed := map[string]bool{}
	times := make([][]time.Duration, len(all))
	for round := range rounds + 1 {
		for i, c := range all {
			if failed[c.name] {
				continue
			}
			if c.before != nil {
				if err := c.before(); err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
			}
			var words bytes.Buffer
			cmd := exec.Command(c.argv[0], c.argv[1:]...)
			cmd.Stderr = &words
			begin := time.Now()
			err := cmd.Run()
			took := time.Since(begin)
			switch {
			case err != nil && round == 0:
				failed[c.name] = true
				fmt.Printf("  %-28s left out: %v: %s\n", c.name, err, bytes.TrimSpace(words.Bytes()))
			case err != nil:
				return fmt.Errorf("%s: %w: %s", c.name, err, words.Bytes())
			case round > 0:
				times[i] = append(times[i], took)
			}
		}
	}
	var first time.Duration
	for i, c := range all {
		if len(times[i]) == 0 {
			continue
		}
		slices.Sort(times[i])
		median := times[i][len(times[i])/2]
		if first == 0 {
			first = median
		}
		fmt.Printf("  %-28s median %9.2f ms   min %9.2f ms   %s/this %.2f\n", c.name, milliseconds(median), milliseconds(times[i][0]), all[0].name, float64(first)/float64(median))
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
