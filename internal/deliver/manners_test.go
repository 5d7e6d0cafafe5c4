package deliver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ringback.dev"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/deliver"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
	"ringback.dev/internal/store/sqlite"
	"ringback.dev/webhook"
)

// receiver is a scripted receiver in a synctest bubble, with all that sends to it.
type receiver struct {
	*testing.T
	st   *sqlite.Store
	keys *keyring.Keyring
	d    *deliver.Dispatcher
	e    *emit.Emitter

	mu    sync.Mutex
	got   []*http.Request
	at    []time.Duration // Since the start.
	begun time.Time
	// answer says how the n-th request (from 1) to a host is answered: status and
	// headers, 0 for none at all.
	answer func(host string, n int) (int, http.Header)
	counts map[string]int
}

// bubble runs a test with a receiver that answers 204 unless told otherwise.
func bubble(t *testing.T, change func(*deliver.Config), test func(r *receiver)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{T: t, begun: time.Now(), counts: map[string]int{}}
		r.answer = func(string, int) (int, http.Header) { return 204, nil }
		var err error
		r.st, err = sqlite.Open(context.Background(), dir)
		r.ok(err)
		r.keys, err = keyring.Open(dir)
		r.ok(err)
		c := deliver.Config{Store: r.st, Secrets: r.keys, Transport: r, Node: "node", Backoff: ringback.DefaultBackoff(), Poll: 10 * time.Minute, Log: slog.New(slog.DiscardHandler)}
		if change != nil {
			change(&c)
		}
		r.d = deliver.New(c)
		r.e = emit.New(r.st, r.d, &bus.Bus{}, "node", r.d.Lease, "")
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.d.Run(ctx) }()
		synctest.Wait()
		test(r)
		cancel()
		r.ok(<-done)
		r.d.Stop(ctx)
		r.ok(r.st.Close())
	})
}

func (r *receiver) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	r.counts[req.URL.Host]++
	n := r.counts[req.URL.Host]
	r.got = append(r.got, req)
	r.at = append(r.at, time.Since(r.begun))
	answer := r.answer
	r.mu.Unlock()
	status, header := answer(req.URL.Host, n)
	if status == 0 {
		<-req.Context().Done()
		return nil, context.Cause(req.Context())
	}
	return &http.Response{StatusCode: status, Header: header, Body: http.NoBody}, nil
}

func (r *receiver) answers(f func(host string, n int) (int, http.Header)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// times returns when requests arrived at a host.
func (r *receiver) times(host string) (at []time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, req := range r.got {
		if req.URL.Host == host {
			at = append(at, r.at[i])
		}
	}
	return at
}

func (r *receiver) by() store.By { return store.By{Actor: store.Server, At: time.Now()} }

// webhook registers ID.example.
func (r *receiver) webhook(id ringback.ID, s ringback.Settings, events ...ringback.EventType) *ringback.Endpoint {
	r.Helper()
	if events == nil {
		events = []ringback.EventType{ringback.InteractionCompleted}
	}
	e := &ringback.Endpoint{ID: id, Project: "p", URI: "https://" + string(id) + ".example/", Events: events, Settings: s, State: ringback.Enabled,
		Created: time.Now(), Updated: time.Now(), Secrets: []ringback.Secret{{Sealed: r.keys.Seal(webhook.NewSecret().Reveal(), store.SealEndpoint+string(id)), Created: time.Now()}}}
	r.ok(r.st.CreateEndpoint(context.Background(), e, r.by()))
	return e
}

func (r *receiver) ping(e *ringback.Endpoint, n int) {
	r.Helper()
	for range n {
		fresh, err := r.st.Endpoint(context.Background(), "p", e.ID)
		r.ok(err)
		r.ok(r.e.Ping(context.Background(), fresh, time.Now()))
		time.Sleep(time.Millisecond) // Bubble time: an id is time-ordered to the millisecond.
	}
}

func (r *receiver) set(e *ringback.Endpoint, state ringback.EndpointState) {
	r.Helper()
	_, err := r.st.UpdateEndpoint(context.Background(), "p", e.ID, store.EndpointPatch{State: &state}, r.by())
	r.ok(err)
	r.d.Wake()
}

func (r *receiver) state(e *ringback.Endpoint) ringback.EndpointState {
	r.Helper()
	now, err := r.st.Endpoint(context.Background(), "p", e.ID)
	r.ok(err)
	return now.State
}

func (r *receiver) count(state ringback.DeliveryState) int {
	r.Helper()
	list, err := r.st.ListDeliveries(context.Background(), "p", store.DeliveryFilter{State: state}, "", 1000)
	r.ok(err)
	return len(list)
}

func always(status int, header ...string) func(string, int) (int, http.Header) {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return func(string, int) (int, http.Header) { return status, h }
}

// TestDayOfRetries: 24 h of retries, at the waits of the schedule ± 20 %, the last
// one inside the window.
func TestDayOfRetries(t *testing.T) {
	bubble(t, nil, func(r *receiver) {
		r.answers(always(500))
		e := r.webhook("a", ringback.Settings{})
		r.ping(e, 1)
		time.Sleep(25 * time.Hour)
		at := r.times("a.example")
		want := []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour}
		for i := 1; i < len(at); i++ {
			planned := want[min(i-1, len(want)-1)]
			if wait := at[i] - at[i-1]; wait < planned*8/10 || wait > planned*12/10+time.Minute+time.Second {
				t.Errorf("wait %d took %s, planned are %s", i, wait, planned)
			}
		}
		if last := at[len(at)-1]; last >= 24*time.Hour || last < 21*time.Hour || len(at) < 15 {
			t.Errorf("%d attempts, the last after %s", len(at), last)
		}
		if r.count(ringback.DeliveryFailed) != 1 {
			t.Error("the delivery has not ended")
		}
	})
}

