package cli

import (
	"strconv"
)

// containerCommands are the rows about containers.
func containerCommands() []command {
	return []command{
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
					{"type", "", "string", "Only inspect objects of the given type (container|image|network|volume)", text(func(o *options) *string { return &o.kind })},
				}
			},
		},
		{name: "explain", inside: true, args: "CONTAINER", short: "Show what a running container is made of, and where that differs from its plan", example: "berth explain web", least: 1, most: 1, run: (*call).cmdExplain},
	}
}
