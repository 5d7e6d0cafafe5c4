package egress_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ringback.dev/internal/egress"
)

// counted serves the same answer to every request of every connection, each on
// its own goroutine, and counts the connections.
func counted(t *testing.T, answer string) (url string, opened *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	opened = new(atomic.Int32)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			opened.Add(1)
			serving.Go(func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					if q, _ := read(t, r); q == nil {
						return
					}
					if _, err := io.WriteString(c, answer); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return "http://" + l.Addr().String() + "/", opened
}

// TestWhenConnectionsAreKept: only a connection on which the whole answer was read
// and on which the receiver wants to go on is used again.
func TestWhenConnectionsAreKept(t *testing.T) {
	long := strings.Repeat("x", 64<<10)
	for name, c := range map[string]struct {
		answer string
		kept   bool
	}{
		"with length":             {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true},
		"empty":                   {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true},
		"without content":         {"HTTP/1.1 204 No Content\r\n\r\n", true},
		"not modified":            {"HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n", true},
		"chunked":                 {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true},
		"chunked with trailer":    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n", true},
		"as long as is kept":      {"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + long[:1000], true},
		"a little longer":         {"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n" + long[:4000], true},
		"much longer":             {"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + long, false},
		"server error":            {"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", true},
		"after interim answers":   {strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 20) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true},
		"to be closed":            {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", false},
		"HTTP/1.0":                {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false},
		"HTTP/1.0, to be kept":    {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", true},
		"switching protocols":     {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", false},
		"longer than it said":     {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false},
		"no content, but with it": {"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 500 Not Mine\r\nContent-Length: 0\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			url, opened := counted(t, c.answer)
			client := &http.Client{Transport: newTransport(t), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			const requests = 3
			for range requests {
				resp, err := client.Post(url, "application/json", strings.NewReader("{}"))
				if err != nil {
					t.Fatal(err)
				}
				if b, err := egress.ReadBounded(resp, 1000); err != nil || len(b) > 1000 {
					t.Errorf("got %d bytes, %v", len(b), err)
				}
				if resp.StatusCode == 500 {
					t.Error("what one answer left was taken for the next")
				}
			}
			want := int32(1)
			if !c.kept {
				want = requests
			}
			if opened.Load() != want {
				t.Errorf("%d connections, want %d", opened.Load(), want)
			}
		})
	}
}

// TestEndlessInterimAnswers: they count towards the bound of the header.
func TestEndlessInterimAnswers(t *testing.T) {
	url, _ := counted(t, strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100_000))
	if resp, _, err := post(t, newTransport(t), t.Context(), url, "{}"); err == nil {
		t.Errorf("got %v", resp)
	}
}

// TestBodyThatHangs: a context that ends while the body is read ends the reading,
// and the connection is not used again.
func TestBodyThatHangs(t *testing.T) {
	url, opened := counted(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.")
	tr := newTransport(t)
	for n := range int32(2) {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		half := make([]byte, 5)
		if _, err := io.ReadFull(resp.Body, half); err != nil || string(half) != "half." {
			t.Errorf("got %q, %v", half, err)
		}
		cancel()
		if _, err := egress.ReadBounded(resp, 100); err == nil {
			t.Error("a body that was never sent was read")
		}
		if opened.Load() != n+1 {
			t.Errorf("%d connections after %d requests", opened.Load(), n+1)
		}
	}
}

// TestAnswerAfterTheContextEnded: the end of the context may still be on its way to
// the connection, so it is closed although the whole answer was read.
func TestAnswerAfterTheContextEnded(t *testing.T) {
	url, _ := counted(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	tr := newTransport(t)
	var closed atomic.Bool
	dial := tr.Dial
	tr.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		return noted{c, &closed}, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_, _ = egress.ReadBounded(resp, 100) // The answer or an error; both are right.
	if !closed.Load() {
		t.Error("the connection was kept")
	}
}

// noted notes that a connection was closed.
type noted struct {
	net.Conn
	closed *atomic.Bool
}

func (n noted) Close() error {
	n.closed.Store(true)
	return n.Conn.Close()
}

// TestCancelledAndUsedAgain: requests that are given up at any moment never spoil
// the connection of another one: each gets the answer to its own request.
func TestCancelledAndUsedAgain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(l) }()
	defer func() { srv.Close(); <-served }()
	tr := newTransport(t)
	var wg sync.WaitGroup
	for n := range 16 {
		wg.Go(func() {
			for i := range 60 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%3 == 0 { // Given up after 0 to 0.6 ms, before, while and after it is answered.
					ctx, cancel = context.WithTimeout(t.Context(), time.Duration(i)*10*time.Microsecond)
				}
				body := fmt.Sprint(n, "/", i)
				_, text, err := post(t, tr, ctx, "http://"+l.Addr().String()+"/", body)
				if (err == nil && text != body) || (err != nil && i%3 != 0) {
					t.Errorf("%s: got %q, %v", body, text, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
}

// TestIdleConnectionsAreBounded: no more are kept for a host than allowed.
func TestIdleConnectionsAreBounded(t *testing.T) {
	const atOnce = 6
	var opened atomic.Int32
	var arrived sync.WaitGroup
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Done(); arrived.Wait() }),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				opened.Add(1)
			}
		},
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(l) }()
	defer func() { srv.Close(); <-served }()
	tr := newTransport(t)
	tr.MaxIdlePerHost = 2
	for _, want := range []int32{atOnce, 2*atOnce - 2} {
		arrived.Add(atOnce)
		var wg sync.WaitGroup
		for range atOnce {
			wg.Go(func() {
				if _, _, err := post(t, tr, t.Context(), "http://"+l.Addr().String()+"/", "{}"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if opened.Load() != want {
			t.Errorf("%d connections, want %d", opened.Load(), want)
		}
	}
}

// TestNoProxyFromEnvironment: a proxy would reach what the guard refuses.
func TestNoProxyFromEnvironment(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		t.Setenv(name, "http://127.0.0.1:1/")
	}
	t.Setenv("NO_PROXY", "")
	tr := newTransport(t)
	dialled := ""
	tr.Dial = func(_ context.Context, _, address string) (net.Conn, error) {
		dialled = address
		return nil, io.EOF
	}
	for url, want := range map[string]string{
		"http://example.com/": "example.com:80", "https://example.com/": "example.com:443",
		"https://example.com:8443/": "example.com:8443", "https://[2606:4700::1111]/": "[2606:4700::1111]:443",
	} {
		if _, _, err := post(t, tr, t.Context(), url, "{}"); err == nil || dialled != want {
			t.Errorf("%s: dialled %q, %v", url, dialled, err)
		}
	}
}

// FuzzAnswer: whatever a receiver answers, the transport ends, with an error or
// with a status, and ReadBounded keeps its bound.
func FuzzAnswer(f *testing.F) {
	for _, answer := range []string{
		"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\nx", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 99 Low\r\n\r\n", "HTTP/9.9 200\n\n",
	} {
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		var served sync.WaitGroup
		tr := &egress.Transport{MaxIdle: 4, MaxIdlePerHost: 4, IdleTimeout: time.Minute, HandshakeTimeout: time.Minute, MaxHeader: 4 << 10}
		tr.Dial = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			served.Go(func() {
				defer theirs.Close()
				if q, err := http.ReadRequest(bufio.NewReader(theirs)); err == nil {
					_, _ = io.Copy(io.Discard, q.Body)
					_, _ = theirs.Write(answer) // Whoever asked may have gone.
				}
			})
			return ours, nil
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://example.com/", bytes.NewReader([]byte("{}")))
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := tr.RoundTrip(req); err == nil {
			b, _ := egress.ReadBounded(resp, 16) // A body that breaks off is an error.
			if len(b) > 16 || resp.StatusCode < 0 {
				t.Errorf("got %d bytes, status %d", len(b), resp.StatusCode)
			}
		}
		tr.CloseIdleConnections()
		served.Wait()
	})
}
