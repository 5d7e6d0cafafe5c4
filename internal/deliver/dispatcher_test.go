package deliver_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ringback.dev"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/deliver"
	"ringback.dev/internal/egress"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
	"ringback.dev/internal/store/sqlite"
	"ringback.dev/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sent is a request as the receiver saw it.
type sent struct {
	header http.Header
	body   string
	url    string
	at     time.Time
}

// world is a dispatcher on a real store, with a clock that the test sets and a
// receiver that is a function.
type world struct {
	*testing.T
	st      store.Store
	d       *deliver.Dispatcher
	e       *emit.Emitter
	keys    *keyring.Keyring
	results chan store.Outcome // Of every attempt, once it is recorded.
	stop    func()             // Stops the dispatcher in good order.

	mu      sync.Mutex
	now     time.Time
	seen    []sent
	receive func(*http.Request) (*http.Response, error)
}

// observed tells the world what is recorded.
type observed struct {
	store.Store
	results chan<- store.Outcome
}

func (o observed) RecordAttempt(ctx context.Context, l ringback.Lease, out *store.Outcome) error {
	err := o.Store.RecordAttempt(ctx, l, out)
	o.results <- *out
	return err
}

func newWorld(t *testing.T, change func(*deliver.Config)) *world {
	t.Helper()
	w := &world{T: t, now: time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC), results: make(chan store.Outcome, 1000)}
	dir := t.TempDir()
	st, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	w.st = st
	if w.keys, err = keyring.Open(dir); err != nil {
		t.Fatal(err)
	}
	w.answer(http.StatusNoContent)
	c := deliver.Config{Store: observed{st, w.results}, Secrets: w.keys, Node: "test", Backoff: ringback.DefaultBackoff(),
		Transport: w,
		Log:       slog.New(slog.NewTextHandler(io.Discard, nil)), Now: w.clock}
	if change != nil {
		change(&c)
	}
	w.d = deliver.New(c)
	w.e = emit.New(st, w.d, &bus.Bus{}, "test", w.d.Lease, "")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.d.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.d.Stop(context.Background())
	})
	t.Cleanup(func() {
		w.stop()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// set moves the clock and has the dispatcher look.
func (w *world) set(now time.Time) {
	w.mu.Lock()
	w.now = now
	w.mu.Unlock()
	w.d.Wake()
}

// RoundTrip is the network.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.seen = append(w.seen, sent{r.Header.Clone(), string(body), r.URL.String(), w.now})
	receive := w.receive
	w.mu.Unlock()
	return receive(r)
}

func (w *world) sent() []sent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]sent(nil), w.seen...)
}

// answer lets the receiver answer everything with a status and headers.
func (w *world) answer(status int, header ...string) {
	w.behave(func(*http.Request) (*http.Response, error) {
		h := make(http.Header)
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader("said")), ContentLength: -1}, nil
	})
}

