package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// AddEvent implements store.Events.
func (s *Store) AddEvent(ctx context.Context, h *store.Happening) error {
	err := s.writer.submit(ctx, func(t *tx) error { return insertHappening(t, h) }, func() { s.noteDue(h) })
	if err != nil {
		return fmt.Errorf("add event %s: %w", h.Event.ID, err)
	}
	return nil
}

// insertHappening stores an event and its deliveries, and sets the event's Seq.
func insertHappening(t *tx, h *store.Happening) error {
	e := &h.Event
	job := any(nil)
	if e.Job != "" {
		job = string(e.Job)
	}
	t.w.seq++
	e.Seq = t.w.seq
	t.events.add(e.Seq, string(e.ID), string(e.Project), string(e.Type), job, e.Body, micros(e.Created))
	for i := range h.Deliveries {
		d := &h.Deliveries[i]
		token, node := int64(0), any(nil)
		if d.Lease != nil {
			token, node = d.Lease.Token, d.Lease.Node
		}
		t.deliveries.add(string(d.ID), e.Seq, string(d.Project), d.Target, string(d.Endpoint), string(ringback.DeliveryPending), 0,
			micros(d.Due), token, node, micros(d.Created), micros(d.Created))
	}
	return nil
}

// noteDue tells the memory of new deliveries.
func (s *Store) noteDue(h *store.Happening) {
	if h == nil {
		return
	}
	for i := range h.Deliveries {
		s.memory.sooner(h.Deliveries[i].Target, h.Deliveries[i].Due)
	}
}

const eventColumns = `seq, id, project, type, coalesce(job, ''), body, created`

func scanEvent(r scanner) (e ringback.Event, err error) {
	var created sql.NullInt64
	err = r.Scan(&e.Seq, &e.ID, &e.Project, &e.Type, &e.Job, &e.Body, &created)
	e.Created = instant(created)
	return e, err
}

// EventsAfter implements store.Events.
func (s *Store) EventsAfter(ctx context.Context, project ringback.ID, after int64, limit int) ([]ringback.Event, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+eventColumns+` FROM events
		WHERE seq > ? AND project = ? ORDER BY seq LIMIT ?`, after, string(project), limit)
	if err != nil {
		return nil, fmt.Errorf("list events: %w", translate(err))
	}
	return collect(rows, "list events", scanEvent)
}

// JobEvents implements store.Events.
func (s *Store) JobEvents(ctx context.Context, project, job ringback.ID) ([]ringback.Event, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+eventColumns+` FROM events
		WHERE job = ? AND project = ? ORDER BY seq`, string(job), string(project))
	if err != nil {
		return nil, fmt.Errorf("events of job %s: %w", job, translate(err))
	}
	return collect(rows, "events of a job", scanEvent)
}
