package reconcile_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"ringback.dev/internal/app"
	"ringback.dev/internal/post"
	"ringback.dev/internal/reconcile"
	"ringback.dev/webhook"
)

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// server runs a development server without its inbox's webhook.
func server(t *testing.T) *app.App {
	t.Helper()
	a, err := app.New(t.Context(), app.Config{Listen: "127.0.0.1:0", Data: t.TempDir(), Dev: true, DeliveryTimeout: 5 * time.Second, MaxInFlight: 8, PerTargetInFlight: 8,
		MaxRunning: 8, MaxRequestBytes: 1 << 20, Grace: patience}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var loops errgroup.Group
	loops.Go(func() error { return a.Run(t.Context()) })
	t.Cleanup(func() { // After the test's context has ended.
		if err := loops.Wait(); err != nil {
			t.Error(err)
		}
	})
	call(t, a, "DELETE", "/v1/webhooks/dev-inbox", "")
	return a
}

// call makes a request that must succeed, and returns the id in the answer.
func call(t *testing.T, a *app.App, method, path, body string) string {
	t.Helper()
	req, err := http.NewRequest(method, a.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Goog-Api-Key", "any")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var v struct{ ID string }
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(text, &v) != nil {
		t.Fatalf("%s %s: %s %s", method, path, resp.Status, text)
	}
	return v.ID
}

// find looks until as many gaps are there as wanted.
func find(t *testing.T, s reconcile.Source, o reconcile.Options, gaps int) []reconcile.Gap {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		r, err := s.Find(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Gaps) == gaps {
			return r.Gaps
		}
		if time.Now().After(end) {
			t.Fatalf("%d gaps, want %d: %+v", len(r.Gaps), gaps, r.Gaps)
		}
	}
}

func TestRingback(t *testing.T) {
	a := server(t)
	var status atomic.Int32
	status.Store(http.StatusGone)
	secret := webhook.NewSecret()
	var verified atomic.Int32
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if _, err := (&webhook.Verifier{Secrets: []webhook.Secret{secret}}).Verify(r.Header, body); err == nil {
			verified.Add(1)
		}
		w.WriteHeader(int(status.Load()))
	}))
	defer receiver.Close()
	s := reconcile.Ringback(a.URL(), "any")
	o := reconcile.Options{Since: time.Now().Add(-time.Hour)}
	submit := func(more string) string {
		return call(t, a, "POST", "/v1/interactions", `{"model":"m","input":"hello"`+more+`}`)
	}

	// Nobody was to hear of it; that a client waited for another one says that it was
	// collected, and so does that a third was deleted.
	submit("")
	unheard := submit(`,"background":true`)
	gone := submit(`,"background":true`)
	find(t, s, o, 2)
	call(t, a, "DELETE", "/v1/interactions/"+gone, "")
	gaps := find(t, s, o, 1)
	if g := gaps[0]; g.Job != unheard || g.Why != reconcile.Unheard || g.Type != "interaction.completed" || !strings.Contains(g.Detail, "no webhook") || g.Delivery != "" {
		t.Errorf("got %+v", g)
	}
	if _, err := s.Close(t.Context(), &gaps[0]); err != reconcile.ErrPost {
		t.Errorf("got %v", err)
	}
	ledger, err := reconcile.OpenLedger(filepath.Join(t.TempDir(), "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	o.Ledger = ledger
	sender := &post.Sender{Signers: []webhook.Signer{secret}}
	if r, err := reconcile.Post(t.Context(), sender, receiver.URL, &gaps[0], ledger); err != nil || r.OK() || ledger.Has(unheard) {
		t.Errorf("got %+v, %v", r, err)
	}
	status.Store(http.StatusNoContent)
	if r, err := reconcile.Post(t.Context(), sender, receiver.URL, &gaps[0], ledger); err != nil || !r.OK() || !ledger.Has(unheard) || verified.Load() != 2 {
		t.Errorf("got %+v, %v", r, err)
	}
	find(t, s, o, 0)

	// An address of a request answers 410: that is given up at once. It is sent again
	// when it is told to.
	status.Store(http.StatusGone)
	dynamic := submit(fmt.Sprintf(`,"background":true,"webhook_config":{"uris":[%q]}`, receiver.URL+"/dynamic"))
	gaps = find(t, s, o, 1)
	if g := gaps[0]; g.Job != dynamic || g.Why != reconcile.GivenUp || g.URI != receiver.URL+"/dynamic" || g.ID != g.Delivery {
		t.Errorf("got %+v", g)
	}
	if closed, err := s.Close(t.Context(), &gaps[0]); closed || err == nil || !strings.Contains(err.Error(), "still does not accept it: gone") {
		t.Errorf("closed is %v, %v", closed, err)
	}
	status.Store(http.StatusNoContent)
	if closed, err := s.Close(t.Context(), &gaps[0]); !closed || err != nil {
		t.Errorf("closed is %v, %v", closed, err)
	}
	find(t, s, o, 0)

	// A webhook that was deleted is missed only while nobody else has heard.
	status.Store(http.StatusInternalServerError)
	hook := call(t, a, "POST", "/v1/webhooks", fmt.Sprintf(`{"uri":%q,"subscribed_events":["interaction.completed"]}`, receiver.URL))
	submit(`,"background":true`)
	o.Waiting = true
	if g := find(t, s, o, 1)[0]; g.Why != reconcile.Waiting || g.Webhook != hook {
		t.Errorf("got %+v", g)
	}
	o.Waiting = false
	find(t, s, o, 0)
	call(t, a, "PATCH", "/v1/webhooks/"+hook, `{"state":"disabled"}`)
	if g := find(t, s, o, 1)[0]; g.Why != reconcile.Held || !strings.Contains(g.Detail, "disabled") {
		t.Errorf("got %+v", g)
	}
	call(t, a, "DELETE", "/v1/webhooks/"+hook, "")
	for g := find(t, s, o, 1)[0]; g.Why != reconcile.GivenUp; g = find(t, s, o, 1)[0] {
	}
	gaps = find(t, s, o, 1)
	if _, err := s.Close(t.Context(), &gaps[0]); err != reconcile.ErrPost || !strings.Contains(gaps[0].Detail, "deleted") {
		t.Errorf("got %v, %+v", err, gaps[0])
	}
	if _, err := reconcile.Ringback("http://127.0.0.1:1", "any").Find(t.Context(), o); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
}

// TestGemini reads a list as Google's API gives it, page by page.
func TestGemini(t *testing.T) {
	now := time.Now().UTC()
	batch := func(name, state, more string, age time.Duration) string {
		return fmt.Sprintf(`{"name":"batches/%s","metadata":{"@type":"x","state":"BATCH_STATE_%s","updateTime":%q,%s"displayName":"nightly"},"done":true%s}`,
			name, state, now.Add(-age).Format(time.RFC3339Nano), map[bool]string{true: `"output":{"responsesFile":"files/out1"},"batchStats":{"requestCount":"2","successfulRequestCount":"1","failedRequestCount":"1"},`}[state == "SUCCEEDED"], more)
	}
	pages := map[string]string{
		"":   `{"operations":[` + batch("e", "RUNNING", "", 0) + "," + batch("d", "SUCCEEDED", "", time.Minute) + `],"nextPageToken":"p2"}`,
		"p2": `{"operations":[` + batch("c", "FAILED", `,"error":{"code":3,"message":"bad <input>"}`, time.Hour) + "," + batch("b", "EXPIRED", "", 2*time.Hour) + "," + batch("a", "CANCELLED", "", 99*time.Hour) + `]}`,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1beta/batches" || r.Header.Get("X-Goog-Api-Key") != "secret" {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"error":{"code":403,"message":"no such key","status":"PERMISSION_DENIED"}}`)
			return
		}
		fmt.Fprint(w, pages[r.URL.Query().Get("pageToken")])
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "ledger")
	if err := os.WriteFile(file, []byte("# mine\n\nb collected by hand"), 0o600); err != nil {
		t.Fatal(err)
	}
	ledger, err := reconcile.OpenLedger(file)
	if err != nil {
		t.Fatal(err)
	}
	s := reconcile.Gemini(srv.URL+"/", "secret")
	o := reconcile.Options{Since: now.Add(-72 * time.Hour), Ledger: ledger}
	r, err := s.Find(t.Context(), o)
	if err != nil || r.Ended != 3 || len(r.Gaps) != 2 {
		t.Fatalf("got %+v, %v", r, err)
	}
	failed, done := r.Gaps[0], r.Gaps[1]
	if failed.Job != "batches/c" || failed.Type != "batch.failed" || failed.Why != reconcile.NotCollected || failed.Detail != "nightly" ||
		!strings.Contains(failed.Body, `"error_code":"INVALID_ARGUMENT","error_message":"bad <input>"`) {
		t.Errorf("got %+v", failed)
	}
	want := `"data":{"id":"batches/d","output_file_uri":"` + srv.URL + `/v1beta/files/out1:download?alt=media","file_name":"files/out1","batch_stats":{"request_count":2,"successful_request_count":1,"failed_request_count":1,"pending_request_count":0}}}`
	if done.Job != "batches/d" || done.Type != "batch.succeeded" || !strings.HasSuffix(done.Body, want) || done.ID == failed.ID {
		t.Errorf("got %+v", done)
	}
	if again, err := s.Find(t.Context(), o); err != nil || again.Gaps[1].ID != done.ID || again.Gaps[1].Body != done.Body {
		t.Errorf("another message the second time: %+v, %v", again, err)
	}
	if err := ledger.Add(done.Job, "x"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "# mine\n\nb collected by hand\nbatches/d x\n" {
		t.Errorf("got %q, %v", text, err)
	}
	if err := ledger.Add("a b", ""); err == nil {
		t.Error("a name of two words stands in the ledger")
	}
	if _, err := reconcile.Gemini(srv.URL, "other").Find(t.Context(), o); err == nil || err.Error() != "no such key" {
		t.Errorf("got %v", err)
	}
}

// FuzzLedger: any file can be read or is refused, and what is added is there.
func FuzzLedger(f *testing.F) {
	f.Add([]byte("batches/a x\n# b\n  c\n"))
	f.Add([]byte("\xff\x00"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(dir, "ledger")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := reconcile.OpenLedger(file)
		if err != nil {
			return
		}
		if err := l.Add("batches/new", "now"); err != nil {
			t.Fatal(err)
		}
		if l, err = reconcile.OpenLedger(file); err != nil || !l.Has("new") {
			t.Fatalf("%v", err)
		}
	})
}

// TestSince: no more is asked for than what is looked at.
func TestSince(t *testing.T) {
	since := time.Date(2026, 10, 1, 12, 0, 0, 5000, time.UTC)
	asked := make(map[string]string)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.Path] = r.URL.Query().Get("from")
		fmt.Fprint(w, `{"events":[],"deliveries":[]}`)
	}))
	defer srv.Close()
	if _, err := reconcile.Ringback(srv.URL, "any").Find(t.Context(), reconcile.Options{Since: since}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/ringback/v1/events", "/ringback/v1/deliveries"} {
		if asked[path] != "2026-10-01T12:00:00.000005Z" {
			t.Errorf("%s: asked for %q", path, asked[path])
		}
	}
}

// TestKeyStays: a redirect does not lead the key to another server.
func TestKeyStays(t *testing.T) {
	var shown atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { shown.Store(true); fmt.Fprint(w, `{}`) }))
	defer other.Close()
	first := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer first.Close()
	for _, s := range []reconcile.Source{reconcile.Gemini(first.URL, "secret"), reconcile.Ringback(first.URL, "secret")} {
		if _, err := s.Find(t.Context(), reconcile.Options{}); err == nil || shown.Load() {
			t.Errorf("got %v", err)
		}
	}
}
