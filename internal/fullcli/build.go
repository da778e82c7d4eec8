package fullcli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"berth/internal/build"
	"berth/internal/cli"
	"berth/internal/disk"
	"berth/internal/errdef"
)

// buildImage builds an image from a Dockerfile.
func buildImage(c cli.Call) error {
	o, err := buildOptions(c)
	if err != nil {
		return err
	}
	to := c.Err
	quiet := option(c, "quiet") == "true"
	switch mode := option(c, "progress"); {
	case mode != "" && mode != "auto" && mode != "plain" && mode != "quiet":
		return errdef.New(errdef.Invalid, "invalid progress %q: it is auto, plain or quiet", mode)
	case quiet || mode == "quiet":
		quiet, to = true, io.Discard
	}
	o.Progress = build.NewProgress(to)
	r, err := build.Build(c.Context, c.Engine, o)
	var at *build.SourceError
	if errors.As(err, &at) && at.Excerpt != "" {
		fmt.Fprintln(c.Err, at.Excerpt)
	}
	if err != nil {
		return err
	}
	if path := option(c, "iidfile"); path != "" {
		if err := disk.Replace(path, []byte(r.ID), 0o644&^c.Umask, disk.Volatile); err != nil {
			return err
		}
	}
	if quiet {
		_, err = fmt.Fprintln(c.Out, r.ID)
	}
	return err
}

// buildOptions are what the flags of build ask for.
func buildOptions(c cli.Call) (build.Options, error) {
	o := build.Options{
		Source: build.Source{Context: c.Args[0], Dockerfile: option(c, "file"), Stdin: c.In},
		Target: option(c, "target"), Tags: c.Options["tag"],
		NoCache: option(c, "no-cache") == "true", Pull: option(c, "pull") == "true",
		Labels: map[string]string{},
	}
	var err error
	if o.Args, err = buildArgs(c.Options["build-arg"], os.LookupEnv); err != nil {
		return o, err
	}
	for _, l := range c.Options["label"] {
		key, value, _ := strings.Cut(l, "=")
		if key == "" {
			return o, errdef.New(errdef.Invalid, "invalid label '%s': empty name", l)
		}
		o.Labels[key] = value
	}
	if o.Epoch, err = build.Epoch(o.Args["SOURCE_DATE_EPOCH"]); err != nil {
		return o, err
	}
	o.Run.Network = option(c, "network")
	return o, nil
}

// buildArgs are the variables of --build-arg. A name alone takes its value from the environment, and is left out if there is none.
func buildArgs(given []string, environment func(string) (string, bool)) (map[string]string, error) {
	args := map[string]string{}
	if v, ok := environment("SOURCE_DATE_EPOCH"); ok && v != "" { // as buildx has it
		args["SOURCE_DATE_EPOCH"] = v
	}
	for _, a := range given {
		name, value, ok := strings.Cut(a, "=")
		if name == "" {
			return nil, errdef.New(errdef.Invalid, "invalid build argument '%s': empty name", a)
		}
		if !ok {
			if value, ok = environment(name); !ok {
				continue
			}
		}
		args[name] = value
	}
	return args, nil
}
