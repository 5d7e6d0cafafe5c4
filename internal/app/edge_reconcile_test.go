package app

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"ringback.dev/inbox/sqlite"
	"ringback.dev/internal/edge"
)

// TestEdgeReconciles: a job of which no webhook was to hear comes to the edge that
// looks for it, and is acted on once.
func TestEdgeReconciles(t *testing.T) {
	s := start(t, config(t, t.TempDir()))
	var acted atomic.Int32
	to := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		acted.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer to.Close()
	t.Setenv("EDGE_TEST_KEY", s.FirstKey)
	t.Setenv("EDGE_TEST_SECRET", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
	dir := t.TempDir()
	file := filepath.Join(dir, "edge.yaml")
	text := fmt.Sprintf(`
listen: 127.0.0.1:0
data: %q
admin: {listen: "off"}
egress: {allow_http: true, allow_private: true}
sources: {own: {path: /own, secret_env: EDGE_TEST_SECRET}}
servers: {own: {url: %q, api_key_env: EDGE_TEST_KEY}}
routes: [{name: all, actions: [{http: {url: %q, unsigned: true}}]}]
reconcile: [{server: own, source: own, every: 720h}]
`, dir, s.URL(), to.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	inbox, err := sqlite.Open(t.Context(), filepath.Join(dir, "inbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := edge.New(file, inbox, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := inbox.Close(); err != nil {
			t.Error(err)
		}
	}()
	s.ok("POST", "/v1/interactions", `{"model":"m","input":"hi","background":true}`, nil)
	later := time.Now().Add(10 * time.Minute)
	until(t, "the event is found", func() bool { return e.Reconcile(ctx, later, nil) == 1 })
	until(t, "it is acted on", func() bool { return acted.Load() > 0 })
	e.Reconcile(ctx, later, nil) // It is in the inbox; a double is none.
	if n := acted.Load(); n != 1 {
		t.Errorf("acted on %d times", n)
	}
}
