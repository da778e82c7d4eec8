package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"berth/internal/disk"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/host"
	"berth/internal/settings"
)

// unitName is the name of the systemd unit that starts containers when the host has come up.
const unitName = "berth.service"

// unit is that unit. The command line is the program's with the settings that are not found again without it. What the unit has started
// belongs to nobody's unit: stopping this one ends no container, and so does taking it away.
func unit(command []string, user bool) string {
	target, after := "multi-user.target", "Wants=network-online.target\nAfter=network-online.target local-fs.target\n"
	if user {
		target, after = "default.target", "" // a user's manager knows neither
	}
	var words []string
	for _, w := range command {
		w = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(w) // systemd.service(5), COMMAND LINES
		words = append(words, `"`+w+`"`)
	}
	return `[Unit]
Description=Containers of berth, as their restart policies say
` + after + `
[Service]
Type=oneshot
RemainAfterExit=yes
KillMode=process
ExecStart=` + strings.Join(words, " ") + `

[Install]
WantedBy=` + target + `
`
}

// bootCommand is the command line that starts containers, with the settings that came from flags and variables.
func (c *call) bootCommand() ([]string, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find this program's own file: %w", err)
	}
	command := []string{program, "--data-root", c.settings.DataRoot, "--run-root", c.settings.RunRoot}
	for _, k := range settings.Keys {
		from := c.sources[k.Name]
		if k.Name == "data-root" || k.Name == "run-root" || k.Name == "debug" || from != k.Env && !strings.HasPrefix(from, "--") {
			continue
		}
		command = append(command, "--"+k.Name+"="+c.settings.Get(k.Name))
	}
	return append(command, "system", "boot"), nil
}

// cmdEnable has systemd start containers when the host has come up, or no longer.
func (c *call) cmdEnable() error {
	user := os.Geteuid() != 0 || host.Probe().InUserNS
	command, err := c.bootCommand()
	if err != nil {
		return err
	}
	text := unit(command, user)
	if c.options.print {
		_, err := fmt.Fprint(c.out, text)
		return err
	}
	dir, systemctl := "/etc/systemd/system", []string{"systemctl"}
	if user {
		config, err := os.UserConfigDir()
		if err != nil {
			return errdef.New(errdef.Invalid, "cannot find the directory of your units: %w", err)
		}
		dir, systemctl = filepath.Join(config, "systemd/user"), []string{"systemctl", "--user"}
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return errdef.Hint(errdef.New(errdef.Unsupported, "cannot enable the start of containers: this host was not started by systemd"),
			"have its init run, when it has come up: %s", strings.Join(command, " "))
	}
	run := func(args ...string) error {
		words := append(systemctl[:len(systemctl):len(systemctl)], args...)
		out, err := exec.CommandContext(c.context(), words[0], words[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	path := filepath.Join(dir, unitName)
	if c.options.off {
		err := run("disable", unitName)
		if e := os.Remove(path); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
		return errors.Join(err, run("daemon-reload"))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return errdef.New(errdef.Denied, "cannot write the unit: %w", err)
	}
	if err := disk.Replace(path, []byte(text), 0o644, disk.Durable); err != nil {
		return errdef.New(errdef.Denied, "cannot write the unit: %w", err)
	}
	if err := errors.Join(run("daemon-reload"), run("enable", unitName)); err != nil {
		return errdef.New(errdef.Unavailable, "cannot enable the unit %s: %w", path, err)
	}
	fmt.Fprintf(c.out, "%s\n", path)
	if user {
		c.warn("your units start when you log in; to have them start with the host: loginctl enable-linger")
	}
	return nil
}

// cmdBoot starts what is to run after the host has come up.
func (c *call) cmdBoot() error {
	e, err := c.engine()
	if err != nil {
		return err
	}
	var failed []string
	err = e.Boot(func(s engine.Started) {
		if s.Err != nil {
			failed = append(failed, s.Container.Name)
			c.report(s.Err)
			return
		}
		fmt.Fprintln(c.out, s.Container.Name)
	})
	if err == nil && len(failed) > 0 {
		err = errdef.New(errdef.Unavailable, "failed to start containers: %s", strings.Join(failed, ", "))
	}
	return err
}
