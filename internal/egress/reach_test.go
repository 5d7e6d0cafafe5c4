package egress_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ringback.dev/internal/egress"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// secure starts a TLS server that counts its connections.
func secure(t *testing.T, h2 bool, change func(*tls.Config), h http.HandlerFunc) (*httptest.Server, *atomic.Int32, *x509.CertPool) {
	t.Helper()
	var opened atomic.Int32
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = h2
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	srv.TLS = &tls.Config{}
	if change != nil {
		change(srv.TLS)
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	return srv, &opened, pool
}

// reach posts a body and returns status and answer.
func reach(ctx context.Context, rt http.RoundTripper, raw, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, raw, bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, "", err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	text, err := egress.ReadBounded(resp, 1<<16)
	return resp.StatusCode, string(text), err
}

func client(t *testing.T, o egress.Options) *http.Client {
	t.Helper()
	c := egress.Client(o)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// TestHTTP2: many requests share one connection, and each gets its own answer.
func TestHTTP2(t *testing.T) {
	srv, opened, pool := secure(t, true, nil, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.ProtoMajor != 2 {
			t.Errorf("%s: %v", r.Proto, err)
		}
		fmt.Fprintf(w, "%s %s", r.Header.Get("X-N"), body)
	})
	c := client(t, egress.Options{AllowPrefixes: loopback, RootCAs: pool})
	var first bool
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotFirstResponseByte: func() { first = true }})
	if status, text, err := reach(ctx, c.Transport, srv.URL, "hello"); err != nil || status != 200 || text != " hello" || !first {
		t.Fatalf("got %d %q %v, first byte %v", status, text, err, first)
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if status, text, err := reach(t.Context(), c.Transport, srv.URL, strconv.Itoa(i)); err != nil || status != 200 || text != " "+strconv.Itoa(i) {
				t.Errorf("got %d %q %v", status, text, err)
			}
		})
	}
	wg.Wait()
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestLargeBodies: those that are sent as they are read arrive whole, with their length.
func TestLargeBodies(t *testing.T) {
	want := strings.Repeat("0123456789", 300<<10)
	for _, h2 := range []bool{false, true} {
		srv, _, pool := secure(t, h2, nil, func(_ http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil || string(body) != want || r.ContentLength != int64(len(want)) {
				t.Errorf("%s: a length of %d, %d bytes, %v", r.Proto, r.ContentLength, len(body), err)
			}
		})
		c := client(t, egress.Options{AllowPrefixes: loopback, RootCAs: pool})
		for range 2 { // Over a kept connection, too.
			if status, _, err := reach(t.Context(), c.Transport, srv.URL, want); err != nil || status != 200 {
				t.Errorf("got %d, %v", status, err)
			}
		}
	}
}

// TestHTTP2Dies: a connection that the server has closed costs nothing but a new one.
func TestHTTP2Dies(t *testing.T) {
	srv, opened, pool := secure(t, true, nil, func(http.ResponseWriter, *http.Request) {})
	c := client(t, egress.Options{AllowPrefixes: loopback, RootCAs: pool})
	if _, _, err := reach(t.Context(), c.Transport, srv.URL, "x"); err != nil {
		t.Fatal(err)
	}
	srv.CloseClientConnections()
	var err error
	for range 100 { // The end of the connection arrives when it does.
		if _, _, err = reach(t.Context(), c.Transport, srv.URL, "x"); err == nil {
			break
		}
	}
	if err != nil || opened.Load() < 2 {
		t.Errorf("%d connections, %v", opened.Load(), err)
	}
}

// TestHTTP2TimesOut: an answer that does not come ends the request and nothing else.
func TestHTTP2TimesOut(t *testing.T) {
	release := make(chan struct{})
	srv, opened, pool := secure(t, true, nil, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hangs" {
			<-release
		}
	})
	defer close(release)
	c := client(t, egress.Options{AllowPrefixes: loopback, RootCAs: pool})
	if _, _, err := reach(t.Context(), c.Transport, srv.URL, "x"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := reach(ctx, c.Transport, srv.URL+"/hangs", "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, _, err := reach(t.Context(), c.Transport, srv.URL, "x"); err != nil || opened.Load() != 1 {
		t.Errorf("%d connections, %v", opened.Load(), err)
	}
}

