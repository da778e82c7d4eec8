package cli

import (
	"slices"
	"strconv"
	"strings"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/runtime/needs"
	"berth/internal/volume"
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
	return append([]command{
		{
			name: "container run", inside: true, starts: true, alias: "run", args: "IMAGE [COMMAND] [ARG...]", short: "Create and run a new container from an image",
			example: "berth run --rm -it --network none box", flags: runFlags, least: 1, most: -1, stop: true, status: 125, run: (*call).cmdRun,
		},
		{
			name: "container exec", alias: "exec", args: "CONTAINER COMMAND [ARG...]", short: "Execute a command in a running container",
			example: "berth exec -it web sh", least: 2, most: -1, stop: true, status: 1, run: (*call).cmdExec,
			flags: func() []flag {
				return []flag{
					{"detach", "d", "", "Detached mode: run command in the background", boolean(func(o *options) *bool { return &o.detach })},
					flagDetachKeys,
					{"env", "e", "list", "Set environment variables", set(func(o *options, v string) error { o.config.Env = appendEnv(o.config.Env, v); return nil })},
					{"env-file", "", "list", "Read in a file of environment variables", set(func(o *options, v string) error {
						more, err := readEnvFile(v)
						o.config.Env = append(more, o.config.Env...)
						return err
					})},
					{"interactive", "i", "", "Keep STDIN open even if not attached", boolean(func(o *options) *bool { return &o.interactive })},
					{"privileged", "", "", "Give extended privileges to the command", boolean(func(o *options) *bool { return &o.privileged })},
					{"tty", "t", "", "Allocate a pseudo-TTY", boolean(func(o *options) *bool { return &o.config.TTY })},
					{"user", "u", "string", "Username or UID (format: \"<name|uid>[:<group|gid>]\")", text(func(o *options) *string { return &o.config.User })},
					{"workdir", "w", "string", "Working directory inside the container", text(func(o *options) *string { return &o.config.Workdir })},
				}
			},
		},
		{
			name: "container ls", alias: "ps", short: "List containers", example: "berth ps -a", run: (*call).cmdPs,
			flags: func() []flag {
				return []flag{
					flagAll, flagFilter,
					{"format", "", "string", "Format output using a custom template: 'table', 'json' or a Go template", text(func(o *options) *string { return &o.format })},
					{"last", "n", "int", "Show n last created containers (includes all states)", set(func(o *options, v string) (err error) {
						o.last, err = strconv.Atoi(v)
						return err
					})},
					{"latest", "l", "", "Show the latest created container (includes all states)", boolean(func(o *options) *bool { return &o.latest })},
					flagNoTrunc, flagQuiet, flagSize,
				}
			},
		},
		{name: "container create", inside: true, alias: "create", args: "IMAGE [COMMAND] [ARG...]", short: "Create a new container", example: "berth create --name web --network none box", flags: containerFlags, least: 1, most: -1, stop: true, run: (*call).cmdCreate},
		{
			name: "container start", inside: true, starts: true, alias: "start", args: "CONTAINER [CONTAINER...]", short: "Start one or more stopped containers", example: "berth start -ai web", least: 1, most: -1, run: (*call).cmdStart,
			flags: func() []flag {
				return []flag{
					{"attach", "a", "", "Attach STDOUT/STDERR and forward signals", boolean(func(o *options) *bool { return &o.attachOutput })},
					flagDetachKeys,
					{"interactive", "i", "", "Attach container's STDIN", boolean(func(o *options) *bool { return &o.interactive })},
				}
			},
		},
		{
			name: "container attach", alias: "attach", args: "CONTAINER", short: "Attach local standard input, output, and error streams to a running container", example: "berth attach web", least: 1, most: 1, run: (*call).cmdAttach,
			flags: func() []flag {
				return []flag{
					flagDetachKeys,
					{"no-stdin", "", "", "Do not attach STDIN", boolean(func(o *options) *bool { return &o.noStdin })},
					{"sig-proxy", "", "", "Proxy all received signals to the process", set(func(o *options, v string) error { o.noSigProxy = v == "false"; return nil })},
				}
			},
		},
		{
			name: "container logs", alias: "logs", args: "CONTAINER", short: "Fetch the logs of a container", example: "berth logs -f --tail 10 web", least: 1, most: 1, run: (*call).cmdLogs,
			flags: func() []flag {
				return []flag{
					{"details", "", "", "Show extra details provided to logs", boolean(func(o *options) *bool { return &o.details })},
					{"follow", "f", "", "Follow log output", boolean(func(o *options) *bool { return &o.follow })},
					{"since", "", "string", "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\")", text(func(o *options) *string { return &o.since })},
					{"tail", "n", "string", "Number of lines to show from the end of the logs", text(func(o *options) *string { return &o.tail })},
					{"timestamps", "t", "", "Show timestamps", boolean(func(o *options) *bool { return &o.timestamps })},
					{"until", "", "string", "Show logs before a timestamp or relative", text(func(o *options) *string { return &o.until })},
				}
			},
		},
		{name: "container stop", alias: "stop", args: "CONTAINER [CONTAINER...]", short: "Stop one or more running containers", example: "berth stop -t 3 web", least: 1, most: -1, run: (*call).cmdStop, flags: func() []flag { return []flag{flagSignal, flagTimeout} }},
		{name: "container restart", inside: true, starts: true, alias: "restart", args: "CONTAINER [CONTAINER...]", short: "Restart one or more containers", example: "berth restart web", least: 1, most: -1, run: (*call).cmdRestart, flags: func() []flag { return []flag{flagSignal, flagTimeout} }},
		{name: "container kill", alias: "kill", args: "CONTAINER [CONTAINER...]", short: "Kill one or more running containers", example: "berth kill -s HUP web", least: 1, most: -1, run: (*call).cmdKill, flags: func() []flag { return []flag{flagSignal} }},
		{name: "container pause", alias: "pause", args: "CONTAINER [CONTAINER...]", short: "Pause all processes within one or more containers", example: "berth pause web", least: 1, most: -1, run: (*call).cmdPause},
		{name: "container unpause", alias: "unpause", args: "CONTAINER [CONTAINER...]", short: "Unpause all processes within one or more containers", example: "berth unpause web", least: 1, most: -1, run: (*call).cmdUnpause},
		{name: "container wait", alias: "wait", args: "CONTAINER [CONTAINER...]", short: "Block until one or more containers stop, then print their exit codes", example: "berth wait web", least: 1, most: -1, run: (*call).cmdWait},
		{
			name: "container rm", inside: true, alias: "rm", args: "CONTAINER [CONTAINER...]", short: "Remove one or more containers", example: "berth rm -f web", least: 1, most: -1, run: (*call).cmdRm,
			flags: func() []flag {
				return []flag{
					{"force", "f", "", "Force the removal of a running container (uses SIGKILL)", boolean(func(o *options) *bool { return &o.force })},
					{"link", "l", "", "Remove the specified link (there are none)", boolean(func(o *options) *bool { return &o.link })},
					{"volumes", "v", "", "Remove anonymous volumes associated with the container", boolean(func(o *options) *bool { return &o.volumes })},
				}
			},
		},
		{
			name: "container stats", inside: true, alias: "stats", args: "[CONTAINER...]", short: "Display a live stream of container(s) resource usage statistics", example: "berth stats --no-stream web", most: -1, run: (*call).cmdStats,
			flags: func() []flag {
				return []flag{
					{"all", "a", "", "Show all containers (default shows just running)", boolean(func(o *options) *bool { return &o.all })},
					{"format", "", "string", "Format output using a custom template: 'table', 'json' or a Go template", text(func(o *options) *string { return &o.format })},
					{"no-stream", "", "", "Disable streaming stats and only pull the first result", boolean(func(o *options) *bool { return &o.noStream })},
					flagNoTrunc,
				}
			},
		},
		{name: "container top", inside: true, alias: "top", args: "CONTAINER [ps OPTIONS]", short: "Display the running processes of a container", example: "berth top web -o pid,comm", least: 1, most: -1, stop: true, run: (*call).cmdTop},
		{name: "container rename", alias: "rename", args: "CONTAINER NEW_NAME", short: "Rename a container", example: "berth rename web shop", least: 2, most: 2, run: (*call).cmdRename},
		{name: "container update", alias: "update", args: "CONTAINER [CONTAINER...]", short: "Update configuration of one or more containers", example: "berth update -m 512m --memory-swap 1g web", least: 1, most: -1, run: (*call).cmdUpdate, flags: updateFlags},
		{name: "container port", alias: "port", args: "CONTAINER [PRIVATE_PORT[/PROTO]]", short: "List port mappings or a specific mapping for the container", example: "berth port web 80/tcp", least: 1, most: 2, run: (*call).cmdPort},
		{
			name: "container cp", inside: true, alias: "cp", args: "CONTAINER:SRC_PATH DEST_PATH|- | SRC_PATH|- CONTAINER:DEST_PATH", short: "Copy files/folders between a container and the local filesystem",
			example: "berth cp web:/var/log/app.log .", least: 2, most: 2, full: true,
			flags: func() []flag {
				return []flag{
					{"archive", "a", "", "Archive mode (copy all uid/gid information)", nil},
					{"follow-link", "L", "", "Always follow symbol link in SRC_PATH", nil},
					{"quiet", "q", "", "Suppress progress output during copy", nil},
				}
			},
		},
		{name: "container diff", inside: true, alias: "diff", args: "CONTAINER", short: "Inspect changes to files or directories on a container's filesystem", example: "berth diff web", least: 1, most: 1, run: (*call).cmdDiff},
		{
			name: "container export", inside: true, alias: "export", args: "CONTAINER", short: "Export a container's filesystem as a tar archive", example: "berth export -o web.tar web", least: 1, most: 1, full: true,
			flags: func() []flag { return []flag{{"output", "o", "string", "Write to a file, instead of STDOUT", nil}} },
		},
		{
			name: "container commit", inside: true, alias: "commit", args: "CONTAINER [REPOSITORY[:TAG]]", short: "Create a new image from a container's changes", example: "berth commit -m configured web web:2", least: 1, most: 2, full: true,
			flags: func() []flag {
				return []flag{
					{"author", "a", "string", "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")", nil},
					{"change", "c", "list", "Apply Dockerfile instruction to the created image", nil},
					{"message", "m", "string", "Commit message", nil},
					{"no-pause", "", "", "Disable pausing container during commit", nil},
					{"pause", "p", "", "Pause container during commit (default true)", nil},
				}
			},
		},
		{name: "container prune", inside: true, short: "Remove all stopped containers", example: "berth container prune -f", run: (*call).cmdPrune, flags: func() []flag { return []flag{flagDry, flagPruned, flagYes} }},
		{name: "container inspect", args: "CONTAINER [CONTAINER...]", short: "Display detailed information on one or more containers", example: "berth container inspect web", least: 1, most: -1, run: (*call).cmdInspectContainer, flags: func() []flag { return []flag{flagFormat, flagSize} }},
		{
			name: "inspect", args: "NAME|ID [NAME|ID...]", short: "Return low-level information on berth objects", example: "berth inspect web", least: 1, most: -1, run: (*call).cmdInspect,
			flags: func() []flag {
				return []flag{
					flagFormat, flagSize,
					{"type", "", "string", "Only inspect objects of the given type (container|image|network|volume)", choice(func(o *options) *string { return &o.kind }, "type", "container", "image", "network", "volume")},
				}
			},
		},
		{name: "explain", inside: true, args: "CONTAINER", short: "Show what a running container is made of, and where that differs from its plan", example: "berth explain web", least: 1, most: 1, run: (*call).cmdExplain},

		{
			name: "image ls", alias: "images", args: "[REPOSITORY[:TAG]]", short: "List images", example: "berth images", most: 1, run: (*call).cmdImages,
			flags: func() []flag {
				return []flag{
					{"all", "a", "", "Show all images (there are no intermediate ones to be hidden otherwise)", nil},
					{"digests", "", "", "Show digests", boolean(func(o *options) *bool { return &o.size })},
					flagFilter,
					{"format", "", "string", "Format output using a custom template: 'table', 'json' or a Go template", text(func(o *options) *string { return &o.format })},
					flagNoTrunc, flagQuiet,
					{"tree", "", "", "List multi-platform images as a tree", boolean(func(o *options) *bool { return &o.tree })},
				}
			},
		},
		{
			name: "image history", alias: "history", args: "IMAGE", short: "Show the history of an image", example: "berth history box", least: 1, most: 1, run: (*call).cmdHistory,
			flags: func() []flag {
				return []flag{
					{"format", "", "string", "Format output using a custom template: 'table', 'json' or a Go template", text(func(o *options) *string { return &o.format })},
					{"human", "H", "", "Print sizes and dates in human readable format (default true)", set(func(o *options, v string) error { o.plain = v == "false"; return nil })},
					flagNoTrunc, flagPlatforms,
					{"quiet", "q", "", "Only show image IDs", boolean(func(o *options) *bool { return &o.quiet })},
				}
			},
		},
		{
			name: "image rm", inside: true, alias: "rmi", args: "IMAGE [IMAGE...]", short: "Remove one or more images", example: "berth rmi box", least: 1, most: -1, run: (*call).cmdRmi,
			flags: func() []flag {
				return []flag{flagForce, {"no-prune", "", "", "Do not delete untagged parents (there are none)", nil}, {"platform", "", "strings", "Remove only the given platform variant", flagPlatforms.set}}
			},
		},
		{name: "image tag", alias: "tag", args: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", short: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE", example: "berth tag box localhost:5000/box", least: 2, most: 2, run: (*call).cmdTag},
		{name: "image inspect", args: "IMAGE [IMAGE...]", short: "Display detailed information on one or more images", example: "berth image inspect box", least: 1, most: -1, run: (*call).cmdInspectImage, flags: func() []flag { return []flag{flagFormat, flagPlatforms} }},
		{
			name: "image pull", inside: true, alias: "pull", args: "NAME[:TAG|@DIGEST] [NAME...]", short: "Download one or more images from a registry", example: "berth pull debian:bookworm", least: 1, most: -1, full: true,
			flags: func() []flag {
				return []flag{{"all-tags", "a", "", "Download all tagged images in the repository", nil}, flagPlatform, flagProgress, {"quiet", "q", "", "Suppress verbose output", nil}}
			},
		},
		{
			name: "image push", alias: "push", args: "NAME[:TAG]", short: "Upload an image to a registry", example: "berth push localhost:5000/box", least: 1, most: 1, full: true,
			flags: func() []flag {
				return []flag{{"all-tags", "a", "", "Push all tags of an image to the repository", nil}, flagPlatform, flagProgress, {"quiet", "q", "", "Suppress verbose output", nil}}
			},
		},
		{
			name: "image load", inside: true, alias: "load", short: "Load an image from a tar archive or STDIN", example: "berth load -i image.tar", full: true,
			flags: func() []flag {
				return []flag{{"input", "i", "string", "Read from tar archive file, instead of STDIN", nil}, flagPlatform, {"quiet", "q", "", "Suppress the progress output", nil}}
			},
		},
		{
			name: "image save", alias: "save", args: "IMAGE [IMAGE...]", short: "Save one or more images to a tar archive (streamed to STDOUT by default)", example: "berth save -o box.tar box", least: 1, most: -1, full: true,
			flags: func() []flag {
				return []flag{{"output", "o", "string", "Write to a file, instead of STDOUT", nil}, flagPlatform}
			},
		},
		{
			name: "image import", inside: true, alias: "import", args: "FILE|URL|- [REPOSITORY[:TAG]]", short: "Import the contents from a tarball to create a filesystem image", example: "berth import rootfs.tar debian:mine", least: 1, most: 2, full: true,
			flags: func() []flag {
				return []flag{
					{"change", "c", "list", "Apply Dockerfile instruction to the created image", nil},
					{"message", "m", "string", "Set commit message for imported image", nil},
					flagPlatform,
				}
			},
		},
		{
			name: "image tree", inside: true, args: "IMAGE", short: "Show the layers of an image: what each adds, changes, removes and wastes", example: "berth image tree debian:bookworm", least: 1, most: 1, run: (*call).cmdImageTree,
			flags: func() []flag {
				return []flag{
					{"format", "", "string", "Format output using a custom template: 'table', 'json' or a Go template", text(func(o *options) *string { return &o.format })},
					flagNoTrunc, flagPlatforms,
					{"verbose", "v", "", "Show the paths, too", boolean(func(o *options) *bool { return &o.verbose })},
				}
			},
		},
		{
			name: "image diff", inside: true, args: "IMAGE [IMAGE]", short: "Show how an image's files differ from those of another image, or without its last layer", example: "berth image diff app:2 app:1", least: 1, most: 2, run: (*call).cmdImageDiff,
			flags: func() []flag {
				return []flag{
					{"format", "", "string", "Format output: 'json'", text(func(o *options) *string { return &o.format })},
					flagPlatforms,
				}
			},
		},
		{
			name: "image mount", args: "[IMAGE...]", short: "Show the files of images, for reading, and print where; without arguments, list those that are mounted", example: "ls $(berth image mount box)", most: -1, run: (*call).cmdImageMount,
			flags: func() []flag {
				return []flag{
					{"format", "", "string", "Format the list using a custom template: 'json' or a Go template", text(func(o *options) *string { return &o.format })},
					flagPlatforms,
				}
			},
		},
		{
			name: "image unmount", args: "[IMAGE...]", short: "Take the files of mounted images away again", example: "berth image unmount box", most: -1, run: (*call).cmdImageUnmount,
			flags: func() []flag {
				return []flag{
					{"all", "a", "", "Unmount all images", boolean(func(o *options) *bool { return &o.all })},
					{"force", "f", "", "Unmount also what is in use", boolean(func(o *options) *bool { return &o.force })},
				}
			},
		},
		{
			name: "image copy", args: "SOURCE DESTINATION", short: "Copy an image between registries, OCI layouts, archives and directories, past the store", example: "berth image copy docker://debian:bookworm oci:images:debian", least: 2, most: 2, full: true, offline: true,
			flags: func() []flag {
				return []flag{
					{"all", "a", "", "Copy every platform, and the index that names them", nil},
					flagInsecure, flagPlatform,
					{"quiet", "q", "", "Suppress verbose output", nil},
					{"referrers", "", "", "Copy what refers to the image, too: signatures, attestations, SBOMs", nil},
				}
			},
		},
		{name: "image delete", args: "NAME[:TAG|@DIGEST]", short: "Delete an image from its registry", example: "berth image delete localhost:5000/app:old", least: 1, most: 1, full: true, offline: true, flags: func() []flag { return []flag{flagInsecure} }},
		{name: "image referrers", args: "NAME[:TAG|@DIGEST]", short: "List what refers to an image in its registry: signatures, attestations, SBOMs", example: "berth image referrers localhost:5000/app", least: 1, most: 1, full: true, offline: true, flags: func() []flag { return []flag{flagInsecure} }},
		{name: "image tags", args: "NAME", short: "List the tags of a repository in its registry", example: "berth image tags localhost:5000/app", least: 1, most: 1, full: true, offline: true, flags: func() []flag { return []flag{flagInsecure} }},
		{
			name: "image verify", inside: true, args: "[IMAGE...]", short: "Check every blob and every unpacked layer of images, or of all, against their digests", example: "berth image verify --repair debian:bookworm", most: -1, full: true,
			flags: func() []flag {
				return []flag{
					{"quiet", "q", "", "Print nothing; the exit status says whether all is well", nil},
					{"repair", "", "", "Fetch damaged blobs again from their registries, and unpack damaged layers again", nil},
				}
			},
		},
		{
			name: "image prune", inside: true, short: "Remove unused images", example: "berth image prune -f", run: (*call).cmdImagePrune,
			flags: func() []flag {
				return []flag{
					flagDry,
					{"all", "a", "", "Remove all unused images, not just dangling ones", boolean(func(o *options) *bool { return &o.all })},
					flagPruned, flagYes,
				}
			},
		},
		{
			name: "image build", inside: true, starts: true, alias: "build", args: "PATH | URL | -", short: "Build an image from a Dockerfile",
			example: "berth build -t shop .", least: 1, most: 1, full: true, flags: buildFlags,
		},
		{
			name: "builder prune", inside: true, short: "Remove build cache", example: "berth builder prune -f", run: (*call).cmdBuilderPrune,
			flags: func() []flag {
				return []flag{
					flagDry,
					{"all", "a", "", "Remove all build cache, not just what no image has", boolean(func(o *options) *bool { return &o.all })},
					{"filter", "", "filter", "Provide filter values (e.g. \"until=24h\")", set(addFilter)},
					flagYes,
					{"keep-storage", "", "bytes", "Amount of disk space to keep for cache", set(func(o *options, v string) (err error) {
						o.keepBytes, err = container.ParseBytes(v)
						return err
					})},
				}
			},
		},
		{name: "builder du", inside: true, short: "Show what the build cache holds", example: "berth builder du", run: (*call).cmdBuilderDu, flags: func() []flag {
			return []flag{
				{"verbose", "", "", "Say which step each entry is of", boolean(func(o *options) *bool { return &o.noTrunc })},
			}
		}},

		{
			name: "manifest annotate", args: "MANIFEST_LIST MANIFEST", short: "Add additional information to a local image manifest", example: "berth manifest annotate --variant v8 me/app:1 me/app:1-arm64", least: 2, most: 2, full: true,
			flags: func() []flag {
				return []flag{
					{"arch", "", "string", "Set architecture", nil},
					{"os", "", "string", "Set operating system", nil},
					{"os-features", "", "strings", "Set operating system feature", nil},
					{"os-version", "", "string", "Set operating system version", nil},
					{"variant", "", "string", "Set architecture variant", nil},
				}
			},
		},
		{
			name: "manifest create", args: "MANIFEST_LIST MANIFEST [MANIFEST...]", short: "Create a local manifest list for annotating and pushing to a registry", example: "berth manifest create me/app:1 me/app:1-amd64 me/app:1-arm64", least: 2, most: -1, full: true,
			flags: func() []flag { return []flag{{"amend", "a", "", "Amend an existing manifest list", nil}, flagInsecure} },
		},
		{
			name: "manifest inspect", args: "[MANIFEST_LIST] MANIFEST", short: "Display an image manifest, or manifest list", example: "berth manifest inspect debian:bookworm", least: 1, most: 2, full: true,
			flags: func() []flag {
				return []flag{flagInsecure, {"verbose", "v", "", "Output additional info including layers and platform", nil}}
			},
		},
		{
			name: "manifest push", args: "MANIFEST_LIST", short: "Push a manifest list to a repository", example: "berth manifest push me/app:1", least: 1, most: 1, full: true,
			flags: func() []flag {
				return []flag{flagInsecure, {"purge", "p", "", "Remove the local manifest list after push", nil}}
			},
		},
		{name: "manifest rm", args: "MANIFEST_LIST [MANIFEST_LIST...]", short: "Delete one or more manifest lists from local storage", example: "berth manifest rm me/app:1", least: 1, most: -1, full: true},
		{
			name: "search", args: "TERM", short: "Search Docker Hub, or a registry that lists its repositories, for images", example: "berth search localhost:5000/app", least: 1, most: 1, full: true, offline: true,
			flags: func() []flag {
				return []flag{
					{"filter", "f", "filter", "Filter output based on conditions provided", nil},
					{"format", "", "string", "Pretty-print search using a Go template", nil},
					{"limit", "", "int", "Max number of search results", nil},
					{"no-trunc", "", "", "Don't truncate output", nil},
				}
			},
		},

		{
			name: "login", args: "[SERVER]", short: "Authenticate to a registry", example: "berth login -u me registry.example.com", most: 1, full: true, offline: true,
			flags: func() []flag {
				return []flag{
					{"password", "p", "string", "Password or Personal Access Token (PAT)", nil},
					{"password-stdin", "", "", "Take the Password or Personal Access Token (PAT) from stdin", nil},
					{"username", "u", "string", "Username", nil},
				}
			},
		},
		{name: "logout", args: "[SERVER]", short: "Log out from a registry", example: "berth logout registry.example.com", most: 1, full: true, offline: true},

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
					{"driver", "d", "string", "Specify volume driver name (local)", set(func(o *options, v string) error {
						if v != volume.DriverLocal {
							return errdef.New(errdef.NotFound, "error looking up volume plugin %s: plugin %q not found: there is only local", v, v)
						}
						o.volume.Driver = v
						return nil
					})},
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
	}, runtimeCommands()...)
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

// buildFlags are the flags of build; what they mean is the full program's business.
func buildFlags() []flag {
	return []flag{
		{"add-host", "", "list", "Add a custom host-to-IP mapping (format: \"host:ip\")", nil},
		{"allow", "", "strings", "Allow extra privileged entitlement (security.insecure)", nil},
		{"annotation", "", "list", "Add annotation to the image", nil},
		{"attest", "", "list", "Attestation parameters (format: \"type=sbom\" or \"type=provenance[,mode=max]\")", nil},
		{"build-arg", "", "list", "Set build-time variables", nil},
		{"build-context", "", "list", "Additional build contexts (e.g., name=path)", nil},
		{"builder", "", "string", "The builder to use: there is one, \"default\"", nil},
		{"cache-from", "", "list", "External cache sources (e.g., \"user/app:cache\", \"type=local,src=path/to/dir\")", nil},
		{"cache-to", "", "list", "Cache export destinations (e.g., \"user/app:cache\", \"type=local,dest=path/to/dir\")", nil},
		{"ca-bundle", "", "string", "Let every RUN trust the certificates in a file, which is not left in the image", nil},
		{"call", "", "string", "Set method for evaluating build (build|check|outline|targets)", nil},
		{"cgroup-parent", "", "string", "Set the parent cgroup for the RUN instructions during build", nil},
		{"check", "", "", "Only look at the Dockerfile, and say what could be better", nil},
		{"compress", "", "", "Compress the build context using gzip (it is not sent anywhere)", nil},
		{"cpu-period", "", "int", "Limit the CPU CFS (Completely Fair Scheduler) period", nil},
		{"cpu-quota", "", "int", "Limit the CPU CFS (Completely Fair Scheduler) quota", nil},
		{"cpu-shares", "c", "int", "CPU shares (relative weight)", nil},
		{"cpuset-cpus", "", "string", "CPUs in which to allow execution (0-3, 0,1)", nil},
		{"cpuset-mems", "", "string", "MEMs in which to allow execution (0-3, 0,1)", nil},
		{"explain-cache", "", "", "Say for each step why it was, or was not, found in the cache", nil},
		{"file", "f", "string", "Name of the Dockerfile (default: \"PATH/Dockerfile\")", nil},
		{"force-rm", "", "", "Always remove intermediate containers (they always are)", nil},
		{"iidfile", "", "string", "Write the image ID to a file", nil},
		{"label", "", "list", "Set metadata for an image", nil},
		{"load", "", "", "Put the image into the store, beside other outputs", nil},
		{"memory", "m", "bytes", "Memory limit", nil},
		{"memory-swap", "", "bytes", "Swap limit equal to memory plus swap: -1 to enable unlimited swap", nil},
		{"metadata-file", "", "string", "Write build result metadata to a file", nil},
		{"network", "", "string", "Set the networking mode for the RUN instructions during build", nil},
		{"no-cache", "", "", "Do not use cache when building the image", nil},
		{"no-cache-filter", "", "strings", "Do not cache specified stages", nil},
		{"output", "o", "list", "Output destination (format: \"type=local,dest=path\")", nil},
		{"platform", "", "strings", "Set target platform for build; of several, the image is an index", nil},
		{"progress", "", "string", "Set type of progress output (auto|tty|plain|rawjson|quiet)", nil},
		{"provenance", "", "string", "Shorthand for \"--attest=type=provenance\"", nil},
		{"pull", "", "", "Always attempt to pull all referenced images", nil},
		{"push", "", "", "Shorthand for \"--output=type=registry\"", nil},
		{"quiet", "q", "", "Suppress the build output and print the image ID on success", nil},
		{"rm", "", "", "Remove intermediate containers after a successful build (they always are)", nil},
		{"sbom", "", "string", "Shorthand for \"--attest=type=sbom\"", nil},
		{"secret", "", "list", "Secret to expose to the build (format: \"id=mysecret[,src=/local/secret]\")", nil},
		{"security-opt", "", "strings", "Security options", nil},
		{"shell-on-failure", "", "", "Open a shell where a RUN has failed", nil},
		{"show-context", "", "", "List what of the context is in or out, and which line of .dockerignore says so", nil},
		{"shm-size", "", "bytes", "Shared memory size for build containers", nil},
		{"squash", "", "", "Squash newly built layers into a single new layer", nil},
		{"ssh", "", "list", "SSH agent socket to expose to the build (format: \"default|<id>[=<socket>]\")", nil},
		{"tag", "t", "list", "Image identifier (format: \"[registry/]repository[:tag]\")", nil},
		{"target", "", "string", "Set the target build stage to build", nil},
		{"ulimit", "", "ulimit", "Ulimit options", nil},
	}
}
