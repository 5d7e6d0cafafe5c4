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
func (s *Store) ClaimDeliveries(ctx context.Context, node string, now, until time.Time, limit int, room func(target string, e *ringback.Endpoint) int) ([]store.ClaimedDelivery, error) {
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
			places := min(room(target, s.memory.endpoint(ringback.ID(target))), limit-len(claimed))
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
	failed := !o.NoAttempt && o.Endpoint != "" && o.State != ringback.DeliveryDelivered
	recovered := !o.NoAttempt && o.Endpoint != "" && !failed && s.memory.healthOf(o.Endpoint).Failures > 0
	var disabled *ringback.Endpoint
	err := s.writer.submit(ctx, func(t *tx) error {
		disabled = nil
		t.outcomes.add(string(a.Delivery), lease.Token, string(o.State), a.Number, micros(due), a.Reason, micros(o.At))
		if !o.NoAttempt {
			t.attempts.add(string(a.Delivery), a.Number, micros(a.Started), a.Status, a.Answer,
				a.DNS.Microseconds(), a.Connect.Microseconds(), a.TLS.Microseconds(), a.FirstByte.Microseconds(), a.Total.Microseconds(),
				a.Reason, a.Error)
		}
		switch {
		case failed:
			if err := t.exec(`UPDATE endpoints SET failing_since = coalesce(failing_since, ?), failures = failures + 1 WHERE id = ?`,
				micros(o.At), string(o.Endpoint)); err != nil {
				return err
			}
		case recovered:
			if err := t.exec(`UPDATE endpoints SET failing_since = NULL, failures = 0 WHERE id = ?`, string(o.Endpoint)); err != nil {
				return err
			}
		}
		if o.Disable == "" {
			return nil
		}
		var err error
		disabled, err = disable(t, o)
		return err
	}, func() {
		if o.State == ringback.DeliveryPending {
			s.memory.sooner(o.Target, o.Due)
		}
		if failed {
			s.memory.failed(o.Endpoint, o.At)
		} else if recovered {
			s.memory.healthy(o.Endpoint)
		}
		if disabled != nil {
			s.memory.setEndpoint(disabled)
			if o.Told != nil {
				s.noteDue(o.Told)
			}
		}
	})
	if err != nil {
		return fmt.Errorf("record attempt %d of %s: %w", a.Number, a.Delivery, err)
	}
	return nil
}

// disable gives an outcome's endpoint its new state, and stores the event that
// tells of it. It returns nil if the endpoint is gone or not enabled anyway.
func disable(t *tx, o *store.Outcome) (*ringback.Endpoint, error) {
	e, err := scanEndpoint(t.row(`SELECT `+endpointColumns+` FROM endpoints WHERE id = ?`, string(o.Endpoint)))
	if err == sql.ErrNoRows || err == nil && e.State != ringback.Enabled {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	disabled, what, err := patchEndpoint(t, e, store.EndpointPatch{State: &o.Disable}, o.At)
	if err != nil {
		return nil, err
	}
	if o.Told != nil {
		if err := insertHappenings(t, o.Told); err != nil {
			return nil, err
		}
	}
	return disabled, t.audit(store.By{Actor: store.Server, At: o.At}, e.Project, "webhook.update", e.ID, what)
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
	targets := s.memory.targets()
	var freed []string
	err := s.writer.submit(ctx, func(t *tx) error {
		freed = nil
		if err := t.flush(); err != nil {
			return err
		}
		if err := t.exec(`UPDATE batch_shards SET due = ?, node = NULL WHERE node = ?`, micros(now), node); err != nil {
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

// ShiftLeases implements store.LeaseShifter. What is known in memory of due times
// stays: it may be earlier than the truth.
func (s *Store) ShiftLeases(ctx context.Context, node string, now time.Time, d time.Duration) error {
	targets := s.memory.targets()
	err := s.writer.submit(ctx, func(t *tx) error {
		if err := t.flush(); err != nil {
			return err
		}
		if err := t.exec(`UPDATE batch_shards SET due = due + ? WHERE node = ? AND done = 0`, d.Microseconds(), node); err != nil {
			return err
		}
		if err := t.exec(`UPDATE job_queue SET due = due + ? WHERE node = ?`, d.Microseconds(), node); err != nil {
			return err
		}
		for _, target := range targets {
			if err := t.exec(`UPDATE deliveries SET due = due + ? WHERE state = 'pending' AND target = ? AND due <= ? AND node = ?`,
				d.Microseconds(), target, micros(now.Add(longestLease)), node); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	if err != nil {
		return fmt.Errorf("prolong the leases of %s: %w", node, err)
	}
	return nil
}

// NextDue implements store.Deliveries.
func (s *Store) NextDue(_ context.Context, hold func(target string) time.Time) (time.Time, error) {
	return s.memory.nextDue(hold), nil
}

// Redeliver implements store.Deliveries.
func (s *Store) Redeliver(ctx context.Context, project, id ringback.ID, by store.By) error {
	var target string
	err := s.writer.submit(ctx, func(t *tx) error {
		if err := t.flush(); err != nil {
			return err
		}
		var state string
		var node sql.NullString
		if err := t.row(`SELECT target, state, node FROM deliveries WHERE id = ? AND project = ?`, string(id), string(project)).Scan(&target, &state, &node); err != nil {
			return translate(err)
		}
		if node.Valid && state == string(ringback.DeliveryPending) {
			target = ""
			return nil
		}
		if err := t.exec(`UPDATE deliveries SET state = 'pending', due = ?, begun = ?, updated = ?, node = NULL WHERE id = ?`,
			micros(by.At), micros(by.At), micros(by.At), string(id)); err != nil {
			return err
		}
		return t.audit(by, project, "delivery.resend", id, "")
	}, func() {
		if target != "" {
			s.memory.sooner(target, by.At)
		}
	})
	if err != nil {
		return fmt.Errorf("resend delivery %s: %w", id, err)
	}
	return nil
}
