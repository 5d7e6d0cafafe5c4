package egress_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"ringback.dev"
	"ringback.dev/internal/egress"
)

// TestReceiverThatBreaksOff: a request at which the receiver closes the connection
// goes out at most twice, however many connections are kept.
func TestReceiverThatBreaksOff(t *testing.T) {
	const kept = 32
	var broken atomic.Int32
	var arrived sync.WaitGroup
	arrived.Add(kept)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err != nil || string(b) == "break" {
			broken.Add(1)
			panic(http.ErrAbortHandler)
		}
		arrived.Done()
		arrived.Wait() // All at once, so that each needs its own connection.
	}))
	defer srv.Close()
	tr := newTransport(t)
	var wg sync.WaitGroup
	for range kept {
		wg.Go(func() {
			if _, _, err := post(t, tr, t.Context(), srv.URL, "{}"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, _, err := post(t, tr, t.Context(), srv.URL, "break"); err == nil || broken.Load() > 2 {
		t.Errorf("got %v after %d requests", err, broken.Load())
	}
}

// TestUnaskedAnswer: some servers say 408 on an idle connection before they close
// it. The next request must not take that for its own answer.
func TestUnaskedAnswer(t *testing.T) {
	idle, said := make(chan struct{}), make(chan struct{})
	url := raw(t, func(n int, r *bufio.Reader, c net.Conn) {
		if q, _ := read(t, r); q == nil {
			return
		}
		fmt.Fprint(c, "HTTP/1.1 204 No Content\r\n\r\n")
		if n == 1 {
			<-idle
			fmt.Fprint(c, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
			close(said)
		}
	})
	tr := newTransport(t)
	if _, _, err := post(t, tr, t.Context(), url, "1"); err != nil {
		t.Fatal(err)
	}
	close(idle)
	<-said
	if resp, _, err := post(t, tr, t.Context(), url, "2"); err != nil || resp.StatusCode != http.StatusNoContent {
		t.Errorf("got %v, %v", resp, err)
	}
}

// TestMalformedRequestsAreNotSent: what net/http's transport refuses is refused
// here too, and the body is closed.
func TestMalformedRequestsAreNotSent(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("sent: %v %v", r.RequestURI, r.Header) }))
	defer srv.Close()
	for name, spoil := range map[string]func(*http.Request){
		"length -1":          func(r *http.Request) { r.ContentLength = -1 },
		"unknown length":     func(r *http.Request) { r.ContentLength = 0 },
		"value with a line":  func(r *http.Request) { r.Header.Set("X", "a\r\nEvil: yes") },
		"name with a line":   func(r *http.Request) { r.Header["X: a\r\nEvil"] = []string{"yes"} },
		"query with a space": func(r *http.Request) { r.URL.RawQuery = "a=b HTTP/1.1" },
	} {
		t.Run(name, func(t *testing.T) {
			b := &closer{Reader: strings.NewReader("{}")}
			req, err := http.NewRequest(http.MethodPost, srv.URL, b)
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = 2
			spoil(req)
			if resp, err := newTransport(t).RoundTrip(req); err == nil || !b.closed {
				t.Errorf("got %v, %v; body closed: %v", resp, err, b.closed)
			}
		})
	}
}

type closer struct {
	io.Reader
	closed bool
}

func (c *closer) Close() error { c.closed = true; return nil }

// TestHostsThatNeedTranslation: the transport writes host names as they are, so
// names that would have to be translated first are refused at registration.
func TestHostsThatNeedTranslation(t *testing.T) {
	for raw, hint := range map[string]string{
		"https://bücher.example/":           "xn--",
		"https://ｌocalhost/":                "xn--",
		"https://127。0。0。1/":                "xn--",
		"https://b%C3%BCcher.example/":      "xn--",
		"https://example.com/?a=b HTTP/1.1": "%20",
		"https://example.com/with space":    "%20",
	} {
		err := egress.CheckURI(raw, egress.Options{AllowPrivate: true})
		if !errors.Is(err, ringback.InvalidArgument) || !strings.Contains(err.Error(), hint) {
			t.Errorf("%q: got %v", raw, err)
		}
	}
	if err := egress.CheckURI("https://xn--bcher-kva.example/%20?q=%20", egress.Options{}); err != nil {
		t.Error(err)
	}
}

func BenchmarkPost(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer srv.Close()
	client := egress.Client(egress.Options{AllowPrivate: true})
	defer client.CloseIdleConnections()
	body := strings.Repeat("x", 400)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := client.Post(srv.URL, "application/json", strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := egress.ReadBounded(resp, 1<<10); err != nil {
			b.Fatal(err)
		}
	}
}
