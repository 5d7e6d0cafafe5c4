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

// CreateJob implements store.Jobs.
func (s *Store) CreateJob(ctx context.Context, j *ringback.Job, lease *ringback.Lease) error {
	err := s.writer.submit(ctx, func(t *tx) error { return t.insertJob(j, 0, lease) }, nil)
	if err != nil {
		return fmt.Errorf("create job %s: %w", j.ID, err)
	}
	return nil
}

// insertJob is the first change of a step.
func (t *tx) insertJob(j *ringback.Job, priority int64, lease *ringback.Lease) error {
	due, token, node, runs := j.Created, int64(0), any(nil), 0
	if lease != nil {
		due, token, node, runs = lease.Until, lease.Token, lease.Node, 1
	}
	webhooks := any(nil)
	if j.Webhooks != nil {
		b, err := json.Marshal(j.Webhooks)
		if err != nil {
			return err
		}
		webhooks = string(b)
	}
	if j.Idempotency != nil {
		err := t.exec(`INSERT INTO idempotency (project, key, fingerprint, job) VALUES (?, ?, ?, ?)`,
			string(j.Project), j.Idempotency.Key, j.Idempotency.Fingerprint, string(j.ID))
		if err != nil {
			return translate(err)
		}
	}
	if err := t.exec(`INSERT INTO jobs (id, project, kind, state, model, spec, webhooks, created, updated)
		VALUES (?, ?, ?, 'pending', ?, ?, ?, ?, ?)`,
		string(j.ID), string(j.Project), string(j.Kind), j.Model, []byte(j.Spec), webhooks, micros(j.Created), micros(j.Created)); err != nil {
		return err
	}
	return t.exec(`INSERT INTO job_queue (id, kind, priority, due, lease, node, runs, started) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		string(j.ID), string(j.Kind), priority, micros(due), token, node, runs, micros(j.Started))
}

// JobByKey implements store.Jobs.
func (s *Store) JobByKey(ctx context.Context, project ringback.ID, key string) (job ringback.ID, fingerprint []byte, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT job, fingerprint FROM idempotency WHERE project = ? AND key = ?`, string(project), key).Scan(&job, &fingerprint)
	if err != nil {
		return "", nil, fmt.Errorf("job by idempotency key: %w", translate(err))
	}
	return job, fingerprint, nil
}

const (
	jobColumns = `j.id, j.project, j.kind, j.state, j.model, j.spec, j.output, q.checkpoint, ` + jobRest
	// jobOutcome and jobSummary leave out what can be large.
	jobOutcome = `j.id, j.project, j.kind, j.state, j.model, NULL, j.output, NULL, ` + jobRest
	jobSummary = `j.id, j.project, j.kind, j.state, j.model, NULL, NULL, NULL, ` + jobRest
	jobRest    = `j.failure_code, j.failure_message, j.webhooks,
	coalesce(q.runs, j.runs), j.created, coalesce(q.started, j.started), j.updated, j.ended, q.node, coalesce(q.progress, 0)`
)

func scanJob(r scanner) (*ringback.Job, error) {
	var (
		j                                ringback.Job
		spec, output, webhooks           []byte
		code, message, node              sql.NullString
		created, started, updated, ended sql.NullInt64
	)
	err := r.Scan(&j.ID, &j.Project, &j.Kind, &j.State, &j.Model, &spec, &output, &j.Checkpoint, &code, &message, &webhooks,
		&j.Runs, &created, &started, &updated, &ended, &node, &j.Progress)
	if err != nil {
		return nil, err
	}
	j.Spec, j.Output = spec, output
	if webhooks != nil {
		if err := json.Unmarshal(webhooks, &j.Webhooks); err != nil {
			return nil, fmt.Errorf("webhooks of job %s: %w", j.ID, err)
		}
	}
	if code.Valid {
		j.Failure = &ringback.Failure{Code: code.String, Message: message.String}
	}
	if j.State == ringback.Pending && node.Valid {
		j.State = ringback.Running
	}
	j.Created, j.Started, j.Updated, j.Ended = instant(created), instant(started), instant(updated), instant(ended)
	return &j, nil
}

// Job implements store.Jobs.
func (s *Store) Job(ctx context.Context, project, id ringback.ID) (*ringback.Job, error) {
	return s.oneJob(ctx, jobColumns, project, id)
}

// PeekJob implements store.Jobs.
func (s *Store) PeekJob(ctx context.Context, project, id ringback.ID) (*ringback.Job, error) {
	return s.oneJob(ctx, jobOutcome, project, id)
}

