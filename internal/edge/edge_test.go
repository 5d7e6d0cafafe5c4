package edge

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ringback.dev/inbox"
	inboxsqlite "ringback.dev/inbox/sqlite"
	"ringback.dev/webhook"
)

// touch is a route that does something for every event.
const touch = `
routes:
  - name: r
    actions: [{name: a, exec: {command: [/bin/true]}}]
`

// TestGoogle: the payloads that Google documents are accepted as they are, in all
// the forms in which they are signed.
func TestGoogle(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding
	keys := newTarget(t)
	keys.say(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{ // The edge has gone if this fails.
			map[string]string{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k1", "x": b64.EncodeToString(public)},
			map[string]string{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k2", "n": b64.EncodeToString(rsaKey.N.Bytes()), "e": b64.EncodeToString(big.NewInt(int64(rsaKey.E)).Bytes())},
		}})
	})
	const audience = "https://my-api.com/gemini-webhook-dynamic"
	w := startAll(t, strings.Replace(base, "{path: /s, secret_env: EDGE_TEST_SECRET}", `
    path: /s
    secret_env: EDGE_TEST_SECRET
    jwks: `+keys.URL+`/.well-known/jwks.json
    audience: `+audience+`
    allow_unbound: true`, 1)+touch)
	v1, err := webhook.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, body := range []string{
		`{"type":"batch.succeeded","version":"v1","timestamp":"2026-01-22T12:00:00Z","data":{"id":"batch_123456","output_file_uri":"gs://my-bucket/results.jsonl"}}`,
		`{"type":"batch.failed","version":"v1","timestamp":"2026-10-01T12:05:00Z","data":{"id":"batches/abc123","error_code":"INVALID_ARGUMENT","error_message":"input file is not JSON Lines"}}`,
		`{"type":"batch.expired","version":"v1","timestamp":"2026-10-01T12:05:00Z","data":{"id":"batches/abc123"}}`,
		`{"type":"interaction.completed","version":"v1","timestamp":"2026-10-01T12:05:00Z","data":{"id":"v1_bg1","user_metadata":{"job_group":"nightly-eval"}},"user_metadata":{"job_group":"nightly-eval"}}`,
		`{"type":"interaction.requires_action","version":"v1","timestamp":"2026-10-01T12:05:00Z","data":{"id":"v1_bg1"}}`,
		`{"type":"video.generated","version":"v1","timestamp":"2026-10-01T12:05:00Z","data":{"id":"models/m/operations/op1","output_file_uri":"https://host/v1beta/files/vid123:download?alt=media","file_name":"files/vid123","video_uri":"https://host/v1beta/files/vid123:download?alt=media"}}`,
	} {
		now := time.Now()
		for _, scheme := range []string{"v1", "v1a", "jwt"} {
			n++
			id := fmt.Sprintf("msg_0f8c-%d", n)
			h := http.Header{"Content-Type": {"application/json"}}
			h.Set(webhook.HeaderID, id)
			h.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
			switch scheme {
			case "v1":
				h.Set(webhook.HeaderSignature, webhook.Sign(id, now, []byte(body), v1))
			case "v1a":
				h.Set(webhook.HeaderSignature, "v1a,"+base64.StdEncoding.EncodeToString(ed25519.Sign(private, fmt.Appendf(nil, "%s.%d.%s", id, now.Unix(), body))))
			case "jwt": // Without body_sha256, which is ringback's.
				claims := strings.TrimSuffix(body, "}") + fmt.Sprintf(`,"iss":"https://generativelanguage.googleapis.com","aud":%q,"iat":%d,"exp":%d,"jti":%q}`, audience, now.Unix(), now.Unix()+300, id)
				token := b64.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT","kid":"k2"}`)) + "." + b64.EncodeToString([]byte(claims))
				digest := sha256.Sum256([]byte(token))
				signature, err := rsa.SignPKCS1v15(nil, rsaKey, crypto.SHA256, digest[:])
				if err != nil {
					t.Fatal(err)
				}
				h.Set(webhook.HeaderSignature, token+"."+b64.EncodeToString(signature))
			}
			if status, text := w.send(http.MethodPost, w.URL()+"/s", h, body); status != http.StatusNoContent {
				t.Errorf("%s of %s: %d %s", scheme, body, status, text)
				continue
			}
			w.done("r/a", id)
			if e, err := w.store.Entry(t.Context(), "s", id); err != nil || e.Scheme != scheme || string(e.Body) != body || e.Type == "" {
				t.Errorf("%s: %+v, %v", scheme, e, err)
			}
		}
	}
	for range len(keys.seen) - 1 {
		t.Error("the keys were fetched more than once")
	}
}

