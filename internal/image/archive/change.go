package archive

import (
	"encoding/json"
	"path"
	"strconv"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/image"
)

// Change carries out one Dockerfile instruction, as of "import --change" and "commit --change", on an image's
// configuration: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME or WORKDIR.
func Change(c *image.Config, line string) error {
	instruction, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	rest = strings.TrimSpace(rest)
	if err := change(c, strings.ToUpper(instruction), rest); err != nil {
		return errdef.New(errdef.Invalid, "cannot understand change %q: %w", line, err)
	}
	return nil
}

func change(c *image.Config, instruction, rest string) error {
	if rest == "" {
		return errdef.New(errdef.Invalid, "%s needs an argument", instruction)
	}
	if strings.IndexByte(rest, 0) >= 0 {
		return errdef.New(errdef.Invalid, "it contains a NUL byte")
	}
	switch instruction {
	case "CMD":
		c.Cmd, c.ArgsEscaped = command(rest), false
	case "ENTRYPOINT":
		c.Entrypoint = command(rest)
	case "ENV":
		pairs, err := keyValues(rest)
		if err != nil {
			return err
		}
		for _, p := range pairs {
			c.Env = setEnv(c.Env, p[0], p[1])
		}
	case "EXPOSE":
		return expose(c, rest)
	case "HEALTHCHECK":
		h, err := healthcheck(rest)
		c.Healthcheck = h
		return err
	case "LABEL":
		pairs, err := keyValues(rest)
		if err != nil {
			return err
		}
		for _, p := range pairs {
			if c.Labels == nil {
				c.Labels = map[string]string{}
			}
			c.Labels[p[0]] = p[1]
		}
	case "ONBUILD":
		inner, _, _ := strings.Cut(rest, " ")
		switch strings.ToUpper(inner) {
		case "ONBUILD", "FROM", "MAINTAINER":
			return errdef.New(errdef.Invalid, "%s is not allowed in ONBUILD", inner)
		}
		c.OnBuild = append(c.OnBuild, rest)
	case "STOPSIGNAL":
		c.StopSignal = rest
	case "USER":
		c.User = rest
	case "VOLUME":
		paths, ok := jsonArray(rest)
		if !ok {
			var err error
			if paths, err = words(rest); err != nil {
				return err
			}
		}
		for _, p := range paths {
			if p == "" {
				return errdef.New(errdef.Invalid, "a volume needs a path")
			}
			if c.Volumes == nil {
				c.Volumes = map[string]struct{}{}
			}
			c.Volumes[p] = struct{}{}
		}
	case "WORKDIR":
		dir := rest
		if !path.IsAbs(dir) {
			dir = path.Join("/", c.WorkingDir, dir)
		}
		c.WorkingDir = path.Clean(dir)
	default:
		return errdef.New(errdef.Invalid, "%q is not one of the instructions that change an image's configuration", instruction)
	}
	return nil
}

// jsonArray reads the exec form, ["a", "b"].
func jsonArray(s string) (list []string, ok bool) {
	if !strings.HasPrefix(s, "[") {
		return nil, false
	}
	return list, json.Unmarshal([]byte(s), &list) == nil
}

// command reads a command in its exec or its shell form.
func command(s string) []string {
	if list, ok := jsonArray(s); ok {
		return list
	}
	return []string{"/bin/sh", "-c", s}
}

// words splits at blanks outside of quotes. A backslash takes the next byte as it is.
func words(s string) (list []string, err error) {
	var word strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && quote != '\'' && i+1 < len(s):
			i++
			word.WriteByte(s[i])
			in = true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, in = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if in {
				list = append(list, word.String())
			}
			word.Reset()
			in = false
		default:
			word.WriteByte(c)
			in = true
		}
	}
	if quote != 0 {
		return nil, errdef.New(errdef.Invalid, "a quote is not closed")
	}
	if in {
		list = append(list, word.String())
	}
	return list, nil
}

