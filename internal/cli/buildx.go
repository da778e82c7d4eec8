package cli

import (
	"fmt"
	"runtime"
	"strings"

	"berth/internal/errdef"
)

// builderName is the one builder's: berth builds in the process of the command, which needs nothing that would have to be made before.
const builderName = "default"

// builderCommands are what buildx's users type about builders.
func builderCommands() []command {
	return []command{
		{name: "builder ls", short: "List builders: there is one", example: "berth buildx ls", run: (*call).cmdBuilderLs},
		{name: "builder inspect", args: "[NAME]", short: "Show what the builder is", example: "berth buildx inspect", most: 1, run: (*call).cmdBuilderInspect, flags: func() []flag {
			return []flag{{"bootstrap", "", "", "Ensure builder has booted before inspecting (it always has)", boolean(func(*options) *bool { return new(bool) })}}
		}},
		{name: "builder version", short: "Show which program builds", example: "berth buildx version", run: (*call).cmdBuilderVersion},
		{name: "builder use", args: "NAME", short: "Choose the builder: there is one", example: "berth buildx use default", least: 1, most: 1, run: (*call).cmdBuilderUse},
		{name: "builder create", args: "[CONTEXT|ENDPOINT]", short: "Say why no builder is made", example: "berth buildx create", most: 1, run: (*call).cmdBuilderCreate, flags: func() []flag {
			return refused("append=", "bootstrap=", "buildkitd-config", "buildkitd-flags", "driver", "driver-opt", "leave=", "name", "node", "platform", "use=")
		}},
		{name: "builder rm", args: "[NAME]", short: "Say why no builder is removed", example: "berth buildx rm default", most: 1, run: (*call).cmdBuilderRm, flags: func() []flag {
			return refused("all-inactive=", "force=f", "keep-daemon=", "keep-state=")
		}},
		{name: "builder bake", args: "[TARGET...]", short: "Say how the targets of a bake file are built", example: "berth buildx bake", most: -1, run: (*call).cmdBuilderBake, flags: func() []flag {
			return refused("allow", "file f", "load=", "no-cache=", "print=", "progress", "pull=", "push=", "set")
		}},
	}
}

// refused are flags of a command that is refused whatever they say: NAME takes a value, NAME= does not; a letter may follow.
func refused(names ...string) (all []flag) {
	for _, n := range names {
		f := flag{kind: "list", help: "Docker's; the command is refused with it and without", set: func(*call, string) error { return nil }}
		if name, short, is := strings.Cut(n, "="); is {
			f.name, f.short, f.kind = name, short, ""
		} else {
			f.name, f.short, _ = strings.Cut(n, " ")
		}
		all = append(all, f)
	}
	return all
}

func (c *call) cmdBuilderLs() error {
	head := []string{"NAME/NODE", "DRIVER/ENDPOINT", "STATUS", "BUILDKIT", "PLATFORMS"}
	return table(c.out, head, [][]string{
		{builderName + "*", "berth", "", "", ""},
		{` \_ ` + builderName, ` \_ ` + builderName, "running", Version, "linux/" + runtime.GOARCH},
	})
}

func (c *call) cmdBuilderInspect() error {
	if len(c.args) > 0 && c.args[0] != builderName {
		return noBuilder(c.args[0])
	}
	_, err := fmt.Fprintf(c.out, "Name:   %[1]s\nDriver: berth\n\nNodes:\nName:             %[1]s\nEndpoint:         %[1]s\nStatus:           running\nBuildKit version: %s\nPlatforms:        linux/%s\n",
		builderName, Version, runtime.GOARCH)
	return err
}

func (c *call) cmdBuilderVersion() error {
	_, err := fmt.Fprintf(c.out, "berth %s\n", Version)
	return err
}

func (c *call) cmdBuilderUse() error {
	if c.args[0] != builderName {
		return noBuilder(c.args[0])
	}
	return nil
}

func (c *call) cmdBuilderCreate() error {
	return errdef.Hint(errdef.New(errdef.Unsupported, "cannot create a builder: berth builds in the command itself, and has the one builder %q", builderName),
		"leave it out: berth build can all that a builder is made for, as --platform, --cache-to and --output")
}

func (c *call) cmdBuilderRm() error {
	name := builderName
	if len(c.args) > 0 {
		name = c.args[0]
	}
	if name != builderName {
		return noBuilder(name)
	}
	return errdef.Hint(errdef.New(errdef.Unsupported, "cannot remove the builder %q: it is the only one, and nothing of it runs", name), "berth builder prune removes what builds have kept")
}

func (c *call) cmdBuilderBake() error {
	return errdef.Hint(errdef.New(errdef.Unsupported, "cannot build from a bake file: they are not understood"), "build each of its targets by berth build --target NAME")
}

func noBuilder(name string) error {
	return errdef.Hint(errdef.New(errdef.NotFound, "no builder %q found", name), "there is one: "+builderName)
}
