package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"

	"berth/internal/errdef"
)

// failure turns an answer that is not what was asked for into an error: *transient, or final and of a kind. It closes
// the body.
func failure(h *host, resp answer, what string) error {
	defer resp.Body.Close()
	text, code := reason(resp)
	from := resp.Request.URL.Host
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		err := errdef.New(errdef.Denied, "%s denies access to %s; it may not exist, or need a login%s", from, what, text)
		return errdef.Hint(err, "berth login %s", h.name)
	case status == http.StatusNotFound:
		return errdef.New(errdef.NotFound, "%s has no %s%s", from, what, text)
	case status == http.StatusTooManyRequests:
		err := errdef.Hint(errdef.New(errdef.Unavailable, "%s answers: too many requests%s", from, text),
			"wait a while, or berth login %s", h.name)
		return &transient{err, retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	case status == http.StatusRequestTimeout, status == http.StatusInternalServerError, status == http.StatusBadGateway,
		status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout:
		err := errdef.New(errdef.Unavailable, "%s answers %d (%s)%s", from, status, http.StatusText(status), text)
		return &transient{err, retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	case status == http.StatusRequestedRangeNotSatisfiable:
		return errdef.New(errdef.Corrupt, "%s has less of %s than was announced", from, what)
	case code == "UNSUPPORTED", status == http.StatusMethodNotAllowed:
		return errdef.New(errdef.Unsupported, "%s cannot give %s%s", from, what, text)
	default:
		return errdef.New(errdef.Unavailable, "%s answers %d (%s) when asked for %s%s", from, status, http.StatusText(status), what, text)
	}
}

// reason is what the registry says itself (distribution-spec, "Error Codes"), made fit for one line on a terminal.
func reason(resp answer) (text, code string) {
	var said struct {
		Errors []struct{ Code, Message string }
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReason))
	if err != nil || json.Unmarshal(data, &said) != nil || len(said.Errors) == 0 {
		return "", ""
	}
	first := said.Errors[0]
	line := first.Code
	if first.Message != "" {
		line = first.Message
	}
	if line = OneLine(line); line == "" {
		return "", first.Code
	}
	return fmt.Sprintf(" (%s)", line), first.Code
}

// OneLine makes text from a registry fit for a message: what a terminal might obey is replaced, and length bounded.
func OneLine(s string) string {
	const most = 300
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
