package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// until waits until the log has a text.
func (l *scriptLog) until(t *testing.T, text string) {
	t.Helper()
	late := time.AfterFunc(20*time.Second, l.news.Broadcast)
	defer late.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(l.text.String(), text); l.news.Wait() {
		if time.Now().After(end) {
			t.Fatalf("%q is not in\n%s", text, l.text.String())
		}
	}
}

// TestListenWaits: while nobody listens at the address nothing is given up, and
// said once; then everything comes, in order.
func TestListenWaits(t *testing.T) {
	const events = 2 * maxOpen
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ringback/v1/stream" {
			fmt.Fprint(w, `{"events":[],"next":"c"}`)
			return
		}
		for i := range events {
			data, _ := json.Marshal(map[string]any{"id": fmt.Sprintf("evt_%d", i), "type": "ping", "body": `{"type":"ping","data":{}}`})
			fmt.Fprintf(w, "id: c%d\nevent: event\ndata: %s\n\n", i, data)
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()

	out := newScriptLog()
	c := &listenCommand{client: client{Server: server.URL, APIKey: "any"}, signing: signing{Secret: []string{"whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}},
		ForwardTo: "http://" + address, Timeout: time.Minute, State: filepath.Join(t.TempDir(), "state")} // No retries.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, &streams{out: out, err: out}) }()
	out.until(t, "nobody listens there; waiting for it")

	var mu sync.Mutex
	var got []string
	if l, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	receiver := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.Header.Get("Webhook-Id"))
	})}
	defer receiver.Close()
	go func() { _ = receiver.Serve(l) }() // Until it is closed.
	out.until(t, fmt.Sprintf("msg_%d ", events-1))
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for i := range got {
		if got[i] != fmt.Sprintf("msg_%d", i) {
			t.Fatalf("at %d there is %s", i, got[i])
		}
	}
	text := out.String()
	if n := strings.Count(text, "nobody listens"); n != 1 || len(got) != events || !strings.Contains(text, fmt.Sprintf("%d events accepted; the next", events)) {
		t.Errorf("said %d times; %d of %d came; it ends with %s", n, len(got), events, text[max(len(text)-100, 0):])
	}
}

// TestOtherData: a stream is not resumed, in silence, on a server that runs on other
// data now; also if nothing has come yet.
func TestOtherData(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ringback/v1/events":
			fmt.Fprint(w, `{"events":[],"next":"c1","last":"evt_1"}`)
		case "/ringback/v1/stream":
			if r.URL.Query().Get("after") != "c1" { // Of listen it is known from the beginning.
				fmt.Fprint(w, "id: c1\nevent: event\ndata: {\"id\":\"evt_1\"}\n\n")
			}
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	out := newScriptLog()
	at := client{Server: server.URL, APIKey: "any"}
	l := &listenCommand{client: at, signing: signing{Secret: []string{"whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}},
		ForwardTo: server.URL, Timeout: time.Minute, State: filepath.Join(t.TempDir(), "state")}
	e := &eventsList{client: at, Follow: true}
	for _, c := range []interface {
		Run(ctx context.Context, s *streams) error
	}{l, e} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := c.Run(ctx, &streams{out: out, err: out}); !errors.Is(err, errForgotten) {
			t.Errorf("%T: %v\n%s", c, err, out)
		}
		cancel()
	}
}
