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
		{24, "a secret is mounted, not written into the layer", build + "mounts.go", "m.bind(file, target, true)\n\treturn nil\n}\n\n// own gives", "return os.WriteFile(filepath.Join(m.w.Upper(), \"secret\"), value, 0o600)\n}\n\n// own gives", test{script: "build-mounts"}},
	}
}
