package inbox_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ringback.dev/inbox"
	"ringback.dev/inbox/sqlite"
	"ringback.dev/webhook"
)

func openSQLite(t testing.TB) (*sqlite.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "inbox.db")
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, path
}

const body = `{"type":"batch.succeeded","version":"v1","timestamp":"2026-01-22T12:00:00Z","data":{"id":"batch_123456","output_file_uri":"gs://my-bucket/results.jsonl"}}`

// signed is a message with the headers of v1.
func signed(secret webhook.Secret, id string, at time.Time, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/hook", strings.NewReader(body))
	r.Header.Set(webhook.HeaderID, id)
	r.Header.Set(webhook.HeaderTimestamp, strconv.FormatInt(at.Unix(), 10))
	r.Header.Set(webhook.HeaderSignature, webhook.Sign(id, at, []byte(body), secret))
	return r
}

// fixture is a receiver on a real store, with one secret.
type fixture struct {
	*inbox.Receiver
	store  *sqlite.Store
	path   string
	secret webhook.Secret
}

func newFixture(t testing.TB, fn inbox.Func) *fixture {
	t.Helper()
	f := &fixture{secret: webhook.NewSecret()}
	f.store, f.path = openSQLite(t)
	f.Receiver = inbox.Handler(&webhook.Verifier{Secrets: []webhook.Secret{f.secret}}, f.store, fn)
	f.Log = slog.New(slog.DiscardHandler)
	return f
}

func (f *fixture) post(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w
}

// deliver sends a good message.
func (f *fixture) deliver(t testing.TB, id string) {
	t.Helper()
	if w := f.post(signed(f.secret, id, time.Now(), body)); w.Code != http.StatusNoContent {
		t.Fatalf("%s: status %d: %s", id, w.Code, w.Body)
	}
}

