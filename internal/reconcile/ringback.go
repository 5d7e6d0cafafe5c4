package reconcile

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"ringback.dev"
	"ringback.dev/webhook"
)

// server is a ringback server as a source.
type server struct{ api }

// Ringback is the source that asks a ringback server with a key of the project.
func Ringback(address, key string) Source {
	return &server{newAPI(address, key)}
}

// event and delivery are what is read of them (docs/callbacks.md).
type event struct {
	ID      string
	Type    ringback.EventType
	Job     string
	Created time.Time
	Body    string
}

type delivery struct {
	ID       string
	Event    string
	Webhook  string
	URI      string
	State    ringback.DeliveryState
	Attempts int
	Reason   string
	Next     string `json:"next_attempt"`
}

// deleted is the reason of a delivery whose webhook was deleted before it was
// accepted. Nobody misses it if somebody else has acknowledged the job's end.
const deleted = "deleted"

// tells reports whether an event is about the end of a job. Others, such as that a
// job stalled, leave no gap: what matters is told at the end.
func tells(t ringback.EventType) bool {
	switch t {
	case ringback.Ping, ringback.JobStalled, ringback.WebhookDisabled:
		return false
	}
	return true
}

// Find implements Source.
func (s *server) Find(ctx context.Context, o Options) (*Report, error) {
	// The deliveries come after the events: what is sent meanwhile must not seem to be
	// missing.
	events, err := s.events(ctx, o.Since)
	if err != nil {
		return nil, err
	}
	sent, err := s.deliveries(ctx, o.Since)
	if err != nil {
		return nil, err
	}
	states := make(map[string]string) // Of webhooks.
	heard := make(map[string]bool)    // Jobs of which somebody was told, or will be.
	known := make(map[string]bool)    // Jobs whose end somebody has acknowledged.
	for _, e := range events {
		heard[e.Job] = heard[e.Job] || len(sent[e.ID]) > 0
		for _, d := range sent[e.ID] {
			known[e.Job] = known[e.Job] || d.State == ringback.DeliveryDelivered
		}
	}
	r := &Report{Gaps: []Gap{}}
	told := make(map[string]bool) // Jobs that nobody heard of and that are in the report.
	for _, e := range events {
		r.Ended++
		g, err := gap(&e)
		if err != nil {
			return nil, fmt.Errorf("event %s: %w", e.ID, err)
		}
		if o.Ledger.Has(g.Job) {
			continue
		}
		if !heard[e.Job] {
			if told[e.Job] {
				continue // It had several events.
			}
			told[e.Job] = true
			missed, err := s.unheard(ctx, &g, e.Job)
			if err != nil {
				return nil, err
			}
			if missed {
				r.Gaps = append(r.Gaps, g)
			}
			continue
		}
		for _, d := range sent[e.ID] {
			if missed, err := s.missed(ctx, &g, &d, states); err != nil {
				return nil, err
			} else if missed && (g.Why != Waiting || o.Waiting) && !(d.Reason == deleted && known[e.Job]) {
				r.Gaps = append(r.Gaps, g)
			}
		}
	}
	return r, nil
}

// gap begins a gap with what its event tells.
func gap(e *event) (Gap, error) {
	g := Gap{Job: e.Job, Type: string(e.Type), Ended: e.Created, Event: e.ID, ID: "msg_" + strings.TrimPrefix(e.ID, "evt_"), Body: e.Body}
	parsed, err := webhook.ParseEvent([]byte(e.Body))
	if err != nil {
		return g, err
	}
	data, err := parsed.ParseData()
	if data.ID != "" {
		g.Job = data.ID
	}
	return g, err
}

// missed fills in what a delivery makes of a gap, and reports whether there is one.
func (s *server) missed(ctx context.Context, g *Gap, d *delivery, states map[string]string) (bool, error) {
	g.Delivery, g.Webhook, g.URI, g.ID = d.ID, d.Webhook, d.URI, d.ID
	switch d.State {
	case ringback.DeliveryDelivered:
		return false, nil
	case ringback.DeliveryFailed:
		g.Why, g.Detail = GivenUp, "the webhook was deleted"
		if d.Reason != deleted {
			g.Detail = fmt.Sprintf("%d attempts; the last one met: %s", d.Attempts, d.Reason)
		}
		return true, nil
	}
	g.Why, g.Detail = Waiting, "next attempt at "+d.Next
	if d.Webhook == "" {
		return true, nil
	}
	if _, known := states[d.Webhook]; !known {
		var w struct{ State string }
		if err := s.call(ctx, http.MethodGet, "/ringback/v1/webhooks/"+url.PathEscape(d.Webhook), &w); err != nil && !notFound(err) {
			return false, err
		}
		states[d.Webhook] = w.State
	}
	if state := states[d.Webhook]; state != "" && state != string(ringback.Enabled) {
		g.Why, g.Detail = Held, "the webhook is "+state+"; what waits for it is sent once its state is enabled"
	}
	return true, nil
}