// TestRetryAfter: the target is left alone for as long as it asked, in seconds or
// until a date, by all its deliveries.
func TestRetryAfter(t *testing.T) {
	for _, form := range []string{"seconds", "date"} {
		t.Run(form, func(t *testing.T) {
			bubble(t, nil, func(r *receiver) {
				value := "600"
				if form == "date" {
					value = time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat)
				}
				r.answers(func(host string, n int) (int, http.Header) {
					if n == 1 {
						return 429, http.Header{"Retry-After": {value}}
					}
					return 204, nil
				})
				e := r.webhook("a", ringback.Settings{})
				r.ping(e, 1)
				time.Sleep(time.Minute)
				r.ping(e, 3)
				time.Sleep(time.Hour)
				at := r.times("a.example")
				if len(at) != 5 || at[1] < 10*time.Minute-time.Second {
					t.Errorf("requests at %v", at)
				}
			})
		})
	}
}

// TestRetryAfterBeyondTheWindow: there is still a last attempt, inside the window.
func TestRetryAfterBeyondTheWindow(t *testing.T) {
	bubble(t, nil, func(r *receiver) {
		r.answers(always(503, "Retry-After", "864000"))
		r.ping(r.webhook("a", ringback.Settings{Window: time.Hour}), 1)
		time.Sleep(24 * time.Hour)
		at := r.times("a.example")
		if len(at) != 2 || at[1] >= time.Hour || at[1] < 50*time.Minute || r.count(ringback.DeliveryFailed) != 1 {
			t.Errorf("requests at %v", at)
		}
	})
}

// TestSettings: window, schedule, rate, headers and time-out are the webhook's own.
func TestSettings(t *testing.T) {
	bubble(t, nil, func(r *receiver) {
		e := r.webhook("a", ringback.Settings{Window: 10 * time.Minute, Schedule: []time.Duration{time.Minute}, Timeout: 2 * time.Second, Rate: 2,
			Headers: []ringback.Header{{Name: "x-tenant", Sealed: r.keys.Seal("t 1", store.SealEndpoint+"a")}}})
		r.answers(always(0))
		r.ping(e, 1)
		time.Sleep(time.Hour)
		at := r.times("a.example")
		if len(at) < 8 || len(at) > 14 || at[len(at)-1] > 10*time.Minute {
			t.Errorf("requests at %v", at)
		}
		list, err := r.st.ListDeliveries(context.Background(), "p", store.DeliveryFilter{}, "", 1)
		r.ok(err)
		attempts, err := r.st.Attempts(context.Background(), "p", list[0].ID)
		r.ok(err)
		if a := attempts[0]; a.Total != 2*time.Second || a.Reason != "timed_out" {
			t.Errorf("unexpected attempt %+v", a)
		}
		if h := r.got[0].Header.Get("X-Tenant"); h != "t 1" {
			t.Errorf("header %q", h)
		}
		// 20 events at 2 a second take about 10 s.
		r.answers(always(204))
		r.set(e, ringback.Disabled)
		r.set(e, ringback.Enabled) // A clean slate.
		time.Sleep(time.Hour)
		before, begin := len(r.times("a.example")), time.Since(r.begun)
		r.ping(e, 20)
		time.Sleep(time.Minute)
		at = r.times("a.example")[before:]
		if len(at) != 20 || at[19]-begin < 8*time.Second || at[19]-begin > 15*time.Second {
			t.Errorf("%d requests in %s", len(at), at[len(at)-1]-begin)
		}
	})
}