// run runs the receiver until the function that it returns is called.
func run(t testing.TB, r *inbox.Receiver) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func (f *fixture) entry(t testing.TB, id string) inbox.Entry {
	t.Helper()
	e, err := f.store.Entry(t.Context(), "", id)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestReceiver(t *testing.T) {
	var mu sync.Mutex
	calls := make(map[string]int)
	done := make(chan string, 100)
	f := newFixture(t, func(_ context.Context, e *inbox.Entry) error {
		mu.Lock()
		defer mu.Unlock()
		calls[e.ID]++
		if calls[e.ID] == 1 && strings.HasSuffix(e.ID, "0") {
			return errors.New("not yet")
		}
		done <- e.ID
		return nil
	})
	f.Delays = []time.Duration{time.Millisecond}
	f.deliver(t, "msg_before") // Nothing runs yet.
	stop := run(t, f.Receiver)
	var wg sync.WaitGroup
	for i := range 50 {
		for range 3 {
			wg.Go(func() { f.deliver(t, fmt.Sprint("msg_", i)) })
		}
	}
	wg.Wait()
	seen := make(map[string]bool)
	for range 51 {
		id := <-done
		if seen[id] {
			t.Errorf("%s was done twice", id)
		}
		seen[id] = true
	}
	stop()
	counts, err := f.store.Counts(t.Context())
	if err != nil || counts[""][inbox.Done] != 51 || counts[""][inbox.Pending] != 0 {
		t.Errorf("counts %v, %v", counts, err)
	}
	e := f.entry(t, "msg_10")
	if e.State != inbox.Done || e.Attempts != 2 || len(e.Failures) != 1 || string(e.Body) != body || e.Type != "batch.succeeded" || e.Scheme != webhook.SchemeV1 {
		t.Errorf("%+v", e)
	}
}

// TestAnswers sends what examiners and forgers send.
func TestAnswers(t *testing.T) {
	f := newFixture(t, nil)
	old, other := webhook.NewSecret(), webhook.NewSecret()
	from := newSenders(t)
	f.Receiver = inbox.Handler(&webhook.Verifier{Secrets: []webhook.Secret{f.secret, old}, Keys: from.set, Audience: []string{audience}}, f.store, nil)
	f.Log = slog.New(slog.DiscardHandler)
	f.MaxBody = 4096
	now := time.Now()
	good := func() *http.Request { return signed(f.secret, "msg_good", now, body) }
	sized := func(n int) string { return `{"type":"` + strings.Repeat("x", n-len(`{"type":""}`)) + `"}` }
	chunked := func(r *http.Request) *http.Request {
		r.ContentLength = -1
		return r
	}
	bare := good()
	bare.Header = http.Header{}
	get := good()
	get.Method = http.MethodGet
	broken := good()
	broken.Body, broken.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader(body[:10]), brokenReader{})), int64(len(body))
	short := good()
	short.ContentLength++
	var pretty strings.Builder
	if err := indent(&pretty, body); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name   string
		r      *http.Request
		status int
	}{
		{"good", good(), 204},
		{"double", good(), 204},
		{"signed by the old secret", signed(old, "msg_old", now, body), 204},
		{"signed by both secrets", with(good(), webhook.HeaderSignature, webhook.Sign("msg_good", now, []byte(body), other)+" "+webhook.Sign("msg_good", now, []byte(body), f.secret)), 204},
		{"unknown type", signed(f.secret, "msg_unknown", now, `{"type":"nobody.knows","data":{}}`), 204},
		{"not JSON", signed(f.secret, "msg_text", now, "hello"), 204},
		{"empty", signed(f.secret, "msg_empty", now, ""), 204},
		{"type with a zero byte", signed(f.secret, "msg_zero", now, `{"type":"a\u0000b"}`), 204},
		{"pretty-printed", signed(f.secret, "msg_pretty", now, pretty.String()), 204},
		{"as large as can be", signed(f.secret, "msg_large", now, sized(4096)), 204},
		{"as large as can be, length unknown", chunked(signed(f.secret, "msg_chunked", now, sized(4096))), 204},
		{"too large", signed(f.secret, "msg_huge", now, sized(4097)), 413},
		{"too large, length unknown", chunked(signed(f.secret, "msg_huge", now, sized(4097))), 413},
		{"stale", signed(f.secret, "msg_stale", now.Add(-6*time.Minute), body), 401},
		{"of the future", signed(f.secret, "msg_future", now.Add(6*time.Minute), body), 401},
		{"timestamp changed", with(good(), webhook.HeaderTimestamp, strconv.FormatInt(now.Unix()+1, 10)), 401},
		{"id changed", with(good(), webhook.HeaderID, "msg_other"), 401},
		{"wrong secret", signed(other, "msg_wrong", now, body), 401},
		{"forged", with(good(), webhook.HeaderSignature, "v1,"+base64.StdEncoding.EncodeToString(make([]byte, 32))), 401},
		{"body changed", with(signed(f.secret, "msg_good", now, body+" "), webhook.HeaderSignature, good().Header.Get(webhook.HeaderSignature)), 401},
		{"body printed anew", with(signed(f.secret, "msg_good", now, pretty.String()), webhook.HeaderSignature, good().Header.Get(webhook.HeaderSignature)), 401},
		{"no headers", bare, 400},
		{"no id", with(good(), webhook.HeaderID, ""), 400},
		{"no timestamp", with(good(), webhook.HeaderTimestamp, ""), 400},
		{"no signature", with(good(), webhook.HeaderSignature, ""), 400},
		{"id that is not ASCII", signed(f.secret, "msg_\xff", now, body), 400},
		{"endless id", signed(f.secret, strings.Repeat("x", 513), now, body), 400},
		{"GET", get, 405},
		{"broken off", broken, 400},
		{"too short", short, 400},
		{"JWT", from.jwt(t, "msg_jwt", audience, "k1", body, body), 204},
		{"JWT for another audience", from.jwt(t, "msg_aud", "https://other.example/", "k1", body, body), 401},
		{"JWT of another body", from.jwt(t, "msg_body", audience, "k1", body, strings.Replace(body, "123456", "123457", 1)), 401},
		{"JWT of another id", with(from.jwt(t, "msg_id", audience, "k1", body, body), webhook.HeaderID, "msg_id2"), 401},
		{"JWT with an unknown kid", from.jwt(t, "msg_kid", audience, "k3", body, body), 401},
		{"JWT with the kid of another kind", from.jwt(t, "msg_kind", audience, "k2", body, body), 401},
		{"JWT with alg none", with(from.jwt(t, "msg_none", audience, "k1", body, body), webhook.HeaderSignature, "eyJhbGciOiJub25lIn0.e30."), 401},
		{"Ed25519", with(signed(other, "msg_ed", now, body), webhook.HeaderSignature, webhook.Sign("msg_ed", now, []byte(body), from.key)), 204},
	} {
		var status int
		var first bool
		var reason error
		f.OnRequest = func(s int, one bool, _ time.Duration, err error) { status, first, reason = s, one, err }
		w := f.post(x.r)
		if w.Code != x.status || status != x.status || (reason == nil) != (x.status == 204) || first && x.status != 204 {
			t.Errorf("%s: status %d, told %d, %v, %v; want %d: %s", x.name, w.Code, status, first, reason, x.status, w.Body)
		}
		if x.status == 401 && w.Body.String() != `{"error":{"message":"the message is not signed as it must be"}}`+"\n" {
			t.Errorf("%s: a forger learns %s", x.name, w.Body)
		}
		if id := x.r.Header.Get(webhook.HeaderID); x.status != 204 && id != "" && id != "msg_good" {
			if _, err := f.store.Entry(t.Context(), "", id); !errors.Is(err, inbox.ErrNotFound) {
				t.Errorf("%s: it is stored: %v", x.name, err)
			}
		}
		if x.name == "double" && first || x.name == "good" && !first {
			t.Errorf("%s: first is %v", x.name, first)
		}
	}
	if e := f.entry(t, "msg_zero"); e.Type != "" {
		t.Errorf("the type is %q", e.Type)
	}
	if e := f.entry(t, "msg_pretty"); string(e.Body) != pretty.String() {
		t.Errorf("the body is %q", e.Body)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func indent(to *strings.Builder, text string) error {
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return err
	}
	e := json.NewEncoder(to)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// TestUnavailable: what can't be stored or checked just now is to come again.
func TestUnavailable(t *testing.T) {
	f := newFixture(t, nil)
	f.AcceptTimeout = 20 * time.Millisecond
	db := openDB(t, "sqlite", "file:"+f.path+"?_txlock=immediate")
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil) // Another process has the lock.
	if err != nil {
		t.Fatal(err)
	}
	w := f.post(signed(f.secret, "msg_1", time.Now(), body))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	f.AcceptTimeout = 0
	f.deliver(t, "msg_1")
	keyless := httptest.NewServer(http.NotFoundHandler())
	defer keyless.Close()
	f.Receiver = inbox.Handler(&webhook.Verifier{Keys: webhook.NewKeySet(keyless.URL), Audience: []string{"x"}}, f.store, nil)
	f.Log = slog.New(slog.DiscardHandler)
	r := signed(f.secret, "msg_2", time.Now(), body)
	r.Header.Set(webhook.HeaderSignature, "v1a,"+base64.StdEncoding.EncodeToString(make([]byte, 64)))
	if w := f.post(r); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}

