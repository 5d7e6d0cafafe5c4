package manage

import (
	"net/url"
	"strconv"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// event is an event as it is shown.
type event struct {
	ID      ringback.ID        `json:"id"`
	Type    ringback.EventType `json:"type"`
	Job     ringback.ID        `json:"job,omitempty"`
	Created string             `json:"created"`
	// Body holds the exact bytes that are signed and sent.
	Body         string             `json:"body"`
	NotDelivered []ringback.Skipped `json:"not_delivered,omitempty"`
	Deliveries   []*delivery        `json:"deliveries,omitempty"`
}

func renderEvent(e *ringback.Event) *event {
	return &event{ID: e.ID, Type: e.Type, Job: e.Job, Created: wireTime(e.Created), Body: string(e.Body), NotDelivered: e.Skipped}
}

func eventCursor(seq int64) string { return cursor("events", strconv.FormatInt(seq, 10)) }

// listEvents is the feed: every event once, oldest first. Its cursor is given on
// the last page too, so that the next call goes on from there.
func (m *manage) listEvents(c *call) (any, error) {
	q, err := c.query("after", "types", "job", "from", "limit")
	if err != nil {
		return nil, err
	}
	n, err := limit(q)
	if err != nil {
		return nil, err
	}
	var out struct {
		Events []*event `json:"events"`
		Next   string   `json:"next"`
		// Last, of now alone, is the latest event: a server that does not know it when
		// the cursor is used has other data.
		Last ringback.ID `json:"last,omitempty"`
	}
	out.Events = []*event{}
	if q.Get("after") == "now" {
		seq, err := m.lastEvent(c)
		if err != nil {
			return nil, err
		}
		latest, err := m.Store.EventsAfter(c.Context(), c.project, store.EventFilter{}, seq-1, 1)
		if len(latest) > 0 {
			seq, out.Last = latest[0].Seq, latest[0].ID
		}
		out.Next = eventCursor(seq)
		return out, err
	}
	after, err := numbered("after", "events", begun(q.Get("after")))
	if err != nil {
		return nil, err
	}
	f, err := eventFilter(q)
	if err != nil {
		return nil, err
	}
	events, err := m.Store.EventsAfter(c.Context(), c.project, f, after, n)
	if err != nil {
		return nil, err
	}
	for i := range events {
		out.Events = append(out.Events, renderEvent(&events[i]))
		after = events[i].Seq
	}
	out.Next = eventCursor(after)
	return out, nil
}

// eventFilter reads which events are wanted.
func eventFilter(q url.Values) (f store.EventFilter, err error) {
	f.Job = ringback.ID(q.Get("job"))
	if f.Types, err = types(split(q.Get("types"))); err != nil {
		return f, err
	}
	f.From, err = instant("from", q.Get("from"))
	return f, err
}

// begun is the cursor before all others for "start".
func begun(after string) string {
	if after == "start" {
		return eventCursor(0)
	}
	return after
}

// lastEvent is the Seq of the project's latest event.
func (m *manage) lastEvent(c *call) (int64, error) { return m.Store.LastEvent(c.Context(), c.project) }

func (m *manage) getEvent(c *call) (any, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	return m.event(c, c.id())
}

// event shows one event with its deliveries.
func (m *manage) event(c *call, id ringback.ID) (*event, error) {
	e, err := m.Store.Event(c.Context(), c.project, id)
	if err != nil {
		return nil, notFound(err, "event", id)
	}
	all, err := m.Store.EventDeliveries(c.Context(), c.project, e.ID)
	if err != nil {
		return nil, err
	}
	out := renderEvent(&e)
	for i := range all {
		d, err := m.renderDelivery(c, &all[i], &e)
		if err != nil {
			return nil, err
		}
		out.Deliveries = append(out.Deliveries, d)
	}
	return out, nil
}
