package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ringback.dev"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
	"ringback.dev/internal/store/sqlite"
	"ringback.dev/webhook"
)

// world is an inbox whose endpoint is in a real store.
type world struct {
	*Inbox
	t    testing.TB
	db   *sqlite.Store
	keys *keyring.Keyring
}

const (
	project  = ringback.ID("proj")
	endpoint = ringback.ID("inbox")
)

func newWorld(t testing.TB) *world {
	t.Helper()
	dir := t.TempDir()
	db, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	keys, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	err = db.CreateProject(t.Context(), ringback.Project{ID: project, Created: now}, &ringback.APIKey{ID: "key", Project: project, Hash: []byte("h"), Created: now}, store.By{Actor: store.Server, At: now})
	if err != nil {
		t.Fatal(err)
	}
	err = db.CreateEndpoint(t.Context(), &ringback.Endpoint{ID: endpoint, Project: project, URI: "http://127.0.0.1/inbox", Events: ringback.EventTypes(),
		State: ringback.Enabled, Secrets: []ringback.Secret{NewInboxSecret(keys, endpoint, now)}, Created: now, Updated: now}, store.By{Actor: store.Server, At: now})
	if err != nil {
		t.Fatal(err)
	}
	return &world{NewInbox(db, keys, project, endpoint, time.Now), t, db, keys}
}