// A sender that hangs up before the answer sends again; what it sent is stored and
// worked on all the same, once.
func TestHangUp(t *testing.T) {
	called := make(chan string, 2)
	f := newFixture(t, func(_ context.Context, e *inbox.Entry) error {
		called <- e.ID
		return nil
	})
	defer run(t, f.Receiver)()
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	for range 2 {
		if w := f.post(signed(f.secret, "msg_1", time.Now(), body).WithContext(gone)); w.Code != http.StatusNoContent {
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
	}
	f.deliver(t, "msg_2")
	got := []string{<-called, <-called}
	slices.Sort(got)
	if !slices.Equal(got, []string{"msg_1", "msg_2"}) {
		t.Errorf("worked on %v", got)
	}
}

// TestSlowBody: a body that does not come in time holds up nobody.
func TestSlowBody(t *testing.T) {
	f := newFixture(t, nil)
	f.BodyTimeout = 50 * time.Millisecond
	srv := httptest.NewServer(f)
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusRequestTimeout || !resp.Close {
		t.Errorf("status %s, close %v", resp.Status, resp.Close)
	}
	// The connection of one that came in time can be used again, also later.
	for range 2 {
		r := signed(f.secret, "msg_1", time.Now(), body)
		req, err := http.NewRequest(http.MethodPost, srv.URL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = r.Header
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusNoContent {
			t.Errorf("status %s, %v", resp.Status, err)
		}
	}
}

// attempts notes when a function was called.
type attempts struct {
	mu sync.Mutex
	at []time.Time
}

func (a *attempts) add() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = append(a.at, time.Now())
	return len(a.at)
}

func (a *attempts) all() []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.at)
}

