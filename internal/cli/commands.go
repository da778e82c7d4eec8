package cli

import (
	"slices"
	"strconv"
	"strings"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/runtime/needs"
)

var parseSignal = container.ParseSignal

// The flags that several commands have.
var (
	flagAll     = flag{"all", "a", "", "Show all", boolean(func(o *options) *bool { return &o.all })}
	flagForce   = flag{"force", "f", "", "Force the removal", boolean(func(o *options) *bool { return &o.force })}
	flagYes     = flag{"force", "f", "", "Do not prompt for confirmation", boolean(func(o *options) *bool { return &o.force })}
	flagDry     = flag{"dry-run", "", "", "Say what would be removed, and remove nothing", boolean(func(o *options) *bool { return &o.dry })}
	flagPruned  = flag{"filter", "", "filter", "Provide filter values (e.g. \"until=<timestamp>\")", set(addFilter)}
	flagQuiet   = flag{"quiet", "q", "", "Only display IDs", boolean(func(o *options) *bool { return &o.quiet })}
	flagNoTrunc = flag{"no-trunc", "", "", "Don't truncate output", boolean(func(o *options) *bool { return &o.noTrunc })}
	flagFormat  = flag{"format", "f", "string", "Format output using a custom template: 'json' or a Go template", text(func(o *options) *string { return &o.format })}
	flagFilter  = flag{"filter", "f", "filter", "Filter output based on conditions provided", set(addFilter)}
	flagSize    = flag{"size", "s", "", "Display total file sizes", boolean(func(o *options) *bool { return &o.size })}
	flagSignal  = flag{"signal", "s", "string", "Signal to send to the container", text(func(o *options) *string { return &o.signal })}
	flagTimeout = flag{"timeout", "t", "int", "Seconds to wait before killing the container", set(func(o *options, v string) error {
		n, err := strconv.Atoi(v)
		o.timeout = &n
		return err
	})}
	flagDetachKeys = flag{"detach-keys", "", "string", "Override the key sequence for detaching a container", set(setDetachKeys)}
	flagInsecure   = flag{"insecure", "", "", "Allow communication with an insecure registry", nil}
	flagPlatforms  = flag{"platform", "", "string", "Platform of the image, like linux/arm64", commaList(func(o *options) *[]string { return &o.platforms })}
	flagProgress   = flag{"progress", "", "string", "Set type of progress output (auto|plain|json)", nil}
	flagPlatform   = flag{"platform", "", "string", "Platform of the image, like linux/arm64", nil}
)

// commands is the table of all commands.
func commands() []command {
	return slices.Concat(containerCommands(), imageCommands(), builderCommands(), otherCommands(), runtimeCommands())
}

// names are all the names of a command, the table's first: docker knows some verbs by several words, and what builds images
// under several groups.
func (c *command) names() []string {
	group, verb, inGroup := strings.Cut(c.name, " ")
	all := []string{c.name}
	if inGroup {
		groups, verbs := []string{group}, []string{verb}
		switch verb {
		case "ls":
			verbs = append(verbs, "list")
		case "rm":
			verbs = append(verbs, "remove")
		case "unmount":
			verbs = append(verbs, "umount")
		}
		switch {
		case c.name == "container ls":
			verbs = append(verbs, "ps")
		case c.name == "image build":
			groups = append(groups, "builder", "buildx")
		case group == "builder":
			groups = append(groups, "buildx")
		}
		all = nil
		for _, g := range groups {
			for _, v := range verbs {
				all = append(all, g+" "+v)
			}
		}
	}
	if c.alias != "" {
		all = append(all, c.alias)
	}
	return all
}

// groups are what the groups of commands are for.
var groups = map[string]string{
	"builder": "Manage builds", "buildx": "Manage builds", "checkpoint": "Manage checkpoints", "container": "Manage containers", "context": "Manage contexts", "image": "Manage images",
	"manifest": "Manage image manifests and manifest lists", "network": "Manage networks", "plugin": "Manage plugins",
	"runtime": "Run the containers of OCI bundles, as runc does", "system": "Manage berth", "volume": "Manage volumes",
}

// isGroup reports whether word begins the names of commands.
func isGroup(word string, table []command) bool {
	return slices.ContainsFunc(table, func(c command) bool {
		return slices.ContainsFunc(c.names(), func(name string) bool { return strings.HasPrefix(name, word+" ") })
	})
}