// TestBreaker: a dead target gets one attempt now and then, and everything once it
// lives again.
func TestBreaker(t *testing.T) {
	bubble(t, nil, func(r *receiver) {
		e := r.webhook("a", ringback.Settings{})
		r.answers(always(0))
		for range 600 {
			r.ping(e, 1)
			time.Sleep(time.Second)
		}
		if n := len(r.times("a.example")); n > 40 {
			t.Errorf("%d requests in 10 minutes to a target that never answers", n)
		}
		r.answers(always(204))
		time.Sleep(time.Hour)
		if r.count(ringback.DeliveryDelivered) != 600 {
			t.Errorf("%d of 600 delivered", r.count(ringback.DeliveryDelivered))
		}
	})
}

// TestGone: 410 disables at once, nothing is sent after it, what comes is kept,
// and the project's other webhooks are told.
func TestGone(t *testing.T) {
	bubble(t, nil, func(r *receiver) {
		e := r.webhook("a", ringback.Settings{})
		other := r.webhook("b", ringback.Settings{}, ringback.WebhookDisabled)
		r.answers(func(host string, _ int) (int, http.Header) {
			if host == "a.example" {
				return 410, nil
			}
			return 204, nil
		})
		r.ping(e, 1)
		time.Sleep(time.Second)
		if s := r.state(e); s != ringback.Disabled {
			t.Errorf("the webhook is %s", s)
		}
		r.ping(e, 5)
		time.Sleep(48 * time.Hour)
		if n := len(r.times("a.example")); n != 1 {
			t.Errorf("%d requests", n)
		}
		if n := len(r.times(string(other.ID) + ".example")); n != 1 {
			t.Errorf("the other webhook was told %d times", n)
		}
		r.answers(always(204))
		r.set(e, ringback.Enabled)
		time.Sleep(time.Minute)
		if n := len(r.times("a.example")); n != 6 {
			t.Errorf("%d requests after it was enabled again", n)
		}
	})
}

// TestKept: what happens while a webhook is disabled is delivered in order of age
// when it is enabled again, at the bounded rate, with a window of its own.
func TestKept(t *testing.T) {
	bubble(t, func(c *deliver.Config) { c.CatchUpRate = 10 }, func(r *receiver) {
		e := r.webhook("a", ringback.Settings{MaxInFlight: 1})
		r.set(e, ringback.Disabled)
		const n = 200
		r.ping(e, n)
		time.Sleep(72 * time.Hour)
		if got := r.times("a.example"); len(got) != 0 {
			t.Fatalf("%d requests to a disabled webhook", len(got))
		}
		begin := time.Since(r.begun)
		r.set(e, ringback.Enabled)
		r.ping(e, 1) // This one must not overtake.
		time.Sleep(time.Minute)
		at := r.times("a.example")
		if len(at) != n+1 {
			t.Fatalf("%d requests", len(at))
		}
		if took := at[n] - begin; took < 15*time.Second || took > 30*time.Second {
			t.Errorf("the backlog took %s", took)
		}
		var ids []string
		for _, req := range r.got {
			ids = append(ids, req.Header.Get("webhook-id"))
		}
		if !slices.IsSorted(ids) {
			t.Error("not in order of age")
		}
		// Caught up: the rate is the target's own again.
		begin = time.Since(r.begun)
		r.ping(e, 100)
		time.Sleep(time.Minute)
		if at := r.times("a.example"); at[len(at)-1]-begin > 2*time.Second {
			t.Errorf("100 events took %s", at[len(at)-1]-begin)
		}
	})
}

