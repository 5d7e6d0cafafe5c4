package egress_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"ringback.dev"
	"ringback.dev/internal/egress"
)

// hostile are hosts that must never be reached.
var hostile = strings.Fields(`
	localhost LOCALHOST localhost. a.localhost printer.local metadata.google.internal metadata.internal
	127.0.0.1 127.0.0.2 127.255.255.254 127.1 127.0.1 2130706433 0x7f000001 0x7f.1 017700000001 0177.0.0.1 0 0.0.0.0 0.1.2.3
	10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.255.255 169.254.169.254 169.254.0.1 100.64.0.1 100.127.255.255
	192.0.0.1 192.0.0.8 192.0.2.1 198.51.100.1 203.0.113.1 198.18.0.1 198.19.255.255 192.88.99.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
	[::] [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:10.0.0.1] [::ffff:169.254.169.254] [::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b::a00:1] [64:ff9b:1::1]
	[fe80::1] [fe80::1%25eth0] [fc00::1] [fd00:ec2::254] [fec0::1] [ff02::1] [ff05::2] [2001:db8::1] [2002:7f00:1::] [2002:a00:1::] [2001::1] [100::1] [2001:10::1] [2001:20::1]
	[::ffff:0:127.0.0.1] [3fff::1] 168.63.129.16`)

func TestHostileHosts(t *testing.T) {
	if len(hostile) < 60 {
		t.Fatalf("only %d hosts", len(hostile))
	}
	client := egress.Client(egress.Options{})
	for _, host := range hostile {
		raw := "https://" + host + "/hook"
		if err := egress.CheckURI(raw, egress.Options{}); !errors.Is(err, ringback.InvalidArgument) {
			t.Errorf("%s was accepted: %v", raw, err)
		}
		// Literal addresses also meet the guard at connect time.
		addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if err != nil {
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+netip.AddrPortFrom(addr, 9).String()+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Do(req); !errors.Is(err, egress.ErrBlocked) {
			t.Errorf("connecting to %s: got %v", host, err)
		}
		cancel()
	}
}

func TestPublicHostsAreAccepted(t *testing.T) {
	for _, raw := range []string{"https://example.com/cb", "https://EXAMPLE.com:8443/cb?x=y", "https://8.8.8.8/", "https://[2606:4700:4700::1111]/", "https://xn--bcher-kva.example/"} {
		if err := egress.CheckURI(raw, egress.Options{}); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func TestMalformedURIs(t *testing.T) {
	for raw, hint := range map[string]string{
		"": "required", "example.com": "https://", "ftp://example.com": "https://", "http://example.com": "--allow-http-callbacks",
		"https://": "host", "https://:443/": "host", "https://u:p@example.com/": "password", "https://example.com/#x": "fragment",
		"https://example.com:0/": "port", "https://example.com:99999/": "port", "https://exa mple.com/": "URL",
		"https://127.0.0.1/": "--allow-private-callbacks", "https://e.com/" + strings.Repeat("x", 3000): "longer",
		"javascript:alert(1)": "https://", "//example.com/x": "https://", "https:example.com": "host",
	} {
		err := egress.CheckURI(raw, egress.Options{})
		if !errors.Is(err, ringback.InvalidArgument) || !strings.Contains(err.Error(), hint) {
			t.Errorf("%.60q: got %v, want a word of %q", raw, err, hint)
		}
	}
}

// TestNameThatResolvesToLoopback stands for DNS rebinding: the name passes at
// registration, the address it has when connecting does not.
func TestNameThatResolvesToLoopback(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the guard let a request through") }))
	defer srv.Close()
	client := egress.Client(egress.Options{})
	tr := client.Transport.(*egress.Transport)
	dial := tr.Dial
	tr.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, srv.Listener.Addr().String())
	}
	const raw = "http://rebinding.example.com/"
	if err := egress.CheckURI(raw, egress.Options{AllowHTTP: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Get(raw); !errors.Is(err, egress.ErrBlocked) {
		t.Errorf("got %v", err)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var hits atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer srv.Close()
	resp, err := egress.Client(egress.Options{AllowPrivate: true}).Post(srv.URL, "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusTemporaryRedirect || hits.Load() != 1 {
		t.Errorf("got %d after %d requests", resp.StatusCode, hits.Load())
	}
}

func TestConnectionsAreReused(t *testing.T) {
	var opened atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write([]byte(strings.Repeat("x", 5000)))
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	client := egress.Client(egress.Options{AllowPrivate: true})
	defer client.CloseIdleConnections()
	const workers, each = 64, 20
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				resp, err := client.Post(srv.URL, "application/json", strings.NewReader("{}"))
				if err != nil {
					t.Error(err)
					return
				}
				if b, err := egress.ReadBounded(resp, 1000); err != nil || len(b) != 1000 {
					t.Errorf("got %d bytes, %v", len(b), err)
				}
			}
		})
	}
	wg.Wait()
	if n := opened.Load(); n > 2*workers {
		t.Errorf("%d connections for %d requests", n, workers*each)
	}
}

func FuzzCheckURI(f *testing.F) {
	for _, h := range hostile {
		f.Add("https://" + h + "/")
	}
	f.Add("https://example.com/cb")
	f.Fuzz(func(t *testing.T, raw string) {
		if egress.CheckURI(raw, egress.Options{}) != nil {
			return
		}
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
			t.Fatalf("%q was accepted", raw)
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && (a.IsLoopback() || a.IsPrivate() || a.IsUnspecified() || a.IsLinkLocalUnicast()) {
			t.Fatalf("%q was accepted", raw)
		}
	})
}