// keyValues reads "K=V K2=V2" and the old form "K V with blanks".
func keyValues(s string) (pairs [][2]string, err error) {
	first, rest, ok := strings.Cut(s, " ")
	if !strings.Contains(first, "=") {
		if rest = strings.TrimSpace(rest); !ok || rest == "" {
			return nil, errdef.New(errdef.Invalid, "%q has no value", first)
		}
		return [][2]string{{first, rest}}, nil
	}
	list, err := words(s)
	if err != nil {
		return nil, err
	}
	for _, word := range list {
		key, value, ok := strings.Cut(word, "=")
		if !ok || key == "" {
			return nil, errdef.New(errdef.Invalid, "%q is not KEY=VALUE", word)
		}
		pairs = append(pairs, [2]string{key, value})
	}
	return pairs, nil
}

func setEnv(env []string, key, value string) []string {
	for i, e := range env {
		if k, _, _ := strings.Cut(e, "="); k == key {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

// expose reads "80", "80/udp" and "8000-8010/tcp".
func expose(c *image.Config, s string) error {
	for _, word := range strings.Fields(s) {
		ports, protocol, ok := strings.Cut(word, "/")
		if !ok {
			protocol = "tcp"
		}
		protocol = strings.ToLower(protocol)
		if protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
			return errdef.New(errdef.Invalid, "%q is not tcp, udp or sctp", protocol)
		}
		from, to, isRange := strings.Cut(ports, "-")
		if !isRange {
			to = from
		}
		low, err1 := strconv.ParseUint(from, 10, 16)
		high, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || low == 0 || low > high {
			return errdef.New(errdef.Invalid, "%q is not a port", ports)
		}
		for port := low; port <= high; port++ {
			if c.ExposedPorts == nil {
				c.ExposedPorts = map[string]struct{}{}
			}
			c.ExposedPorts[strconv.FormatUint(port, 10)+"/"+protocol] = struct{}{}
		}
	}
	return nil
}

// healthcheck reads "NONE" and "[--interval=30s ...] CMD command".
func healthcheck(s string) (*image.Healthcheck, error) {
	h := &image.Healthcheck{}
	for strings.HasPrefix(s, "--") {
		var option string
		option, s, _ = strings.Cut(s, " ")
		s = strings.TrimSpace(s)
		name, value, _ := strings.Cut(strings.TrimPrefix(option, "--"), "=")
		if name == "retries" {
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 {
				return nil, errdef.New(errdef.Invalid, "%q is not a number of retries", value)
			}
			h.Retries = n
			continue
		}
		d, err := time.ParseDuration(value)
		// Docker's own limit: less than a millisecond is a mistake of units.
		if err != nil || d != 0 && d < time.Millisecond {
			return nil, errdef.New(errdef.Invalid, "%q is not a duration of at least 1ms", value)
		}
		switch name {
		case "interval":
			h.Interval = d
		case "timeout":
			h.Timeout = d
		case "start-period":
			h.StartPeriod = d
		case "start-interval":
			h.StartInterval = d
		default:
			return nil, errdef.New(errdef.Invalid, "HEALTHCHECK has no option --%s", name)
		}
	}
	kind, rest, _ := strings.Cut(s, " ")
	rest = strings.TrimSpace(rest)
	switch strings.ToUpper(kind) {
	case "NONE":
		if rest != "" {
			return nil, errdef.New(errdef.Invalid, "HEALTHCHECK NONE takes nothing more")
		}
		return &image.Healthcheck{Test: []string{"NONE"}}, nil
	case "CMD":
		if rest == "" {
			return nil, errdef.New(errdef.Invalid, "HEALTHCHECK CMD needs a command")
		}
		if list, ok := jsonArray(rest); ok {
			h.Test = append([]string{"CMD"}, list...)
		} else {
			h.Test = []string{"CMD-SHELL", rest}
		}
		return h, nil
	}
	return nil, errdef.New(errdef.Invalid, "HEALTHCHECK is followed by CMD or NONE, not by %q", kind)
}
