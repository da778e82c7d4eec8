package cli

import (
	"fmt"
	"strings"

	"berth/internal/dockerconfig"
	"berth/internal/errdef"
)

// contextFlags are the flags of context create and update.
func contextFlags() []flag {
	return []flag{
		{"description", "", "string", "Description of the context", set(func(o *options, v string) error { o.description = &v; return nil })},
		{"docker", "", "stringToString", "Where the engine is: host=, ca=, cert=, key=, skip-tls-verify=, or from=CONTEXT", set(func(o *options, v string) error {
			for pair := range strings.SplitSeq(v, ",") {
				key, value, has := strings.Cut(pair, "=")
				if !has {
					return errdef.New(errdef.Invalid, "%s must be formatted as key=value", pair)
				}
				o.dockerEndpoint = with(o.dockerEndpoint, key, value)
			}
			return nil
		})},
	}
}

// endpointOf changes a context as --docker and --description say, and returns its TLS material, nil if that stays.
func (c *call) endpointOf(of *dockerconfig.Context) (map[string][]byte, error) {
	o := &c.options
	if o.description != nil {
		of.SetDescription(*o.description)
	}
	if len(o.dockerEndpoint) == 0 {
		return nil, nil
	}
	if from, has := o.dockerEndpoint["from"]; has {
		if len(o.dockerEndpoint) > 1 {
			return nil, errdef.New(errdef.Invalid, "unable to create docker endpoint config: from= stands alone")
		}
		d := dockerconfig.Default()
		other, err := d.Get(c.choice(), from)
		if err != nil {
			return nil, err
		}
		of.Endpoints = other.Endpoints
		return d.Material(from)
	}
	return of.ApplyEndpoint(o.dockerEndpoint)
}

func (c *call) cmdContextCreate() error {
	d, name := dockerconfig.Default(), c.args[0]
	of := dockerconfig.Context{Name: name}
	var material map[string][]byte
	var err error
	if err := CheckNewContext(d, name); err != nil {
		return err
	}
	if from := c.options.from; from != "" || len(c.options.dockerEndpoint) == 0 {
		if from == "" {
			from = c.choice().Context
		}
		if of, err = d.Get(c.choice(), from); err != nil {
			return err
		}
		of.Name = name
		if material, err = d.Material(from); err != nil {
			return err
		}
	}
	given, err := c.endpointOf(&of)
	if err != nil {
		return err
	}
	if given != nil {
		material = given
	}
	if material == nil {
		material = map[string][]byte{} // what a context of that name has left is nobody's
	}
	if err := d.Put(of, material); err != nil {
		return err
	}
	fmt.Fprintf(c.err, "Successfully created context %q\n", name)
	_, err = fmt.Fprintln(c.out, name)
	return err
}

// CheckNewContext is an error if a context cannot be made under that name.
func CheckNewContext(d dockerconfig.Dir, name string) error {
	if err := checkContextName(name); err != nil {
		return err
	}
	switch _, err := d.Get(dockerconfig.Choice{}, name); {
	case err == nil:
		return errdef.New(errdef.Conflict, "context %q already exists", name)
	case !errdef.Is(err, errdef.NotFound):
		return err
	}
	return nil
}

// checkContextName allows the names of contexts that are the user's.
func checkContextName(name string) error {
	if name == dockerconfig.DefaultContext {
		return errdef.New(errdef.Invalid, "%q is a reserved context name", name)
	}
	return dockerconfig.CheckName(name)
}

func (c *call) cmdContextUpdate() error {
	d, name := dockerconfig.Default(), c.args[0]
	if err := checkContextName(name); err != nil {
		return err
	}
	of, err := d.Get(c.choice(), name)
	if err != nil {
		return err
	}
	material, err := c.endpointOf(&of)
	if err != nil {
		return err
	}
	if material == nil && len(c.options.dockerEndpoint) > 0 {
		material = map[string][]byte{} // that of the endpoint that was
	}
	if err := d.Put(of, material); err != nil {
		return err
	}
	fmt.Fprintf(c.err, "Successfully updated context %q\n", name)
	_, err = fmt.Fprintln(c.out, name)
	return err
}

