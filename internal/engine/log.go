package engine

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"

	"berth/internal/container"
	"berth/internal/errdef"
)

// LogPatterns is a request to find the names that patterns match; the names that do are the answer.
type LogPatterns struct {
	LabelPattern, EnvPattern string
	Labels, Env              []string
}

// boundLog gives a log the bounds that are set for all, and finds the labels and variables that it is to tell. The program that knows
// patterns is another.
func (e *Engine) boundLog(cfg *container.Config) error {
	l := &cfg.Log
	if _, own := l.Options["max-size"]; !own && l.DriverName() == container.LogJSON {
		l.Options = maps.Clone(l.Options)
		if l.Options == nil {
			l.Options = map[string]string{}
		}
		l.Options["max-size"] = e.Settings.Get("log-max-size")
		if _, own := l.Options["max-file"]; !own {
			l.Options["max-file"] = e.Settings.Get("log-max-file")
		}
	}
	request := LogPatterns{LabelPattern: l.Options["labels-regex"], EnvPattern: l.Options["env-regex"], Labels: slices.Sorted(maps.Keys(cfg.Labels))}
	if request.LabelPattern == "" && request.EnvPattern == "" {
		return nil
	}
	for _, v := range cfg.Env {
		name, _, _ := strings.Cut(v, "=")
		request.Env = append(request.Env, name)
	}
	path, err := e.Program("berth-full")
	if err != nil {
		return err
	}
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(path, "--data-root", e.Settings.DataRoot, "--run-root", e.Settings.RunRoot, "log-names")
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = bytes.NewReader(text), &out, &errs, os.Environ()
	if err := cmd.Run(); err != nil {
		return errdef.New(errdef.Invalid, "%s", strings.TrimPrefix(strings.TrimSpace(errs.String()), "berth: "))
	}
	var found LogPatterns
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		return err
	}
	l.Labels, l.Env = found.Labels, found.Env
	return nil
}