func TestAnswers(t *testing.T) {
	w := startAll(t, strings.Replace(base, "{path: /s, secret_env: EDGE_TEST_SECRET}", "{path: /s, secret_env: EDGE_TEST_SECRET, max_body: 1KiB}", 1)+
		"  t: {path: /deep/t, secret_env: EDGE_TEST_SECRET, allow_from: 203.0.113.0/24}\n"+strings.Replace(touch, "\n", "\ntrusted_proxies: [127.0.0.1]\n", 1))
	if got := w.post("/s", "msg_1", succeeded); got != 204 {
		t.Errorf("answered %d", got)
	}
	if got := w.post("/s", "msg_1", succeeded); got != 204 {
		t.Errorf("a double is answered %d", got)
	}
	if got := w.post("/s", "msg_2", strings.Repeat(" ", 2000)); got != 413 {
		t.Errorf("answered %d", got)
	}
	if got := w.post("/elsewhere", "msg_1", succeeded); got != 404 {
		t.Errorf("answered %d", got)
	}
	if got := w.post("/deep/t", "msg_1", succeeded); got != 403 {
		t.Errorf("answered %d", got)
	}
	signed := func(via string) int {
		s, err := webhook.ParseSecret(secret)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		h := http.Header{"X-Forwarded-For": {via}}
		h.Set(webhook.HeaderID, "msg_1")
		h.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
		h.Set(webhook.HeaderSignature, webhook.Sign("msg_1", now, []byte(succeeded), s))
		status, _ := w.send(http.MethodPost, w.URL()+"/deep/t", h, succeeded)
		return status
	}
	if got := signed("203.0.113.9"); got != 204 {
		t.Errorf("answered %d", got)
	}
	if got := signed("203.0.113.9, 198.51.100.1"); got != 403 { // Who wrote the first part is not trusted.
		t.Errorf("answered %d", got)
	}
	for _, x := range []struct {
		method, path string
		status       int
	}{{"GET", "/s", 405}, {"POST", "/s", 400}, {"GET", "/healthz", 200}, {"GET", "/readyz", 200}, {"GET", "/metrics", 404}, {"GET", "/inbox", 404}} {
		if got, _ := w.send(x.method, w.URL()+x.path, http.Header{}, ""); got != x.status {
			t.Errorf("%s %s: %d, want %d", x.method, x.path, got, x.status)
		}
	}
	w.done("r/a", "msg_1")
	_, text := w.send("GET", w.Admin()+"/metrics", http.Header{}, "")
	for _, want := range []string{
		`ringback_edge_requests_total{answer="accepted",source="s"} 1`, `ringback_edge_requests_total{answer="double",source="s"} 1`, `ringback_edge_requests_total{answer="too_large",source="s"} 1`,
		`ringback_edge_requests_total{answer="forbidden",source="t"} 2`, `ringback_edge_requests_total{answer="malformed",source="s"} 2`, `ringback_edge_requests_total{answer="not_found",source=""} 3`,
		`ringback_edge_attempts_total{action="r/a",kind="exec",reason="done",state="done"}`, `ringback_edge_inbox_entries{kind="event",name="s",state="done"} 1`,
		`ringback_edge_accept_seconds_count 3`, `ringback_edge_config_loaded_timestamp_seconds`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// TestLimits: nobody holds a connection for ever, by no part of a request, also where
// no source is asked.
func TestLimits(t *testing.T) {
	w := start(t, touch)
	for _, s := range []*http.Server{w.server, w.desk} {
		for what, is := range map[string]time.Duration{"header": s.ReadHeaderTimeout, "request": s.ReadTimeout, "answer": s.WriteTimeout, "pause": s.IdleTimeout} {
			if is <= 0 || is > 2*time.Minute {
				t.Errorf("a %s may take %s", what, is)
			}
		}
		if s.MaxHeaderBytes <= 0 {
			t.Error("a header may be large")
		}
	}
	// The sender hears that the inbox hangs before it hangs up itself.
	if d := w.doors.Load().receivers["/s"].AcceptTimeout; d <= 0 || d >= 15*time.Second {
		t.Errorf("a message may take %s to be stored", d)
	}
	w.stop()
	if _, err := w.certificate(nil); err == nil { // A handshake may outlast the edge.
		t.Error("there is a certificate after the end")
	}
}

func TestSender(t *testing.T) {
	f := &file{}
	trusted := f.prefixes("trusted_proxies", []string{"::ffff:10.0.0.0/104", "::1", "fe80::/10"}) // The first means 10.0.0.0/8.
	if len(f.problems) > 0 {
		t.Fatal(f.problems)
	}
	for _, x := range []struct{ remote, via, want string }{
		{"192.0.2.1:5", "", "192.0.2.1"}, {"192.0.2.1:5", "203.0.113.1", "192.0.2.1"}, {"10.0.0.1:5", "203.0.113.1", "203.0.113.1"},
		{"10.0.0.1:5", "6.6.6.6, 203.0.113.1, 10.0.0.2", "203.0.113.1"}, {"10.0.0.1:5", "", "10.0.0.1"}, {"10.0.0.1:5", "nonsense", "10.0.0.1"},
		{"10.0.0.1:5", "10.0.0.3,10.0.0.2", "10.0.0.3"}, {"[::1]:5", "2001:db8::1", "2001:db8::1"}, {"[::ffff:10.0.0.1]:5", "::ffff:203.0.113.1", "203.0.113.1"}, {"odd", "203.0.113.1", "invalid IP"},
		{"[fe80::1%eth0]:5", "203.0.113.1", "203.0.113.1"},
	} {
		r := httptest.NewRequest("POST", "/", nil)
		r.RemoteAddr = x.remote
		r.Header.Set("X-Forwarded-For", x.via)
		if got := sender(r, trusted).String(); got != x.want {
			t.Errorf("%s via %s is %s, want %s", x.remote, x.via, got, x.want)
		}
	}
}

func TestTLS(t *testing.T) {
	lender := httptest.NewTLSServer(http.NotFoundHandler())
	defer lender.Close()
	dir := t.TempDir()
	pair := lender.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writeCertificate(t, dir+"/cert.pem", pair.Certificate[0])
	if err := os.WriteFile(dir+"/key.pem", pemOf("PRIVATE KEY", der), 0o600); err != nil {
		t.Fatal(err)
	}
	w := start(t, "tls: {cert: "+dir+"/cert.pem, key: "+dir+"/key.pem}\n"+touch)
	if !strings.HasPrefix(w.URL(), "https://") {
		t.Error(w.URL())
	}
	own := client
	defer func() { client = own }()
	client = lender.Client()
	client.Transport.(*http.Transport).DisableKeepAlives = true
	w.event("msg_1", succeeded)
	w.done("r/a", "msg_1")
}

func TestReload(t *testing.T) {
	a, b := newTarget(t), newTarget(t)
	release := make(chan struct{})
	a.say(func(http.ResponseWriter, *http.Request) { <-release })
	config := func(url string) string {
		return routed(`http: {url: "` + url + `/", unsigned: true}`)
	}
	w := start(t, config(a.URL))
	w.event("msg_1", succeeded)
	<-a.seen // It is under way, by the first file.
	w.write(base + config(b.URL) + "sorces: x\n")
	if err := w.Reload(); err == nil || !strings.Contains(err.Error(), "did you mean sources?") {
		t.Errorf("got %v", err)
	}
	w.write(strings.Replace(base, "listen: 127.0.0.1:0", "listen: 127.0.0.1:1", 1) + config(b.URL))
	if err := w.Reload(); err == nil || err.Error() != "listen: it can't be changed while the edge runs; start it again" {
		t.Errorf("got %v", err)
	}
	w.event("msg_2", succeeded) // Still by the old one.
	<-a.seen
	w.write(base + "  u: {path: /u, secret_env: EDGE_TEST_SECRET}\n" + config(b.URL))
	if err := w.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := w.post("/u", "msg_3", succeeded); got != 204 {
		t.Errorf("answered %d", got)
	}
	w.event("msg_4", succeeded)
	for range 2 {
		<-b.seen
	}
	close(release)
	w.done("r/a", "msg_1") // What was under way is not disturbed.
	w.done("r/a", "msg_2")
	// Without the action its events wait; with it they go on.
	w.write(base + strings.Replace(config(b.URL), "name: a\n", "name: other\n", 1))
	if err := w.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := w.post("/u", "msg_5", succeeded); got != 404 {
		t.Errorf("a source that is gone answers %d", got)
	}
	err := w.runner.add(t.Context(), "r/a", &inbox.Entry{Source: "r/a", ID: "s/msg_6", Body: []byte(succeeded), Received: time.Now(), State: inbox.Pending, Due: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	w.write(base + config(b.URL))
	w.orphans(t.Context())
	w.log.waitFor("events wait for an action that the configuration does not have")
	if err := w.Reload(); err != nil {
		t.Fatal(err)
	}
	w.done("r/a", "msg_6")
	_, text := w.send("GET", w.Admin()+"/metrics", http.Header{}, "")
	for _, want := range []string{`ringback_edge_reloads_total{result="good"} 3`, `ringback_edge_reloads_total{result="refused"} 2`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

// TestUnfitCondition: an event whose route can't be decided is a dead letter until
// the file is mended; the actions of the other routes are done, once.
func TestUnfitCondition(t *testing.T) {
	next := newTarget(t)
	text := base + `
routes:
  - {name: sure, actions: [{name: a, http: {url: "` + next.URL + `", unsigned: true}}]}
  - {name: unsure, when: data.score > 0.5, actions: [{name: a, http: {url: "` + next.URL + `", unsigned: true}}]}
`
	w := startAll(t, text)
	w.event("msg_1", succeeded)
	w.done("sure/a", "msg_1")
	w.log.waitFor("dead letter")
	e, err := w.store.Entry(t.Context(), "s", "msg_1")
	if err != nil || e.State != inbox.Dead || !strings.Contains(e.LastError, "route unsure: when: invalid operation: <nil> > float64") {
		t.Errorf("got %+v, %v", e, err)
	}
	w.write(strings.Replace(text, "data.score > 0.5", "'(data.score ?? 1) > 0.5'", 1))
	if err := w.Reload(); err != nil {
		t.Fatal(err)
	}
	h := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	if status, _ := w.send("POST", w.Admin()+"/inbox/s/msg_1", h, ""); status != http.StatusSeeOther {
		t.Errorf("answered %d", status)
	}
	w.done("unsure/a", "msg_1")
	if n := len(next.seen); n != 2 {
		t.Errorf("%d requests", n)
	}
}

// TestStop: what is under way is given time, what is cut off does not count.
func TestStop(t *testing.T) {
	next := newTarget(t)
	gone := make(chan struct{})
	next.say(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done(); close(gone) })
	w := start(t, "grace: 100ms\n"+routed(`http: {url: "`+next.URL+`", unsigned: true}`))
	w.event("msg_1", succeeded)
	<-next.seen
	w.stop()
	<-gone
	again, err := inboxsqlite.Open(t.Context(), filepath.Join(filepath.Dir(w.file), "inbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	e, err := again.Entry(t.Context(), "r/a", "s/msg_1")
	if err != nil || e.State != inbox.Pending || e.Working || e.Attempts != 0 || e.Lost != 0 || len(e.Failures) != 0 {
		t.Errorf("got %+v, %v", e, err)
	}
}

// TestSweep: what is old is forgotten, and its id is known for longer.
func TestSweep(t *testing.T) {
	w := start(t, touch)
	w.event("msg_1", succeeded)
	w.done("r/a", "msg_1")
	w.log.waitFor("msg=event ")
	if err := w.sweep(t.Context(), time.Now().Add(8*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, x := range [][2]string{{"s", "msg_1"}, {"r/a", "s/msg_1"}} {
		if e, err := w.store.Entry(t.Context(), x[0], x[1]); err == nil {
			t.Errorf("%v is still there: %+v", x, e)
		}
	}
	w.event("msg_1", succeeded)
	if _, text := w.send("GET", w.Admin()+"/metrics", http.Header{}, ""); !strings.Contains(text, `ringback_edge_requests_total{answer="double",source="s"} 1`) {
		t.Error("an old message is taken for a new one")
	}
}

// TestKeep: the receivers, which sweep too, keep to the file.
func TestKeep(t *testing.T) {
	w := start(t, "keep: 1000h\n"+touch)
	if r := w.doors.Load().receivers["/s"]; r.KeepDone != 1000*time.Hour || r.Remember < 1000*time.Hour || r.Remember < inbox.Remember {
		t.Errorf("kept for %s, remembered for %s", r.KeepDone, r.Remember)
	}
}

// TestDeadLettersAreKept: for as long as the file says from when they were given up,
// however long they had been tried before.
func TestDeadLettersAreKept(t *testing.T) {
	w := start(t, "keep_dead: 240h\n"+touch)
	const day = 24 * time.Hour
	now := time.Now()
	for id, ended := range map[string]time.Time{"s/old": now.Add(-11 * day), "s/new": now.Add(-day)} {
		e := &inbox.Entry{Source: "gone/a", ID: id, Sent: now, Received: now.Add(-60 * day), Body: []byte("{}"), State: inbox.Pending, Token: 1, Working: true, Due: now}
		if _, err := w.store.Accept(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if err := w.store.Settle(t.Context(), e.Lease(), inbox.Outcome{State: inbox.Dead, At: ended, Started: ended, Error: "no"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.sweep(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Entry(t.Context(), "gone/a", "s/new"); err != nil {
		t.Errorf("what was given up a day ago: %v", err)
	}
	if _, err := w.store.Entry(t.Context(), "gone/a", "s/old"); !errors.Is(err, inbox.ErrNotFound) {
		t.Errorf("what was given up long ago: %v", err)
	}
	w.log.waitFor(`msg="old dead letters removed" count=1`)
	// In the end their ids are forgotten, although no file has the action any more.
	for _, days := range []time.Duration{20, 80} {
		if err := w.sweep(t.Context(), now.Add(days*day)); err != nil {
			t.Fatal(err)
		}
	}
	if counts, err := w.store.Counts(t.Context()); err != nil || len(counts) != 0 {
		t.Errorf("%v is left, %v", counts, err)
	}
}

// TestClaimsOutliveDeadLetters: an action that was committed and given up all the
// same, since its last answer was lost, may be retried as long as it is kept.
func TestClaimsOutliveDeadLetters(t *testing.T) {
	w := start(t, "databases: {main: {url: 'sqlite:"+t.TempDir()+"/d.db'}}\n"+routed(`
sql: {database: main, statements: [{sql: SELECT 1}]}`))
	w.event("msg_1", succeeded)
	w.done("r/a", "msg_1")
	for _, x := range []struct {
		days int
		want reason
	}{{60, doneAgo}, {100, done}} {
		if err := w.sweep(t.Context(), time.Now().Add(time.Duration(x.days)*24*time.Hour)); err != nil {
			t.Fatal(err)
		}
		event := &Event{Source: "s", ID: "msg_1", Type: "x", Body: []byte(succeeded), Received: time.Now()}
		if r := w.doors.Load().actions["r/a"].do(t.Context(), &task{Event: event, action: "r/a", number: 2}); r.reason != x.want {
			t.Errorf("after %d days: %+v", x.days, r)
		}
	}
}

func TestPage(t *testing.T) {
	next := newTarget(t)
	next.say(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	w := start(t, `
routes:
  - name: r
    actions:
      - {name: good, exec: {command: [/bin/true]}}
      - {name: bad, http: {url: "`+next.URL+`", unsigned: true}, retry: {schedule: [1ms], window: 1ms}}
`)
	get := func(path string) (int, string) { return w.send("GET", w.Admin()+path, http.Header{}, "") }
	if _, text := get("/inbox"); !strings.Contains(text, "Nothing has arrived yet.") {
		t.Error(text)
	}
	w.event("msg_1", `{"type":"<script>alert(1)</script>","data":{"id":"x"}}`)
	w.done("r/good", "msg_1")
	w.dead("r/bad", "msg_1")
	for path, wants := range map[string][]string{
		"/inbox":            {"1 events", `<span class="bad">1</span>`, "r/good", "✓ done", "r/bad", "✗ dead", "it answered 500", "/inbox/s/msg_1", "&lt;script&gt;alert"},
		"/inbox?state=dead": {"r/bad"},
		"/inbox/s/msg_1":    {"run /bin/true", "forward to 127.0.0.1", "#1", "#2", "failed: it answered 500", "try again now", "&#34;id&#34;: &#34;x&#34;"},
	} {
		status, text := get(path)
		for _, want := range wants {
			if status != 200 || !strings.Contains(text, want) {
				t.Errorf("%s: %d, no %q in\n%s", path, status, want, text)
			}
		}
		if strings.Contains(text, "<script>alert") {
			t.Errorf("%s shows an event's markup", path)
		}
	}
	if _, text := get("/inbox?state=pending"); !strings.Contains(text, "Nothing is pending.") {
		t.Error(text)
	}
	for path, want := range map[string]int{"/": 302, "/inbox/s/none": 404, "/inbox?after=x": 500, "/healthz": 200} {
		if status, _ := get(path); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
	// The button.
	next.say(func(http.ResponseWriter, *http.Request) {})
	h := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	if status, _ := w.send("POST", w.Admin()+"/inbox/s/msg_1", h, "action=r/bad"); status != 303 {
		t.Errorf("answered %d", status)
	}
	w.log.until(func(line string) bool {
		return strings.Contains(line, "action=r/bad") && strings.Contains(line, "state=done")
	})
	// A proxy on this machine is not a person on it.
	for _, name := range []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"} {
		if status, _ := w.send("GET", w.Admin()+"/inbox", http.Header{name: {"x"}}, ""); status != 403 {
			t.Errorf("through a proxy, by %s: %d", name, status)
		}
	}
	// Other sites can't press it, nor read the page by a name that leads here.
	h.Set("Origin", "https://evil.example")
	h.Set("Sec-Fetch-Site", "cross-site")
	if status, _ := w.send("POST", w.Admin()+"/inbox/s/msg_1", h, "action=r/bad"); status != 403 {
		t.Errorf("another site is answered %d", status)
	}
	if status, _ := w.send("GET", w.Admin()+"/inbox", http.Header{"Host": {"evil.example"}}, ""); status != 403 {
		t.Errorf("another name is answered %d", status)
	}
}

func TestPagePassword(t *testing.T) {
	w := startAll(t, strings.Replace(base, `admin: {listen: "127.0.0.1:0"}`, `admin: {listen: "127.0.0.1:0", password_env: PAGE}`, 1)+touch, "PAGE", "hush")
	for auth, want := range map[string]int{"": 401, "x:wrong": 401, ":hush": 200, "anybody:hush": 200} {
		h := http.Header{"Host": {"edge.example"}}
		if auth != "" {
			h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(auth)))
		}
		if status, _ := w.send("GET", w.Admin()+"/inbox", h, ""); status != want {
			t.Errorf("%q: %d, want %d", auth, status, want)
		}
	}
	if status, _ := w.send("GET", w.Admin()+"/metrics", http.Header{}, ""); status != 200 {
		t.Errorf("metrics: %d", status)
	}
}

func TestCheckReport(t *testing.T) {
	t.Setenv("EDGE_TEST_SECRET", secret)
	t.Setenv("EDGE_KEY", "rbk_hush")
	t.Setenv("EDGE_CHAT", "http://127.0.0.1:1/services/hush")
	t.Setenv("EDGE_S3_ID", "AKIA")
	t.Setenv("EDGE_S3_SECRET", "hush")
	file := filepath.Join(t.TempDir(), "edge.yaml")
	if err := os.WriteFile(file, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Check(file, nil, &out); err != nil {
		t.Fatal(err)
	}
	if err := Check(file, &Sample{Body: []byte(strings.Replace(succeeded, `"data":{`, `"data":{"n":2,`, 1))}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"s        /s", "v1 by 1 secret", "r        from s, type batch.*, when data.n > 1", "r/q      sql     run 1 statement on main, exactly once, 30s each, 18 attempts in 24h",
		"s/msg_sample, batch.succeeded", "r: matches", `"input":"x","background":true,"model":"m"`, "GET https://host/v1beta/files/out1:download?alt=media\n", "to /tmp/msg_sample",
		"r/b fetch download the result to s3://results/{{ id }}, 15m each", "to s3://results/msg_sample\n"} {
		if !strings.Contains(regexp.MustCompile(` +`).ReplaceAllString(out.String(), " "), regexp.MustCompile(` +`).ReplaceAllString(want, " ")) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "hush") {
		t.Errorf("a secret is told:\n%s", out.String())
	}
	out.Reset()
	if err := Check(file, &Sample{Body: []byte(`{"type":"batch.x","data":{}}`)}, &out); err == nil || !strings.Contains(out.String(), "invalid operation: <nil> > int") {
		t.Errorf("got %v\n%s", err, out.String())
	}
	out.Reset()
	if err := Check(file, &Sample{Body: []byte(strings.NewReplacer("2026-10-01T12:05:00Z", "yesterday", `"data":{`, `"data":{"n":2,`).Replace(succeeded))}, &out); err != nil || !strings.Contains(out.String(), "s/msg_sample, batch.succeeded\n\n  r: matches") {
		t.Errorf("got %v\n%s", err, out.String()) // The edge reads no more of a timestamp than it needs.
	}
	if err := Check(file, &Sample{Source: "other", Body: []byte(`{}`)}, io.Discard); err == nil || err.Error() != "there is no source other: use one of s" {
		t.Errorf("got %v", err)
	}
}

// FuzzRequest sends anything to the edge: only what is signed is accepted, and
// nothing makes it panic.
func FuzzRequest(f *testing.F) {
	f.Setenv("EDGE_TEST_SECRET", secret)
	dir := f.TempDir()
	file := filepath.Join(dir, "edge.yaml")
	text := strings.Replace(base, `admin: {listen: "127.0.0.1:0"}`, `admin: {listen: "off"}`, 1) + "  t: {path: /t, public_keys: whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=, allow_from: 203.0.113.0/24}\ntrusted_proxies: [127.0.0.0/8]\n" + touch
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		f.Fatal(err)
	}
	store, err := inboxsqlite.Open(context.Background(), filepath.Join(dir, "inbox.db"))
	if err != nil {
		f.Fatal(err)
	}
	e, err := New(file, store, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { e.Close(); _ = store.Close() })
	s, err := webhook.ParseSecret(secret)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("POST", "/s", "msg_1", "1790000000", "v1,AAAA", succeeded, "", true)
	f.Add("POST", "/t", "msg_1", "1790000000", "v1a,AAAA", "{}", "203.0.113.1, x", false)
	f.Add("GET", "/healthz", "", "", "", "", "", false)
	f.Add("POST", "/s", "é\x7f", "", "", "\xff{", "::1", true)
	var once sync.Mutex
	f.Fuzz(func(t *testing.T, method, path, id, stamp, signature, body, via string, sign bool) {
		once.Lock()
		defer once.Unlock()
		r := &http.Request{Method: method, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), RemoteAddr: "127.0.0.1:1", Host: "edge"}
		var err error
		if r.URL, err = r.URL.Parse("http://edge"); err != nil {
			t.Fatal(err)
		}
		r.URL.Path = path
		r = r.WithContext(t.Context())
		if sign {
			now := time.Now()
			stamp, signature = strconv.FormatInt(now.Unix(), 10), webhook.Sign(id, now, []byte(body), s)
		}
		r.Header.Set(webhook.HeaderID, id)
		r.Header.Set(webhook.HeaderTimestamp, stamp)
		r.Header.Set(webhook.HeaderSignature, signature)
		r.Header.Set("X-Forwarded-For", via)
		rec := httptest.NewRecorder()
		e.serve(rec, r)
		if rec.Code/100 == 2 && path != "/healthz" && path != "/readyz" && !(sign && path == "/s" && method == "POST") {
			t.Errorf("answered %d", rec.Code)
		}
		if sign && path == "/s" && method == "POST" && len(body) < 1000 && inbox.CheckID(id) == nil && rec.Code != http.StatusNoContent {
			t.Errorf("a good message is answered %d %s", rec.Code, rec.Body)
		}
	})
}
