package emit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"ringback.dev"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/store"
	"ringback.dev/internal/store/sqlite"
)

// places is a sender with a number of places that starts nothing.
type places struct {
	free   int
	handed []store.ClaimedDelivery
	woken  int
}

func (p *places) Take(string, *ringback.Endpoint) bool {
	if p.free == 0 {
		return false
	}
	p.free--
	return true
}
func (p *places) Give(string)                  { p.free++ }
func (p *places) Hand(d store.ClaimedDelivery) { p.handed = append(p.handed, d) }
func (p *places) Wake()                        { p.woken++ }

var now = time.Date(2026, 10, 1, 12, 5, 0, 0, time.UTC)

// setUp stores a job and two webhooks, of which the sender has a place for one.
func setUp(t *testing.T) (*sqlite.Store, *places, *emit.Emitter, *ringback.Job) {
	t.Helper()
	st, err := sqlite.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, id := range []ringback.ID{"a", "b"} {
		e := &ringback.Endpoint{ID: id, Project: "p", URI: "https://example.com/", Events: ringback.EventTypes(), State: ringback.Enabled, Created: now, Updated: now}
		if err := st.CreateEndpoint(t.Context(), e, store.By{Actor: store.Server, At: now}); err != nil {
			t.Fatal(err)
		}
	}
	j := &ringback.Job{ID: "v1_x", Project: "p", Kind: ringback.KindInteraction, Spec: []byte("{}"), Created: now, Updated: now}
	if err := st.CreateJob(t.Context(), j, nil); err != nil {
		t.Fatal(err)
	}
	p := &places{free: 1}
	return st, p, emit.New(st, p, &bus.Bus{}, "node", time.Minute, ""), j
}

func TestEndJob(t *testing.T) {
	st, p, e, j := setUp(t)
	end := &store.End{State: ringback.Failed, Failure: &ringback.Failure{Code: "api_error", Message: "<\u2028&\n\"é"}, At: now}
	if err := e.EndJob(t.Context(), j, nil, end); err != nil {
		t.Fatal(err)
	}
	const body = "{\"type\":\"interaction.failed\",\"version\":\"v1\",\"timestamp\":\"2026-10-01T12:05:00Z\",\"data\":{\"id\":\"v1_x\"," +
		"\"error_code\":\"api_error\",\"error_message\":\"<\u2028&\\n\\\"é\"}}"
	events, err := st.JobEvents(t.Context(), "p", j.ID)
	if err != nil || len(events) != 1 || string(events[0].Body) != body {
		t.Fatalf("got events %+v, %v", events, err)
	}
	// One delivery has a place and is handed over under a lease, the other waits.
	if len(p.handed) != 1 || p.woken != 1 || string(p.handed[0].Body) != body || p.handed[0].Lease != (ringback.Lease{Node: "node", Token: 1, Until: now.Add(time.Minute)}) {
		t.Errorf("handed over %+v, woken %d times", p.handed, p.woken)
	}
	waiting, err := st.ClaimDeliveries(t.Context(), "other", now, now.Add(time.Minute), 10, func(string, *ringback.Endpoint) int { return 10 })
	if err != nil || len(waiting) != 1 || waiting[0].ID == p.handed[0].ID {
		t.Errorf("got %+v, %v", waiting, err)
	}
}

// refusing is a store that can't keep an end.
type refusing struct{ store.Store }

func (refusing) EndJob(context.Context, ringback.ID, *ringback.Lease, *store.End) error {
	return &ringback.Error{Code: ringback.StorageFull, Message: "the disk is full"}
}

// TestRefusedEndGivesPlacesBack: a lane would otherwise fill up while the store
// can't write.
func TestRefusedEndGivesPlacesBack(t *testing.T) {
	st, p, _, j := setUp(t)
	err := emit.New(refusing{st}, p, &bus.Bus{}, "node", time.Minute, "").EndJob(t.Context(), j, nil, &store.End{State: ringback.Completed, At: now})
	if !errors.Is(err, ringback.StorageFull) || p.free != 1 || len(p.handed) != 0 || p.woken != 0 {
		t.Errorf("got %v with %d places, %d handed over, %d wake-ups", err, p.free, len(p.handed), p.woken)
	}
}
