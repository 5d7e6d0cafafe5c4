package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// AppendStream implements store.Streams.
func (s *Store) AppendStream(ctx context.Context, id ringback.ID, lease ringback.Lease, g store.StreamGroup) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		n, err := t.change(`INSERT INTO stream_events (job, first, last, data) SELECT ?1, ?2, ?3, ?4
			WHERE EXISTS (SELECT 1 FROM job_queue WHERE id = ?1 AND lease = ?5 AND node IS NOT NULL)
			AND ?2 > coalesce((SELECT max(last) FROM stream_events WHERE job = ?1), 0)`,
			string(id), g.First, g.Last, g.Data, lease.Token)
		if err == nil && n == 0 {
			err = ringback.Stale
		}
		return err
	}, nil)
	if err != nil {
		return fmt.Errorf("append to the stream of job %s: %w", id, err)
	}
	return nil
}

// StreamAfter implements store.Streams.
func (s *Store) StreamAfter(ctx context.Context, project, id ringback.ID, after int64, limit int) ([]store.StreamGroup, store.StreamState, error) {
	var state store.StreamState
	rows, err := s.read.QueryContext(ctx, `SELECT j.ended IS NOT NULL, coalesce((SELECT max(last) FROM stream_events WHERE job = j.id), 0), e.first, e.last, e.data
		FROM jobs j LEFT JOIN stream_events e ON e.job = j.id AND e.last > ?
		WHERE j.id = ? AND j.project = ? ORDER BY e.last LIMIT ?`, after, string(id), string(project), limit)
	if err != nil {
		return nil, state, fmt.Errorf("stream of job %s: %w", id, translate(err))
	}
	all, err := collect(rows, "stream", func(r scanner) (g store.StreamGroup, err error) {
		var first, last sql.NullInt64
		err = r.Scan(&state.Ended, &state.Last, &first, &last, &g.Data)
		g.First, g.Last = first.Int64, last.Int64
		return g, err
	})
	switch {
	case err != nil:
		return nil, state, err
	case len(all) == 0:
		return nil, state, fmt.Errorf("stream of job %s: %w", id, ringback.NotFound)
	case all[0].Last == 0:
		all = nil // The job alone.
	}
	return all, state, nil
}

// Checkpoint implements store.Jobs.
func (s *Store) Checkpoint(ctx context.Context, id ringback.ID, lease ringback.Lease, note []byte, progress int) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		n, err := t.change(`UPDATE job_queue SET checkpoint = coalesce(?, checkpoint), progress = ? WHERE id = ? AND lease = ? AND node IS NOT NULL`,
			note, progress, string(id), lease.Token)
		if err == nil && n == 0 {
			err = ringback.Stale
		}
		return err
	}, nil)
	if err != nil {
		return fmt.Errorf("checkpoint of job %s: %w", id, err)
	}
	return nil
}

// SweepJobs implements store.Jobs.
func (s *Store) SweepJobs(ctx context.Context, kind ringback.Kind, before time.Time, limit int) (n int, err error) {
	err = s.writer.submit(ctx, func(t *tx) error {
		rows, err := t.query(`SELECT id FROM jobs WHERE kind = ? AND ended < ? ORDER BY ended LIMIT ?`, string(kind), micros(before), limit)
		if err != nil {
			return err
		}
		old, err := collect(rows, "old jobs", func(r scanner) (id ringback.ID, err error) { return id, r.Scan(&id) })
		if err != nil {
			return err
		}
		for _, id := range old {
			if err := t.deleteJob(id); err != nil {
				return err
			}
		}
		n = len(old)
		return nil
	}, nil)
	if err != nil {
		return 0, fmt.Errorf("remove old jobs: %w", err)
	}
	return n, nil
}
