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

// noneKept is what a helper says, exactly, when it has nothing for a server: the protocol has no status for that.
const noneKept = "credentials not found in native keychain"

// tokenUser in the place of a user's name says that the secret is an identity token.
const tokenUser = "<token>"

// runHelper runs docker-credential-NAME, a program that the user's own configuration names. Its protocol is that of
// docker-credential-helpers: "get", "store" or "erase", the server's name or JSON on stdin, JSON on stdout. That it keeps nothing for
// the server gives nothing.
func runHelper(ctx context.Context, name, do, input string) ([]byte, error) {
	if strings.ContainsAny(name, "/\\\x00") {
		return nil, errdef.New(errdef.Invalid, "%q is not the name of a credential helper", name)
	}
	program := "docker-credential-" + name
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, do)
	cmd.WaitDelay = time.Second // a grandchild may keep the pipes open
	out, diagnosis := &bounded{limit: maxHelper}, &bounded{limit: maxReason}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), out, diagnosis
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && strings.TrimSpace(string(out.kept)) == noneKept {
		return nil, nil
	}
	if err != nil {
		said := OneLine(string(out.kept) + " " + string(diagnosis.kept))
		return nil, errdef.New(errdef.Denied, "%s: %w%s", program, err, inBrackets(said))
	}
	return out.kept, nil
}

// askHelper gets the credentials for a server from a helper.
func askHelper(ctx context.Context, name, server string) (Credentials, error) {
	out, err := runHelper(ctx, name, "get", server)
	if err != nil || out == nil {
		return Credentials{}, err
	}
	var said struct{ Username, Secret string }
	if err := json.Unmarshal(out, &said); err != nil {
		return Credentials{}, errdef.New(errdef.Invalid, "docker-credential-%s gives something other than credentials", name)
	}
	if said.Username == tokenUser {
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
