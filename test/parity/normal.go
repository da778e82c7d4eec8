package main

import (
	"regexp"
	"slices"
	"strings"
)

// unlike are what two runs of even one engine do not have alike: ids, times, addresses, sizes, places.
var unlike = []struct {
	pattern *regexp.Regexp
	as      string
}{
	{regexp.MustCompile(`(sha256:)?\b[0-9a-f]{64}\b`), "<id>"},
	{regexp.MustCompile(`\b[0-9a-f]{32}\b`), "<id>"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "<id>"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d| [+-]\d{4}( [A-Z]+)?)?`), "<time>"},
	{regexp.MustCompile(`\b[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d (UTC )?\d{4}`), "<time>"},
	{regexp.MustCompile(`\b1[789]\d{8}(\.\d+)?\b`), "<time>"},
	{regexp.MustCompile(`(?i)\b(less than a|about an|about a|an|\d+) (second|minute|hour|day|week|month|year)s?\b`), "<age>"},
	{regexp.MustCompile(`\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b`), "<mac>"},
	{regexp.MustCompile(`\b(10|172|192)\.\d+\.\d+\.\d+\b`), "<ip>"},
	{regexp.MustCompile(`\b\d+(\.\d+)?%`), "<share>"},
	{regexp.MustCompile(`\b\d+(\.\d+)? ?([kMG]?B|[KMG]iB)\b`), "<size>"},
	{regexp.MustCompile(`/run/parity/(data|docker|r)/`), "<root>/"},
	{regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`), ""},
	{regexp.MustCompile(`[ \t]{2,}`), "  "},
}

// normal is a text without what no two runs have alike, in lines without trailing blanks.
func normal(text string) []string {
	for _, u := range unlike {
		text = u.pattern.ReplaceAllString(text, u.as)
	}
	var lines []string
	for line := range strings.Lines(strings.ReplaceAll(text, "\r", "")) {
		lines = append(lines, strings.TrimRight(line, " \t\n"))
	}
	if slices.Equal(lines, []string{""}) {
		return nil // with a template that fails, docker ends the line that it has not begun
	}
	return lines
}

// said is what a message says, without who says it and what to do next.
func said(stderr string) []string {
	var lines []string
	for _, line := range normal(stderr) {
		// docker 23 and later say how much cp has copied, too.
		if strings.HasPrefix(line, "Successfully copied ") || strings.HasPrefix(line, "hint: ") || strings.HasPrefix(line, "See 'docker ") || strings.HasPrefix(line, "Usage:") || line == "" {
			continue
		}
		for _, who := range []string{"docker: ", "berth: ", "Error response from daemon: ", "Error: "} {
			line = strings.TrimPrefix(line, who)
		}
		lines = append(lines, line)
	}
	return lines
}

// phrases are what scripts look for in what docker says. Where docker says one, berth must, too; the words around it are its own.
var phrases = []*regexp.Regexp{
	regexp.MustCompile(`No such container: [\w-]+`),
	regexp.MustCompile(`No such image: [\w:/-]+`),
	regexp.MustCompile(`(?i)no such volume`),
	regexp.MustCompile(`(?i)No such object: [\w.-]+`),
	regexp.MustCompile(`(?i)network [\w.-]+ not found`),
	regexp.MustCompile(`is already in use`),
	regexp.MustCompile(`already exists`),
	regexp.MustCompile(`is not running`),
	regexp.MustCompile(`is not paused`),
	regexp.MustCompile(`is already paused`),
	regexp.MustCompile(`is paused`),
	regexp.MustCompile(`volume is in use`),
	regexp.MustCompile(`has active endpoints`),
	regexp.MustCompile(`port is already allocated`),
	regexp.MustCompile(`invalid reference format`),
	regexp.MustCompile(`executable file not found in \$PATH`),
	regexp.MustCompile(`(?i)no such file or directory`),
	regexp.MustCompile(`(?i)permission denied`),
	regexp.MustCompile(`(?i)is a directory`),
	regexp.MustCompile(`(?i)not a directory`),
	regexp.MustCompile(`unknown (shorthand )?flag: .*`),
	regexp.MustCompile(`flag needs an argument: .*`),
	regexp.MustCompile(`requires at least \d+ arguments?`),
	regexp.MustCompile(`Unable to find image '.*' locally`),
	regexp.MustCompile(`unable to find user [\w.-]+: no matching entries in passwd file`),
	regexp.MustCompile(`(?i)invalid signal`),
	regexp.MustCompile(`(?i)conflicting options`),
	regexp.MustCompile(`must be an absolute path`),
	regexp.MustCompile(`[Mm]inimum memory limit allowed is`),
	regexp.MustCompile(`(?i)cannot connect the docker daemon`),
	regexp.MustCompile(`template parsing error`),
	regexp.MustCompile(`can't evaluate field`),
	regexp.MustCompile(`(?i)invalid filter`),
	regexp.MustCompile(`the input device is not a TTY`),
	regexp.MustCompile(`(?i)invalid port`),
	regexp.MustCompile(`(?i)is unhealthy`),
}
