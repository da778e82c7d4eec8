package cli

import (
	"bytes"
	"testing"
)

func TestLinesOfATerminalAreGivenAsTheyWereWritten(t *testing.T) {
	for _, c := range []struct{ summary, terminal, want string }{
		{"A line", "a\r\n", "a\n"},
		{"A line that was written with a carriage return", "a\r\r\n", "a\r\n"},
		{"A carriage return within a line", "a\rb\r\n", "a\rb\n"},
		{"One at the end", "a\r", "a\r"},
		{"Two at the end", "a\r\r", "a\r\r"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			for size := 1; size <= len(c.terminal); size++ { // however it is cut
				var out bytes.Buffer
				n := &newlines{out: &out}
				for rest := c.terminal; rest != ""; {
					k := min(size, len(rest))
					if wrote, err := n.Write([]byte(rest[:k])); wrote != k || err != nil {
						t.Fatal(wrote, err)
					}
					rest = rest[k:]
				}
				n.flush()
				if out.String() != c.want {
					t.Errorf("by %d bytes: %q, want %q", size, out.String(), c.want)
				}
			}
		})
	}
}
