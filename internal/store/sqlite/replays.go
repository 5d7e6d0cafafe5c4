package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// selection is a filter as conditions; without a state it selects what has ended.
func selection(project ringback.ID, f store.DeliveryFilter) where {
	q := where{text: `d.project = ? AND d.state <> 'pending'`, args: []any{string(project)}}
	q.filter(f)
	return q
}

// CountReplay implements store.Replays.
func (s *Store) CountReplay(ctx context.Context, project ringback.ID, f store.DeliveryFilter) (n int, err error) {
	q := selection(project, f)
	err = s.read.QueryRowContext(ctx, `SELECT count(*) FROM deliveries d JOIN events e ON e.seq = d.event WHERE `+q.text, q.args...).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count a replay: %w", translate(err))
	}
	return n, nil
}

// CreateReplay implements store.Replays.
func (s *Store) CreateReplay(ctx context.Context, r store.Replay, by store.By) error {
	filter, err := json.Marshal(r.Filter)
	if err != nil {
		return fmt.Errorf("create replay %s: %w", r.ID, err)
	}
	err = s.writer.submit(ctx, func(t *tx) error {
		if err := t.flush(); err != nil {
			return err
		}
		// What happens from now on is not the replay's.
		err := t.exec(`INSERT INTO replays (id, project, filter, position, until, sent, created)
			VALUES (?, ?, ?, 0, (SELECT coalesce(max(seq), 0) FROM events), 0, ?)`, string(r.ID), string(r.Project), string(filter), micros(r.Created))
		if err != nil {
			return err
		}
		return t.audit(by, r.Project, "deliveries.replay", r.ID, string(filter))
	}, nil)
	if err != nil {
		return fmt.Errorf("create replay %s: %w", r.ID, err)
	}
	return nil
}

const replayColumns = `id, project, filter, position, until, sent, created, done`

func scanReplay(r scanner) (p store.Replay, err error) {
	var filter []byte
	var created, done sql.NullInt64
	if err := r.Scan(&p.ID, &p.Project, &filter, &p.Position, &p.Until, &p.Sent, &created, &done); err != nil {
		return p, err
	}
	p.Created, p.Done = instant(created), instant(done)
	return p, json.Unmarshal(filter, &p.Filter)
}

// Replay implements store.Replays.
func (s *Store) Replay(ctx context.Context, project, id ringback.ID) (store.Replay, error) {
	r, err := scanReplay(s.read.QueryRowContext(ctx, `SELECT `+replayColumns+` FROM replays WHERE id = ? AND project = ?`, string(id), string(project)))
	if err != nil {
		return r, fmt.Errorf("replay %s: %w", id, translate(err))
	}
	return r, nil
}

// ListReplays implements store.Replays.
func (s *Store) ListReplays(ctx context.Context, project ringback.ID, limit int) ([]store.Replay, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+replayColumns+` FROM replays WHERE project = ? ORDER BY id DESC LIMIT ?`, string(project), limit)
	if err != nil {
		return nil, fmt.Errorf("list replays: %w", translate(err))
	}
	return collect(rows, "list replays", scanReplay)
}

// AdvanceReplay implements store.Replays.
func (s *Store) AdvanceReplay(ctx context.Context, now time.Time, limit int) (bool, error) {
	var open int
	if err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM replays WHERE done IS NULL`).Scan(&open); err != nil {
		return false, fmt.Errorf("look for replays: %w", translate(err))
	}
	if open == 0 {
		return false, nil
	}
	more := false
	var targets map[string]bool
	err := s.writer.submit(ctx, func(t *tx) error {
		targets = make(map[string]bool)
		if err := t.flush(); err != nil {
			return err
		}
		r, err := scanReplay(t.row(`SELECT ` + replayColumns + ` FROM replays WHERE done IS NULL ORDER BY created, id LIMIT 1`))
		if err == sql.ErrNoRows {
			more = false
			return nil
		}
		if err != nil {
			return err
		}
		var seen int
		var last sql.NullInt64
		if err := t.row(`SELECT count(*), max(seq) FROM (SELECT seq FROM events WHERE project = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?)`,
			string(r.Project), r.Position, r.Until, limit).Scan(&seen, &last); err != nil {
			return err
		}
		done := any(nil)
		if seen < limit {
			done, last.Int64 = micros(now), r.Until
		}
		sent, err := redeliverRange(t, &r, last.Int64, now, targets)
		if err != nil {
			return err
		}
		more = seen == limit || open > 1
		return t.exec(`UPDATE replays SET position = ?, sent = sent + ?, done = ? WHERE id = ?`, last.Int64, sent, done, string(r.ID))
	}, func() {
		for target := range targets {
			s.memory.sooner(target, now)
		}
	})
	if err != nil {
		return false, fmt.Errorf("advance a replay: %w", err)
	}
	return more, nil
}

// redeliverRange makes the selected deliveries of the events up to last due.
func redeliverRange(t *tx, r *store.Replay, last int64, now time.Time, targets map[string]bool) (sent int, err error) {
	q := selection(r.Project, r.Filter)
	q.and(`d.event > ? AND d.event <= ?`, r.Position, last)
	rows, err := t.w.conn.QueryContext(context.Background(), `UPDATE deliveries SET state = 'pending', due = ?, begun = ?, updated = ?
		WHERE id IN (SELECT d.id FROM deliveries d JOIN events e ON e.seq = d.event WHERE `+q.text+`) RETURNING target`,
		append([]any{micros(now), micros(now), micros(now)}, q.args...)...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var target string
		if err := rows.Scan(&target); err != nil {
			return 0, err
		}
		targets[target] = true
		sent++
	}
	return sent, rows.Err()
}
