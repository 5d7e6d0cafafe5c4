package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// longestLease bounds how far in the future the due time of a leased row can
// lie. Reclaim looks no further, so that it need not read rows that wait.
const longestLease = time.Hour

// ClaimDeliveries implements store.Deliveries.
func (s *Store) ClaimDeliveries(ctx context.Context, node string, now, until time.Time, limit int, room func(target string) int) ([]store.ClaimedDelivery, error) {
	if len(s.memory.dueTargets(now)) == 0 {
		return nil, nil
	}
	var claimed []store.ClaimedDelivery
	next := make(map[string]time.Time) // What is then known of the targets looked at.
	err := s.writer.submit(ctx, func(t *tx) error {
		claimed = nil
		clear(next)
		if err := t.flush(); err != nil {
			return err
		}
		for _, target := range s.memory.dueTargets(now) {
			places := min(room(target), limit-len(claimed))
			if places <= 0 {
				continue
			}
			some, err := claimTarget(t, target, node, now, until, places)
			if err != nil {
				return err
			}
			claimed = append(claimed, some...)
			var earliest sql.NullInt64
			if err := t.row(`SELECT min(due) FROM deliveries WHERE state = 'pending' AND target = ?`, target).Scan(&earliest); err != nil {
				return err
			}
			next[target] = instant(earliest)
			if len(claimed) == limit {
				break
			}
		}
		return nil
	}, func() {
		for target, due := range next {
			s.memory.setDue(target, due)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("claim deliveries: %w", err)
	}
	for i := range claimed {
		claimed[i].To = s.memory.endpoint(claimed[i].Endpoint)
	}
	return claimed, nil
}

// claimTarget leases a target's due deliveries, those due longest first.
func claimTarget(t *tx, target, node string, now, until time.Time, limit int) ([]store.ClaimedDelivery, error) {
	rows, err := t.query(`SELECT `+deliveryColumns+`, d.lease, e.type, e.body
		FROM deliveries d JOIN events e ON e.seq = d.event
		WHERE d.state = 'pending' AND d.target = ? AND d.due <= ? ORDER BY d.due LIMIT ?`, target, micros(now), limit)
	if err != nil {
		return nil, err
	}
	claimed, err := collect(rows, "claim deliveries", func(r scanner) (c store.ClaimedDelivery, err error) {
		c.Lease = ringback.Lease{Node: node, Until: until}
		c.Delivery, err = scanDelivery(alsoScan{r, []any{&c.Lease.Token, &c.Type, &c.Body}})
		return c, err
	})
	if err != nil {
		return nil, err
	}
	for i := range claimed {
		c := &claimed[i]
		c.Lease.Token++
		c.Due = until
		if err := t.exec(`UPDATE deliveries SET due = ?, lease = ?, node = ? WHERE id = ?`,
			micros(until), c.Lease.Token, node, string(c.ID)); err != nil {
			return nil, err
		}
	}
	return claimed, nil
}

// RecordAttempt implements store.Deliveries.
func (s *Store) RecordAttempt(ctx context.Context, lease ringback.Lease, o *store.Outcome) error {
	a := &o.Attempt
	due := o.Due
	if o.State != ringback.DeliveryPending {
		due = o.At
	}
	var disabled *ringback.Endpoint
	err := s.writer.submit(ctx, func(t *tx) error {
		disabled = nil
		t.outcomes.add(string(a.Delivery), lease.Token, string(o.State), a.Number, micros(due), a.Reason, micros(o.At))
		t.attempts.add(string(a.Delivery), a.Number, micros(a.Started), a.Status, a.Answer,
			a.DNS.Microseconds(), a.Connect.Microseconds(), a.TLS.Microseconds(), a.FirstByte.Microseconds(), a.Total.Microseconds(),
			a.Reason, a.Error)
		if o.DisableEndpoint == "" {
			return nil
		}
		ep, err := scanEndpoint(t.row(`SELECT `+endpointColumns+` FROM endpoints WHERE id = ?`, string(o.DisableEndpoint)))
		if err == sql.ErrNoRows {
			return nil
		}
		if err != nil {
			return err
		}
		state := ringback.Disabled
		disabled, err = patchEndpoint(t, ep, store.EndpointPatch{State: &state}, o.At)
		return err
	}, func() {
		if o.State == ringback.DeliveryPending {
			s.memory.sooner(o.Target, o.Due)
		}
		if disabled != nil {
			s.memory.setEndpoint(disabled)
		}
	})
	if err != nil {
		return fmt.Errorf("record attempt %d of %s: %w", a.Number, a.Delivery, err)
	}
	return nil
}

// ReleaseDeliveries implements store.Deliveries.
func (s *Store) ReleaseDeliveries(ctx context.Context, held []store.Held, due time.Time) error {
	var targets []string
	err := s.writer.submit(ctx, func(t *tx) error {
		targets = nil
		for _, h := range held {
			var target string
			err := t.row(`UPDATE deliveries SET due = ?, node = NULL WHERE id = ? AND lease = ? AND node IS NOT NULL AND state = 'pending'
				RETURNING target`, micros(due), string(h.ID), h.Token).Scan(&target)
			if err == sql.ErrNoRows {
				continue
			}
			if err != nil {
				return err
			}
			targets = append(targets, target)
		}
		return nil
	}, func() {
		for _, target := range targets {
			s.memory.sooner(target, due)
		}
	})
	if err != nil {
		return fmt.Errorf("release deliveries: %w", err)
	}
	return nil
}

// Reclaim implements store.Deliveries.
func (s *Store) Reclaim(ctx context.Context, node string, now time.Time) error {
	s.memory.mu.RLock()
	targets := make([]string, 0, len(s.memory.due))
	for target := range s.memory.due {
		targets = append(targets, target)
	}
	s.memory.mu.RUnlock()
	var freed []string
	err := s.writer.submit(ctx, func(t *tx) error {
		freed = nil
		if err := t.flush(); err != nil {
			return err
		}
		if err := t.exec(`UPDATE job_queue SET due = ?, node = NULL WHERE node = ?`, micros(now), node); err != nil {
			return err
		}
		for _, target := range targets {
			n, err := t.change(`UPDATE deliveries SET due = ?, node = NULL
				WHERE state = 'pending' AND target = ? AND due <= ? AND node = ?`,
				micros(now), target, micros(now.Add(longestLease)), node)
			if err != nil {
				return err
			}
			if n > 0 {
				freed = append(freed, target)
			}
		}
		return nil
	}, func() {
		for _, target := range freed {
			s.memory.sooner(target, now)
		}
	})
	if err != nil {
		return fmt.Errorf("reclaim what %s had leased: %w", node, err)
	}
	return nil
}

// NextDue implements store.Deliveries.
func (s *Store) NextDue(context.Context) (time.Time, error) { return s.memory.nextDue(), nil }

const deliveryColumns = `d.id, (SELECT id FROM events WHERE seq = d.event), d.project, d.target, d.endpoint, d.state,
	d.attempts, d.due, d.created, d.updated, coalesce(d.reason, '')`

func scanDelivery(r scanner) (d ringback.Delivery, err error) {
	var due, created, updated sql.NullInt64
	err = r.Scan(&d.ID, &d.Event, &d.Project, &d.Target, &d.Endpoint, &d.State, &d.Attempts, &due, &created, &updated, &d.Reason)
	d.Due, d.Created, d.Updated = instant(due), instant(created), instant(updated)
	return d, err
}

// EventDeliveries implements store.Deliveries.
func (s *Store) EventDeliveries(ctx context.Context, project, event ringback.ID) ([]ringback.Delivery, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM deliveries d
		WHERE d.event = (SELECT seq FROM events WHERE id = ?) AND d.project = ? ORDER BY d.id`, string(event), string(project))
	if err != nil {
		return nil, fmt.Errorf("deliveries of event %s: %w", event, translate(err))
	}
	return collect(rows, "deliveries of an event", scanDelivery)
}

// Attempts implements store.Deliveries.
func (s *Store) Attempts(ctx context.Context, project, delivery ringback.ID) ([]ringback.Attempt, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT a.delivery, a.number, a.started, a.status, a.answer, a.dns, a.connect, a.tls,
			a.first_byte, a.total, a.reason, coalesce(a.error, '')
		FROM attempts a JOIN deliveries d ON d.id = a.delivery
		WHERE a.delivery = ? AND d.project = ? ORDER BY a.number`, string(delivery), string(project))
	if err != nil {
		return nil, fmt.Errorf("attempts of delivery %s: %w", delivery, translate(err))
	}
	return collect(rows, "attempts of a delivery", func(r scanner) (a ringback.Attempt, err error) {
		var started sql.NullInt64
		err = r.Scan(&a.Delivery, &a.Number, &started, &a.Status, &a.Answer, &a.DNS, &a.Connect, &a.TLS,
			&a.FirstByte, &a.Total, &a.Reason, &a.Error)
		a.Started = instant(started)
		for _, d := range []*time.Duration{&a.DNS, &a.Connect, &a.TLS, &a.FirstByte, &a.Total} {
			*d *= time.Microsecond
		}
		return a, err
	})
}
