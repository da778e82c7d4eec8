package main

import "fmt"

// Containers are moved from one storage driver to another: a container that has written, removed and replaced something.
func migrateScenarios() []scenario {
	const script = "rm -r /home; mkdir /home; echo kept >/home/file; ln /home/file /home/other; rm -r /var; echo new >/new; chmod 700 /tmp"
	written := [][]string{
		{"run", "-d", "--name", "target", "--network", "none", "box", "sh", "-c", "[ -e /new ] || { " + script + "; }; cat /home/file /home/other /new"},
		{"wait", "target"},
	}
	to := func(driver string) []string { return []string{"system", "migrate", "--to", driver} }
	return []scenario{
		{"system migrate --to vfs", theCommand, written, to("vfs"), afterMigrate("vfs")},
		{"system migrate --to overlay", theCommand, append(written[:2:2], to("vfs")), to("overlay"), afterMigrate("overlay")},
	}
}

// afterMigrate: the container has all that it had, with the one driver or the other, and can be moved to both.
func afterMigrate(driver string) func(*instance, outcome) []string {
	return func(in *instance, o outcome) (wrong []string) {
		now, err := in.berth("inspect", "--format", "{{.Driver}}", "target")
		if err != nil {
			return []string{err.Error()}
		}
		if o.exit == 0 && now != driver+"\n" {
			wrong = append(wrong, "the container was moved, and its driver is "+now)
		}
		for _, next := range []string{"", "vfs", "overlay"} {
			if next != "" {
				wrong = append(wrong, in.must([]string{"system", "migrate", "--to", next})...)
			}
			for _, c := range []struct{ args, want string }{
				{"diff", "C /home\nD /home/box\nA /home/file\nA /home/other\nA /new\nC /tmp\nD /var\n"},
			} {
				if out, err := in.berth(c.args, "target"); err != nil || out != c.want {
					wrong = append(wrong, fmt.Sprintf("%s, %s says %q, %v", next, c.args, out, err))
				}
			}
			if out, err := in.berth("start", "-a", "target"); err != nil || out != "kept\nkept\nnew\n" {
				wrong = append(wrong, fmt.Sprintf("%s, it prints %q, %v", next, out, err))
			}
		}
		return append(wrong, in.must([]string{"rm", "target"})...)
	}
}