// TestKeptFailsLater: what waited for three days is retried for a whole window.
func TestKeptFailsLater(t *testing.T) {
	bubble(t, nil, func(r *receiver) {
		e := r.webhook("a", ringback.Settings{})
		r.set(e, ringback.Disabled)
		r.ping(e, 1)
		time.Sleep(72 * time.Hour)
		r.answers(func(_ string, n int) (int, http.Header) {
			if n < 8 {
				return 500, nil
			}
			return 204, nil
		})
		r.set(e, ringback.Enabled)
		time.Sleep(24 * time.Hour)
		if r.count(ringback.DeliveryDelivered) != 1 {
			t.Errorf("requests at %v", r.times("a.example"))
		}
	})
}

// TestDisabledAfterADay: 24 h of nothing but failures, at least ten, disable a
// webhook, with an event for the others; one success in between starts anew.
func TestDisabledAfterADay(t *testing.T) {
	bubble(t, nil, func(r *receiver) {
		e := r.webhook("a", ringback.Settings{})
		r.webhook("b", ringback.Settings{}, ringback.WebhookDisabled)
		status := 500
		r.answers(func(host string, n int) (int, http.Header) {
			if host == "b.example" || n == 60 {
				return 204, nil
			}
			return status, nil
		})
		for range 23 {
			r.ping(e, 1)
			time.Sleep(time.Hour)
		}
		if s := r.state(e); s != ringback.Enabled {
			t.Fatalf("%s after 23 hours", s)
		}
		for range 48 {
			r.ping(e, 1)
			time.Sleep(time.Hour)
		}
		if s := r.state(e); s != ringback.DisabledDueToFailedDeliveries {
			t.Fatalf("%s after 71 hours", s)
		}
		if told := r.times("b.example"); len(told) != 1 {
			t.Errorf("told at %v", told)
		}
		before := len(r.times("a.example"))
		r.ping(e, 3)
		time.Sleep(24 * time.Hour)
		if n := len(r.times("a.example")); n != before {
			t.Errorf("%d requests to a disabled webhook", n-before)
		}
		waiting := r.count(ringback.DeliveryPending)
		status = 204
		r.set(e, ringback.Enabled)
		time.Sleep(time.Hour)
		if n := r.count(ringback.DeliveryPending); waiting < 3 || n != 0 {
			t.Errorf("%d waited, %d still do", waiting, n)
		}
	})
}

// TestDynamic: per-request addresses are signed by the server's key for their own
// audience, and a 410 ends what waits for that address.
func TestDynamic(t *testing.T) {
	signer := &notedSigner{}
	bubble(t, func(c *deliver.Config) { c.Tokens = signer }, func(r *receiver) {
		r.ok(r.st.CreateProject(context.Background(), ringback.Project{ID: "p", DynamicSignature: ringback.V1a, Audience: "team", Created: time.Now()}, nil, r.by()))
		end := func(uris ...string) {
			now := time.Now()
			j := &ringback.Job{ID: ringback.NewInteractionID(now), Project: "p", Kind: ringback.KindInteraction, Spec: []byte("{}"), Created: now, Updated: now,
				Webhooks: &ringback.DynamicWebhooks{URIs: uris, UserMetadata: []byte(`{"k":1}`)}}
			r.ok(r.st.CreateJob(context.Background(), j, nil))
			r.ok(r.e.EndJob(context.Background(), j, nil, &store.End{State: ringback.Incomplete, At: now}))
		}
		r.webhook("static", ringback.Settings{})
		end("https://one.example/a", "https://two.example/b")
		time.Sleep(time.Second)
		// Each address gets both events of an incomplete interaction.
		if len(r.times("one.example")) != 2 || len(r.times("two.example")) != 2 || len(r.times("static.example")) != 0 {
			t.Errorf("requests: %v", r.counts)
		}
		if got := signer.noted[0]; !strings.HasPrefix(got, "v1a msg_") || !strings.Contains(got, ".example/") || !strings.HasSuffix(got, " team]") {
			t.Errorf("signed %q", got)
		}
		r.answers(always(503))
		end("https://one.example/a")
		time.Sleep(time.Second)
		r.answers(always(410))
		end("https://one.example/a")
		time.Sleep(48 * time.Hour)
		if n := r.count(ringback.DeliveryPending); n != 0 {
			t.Errorf("%d still wait", n)
		}
		before := len(r.times("one.example"))
		r.answers(always(204))
		end("https://one.example/a") // It is named again, so it is asked again.
		time.Sleep(time.Minute)
		if n := len(r.times("one.example")) - before; n != 2 {
			t.Errorf("%d requests", n)
		}
	})
}

