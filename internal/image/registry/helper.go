package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"berth/internal/errdef"
)

const (
	helperTimeout = 2 * time.Minute // it may ask its user for a passphrase
	maxHelper     = 64 << 10
)

// askHelper runs docker-credential-NAME get, a program that the user's own configuration names. Its protocol is that of
// docker-credential-helpers: the server's name on stdin, JSON on stdout.
func askHelper(ctx context.Context, name, server string) (Credentials, error) {
	if strings.ContainsAny(name, "/\\\x00") {
		return Credentials{}, errdef.New(errdef.Invalid, "%q is not the name of a credential helper", name)
	}
	program := "docker-credential-" + name
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.WaitDelay = time.Second // a grandchild may keep the pipes open
	out, diagnosis := &bounded{limit: maxHelper}, &bounded{limit: maxReason}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(server), out, diagnosis
	err := cmd.Run()
	// The protocol has no status for "I have none", only this text, exactly, and an exit status of 1.
	const none = "credentials not found in native keychain"
	var exit *exec.ExitError
	if errors.As(err, &exit) && strings.TrimSpace(string(out.kept)) == none {
		return Credentials{}, nil
	}
	if err != nil {
		said := OneLine(string(out.kept) + " " + string(diagnosis.kept))
		return Credentials{}, errdef.New(errdef.Denied, "%s: %w%s", program, err, inBrackets(said))
	}
	var said struct{ Username, Secret string }
	if err := json.Unmarshal(out.kept, &said); err != nil {
		return Credentials{}, errdef.New(errdef.Invalid, "%s gives something other than credentials", program)
	}
	if said.Username == "<token>" { // docker-credential-helpers: the secret is an identity token
		return Credentials{IdentityToken: said.Secret}, nil
	}
	return Credentials{Username: said.Username, Password: said.Secret}, nil
}

func inBrackets(s string) string {
	if s == "" {
		return ""
	}
	return fmt.Sprintf(" (%s)", s)
}

// bounded keeps up to limit bytes and fails on more. The buffer is not embedded: its ReadFrom would be used, and has
// no bound.
type bounded struct {
	kept  []byte
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.kept)+len(p) > b.limit {
		return 0, errors.New("too much output")
	}
	b.kept = append(b.kept, p...)
	return len(p), nil
}
