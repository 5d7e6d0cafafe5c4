package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"code.dny.dev/ssrf"
)

// dialer opens connections to targets that the options permit.
type dialer struct {
	o       Options
	guard   *ssrf.Guardian
	guarded *net.Dialer // Checks every address as it connects.
	free    *net.Dialer
}

func newDialer(o Options) *dialer {
	d := &dialer{o: o, guard: newGuard(o), free: &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}}
	checked := *d.free
	checked.Control = guard(d.guard)
	d.guarded = &checked
	return d
}

// dial connects to HOST:PORT. ErrBlocked is wrapped if that is not permitted.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if !d.o.portAllowed(port) {
		return nil, fmt.Errorf("%w: port %s", ErrBlocked, port)
	}
	free := d.o.AllowPrivate || d.o.hostAllowed(host)
	switch {
	case d.o.Proxy != nil:
		return d.tunnel(ctx, host, port, free)
	case free:
		return d.free.DialContext(ctx, network, address)
	}
	return d.guarded.DialContext(ctx, network, address)
}

// tunnel connects through the proxy. Unless the target is free, its name is
// resolved here, every address of it is checked, and the proxy is told the address
// and not the name: what the name means to the proxy can't be checked.
func (d *dialer) tunnel(ctx context.Context, host, port string, free bool) (net.Conn, error) {
	target := net.JoinHostPort(host, port)
	if !free {
		addr, err := d.resolve(ctx, host)
		if err != nil {
			return nil, err
		}
		target = net.JoinHostPort(addr.String(), port)
	}
	c, err := d.proxy(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the proxy: %w", err)
	}
	if err := connectVia(ctx, c, d.o.Proxy, target); err != nil {
		_ = c.Close() // The error that matters is known.
		return nil, err
	}
	return c, nil
}

// resolve returns an address of a host, all of whose addresses are permitted.
func (d *dialer) resolve(ctx context.Context, host string) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr, d.check(addr)
	}
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, addr := range all {
		if err := d.check(addr.Unmap()); err != nil {
			return netip.Addr{}, err
		}
	}
	if len(all) == 0 {
		return netip.Addr{}, &net.DNSError{Err: "no address", Name: host, IsNotFound: true}
	}
	return all[0].Unmap(), nil
}

func (d *dialer) check(addr netip.Addr) error {
	if addr.Zone() != "" || d.guard.SafeAddr(addr) != nil {
		return ErrBlocked
	}
	return nil
}

// proxy connects to the forward proxy, which the operator trusts.
func (d *dialer) proxy(ctx context.Context) (net.Conn, error) {
	u := d.o.Proxy
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	c, err := d.free.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil || u.Scheme != "https" {
		return c, err
	}
	secure := tls.Client(c, &tls.Config{ServerName: u.Hostname(), RootCAs: d.o.RootCAs, MinVersion: tls.VersionTLS12})
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = c.Close() // The error that matters is known.
		return nil, err
	}
	return secure, nil
}

// connectVia asks a proxy for a tunnel (RFC 9110 §9.3.6).
func connectVia(ctx context.Context, c net.Conn, proxy *url.URL, target string) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // Wakes whoever reads or writes.
	defer stop()
	ask := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n"
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		ask += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(proxy.User.Username()+":"+password)) + "\r\n"
	}
	if _, err := c.Write([]byte(ask + "\r\n")); err != nil {
		return fmt.Errorf("ask the proxy: %w", err)
	}
	// A tunnel is silent until we speak, so nothing of it is read ahead.
	r := bufio.NewReaderSize(io.LimitReader(&oneByte{c}, 16<<10), 16)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("the proxy's answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the proxy refused the connection with %s", resp.Status)
	}
	if r.Buffered() > 0 {
		return errors.New("the proxy sent more than its answer")
	}
	return nil
}

// oneByte reads byte by byte.
type oneByte struct{ net.Conn }

func (o *oneByte) Read(p []byte) (int, error) { return o.Conn.Read(p[:min(len(p), 1)]) }