// otherCommands are those about volumes, networks, contexts and the whole.
func otherCommands() []command {
	return []command{
		{
			name: "volume ls", short: "List volumes", example: "berth volume ls", run: (*call).cmdVolumeLs,
			flags: func() []flag {
				return []flag{
					flagFilter,
					{"format", "", "string", "Format output using a custom template: 'table', 'json' or a Go template", text(func(o *options) *string { return &o.format })},
					flagQuiet,
				}
			},
		},
		{
			name: "volume create", args: "[VOLUME]", short: "Create a volume", example: "berth volume create data", most: 1, run: (*call).cmdVolumeCreate,
			flags: func() []flag {
				return []flag{
					{"driver", "d", "string", "Specify volume driver name (local)", set(func(o *options, v string) error { o.volume.Driver = v; return nil })},
					{"name", "", "string", "Specify volume name (or name it after the options)", text(func(o *options) *string { return &o.volume.Name })},
					{"label", "", "list", "Set metadata for a volume", set(func(o *options, v string) error {
						o.volume.Labels = orEmpty(o.volume.Labels)
						key, value, _ := strings.Cut(v, "=")
						o.volume.Labels[key] = value
						return nil
					})},
					{"opt", "o", "map", "Set driver specific options (type=, o=, device=)", set(func(o *options, v string) error {
						key, value, has := strings.Cut(v, "=")
						if !has {
							return errdef.New(errdef.Invalid, "invalid option %q: it is KEY=VALUE", v)
						}
						o.volume.Options = orEmpty(o.volume.Options)
						o.volume.Options[key] = value
						return nil
					})},
				}
			},
		},
		{name: "volume inspect", args: "VOLUME [VOLUME...]", short: "Display detailed information on one or more volumes", example: "berth volume inspect data", least: 1, most: -1, run: (*call).cmdVolumeInspect, flags: func() []flag { return []flag{flagFormat} }},
		{name: "volume rm", inside: true, args: "VOLUME [VOLUME...]", short: "Remove one or more volumes", example: "berth volume rm data", least: 1, most: -1, run: (*call).cmdVolumeRm, flags: func() []flag { return []flag{flagForce} }},
		{
			name: "volume prune", inside: true, short: "Remove unused local volumes", example: "berth volume prune -f", run: (*call).cmdVolumePrune,
			flags: func() []flag {
				return []flag{
					flagDry,
					{"all", "a", "", "Remove all unused volumes, not just anonymous ones", boolean(func(o *options) *bool { return &o.all })},
					{"filter", "", "filter", "Provide filter values (e.g. \"label=<label>\")", set(addFilter)},
					flagYes,
				}
			},
		},
		{
			name: "volume update", args: "VOLUME", short: "Update a volume (cluster volumes only)", example: "berth volume update --availability drain data", least: 1, most: 1, run: (*call).cmdVolumeUpdate,
			flags: func() []flag {
				return []flag{{"availability", "", "string", "Cluster Volume availability (active|pause|drain)", text(func(o *options) *string { return &o.availability })}}
			},
		},
		{name: "volume rename", args: "VOLUME NEW_NAME", short: "Rename a volume that no container uses", example: "berth volume rename data old", least: 2, most: 2, run: (*call).cmdVolumeRename},
		{name: "volume clone", inside: true, args: "VOLUME NEW_VOLUME", short: "Create a volume with the content of another one", example: "berth volume clone data copy", least: 2, most: 2, run: (*call).cmdVolumeClone},
		{
			name: "volume export", inside: true, args: "VOLUME", short: "Export a volume's content as a tar archive", example: "berth volume export -o data.tar data", least: 1, most: 1, full: true,
			flags: func() []flag { return []flag{{"output", "o", "string", "Write to a file, instead of STDOUT", nil}} },
		},
		{name: "volume import", inside: true, args: "VOLUME [FILE|-]", short: "Import a tar archive into a volume, which is created if need be", example: "berth volume import data data.tar", least: 1, most: 2, full: true},

		{name: "network create", args: "NETWORK", short: "Create a network", example: "berth network create --subnet 10.9.0.0/24 shop", least: 1, most: 1, run: (*call).cmdNetworkCreate, flags: networkCreateFlags},
		{
			name: "network ls", short: "List networks", example: "berth network ls", run: (*call).cmdNetworkLs,
			flags: func() []flag {
				return []flag{
					flagFilter,
					{"format", "", "string", "Format output using a custom template: 'table', 'json' or a Go template", text(func(o *options) *string { return &o.format })},
					flagNoTrunc, flagQuiet,
				}
			},
		},
		{
			name: "network inspect", args: "NETWORK [NETWORK...]", short: "Display detailed information on one or more networks", example: "berth network inspect shop", least: 1, most: -1, run: (*call).cmdNetworkInspect,
			flags: func() []flag {
				return []flag{flagFormat, {"verbose", "v", "", "Verbose output for diagnostics (of services of a swarm, which there are not)", nil}}
			},
		},
		{
			name: "network rm", inside: true, args: "NETWORK [NETWORK...]", short: "Remove one or more networks", example: "berth network rm shop", least: 1, most: -1, run: (*call).cmdNetworkRm,
			flags: func() []flag {
				return []flag{{"force", "f", "", "Do not error if the network does not exist", boolean(func(o *options) *bool { return &o.force })}}
			},
		},
		{
			name: "network prune", inside: true, short: "Remove all unused networks", example: "berth network prune -f", run: (*call).cmdNetworkPrune,
			flags: func() []flag {
				return []flag{
					flagDry,
					flagPruned, flagYes,
				}
			},
		},
		{name: "network connect", inside: true, args: "NETWORK CONTAINER", short: "Connect a container to a network", example: "berth network connect --alias db shop store", least: 2, most: 2, run: (*call).cmdNetworkConnect, flags: networkConnectFlags},
		{
			name: "network disconnect", inside: true, args: "NETWORK CONTAINER", short: "Disconnect a container from a network", example: "berth network disconnect shop store", least: 2, most: 2, run: (*call).cmdNetworkDisconnect,
			flags: func() []flag {
				return []flag{{"force", "f", "", "Force the container to disconnect from a network", boolean(func(o *options) *bool { return &o.force })}}
			},
		},

		{
			name: "context create", args: "CONTEXT", short: "Create a context", example: "berth context create far --docker host=ssh://me@far", least: 1, most: 1, run: (*call).cmdContextCreate,
			flags: func() []flag {
				return append(contextFlags(), flag{"from", "", "string", "Create context from a named context", text(func(o *options) *string { return &o.from })})
			},
		},
		{name: "context export", args: "CONTEXT [FILE|-]", short: "Export a context to a tar archive FILE or a tar stream on STDOUT", example: "berth context export far", least: 1, most: 2, full: true, offline: true},
		{name: "context import", args: "CONTEXT FILE|-", short: "Import a context from a tar or zip file", example: "berth context import far far.dockercontext", least: 2, most: 2, full: true, offline: true},
		{name: "context inspect", args: "[CONTEXT] [CONTEXT...]", short: "Display detailed information on one or more contexts", example: "berth context inspect far", most: -1, run: (*call).cmdContextInspect, flags: func() []flag { return []flag{flagFormat} }},
		{
			name: "context ls", short: "List contexts", example: "berth context ls", run: (*call).cmdContextLs,
			flags: func() []flag {
				return []flag{
					{"format", "", "string", "Format output using a custom template: 'table', 'json' or a Go template", text(func(o *options) *string { return &o.format })},
					{"quiet", "q", "", "Only show context names", boolean(func(o *options) *bool { return &o.quiet })},
				}
			},
		},
		{
			name: "context rm", args: "CONTEXT [CONTEXT...]", short: "Remove one or more contexts", example: "berth context rm far", least: 1, most: -1, run: (*call).cmdContextRm,
			flags: func() []flag {
				return []flag{{"force", "f", "", "Force the removal of a context in use", boolean(func(o *options) *bool { return &o.force })}}
			},
		},
		{name: "context show", short: "Print the name of the current context", example: "berth context show", run: (*call).cmdContextShow},
		{name: "context update", args: "CONTEXT", short: "Update a context", example: "berth context update far --description 'the large one'", least: 1, most: 1, run: (*call).cmdContextUpdate, flags: contextFlags},
		{name: "context use", args: "CONTEXT", short: "Set the current context; commands work on this machine alone", example: "berth context use default", least: 1, most: 1, run: (*call).cmdContextUse},

		{name: "version", short: "Show the berth version information", example: "berth version", run: (*call).cmdVersion, flags: func() []flag {
			return []flag{flagFormat, {"short", "", "", "Print the version on one line", boolean(func(o *options) *bool { return &o.short })}}
		}},
		{name: "system info", alias: "info", short: "Display system-wide information", example: "berth info", run: (*call).cmdInfo, flags: func() []flag { return []flag{flagFormat} }},
		{
			name: "system df", inside: true, short: "Show disk usage", example: "berth system df -v", run: (*call).cmdDf,
			flags: func() []flag {
				return []flag{
					{"format", "", "string", "Format output using a custom template: 'table', 'json' or a Go template", text(func(o *options) *string { return &o.format })},
					{"verbose", "v", "", "Show detailed information on space usage", boolean(func(o *options) *bool { return &o.verbose })},
				}
			},
		},
		{
			name: "system prune", inside: true, short: "Remove unused data", example: "berth system prune -f", run: (*call).cmdSystemPrune,
			flags: func() []flag {
				return []flag{
					flagDry,
					{"all", "a", "", "Remove all unused images not just dangling ones", boolean(func(o *options) *bool { return &o.all })},
					flagPruned, flagYes,
					{"volumes", "", "", "Prune anonymous volumes", boolean(func(o *options) *bool { return &o.volumes })},
				}
			},
		},
		{
			name: "system events", alias: "events", short: "Get real time events", example: "berth events --since 10m --filter event=die", run: (*call).cmdEvents,
			flags: func() []flag {
				return []flag{
					flagFilter,
					{"format", "", "string", "Format output using a custom template: 'json' or a Go template", text(func(o *options) *string { return &o.format })},
					{"since", "", "string", "Show all events created since timestamp", text(func(o *options) *string { return &o.since })},
					{"until", "", "string", "Stream events until this timestamp", text(func(o *options) *string { return &o.until })},
				}
			},
		},
		{
			name: "system import", inside: true, short: "Bring over the images and volumes of docker or podman, which keeps its own", example: "berth system import --from docker --dry-run", full: true,
			flags: func() []flag {
				return []flag{
					{"all", "a", "", "Also bring images and volumes that have no name of their own", nil},
					{"dry-run", "", "", "Say what would be brought over, and change nothing", nil},
					{"filter", "", "filter", "What to bring (type=image|volume, reference=PATTERN of images, name=PATTERN of volumes)", nil},
					{"force", "f", "", "Also bring volumes that running containers have mounted, as they are at that moment", nil},
					{"from", "", "string", "The engine: docker or podman", nil},
					{"root", "", "string", "The engine's directory, unless it is where that engine usually has it", nil},
				}
			},
		},
		{name: "system check", short: "Say what this host has and lacks for running containers", example: "berth system check", run: (*call).cmdCheck},
		{name: "system apparmor-profile", short: "Print the AppArmor profile that lets this program make user namespaces", example: needs.AppArmorCommand, run: (*call).cmdAppArmorProfile},
		{
			name: "system enable", short: "Have systemd start containers after a boot, as their restart policies say", example: "berth system enable", run: (*call).cmdEnable,
			flags: func() []flag {
				return []flag{
					{"off", "", "", "Take the unit away", boolean(func(o *options) *bool { return &o.off })},
					{"print", "", "", "Print the unit, and install nothing", boolean(func(o *options) *bool { return &o.print })},
				}
			},
		},
		{name: "system boot", inside: true, starts: true, short: "Start the containers that are to run after a boot", example: "berth system boot", run: (*call).cmdBoot},
		{
			name: "system migrate", inside: true, short: "Move the files of containers to another storage driver", example: "berth system migrate --to btrfs", run: (*call).cmdMigrate,
			flags: func() []flag {
				return []flag{
					{"dry-run", "", "", "Say what would be moved, and move nothing", boolean(func(o *options) *bool { return &o.dry })},
					{"to", "", "string", "The storage driver (overlay|fuse-overlayfs|btrfs|vfs); default: that of new containers", text(func(o *options) *string { return &o.to })},
				}
			},
		},
		{name: "system reset", inside: true, short: "Remove all containers, volumes, networks and images", example: "berth system reset -f", run: (*call).cmdReset, flags: func() []flag { return []flag{flagYes} }},
		{
			name: "unshare", inside: true, args: "[COMMAND] [ARG...]", short: "Run a command, or a shell, as root of the user namespace of your containers",
			example: "berth unshare ls -l ~/.local/share/berth/volumes", most: -1, stop: true, status: 125, run: (*call).cmdUnshare,
		},
		{name: "config", short: "Print each setting in force and where it comes from", example: "berth config", run: (*call).cmdConfig},
		{name: "log-send", args: "CONTAINER", short: "Send what a container prints to its log driver", example: "berth log-send web", least: 1, most: 1, full: true, hidden: true, flags: func() []flag {
			return []flag{
				{"ready", "", "", "Say on descriptor 4 that it is connected, or why not", nil},
			}
		}},
		{name: "log-compress", args: "CONTAINER", short: "Compress the logs of a container that have been rotated", example: "berth log-compress web", least: 1, most: 1, full: true, hidden: true},
		{name: "log-names", short: "Print the names that the patterns of a log driver's options match", example: "berth log-names < REQUEST", full: true, hidden: true},
		{
			name: "completion", args: "bash|zsh|fish", short: "Generate the autocompletion script for the specified shell",
			example: "berth completion bash > ~/.local/share/bash-completion/completions/berth", least: 1, most: 1, run: (*call).cmdCompletion,
		},
		{name: completeCommand, args: "[WORD...]", short: "Print how a command line could go on, for the scripts of berth completion", example: "berth " + completeCommand + " container st", stop: true, most: -1, hidden: true, run: (*call).cmdComplete},
		{name: "box", inside: true, short: "Make the image that comes with berth", example: "berth box", full: true, hidden: true},
	}
}
