package deliver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// machine drives deliveries through any order of outcomes, crashes, pauses,
// rotations and resends, and keeps book of what it saw. It lives in a synctest
// bubble: the network is a function, and days pass in milliseconds.
type machine struct {
	*testing.T
	random *rand.Rand
	dir    string
	st     *sqlite.Store
	keys   *keyring.Keyring
	d      *deliver.Dispatcher
	e      *emit.Emitter
	stop   func()
	killed *atomic.Bool

	mu    sync.Mutex
	moods map[string]string // How the receiver at a host answers.
	seen  map[string][]time.Time
	// accepted is when a delivery was first answered with 2xx, resent when it was
	// last asked for again.
	accepted, resent map[string]time.Time
	// gone is when a host answered 410, enabled when its webhook was last enabled.
	gone, enabled map[string]time.Time
	wrong         []string
}

// network answers as the host's mood says, and checks what must hold at once.
func (m *machine) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	now, host, id := time.Now(), r.URL.Host, r.Header.Get("webhook-id")
	m.mu.Lock()
	mood := m.moods[host]
	m.seen[id] = append(m.seen[id], now)
	// A crash may have come before the 410 was stored.
	if at, ok := m.gone[host]; ok && now.After(at) && !m.enabled[host].After(at) && !m.resent["crash"].After(at) {
		m.wrong = append(m.wrong, fmt.Sprintf("%s was sent to %s at %s after its 410 at %s", id, host, now, at))
	}
	if at, ok := m.accepted[id]; ok && !m.resent[id].After(at) && !m.resent["crash"].After(at) {
		m.wrong = append(m.wrong, fmt.Sprintf("%s was sent again at %s after it was accepted at %s", id, now, at))
	}
	if !strings.HasPrefix(string(body), `{"type":`) || r.Header.Get("webhook-signature") == "" {
		m.wrong = append(m.wrong, fmt.Sprintf("unexpected request %v %s", r.Header, body))
	}
	m.mu.Unlock()
	answer := func(status int, header ...string) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if status < 300 {
			if _, ok := m.accepted[id]; !ok {
				m.accepted[id] = now
			}
		}
		if status == http.StatusGone {
			m.gone[host] = now
		}
		return &http.Response{StatusCode: status, Header: h, Body: http.NoBody}, nil
	}
	switch mood {
	case "down":
		return nil, errors.New("connection refused")
	case "hangs":
		<-r.Context().Done()
		return nil, context.Cause(r.Context())
	case "broken":
		return answer(500)
	case "overloaded":
		return answer(503, "Retry-After", "120")
	case "throttling":
		return answer(429, "Retry-After", now.Add(time.Hour).UTC().Format(http.TimeFormat))
	case "gone":
		return answer(410)
	}
	return answer(204)
}

// start opens the store and runs a dispatcher, as a new process would.
func (m *machine) start() {
	m.Helper()
	var err error
	if m.st, err = sqlite.Open(context.Background(), m.dir); err != nil {
		m.Fatal(err)
	}
	if m.keys == nil {
		if m.keys, err = keyring.Open(m.dir); err != nil {
			m.Fatal(err)
		}
	}
	m.killed = &atomic.Bool{}
	m.ok(m.st.Reclaim(context.Background(), "node", time.Now()))
	m.d = deliver.New(deliver.Config{Store: mortal{m.st, m.killed}, Secrets: m.keys, Transport: m, Node: "node", Backoff: ringback.DefaultBackoff(),
		Poll: 10 * time.Minute, Log: slog.New(slog.DiscardHandler)})
	m.e = emit.New(m.st, m.d, &bus.Bus{}, "node", m.d.Lease, "")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func(d *deliver.Dispatcher) { done <- d.Run(ctx) }(m.d)
	m.stop = func() {
		cancel()
		m.ok(<-done)
		cut, now := context.WithCancel(context.Background())
		now()
		m.d.Stop(cut)
		m.ok(m.st.Close())
	}
}

