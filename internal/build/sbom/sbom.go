// Package sbom lists the packages of a tree, as their managers have noted them there, and writes the list in SPDX's form.
//
// It reads the files of dpkg, apk, pip and npm. It does not look at programs to guess what they are made of, and it cannot read rpm's database.
package sbom

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"berth/internal/errdef"
	"berth/internal/image/merged"

	"golang.org/x/sys/unix"
)

// Package is one package.
type Package struct {
	Kind                   string // deb, apk, pypi, npm
	Name, Version, License string
	Arch, Supplier         string
	From                   string // the file that says so
}

// Found is what a tree has.
type Found struct {
	OS       string // ID of os-release
	Packages []Package
	Unread   []string // databases that are there and cannot be read
}

// maxDatabase bounds a file that is read, in bytes.
const maxDatabase = 64 << 20

// maxPackages bounds the list: what is hostile ends somewhere.
const maxPackages = 200_000

// Find reads what package managers have noted in layers, the topmost first.
func Find(ctx context.Context, layers []string) (found Found, err error) {
	if len(layers) == 0 {
		return found, nil
	}
	read := func(name string) []byte {
		data, err := merged.ReadFile(layers, name, maxDatabase)
		if err != nil {
			return nil // what cannot be read lists nothing
		}
		return data
	}
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		for line := range strings.Lines(string(read(name))) {
			if id, ok := strings.CutPrefix(strings.TrimSpace(line), "ID="); ok && found.OS == "" {
				found.OS = strings.Trim(id, `"'`)
			}
		}
	}
	found.Packages = append(found.Packages, dpkg("var/lib/dpkg/status", read("var/lib/dpkg/status"))...)
	for _, name := range list(layers, "var/lib/dpkg/status.d") { // of distroless images
		if !strings.HasSuffix(name, ".md5sums") {
			file := path.Join("var/lib/dpkg/status.d", name)
			found.Packages = append(found.Packages, dpkg(file, read(file))...)
		}
	}
	found.Packages = append(found.Packages, apk("lib/apk/db/installed", read("lib/apk/db/installed"))...)
	for _, db := range []string{"var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite", "var/lib/rpm/Packages", "var/lib/rpm/Packages.db", "usr/lib/sysimage/rpm/Packages.db"} {
		if f, err := merged.Resolve(layers, db, true); err == nil && f.Kind == unix.S_IFREG {
			found.Unread = append(found.Unread, "/"+db)
		}
	}
	root, err := merged.OpenDir(layers, ".")
	if err != nil {
		return found, err
	}
	defer root.Close()
	w := walker{ctx: ctx, read: read}
	if err := w.walk(root, "", 0); err != nil {
		return found, err
	}
	found.Packages = append(found.Packages, w.packages...)
	slices.SortFunc(found.Packages, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.From, b.From))
	})
	if len(found.Packages) > maxPackages {
		return found, errdef.New(errdef.Unsupported, "cannot list more than %d packages", maxPackages)
	}
	return found, nil
}

