package fullcli

import (
	"context"
	"io"
	"net/http"

	"berth/internal/errdef"
)

// download opens what is at a URL.
func download(ctx context.Context, url string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, errdef.New(errdef.Invalid, "cannot import from %s: %w", url, err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, errdef.New(errdef.Unavailable, "cannot import from %s: %w", url, err)
	}
	if answer.StatusCode != http.StatusOK {
		_ = answer.Body.Close()
		return nil, errdef.New(errdef.Unavailable, "cannot import from %s: the server answers %s", url, answer.Status)
	}
	return answer.Body, nil
}
