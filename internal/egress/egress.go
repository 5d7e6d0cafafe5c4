// Package egress is the only way to addresses that users gave: an HTTP client
// that can't be talked into private networks. What a name resolves to is checked
// when the connection is made, on every attempt, so a name that changes its
// meaning after it was registered gains nothing.
package egress

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
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
	// AllowPrefixes permits addresses that are special otherwise, AllowHosts what
	// names resolve to: a name such as "hooks.internal", or "*.corp.example" for all
	// below it.
	AllowPrefixes []netip.Prefix
	AllowHosts    []string
	// Ports, if not empty, are the only ones that are connected to.
	Ports []uint16
	// Proxy, if not nil, is a forward proxy (http or https) through which everything
	// goes, tunnelled with CONNECT (RFC 9110 §9.3.6). Targets are checked all the
	// same: their names are resolved here, and the proxy is told the address.
	Proxy *url.URL
	// RootCAs, if not nil, are the authorities that are trusted instead of the
	// system's.
	RootCAs *x509.CertPool
	// MaxIdlePerHost bounds the kept-alive connections to one host; zero means 128.
	MaxIdlePerHost int
}

// ErrBlocked is wrapped when an address is one that must not be reached.
var ErrBlocked = errors.New("the address is not public")

// maxURI bounds the length of an address.
const maxURI = 2048

// Client returns a client that follows no redirect, uses no proxy but that of the
// options, and has no time-out of its own: the request's context bounds it.
func Client(o Options) *http.Client {
	perHost := o.MaxIdlePerHost
	if perHost == 0 {
		perHost = 128
	}
	return &http.Client{
		Transport: &Transport{
			Dial: newDialer(o).dial, TLS: &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12},
			MaxIdle: 2048, MaxIdlePerHost: perHost,
			IdleTimeout: 90 * time.Second, HandshakeTimeout: 10 * time.Second,
			MaxHeader: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// newGuard knows the addresses that are not public by IANA's tables, and one that
// is, but by which Azure's machines reach their host.
func newGuard(o Options) *ssrf.Guardian {
	set := []ssrf.Option{ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(netip.MustParsePrefix("168.63.129.16/32"))}
	var v4, v6 []netip.Prefix
	for _, p := range o.AllowPrefixes {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	return ssrf.New(append(set, ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))...)
}

// guard checks an address as it is connected to.
func guard(g *ssrf.Guardian) func(network, address string, c syscall.RawConn) error {
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
	port := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	if given := u.Port(); given != "" {
		if n, err := strconv.ParseUint(given, 10, 16); err != nil || n == 0 {
			return bad("port %s does not exist", given)
		}
		port = given
	}
	if !o.portAllowed(port) {
		return bad("port %s is not among those of the server's --callback-ports", port)
	}
	if !o.AllowPrivate && !o.hostAllowed(u.Hostname()) && o.blockedHost(u.Hostname()) {
		return bad("%s is not a public address (the server's --allow-callback-hosts, --allow-callback-prefixes or --allow-private-callbacks would allow it)", u.Hostname())
	}
	return nil
}

// blockedHost reports whether a host is, by its name alone, one that Client
// would refuse.
func (o *Options) blockedHost(host string) bool {
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
	return newGuard(*o).Safe(network, netip.AddrPortFrom(addr, 443).String(), nil) != nil
}

// hostAllowed reports whether the options permit a name whatever it resolves to.
func (o *Options) hostAllowed(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	for _, allowed := range o.AllowHosts {
		allowed = strings.TrimSuffix(strings.ToLower(allowed), ".")
		if suffix, ok := strings.CutPrefix(allowed, "*"); ok && strings.HasPrefix(suffix, ".") {
			if strings.HasSuffix(host, suffix) && len(host) > len(suffix) {
				return true
			}
		} else if host == allowed {
			return true
		}
	}
	return false
}

func (o *Options) portAllowed(port string) bool {
	if len(o.Ports) == 0 {
		return true
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && slices.Contains(o.Ports, uint16(n))
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
