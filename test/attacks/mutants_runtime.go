package main

// runtimeMutants are the attacks 1 to 14: on containers that start and run.
func runtimeMutants() []mutant {
	const (
		plan      = "internal/runtime/plan/"
		launch    = "internal/engine/launch.go"
		user      = "internal/container/user.go"
		specs     = "internal/runtime/spec/"
		exe       = "01-engine-program"
		workdir   = "02-working-directory"
		masked    = "03-masked-paths"
		links     = "05-links-for-mounts"
		redirects = "06-redirected-writes"
		sockets   = "11-sockets"
	)
	return []mutant{
		{1, "the engine's program is run through a read-only mount", launch, "Attr_set: unix.MOUNT_ATTR_RDONLY", "Attr_set: unix.MOUNT_ATTR_NOSUID", asRoot(exe)},
		{1, "the command that starts a container runs from there, too", "internal/cli/cli.go", "	if cmd.starts && !enters {", "	if false {", asRoot(exe)},
		{1, "the copy of the engine's program is sealed", launch, "unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE", "unix.F_SEAL_SEAL", asUser(exe)},
		{1, "a user's own file is not run itself", launch, "return sealedCopy(self)", "return os.Open(self)", asUser(exe)},

		{2, "the working directory is looked at after it was entered", plan + "process.go", "c.add(Op{Special: Expect,", "_ = (Op{Special: Expect,", asRoot(workdir)},
		{2, "descriptors are closed before the working directory is entered", plan + "process.go", "	c.add(closing)\n", "	_ = closing\n", asRoot(workdir)},
		{2, "descriptors are closed before the working directory is entered, for a user", plan + "process.go", "	c.add(closing)\n", "	_ = closing\n", asUser(workdir)},
		{2, "no place is looked up through a magic link", plan + "build.go", "inRoot     = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS", "inRoot     = unix.RESOLVE_IN_ROOT", asRoot(workdir)},

		{3, "what hides files is the host's null device", plan + "mounts.go", `callOpenTree, atFDCWD, Str("/dev/null")`, `callOpenTree, c.root, Str("dev/null")`, asRoot(masked)},
		{3, "the null device that hides files is read-only", plan + "mounts.go", `c.setattr("keep it as it is", null, attr{set: unix.MOUNT_ATTR_RDONLY}, 0, false)`, "_ = null", asRoot(masked)},
		{3, "the null device that a container has as standard input is read-only", "internal/runtime/lifecycle/null.go", "unix.MOUNT_ATTR_RDONLY |", "", asRoot(masked)},
		{3, "what the kernel shows of the host is hidden and protected", plan + "compile.go", "	c.maskAndProtect()\n", "", asRoot(masked)},

		{4, "ptmx is opened where it is, not where it leads", plan + "devices.go", `pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY, beneath)`, `pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)`, asRoot("04-console")},

		{5, "/proc and /sys are not mounted through a link", plan + "mounts.go", "		resolve = noSymlinks\n", "		resolve = inRoot\n", asRoot(links)},
		{5, "places of mounts are looked up beneath the root", plan + "build.go", "inRoot     = unix.RESOLVE_IN_ROOT |", "inRoot     =", asRoot(links)},
		{5, "places of mounts are looked up beneath the root, for a user", plan + "build.go", "inRoot     = unix.RESOLVE_IN_ROOT |", "inRoot     =", asUser(links)},

		{6, "what is written to the process's own /proc crosses no mount", plan + "process.go", "unix.O_WRONLY, sameMount)", "unix.O_WRONLY, inRoot)", asRoot(redirects)},
		{6, "a sysctl is written without crossing a mount", plan + "compile.go", "unix.O_WRONLY, beneath)", "unix.O_WRONLY, inRoot)", asRoot(redirects)},
		{6, "only a container's own sysctls are written", plan + "compile.go", `return fmt.Errorf("the sysctl %q belongs to the whole host, not to a container", key)`, "return nil", asRoot(redirects)},

		{7, "the place of a mount is made in a directory that is open", plan + "build.go", "callMknodat, dir, Str(part)", "callMknodat, root, Str(here)", asRoot("07-mount-races")},
		{7, "links of a volume lead nowhere outside", plan + "build.go", "inRoot     = unix.RESOLVE_IN_ROOT |", "inRoot     =", asRoot("07-mount-races")},

		{8, "control groups are read-only", specs + "mounts.go", `groups, further := access, []specs.Mount(nil)`, `groups, further := "rw", []specs.Mount(nil)`, asRoot("08-control-groups")},
		{8, "/sys is read-only", specs + "mounts.go", `Options: []string{"nosuid", "noexec", "nodev", access}`, `Options: []string{"nosuid", "noexec", "nodev", "rw"}`, asRoot("08-control-groups")},

		{9, "no capability is inheritable", specs + "spec.go", "&specs.LinuxCapabilities{Bounding: capabilities}", "&specs.LinuxCapabilities{Bounding: capabilities, Inheritable: capabilities}", asRoot("09-inheritable")},
		{9, "no capability is inheritable, for a user", specs + "spec.go", "&specs.LinuxCapabilities{Bounding: capabilities}", "&specs.LinuxCapabilities{Bounding: capabilities, Inheritable: capabilities}", asUser("09-inheritable")},

		{10, "an id is not cut", user, "if err != nil || n > math.MaxInt32 {", "if err != nil || n > math.MaxInt64 {", asRoot("10-user")},
		{10, "an id is decimal digits", user, `	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
`, `	n, err := strconv.ParseInt(strings.TrimSpace(s), 0, 64)
	if err != nil {
		return 0, false, nil
	}
`, asRoot("10-user")},
		{10, "an entry whose id is none does not count", user, "if !isUID || !isGID ||", "if _ = isUID && isGID;", asRoot("10-user")},

		{11, "the upper half of a register is not compared", "internal/runtime/seccomp/seccomp.go", "filter, err := compile(profile, opt, false)", "filter, err := compile(profile, opt, true)", asRoot(sockets)},
		{11, "socketcall, whose arguments no filter sees, makes no socket", "internal/runtime/lifecycle/start.go", "seccomp.Options{Arch: h.Arch}", "seccomp.Options{Arch: h.Arch, TrustSocketcall: true}", asRoot(sockets)},
		{11, "there is a filter", specs + "spec.go", "return seccomp.Default(capabilities, h.Arch, h.Kernel), nil", "return nil, nil", asUser(sockets)},
		{11, "socketcall, in the evaluator and the kernel", "internal/runtime/seccomp/mux.go", "pinned := !c.opt.TrustSocketcall && !passes(c.actions[action])", "pinned := false", goTest("runtime/seccomp", "TestDefaultFilterInTheKernel")},

		{12, "a process is known by when it was started, too", "internal/state/process.go", "t == 0 || t != p.StartTime ||", "t == 0 ||", asRoot("12-process-ids")},

		{13, "a process that joins for exec is not dumpable", plan + "exec.go", `flags(unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"), num(0)`, `flags(unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"), num(1)`, asUser("13-joining-exec")},

		{14, "the monitor's socket has no abstract name", "internal/runtime/monitor/clients.go", "	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)\n", `	if a, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); err == nil {
		_ = unix.Bind(a, &unix.SockaddrUnix{Name: "@berth-" + runDir})
		_ = unix.Listen(a, 1)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
`, asRoot("14-abstract-sockets")},

		{15, "cp looks paths up beneath the container's root", "internal/engine/copy.go", "flags|unix.O_PATH, 0, disk.InRoot)", "flags|unix.O_PATH, 0, 0)", asRoot("15-copy")},
		{15, "cp looks paths up beneath the container's root, for a user", "internal/engine/copy.go", "flags|unix.O_PATH, 0, disk.InRoot)", "flags|unix.O_PATH, 0, 0)", asUser("15-copy")},
		{15, "cp follows no link that it finds", "internal/tree/tree.go", "flags|unix.O_NOFOLLOW|unix.O_CLOEXEC", "flags|unix.O_CLOEXEC", asRoot("15-copy")},
		{15, "cp opens no FIFO", "internal/tree/tree.go", "	case unix.S_IFREG:\n		err = c.file", "	case unix.S_IFREG, unix.S_IFIFO:\n		err = c.file", asRoot("15-copy")},
		{15, "cp makes no device on the host", "internal/engine/copy.go", "NoDevices: true", "NoDevices: false", asRoot("15-copy")},
		{18, "an archive is unpacked beneath the container's root", "internal/image/unpack/place.go", "unix.O_PATH|unix.O_DIRECTORY, 0, disk.InRoot)", "unix.O_PATH|unix.O_DIRECTORY, 0, 0)", asRoot("15-copy")},
	}
}