// TestAge: a connection that is too old is not used again, whatever its protocol,
// so that a name's new address is noticed.
func TestAge(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		srv, opened, pool := secure(t, h2, nil, func(http.ResponseWriter, *http.Request) {})
		c := client(t, egress.Options{AllowPrefixes: loopback, RootCAs: pool})
		tr, ok := c.Transport.(*egress.Transport)
		if !ok {
			t.Fatalf("a %T", c.Transport)
		}
		tr.MaxAge = time.Nanosecond
		for range 3 {
			if _, _, err := reach(t.Context(), c.Transport, srv.URL, "x"); err != nil {
				t.Fatal(err)
			}
		}
		if n := opened.Load(); n != 3 {
			t.Errorf("HTTP/2 %v: %d connections", h2, n)
		}
	}
}

// TestPrivateCA: what is not trusted is not sent to.
func TestPrivateCA(t *testing.T) {
	srv, _, pool := secure(t, false, nil, func(http.ResponseWriter, *http.Request) {})
	var unknown *tls.CertificateVerificationError
	if _, _, err := reach(t.Context(), client(t, egress.Options{AllowPrefixes: loopback}).Transport, srv.URL, "x"); !errors.As(err, &unknown) {
		t.Errorf("got %v", err)
	}
	if _, _, err := reach(t.Context(), client(t, egress.Options{AllowPrefixes: loopback, RootCAs: pool}).Transport, srv.URL, "x"); err != nil {
		t.Error(err)
	}
}

// certificate makes a self-signed client certificate.
func certificate(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestClientCertificates: each request shows its own webhook's certificate; no
// connection is shared between two of them.
func TestClientCertificates(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		srv, opened, pool := secure(t, h2, func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert }, func(w http.ResponseWriter, r *http.Request) {
			for _, c := range r.TLS.PeerCertificates {
				fmt.Fprint(w, c.Subject.CommonName)
			}
		})
		c := client(t, egress.Options{AllowPrefixes: loopback, RootCAs: pool})
		tr, ok := c.Transport.(*egress.Transport)
		if !ok {
			t.Fatalf("a %T", c.Transport)
		}
		a, b := certificate(t, "a"), certificate(t, "b")
		for range 3 {
			for want, rt := range map[string]http.RoundTripper{"a": tr.With(a), "b": tr.With(b), "": tr} {
				if _, text, err := reach(t.Context(), rt, srv.URL, "x"); err != nil || text != want {
					t.Errorf("HTTP/2 %v: got %q, %v, want %q", h2, text, err, want)
				}
			}
		}
		if n := opened.Load(); n != 3 {
			t.Errorf("HTTP/2 %v: %d connections", h2, n)
		}
	}
}

// TestWhatOperatorsAllow: exactly that is let through.
func TestWhatOperatorsAllow(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(srv.Close)
	port := srv.URL[strings.LastIndexByte(srv.URL, ':')+1:]
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name string
		o    egress.Options
		host string
		ok   bool
	}{
		{"nothing", egress.Options{}, "127.0.0.1", false},
		{"prefix", egress.Options{AllowPrefixes: loopback}, "127.0.0.1", true},
		{"another prefix", egress.Options{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, "127.0.0.1", false},
		{"name", egress.Options{AllowHosts: []string{"LocalHost."}}, "localhost", true},
		{"name, not its address", egress.Options{AllowHosts: []string{"localhost"}}, "127.0.0.1", false},
		{"names below", egress.Options{AllowHosts: []string{"*.localhost"}}, "localhost", false},
		{"port", egress.Options{AllowPrefixes: loopback, Ports: []uint16{uint16(n)}}, "127.0.0.1", true},
		{"another port", egress.Options{AllowPrefixes: loopback, Ports: []uint16{443}}, "127.0.0.1", false},
		{"everything private", egress.Options{AllowPrivate: true}, "127.0.0.1", true},
	} {
		x.o.AllowHTTP = true
		raw := "http://" + net.JoinHostPort(x.host, port) + "/"
		if err := egress.CheckURI(raw, x.o); (err == nil) != x.ok {
			t.Errorf("%s: registered with %v", x.name, err)
		}
		if _, _, err := reach(t.Context(), client(t, x.o).Transport, raw, "x"); (err == nil) != x.ok || err != nil && !errors.Is(err, egress.ErrBlocked) {
			t.Errorf("%s: reached with %v", x.name, err)
		}
	}
}

