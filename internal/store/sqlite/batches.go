package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// CreateBatch implements store.Batches.
func (s *Store) CreateBatch(ctx context.Context, j *ringback.Job, b *ringback.Batch, lease *ringback.Lease) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		if err := t.insertJob(j, b.Priority, lease); err != nil {
			return err
		}
		embed := 0
		if b.Embed {
			embed = 1
		}
		return t.exec(`INSERT INTO batches (id, display_name, priority, embed, input_file, input_blob, expires) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			string(j.ID), b.DisplayName, b.Priority, embed, string(b.InputFile), b.InputBlob, micros(b.Expires))
	}, nil)
	if err != nil {
		return fmt.Errorf("create batch %s: %w", j.ID, err)
	}
	return nil
}

// Batch implements store.Batches. A batch that has ended, or is run elsewhere, has
// its counts in its row; otherwise they are the sum over its shards.
func (s *Store) Batch(ctx context.Context, project, id ringback.ID) (*ringback.Batch, error) {
	var (
		b                              ringback.Batch
		expires, cancelled, progressed sql.NullInt64
		file, output                   sql.NullString
	)
	err := s.read.QueryRowContext(ctx, `SELECT b.display_name, b.priority, b.embed, b.input_file, b.input_blob, b.output_file, b.output_blob, b.expires, b.cancelled, b.planned,
			coalesce(b.total, t.total, 0), coalesce(b.succeeded, t.succeeded, 0), coalesce(b.failed, t.failed, 0), coalesce(b.progressed, t.progressed)
		FROM batches b JOIN jobs j ON j.id = b.id,
			(SELECT sum(rows) AS total, sum(succeeded) AS succeeded, sum(failed) AS failed, max(progressed) AS progressed FROM batch_shards WHERE batch = ?1) t
		WHERE b.id = ?1 AND j.project = ?2`, string(id), string(project)).Scan(&b.DisplayName, &b.Priority, &b.Embed, &b.InputFile, &b.InputBlob, &file, &output,
		&expires, &cancelled, &b.Planned, &b.Rows.Total, &b.Rows.Succeeded, &b.Rows.Failed, &progressed)
	if err != nil {
		return nil, fmt.Errorf("batch %s: %w", id, translate(err))
	}
	b.OutputFile = ringback.ID(file.String)
	b.OutputBlob, b.Expires, b.Cancelled, b.Progressed = output.String, instant(expires), instant(cancelled), instant(progressed)
	return &b, nil
}

// UpdateBatch implements store.Batches.
func (s *Store) UpdateBatch(ctx context.Context, project, id ringback.ID, p store.BatchPatch, at time.Time) error {
	var name, priority any
	if p.DisplayName != nil {
		name = *p.DisplayName
	}
	if p.Priority != nil {
		priority = *p.Priority
	}
	err := s.writer.submit(ctx, func(t *tx) error {
		if err := t.changeOne(`UPDATE jobs SET updated = ? WHERE id = ? AND project = ? AND kind = 'batch'`, micros(at), string(id), string(project)); err != nil {
			return err
		}
		if err := t.exec(`UPDATE batches SET display_name = coalesce(?, display_name), priority = coalesce(?, priority) WHERE id = ?`, name, priority, string(id)); err != nil {
			return err
		}
		return t.exec(`UPDATE job_queue SET priority = coalesce(?, priority) WHERE id = ?`, priority, string(id))
	}, nil)
	if err != nil {
		return fmt.Errorf("update batch %s: %w", id, err)
	}
	return nil
}

// CancelBatch implements store.Batches.
func (s *Store) CancelBatch(ctx context.Context, project, id ringback.ID, at time.Time) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		var one int
		if err := t.row(`SELECT 1 FROM jobs WHERE id = ? AND project = ? AND kind = 'batch'`, string(id), string(project)).Scan(&one); err != nil {
			return translate(err)
		}
		if err := t.exec(`UPDATE batches SET cancelled = ?1 WHERE id = ?2 AND cancelled IS NULL AND EXISTS (SELECT 1 FROM job_queue WHERE id = ?2)`,
			micros(at), string(id)); err != nil {
			return err
		}
		return t.exec(`UPDATE job_queue SET due = ? WHERE id = ? AND node IS NULL AND due > ?1`, micros(at), string(id))
	}, nil)
	if err != nil {
		return fmt.Errorf("cancel batch %s: %w", id, err)
	}
	return nil
}

// PlanBatch implements store.Batches.
func (s *Store) PlanBatch(ctx context.Context, id ringback.ID, lease ringback.Lease, shards []ringback.Shard) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		if err := t.held(id, lease); err != nil {
			return err
		}
		if err := t.exec(`DELETE FROM batch_shards WHERE batch = ?`, string(id)); err != nil {
			return err
		}
		for _, x := range shards {
			if err := t.exec(`INSERT INTO batch_shards (batch, number, first, line, rows, place, length) VALUES (?, ?, ?, ?, ?, ?, ?)`,
				string(id), x.Number, x.First, x.Line, x.Rows, x.Offset, x.Length); err != nil {
				return err
			}
		}
		return t.exec(`UPDATE batches SET planned = 1 WHERE id = ?`, string(id))
	}, nil)
	if err != nil {
		return fmt.Errorf("plan batch %s: %w", id, err)
	}
	return nil
}

// held is Stale if a job is not leased so.
func (t *tx) held(id ringback.ID, lease ringback.Lease) error {
	var held int
	if err := t.row(`SELECT EXISTS (SELECT 1 FROM job_queue WHERE id = ? AND lease = ? AND node IS NOT NULL)`, string(id), lease.Token).Scan(&held); err != nil {
		return err
	}
	if held == 0 {
		return ringback.Stale
	}
	return nil
}

// FollowBatch implements store.Batches. Progress forgives earlier runs of the job
// that were cut off.
func (s *Store) FollowBatch(ctx context.Context, id ringback.ID, lease ringback.Lease, rows ringback.RowCounts, at time.Time) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		if err := t.held(id, lease); err != nil {
			return err
		}
		if err := t.exec(`UPDATE batches SET total = ?, succeeded = ?, failed = ?, progressed = ? WHERE id = ?`,
			rows.Total, rows.Succeeded, rows.Failed, micros(at), string(id)); err != nil {
			return err
		}
		return t.exec(`UPDATE job_queue SET runs = 1 WHERE id = ? AND runs > 1`, string(id))
	}, nil)
	if err != nil {
		return fmt.Errorf("follow batch %s: %w", id, err)
	}
	return nil
}

const shardColumns = `number, first, line, rows, place, length`

func scanShard(r scanner, x *ringback.Shard, more ...any) error {
	return r.Scan(append([]any{&x.Number, &x.First, &x.Line, &x.Rows, &x.Offset, &x.Length}, more...)...)
}

// ClaimShards implements store.Batches.
func (s *Store) ClaimShards(ctx context.Context, batch ringback.ID, node string, now, until time.Time, limit int) ([]store.ClaimedShard, error) {
	var claimed []store.ClaimedShard
	err := s.writer.submit(ctx, func(t *tx) error {
		rows, err := t.query(`SELECT `+shardColumns+`, lease FROM batch_shards WHERE batch = ? AND done = 0 AND due <= ? ORDER BY number LIMIT ?`,
			string(batch), micros(now), limit)
		if err != nil {
			return err
		}
		claimed, err = collect(rows, "claim shards", func(r scanner) (c store.ClaimedShard, err error) {
			err = scanShard(r, &c.Shard, &c.Token)
			c.Token++
			return c, err
		})
		if err != nil {
			return err
		}
		for _, c := range claimed {
			if err := t.exec(`UPDATE batch_shards SET due = ?, lease = ?, node = ? WHERE batch = ? AND number = ?`,
				micros(until), c.Token, node, string(batch), c.Number); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("claim shards of batch %s: %w", batch, err)
	}
	return claimed, nil
}

// RenewShards implements store.Batches.
func (s *Store) RenewShards(ctx context.Context, batch ringback.ID, held []store.HeldShard, until time.Time) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		for _, h := range held {
			if err := t.exec(`UPDATE batch_shards SET due = ? WHERE batch = ? AND number = ? AND lease = ? AND node IS NOT NULL AND done = 0`,
				micros(until), string(batch), h.Number, h.Token); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	if err != nil {
		return fmt.Errorf("renew shards of batch %s: %w", batch, err)
	}
	return nil
}

// RecordRows implements store.Batches. Progress forgives earlier runs of the job
// that were cut off.
func (s *Store) RecordRows(ctx context.Context, batch ringback.ID, g store.RowGroup, at time.Time) error {
	done := 0
	if g.Done {
		done = 1
	}
	err := s.writer.submit(ctx, func(t *tx) error {
		n, err := t.change(`UPDATE batch_shards SET succeeded = succeeded + ?, failed = failed + ?, progressed = ?, done = ?4,
				node = CASE WHEN ?4 THEN NULL ELSE node END
			WHERE batch = ? AND number = ? AND lease = ? AND node IS NOT NULL AND done = 0`,
			g.Succeeded, g.Failed, micros(at), done, string(batch), g.Number, g.Token)
		if err != nil {
			return err
		}
		if n == 0 {
			return ringback.Stale
		}
		if err := t.exec(`UPDATE job_queue SET runs = 1 WHERE id = ? AND runs > 1`, string(batch)); err != nil {
			return err
		}
		return t.exec(`INSERT INTO batch_rows (batch, shard, data) VALUES (?, ?, ?)`, string(batch), g.Number, g.Data)
	}, nil)
	if err != nil {
		return fmt.Errorf("record rows of batch %s: %w", batch, err)
	}
	return nil
}

// Shards implements store.Batches.
func (s *Store) Shards(ctx context.Context, batch ringback.ID) ([]store.ShardStatus, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+shardColumns+`, succeeded + failed, done FROM batch_shards WHERE batch = ? ORDER BY number`, string(batch))
	if err != nil {
		return nil, fmt.Errorf("shards of batch %s: %w", batch, translate(err))
	}
	return collect(rows, "shards", func(r scanner) (x store.ShardStatus, err error) {
		err = scanShard(r, &x.Shard, &x.Recorded, &x.Done)
		return x, err
	})
}

// ShardRows implements store.Batches.
func (s *Store) ShardRows(ctx context.Context, batch ringback.ID, shard int) ([][]byte, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT data FROM batch_rows WHERE batch = ? AND shard = ? ORDER BY seq`, string(batch), shard)
	if err != nil {
		return nil, fmt.Errorf("rows of batch %s: %w", batch, translate(err))
	}
	return collect(rows, "rows", func(r scanner) (data []byte, err error) { return data, r.Scan(&data) })
}

