package main

// imageMutants are the attacks 25 to 28 and 36: images, archives and registries.
func imageMutants() []mutant {
	const (
		unpack   = "internal/image/unpack/"
		registry = "internal/image/registry/"
		image    = "internal/image/"
	)
	refuses := goTest("image/unpack", "TestApplyRefuses")
	form := goTest("image/unpack", "TestApplyMakesOverlaysForm")
	hostile := goTest("image/transfer", "TestHostileImagesAreRefused")
	return []mutant{
		{25, "links of a layer lead nowhere outside its tree", unpack + "dirs.go", "h.fd, err = disk.OpenIn(x.root, p, flags, 0, disk.InRoot)", "h.fd, err = disk.OpenIn(x.root, p, flags, 0, 0)", form},
		{25, "\"..\" is refused", unpack + "names.go", `if part == ".." {`, `if part == "\x00" {`, refuses},
		{25, "the root is a directory", unpack + "extract.go", "if h.Typeflag != tar.TypeDir { // umoci CVE-2021-29136", "if false {", refuses},
		{25, "a whiteout hides a file", unpack + "names.go", `case hidden == "" || hidden == "." || hidden == "..":`, `case hidden == "\x00":`, refuses},
		{25, "a whiteout is not behind a link", unpack + "dirs.go", "if err == nil && h.viaLink {", "if err == nil && false {", refuses},
		{25, "overlay's whiteouts are not an image's", unpack + "extract.go", "if h.Devmajor == 0 && h.Devminor == 0 && h.Typeflag == tar.TypeChar {", "if false {", refuses},
		{25, "the windows of zstd are bounded", unpack + "compression.go", "zstd.WithDecoderMaxWindow(maxZstdWindow), ", "", goTest("image/unpack", "TestZstdWindowIsBounded")},
		{25, "what was unpacked has the digest that the config says", unpack + "image.go", "if err == nil && result.DiffID != st.DiffID {", "if false {", goTest("image/unpack", "TestImageWithALyingDiffIDLeavesNothing")},

		{26, "a manifest is not an index, too", image + "validate.go", `case fields.has("manifests") && (fields.has("layers") || fields.has("config")):`, "case false:", goTest("image", "TestMediaTypeOfRefusesWhatIsTwoThings")},
		{26, "a document is what it was announced as", image + "validate.go", "case own != \"\" && known && own != declared:", "case false:", goTest("image", "TestMediaTypeOfRefusesWhatIsTwoThings")},
		{26, "a field stands there once", image + "scan.go", "if fields.has(name) {", "if false {", goTest("image", "TestParseManifest")},
		{26, "a blob is named when its digest is verified", image + "content/ingest.go", "if got := in.digester.Digest(); got != in.desc.Digest {", "if got := in.digester.Digest(); false {", goTest("image/content", "TestIngestRefuses")},
		{26, "indexes are not nested without end", image + "transfer/pull.go", "if depth == image.MaxIndexDepth {", "if false {", hostile},
		{26, "a config is not of any size", image + "validate.go", "if m.Config.Size > MaxConfig {", "if m.Config.Size < 0 {", hostile},
		{26, "one blob has one size", image + "transfer/layers.go", "if f != nil && f.desc.Size != blob.Size {", "if f != nil && false {", hostile},

		{27, "credentials stay with the registry", registry + "exchange.go", `if home && x.authorization != "" {`, `if x.authorization != "" {`, goTest("image/registry", "TestCredentialsNeverLeaveTheRegistry")},
		{27, "a redirect leads to http or https", registry + "address.go", `case to.Scheme != "http" && to.Scheme != "https":`, "case false:", goTest("image/registry", "TestRedirectsGoNowhereBad")},
		{27, "a redirect does not give TLS up", registry + "address.go", `case at.Scheme == "https" && to.Scheme == "http":`, "case false:", goTest("image/registry", "TestRedirectIsRefusedByItsURLAlone")},
		{27, "no redirect leads to link-local addresses", registry + "address.go", "case f >= forbidLinkLocal && (ip", "case false && (ip", goTest("image/registry", "TestForbiddenAddresses")},
		{27, "no registry from outside leads to loopback", registry + "address.go", "case f >= forbidLoopback && (ip", "case false && (ip", goTest("image/registry", "TestOutsideRegistryCannotSendUsToLoopback")},
		{27, "a name is checked when it is dialled", registry + "address.go", "			return f.check(ap.Addr())\n", "			_ = ap\n			return nil\n", goTest("image/registry", "TestNamesAreCheckedWhenTheyAreDialled")},
		{27, "a length that lies is found", registry + "blob.go", "if resp.ContentLength >= 0 && resp.ContentLength != b.desc.Size {", "if false {", goTest("image/registry", "TestLiesAboutLengthAreFound")},
		{27, "a secret is not redirected", registry + "exchange.go", "if x.form != nil { // its secret would go along", "if false {", goTest("image/registry", "TestTokenServerCannotRedirectASecretAway")},

		{27, "what is kept for a registry is not given to its mirror", registry + "host.go", "	ref.Domain = h.name\n", "", goTest("image/hosts", "TestWhatIsKeptForARegistryIsNotGivenToItsMirror")},
		{27, "a header for a mirror does not go elsewhere", registry + "exchange.go", "if home && h.is(at) {", "if true {", goTest("image/hosts", "TestWhatIsKeptForARegistryIsNotGivenToItsMirror")},
		{27, "a policy that asks for a signature lets nothing in", image + "policy/policy.go", `		default:
			return errdef.Hint(`, `		default:
			continue
			return errdef.Hint(`, goTest("image/policy", "TestTheLongestScopeCounts")},

		{26, "a copy is what its digest says", image + "relay/relay.go", "case err == io.EOF && (v.digester", "case false && (v.digester", goTest("image/relay", "TestHostileSourcesAreRefusedAndLeaveNothing")},
		{26, "a layout's blob is not a link to a file of the host", image + "relay/layout.go", "os.O_RDONLY|unix.O_NOFOLLOW|", "os.O_RDONLY|", goTest("image/relay", "TestHostileSourcesAreRefusedAndLeaveNothing")},
		{26, "a copied document has its digest", image + "relay/relay.go", "if err := d.Digest.Verify(raw); err != nil {", "if false {\n\t\tvar err error", goTest("image/relay", "TestHostileSourcesAreRefusedAndLeaveNothing")},

		{28, "no value of a config ends before its end", image + "validate.go", `			if strings.IndexByte(s, 0) >= 0 {
				return Image{}`, `			if false {
				return Image{}`, goTest("image", "TestParseConfigRefuses")},
		{28, "a user of an image is read strictly", "internal/container/user.go", "if err != nil || n > math.MaxInt32 {", "if err != nil || n > math.MaxInt64 {", asRoot("28-image-config")},
		{28, "the working directory of an image is made beneath its root", "internal/runtime/plan/build.go", "inRoot     = unix.RESOLVE_IN_ROOT |", "inRoot     =", asRoot("28-image-config")},

		{36, "overlay's attributes are not an image's", "internal/tree/meta.go", `if !strings.HasPrefix(name, "user.") ||`, "if", form},
	}
}
