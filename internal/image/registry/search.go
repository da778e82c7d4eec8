package registry

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"berth/internal/errdef"
	"berth/internal/image/reference"
)

// Found is a repository that a search has found, with docker's names of fields.
type Found struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	StarCount   int    `json:"star_count"`
	IsOfficial  bool   `json:"is_official"`
	IsAutomated bool   `json:"is_automated"`
}

// hubIndex is where Docker Hub is searched (docker's registry API, version 1).
const hubIndex = "index.docker.io"

// Search finds repositories of a registry by a part of their names, limit at most. Docker Hub is asked by its own API, others for their
// catalog.
func (c *Client) Search(ctx context.Context, domain, term string, limit int) ([]Found, error) {
	if domain != reference.DefaultDomain {
		return c.searchCatalog(ctx, domain, term, limit)
	}
	h := c.host(hubIndex)
	u := &url.URL{Scheme: "https", Host: hubIndex, Path: "/v1/search", RawQuery: url.Values{"q": {term}, "n": {strconv.Itoa(limit)}}.Encode()}
	var said struct{ Results []Found }
	err := c.retry(ctx, func() error {
		ctx, cancel := context.WithTimeoutCause(ctx, c.smallDeadline(), errSlow)
		defer cancel()
		resp, err := c.send(ctx, h, exchange{method: http.MethodGet, url: u})
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return failure(h, resp, "a search")
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
		if err != nil {
			return broken(ctx, hubIndex, err)
		}
		if err := json.Unmarshal(data, &said); err != nil {
			return errdef.New(errdef.Corrupt, "the answer of %s cannot be read: %w", hubIndex, err)
		}
		return nil
	})
	return said.Results[:min(len(said.Results), limit)], err
}

func (c *Client) searchCatalog(ctx context.Context, domain, term string, limit int) ([]Found, error) {
	all, err := c.Catalog(ctx, domain)
	if errdef.Is(err, errdef.NotFound) {
		return nil, errdef.New(errdef.Unsupported, "%s cannot be searched: it lists no repositories", domain)
	}
	if err != nil {
		return nil, err
	}
	var found []Found
	for _, name := range all {
		if strings.Contains(name, term) && len(found) < limit {
			found = append(found, Found{Name: domain + "/" + name})
		}
	}
	return found, nil
}
