// Package egress is the only way to addresses that users gave: an HTTP client
// that can't be talked into private networks. What a name resolves to is checked
// when the connection is made, on every attempt, so a name that changes its
// meaning after it was registered gains nothing.
package egress

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"

	"ringback.dev"
)

// Options say what is allowed beyond public https addresses.
type Options struct {
	// AllowHTTP permits plain http.
	AllowHTTP bool
	// AllowPrivate permits loopback, private and other special addresses.
	AllowPrivate bool
	// MaxIdlePerHost bounds the kept-alive connections to one host; zero means 128.
	MaxIdlePerHost int
}

// ErrBlocked is wrapped when an address is one that must not be reached.
var ErrBlocked = errors.New("the address is not public")

// maxURI bounds the length of an address.
const maxURI = 2048

// Client returns a client that follows no redirect, uses no proxy and has no
// time-out of its own: the request's context bounds it.
func Client(o Options) *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	if !o.AllowPrivate {
		dialer.Control = guard()
	}
	perHost := o.MaxIdlePerHost
	if perHost == 0 {
		perHost = 128
	}
	return &http.Client{
		Transport: &Transport{
			Dial:    dialer.DialContext,
			MaxIdle: 2048, MaxIdlePerHost: perHost,
			IdleTimeout: 90 * time.Second, HandshakeTimeout: 10 * time.Second,
			MaxHeader: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// newGuard knows the addresses that are not public by IANA's tables, and one that
// is, but by which Azure's machines reach their host.
func newGuard() *ssrf.Guardian {
	return ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(netip.MustParsePrefix("168.63.129.16/32")))
}

// guard checks an address as it is connected to.
func guard() func(network, address string, c syscall.RawConn) error {
	g := newGuard()
	return func(network, address string, c syscall.RawConn) error {
		if err := g.Safe(network, address, c); err != nil {
			return ErrBlocked
		}
		return nil
	}
}

// CheckURI checks an address when it is registered. What can be refused without
// resolving a name is refused here; Client checks the rest at every attempt. The
// errors are InvalidArgument and name the setting that would allow the address.
func CheckURI(raw string, o Options) error {
	bad := func(format string, args ...any) error {
		return &ringback.Error{Code: ringback.InvalidArgument, Message: "uri: " + fmt.Sprintf(format, args...)}
	}
	if raw == "" {
		return bad("it is required, for example https://example.com/webhook")
	}
	if len(raw) > maxURI {
		return bad("it is longer than %d bytes", maxURI)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return bad("it is not a URL")
	case strings.Contains(raw, " "):
		return bad("it must not hold a space; write %%20")
	case u.Scheme == "http" && !o.AllowHTTP:
		return bad("it must begin with https:// (the server's --allow-http-callbacks would allow http)")
	case u.Scheme != "https" && u.Scheme != "http":
		return bad("it must be an absolute URL that begins with https://")
	case u.Host == "" || u.Hostname() == "":
		return bad("it has no host")
	case strings.ContainsFunc(u.Host, func(r rune) bool { return r >= 0x80 }):
		return bad("write an international host name in its ASCII form, which begins with xn--")
	case u.User != nil:
		return bad("it must not hold a user name or password")
	case u.Fragment != "":
		return bad("it must not have a fragment (#…)")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return bad("port %s does not exist", port)
		}
	}
	if !o.AllowPrivate && blockedHost(u.Hostname()) {
		return bad("%s is not a public address (the server's --allow-private-callbacks would allow it)", u.Hostname())
	}
	return nil
}

// blockedHost reports whether a host is, by its name alone, one that Client
// would refuse.
func blockedHost(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || strings.HasSuffix(host, ".internal") || strings.HasSuffix(host, ".local") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		// Some resolvers take 2130706433, 0x7f000001, 017700000001 and 127.1 for
		// IPv4 addresses. No public host is named by a number.
		last := host[strings.LastIndexByte(host, '.')+1:]
		_, err := strconv.ParseUint(last, 0, 64)
		return err == nil || last == "" || strings.HasPrefix(last, "0x")
	}
	network := "tcp4"
	if addr.Is6() {
		network = "tcp6"
	}
	return newGuard().Safe(network, netip.AddrPortFrom(addr, 443).String(), nil) != nil
}

// ReadBounded reads the first n bytes of an answer's body and closes it. A body
// that goes on a little is drained so that the connection can be used again; a
// longer one costs its connection.
func ReadBounded(resp *http.Response, n int64) ([]byte, error) {
	defer resp.Body.Close()
	if resp.ContentLength == 0 {
		return nil, nil
	}
	kept, err := io.ReadAll(io.LimitReader(resp.Body, n))
	if err == nil {
		_, err = io.CopyN(io.Discard, resp.Body, 4<<10)
		if err == io.EOF {
			err = nil
		}
	}
	return kept, err
}