// TestRetries looks at the times of attempts.
func TestRetries(t *testing.T) {
	for _, x := range []struct {
		name   string
		fails  func(attempt int) error
		waits  []time.Duration
		exact  bool
		state  inbox.State
		reason string
	}{
		{"always", func(n int) error { return fmt.Errorf("no %d", n) }, []time.Duration{time.Second, time.Minute, time.Hour}, false, inbox.Dead, "no 4"},
		{"twice", func(n int) error {
			if n > 2 {
				return nil
			}
			return errors.New("no")
		}, []time.Duration{time.Second, time.Minute}, false, inbox.Done, "no"},
		{"permanent", func(int) error { return fmt.Errorf("x: %w", inbox.Permanent(errors.New("never"))) }, nil, false, inbox.Dead, "x: never"},
		{"wait", func(n int) error {
			if n > 1 {
				return nil
			}
			return inbox.RetryAfter(errors.New("later"), 42*time.Minute)
		}, []time.Duration{42 * time.Minute}, true, inbox.Done, "later"},
		{"panic", func(n int) error {
			if n == 1 {
				panic("oh")
			}
			return nil
		}, []time.Duration{time.Second}, false, inbox.Done, "panic: oh"},
		{"odd text", func(n int) error { return inbox.Permanent(errors.New("a\x00b\xff")) }, nil, false, inbox.Dead, "ab?"},
		{"no text", func(n int) error { return inbox.Permanent(errors.New("")) }, nil, false, inbox.Dead, "an error without text"},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var a attempts
				f := newFixture(t, func(context.Context, *inbox.Entry) error { return x.fails(a.add()) })
				f.Delays = []time.Duration{time.Second, time.Minute, time.Hour}
				f.Poll = 10 * time.Minute // Retries don't wait for it.
				var told atomic.Int32
				f.OnAttempt = func(*inbox.Entry, inbox.Outcome) { told.Add(1) }
				stop := run(t, f.Receiver)
				f.deliver(t, "msg_1")
				time.Sleep(3 * time.Hour) // In the bubble's time.
				stop()
				if len(a.at) != len(x.waits)+1 || int(told.Load()) != len(a.at) {
					t.Fatalf("%d attempts, told of %d, want %d", len(a.at), told.Load(), len(x.waits)+1)
				}
				for i, want := range x.waits {
					slack := want / 5
					if x.exact {
						slack = 0
					}
					if got := a.at[i+1].Sub(a.at[i]); got < want-slack || got > want+slack+time.Second {
						t.Errorf("attempt %d came after %s, want %s", i+2, got, want)
					}
				}
				if e := f.entry(t, "msg_1"); e.State != x.state || e.LastError != x.reason || e.Attempts != len(a.at) {
					t.Errorf("%+v", e)
				}
			})
		})
	}
	if inbox.Permanent(nil) != nil || inbox.RetryAfter(nil, time.Second) != nil {
		t.Error("success is an error")
	}
}

// TestTimeout: a call ends when its time is up, if it listens.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(ctx context.Context, _ *inbox.Entry) error {
			<-ctx.Done()
			return ctx.Err()
		})
		f.Delays = []time.Duration{}
		begin := time.Now()
		ended := make(chan time.Duration, 1)
		f.OnAttempt = func(*inbox.Entry, inbox.Outcome) { ended <- time.Since(begin) }
		stop := run(t, f.Receiver)
		f.deliver(t, "msg_1")
		if took := <-ended; took < time.Minute || took > time.Minute+time.Second {
			t.Errorf("it took %s", took)
		}
		stop()
		if e := f.entry(t, "msg_1"); e.State != inbox.Dead || e.LastError != context.DeadlineExceeded.Error() {
			t.Errorf("%+v", e)
		}
	})
}

