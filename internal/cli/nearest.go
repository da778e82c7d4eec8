package cli

import "strings"

// nearest is the command that args were probably meant to begin with, or "".
func nearest(args []string, table []command) string {
	best, bestDistance := "", 3
	consider := func(word, name string) {
		typed := name[strings.LastIndexByte(name, ' ')+1:]
		if d := distance(word, name); d < bestDistance && 2*d <= len(typed) {
			best, bestDistance = name, d
		}
	}
	two := strings.Join(args[:min(2, len(args))], " ")
	for i := range table {
		if table[i].hidden {
			continue
		}
		for _, name := range table[i].names() {
			if group, _, ok := strings.Cut(name, " "); ok && len(args) > 1 {
				consider(two, name)
			} else if ok {
				consider(args[0], group)
			} else if !isGroup(args[0], table) {
				consider(args[0], name)
			}
		}
	}
	return best
}

func nearestFlag(word string, flags []flag) string {
	best, bestDistance := "", 3
	for _, f := range flags {
		if d := distance(word, f.name); d < bestDistance && d < len(f.name) {
			best, bestDistance = f.name, d
		} else if len(word) > 2 && strings.HasPrefix(f.name, word) && best == "" {
			best = f.name
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with the next to make b of a (optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
