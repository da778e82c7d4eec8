package fullcli

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"berth/internal/build"
	"berth/internal/cli"
	"berth/internal/dockerconfig"
	"berth/internal/errdef"
	"berth/internal/image"
)

// platforms are those of --platform, with commas between them.
func platforms(given []string) (all []image.Platform, err error) {
	for _, list := range given {
		for text := range strings.SplitSeq(list, ",") {
			p := image.HostPlatform()
			if text != "local" {
				if p, err = image.ParsePlatform(text); err != nil {
					return nil, err
				}
			}
			if !slices.ContainsFunc(all, func(have image.Platform) bool { return have.String() == p.String() }) {
				all = append(all, p)
			}
		}
	}
	return all, nil
}

// annotated is an annotation's key with what it is about: "index,manifest[linux/arm64]:KEY".
var annotated = regexp.MustCompile(`^((?:(?:manifest|index|manifest-descriptor|index-descriptor)(?:\[[^\]]*\])?,?)+):(.*)$`)

// annotations reads --annotation as buildx has it.
func annotations(given []string) (all []build.Annotation, err error) {
	for _, text := range given {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, errdef.New(errdef.Invalid, "invalid annotation %q, expected key=value", text)
		}
		levels := "manifest"
		if m := annotated.FindStringSubmatch(key); m != nil {
			levels, key = m[1], m[2]
		}
		for level := range strings.SplitSeq(levels, ",") {
			level, of, _ := strings.Cut(strings.TrimSuffix(level, "]"), "[")
			if level == "index-descriptor" {
				return nil, errdef.New(errdef.Unsupported, "cannot annotate %s: an image in the store has no descriptor of its index", level)
			}
			all = append(all, build.Annotation{Level: level, Platform: of, Key: key, Value: value})
		}
	}
	return all, nil
}

// proxyArgs adds the proxies of docker's configuration, which RUN is given, unless the command line has others.
func proxyArgs(args map[string]string) error {
	file, err := dockerconfig.Default().Load()
	if err != nil {
		return err
	}
	for _, v := range file.Environment() {
		key, value, _ := strings.Cut(v, "=")
		if _, given := args[key]; !given {
			args[key] = value
		}
	}
	return nil
}

// outputOptions are --output, --push and --load.
func outputOptions(c cli.Call, o *build.Options) error {
	for _, text := range c.Options["output"] {
		out, more, err := output(text)
		if err != nil {
			return err
		}
		o.Outputs = append(o.Outputs, out)
		o.Annotations = append(o.Annotations, more...)
	}
	if option(c, "push") == "true" {
		if len(o.Outputs) == 0 {
			o.Outputs = []build.Output{{Type: build.OutputImage}}
		}
		pushed := false
		for i := range o.Outputs {
			if o.Outputs[i].Type == build.OutputImage {
				o.Outputs[i].Push, pushed = true, true
			}
		}
		if !pushed {
			return errdef.New(errdef.Invalid, "push and %q output can't be used together", o.Outputs[0].Type)
		}
	}
	if option(c, "load") == "true" && len(o.Outputs) > 0 {
		o.Outputs = append(o.Outputs, build.Output{Type: build.OutputImage})
	}
	stdout := 0
	for _, out := range o.Outputs {
		if out.Dest == "-" {
			stdout++
		}
	}
	if stdout > 1 {
		return errdef.New(errdef.Invalid, "only one output can go to standard output")
	}
	o.Registry = newClient(c)
	c.Engine.Images.Fetch = fetchFrom(c, o.Registry)
	return nil
}

