package cli

import (
	"berth/internal/container"
)

// imageCommands are the rows about images, builds and registries.
func imageCommands() []command {
	return []command{
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
	}
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
