package registry

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"berth/internal/errdef"
)

// forbid says which addresses must not be dialled.
type forbid uint8

const (
	forbidNothing   forbid = iota // the user named the host
	forbidLinkLocal               // a registry named the host
	forbidLoopback                // a registry that is not itself on loopback named the host
)

// check returns why ip must not be dialled. Link-local addresses are where clouds serve credentials to whoever asks
// (169.254.169.254; AWS also fd00:ec2::254), and a registry has no business there. Private networks are allowed:
// registries in companies keep their blobs there.
func (f forbid) check(ip netip.Addr) error {
	ip = ip.Unmap().WithZone("")
	switch {
	case f >= forbidLinkLocal && (ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip == netip.AddrFrom16([16]byte{0: 0xfd, 2: 0x0e, 3: 0xc2, 14: 0x02, 15: 0x54})):
		return &addressError{ip, "link-local"}
	// Dialling the unspecified address reaches loopback on Linux.
	case f >= forbidLoopback && (ip.IsLoopback() || ip.IsUnspecified()):
		return &addressError{ip, "loopback"}
	}
	return nil
}

// addressError is final: no other attempt makes it better.
type addressError struct {
	ip   netip.Addr
	what string
}

func (e *addressError) Error() string {
	return fmt.Sprintf("the registry led to the %s address %s, where registries must not send anybody", e.what, e.ip)
}

// dialer returns a DialContext that checks the address after the name was resolved, just before connect(2). It tries for the given time,
// or where that is 0 for the usual one.
func (s *shared) dialer(f forbid, timeout time.Duration) func(context.Context, string, string) (net.Conn, error) {
	if timeout == 0 {
		timeout = s.opt.StallTimeout
	}
	plain := &net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}
	checked := &net.Dialer{
		Timeout: plain.Timeout, KeepAlive: plain.KeepAlive,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return f.check(ap.Addr())
		},
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if f == forbidNothing || s.isProxy(address) {
			return plain.DialContext(ctx, network, address)
		}
		return checked.DialContext(ctx, network, address)
	}
}

// next is where a redirect from the URL at leads, if we follow it. The rules that can be kept without DNS are kept
// here, because a proxy resolves names for us.
func (f forbid) next(at *url.URL, location string) (*url.URL, error) {
	if location == "" {
		return nil, errdef.New(errdef.Corrupt, "%s redirects to nowhere", at.Host)
	}
	to, err := at.Parse(location)
	if err != nil {
		return nil, errdef.New(errdef.Corrupt, "%s redirects to something that is no URL: %.200q", at.Host, location)
	}
	switch {
	case to.Scheme != "http" && to.Scheme != "https":
		return nil, errdef.New(errdef.Denied, "%s redirects to %.200q, which is neither http nor https", at.Host, to.Redacted())
	case to.Host == "" || to.Hostname() == "":
		return nil, errdef.New(errdef.Corrupt, "%s redirects to %.200q, which names no host", at.Host, to.Redacted())
	case at.Scheme == "https" && to.Scheme == "http":
		return nil, errdef.New(errdef.Denied, "%s redirects from https to http at %s", at.Host, to.Host)
	}
	to.User, to.Fragment, to.RawFragment = nil, "", ""
	if err := f.checkHost(to.Hostname()); err != nil {
		return nil, errdef.As(errdef.Denied, err)
	}
	return to, nil
}

// checkHost is check for what stands in a URL.
func (f forbid) checkHost(name string) error {
	if ip, err := netip.ParseAddr(name); err == nil {
		return f.check(ip)
	}
	if f >= forbidLoopback && isLoopbackHost(name) {
		return f.check(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	return nil
}