// secret is the endpoint's newest signing secret.
func (w *world) secret() webhook.Secret {
	w.t.Helper()
	e, err := w.db.Endpoint(w.t.Context(), project, endpoint)
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := w.keys.Unseal(e.Secrets[0].Sealed, "endpoint/"+string(endpoint))
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := webhook.ParseSecret(string(text))
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// post delivers a body as the sender would and returns the answer.
func (w *world) post(id, body string, s webhook.Secret) *httptest.ResponseRecorder {
	w.t.Helper()
	now := time.Now()
	r := httptest.NewRequest("POST", "/inbox", strings.NewReader(body))
	r.Header.Set(webhook.HeaderID, id)
	r.Header.Set(webhook.HeaderTimestamp, fmt.Sprint(now.Unix()))
	r.Header.Set(webhook.HeaderSignature, webhook.Sign(id, now, []byte(body), s))
	return w.do(r)
}

func (w *world) do(r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	return rec
}

// json reads the inbox as programs do, newest first.
func (w *world) json() []Arrival {
	w.t.Helper()
	var all struct{ Arrived []Arrival }
	if err := json.Unmarshal(w.do(httptest.NewRequest("GET", "/inbox?format=json", nil)).Body.Bytes(), &all); err != nil {
		w.t.Fatal(err)
	}
	return all.Arrived
}

func event(id string) string {
	return fmt.Sprintf(`{"type":"interaction.completed","version":"v1","timestamp":%q,"data":{"id":%q}}`, time.Now().Add(-time.Second).UTC().Format(time.RFC3339Nano), id)
}

func TestVerifies(t *testing.T) {
	w := newWorld(t)
	if got := w.post("msg_1", event("a"), w.secret()); got.Code != http.StatusNoContent {
		t.Errorf("a good message: %d %s", got.Code, got.Body)
	}
	if got := w.post("msg_1", event("a"), w.secret()); got.Code != http.StatusNoContent {
		t.Errorf("the same again must be acknowledged, or it never ends: %d %s", got.Code, got.Body)
	}
	if got := w.post("msg_2", event("a"), webhook.NewSecret()); got.Code != http.StatusUnauthorized {
		t.Errorf("a message signed by another: %d", got.Code)
	}
	if got := w.do(httptest.NewRequest("POST", "/inbox", strings.NewReader("not JSON"))); got.Code != http.StatusUnauthorized {
		t.Errorf("no signature: %d", got.Code)
	}
	list := w.json()
	if len(list) != 4 {
		t.Fatalf("%d arrived, want 4", len(list))
	}
	for i, want := range []struct {
		id              string
		verified, again bool
		reason          string
	}{
		{"", false, false, "missing header"},
		{"msg_2", false, false, "no matching signature"},
		{"msg_1", true, true, ""},
		{"msg_1", true, false, ""},
	} {
		got := list[i]
		if got.ID != want.id || got.Verified != want.verified || got.Again != want.again || !strings.Contains(got.Reason, want.reason) || (got.Reason == "") != got.Verified {
			t.Errorf("arrival %d is %+v, want %+v", i, got, want)
		}
	}
	if first := list[3]; first.Type != "interaction.completed" || first.Millis < 1000 || first.Millis > 60_000 {
		t.Errorf("type %q, %.0f ms after the event of a second ago", first.Type, first.Millis)
	}
	if list[0].Body != nil {
		t.Errorf("a body that is no JSON is shown as %s", list[0].Body)
	}
}

// TestFollowsRotation reads the secrets at each callback, not once.
func TestFollowsRotation(t *testing.T) {
	w := newWorld(t)
	old := w.secret()
	rotate := func(expire, at time.Time) {
		t.Helper()
		if err := w.db.RotateSecrets(t.Context(), project, endpoint, []ringback.Secret{NewInboxSecret(w.keys, endpoint, at)}, expire, store.By{Actor: store.Server, At: at}); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	rotate(now.Add(time.Hour), now)
	for name, s := range map[string]webhook.Secret{"old": old, "new": w.secret()} {
		if got := w.post("msg_"+name, event("a"), s); got.Code != http.StatusNoContent {
			t.Errorf("while both are valid, the %s secret: %d %s", name, got.Code, got.Body)
		}
	}
	// Two hours ago both were told to expire an hour later. They are still listed.
	rotate(now.Add(-time.Hour), now.Add(-2*time.Hour))
	if got := w.post("msg_3", event("a"), old); got.Code != http.StatusUnauthorized {
		t.Errorf("a secret that has expired: %d", got.Code)
	}
	rotate(now, now)
	if got := w.post("msg_4", event("a"), old); got.Code != http.StatusUnauthorized {
		t.Errorf("a revoked secret: %d", got.Code)
	}
}

func TestKeepsTheLast(t *testing.T) {
	w := newWorld(t)
	for i := range inboxSize + 5 {
		w.keep(Arrival{ID: fmt.Sprint("msg_", i)})
	}
	list := w.json()
	if len(list) != inboxSize || list[0].ID != fmt.Sprint("msg_", inboxSize+4) || list[inboxSize-1].ID != "msg_5" {
		t.Errorf("kept %d, from %s to %s", len(list), list[len(list)-1].ID, list[0].ID)
	}
}

func TestPage(t *testing.T) {
	w := newWorld(t)
	get := func() string {
		t.Helper()
		rec := w.do(httptest.NewRequest("GET", "/inbox", nil))
		if rec.Code != http.StatusOK || !strings.HasPrefix(rec.Header().Get("Content-Type"), "text/html") {
			t.Fatalf("GET /inbox: %d, %s", rec.Code, rec.Header().Get("Content-Type"))
		}
		return rec.Body.String()
	}
	if page := get(); !strings.Contains(page, "Nothing has arrived yet") || !strings.Contains(page, "last 200") {
		t.Error("the empty page says neither that it is empty nor how much is kept")
	}
	const hostile = `<script>alert(1)</script>`
	w.post("msg_1", event("a"), w.secret())
	w.post("msg_1", event("a"), w.secret())
	w.post(hostile, fmt.Sprintf(`{"type":%q,"data":{"x":%q}}`, hostile, hostile), webhook.NewSecret())
	page := get()
	for _, want := range []string{"✓ verified", "✗ not verified", "↻ delivered again", "no matching signature", "<code>msg_1</code>", "alert(1)"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	if strings.Contains(page, hostile) {
		t.Error("what arrived is written into the page unescaped")
	}
	if strings.Index(page, "✗ not verified") > strings.Index(page, "✓ verified") {
		t.Error("the newest is not first")
	}
}

func TestRefuses(t *testing.T) {
	w := newWorld(t)
	if got := w.do(httptest.NewRequest("PUT", "/inbox", nil)); got.Code != http.StatusMethodNotAllowed || got.Header().Get("Allow") == "" {
		t.Errorf("PUT: %d, Allow %q", got.Code, got.Header().Get("Allow"))
	}
	if got := w.post("msg_1", strings.Repeat("x", webhook.MaxBody+1), w.secret()); got.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("a body over the limit: %d", got.Code)
	}
	if list := w.json(); len(list) != 0 {
		t.Errorf("kept %+v", list)
	}
}

// TestStream wants a page to hear of an arrival, and Close to end its stream.
func TestStream(t *testing.T) {
	w := newWorld(t)
	srv := httptest.NewServer(w)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // Less than the test's own limit.
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+"?format=events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func() string {
		t.Helper()
		for lines.Scan() {
			if lines.Text() != "" {
				return lines.Text()
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return ""
	}
	if got := next(); got != ": open" {
		t.Fatalf("the stream begins with %q", got)
	}
	w.post("msg_1", event("a"), w.secret())
	if got := next(); got != "data: arrived" {
		t.Errorf("after an arrival the stream says %q", got)
	}
	w.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 1 { // The blank line that ends the last event.
		t.Errorf("after Close the stream says %q, %v", rest, err)
	}
}

// FuzzReceive posts anything at all: it is refused or shown, and the page stays whole.
func FuzzReceive(f *testing.F) {
	f.Add("msg_1", "1790000000", "v1,x", `{"type":"a","timestamp":"2026-01-01T00:00:00Z"}`)
	f.Add("", "", "", "")
	f.Add("m", "-1", "v1,", "{\"type\":\"<b>\\u2028\"}")
	all := newWorld(f)
	f.Fuzz(func(t *testing.T, id, at, signature, body string) {
		w := &world{Inbox: all.Inbox, t: t}
		r := httptest.NewRequest("POST", "/inbox", strings.NewReader(body))
		r.Header = http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {at}, "Webhook-Signature": {signature}}
		if got := w.do(r); got.Code != http.StatusUnauthorized {
			t.Fatalf("answered %d to an unsigned message", got.Code)
		}
		if list := w.json(); len(list) == 0 || list[0].Verified {
			t.Fatal("the arrival is not shown, or shown as verified")
		}
		if page := w.do(httptest.NewRequest("GET", "/inbox", nil)).Body.String(); !strings.HasSuffix(strings.TrimSpace(page), "</html>") {
			t.Fatal("the page broke off")
		}
	})
}