// TestStop: what is under way at the end may go on for a while; then it is given
// back, and no attempt is counted.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		called := make(chan struct{}, 100)
		f := newFixture(t, func(ctx context.Context, e *inbox.Entry) error {
			called <- struct{}{}
			if e.ID == "msg_quick" {
				time.Sleep(5 * time.Second)
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		f.Workers, f.Timeout = 2, time.Hour
		stop := run(t, f.Receiver)
		f.deliver(t, "msg_quick")
		f.deliver(t, "msg_slow")
		for range 2 {
			<-called
		}
		if err := f.Run(t.Context()); err == nil {
			t.Error("it runs twice")
		}
		for i := range 6 { // Some are in hand, others are not.
			f.deliver(t, fmt.Sprint("msg_", i))
		}
		begin := time.Now()
		stop()
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("it took %s to stop", took)
		}
		f.deliver(t, "msg_after")
		counts, err := f.store.Counts(t.Context())
		if err != nil || counts[""][inbox.Done] != 1 || counts[""][inbox.Pending] != 8 {
			t.Errorf("%v, %v", counts, err)
		}
		for _, id := range []string{"msg_slow", "msg_0", "msg_5", "msg_after"} {
			if e := f.entry(t, id); e.Working || e.Attempts != 0 || e.Lost != 0 || e.Due.After(time.Now()) || len(e.Failures) != 0 {
				t.Errorf("%+v", e)
			}
		}
		// It can be run again.
		stop = run(t, f.Receiver)
		for range 2 {
			<-called
		}
		stop()
	})
}

// TestLeases: a long call keeps its entry; that of a process that died is taken
// over.
func TestLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a, b attempts
		f := newFixture(t, func(_ context.Context, e *inbox.Entry) error {
			a.add()
			time.Sleep(5 * time.Minute)
			return nil
		})
		f.Timeout = time.Hour
		other := inbox.Handler(nil, f.store, func(_ context.Context, e *inbox.Entry) error {
			if e.ID == "msg_long" || e.Lost != 1 {
				t.Errorf("%+v", e)
			}
			b.add()
			return nil
		})
		other.Log = f.Log
		stop := run(t, f.Receiver)
		synctest.Wait() // It runs.
		f.deliver(t, "msg_long")
		stopOther := run(t, other)
		now := time.Now()
		dead := &inbox.Entry{ID: "msg_dead", Sent: now, Received: now, Body: []byte("x"), State: inbox.Pending, Due: now.Add(30 * time.Second), Token: 1, Working: true}
		// All places of the first are taken, so that the other gets this one.
		for i := range 15 {
			f.deliver(t, fmt.Sprint("msg_fill_", i))
		}
		if _, err := f.store.Accept(t.Context(), dead); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Minute)
		if at := b.all(); len(at) != 1 || at[0].Sub(now) < 30*time.Second || at[0].Sub(now) > 32*time.Second {
			t.Errorf("taken over after %v", at)
		}
		time.Sleep(10 * time.Minute)
		stopOther()
		stop()
		if len(a.at) != 16 || len(b.at) != 1 {
			t.Errorf("%d and %d calls", len(a.at), len(b.at))
		}
	})
}