func (w *world) behave(f func(*http.Request) (*http.Response, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.receive = f
}

// endpoint registers a webhook and returns its secret.
func (w *world) endpoint(id ringback.ID, uri string) (*ringback.Endpoint, webhook.Secret) {
	w.Helper()
	s := webhook.NewSecret()
	e := &ringback.Endpoint{ID: id, Project: "p", URI: uri, Events: []ringback.EventType{ringback.InteractionCompleted}, State: ringback.Enabled,
		Secrets: []ringback.Secret{w.seal(id, s)}, Created: w.clock(), Updated: w.clock()}
	if err := w.st.CreateEndpoint(w.Context(), e, w.by()); err != nil {
		w.Fatal(err)
	}
	return e, s
}

func (w *world) by() store.By { return store.By{Actor: store.Server, At: w.clock()} }

func (w *world) seal(id ringback.ID, s webhook.Secret) ringback.Secret {
	return ringback.Secret{Sealed: w.keys.Seal(s.Reveal(), "endpoint/"+string(id)), Truncated: s.Truncated(), Created: w.clock()}
}

func (w *world) ping(e *ringback.Endpoint) {
	w.Helper()
	if err := w.e.Ping(w.Context(), e, w.clock()); err != nil {
		w.Fatal(err)
	}
}

// next waits for the next attempt's outcome.
func (w *world) next() store.Outcome {
	w.Helper()
	select {
	case o := <-w.results:
		return o
	case <-time.After(20 * time.Second):
		w.Fatal("no attempt was made")
		panic("unreachable")
	}
}

func TestDelivered(t *testing.T) {
	w := newWorld(t, nil)
	e, secret := w.endpoint("hook", "https://example.com/cb?x=y")
	w.ping(e)
	o := w.next()
	if o.State != ringback.DeliveryDelivered || o.Attempt.Number != 1 || o.Attempt.Status != 204 || o.Attempt.Reason != "accepted" || string(o.Attempt.Answer) != "said" {
		t.Errorf("unexpected outcome %+v", o)
	}
	got := w.sent()[0]
	m, err := (&webhook.Verifier{Secrets: []webhook.Secret{secret}, Now: w.clock}).Verify(got.header, []byte(got.body))
	if err != nil || m.ID != string(o.Attempt.Delivery) || !strings.HasPrefix(m.ID, "msg_") || strings.Contains(m.ID, ".") {
		t.Errorf("got %+v, %v", m, err)
	}
	if got.url != e.URI || got.header.Get("Content-Type") != "application/json" || got.body != `{"type":"ping","version":"v1","timestamp":"2026-10-01T12:00:00Z","data":{"id":"hook"}}` {
		t.Errorf("unexpected request to %s: %s", got.url, got.body)
	}
}

// TestScheduleOver24Hours follows a delivery that always fails, in milliseconds.
func TestScheduleOver24Hours(t *testing.T) {
	w := newWorld(t, nil)
	e, secret := w.endpoint("hook", "https://example.com/cb")
	w.answer(500)
	born := w.clock()
	w.ping(e)
	waits := []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour}
	o := w.next()
	attempts := 1
	for ; o.State == ringback.DeliveryPending; attempts++ {
		want := waits[min(attempts, len(waits))-1]
		if wait := o.Due.Sub(w.clock()); wait < want*8/10 || wait > want*12/10 {
			t.Errorf("after attempt %d the wait is %s, want %s ± 20 %%", attempts, wait, want)
		}
		if !o.Due.Before(born.Add(24 * time.Hour)) {
			t.Errorf("attempt %d lies outside the window, at %s", attempts+1, o.Due.Sub(born))
		}
		w.set(o.Due)
		o = w.next()
	}
	if o.State != ringback.DeliveryFailed || attempts < 15 || attempts > 22 {
		t.Errorf("it ended as %s after %d attempts", o.State, attempts)
	}
	all := w.sent()
	verifier := &webhook.Verifier{Secrets: []webhook.Secret{secret}}
	for i, s := range all {
		verifier.Now = func() time.Time { return s.at }
		if _, err := verifier.Verify(s.header, []byte(s.body)); err != nil {
			t.Errorf("attempt %d: %v", i+1, err)
		}
		if s.body != all[0].body || s.header.Get("webhook-id") != all[0].header.Get("webhook-id") {
			t.Errorf("attempt %d differs in body or id", i+1)
		}
		if s.header.Get("webhook-timestamp") != strconv.FormatInt(s.at.Unix(), 10) {
			t.Errorf("attempt %d bears an old timestamp", i+1)
		}
	}
}