func (m *machine) ok(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

// mortal is a store that stops recording, as if the process had been killed
// between the answer and its record.
type mortal struct {
	store.Store
	killed *atomic.Bool
}

func (s mortal) RecordAttempt(ctx context.Context, l ringback.Lease, o *store.Outcome) error {
	if s.killed.Load() {
		return errors.New("killed")
	}
	return s.Store.RecordAttempt(ctx, l, o)
}

func (m *machine) by() store.By { return store.By{Actor: store.Server, At: time.Now()} }

var moods = []string{"well", "well", "well", "down", "hangs", "broken", "overloaded", "throttling", "gone"}

// step does one thing at random.
func (m *machine) step(hosts []string) {
	ctx := context.Background()
	host := hosts[m.random.IntN(len(hosts))]
	id := ringback.ID(strings.TrimSuffix(host, ".example"))
	switch m.random.IntN(12) {
	case 0, 1, 2, 3:
		if e, err := m.st.Endpoint(ctx, "p", id); err == nil {
			m.ok(m.e.Ping(ctx, e, time.Now()))
		}
	case 4, 5:
		m.mu.Lock()
		m.moods[host] = moods[m.random.IntN(len(moods))]
		m.mu.Unlock()
	case 6:
		state := ringback.Disabled
		if m.random.IntN(3) > 0 {
			state = ringback.Enabled
		}
		m.enable(id, host, state)
	case 7:
		secret := webhook.NewSecret()
		m.ok(m.st.RotateSecrets(ctx, "p", id, []ringback.Secret{{Sealed: m.keys.Seal(secret.Reveal(), store.SealEndpoint+string(id)), Created: time.Now()}},
			time.Now().Add(time.Duration(m.random.IntN(2))*24*time.Hour), m.by()))
	case 8: // A crash: what is being sent is sent again.
		m.mu.Lock()
		m.resent["crash"] = time.Now()
		m.mu.Unlock()
		m.killed.Store(true)
		m.stop()
		time.Sleep(time.Duration(m.random.IntN(60)) * time.Second) // Bubble time.
		m.mu.Lock()
		m.resent["crash"] = time.Now().Add(time.Nanosecond)
		m.mu.Unlock()
		m.start()
	case 9:
		if list, err := m.st.ListDeliveries(ctx, "p", store.DeliveryFilter{}, "", 5); err == nil && len(list) > 0 {
			d := list[m.random.IntN(len(list))]
			m.mu.Lock()
			m.resent[string(d.ID)] = time.Now().Add(time.Nanosecond)
			m.mu.Unlock()
			m.ok(m.st.Redeliver(ctx, "p", d.ID, m.by()))
		}
	default:
		time.Sleep(time.Duration(m.random.Int64N(int64(8 * time.Hour)))) // Bubble time.
	}
}

func (m *machine) enable(id ringback.ID, host string, state ringback.EndpointState) {
	e, err := m.st.Endpoint(context.Background(), "p", id)
	m.ok(err)
	if e.State == state {
		return
	}
	if state == ringback.Enabled {
		m.mu.Lock()
		m.enabled[host] = time.Now().Add(time.Nanosecond)
		m.mu.Unlock()
		time.Sleep(time.Microsecond) // Stored times have microseconds.
	}
	_, err = m.st.UpdateEndpoint(context.Background(), "p", id, store.EndpointPatch{State: &state}, m.by())
	m.ok(err)
}

// TestMachine: whatever happens in which order, no event is lost, none is sent
// after a 410, and an accepted one is sent again only if that was asked for or a
// crash made it forgotten.
func TestMachine(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				m := &machine{T: t, random: rand.New(rand.NewPCG(seed, 1)), dir: dir, moods: map[string]string{}, seen: map[string][]time.Time{},
					accepted: map[string]time.Time{}, resent: map[string]time.Time{}, gone: map[string]time.Time{}, enabled: map[string]time.Time{}}
				m.start()
				hosts := []string{"a.example", "b.example", "c.example"}
				for _, h := range hosts {
					id := ringback.ID(strings.TrimSuffix(h, ".example"))
					m.ok(m.st.CreateEndpoint(context.Background(), &ringback.Endpoint{ID: id, Project: "p", URI: "https://" + h + "/", Events: ringback.EventTypes(),
						State: ringback.Enabled, Created: time.Now(), Updated: time.Now(), Secrets: []ringback.Secret{{
							Sealed: m.keys.Seal(webhook.NewSecret().Reveal(), store.SealEndpoint+string(id)), Created: time.Now()}}}, m.by()))
				}
				for range 60 {
					m.step(hosts)
					m.invariants(hosts)
				}
				// In the end all is well: everything that may still be sent arrives.
				for _, h := range hosts {
					m.mu.Lock()
					m.moods[h] = "well"
					m.mu.Unlock()
					m.enable(ringback.ID(strings.TrimSuffix(h, ".example")), h, ringback.Enabled)
				}
				time.Sleep(3 * time.Hour) // Bubble time: longer than any wait but a receiver's own.
				m.invariants(hosts)
				m.settled()
				m.stop()
				for _, w := range m.wrong {
					t.Error(w)
				}
			})
		})
	}
}

// invariants holds at every moment.
func (m *machine) invariants(hosts []string) {
	m.Helper()
	ctx := context.Background()
	list, err := m.st.ListDeliveries(ctx, "p", store.DeliveryFilter{}, "", 1000)
	m.ok(err)
	events, err := m.st.EventsAfter(ctx, "p", store.EventFilter{Types: []ringback.EventType{ringback.Ping}}, 0, 1000)
	m.ok(err)
	pings := 0
	for _, d := range list {
		if slices.Contains(hosts, string(d.Endpoint)+".example") {
			pings++
		}
		if d.State == ringback.DeliveryFailed {
			// A failure is final only after the window, or a 410.
			age := d.Updated.Sub(d.Begun)
			if d.Reason != "gone" && age < 12*time.Hour {
				m.Errorf("%s was given up after %s: %s", d.ID, age, d.Reason)
			}
		}
	}
	if pings < len(events) {
		m.Errorf("%d events have %d deliveries", len(events), pings)
	}
}

// settled holds when every receiver has been well for a while.
func (m *machine) settled() {
	m.Helper()
	list, err := m.st.ListDeliveries(context.Background(), "p", store.DeliveryFilter{State: ringback.DeliveryPending}, "", 1000)
	m.ok(err)
	for _, d := range list {
		m.Errorf("%s to %s still waits, due %s (now %s), last %q after %d attempts", d.ID, d.Target, d.Due, time.Now().UTC(), d.Reason, d.Attempts)
	}
}
