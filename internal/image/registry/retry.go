package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"berth/internal/errdef"
)

// maxTries is how often one thing is tried before we give up.
const maxTries = 5

// transient is a failure that may be over when we try again.
type transient struct {
	error
	after time.Duration // how long the server asked us to wait, or 0
}

func (t *transient) Unwrap() error { return t.error }

// retry calls f until it succeeds, fails for good or has failed too often.
func (c *Client) retry(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		var t *transient
		if !errors.As(err, &t) {
			return err
		}
		if ctx.Err() != nil {
			return ended(ctx)
		}
		if try == maxTries {
			return t.error
		}
		if t.after > c.opt.Patience {
			return fmt.Errorf("%w; it asks to come back in %s", t.error, t.after)
		}
		if err := c.pause(ctx, try, t); err != nil {
			return err
		}
	}
}

// pause waits before the next try, which it announces.
func (c *Client) pause(ctx context.Context, try int, t *transient) error {
	d := t.after
	if d == 0 {
		d = c.firstPause << (try - 1)
		d += rand.N(d / 2) // so that a thousand machines that failed together do not come back together
	}
	c.say(fmt.Sprintf("%v; trying again in %s", t.error, d.Round(100*time.Millisecond)))
	return wait(ctx, d)
}

// retryAfter reads the header of that name: seconds, or a date (RFC 9110, section 10.2.3); 0 when there is none.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil && date.After(now) {
		return date.Sub(now).Round(time.Second)
	}
	return 0
}

// errSlow is why a request ended whose answer is held in memory and came too slowly.
var errSlow = errors.New("the answer takes too long")

// ended says why ctx is over: we lost patience, or the caller did.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, errSlow) {
		return errdef.As(errdef.Cancelled, cause)
	}
	return errdef.As(errdef.Unavailable, errSlow)
}

// classify says what a failed request means: final, or *transient.
func (h *host) classify(ctx context.Context, at *url.URL, err error) error {
	var (
		address *addressError
		dns     *net.DNSError
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		op      *net.OpError
	)
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
		err = errStalled
	} else if cause != nil {
		return ended(ctx)
	}
	switch {
	case errors.As(err, &address):
		return errdef.As(errdef.Denied, address)
	case errors.As(err, &cert):
		return errdef.Hint(errdef.New(errdef.Denied, "the certificate of %s is not to be trusted: %w", at.Host, cert.Err),
			"add the authority that signed it, or say that this registry is insecure")
	case errors.As(err, &record):
		return errdef.Hint(errdef.New(errdef.Unavailable, "%s does not speak TLS", at.Host),
			"if that is meant to be so, say that this registry is insecure")
	case errors.As(err, &dns) && dns.IsNotFound:
		return errdef.New(errdef.Unavailable, "there is no host %s: %w", at.Hostname(), dns)
	}
	unavailable := errdef.New(errdef.Unavailable, "%s does not answer: %w", at.Host, err)
	h.mu.Lock()
	answered := h.answered
	h.mu.Unlock()
	// A registry that was there a moment ago is being restarted; one that never was is a mistake in its name, or this machine has no network. The
	// servers for names have been asked several times by now.
	if errors.As(err, &op) && op.Op == "dial" && !answered && (dns != nil || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENETUNREACH)) {
		return unavailable
	}
	return &transient{error: unavailable}
}

// broken says what a body that could not be read to its end means.
func broken(ctx context.Context, host string, err error) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = errors.New("it ended the connection early")
	}
	return &transient{error: errdef.New(errdef.Unavailable, "%s stopped in the middle: %w", host, err)}
}