// output reads one --output.
func output(text string) (out build.Output, annotate []build.Annotation, err error) {
	if !strings.Contains(text, "=") {
		switch text {
		case "-":
			return build.Output{Type: build.OutputTar, Dest: "-"}, nil, nil
		case build.OutputImage, "registry", build.OutputDocker, build.OutputCache:
			text = "type=" + text
		default:
			path, err := filepath.Abs(text)
			return build.Output{Type: build.OutputLocal, Dest: path}, nil, err
		}
	}
	f, err := fields(text)
	if err != nil {
		return out, nil, err
	}
	flag := func(key string) (on bool) {
		v, ok := f[key]
		if !ok {
			return false
		}
		if on, e := strconv.ParseBool(v); e == nil {
			return on
		}
		err = errdef.New(errdef.Invalid, "invalid value %q of %s in --output %s: it is true or false", v, key, text)
		return false
	}
	out = build.Output{
		Type: f["type"], Dest: f["dest"], Name: f["name"], Rewrite: flag("rewrite-timestamp"), Push: flag("push"),
		Compression: f["compression"], Force: flag("force-compression"),
	}
	isImage := out.Type == build.OutputImage || out.Type == "registry"
	isArchive := out.Type == build.OutputDocker || out.Type == build.OutputOCI
	for key, value := range f {
		var ok bool
		switch key {
		case "type", "dest", "rewrite-timestamp":
			ok = true
		case "name", "compression", "force-compression":
			ok = isImage || isArchive
		case "push", "unpack", "store", "registry.insecure":
			ok = isImage
			if key == "store" && !flag(key) || key == "unpack" && !flag(key) {
				return out, nil, errdef.New(errdef.Unsupported, "cannot do %s=%s: an image is in the store, unpacked, when it is built", key, value)
			}
			if key == "registry.insecure" && flag(key) {
				return out, nil, errdef.Hint(errdef.New(errdef.Unsupported, "cannot do registry.insecure in --output"), "push it with \"berth push --insecure\"")
			}
		case "oci-mediatypes":
			ok = isImage || isArchive
			if !flag(key) {
				return out, nil, errdef.New(errdef.Unsupported, "cannot do oci-mediatypes=%s: images are OCI's", value)
			}
		case "tar":
			ok, out.Directory = isArchive, !flag(key)
		case "platform-split":
			ok = out.Type == build.OutputLocal
			if !flag(key) {
				return out, nil, errdef.New(errdef.Unsupported, "cannot do platform-split=false: each of several platforms has a directory of its own")
			}
		default:
			if name, found := strings.CutPrefix(key, "annotation"); found && (isImage || isArchive) {
				one, e := outputAnnotation(name, value)
				if e != nil {
					return out, nil, e
				}
				annotate, ok = append(annotate, one), true
			}
		}
		if !ok {
			return out, nil, errdef.New(errdef.Unsupported, "cannot understand '%s' in --output %s", key, text)
		}
	}
	if err != nil {
		return out, nil, err
	}
	switch out.Compression {
	case "", build.Uncompressed, build.Gzip, build.Zstd:
	default:
		return out, nil, errdef.New(errdef.Unsupported, "unknown compression %q: it is uncompressed, gzip or zstd", out.Compression)
	}
	switch out.Type {
	case build.OutputLocal, build.OutputTar:
		if out.Dest == "" {
			return out, nil, errdef.New(errdef.Invalid, "dest is required for %s exporter", out.Type)
		}
	case build.OutputOCI:
		if out.Dest == "" {
			return out, nil, errdef.New(errdef.Invalid, "dest is required for oci exporter")
		}
	case "registry":
		out.Type, out.Push = build.OutputImage, true
	case build.OutputDocker, build.OutputImage, build.OutputCache:
	default:
		return out, nil, errdef.New(errdef.Unsupported, "unknown output type %q: it is image, registry, docker, oci, local, tar or cacheonly", out.Type)
	}
	if out.Dest != "" && out.Dest != "-" {
		if out.Dest, err = filepath.Abs(out.Dest); err != nil {
			return out, nil, err
		}
		if st, err := os.Stat(out.Dest); err == nil && st.IsDir() && !out.Directory && out.Type != build.OutputLocal {
			return out, nil, errdef.New(errdef.Invalid, "destination file cannot be a directory: %s", out.Dest)
		}
	}
	if out.Directory && (out.Dest == "" || out.Dest == "-") {
		return out, nil, errdef.New(errdef.Invalid, "tar=false needs a directory: dest=DIR")
	}
	return out, annotate, nil
}

// outputAnnotation reads what is behind "annotation" in an output: ".KEY", "-index.KEY", "-manifest[PLATFORM].KEY".
func outputAnnotation(name, value string) (build.Annotation, error) {
	level, key, ok := strings.Cut(name, ".")
	if !ok || key == "" {
		return build.Annotation{}, errdef.New(errdef.Invalid, "invalid annotation%s in --output", name)
	}
	level = strings.TrimPrefix(level, "-")
	if level == "" {
		level = "manifest"
	}
	all, err := annotations([]string{level + ":" + key + "=" + value})
	if err != nil || len(all) != 1 {
		return build.Annotation{}, errdef.New(errdef.Invalid, "invalid annotation%s in --output", name)
	}
	return all[0], nil
}