// unheard fills in why nobody heard of a job. What a client waited for, or has
// deleted, was collected.
func (s *server) unheard(ctx context.Context, g *Gap, job string) (bool, error) {
	var story struct {
		Job struct {
			Kind       ringback.Kind
			Background bool
		}
		Why string
	}
	err := s.call(ctx, http.MethodGet, "/ringback/v1/jobs/"+url.PathEscape(job)+"/timeline", &story)
	if notFound(err) {
		return false, nil
	}
	g.Why, g.Detail = Unheard, story.Why
	return err == nil && (story.Job.Kind != ringback.KindInteraction || story.Job.Background), err
}

// pages reads a list to its end, and calls each with its pages.
func pages[T any](ctx context.Context, a *api, path, member, cursor string, q url.Values, each func([]T)) error {
	q.Set("limit", "1000")
	for {
		var page map[string]json.RawMessage
		if err := a.call(ctx, http.MethodGet, path+"?"+q.Encode(), &page); err != nil {
			return err
		}
		var items []T
		var next string
		if err := json.Unmarshal(page[member], &items); err != nil {
			return fmt.Errorf("the answer can't be read: %w", err)
		}
		if page["next"] != nil {
			if err := json.Unmarshal(page["next"], &next); err != nil {
				return fmt.Errorf("the answer can't be read: %w", err)
			}
		}
		each(items)
		if len(items) == 0 || next == "" {
			return nil
		}
		q.Set(cursor, next)
	}
}

// events are those about ends, since a time, oldest first.
func (s *server) events(ctx context.Context, since time.Time) (all []event, err error) {
	err = pages(ctx, &s.api, "/ringback/v1/events", "events", "after", from(since), func(page []event) {
		for _, e := range page {
			if tells(e.Type) && e.Job != "" {
				all = append(all, e)
			}
		}
	})
	return all, err
}

// deliveries are those of events since a time, by event.
func (s *server) deliveries(ctx context.Context, since time.Time) (map[string][]delivery, error) {
	all := make(map[string][]delivery)
	err := pages(ctx, &s.api, "/ringback/v1/deliveries", "deliveries", "before", from(since), func(page []delivery) {
		for _, d := range page {
			all[d.Event] = append(all[d.Event], d)
		}
	})
	return all, err
}

// from asks for what happened since a time, so that a look costs what is new and not
// what the server keeps.
func from(since time.Time) url.Values {
	return url.Values{"from": {since.UTC().Format(time.RFC3339Nano)}}
}

const (
	// lookEvery and lookFor bound the wait for a delivery that was sent again.
	lookEvery = 50 * time.Millisecond
	lookFor   = 35 * time.Second
)

// Close implements Source: the delivery is sent again, and its next attempt waited
// for.
func (s *server) Close(ctx context.Context, g *Gap) (bool, error) {
	if g.Delivery == "" {
		return false, ErrPost
	}
	path := "/ringback/v1/deliveries/" + url.PathEscape(g.Delivery)
	var d delivery
	if err := s.call(ctx, http.MethodGet, path, &d); err != nil {
		return false, err
	}
	if d.Reason == deleted {
		return false, ErrPost
	}
	if err := s.call(ctx, http.MethodPost, path+":resend", &d); err != nil {
		return false, err
	}
	attempts := d.Attempts
	ctx, cancel := context.WithTimeoutCause(ctx, lookFor, fmt.Errorf("it was sent again; no outcome within %s", lookFor))
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for d.State != ringback.DeliveryDelivered {
		if d.Attempts > attempts {
			return false, fmt.Errorf("the receiver still does not accept it: %s", d.Reason)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
		if err := s.call(ctx, http.MethodGet, path, &d); err != nil {
			return false, err
		}
	}
	return true, nil
}