func list(layers []string, dir string) (names []string) {
	d, err := merged.OpenDir(layers, dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	_ = d.Entries(func(e merged.Entry) error { names = append(names, e.Name); return nil })
	return names
}

// walker looks for packages of languages, whose places are not fixed.
type walker struct {
	ctx      context.Context
	read     func(string) []byte
	packages []Package
}

// maxDepth is deeper than anything is installed.
const maxDepth = 60

var skipped = []string{"proc", "sys", "dev"}

func (w *walker) walk(dir *merged.Dir, at string, depth int) error {
	if depth > maxDepth || len(w.packages) > maxPackages {
		return nil
	}
	return dir.Entries(func(e merged.Entry) error {
		if err := w.ctx.Err(); err != nil {
			return errdef.As(errdef.Cancelled, context.Cause(w.ctx))
		}
		name := path.Join(at, e.Name)
		switch {
		case e.Dir == nil && e.Name == "package.json" && path.Base(path.Dir(at)) == "node_modules",
			e.Dir == nil && e.Name == "package.json" && strings.HasPrefix(path.Base(path.Dir(at)), "@"):
			if p, ok := npm(name, w.read(name)); ok {
				w.packages = append(w.packages, p)
			}
		case e.Dir == nil:
		case strings.HasSuffix(e.Name, ".dist-info"):
			if p, ok := python(path.Join(name, "METADATA"), w.read(path.Join(name, "METADATA"))); ok {
				w.packages = append(w.packages, p)
			}
		case at == "" && slices.Contains(skipped, e.Name):
		default:
			err := w.walk(e.Dir, name, depth+1)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		return nil
	})
}

// stanzas are groups of "Key: value" lines with an empty line between them. Lines that go on begin with a blank and are left out.
func stanzas(data []byte) (all []map[string]string) {
	var one map[string]string
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if strings.TrimSpace(line) == "" {
			one = nil
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok || line[0] == ' ' || line[0] == '\t' {
			continue
		}
		if one == nil {
			one = map[string]string{}
			all = append(all, one)
		}
		one[key] = strings.TrimSpace(value)
	}
	return all
}

func dpkg(from string, data []byte) (all []Package) {
	for _, s := range stanzas(data) {
		if s["Package"] == "" || s["Status"] != "" && !strings.HasSuffix(s["Status"], " installed") {
			continue
		}
		all = append(all, Package{Kind: "deb", Name: s["Package"], Version: s["Version"], Arch: s["Architecture"], Supplier: s["Maintainer"], From: from})
	}
	return all
}

func apk(from string, data []byte) (all []Package) {
	for _, s := range stanzas(data) {
		if s["P"] != "" {
			all = append(all, Package{Kind: "apk", Name: s["P"], Version: s["V"], Arch: s["A"], License: s["L"], Supplier: s["m"], From: from})
		}
	}
	return all
}

func python(from string, data []byte) (Package, bool) {
	head, _, _ := bytes.Cut(data, []byte("\n\n"))
	for _, s := range stanzas(head) {
		if s["Name"] != "" {
			return Package{Kind: "pypi", Name: strings.ToLower(s["Name"]), Version: s["Version"], License: s["License"], From: from}, true
		}
	}
	return Package{}, false
}

func npm(from string, data []byte) (Package, bool) {
	var p struct {
		Name, Version string
		License       any
	}
	if json.Unmarshal(data, &p) != nil || p.Name == "" || p.Version == "" {
		return Package{}, false
	}
	license, _ := p.License.(string)
	return Package{Kind: "npm", Name: p.Name, Version: p.Version, License: license, From: from}, true
}

// url is the package's, as purl-spec has it.
func (p Package) url(os string) string {
	name := p.Name
	switch p.Kind {
	case "deb", "apk":
		if os != "" {
			name = os + "/" + name
		}
	case "npm":
		name = strings.Replace(name, "@", "%40", 1)
	}
	u := "pkg:" + p.Kind + "/" + name + "@" + strings.ReplaceAll(strings.ReplaceAll(p.Version, "+", "%2B"), ":", "%3A")
	if p.Arch != "" {
		u += "?arch=" + p.Arch
	}
	return u
}

// About is what a document says of itself.
type About struct {
	Name      string
	Created   time.Time
	Namespace string // a URI that no other document has
}

// SPDX writes a list as an SPDX 2.3 document.
func SPDX(found Found, about About) (json.RawMessage, error) {
	type reference struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	type pkg struct {
		Name             string      `json:"name"`
		ID               string      `json:"SPDXID"`
		Version          string      `json:"versionInfo,omitempty"`
		Supplier         string      `json:"supplier,omitempty"`
		DownloadLocation string      `json:"downloadLocation"`
		FilesAnalyzed    bool        `json:"filesAnalyzed"`
		SourceInfo       string      `json:"sourceInfo,omitempty"`
		LicenseConcluded string      `json:"licenseConcluded"`
		LicenseDeclared  string      `json:"licenseDeclared"`
		LicenseComments  string      `json:"licenseComments,omitempty"`
		Copyright        string      `json:"copyrightText"`
		References       []reference `json:"externalRefs,omitempty"`
	}
	type relationship struct {
		Element string `json:"spdxElementId"`
		Related string `json:"relatedSpdxElement"`
		Type    string `json:"relationshipType"`
	}
	const none = "NOASSERTION"
	root := pkg{Name: about.Name, ID: "SPDXRef-Image", DownloadLocation: none, LicenseConcluded: none, LicenseDeclared: none, Copyright: none}
	packages := []pkg{root}
	relationships := []relationship{{"SPDXRef-DOCUMENT", root.ID, "DESCRIBES"}}
	for i, p := range found.Packages {
		one := pkg{
			Name: p.Name, ID: fmt.Sprintf("SPDXRef-Package-%s-%d", p.Kind, i+1), Version: p.Version, DownloadLocation: none,
			SourceInfo: "listed in /" + p.From, LicenseConcluded: none, LicenseDeclared: none, Copyright: none,
			References: []reference{{"PACKAGE-MANAGER", "purl", p.url(found.OS)}},
		}
		if p.License != "" {
			one.LicenseComments = "the package says: " + p.License
		}
		if p.Supplier != "" {
			one.Supplier = "Person: " + p.Supplier
		}
		packages = append(packages, one)
		relationships = append(relationships, relationship{root.ID, one.ID, "CONTAINS"})
	}
	return json.Marshal(map[string]any{
		"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": about.Name, "documentNamespace": about.Namespace,
		"creationInfo": map[string]any{"creators": []string{"Tool: berth"}, "created": about.Created.UTC().Format(time.RFC3339)},
		"packages":     packages, "relationships": relationships,
	})
}