// cacheOptions are --cache-from and --cache-to.
func cacheOptions(c cli.Call, o *build.Options) error {
	for _, text := range c.Options["cache-from"] {
		if !strings.Contains(text, "=") { // names of images, with commas between them
			for name := range strings.SplitSeq(text, ",") {
				o.CacheFrom = append(o.CacheFrom, build.CacheSource{Ref: name})
			}
			continue
		}
		f, err := fields(text)
		if err != nil {
			return err
		}
		from, err := cacheSource(f, text, "src", "tag", "digest")
		if err != nil {
			return err
		}
		o.CacheFrom = append(o.CacheFrom, from)
	}
	for _, text := range c.Options["cache-to"] {
		if !strings.Contains(text, "=") {
			if text == "inline" {
				text = "type=inline"
			} else {
				text = "type=registry,ref=" + text
			}
		}
		f, err := fields(text)
		if err != nil {
			return err
		}
		to := build.CacheTarget{Compression: f["compression"]}
		switch f["mode"] {
		case "", "min":
		case "max":
			to.All = true
		default:
			return errdef.New(errdef.Invalid, "invalid mode %q in --cache-to %s: it is min or max", f["mode"], text)
		}
		switch to.Compression {
		case "", build.Uncompressed, build.Gzip, build.Zstd:
		default:
			return errdef.New(errdef.Unsupported, "unknown compression %q: it is uncompressed, gzip or zstd", to.Compression)
		}
		for _, key := range []string{"ignore-error", "oci-mediatypes", "image-manifest", "force-compression"} {
			on, err := strconv.ParseBool(f[key])
			if f[key] != "" && err != nil {
				return errdef.New(errdef.Invalid, "invalid value %q of %s in --cache-to %s: it is true or false", f[key], key, text)
			}
			if key == "ignore-error" {
				to.IgnoreError = on
			} else if f[key] != "" && !on && key != "force-compression" {
				return errdef.New(errdef.Unsupported, "cannot do %s=false in --cache-to: a cache is an OCI image manifest", key)
			}
		}
		if f["type"] == "inline" {
			to.Inline = true
		} else if to.CacheSource, err = cacheSource(f, text, "dest", "tag", "mode", "compression", "ignore-error", "oci-mediatypes", "image-manifest", "force-compression"); err != nil {
			return err
		}
		o.CacheTo = append(o.CacheTo, to)
	}
	return nil
}

// cacheSource reads where a cache is. dir is the key of its directory, and more are further keys that mean something.
func cacheSource(f map[string]string, text, dir string, more ...string) (from build.CacheSource, err error) {
	for key := range f {
		if key != "type" && key != "ref" && key != dir && !slices.Contains(more, key) {
			return from, errdef.New(errdef.Unsupported, "cannot understand '%s' in the cache %s", key, text)
		}
	}
	kind := f["type"]
	if kind == "" && f["ref"] != "" {
		kind = "registry"
	}
	switch kind {
	case "registry":
		if from.Ref = f["ref"]; from.Ref == "" {
			return from, errdef.New(errdef.Invalid, "the cache %s needs ref=", text)
		}
	case "local":
		if f[dir] == "" {
			return from, errdef.New(errdef.Invalid, "the cache %s needs %s=", text, dir)
		}
		from.Tag = f["tag"]
		if f["digest"] != "" {
			if from.Digest, err = image.ParseDigest(f["digest"]); err != nil {
				return from, err
			}
		}
		from.Dir, err = filepath.Abs(f[dir])
	default:
		return from, errdef.New(errdef.Unsupported, "unknown kind of cache %q: it is registry, local or inline", kind)
	}
	return from, err
}

// attestOptions are --attest, --provenance and --sbom.
func attestOptions(c cli.Call, o *build.Options) error {
	given := slices.Clone(c.Options["attest"])
	for _, kind := range []string{"provenance", "sbom"} {
		switch v := option(c, kind); v {
		case "":
		case "true", "1":
			given = append(given, "type="+kind)
		case "false", "0":
			given = append(given, "type="+kind+",disabled=true")
		default:
			given = append(given, "type="+kind+","+v)
		}
	}
	for _, text := range given {
		f, err := fields(text)
		if err != nil {
			return err
		}
		off := f["disabled"] == "true" || f["disabled"] == "1"
		switch f["type"] {
		case "sbom":
			for key := range f {
				if key != "type" && key != "disabled" {
					return errdef.New(errdef.Unsupported, "cannot understand '%s' in %s: packages are found by berth itself", key, text)
				}
			}
			o.SBOM = !off
		case "provenance":
			p := &build.Provenance{Version: "v1"}
			for key, value := range f {
				switch {
				case key == "type", key == "disabled":
				case key == "mode" && (value == "min" || value == "max"):
					p.Max = value == "max"
				case key == "version" && (value == "v1" || value == "v0.2"):
					p.Version = value
				case key == "builder-id":
					p.BuilderID = value
				default:
					return errdef.New(errdef.Unsupported, "cannot understand %s=%s in %s", key, value, text)
				}
			}
			if o.Provenance = p; off {
				o.Provenance = nil
			}
		default:
			return errdef.New(errdef.Invalid, "unknown attestation type %q: it is provenance or sbom", f["type"])
		}
	}
	return nil
}