// TestKiller: an entry that was under way whenever the process died is not tried
// for ever.
func TestKiller(t *testing.T) {
	var calls attempts
	f := newFixture(t, func(context.Context, *inbox.Entry) error {
		calls.add()
		return nil
	})
	f.deliver(t, "msg_1")
	now := time.Now()
	for i := range 11 {
		now = now.Add(time.Minute)
		if got, err := f.store.Claim(t.Context(), "", now, time.Now(), 1); len(got) != 1 || got[0].Lost != i || err != nil {
			t.Fatal(got, err)
		}
	}
	told := make(chan inbox.Outcome, 1)
	f.OnAttempt = func(_ *inbox.Entry, o inbox.Outcome) { told <- o }
	stop := run(t, f.Receiver)
	if o := <-told; o.State != inbox.Dead || len(calls.all()) != 0 {
		t.Errorf("%+v, %d calls", o, len(calls.all()))
	}
	if n, err := f.store.Retry(t.Context(), inbox.Filter{}, time.Now()); n != 1 || err != nil {
		t.Error(n, err)
	}
	if o := <-told; o.State != inbox.Done {
		t.Errorf("%+v", o)
	}
	stop()
}

// TestSources: receivers that share a store work on their own entries.
func TestSources(t *testing.T) {
	s, _ := openSQLite(t)
	done := make(chan string, 10)
	var hooks []*inbox.Receiver
	for _, source := range []string{"a", "b"} {
		h := inbox.Handler(nil, s, func(_ context.Context, e *inbox.Entry) error {
			done <- source + e.Source + e.ID
			return nil
		})
		h.Source = source
		hooks = append(hooks, h)
		defer run(t, h)()
	}
	for _, h := range hooks {
		for range 2 {
			if _, err := h.Accept(t.Context(), webhook.Message{ID: "msg_1", Timestamp: time.Now(), Body: []byte(body)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := map[string]bool{<-done: true, <-done: true}
	if !got["aamsg_1"] || !got["bbmsg_1"] {
		t.Errorf("got %v", got)
	}
	if _, err := hooks[0].Accept(t.Context(), webhook.Message{}); err == nil {
		t.Error("a message without an id passes")
	}
}

// TestForgets: entries that are done go after a while, their ids later.
func TestForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(context.Context, *inbox.Entry) error { return nil })
		f.Poll = time.Hour
		stop := run(t, f.Receiver)
		synctest.Wait()
		f.deliver(t, "msg_1")
		time.Sleep(6 * 24 * time.Hour)
		if e := f.entry(t, "msg_1"); e.State != inbox.Done {
			t.Errorf("%+v", e)
		}
		time.Sleep(26 * time.Hour)
		if _, err := f.store.Entry(t.Context(), "", "msg_1"); !errors.Is(err, inbox.ErrNotFound) {
			t.Errorf("got %v", err)
		}
		first := func() (first bool) {
			f.OnRequest = func(_ int, one bool, _ time.Duration, _ error) { first = one }
			f.deliver(t, "msg_1")
			return first
		}
		time.Sleep(inbox.Remember - 8*24*time.Hour)
		if first() {
			t.Error("it is forgotten early")
		}
		time.Sleep(26 * time.Hour)
		if !first() {
			t.Error("it is not forgotten")
		}
		stop()
	})
}

// senders sign with what a sender publishes.
type senders struct {
	token webhook.TokenKey
	key   webhook.SigningKey
	set   *webhook.KeySet
}

const audience = "https://me.example/hook"

func newSenders(t testing.TB) *senders {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding
	set, err := webhook.ParseKeySet(fmt.Appendf(nil, `{"keys":[{"kty":"RSA","kid":"k1","n":%q,"e":"AQAB"},{"kty":"OKP","crv":"Ed25519","kid":"k2","x":%q}]}`,
		b64.EncodeToString(private.N.Bytes()), b64.EncodeToString(public)))
	if err != nil {
		t.Fatal(err)
	}
	return &senders{webhook.TokenKey{ID: "k1", Key: private}, webhook.SigningKeyOf(edwards), set}
}

// jwt is a message with a token, signed over one body and sent with another.
func (s *senders) jwt(t *testing.T, id, audience, kid, body, sent string) *http.Request {
	t.Helper()
	key := webhook.TokenKey{ID: kid, Key: s.token.Key}
	token, err := key.Sign(id, time.Now(), []byte(body), "https://sender.example", []string{audience, "project"})
	if err != nil {
		t.Fatal(err)
	}
	return with(signed(webhook.NewSecret(), id, time.Now(), sent), webhook.HeaderSignature, token)
}

