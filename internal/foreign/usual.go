package foreign

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"
)

// Usual is where an engine has its directories: where its configuration says so, or else where it has them by itself. rootless means the
// user's own engine, not root's. Other files than these two configurations of each are not read; what cannot be read says nothing.
func Usual(engine string, rootless bool, getenv func(string) string) string {
	config, data := "/etc", "/var/lib"
	if rootless {
		home := getenv("HOME")
		config, data = filepath.Join(home, ".config"), filepath.Join(home, ".local/share")
		if dir := getenv("XDG_CONFIG_HOME"); dir != "" {
			config = dir
		}
		if dir := getenv("XDG_DATA_HOME"); dir != "" {
			data = dir
		}
	}
	if engine == Docker {
		var daemon struct {
			DataRoot string `json:"data-root"`
		}
		if text, err := os.ReadFile(filepath.Join(config, "docker/daemon.json")); err == nil && json.Unmarshal(text, &daemon) == nil && daemon.DataRoot != "" {
			return daemon.DataRoot
		}
		return filepath.Join(data, "docker")
	}
	var storage struct {
		Storage struct {
			GraphRoot string `toml:"graphroot"`
		} `toml:"storage"`
	}
	if text, err := os.ReadFile(filepath.Join(config, "containers/storage.conf")); err == nil && toml.Unmarshal(text, &storage) == nil && storage.Storage.GraphRoot != "" {
		return storage.Storage.GraphRoot
	}
	return filepath.Join(data, "containers/storage")
}