// proxy is a forward proxy that notes what it is asked.
func proxy(t *testing.T, status int) (*url.URL, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Method+" "+r.Host+" "+r.Header.Get("Proxy-Authorization"))
		mu.Unlock()
		if status != 200 {
			w.WriteHeader(status)
			return
		}
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(502)
			return
		}
		defer to.Close()
		from, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer from.Close()
		if _, err := io.WriteString(from, "HTTP/1.1 200 Connected\r\n\r\n"); err != nil {
			t.Error(err)
			return
		}
		done := make(chan struct{}, 2)
		pipe := func(to io.Writer, from io.Reader) { _, _ = io.Copy(to, from); done <- struct{}{} } // Ends with either side.
		go pipe(from, to)
		go pipe(to, buffered) // The server may have read ahead.
		<-done
	}))
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return asked
	}
}

// TestProxy: everything goes through the proxy, which is told addresses that were
// checked, and nothing that is blocked reaches even the proxy.
func TestProxy(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		srv, _, pool := secure(t, h2, nil, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host) })
		u, asked := proxy(t, 200)
		u.User = url.UserPassword("user", "pass")
		c := client(t, egress.Options{AllowPrefixes: loopback, RootCAs: pool, Proxy: u})
		address := strings.TrimPrefix(srv.URL, "https://")
		for range 2 {
			if _, text, err := reach(t.Context(), c.Transport, srv.URL, "x"); err != nil || text != address {
				t.Errorf("HTTP/2 %v: got %q, %v", h2, text, err)
			}
		}
		want := "CONNECT " + address + " Basic " + base64.StdEncoding.EncodeToString([]byte("user:pass"))
		if got := asked(); len(got) != 1 || got[0] != want {
			t.Errorf("HTTP/2 %v: the proxy was asked %q", h2, got)
		}
		c.CloseIdleConnections()
		// A name is resolved here.
		c = client(t, egress.Options{AllowPrefixes: loopback, AllowHTTP: true, Proxy: u})
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		_, _, _ = reach(t.Context(), c.Transport, "http://localhost:"+port+"/", "x") // A TLS server: what it says does not matter.
		if got := asked(); len(got) != 2 || strings.Contains(got[1], "localhost") {
			t.Errorf("the proxy was asked %q", got)
		}
		c.CloseIdleConnections()
		for _, host := range []string{"127.0.0.1:" + port, "localhost:" + port, "169.254.169.254", "[::1]:" + port} {
			c := client(t, egress.Options{Proxy: u, AllowHTTP: true})
			if _, _, err := reach(t.Context(), c.Transport, "http://"+host+"/", "x"); !errors.Is(err, egress.ErrBlocked) {
				t.Errorf("%s: got %v", host, err)
			}
		}
		if n := len(asked()); n != 2 {
			t.Errorf("the proxy was asked %q", asked())
		}
	}
	u, _ := proxy(t, 407)
	c := client(t, egress.Options{AllowPrivate: true, AllowHTTP: true, Proxy: u})
	if _, _, err := reach(t.Context(), c.Transport, "http://127.0.0.1:1/", "x"); err == nil || !strings.Contains(err.Error(), "the proxy refused the connection with 407") {
		t.Errorf("got %v", err)
	}
}
