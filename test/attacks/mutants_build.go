package main

// buildMutants are the attacks 21 to 24: Dockerfiles, their contexts, and images that they begin with.
func buildMutants() []mutant {
	const (
		build  = "internal/build/"
		merged = "internal/image/merged/"
	)
	const content = "internal/image/content/"
	hostile, remote := test{script: "attack-21-build"}, test{script: "build-remote"}
	changed := goTest("image/unpack", "TestChangedTreeOrRecipeIsNoticed")
	return []mutant{
		{22, "a subdirectory of a repository is beneath its checkout", build + "git.go", "unix.O_PATH|unix.O_DIRECTORY, 0, disk.Beneath)", "unix.O_PATH|unix.O_DIRECTORY, 0, 0)", remote},
		{22, "a ref is no option of git's", build + "git.go", `strings.HasPrefix(r.ref, "-"), `, "", remote},
		{22, "an address is no program for git", build + "git.go", `, strings.Contains(r.url, "::"):`, ":", remote},
		{22, "a download has the digest that was asked for", build + "add.go", `		return errdef.New(errdef.Corrupt, "digest mismatch`, `		return nil
		return errdef.New(errdef.Corrupt, "digest mismatch`, remote},
		{23, "a link of a tree begins at its root", merged + "resolve.go", "dirs, at = dirs[:1], nil", "return Found{Path: to, Kind: unix.S_IFREG}, nil", hostile},
		{24, "a command is part of what its result is known by", build + "step.go", "		Args: run.Args, Env: run.Env,", "		Env: run.Env,", hostile},
		{24, "a layer of another's cache is what its record says", build + "share.go", "if err == nil && d.Digest != r.DiffID {", "if false {", hostile},
		{24, "a blob that is made of a layer is verified", content + "content.go", "if err == io.EOF && v.digester.Digest() != v.want {", "if false {", changed},
		{24, "a blob is made of the files of its layer", "internal/image/layer/recipe.go", "0, disk.Beneath|unix.RESOLVE_NO_SYMLINKS)", "0, disk.InRoot)", changed},
		{24, "a secret is mounted, not written into the layer", build + "mounts.go", "m.bind(file, target, true)\n\treturn nil\n}\n\n// own gives", "return os.WriteFile(filepath.Join(m.w.Upper(), \"secret\"), value, 0o600)\n}\n\n// own gives", test{script: "build-mounts"}},
	}
}