// with changes a header, or removes it.
func with(r *http.Request, header, value string) *http.Request {
	if r.Header.Del(header); value != "" {
		r.Header.Set(header, value)
	}
	return r
}

// forgetful is a store whose first settlement is made, but the answer is lost.
type forgetful struct {
	*sqlite.Store
	lost atomic.Bool
}

func (f *forgetful) SettleAll(ctx context.Context, all []inbox.Settlement) ([]int, error) {
	stale, err := f.Store.SettleAll(ctx, all)
	if f.lost.CompareAndSwap(false, true) {
		return nil, errors.Join(errors.New("the connection broke"), err)
	}
	return stale, err
}

// TestLostAnswer: an outcome that was stored, which the store could not say, is told
// of like any other when it is offered again, and only once.
func TestLostAnswer(t *testing.T) {
	store, _ := openSQLite(t)
	secret := webhook.NewSecret()
	r := inbox.Handler(&webhook.Verifier{Secrets: []webhook.Secret{secret}}, &forgetful{Store: store}, func(context.Context, *inbox.Entry) error { return nil })
	var log strings.Builder // Of Run's goroutines, read after its end.
	r.Log = slog.New(slog.NewTextHandler(&log, nil))
	told := make(chan inbox.State, 10)
	r.OnAttempt = func(_ *inbox.Entry, o inbox.Outcome) { told <- o.State }
	stop := run(t, r)
	w := httptest.NewRecorder()
	r.ServeHTTP(w, signed(secret, "msg_1", time.Now(), body))
	if w.Code != http.StatusNoContent {
		t.Fatal(w.Code)
	}
	if state := <-told; state != inbox.Done {
		t.Error(state)
	}
	stop()
	if len(told) > 0 || log.Len() > 0 {
		t.Errorf("told %d times more; the log: %s", len(told), log.String())
	}
}

// asleep is a store in which leases are not extended, as those of a machine that
// sleeps.
type asleep struct{ *sqlite.Store }

func (asleep) Extend(context.Context, []inbox.Lease, time.Time) error { return nil }

// TestLeaseRunsOut: an entry whose lease ran out is not worked on twice by the process
// that has it in hand, and its outcome is stored by the newer lease.
func TestLeaseRunsOut(t *testing.T) {
	store, _ := openSQLite(t)
	secret := webhook.NewSecret()
	var calls atomic.Int32
	goOn := make(chan error)
	r := inbox.Handler(&webhook.Verifier{Secrets: []webhook.Secret{secret}}, asleep{store}, func(context.Context, *inbox.Entry) error {
		calls.Add(1)
		return <-goOn
	})
	r.Log = slog.New(slog.DiscardHandler)
	r.Lease, r.Poll, r.Delays = 100*time.Millisecond, 10*time.Millisecond, []time.Duration{time.Millisecond}
	told := make(chan inbox.Outcome, 10)
	r.OnAttempt = func(_ *inbox.Entry, o inbox.Outcome) { told <- o }
	defer run(t, r)()
	w := httptest.NewRecorder()
	r.ServeHTTP(w, signed(secret, "msg_1", time.Now(), body))
	if w.Code != http.StatusNoContent {
		t.Fatal(w.Code)
	}
	for i, result := range []error{errors.New("not yet"), nil} {
		before := -1
		for tick := time.Tick(time.Millisecond); ; <-tick {
			e, err := store.Entry(t.Context(), "", "msg_1")
			if err != nil {
				t.Fatal(err)
			}
			if before < 0 && int(calls.Load()) == i+1 {
				before = e.Lost
			}
			if before >= 0 && e.Lost > before+1 {
				break // It was claimed again, twice.
			}
		}
		goOn <- result
		if o := <-told; (o.State == inbox.Done) != (result == nil) {
			t.Errorf("attempt %d: %+v", i+1, o)
		}
	}
	if e, err := store.Entry(t.Context(), "", "msg_1"); err != nil || e.State != inbox.Done || e.Attempts != 2 || calls.Load() != 2 {
		t.Errorf("%d calls; %+v, %v", calls.Load(), e, err)
	}
}