func TestAnswers(t *testing.T) {
	late := time.Date(2026, 10, 1, 13, 0, 0, 0, time.UTC).Format(http.TimeFormat)
	for name, c := range map[string]struct {
		status   int
		header   []string
		reason   string
		state    ringback.DeliveryState
		min, max time.Duration
	}{
		"200":                 {200, nil, "accepted", ringback.DeliveryDelivered, 0, 0},
		"redirect":            {307, []string{"Location", "https://elsewhere.example/"}, "redirected", ringback.DeliveryPending, 4 * time.Second, 6 * time.Second},
		"400":                 {400, nil, "refused", ringback.DeliveryPending, 4 * time.Second, 6 * time.Second},
		"410":                 {410, nil, "gone", ringback.DeliveryFailed, 0, 0},
		"429 seconds":         {429, []string{"Retry-After", "120"}, "throttled", ringback.DeliveryPending, 2 * time.Minute, 2 * time.Minute},
		"503 date":            {503, []string{"Retry-After", late}, "broken", ringback.DeliveryPending, time.Hour, time.Hour},
		"nonsense":            {503, []string{"Retry-After", "soon"}, "broken", ringback.DeliveryPending, 4 * time.Second, 6 * time.Second},
		"later than a day":    {503, []string{"Retry-After", "999999"}, "broken", ringback.DeliveryPending, 24*time.Hour - time.Minute, 24*time.Hour - time.Minute},
		"short is lengthened": {503, []string{"Retry-After", "1"}, "broken", ringback.DeliveryPending, 4 * time.Second, 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			e, _ := w.endpoint("hook", "https://example.com/cb")
			w.answer(c.status, c.header...)
			w.ping(e)
			o := w.next()
			if o.Attempt.Reason != c.reason || o.State != c.state || o.Attempt.Status != c.status {
				t.Errorf("unexpected outcome %+v", o)
			}
			if wait := o.Due.Sub(w.clock()); o.State == ringback.DeliveryPending && (wait < c.min || wait > c.max) {
				t.Errorf("the wait is %s, want %s to %s", wait, c.min, c.max)
			}
			if n := len(w.sent()); n != 1 {
				t.Errorf("%d requests were made", n)
			}
			now, err := w.st.Endpoint(t.Context(), "p", "hook")
			if err != nil || (now.State == ringback.Disabled) != (c.status == 410) {
				t.Errorf("the endpoint is %v, %v", now, err)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		reason string
	}{
		"blocked": {egress.ErrBlocked, "blocked"}, "other": {errors.New("odd"), "failed"}, "timeout": {context.DeadlineExceeded, "timed_out"},
	} {
		w := newWorld(t, nil)
		e, _ := w.endpoint("hook", "https://example.com/path-secret")
		w.behave(func(*http.Request) (*http.Response, error) { return nil, c.err })
		w.ping(e)
		o := w.next()
		if o.Attempt.Reason != c.reason || o.State != ringback.DeliveryPending || strings.Contains(o.Attempt.Error, "path-secret") {
			t.Errorf("%s: unexpected outcome %+v", name, o)
		}
	}
}

func TestRequireHTTPS(t *testing.T) {
	w := newWorld(t, func(c *deliver.Config) { c.RequireHTTPS = true })
	e, _ := w.endpoint("hook", "http://example.com/")
	w.ping(e)
	if o := w.next(); o.Attempt.Reason != "blocked" || len(w.sent()) != 0 {
		t.Errorf("unexpected outcome %+v", o)
	}
}

func TestDeletedEndpointEnds(t *testing.T) {
	w := newWorld(t, nil)
	e, _ := w.endpoint("hook", "https://example.com/")
	w.answer(500)
	w.ping(e)
	o := w.next()
	if err := w.st.DeleteEndpoint(t.Context(), "p", "hook", w.by()); err != nil {
		t.Fatal(err)
	}
	w.set(o.Due)
	if o = w.next(); o.State != ringback.DeliveryFailed || o.Attempt.Reason != "deleted" || len(w.sent()) != 1 {
		t.Errorf("unexpected outcome %+v after %d requests", o, len(w.sent()))
	}
}

func TestRotation(t *testing.T) {
	w := newWorld(t, nil)
	e, older := w.endpoint("hook", "https://example.com/")
	newer := webhook.NewSecret()
	if err := w.st.RotateSecrets(t.Context(), "p", "hook", []ringback.Secret{w.seal("hook", newer)}, w.clock().Add(24*time.Hour), w.by()); err != nil {
		t.Fatal(err)
	}
	w.answer(500)
	w.ping(e) // With the endpoint as it was: what counts is how it is when it is sent.
	o := w.next()
	w.set(o.Due)
	w.next()
	got := w.sent()[1]
	tokens := strings.Split(got.header.Get("webhook-signature"), " ")
	id, at := got.header.Get("webhook-id"), got.at
	if want := []string{webhook.Sign(id, at, []byte(got.body), newer), webhook.Sign(id, at, []byte(got.body), older)}; len(tokens) != 2 || tokens[0] != want[0] || tokens[1] != want[1] {
		t.Errorf("got signatures %v, want %v", tokens, want)
	}
	// The superseded secret is gone after its overlap.
	w.set(w.clock().Add(24 * time.Hour))
	w.next()
	if n := len(strings.Split(w.sent()[2].header.Get("webhook-signature"), " ")); n != 1 {
		t.Errorf("%d signatures after the overlap", n)
	}
}

// TestLanes: a target that hangs fills its own lane and delays nobody else.
func TestLanes(t *testing.T) {
	w := newWorld(t, func(c *deliver.Config) { c.PerTarget, c.MaxInFlight = 3, 8 })
	slow, _ := w.endpoint("slow", "https://slow.example/")
	quick, _ := w.endpoint("quick", "https://quick.example/")
	release := make(chan struct{})
	var mu sync.Mutex
	var hanging, most int
	w.behave(func(r *http.Request) (*http.Response, error) {
		if r.URL.Host == "slow.example" {
			mu.Lock()
			hanging++
			most = max(most, hanging)
			mu.Unlock()
			<-release
			mu.Lock()
			hanging--
			mu.Unlock()
		}
		return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
	})
	const n = 50
	for range n {
		w.ping(slow)
	}
	for range n {
		w.ping(quick)
		if o := w.next(); o.Target != "quick" || o.State != ringback.DeliveryDelivered {
			t.Fatalf("unexpected outcome %+v", o)
		}
	}
	close(release)
	for range n {
		if o := w.next(); o.Target != "slow" || o.State != ringback.DeliveryDelivered {
			t.Fatalf("unexpected outcome %+v", o)
		}
	}
	if most > 3 {
		t.Errorf("%d requests to one target at once", most)
	}
}

// TestStopGivesBack: an attempt that our own stop cuts off does not count.
func TestStopGivesBack(t *testing.T) {
	w := newWorld(t, nil)
	e, _ := w.endpoint("hook", "https://example.com/")
	started := make(chan struct{})
	w.behave(func(r *http.Request) (*http.Response, error) {
		close(started)
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	ctx, cancel := context.WithCancel(context.Background())
	d := deliver.New(deliver.Config{Store: w.st, Secrets: w.keys, Transport: w, Node: "other", Backoff: ringback.DefaultBackoff(),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: w.clock})
	w.stop()
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	if err := emit.New(w.st, d, &bus.Bus{}, "other", d.Lease, "").Ping(t.Context(), e, w.clock()); err != nil {
		t.Fatal(err)
	}
	<-started
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	grace, expired := context.WithCancel(context.Background())
	expired()
	d.Stop(grace)
	again, err := w.st.ClaimDeliveries(t.Context(), "third", w.clock(), w.clock().Add(time.Minute), 10, func(string, *ringback.Endpoint) int { return 10 })
	if err != nil || len(again) != 1 || again[0].Attempts != 0 {
		t.Errorf("got %+v, %v", again, err)
	}
}

// TestBodyIsKept: what is sent are the bytes that were stored, whatever they are.
func TestBodyIsKept(t *testing.T) {
	w := newWorld(t, nil)
	w.endpoint("hook", "https://example.com/")
	body := []byte("{\"type\":\"x\",\"data\":{\"text\":\"<é\u2028>\"}}")
	now := w.clock()
	h := &store.Happening{Event: ringback.Event{ID: "evt_1", Project: "p", Type: "x", Body: body, Created: now},
		Deliveries: []store.NewDelivery{{Delivery: ringback.Delivery{ID: "msg_1", Event: "evt_1", Project: "p", Target: "hook", Endpoint: "hook",
			State: ringback.DeliveryPending, Due: now, Created: now, Updated: now}}}}
	if err := w.st.AddEvent(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	w.d.Wake()
	w.next()
	if got := w.sent()[0].body; !bytes.Equal([]byte(got), body) {
		t.Errorf("got %q", got)
	}
}
