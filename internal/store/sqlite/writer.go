package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"ringback.dev"
	"ringback.dev/internal/group"
	"ringback.dev/internal/sqlitefile"
)

// writer is the one goroutine that changes the database. Callers queue steps;
// it runs all that are queued in one transaction, commits it with one sync of
// the disk, and only then answers them.
type writer struct {
	// These are the goroutine's alone.
	conn    *sqlitefile.Conn
	queries map[string]*sql.Stmt // By text; prepared on conn.
	seq     int64                // Of the latest event.

	committed func() // Called after each group.

	group *group.Writer[*step]
}

// step is what one caller wants done.
type step struct {
	// do runs the statements. It may be run again if the transaction had to be
	// rolled back because of another step, so it sets what it returns anew. An
	// error that carries a ringback.Code must be returned before anything was
	// written; any other error rolls back.
	do func(*tx) error
	// after runs once the step is durable, before its caller goes on and before
	// any later step: the place to change what is held in memory.
	after func()
	err   error
}

func newWriter(ctx context.Context, db *sql.DB, committed func()) (*writer, error) {
	conn, err := sqlitefile.NewConn(ctx, db)
	if err != nil {
		return nil, err
	}
	w := &writer{conn: conn, committed: committed, queries: make(map[string]*sql.Stmt)}
	err = conn.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'`).Scan(&w.seq)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	w.group = group.New(w.commitAll)
	return w, nil
}

// submit queues a step and waits until it is durable or refused. ctx counts only
// until the step is queued, so that the outcome is always known.
func (w *writer) submit(ctx context.Context, do func(*tx) error, after func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := w.group.Do(context.WithoutCancel(ctx), &step{do: do, after: after})
	if errors.Is(err, group.ErrClosed) {
		return &ringback.Error{Code: ringback.Unavailable, Message: "the store is closed", Cause: err}
	}
	return err
}

func (w *writer) close() error {
	w.group.Close()
	var errs []error
	for _, s := range w.queries {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, w.conn.Close())...)
}

// commitAll commits a group and says what came of each step.
func (w *writer) commitAll(steps []*step, errs []error) {
	w.commit(steps)
	for i, s := range steps {
		errs[i] = s.err
	}
	w.committed()
}

// commit runs a group in one transaction. When a step fails in an unexpected way,
// nobody's work is lost for it: each is run again in a transaction of its own.
func (w *writer) commit(steps []*step) {
	if err := w.try(steps); err != nil {
		err = translate(err)
		code := ringback.CodeOf(err)
		if machine := code == ringback.StorageFull || code == ringback.Unavailable; len(steps) > 1 && !machine {
			for i := range steps {
				w.commit(steps[i : i+1])
			}
			return
		}
		for _, s := range steps {
			s.err = err
		}
	}
	for _, s := range steps {
		if s.err == nil && s.after != nil {
			s.after()
		}
	}
}

// try runs a group once. On an error nothing is changed.
func (w *writer) try(steps []*step) error {
	t := &tx{w: w}
	if err := t.exec("BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	for _, s := range steps {
		s.err = s.do(t)
		if s.err != nil && ringback.CodeOf(s.err) == "" {
			t.rollback()
			return s.err
		}
	}
	err := t.flush()
	if err == nil {
		err = t.exec("COMMIT")
	}
	if err != nil {
		t.rollback()
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// tx runs statements inside the writer's transaction. Changes that only need to
// be there at the commit are gathered and made many at a time, which costs a
// third of making them one by one; a step that reads such rows calls flush first.
type tx struct {
	w          *writer
	events     bulk
	deliveries bulk
	outcomes   bulk
	attempts   bulk
}

// bulk is rows for one statement.
type bulk struct {
	rows int
	args []any
}

func (b *bulk) add(args ...any) {
	b.rows++
	b.args = append(b.args, args...)
}

var (
	insertEvents     = sqlitefile.Rows{Head: `INSERT INTO events (seq, id, project, type, job, body, created, skipped) VALUES `, Row: sqlitefile.Row(8)}
	insertDeliveries = sqlitefile.Rows{Head: `INSERT INTO deliveries
		(id, event, project, target, endpoint, uri, scheme, state, attempts, due, lease, node, created, updated) VALUES `, Row: sqlitefile.Row(14)}
	insertAttempts = sqlitefile.Rows{Head: `INSERT INTO attempts
		(delivery, number, started, status, answer, dns, connect, tls, first_byte, total, reason, error) VALUES `, Row: sqlitefile.Row(12)}
	// A row of outcomes: id, lease, state, attempts, due, reason, updated.
	updateOutcomes = sqlitefile.Rows{
		Head: `UPDATE deliveries SET state = v.column3, attempts = v.column4, due = v.column5, node = NULL, reason = v.column6, updated = v.column7
			FROM (VALUES `,
		Row:  sqlitefile.Row(7),
		Tail: `) AS v WHERE deliveries.id = v.column1 AND deliveries.lease = v.column2 AND deliveries.node IS NOT NULL AND deliveries.state = 'pending'`,
	}
)

// flush makes the gathered changes.
func (t *tx) flush() error {
	for _, x := range [...]struct {
		of sqlitefile.Rows
		b  *bulk
	}{{insertEvents, &t.events}, {insertDeliveries, &t.deliveries}, {updateOutcomes, &t.outcomes}, {insertAttempts, &t.attempts}} {
		if err := t.all(x.of, x.b); err != nil {
			return err
		}
	}
	return nil
}

// errMissed fails a group in which a row was not found. Each step is then run
// alone, and the one whose row it is learns that its lease is stale.
var errMissed = errors.New("a row of the group is gone")

// all runs a statement over all rows of b. Each must change a row.
func (t *tx) all(of sqlitefile.Rows, b *bulk) error {
	if b.rows == 0 {
		return nil
	}
	alone := b.rows == 1
	columns := len(b.args) / b.rows
	for _, n := range sqlitefile.Chunks {
		for b.rows >= n {
			changed, err := t.w.conn.ChangeRows(of, n, b.args[:n*columns]...)
			if err != nil {
				return err
			}
			if changed < int64(n) {
				if alone {
					return ringback.Stale
				}
				return errMissed
			}
			b.rows, b.args = b.rows-n, b.args[n*columns:]
		}
	}
	return nil
}

// exec makes a change.
func (t *tx) exec(query string, args ...any) error {
	_, err := t.change(query, args...)
	return err
}

// change is exec that tells how many rows were changed.
func (t *tx) change(query string, args ...any) (int64, error) { return t.w.conn.Change(query, args...) }

// stmt prepares a query once.
func (t *tx) stmt(query string) (*sql.Stmt, error) {
	if s := t.w.queries[query]; s != nil {
		return s, nil
	}
	s, err := t.w.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	t.w.queries[query] = s
	return s, nil
}

// row runs a query for one row.
func (t *tx) row(query string, args ...any) scanner {
	s, err := t.stmt(query)
	if err != nil {
		return failedRow{err}
	}
	return s.QueryRow(args...)
}

func (t *tx) query(query string, args ...any) (*sql.Rows, error) {
	s, err := t.stmt(query)
	if err != nil {
		return nil, err
	}
	return s.Query(args...)
}

// rollback ignores its error: SQLite rolls back by itself after some failures,
// and then there is no transaction to end.
func (t *tx) rollback() { _ = t.exec("ROLLBACK") }

// scanner is what sql.Row and sql.Rows have in common.
type scanner interface{ Scan(dest ...any) error }

type failedRow struct{ err error }

func (f failedRow) Scan(...any) error { return f.err }
