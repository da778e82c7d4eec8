package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"

	"berth/test/registry"

	"github.com/rogpeppe/go-internal/testscript"
)

func haveRegistry() bool {
	_, err := exec.LookPath("docker-registry")
	return err == nil
}

// meSecret is the user "me" with the password "secret", as "htpasswd -B" writes it.
const meSecret = "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"

// startRegistry NAME [private]: the variable is where a docker-registry answers until the script's end; a private one to "me" alone,
// whose password is "secret".
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 && (len(args) != 2 || args[1] != "private") {
		ts.Fatalf("usage: registry NAME [private]")
	}
	dir, err := os.MkdirTemp("", "registry-")
	ts.Check(err)
	users := ""
	if len(args) == 2 {
		users = filepath.Join(dir, "users")
		ts.Check(os.WriteFile(users, []byte(meSecret), 0o600))
	}
	r, err := registry.StartFor(dir, users)
	ts.Check(err)
	ts.Defer(func() {
		r.Stop()
		_ = os.RemoveAll(dir)
	})
	ts.Setenv(args[0], r.Address)
}

// startProxy NAME ADDRESS LOG: the variable is where an HTTP proxy answers until the script's end, for which every host is the server
// at the address. What it is asked for is in the file.
func startProxy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: proxy NAME ADDRESS LOG")
	}
	p, err := registry.StartProxy(args[1], ts.MkAbs(args[2]))
	ts.Check(err)
	ts.Defer(p.Stop)
	ts.Setenv(args[0], p.Address)
}
