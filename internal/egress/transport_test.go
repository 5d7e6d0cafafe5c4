package egress_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ringback.dev/internal/egress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newTransport(t *testing.T) *egress.Transport {
	t.Helper()
	tr := egress.Client(egress.Options{AllowPrivate: true}).Transport.(*egress.Transport)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// raw serves each connection with a function that sees the requests' lines.
func raw(t *testing.T, serve func(n int, r *bufio.Reader, c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(n, bufio.NewReader(c), c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return "http://" + l.Addr().String() + "/hook?x=y"
}

func post(t *testing.T, tr http.RoundTripper, ctx context.Context, url, body string) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp, string(text), err
}

// read reads one request off a raw connection.
func read(t *testing.T, r *bufio.Reader) (*http.Request, string) {
	q, err := http.ReadRequest(r)
	if err != nil {
		return nil, ""
	}
	body, err := io.ReadAll(q.Body)
	if err != nil {
		t.Error(err)
	}
	return q, string(body)
}

func TestWhatIsSent(t *testing.T) {
	url := raw(t, func(_ int, r *bufio.Reader, c net.Conn) {
		q, body := read(t, r)
		if q.Method != "POST" || q.RequestURI != "/hook?x=y" || q.Proto != "HTTP/1.1" || q.ContentLength != 2 || body != "{}" ||
			q.Header.Get("Content-Type") != "application/json" || !strings.HasPrefix(q.Host, "127.0.0.1:") {
			t.Errorf("unexpected request %+v with %q", q, body)
		}
		fmt.Fprint(c, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
	})
	first := false
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotFirstResponseByte: func() { first = true }})
	resp, text, err := post(t, newTransport(t), ctx, url, "{}")
	if err != nil || resp.StatusCode != 202 || text != "ok" || !first {
		t.Errorf("got %v, %q, %v, first byte %v", resp, text, err, first)
	}
}

// TestBodies: the length of a body is told also when there is none, and a large body
// arrives whole.
func TestBodies(t *testing.T) {
	tr := newTransport(t)
	for _, size := range []int{0, 1, 1 << 20, 1<<20 + 1, 5 << 20} {
		want := strings.Repeat("0123456789", size/10+1)[:size]
		url := raw(t, func(_ int, r *bufio.Reader, c net.Conn) {
			q, body := read(t, r)
			if length := q.Header.Get("Content-Length"); length != strconv.Itoa(size) || body != want {
				t.Errorf("%d bytes: got a length of %q and %d bytes", size, length, len(body))
			}
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, strings.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		if size == 0 {
			req.Body = nil
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		_ = resp.Body.Close() // There is none.
	}
}

// TestKeptConnectionThatDied: the receiver closes a connection while it is kept.
// The next request goes over a fresh one and is not lost.
func TestKeptConnectionThatDied(t *testing.T) {
	closed := make(chan struct{})
	var served atomic.Int32
	url := raw(t, func(n int, r *bufio.Reader, c net.Conn) {
		if q, _ := read(t, r); q == nil {
			return
		}
		served.Add(1)
		fmt.Fprint(c, "HTTP/1.1 204 No Content\r\n\r\n")
		if n == 1 {
			c.Close()
			close(closed)
		}
	})
	tr := newTransport(t)
	if _, _, err := post(t, tr, t.Context(), url, "1"); err != nil {
		t.Fatal(err)
	}
	<-closed
	if _, _, err := post(t, tr, t.Context(), url, "2"); err != nil || served.Load() != 2 {
		t.Errorf("got %v after %d requests", err, served.Load())
	}
}

func TestBrokenServers(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":        "",
		"not HTTP":       "220 smtp.example.com ESMTP\r\n\r\n",
		"endless header": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 200<<10),
		"cut off":        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
	} {
		t.Run(name, func(t *testing.T) {
			url := raw(t, func(_ int, r *bufio.Reader, c net.Conn) {
				if q, _ := read(t, r); q != nil {
					fmt.Fprint(c, answer)
				}
			})
			if resp, text, err := post(t, newTransport(t), t.Context(), url, "{}"); err == nil {
				t.Errorf("got %v, %q", resp, text)
			}
		})
	}
}

func TestHangingServerIsGivenUp(t *testing.T) {
	arrived := make(chan struct{})
	release := make(chan struct{})
	url := raw(t, func(_ int, r *bufio.Reader, _ net.Conn) {
		if q, _ := read(t, r); q != nil {
			close(arrived)
			<-release
		}
	})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, _, err := post(t, newTransport(t), ctx, url, "{}"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	ctx, cancel = context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	if _, _, err := post(t, newTransport(t), ctx, url, "{}"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto, r.TLS.ServerName)
	}))
	defer srv.Close()
	tr := newTransport(t)
	url := strings.Replace(srv.URL, "127.0.0.1", "example.com", 1)
	dial := tr.Dial
	tr.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, srv.Listener.Addr().String())
	}
	var unknown *tls.CertificateVerificationError
	if _, _, err := post(t, tr, t.Context(), url, "{}"); !errors.As(err, &unknown) {
		t.Errorf("an unknown certificate: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	tr.TLS = &tls.Config{RootCAs: roots}
	for range 2 {
		if _, text, err := post(t, tr, t.Context(), url, "{}"); err != nil || text != "HTTP/1.1example.com" {
			t.Errorf("got %q, %v", text, err)
		}
	}
}