// contextRow is a context as context ls shows it; the names of its fields are docker's.
type contextRow struct {
	Current        bool
	Description    string
	DockerEndpoint string
	Error          string
	Name           string
}

func (c *call) cmdContextLs() error {
	choice := c.choice()
	all, err := dockerconfig.Default().List(choice)
	if err != nil {
		return err
	}
	var rows []any
	var cells [][]string
	for _, of := range all {
		r := contextRow{Name: of.Name, Description: of.Description(), DockerEndpoint: of.Host(), Current: of.Name == choice.Context}
		rows = append(rows, r)
		mark := ""
		if r.Current {
			mark = " *"
		}
		cells = append(cells, []string{r.Name + mark, r.Description, r.DockerEndpoint, r.Error})
	}
	if c.options.quiet {
		for _, of := range all {
			if _, err := fmt.Fprintln(c.out, of.Name); err != nil {
				return err
			}
		}
		return nil
	}
	if done, err := c.format(rows); done {
		return err
	}
	return table(c.out, []string{"NAME", "DESCRIPTION", "DOCKER ENDPOINT", "ERROR"}, cells)
}

// contextView is a context as docker's inspect shows it.
type contextView struct {
	dockerconfig.Context
	TLSMaterial map[string][]string
	Storage     struct{ MetadataPath, TLSPath string }
}

func (c *call) cmdContextInspect() error {
	names, choice, d := c.args, c.choice(), dockerconfig.Default()
	if len(names) == 0 {
		names = []string{choice.Context}
	}
	return c.inspectEach(names, func(name string) (any, error) {
		of, err := d.Get(choice, name)
		if err != nil {
			return nil, err
		}
		v := contextView{Context: of, TLSMaterial: map[string][]string{}}
		v.Storage.MetadataPath, v.Storage.TLSPath = "<IN MEMORY>", "<IN MEMORY>"
		if name == dockerconfig.DefaultContext {
			return v, nil
		}
		v.Storage.MetadataPath, v.Storage.TLSPath = d.MetadataPath(name), d.TLSPath(name)
		material, err := d.Material(name)
		if err != nil {
			return nil, err
		}
		for _, file := range dockerconfig.TLSFiles {
			if material[file] != nil {
				v.TLSMaterial["docker"] = append(v.TLSMaterial["docker"], file)
			}
		}
		return v, nil
	})
}

func (c *call) cmdContextRm() error {
	d, current := dockerconfig.Default(), c.configured().CurrentContext
	return c.each(func(name string) error {
		switch {
		case name == dockerconfig.DefaultContext:
			return errdef.New(errdef.Invalid, "context %q cannot be removed", name)
		case name == current && !c.options.force:
			return errdef.New(errdef.Conflict, "context %q is in use, set -f flag to force remove", name)
		case name == current:
			if err := d.SetCurrent(""); err != nil {
				return err
			}
		}
		if err := d.Remove(name); err != nil && !(c.options.force && errdef.Is(err, errdef.NotFound)) {
			return err
		}
		_, err := fmt.Fprintln(c.out, name)
		return err
	})
}

func (c *call) cmdContextShow() error {
	_, err := fmt.Fprintln(c.out, c.choice().Context)
	return err
}

func (c *call) cmdContextUse() error {
	d, name := dockerconfig.Default(), c.args[0]
	if _, err := d.Get(c.choice(), name); err != nil {
		return err
	}
	if err := d.SetCurrent(name); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c.out, name); err != nil {
		return err
	}
	fmt.Fprintf(c.err, "Current context is now %q\n", name)
	if choice := c.choice(); choice.From == "DOCKER_HOST" {
		c.warn("DOCKER_HOST environment variable overrides the active context. To use %q, either set the global --context flag, or unset DOCKER_HOST environment variable.", name)
	}
	return nil
}
