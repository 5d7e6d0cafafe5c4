package edge

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ringback.dev/inbox"
	inboxsqlite "ringback.dev/inbox/sqlite"
	"ringback.dev/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// secret is that of the source "s" in tests.
const secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

// base is the part of a configuration that most tests need.
const base = `
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
egress: {allow_http: true, allow_hosts: [127.0.0.1, localhost]}
retry: {schedule: [10ms], window: 300ms}
sources:
  s: {path: /s, secret_env: EDGE_TEST_SECRET}
`

// world is an edge that runs.
type world struct {
	*Edge
	t     *testing.T
	file  string
	store *inboxsqlite.Store
	log   *recorder
	stop  func()
}

// start runs an edge of base and more YAML. env are variables and their values.
func start(t *testing.T, more string, env ...string) *world {
	t.Helper()
	return startAll(t, base+more, env...)
}

func startAll(t *testing.T, text string, env ...string) *world {
	t.Helper()
	t.Setenv("EDGE_TEST_SECRET", secret)
	for i := 0; i+1 < len(env); i += 2 {
		t.Setenv(env[i], env[i+1])
	}
	dir := t.TempDir()
	w := &world{t: t, file: filepath.Join(dir, "edge.yaml"), log: newRecorder(t)}
	w.write(text)
	var err error
	if w.store, err = inboxsqlite.Open(t.Context(), filepath.Join(dir, "inbox.db")); err != nil {
		t.Fatal(err)
	}
	if w.Edge, err = New(w.file, w.store, slog.New(w.log)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

func (w *world) write(text string) {
	w.t.Helper()
	if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// client of tests keeps no connection, so that none outlives a test.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// post sends a signed message and returns the answer's status.
func (w *world) post(path, id, body string) int {
	w.t.Helper()
	s, err := webhook.ParseSecret(secret)
	if err != nil {
		w.t.Fatal(err)
	}
	now := time.Now()
	h := http.Header{}
	h.Set(webhook.HeaderID, id)
	h.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Set(webhook.HeaderSignature, webhook.Sign(id, now, []byte(body), s))
	status, _ := w.send(http.MethodPost, w.URL()+path, h, body)
	return status
}

func (w *world) send(method, url string, h http.Header, body string) (int, string) {
	w.t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header = h
	if host := h.Get("Host"); host != "" {
		req.Host = host
	}
	resp, err := client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// event sends an event to source s, which must be accepted.
func (w *world) event(id, body string) {
	w.t.Helper()
	if status := w.post("/s", id, body); status != http.StatusNoContent {
		w.t.Fatalf("answered %d; the log: %s", status, w.log)
	}
}

// ended waits until an action of an event is done or dead and returns its entry.
func (w *world) ended(action, id string) inbox.Entry {
	w.t.Helper()
	var found inbox.Entry
	w.log.until(func(line string) bool {
		if !strings.Contains(line, "msg=action ") || !strings.Contains(line, "event=s/"+id+" ") || !strings.Contains(line, "action="+action+" ") || strings.Contains(line, "state=pending") {
			return false
		}
		var err error
		if found, err = w.store.Entry(context.Background(), action, "s/"+id); err != nil {
			w.t.Error(err)
		}
		return true
	})
	return found
}

// done is ended for an action that must succeed.
func (w *world) done(action, id string) {
	w.t.Helper()
	if e := w.ended(action, id); e.State != inbox.Done {
		w.t.Fatalf("%s is %s: %s", action, e.State, e.LastError)
	}
}

// dead is ended for an action that must be given up; it returns why.
func (w *world) dead(action, id string) string {
	w.t.Helper()
	e := w.ended(action, id)
	if e.State != inbox.Dead {
		w.t.Fatalf("%s is %s", action, e.State)
	}
	return e.LastError
}

// recorder is a log that can be waited for.
type recorder struct {
	slog.Handler
	t    *testing.T
	mu   sync.Mutex
	text bytes.Buffer
	news *sync.Cond
}

func newRecorder(t *testing.T) *recorder {
	r := &recorder{t: t}
	r.news = sync.NewCond(&r.mu)
	r.Handler = slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug})
	return r
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text.Write(b)
	r.news.Broadcast()
	return len(b), nil
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// until waits for a line of the log, from its beginning.
func (r *recorder) until(is func(line string) bool) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	late := false
	defer time.AfterFunc(30*time.Second, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		late = true
		r.news.Broadcast()
	}).Stop()
	for at := 0; ; {
		for {
			end := bytes.IndexByte(r.text.Bytes()[at:], '\n')
			if end < 0 {
				break
			}
			line := r.text.String()[at : at+end]
			at += end + 1
			r.mu.Unlock()
			found := is(line)
			r.mu.Lock()
			if found {
				return
			}
		}
		if late {
			r.t.Fatalf("it did not come; the log:\n%s", r.text.String())
		}
		if bytes.IndexByte(r.text.Bytes()[at:], '\n') < 0 {
			r.news.Wait()
		}
	}
}

func (r *recorder) waitFor(part string) {
	r.t.Helper()
	r.until(func(line string) bool { return strings.Contains(line, part) })
}

// rows reads a query's only column as text.
func rows(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	found, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	var all []string
	for found.Next() {
		var v any
		if err := found.Scan(&v); err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprint(v))
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// indent puts YAML below a key.
func indent(n int, text string) string {
	return strings.ReplaceAll(strings.TrimRight("\n"+text, "\n"), "\n", "\n"+strings.Repeat(" ", n)) + "\n"
}

// route is a route "r" for everything with an action "a" of some kind.
func routed(action string) string {
	return "routes:\n  - name: r\n    actions:\n      - name: a\n        " + strings.TrimLeft(indent(8, action), "\n ")
}
