package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// AddEvent implements store.Events.
func (s *Store) AddEvent(ctx context.Context, h *store.Happening) error {
	err := s.writer.submit(ctx, func(t *tx) error { return insertHappenings(t, h) }, func() { s.noteDue(h) })
	if err != nil {
		return fmt.Errorf("add event %s: %w", h.Event.ID, err)
	}
	return nil
}

// insertHappenings stores events and their deliveries, and sets the events' Seq.
func insertHappenings(t *tx, all ...*store.Happening) error {
	for _, h := range all {
		e := &h.Event
		job, skipped := any(nil), any(nil)
		if e.Job != "" {
			job = string(e.Job)
		}
		if len(e.Skipped) > 0 {
			b, err := json.Marshal(e.Skipped)
			if err != nil {
				return err
			}
			skipped = string(b)
		}
		t.w.seq++
		e.Seq = t.w.seq
		t.events.add(e.Seq, string(e.ID), string(e.Project), string(e.Type), job, e.Body, micros(e.Created), skipped)
		for i := range h.Deliveries {
			d := &h.Deliveries[i]
			token, node := int64(0), any(nil)
			if d.Lease != nil {
				token, node = d.Lease.Token, d.Lease.Node
			}
			uri, scheme := any(nil), any(nil)
			if d.URI != "" {
				uri, scheme = d.URI, string(d.Scheme)
			}
			t.deliveries.add(string(d.ID), e.Seq, string(d.Project), d.Target, string(d.Endpoint), uri, scheme,
				string(ringback.DeliveryPending), 0, micros(d.Due), token, node, micros(d.Created), micros(d.Created))
		}
	}
	return nil
}

// noteDue tells the memory of new deliveries.
func (s *Store) noteDue(all ...*store.Happening) {
	for _, h := range all {
		for i := range h.Deliveries {
			s.memory.sooner(h.Deliveries[i].Target, h.Deliveries[i].Due)
		}
	}
}

const eventColumns = `seq, id, project, type, coalesce(job, ''), body, created, skipped`

func scanEvent(r scanner) (e ringback.Event, err error) {
	var created sql.NullInt64
	var skipped []byte
	err = r.Scan(&e.Seq, &e.ID, &e.Project, &e.Type, &e.Job, &e.Body, &created, &skipped)
	e.Created = instant(created)
	if err == nil && skipped != nil {
		err = json.Unmarshal(skipped, &e.Skipped)
	}
	return e, err
}

// EventsAfter implements store.Events.
func (s *Store) EventsAfter(ctx context.Context, project ringback.ID, f store.EventFilter, after int64, limit int) ([]ringback.Event, error) {
	q := where{text: `project = ? AND seq > ?`, args: []any{string(project), after}}
	q.types("type", f.Types)
	if f.Job != "" {
		q.and(`job = ?`, string(f.Job))
	}
	if !f.From.IsZero() {
		q.and(`created >= ?`, micros(f.From))
	}
	rows, err := s.read.QueryContext(ctx, `SELECT `+eventColumns+` FROM events WHERE `+q.text+` ORDER BY seq LIMIT ?`, append(q.args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list events: %w", translate(err))
	}
	return collect(rows, "list events", scanEvent)
}

// Event implements store.Events.
func (s *Store) Event(ctx context.Context, project, id ringback.ID) (ringback.Event, error) {
	e, err := scanEvent(s.read.QueryRowContext(ctx, `SELECT `+eventColumns+` FROM events WHERE id = ? AND project = ?`, string(id), string(project)))
	if err != nil {
		return e, fmt.Errorf("event %s: %w", id, translate(err))
	}
	return e, nil
}

// LastEvent implements store.Events.
func (s *Store) LastEvent(ctx context.Context, project ringback.ID) (seq int64, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM events WHERE project = ?`, string(project)).Scan(&seq)
	if err != nil {
		return 0, fmt.Errorf("latest event: %w", translate(err))
	}
	return seq, nil
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
