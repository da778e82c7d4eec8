// Package registry starts Debian's docker-registry on the loopback for tests that need one, and brings images into it. It is a
// helper of the programs under test/, knows no berth, and answers no request itself.
package registry

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// ErrNotInstalled says that there is no docker-registry on this machine.
var ErrNotInstalled = errors.New("docker-registry is not installed: apt-get install docker-registry")

// Registry is a running docker-registry.
type Registry struct {
	Address string // host:port
	cmd     *exec.Cmd
}

// Start starts a registry that keeps its files in dir.
func Start(dir string) (*Registry, error) { return StartFor(dir, "") }

// StartFor starts one that answers the users of an htpasswd file alone, if one is named.
func StartFor(dir, users string) (*Registry, error) {
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		return nil, ErrNotInstalled
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Registry{Address: l.Addr().String()}
	if err := l.Close(); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nhttp: {addr: %q}\n", r.Address)
	text += "storage: {delete: {enabled: true}, filesystem: {rootdirectory: " + filepath.Join(dir, "registry") + "}}\n"
	if users != "" {
		text += "auth: {htpasswd: {realm: test, path: " + users + "}}\n"
	}
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	r.cmd = exec.Command(program, "serve", config)
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", r.Address); err == nil {
			return r, c.Close()
		}
		if time.Now().After(end) {
			r.Stop()
			return nil, fmt.Errorf("cannot reach docker-registry at %s", r.Address)
		}
	}
}

// Stop ends the registry; its files stay.
func (r *Registry) Stop() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}
