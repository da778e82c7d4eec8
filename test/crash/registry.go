package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// serve starts a registry with an image in it and returns the name of the image; "" where docker-registry is not installed.
func serve(dir string) (reference string, stop func(), err error) {
	stop = func() {}
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		return "", stop, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", stop, err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return "", stop, err
	}
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n", filepath.Join(dir, "registry"), address)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return "", stop, err
	}
	cmd := exec.Command(program, "serve", config)
	if err := cmd.Start(); err != nil {
		return "", stop, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(end) {
			stop()
			return "", func() {}, fmt.Errorf("cannot reach docker-registry at %s", address)
		}
	}
	if err := push(address, "tiny", "v1"); err != nil {
		stop()
		return "", func() {}, err
	}
	return address + "/tiny:v1", stop, nil
}
