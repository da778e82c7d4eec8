package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"berth/internal/disk"
	"berth/internal/errdef"
)

// Keep keeps credentials for a registry in the file at path, of docker's form, or with the credential helper that it names. plain
// says that they are in the file itself, which hides them from nobody who can read it.
func Keep(ctx context.Context, path, domain string, c Credentials) (plain bool, err error) {
	server := ServerName(domain)
	file, err := readAuthFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, errdef.New(errdef.Invalid, "cannot keep the credentials in %s: %w", path, err)
	}
	if helper := file.helper(server, domain); helper != "" {
		if err := storeByHelper(ctx, helper, server, c); err != nil {
			return false, err
		}
		return false, editAuths(path, func(auths map[string]json.RawMessage) bool {
			auths[server] = json.RawMessage("{}")
			return true
		})
	}
	entry := map[string]string{}
	if c.Username != "" {
		entry["auth"] = base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
	}
	if c.IdentityToken != "" {
		entry["identitytoken"] = c.IdentityToken
	}
	data, err := json.Marshal(entry)
	if err != nil {
		return false, err
	}
	return true, editAuths(path, func(auths map[string]json.RawMessage) bool { auths[server] = data; return true })
}

// Forget removes the credentials for a registry from the files, and from the credential helpers that they name.
func Forget(ctx context.Context, files []string, domain string) error {
	server := ServerName(domain)
	names := []string{server, domain, "http://" + domain, "https://" + domain} // as old versions of docker wrote them
	var errs []error
	for _, path := range files {
		file, err := readAuthFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, errdef.New(errdef.Invalid, "cannot remove credentials from %s: %w", path, err))
			continue
		}
		if helper := file.helper(server, domain); helper != "" {
			_, err := runHelper(ctx, helper, "erase", server)
			errs = append(errs, err)
		}
		errs = append(errs, editAuths(path, func(auths map[string]json.RawMessage) bool {
			before := len(auths)
			for _, name := range names {
				delete(auths, name)
			}
			return len(auths) != before
		}))
	}
	return errors.Join(errs...)
}

// helper is the credential helper that keeps what belongs to a registry.
func (a authFile) helper(names ...string) string {
	for _, name := range names {
		if own := a.CredHelpers[name]; own != "" {
			return own
		}
	}
	return a.CredsStore
}

func storeByHelper(ctx context.Context, helper, server string, c Credentials) error {
	user, secret := c.Username, c.Password
	if c.IdentityToken != "" {
		user, secret = tokenUser, c.IdentityToken
	}
	data, err := json.Marshal(map[string]string{"ServerURL": server, "Username": user, "Secret": secret})
	if err == nil {
		_, err = runHelper(ctx, helper, "store", string(data))
	}
	return err
}

// editAuths lets edit change the credentials in a file, of which all else stays as it is; edit says whether it has. The file is
// replaced as a whole: whoever reads it meanwhile sees it before or after. A link to it stays one.
func editAuths(path string, edit func(auths map[string]json.RawMessage) bool) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	fail := func(err error) error {
		return errdef.New(errdef.Invalid, "cannot write the credentials to %s: %w", path, err)
	}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	document, auths := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if len(bytes.TrimSpace(data)) > 0 {
		if json.Unmarshal(data, &document) != nil {
			return fail(errors.New("it is not JSON of the expected form"))
		}
	}
	if raw, ok := document["auths"]; ok && json.Unmarshal(raw, &auths) != nil {
		return fail(errors.New(`its "auths" are not of the expected form`))
	}
	if auths == nil {
		auths = map[string]json.RawMessage{}
	}
	if !edit(auths) {
		return nil
	}
	if document["auths"], err = json.Marshal(auths); err != nil {
		return fail(err)
	}
	if data, err = json.MarshalIndent(document, "", "\t"); err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fail(err)
	}
	if err := disk.Replace(path, data, 0o600, disk.Durable); err != nil {
		return fail(err)
	}
	return nil
}
