package build

import (
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/moby/patternmatcher"
)

// patterns are those of a .dockerignore, or of --exclude: a path matches that the last of them which says something about it says so of, or of a
// directory that it is in. Those of "!" say the opposite. Which of them a directory matches is found out once for all that is in it.
type patterns struct {
	all         []pattern
	exceptions  bool
	directories sync.Map // path -> []bool, which patterns match it or a directory that it is in
}

type pattern struct {
	except bool
	one    *patternmatcher.PatternMatcher
}

// newPatterns understands patterns. The library finds some mistakes only when it matches, where they would leave everything out.
func newPatterns(lines []string) (*patterns, error) {
	p := &patterns{}
	for _, line := range lines {
		text, except := strings.CutPrefix(strings.TrimSpace(line), "!")
		if text = strings.TrimSpace(text); text == "" && !except {
			continue
		}
		one, err := patternmatcher.New([]string{text})
		if err == nil {
			_, err = one.MatchesOrParentMatches("some/file")
		}
		if err != nil || text == "" {
			return nil, fmt.Errorf("invalid pattern %q: %w", line, err)
		}
		p.all = append(p.all, pattern{except, one})
		p.exceptions = p.exceptions || except
	}
	return p, nil
}

// match reports whether a path matches.
func (p *patterns) match(name string) bool {
	in := p.directory(path.Dir(name))
	matched := false
	for i, one := range p.all {
		if one.except == matched && (in != nil && in[i] || one.match(name)) {
			matched = !matched
		}
	}
	return matched
}

// directory says which patterns match a directory, or one that it is in; nil is none.
func (p *patterns) directory(dir string) []bool {
	if dir == "." || dir == "/" {
		return nil
	}
	if known, ok := p.directories.Load(dir); ok {
		return known.([]bool) //nolint:forcetypeassert // nothing else is in it
	}
	up := p.directory(path.Dir(dir))
	all := make([]bool, len(p.all))
	for i, one := range p.all {
		all[i] = up != nil && up[i] || one.match(dir)
	}
	p.directories.Store(dir, all)
	return all
}

func (p pattern) match(name string) bool {
	//lint:ignore SA1019 what it gets wrong are exceptions among several patterns; this is one, and no exception
	matched, err := p.one.MatchesUsingParentResult(name, false)
	return err == nil && matched
}

// except keeps what patterns do not match. Below what they match something may be kept only if there are exceptions.
func except(p *patterns) func(string, bool) (keep, below bool) {
	return func(name string, dir bool) (bool, bool) {
		matched := p.match(name)
		return !matched, !matched || dir && p.exceptions
	}
}