func (s *Store) oneJob(ctx context.Context, columns string, project, id ringback.ID) (*ringback.Job, error) {
	j, err := scanJob(s.read.QueryRowContext(ctx, `SELECT `+columns+`
		FROM jobs j LEFT JOIN job_queue q ON q.id = j.id WHERE j.id = ? AND j.project = ?`, string(id), string(project)))
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", id, translate(err))
	}
	return j, nil
}

// ClaimJobs implements store.Jobs.
func (s *Store) ClaimJobs(ctx context.Context, kind ringback.Kind, node string, now, until time.Time, limit int) ([]store.ClaimedJob, error) {
	var some int
	err := s.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM job_queue WHERE kind = ? AND due <= ?)`, string(kind), micros(now)).Scan(&some)
	if err != nil {
		return nil, fmt.Errorf("look for due jobs: %w", translate(err))
	}
	if some == 0 {
		return nil, nil
	}
	var claimed []store.ClaimedJob
	err = s.writer.submit(ctx, func(t *tx) error {
		claimed = nil
		rows, err := t.query(`SELECT `+jobColumns+`, q.lease FROM job_queue q JOIN jobs j ON j.id = q.id
			WHERE q.kind = ? AND q.due <= ? ORDER BY q.priority DESC, q.due LIMIT ?`, string(kind), micros(now), limit)
		if err != nil {
			return err
		}
		claimed, err = collect(rows, "claim jobs", func(r scanner) (c store.ClaimedJob, err error) {
			c.Lease = ringback.Lease{Node: node, Until: until}
			c.Job, err = scanJob(alsoScan{r, []any{&c.Lease.Token}})
			return c, err
		})
		if err != nil {
			return err
		}
		for i := range claimed {
			c := &claimed[i]
			c.Lease.Token++
			c.Runs++
			c.State = ringback.Running
			if c.Started.IsZero() {
				c.Started = now
			}
			if err := t.exec(`UPDATE job_queue SET due = ?, lease = ?, node = ?, runs = ?, started = ? WHERE id = ?`,
				micros(until), c.Lease.Token, node, c.Runs, micros(c.Started), string(c.ID)); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("claim jobs: %w", err)
	}
	return claimed, nil
}

// alsoScan scans further columns after those that its user asks for.
type alsoScan struct {
	scanner
	more []any
}

func (a alsoScan) Scan(dest ...any) error { return a.scanner.Scan(append(dest, a.more...)...) }

// RenewJobs implements store.Jobs.
func (s *Store) RenewJobs(ctx context.Context, held []store.Held, until time.Time) ([]ringback.ID, error) {
	var lost []ringback.ID
	err := s.writer.submit(ctx, func(t *tx) error {
		lost = nil
		for _, h := range held {
			n, err := t.change(`UPDATE job_queue SET due = ? WHERE id = ? AND lease = ? AND node IS NOT NULL`,
				micros(until), string(h.ID), h.Token)
			if err != nil {
				return err
			}
			if n == 0 {
				lost = append(lost, h.ID)
			}
		}
		return nil
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("renew jobs: %w", err)
	}
	return lost, nil
}

// ReleaseJobs implements store.Jobs.
func (s *Store) ReleaseJobs(ctx context.Context, held []store.Held, due time.Time, uncount bool) error {
	less := 0
	if uncount {
		less = 1
	}
	err := s.writer.submit(ctx, func(t *tx) error {
		for _, h := range held {
			if err := t.exec(`UPDATE job_queue SET due = ?, node = NULL, runs = runs - ? WHERE id = ? AND lease = ? AND node IS NOT NULL`,
				micros(due), less, string(h.ID), h.Token); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	if err != nil {
		return fmt.Errorf("release jobs: %w", err)
	}
	return nil
}

// EndJob implements store.Jobs.
func (s *Store) EndJob(ctx context.Context, id ringback.ID, lease *ringback.Lease, end *store.End) error {
	var code, message any
	if end.Failure != nil {
		code, message = end.Failure.Code, end.Failure.Message
	}
	if !end.State.Final() {
		return &ringback.Error{Code: ringback.InvalidArgument, Message: fmt.Sprintf("%q does not end a job", end.State)}
	}
	token := any(nil)
	if lease != nil {
		token = lease.Token
	}
	err := s.writer.submit(ctx, func(t *tx) error {
		n, err := t.change(`UPDATE jobs SET state = ?2, output = ?3, failure_code = ?4, failure_message = ?5,
				ended = ?6, updated = ?6, runs = q.runs, started = q.started
			FROM job_queue q WHERE jobs.id = ?1 AND q.id = ?1 AND (?7 IS NULL OR (q.lease = ?7 AND q.node IS NOT NULL))`,
			string(id), string(end.State), end.Output, code, message, micros(end.At), token)
		if err != nil {
			return err
		}
		if n == 0 {
			return whyNotEnded(t, id)
		}
		if err := t.exec(`DELETE FROM job_queue WHERE id = ?`, string(id)); err != nil {
			return err
		}
		for i := range end.Files {
			if err := t.insertFile(&end.Files[i]); err != nil {
				return err
			}
			if err := t.exec(`DELETE FROM blob_garbage WHERE blob = ?`, end.Files[i].Blob); err != nil {
				return err
			}
		}
		if err := t.endBatch(id, end); err != nil {
			return err
		}
		for _, blob := range end.Garbage {
			if err := t.exec(`INSERT OR IGNORE INTO blob_garbage (blob) VALUES (?)`, blob); err != nil {
				return err
			}
		}
		return insertHappenings(t, end.Happenings...)
	}, func() { s.noteDue(end.Happenings...) })
	if err != nil {
		return fmt.Errorf("end job %s: %w", id, err)
	}
	return nil
}

// whyNotEnded tells apart the reasons for which no row was changed.
func whyNotEnded(t *tx, id ringback.ID) error {
	var state string
	if err := translate(t.row(`SELECT state FROM jobs WHERE id = ?`, string(id)).Scan(&state)); err != nil {
		return err
	}
	if ringback.State(state).Final() {
		return &ringback.Error{Code: ringback.FailedPrecondition, Message: fmt.Sprintf("the job has ended already: %s", state)}
	}
	return ringback.Stale
}

// DeleteJob implements store.Jobs.
func (s *Store) DeleteJob(ctx context.Context, project, id ringback.ID) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		var one int
		if err := t.row(`SELECT 1 FROM jobs WHERE id = ? AND project = ?`, string(id), string(project)).Scan(&one); err != nil {
			return translate(err)
		}
		return t.deleteJob(id)
	}, nil)
	if err != nil {
		return fmt.Errorf("delete job %s: %w", id, err)
	}
	return nil
}

// deleteJob removes a job and everything that is its alone.
func (t *tx) deleteJob(id ringback.ID) error {
	for _, q := range []string{`DELETE FROM jobs WHERE id = ?`, `DELETE FROM idempotency WHERE job = ?`, `DELETE FROM stream_events WHERE job = ?`} {
		if err := t.exec(q, string(id)); err != nil {
			return err
		}
	}
	if err := t.deleteBatch(id); err != nil {
		return err
	}
	return t.exec(`DELETE FROM job_queue WHERE id = ?`, string(id))
}

// StalledJobs implements store.Jobs.
func (s *Store) StalledJobs(ctx context.Context, before time.Time, limit int) ([]*ringback.Job, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+jobSummary+` FROM job_queue q JOIN jobs j ON j.id = q.id
		WHERE q.stalled IS NULL AND j.created < ?1 AND NOT (q.kind = 'batch' AND (EXISTS (SELECT 1 FROM batch_shards x WHERE x.batch = q.id AND x.progressed >= ?1)
			OR EXISTS (SELECT 1 FROM batches b WHERE b.id = q.id AND b.progressed >= ?1)))
		ORDER BY j.created LIMIT ?2`, micros(before), limit)
	if err != nil {
		return nil, fmt.Errorf("look for stalled jobs: %w", translate(err))
	}
	return collect(rows, "stalled jobs", scanJob)
}

// MarkStalled implements store.Jobs.
func (s *Store) MarkStalled(ctx context.Context, id ringback.ID, h *store.Happening) error {
	err := s.writer.submit(ctx, func(t *tx) error {
		n, err := t.change(`UPDATE job_queue SET stalled = ? WHERE id = ? AND stalled IS NULL`, micros(h.Event.Created), string(id))
		if err != nil {
			return err
		}
		if n == 0 {
			if err := translate(t.row(`SELECT 1 FROM jobs WHERE id = ?`, string(id)).Scan(&n)); err != nil {
				return err
			}
			return &ringback.Error{Code: ringback.FailedPrecondition, Message: "the job has ended or is marked already"}
		}
		return insertHappenings(t, h)
	}, func() { s.noteDue(h) })
	if err != nil {
		return fmt.Errorf("mark job %s as stalled: %w", id, err)
	}
	return nil
}