type notedSigner struct {
	mu    sync.Mutex
	noted []string
}

func (s *notedSigner) Sign(scheme ringback.Scheme, id string, _ time.Time, _ []byte, audience []string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noted = append(s.noted, fmt.Sprint(scheme, " ", id, " ", audience))
	return "signature", nil
}

// TestManyHang: any number of targets that never answer leave half of what may be
// in flight to the others.
func TestManyHang(t *testing.T) {
	bubble(t, func(c *deliver.Config) { c.MaxInFlight = 32 }, func(r *receiver) {
		r.answers(func(host string, _ int) (int, http.Header) {
			if strings.HasPrefix(host, "dead") {
				return 0, nil
			}
			return 204, nil
		})
		well := r.webhook("well", ringback.Settings{})
		r.ping(well, 1)
		time.Sleep(time.Second)
		for i := range 50 {
			r.ping(r.webhook(ringback.ID(fmt.Sprintf("dead%d", i)), ringback.Settings{}), 10)
		}
		for range 100 {
			begin, before := time.Since(r.begun), len(r.times("well.example"))
			r.ping(well, 1)
			synctest.Wait()
			at := r.times("well.example")
			if len(at) != before+1 || at[before]-begin > 10*time.Millisecond {
				t.Fatalf("a healthy target waited: %d requests, %v", len(at)-before, at[len(at)-1]-begin)
			}
		}
	})
}

// TestUnsealableIsTold: what can't be signed is an attempt with a reason, not silence.
func TestUnsealableIsTold(t *testing.T) {
	bubble(t, nil, func(r *receiver) {
		e := r.webhook("a", ringback.Settings{Schemes: []ringback.Scheme{ringback.V1a}})
		r.ping(e, 1)
		time.Sleep(time.Second)
		list, err := r.st.ListDeliveries(context.Background(), "p", store.DeliveryFilter{}, "", 10)
		r.ok(err)
		if len(list) != 1 || list[0].Reason != "unsigned" || len(r.got) != 0 {
			t.Errorf("got %+v", list)
		}
		_, err = r.st.Attempts(context.Background(), "other", list[0].ID)
		if err != nil && !errors.Is(err, ringback.NotFound) {
			t.Error(err)
		}
	})
}

// TestManyAddresses: jobs that each name an address of their own leave no more
// than a bounded memory behind.
func TestManyAddresses(t *testing.T) {
	signer := &notedSigner{}
	bubble(t, func(c *deliver.Config) { c.Tokens = signer }, func(r *receiver) {
		r.ok(r.st.CreateProject(context.Background(), ringback.Project{ID: "p", DynamicSignature: ringback.JWT, Created: time.Now()}, nil, r.by()))
		const n = 300
		for i := range n {
			now := time.Now()
			j := &ringback.Job{ID: ringback.NewInteractionID(now), Project: "p", Kind: ringback.KindInteraction, Spec: []byte("{}"), Created: now, Updated: now,
				Webhooks: &ringback.DynamicWebhooks{URIs: []string{fmt.Sprintf("https://many.example/%d", i)}}}
			r.ok(r.st.CreateJob(context.Background(), j, nil))
			r.ok(r.e.EndJob(context.Background(), j, nil, &store.End{State: ringback.Completed, At: now}))
		}
		time.Sleep(time.Minute)
		if got := r.count(ringback.DeliveryDelivered); got != n {
			t.Errorf("%d of %d delivered", got, n)
		}
		if lanes := r.d.Lanes(); lanes != n {
			t.Errorf("%d lanes", lanes)
		}
		time.Sleep(time.Hour)
		if lanes := r.d.Lanes(); lanes != 0 {
			t.Errorf("%d lanes after an hour", lanes)
		}
	})
}
