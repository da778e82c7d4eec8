package fullcli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"berth/internal/cli"
	"berth/internal/errdef"
	"berth/internal/image/reference"
	"berth/internal/image/registry"

	"golang.org/x/term"
)

// maxPassword is more than any token has.
const maxPassword = 64 << 10

func login(c cli.Call) error {
	server := ""
	if len(c.Args) > 0 {
		server = c.Args[0]
	}
	domain, err := registry.Domain(server)
	if err != nil {
		return err
	}
	files := registry.AuthFiles(os.Getenv)
	given, kept, err := credentials(c, domain, files)
	if err != nil {
		return err
	}
	if kept {
		fmt.Fprintf(c.Out, "Authenticating with existing credentials... [Username: %s]\n\n", cli.Visible(given.Username))
	}
	client := newClient(c)
	defer client.Close()
	if err := client.Login(c.Context, domain, given); err != nil {
		return fmt.Errorf("cannot log in to %s: %w", registry.ServerName(domain), err)
	}
	if !kept {
		plain, err := registry.Keep(c.Context, files[0], domain, given)
		if err != nil {
			return err
		}
		if plain {
			fmt.Fprintf(c.Err, "\nWARNING! Your credentials are stored unencrypted in '%s'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n\n", cli.Visible(files[0]))
		}
	}
	_, err = fmt.Fprintln(c.Out, "Login Succeeded")
	return err
}

// credentials are what is given on the command line, by standard input or at the terminal; or, where nothing is given, what is kept.
func credentials(c cli.Call, domain string, files []string) (found registry.Credentials, kept bool, err error) {
	user, password, fromStdin := option(c, "username"), option(c, "password"), option(c, "password-stdin") == "true"
	switch {
	case len(files) == 0:
		return found, false, errdef.New(errdef.Invalid, "there is no place for credentials: neither HOME nor DOCKER_CONFIG is set")
	case fromStdin && password != "":
		return found, false, errdef.New(errdef.Invalid, "--password and --password-stdin are mutually exclusive")
	case fromStdin && user == "":
		return found, false, errdef.New(errdef.Invalid, "Must provide --username with --password-stdin")
	case password != "":
		fmt.Fprintln(c.Err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	}
	if fromStdin {
		data, err := io.ReadAll(io.LimitReader(c.In, maxPassword+1))
		if err != nil || len(data) > maxPassword {
			return found, false, errdef.New(errdef.Invalid, "cannot read a password from standard input: it has more than %d bytes, or %v", maxPassword, err)
		}
		password = strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
		if password == "" {
			return found, false, errdef.New(errdef.Invalid, "password is empty")
		}
	}
	if user == "" && password == "" {
		found, err = registry.FromFiles(files, nil)(c.Context, reference.Reference{Domain: domain})
		if err != nil || found != (registry.Credentials{}) {
			return found, true, err
		}
	}
	if user == "" || password == "" {
		user, password, err = ask(c.Context, c.In, c.Out, domain, user, password)
	}
	return registry.Credentials{Username: user, Password: password}, false, err
}

// ask asks at the terminal for what is missing.
func ask(ctx context.Context, in *os.File, out io.Writer, domain, user, password string) (string, string, error) {
	if !term.IsTerminal(int(in.Fd())) {
		return "", "", errdef.Hint(errdef.New(errdef.Invalid, "Cannot perform an interactive login from a non TTY device"),
			"berth login --username NAME --password-stdin %s", domain)
	}
	// A signal ends the program while it waits, and must not leave a terminal that shows nothing.
	before, err := term.GetState(int(in.Fd()))
	if err != nil {
		return "", "", err
	}
	stop := context.AfterFunc(ctx, func() {
		_ = term.Restore(int(in.Fd()), before)
		fmt.Fprintln(out)
		os.Exit(130)
	})
	defer stop()
	if user == "" {
		fmt.Fprint(out, "Username: ")
		line, err := bufio.NewReaderSize(in, 16).ReadString('\n')
		if err != nil && line == "" {
			return "", "", errdef.New(errdef.Invalid, "username is empty")
		}
		if user = strings.TrimSpace(line); user == "" {
			return "", "", errdef.New(errdef.Invalid, "username is empty")
		}
	}
	if password == "" {
		fmt.Fprint(out, "Password: ")
		data, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(out)
		if err != nil {
			return "", "", err
		}
		if password = string(data); password == "" {
			return "", "", errdef.New(errdef.Invalid, "password is empty")
		}
	}
	return user, password, nil
}

func logout(c cli.Call) error {
	server := ""
	if len(c.Args) > 0 {
		server = c.Args[0]
	}
	domain, err := registry.Domain(server)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "Removing login credentials for %s\n", registry.ServerName(domain))
	return registry.Forget(c.Context, registry.AuthFiles(os.Getenv), domain)
}