// endBatch is the part of a job's end that concerns a batch.
func (t *tx) endBatch(id ringback.ID, end *store.End) error {
	var file, output any
	if len(end.Files) > 0 {
		file = string(end.Files[0].ID)
	}
	if end.Blob != "" {
		output = end.Blob
	}
	n, err := t.change(`UPDATE batches SET output_file = ?, output_blob = ?, total = ?, succeeded = ?, failed = ?,
			progressed = (SELECT max(progressed) FROM batch_shards WHERE batch = ?6) WHERE id = ?6`,
		file, output, end.Rows.Total, end.Rows.Succeeded, end.Rows.Failed, string(id))
	if err != nil || n == 0 {
		return err
	}
	// The rows are in the output now. Of an input that came within the request
	// nobody has a name, so it goes too.
	if err := t.exec(`INSERT OR IGNORE INTO batch_garbage (id) VALUES (?)`, string(id)); err != nil {
		return err
	}
	return t.exec(`INSERT OR IGNORE INTO blob_garbage (blob) SELECT input_blob FROM batches WHERE id = ? AND input_file = ''`, string(id))
}

// deleteBatch is the part of a job's deletion that concerns a batch.
func (t *tx) deleteBatch(id ringback.ID) error {
	for _, q := range []string{
		`INSERT OR IGNORE INTO blob_garbage (blob) SELECT input_blob FROM batches WHERE id = ? AND input_file = ''`,
		`INSERT OR IGNORE INTO blob_garbage (blob) SELECT output_blob FROM batches WHERE id = ? AND output_blob IS NOT NULL`,
		`INSERT OR IGNORE INTO batch_garbage (id) SELECT id FROM batches WHERE id = ?`,
		`DELETE FROM batches WHERE id = ?`,
	} {
		if err := t.exec(q, string(id)); err != nil {
			return err
		}
	}
	return nil
}

// SweepBatches implements store.Batches.
func (s *Store) SweepBatches(ctx context.Context, limit int) (more bool, err error) {
	var some int
	if err := s.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM batch_garbage)`).Scan(&some); err != nil || some == 0 {
		return false, translate(err)
	}
	err = s.writer.submit(ctx, func(t *tx) error {
		var id string
		if err := t.row(`SELECT id FROM batch_garbage LIMIT 1`).Scan(&id); err != nil {
			return translate(err)
		}
		n, err := t.change(`DELETE FROM batch_rows WHERE seq IN (SELECT seq FROM batch_rows WHERE batch = ? ORDER BY shard, seq LIMIT ?)`, id, limit)
		if more = true; err != nil || n == int64(limit) {
			return err
		}
		if err := t.exec(`DELETE FROM batch_shards WHERE batch = ?`, id); err != nil {
			return err
		}
		return t.exec(`DELETE FROM batch_garbage WHERE id = ?`, id)
	}, nil)
	if err != nil {
		return false, fmt.Errorf("remove the rows of ended batches: %w", err)
	}
	return more, nil
}
