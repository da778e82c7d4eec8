package build

import (
	"os"
	"path/filepath"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image"
)

// binfmt is where the kernel says which programs it has executed by others.
const binfmt = "/proc/sys/fs/binfmt_misc"

// emulators are QEMU's names of architectures.
var emulators = map[string]string{
	"amd64": "x86_64", "386": "i386", "arm64": "aarch64", "arm": "arm", "riscv64": "riscv64", "s390x": "s390x", "ppc64le": "ppc64le",
	"loong64": "loongarch64", "mips64le": "mips64el",
}

// interpreted refuses to run programs of a platform that nobody here runs.
func interpreted(p image.Platform) error {
	host := image.HostPlatform()
	if p.OS != host.OS {
		return errdef.New(errdef.Unsupported, "cannot run commands of %s on %s", p, host)
	}
	if image.Rank(host, p) >= 0 {
		return nil
	}
	name := emulators[p.Architecture]
	entries, err := os.ReadDir(binfmt)
	if err == nil && name != "" {
		for _, e := range entries {
			text, err := os.ReadFile(filepath.Join(binfmt, e.Name()))
			if err == nil && strings.HasPrefix(string(text), "enabled") && strings.Contains(string(text), "qemu-"+name) {
				return nil
			}
		}
	}
	return errdef.Hint(errdef.New(errdef.Unsupported, "cannot run commands of %s on %s: the kernel knows no program that emulates it", p, host),
		"install qemu-user-static and binfmt-support, or copy into the image instead of running commands in it")
}
