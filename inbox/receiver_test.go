package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ringback.dev/inbox"
	"ringback.dev/inbox/sqlite"
	"ringback.dev/webhook"
)

func openSQLite(t *testing.T) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "inbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

const body = `{"type":"batch.succeeded","version":"v1","timestamp":"2026-01-22T12:00:00Z","data":{"id":"batch_123456","output_file_uri":"gs://my-bucket/results.jsonl"}}`

var secret = webhook.NewSecret()

func request(id, body string) *http.Request {
	now := time.Now()
	r := httptest.NewRequest(http.MethodPost, "/hook", strings.NewReader(body))
	r.Header.Set(webhook.HeaderID, id)
	r.Header.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	r.Header.Set(webhook.HeaderSignature, webhook.Sign(id, now, []byte(body), secret))
	return r
}

func post(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func verifier() *webhook.Verifier { return &webhook.Verifier{Secrets: []webhook.Secret{secret}} }

func TestReceiver(t *testing.T) {
	s := openSQLite(t)
	var mu sync.Mutex
	calls := make(map[string]int)
	done := make(chan string, 100)
	hook := inbox.Handler(verifier(), s, func(_ context.Context, e *inbox.Entry) error {
		mu.Lock()
		defer mu.Unlock()
		calls[e.ID]++
		if calls[e.ID] == 1 && strings.HasSuffix(e.ID, "0") {
			return errors.New("not yet")
		}
		done <- e.ID
		return nil
	})
	hook.Delays = []time.Duration{time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- hook.Run(ctx) }()
	var wg sync.WaitGroup
	for i := range 50 {
		for range 3 {
			wg.Go(func() {
				if w := post(hook, request(fmt.Sprintf("msg_%d", i), body)); w.Code != http.StatusNoContent {
					t.Errorf("status %d: %s", w.Code, w.Body)
				}
			})
		}
	}
	wg.Wait()
	seen := make(map[string]bool)
	for range 50 {
		id := <-done
		if seen[id] {
			t.Errorf("%s was done twice", id)
		}
		seen[id] = true
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	counts, err := s.Counts(t.Context())
	if err != nil || counts[""][inbox.Done] != 50 || counts[""][inbox.Pending] != 0 {
		t.Errorf("counts %v, %v", counts, err)
	}
	e, err := s.Entry(t.Context(), "", "msg_10")
	if err != nil || e.State != inbox.Done || e.Attempts != 2 || len(e.Failures) != 1 || string(e.Body) != body || e.Type != "batch.succeeded" {
		t.Errorf("%+v, %v", e, err)
	}
}
