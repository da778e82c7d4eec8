package main

// buildMutants are the attacks 21 to 24: Dockerfiles, their contexts, and images that they begin with.
func buildMutants() []mutant {
	const (
		build  = "internal/build/"
		merged = "internal/image/merged/"
	)
	hostile := test{script: "attack-21-build"}
	return []mutant{
		{23, "a link of a tree begins at its root", merged + "resolve.go", "dirs, at = dirs[:1], nil", "return Found{Path: to, Kind: unix.S_IFREG}, nil", hostile},
		{23, "\"..\" does not leave a tree", merged + "resolve.go", "if len(at) > 0 {\n\t\t\t\tdirs, at", "if true {\n\t\t\t\tdirs, at", hostile},
		{22, "a Dockerfile of a context is read beneath it", build + "source.go", "text, err := disk.ReadBounded(int(root.Fd()), n, maxDockerfile)", "text, err := os.ReadFile(filepath.Join(dir, n))", hostile},
		{22, "what is left out is read within bounds", build + "source.go", "text, err := disk.ReadBounded(int(root.Fd()), name, maxIgnore)", "text, err := disk.ReadBounded(int(root.Fd()), name, 1<<40)", hostile},
		{24, "the key of a command has its arguments", build + "step.go", "Args: run.Args, Env: run.Env,", "Env: run.Env,", hostile},
		{24, "a secret is mounted, not written into the layer", build + "mounts.go", "m.bind(file, target, true)\n\treturn nil\n}\n\n// own gives", "return os.WriteFile(filepath.Join(m.w.Upper(), \"secret\"), value, 0o600)\n}\n\n// own gives", test{script: "build-mounts"}},
	}
}
