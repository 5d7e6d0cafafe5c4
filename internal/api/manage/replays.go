package manage

import (
	"ringback.dev"
	"ringback.dev/internal/store"
)

// replayed is a replay as it is shown.
type replayed struct {
	ID        ringback.ID    `json:"id"`
	State     string         `json:"state"`
	CountSent int            `json:"count_sent"`
	Filter    replayedFilter `json:"filter"`
	Created   string         `json:"created"`
	Done      string         `json:"done,omitempty"`
}

type replayedFilter struct {
	Webhook ringback.ID          `json:"webhook,omitempty"`
	Event   ringback.ID          `json:"event,omitempty"`
	State   string               `json:"state"`
	Types   []ringback.EventType `json:"types,omitempty"`
	From    string               `json:"from,omitempty"`
	To      string               `json:"to,omitempty"`
}

func renderReplay(r *store.Replay) *replayed {
	f := r.Filter
	out := &replayed{ID: r.ID, State: "running", CountSent: r.Sent, Created: wireTime(r.Created), Done: wireTime(r.Done),
		Filter: replayedFilter{Webhook: f.Endpoint, Event: f.Event, State: string(f.State), Types: f.Types, From: wireTime(f.From), To: wireTime(f.To)}}
	if f.State == "" {
		out.Filter.State = "all"
	}
	if !r.Done.IsZero() {
		out.State = "done"
	}
	return out
}

// replay sends again what a filter selects of all that has ended, or counts it.
func (m *manage) replay(c *call) (any, error) {
	var q struct {
		Webhook string   `json:"webhook"`
		Event   string   `json:"event"`
		State   string   `json:"state"`
		Types   []string `json:"types"`
		From    string   `json:"from"`
		To      string   `json:"to"`
		DryRun  bool     `json:"dry_run"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	state := q.State
	switch state {
	case "":
		state = string(ringback.DeliveryFailed)
	case "all":
		state = ""
	case string(ringback.DeliveryFailed), string(ringback.DeliveryDelivered):
	default:
		return nil, invalid("state: %q is none of failed, delivered, all; what is pending will be sent anyway", state)
	}
	f, err := filter(state, q.Event, q.Webhook, q.Types, q.From, q.To)
	if err != nil {
		return nil, err
	}
	if f.Endpoint != "" {
		if _, err := m.Store.Endpoint(c.Context(), c.project, f.Endpoint); err != nil {
			return nil, notFound(err, "webhook", f.Endpoint)
		}
	}
	if q.DryRun {
		n, err := m.Store.CountReplay(c.Context(), c.project, f)
		return map[string]any{"dry_run": true, "count": n}, err
	}
	r := store.Replay{ID: ringback.NewID("replay", c.now), Project: c.project, Filter: f, Created: c.now}
	if err := m.Store.CreateReplay(c.Context(), r, c.by()); err != nil {
		return nil, err
	}
	return renderReplay(&r), nil
}

func (m *manage) listReplays(c *call) (any, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	all, err := m.Store.ListReplays(c.Context(), c.project, defaultLimit)
	out := []*replayed{}
	for i := range all {
		out = append(out, renderReplay(&all[i]))
	}
	return map[string]any{"replays": out}, err
}

func (m *manage) getReplay(c *call) (any, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	r, err := m.Store.Replay(c.Context(), c.project, c.id())
	if err != nil {
		return nil, notFound(err, "replay", c.id())
	}
	return renderReplay(&r), nil
}
