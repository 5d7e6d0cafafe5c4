// Package postgres keeps an inbox in PostgreSQL, for any number of processes on
// any number of machines, and has inbox.Once for pgx.
//
// What the callers of one process ask for at the same time is stored by one
// statement and one commit. Claims skip what others have locked. A commit is as
// durable as the database makes it: leave synchronous_commit on.
//
// The machines' clocks decide about leases: they should agree to within a second
// or two. The tables are those that the pool's search_path finds. Behind a pooler
// that changes connections between transactions, such as PgBouncer, the pool needs
// default_query_exec_mode=exec in its connection string.
package postgres

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback.dev/inbox"
	"ringback.dev/internal/group"
)

//go:embed schema.sql
var schema string

// version is that of the schema, in the table ringback_inbox_version.
const version = 1

// commitTimeout bounds the commit of a group.
const commitTimeout = 10 * time.Second

// Store implements inbox.Store and inbox.Desk.
type Store struct {
	pool   *pgxpool.Pool
	strict bool // Transactions have a stricter level than READ COMMITTED unless they say otherwise.
	writer *group.Writer[*step]
}

var (
	_ inbox.Store = (*Store)(nil)
	_ inbox.Desk  = (*Store)(nil)

	_ inbox.BatchSettler = (*Store)(nil)
)

// New returns the inbox in the pool's database, and makes its tables,
// ringback_inbox and two more, if they are not there. The pool stays the caller's.
func New(ctx context.Context, pool *pgxpool.Pool) (*Store, error) {
	err := create(ctx, pool, func(tx pgx.Tx) error {
		var there bool
		if err := tx.QueryRow(ctx, `SELECT to_regclass('ringback_inbox_version') IS NOT NULL`).Scan(&there); err != nil {
			return err
		}
		if !there {
			_, err := tx.Exec(ctx, schema)
			return err
		}
		var have int
		if err := tx.QueryRow(ctx, `SELECT version FROM ringback_inbox_version`).Scan(&have); err != nil {
			return err
		}
		if have > version {
			return fmt.Errorf("it has schema version %d, this program knows %d; use the newer program that wrote it", have, version)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open the inbox: %w", err)
	}
	s := &Store{pool: pool}
	var level string
	if err := pool.QueryRow(ctx, `SELECT current_setting('default_transaction_isolation')`).Scan(&level); err != nil {
		return nil, fmt.Errorf("open the inbox: %w", err)
	}
	s.strict = level == "repeatable read" || level == "serializable"
	s.writer = group.New(s.commit)
	return s, nil
}

// statements is a pool or a transaction.
type statements interface {
	Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// change does f, which is one transaction: under READ COMMITTED, so that what others
// have changed meanwhile is no error.
func (s *Store) change(ctx context.Context, f func(statements) error) error {
	if !s.strict {
		return f(s.pool) // One round trip, in which f's statement or batch is a transaction.
	}
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error { return f(tx) })
}

// Close waits for what was begun.
func (s *Store) Close() error {
	s.writer.Close()
	return nil
}

// step is what one caller wants done: one of the two.
type step struct {
	accept *inbox.Entry
	first  bool // What came of accept.

	settle []inbox.Settlement
	stale  []int // What came of settle.
}

// The states as they are stored.
const (
	pending = iota
	done
	dead
)

var states = [...]inbox.State{pending: inbox.Pending, done: inbox.Done, dead: inbox.Dead}

// Accept implements inbox.Store.
func (s *Store) Accept(ctx context.Context, e *inbox.Entry) (bool, error) {
	x := &step{accept: e}
	if err := s.writer.Do(ctx, x); err != nil {
		return false, fmt.Errorf("accept %s: %w", e.ID, err)
	}
	return x.first, nil
}

// Settle implements inbox.Store.
func (s *Store) Settle(ctx context.Context, l inbox.Lease, o inbox.Outcome) error {
	stale, err := s.SettleAll(ctx, []inbox.Settlement{{Lease: l, Outcome: o}})
	if err == nil && len(stale) > 0 {
		err = inbox.ErrStale
	}
	if err != nil {
		return fmt.Errorf("settle %s: %w", l.ID, err)
	}
	return nil
}

// SettleAll implements inbox.BatchSettler.
func (s *Store) SettleAll(ctx context.Context, all []inbox.Settlement) (stale []int, err error) {
	for _, x := range all {
		switch x.State {
		case inbox.Pending, inbox.Done, inbox.Dead:
		default:
			return nil, fmt.Errorf("inbox: the outcome of %s is %q; it must be pending, done or dead", x.ID, x.State)
		}
	}
	x := &step{settle: all}
	if err := s.writer.Do(ctx, x); err != nil {
		return nil, err
	}
	return x.stale, nil
}

// commit does a group in one transaction. When the database refuses one of the
// steps nobody else's work is lost for it: each is done again alone.
func (s *Store) commit(steps []*step, errs []error) {
	err := s.try(steps)
	if err == nil {
		return
	}
	if refused := (*pgconn.PgError)(nil); len(steps) > 1 && errors.As(err, &refused) && !machine(refused.Code) {
		for i := range steps {
			s.commit(steps[i:i+1], errs[i:i+1])
		}
		return
	}
	for i := range errs {
		errs[i] = err
	}
}

// machine reports whether an error is about the server and not about a step: its
// class is connection, resources, operator intervention or system.
func machine(code string) bool {
	switch class := code[:min(2, len(code))]; class {
	case "08", "53", "57", "58":
		return true
	}
	return false
}

// try does steps once. The statements of a batch are one transaction.
func (s *Store) try(steps []*step) error {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	batch := &pgx.Batch{}
	s.accept(batch, steps)
	s.failures(batch, steps)
	s.settle(batch, steps)
	return s.change(ctx, func(tx statements) error { return tx.SendBatch(ctx, batch).Close() })
}

// leases collects those that a statement returns.
func leases(rows pgx.Rows) (map[inbox.Lease]bool, error) {
	found := make(map[inbox.Lease]bool)
	for rows.Next() {
		var l inbox.Lease
		if err := rows.Scan(&l.Source, &l.ID, &l.Token); err != nil {
			return nil, err
		}
		found[l] = true
	}
	return found, rows.Err()
}

// accept adds the entries of all steps. They are added in the order of their
// keys, as by everybody, so that two processes don't wait for each other in a ring.
func (s *Store) accept(batch *pgx.Batch, steps []*step) {
	type key struct{ source, id string }
	entries := make(map[key]*step) // The first of each key; others are doubles.
	var source, id, typ, scheme []string
	var sent, received, token, due []int64
	var body [][]byte
	var held []bool
	for _, x := range steps {
		e := x.accept
		if e == nil {
			continue
		}
		x.first = false
		k := key{e.Source, e.ID}
		if entries[k] != nil {
			continue
		}
		entries[k] = x
		source, id, typ, scheme = append(source, e.Source), append(id, e.ID), append(typ, e.Type), append(scheme, e.Scheme)
		sent, received, token, due = append(sent, e.Sent.UnixMicro()), append(received, e.Received.UnixMicro()), append(token, e.Token), append(due, e.Due.UnixMicro())
		content := e.Body
		if content == nil {
			content = []byte{} // nil would be stored as NULL.
		}
		body, held = append(body, content), append(held, e.Working)
	}
	if len(entries) == 0 {
		return
	}
	batch.Queue(`INSERT INTO ringback_inbox (source, id, type, scheme, sent, received, body, state, held, token, due)
		SELECT v.source, v.id, v.type, v.scheme, v.sent, v.received, v.body, 0, v.held, v.token, v.due
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bytea[], $8::boolean[], $9::bigint[], $10::bigint[])
			AS v (source, id, type, scheme, sent, received, body, held, token, due)
		ORDER BY v.source COLLATE "C", v.id COLLATE "C" ON CONFLICT DO NOTHING RETURNING source, id, token`,
		source, id, typ, scheme, sent, received, body, held, token, due).Query(func(rows pgx.Rows) error {
		added, err := leases(rows)
		for l := range added {
			entries[key{l.Source, l.ID}].first = true
		}
		return err
	})
}

// settle stores the outcomes of all steps. Whoever waits for the locks of several
// rows takes them in the order of seq: here, in Retry and in Purge. The others pass
// over what is locked.
func (s *Store) settle(batch *pgx.Batch, steps []*step) {
	var source, id []string
	var token []int64
	var state, counted []int32
	var due, ended []*int64
	var text []*string
	for _, step := range steps {
		for _, x := range step.settle {
			source, id, token = append(source, x.Source), append(id, x.ID), append(token, x.Token)
			more := int32(1)
			if x.Released {
				more = 0
			}
			counted = append(counted, more)
			at, dueAt := x.At.UnixMicro(), x.Due.UnixMicro()
			switch x.State {
			case inbox.Pending:
				state, due, ended = append(state, pending), append(due, &dueAt), append(ended, nil)
			case inbox.Done:
				state, due, ended = append(state, done), append(due, nil), append(ended, &at)
			case inbox.Dead:
				state, due, ended = append(state, dead), append(due, nil), append(ended, &at)
			}
			var why *string
			if x.Error != "" {
				why = &x.Error
			}
			text = append(text, why)
		}
	}
	if len(source) == 0 {
		return
	}
	batch.Queue(`WITH v AS MATERIALIZED (SELECT e.seq, v.* FROM ringback_inbox e
			JOIN unnest($1::text[], $2::text[], $3::bigint[], $4::int[], $5::int[], $6::bigint[], $7::bigint[], $8::text[])
				AS v (source, id, token, state, counted, due, ended, error)
			ON e.source = v.source AND e.id = v.id AND e.token = v.token AND e.held AND e.due IS NOT NULL ORDER BY e.seq FOR UPDATE OF e)
		UPDATE ringback_inbox e SET state = v.state, attempts = e.attempts + v.counted, due = v.due, ended = v.ended,
			error = coalesce(v.error, e.error), held = false
		FROM v WHERE e.seq = v.seq RETURNING e.source, e.id, e.token`,
		source, id, token, state, counted, due, ended, text).Query(func(rows pgx.Rows) error {
		changed, err := leases(rows)
		for _, step := range steps {
			step.stale = nil
			for i, x := range step.settle {
				if !changed[x.Lease] {
					step.stale = append(step.stale, i)
				}
			}
		}
		return err
	})
}

// failures keeps the failed attempts of all steps. It comes before settle, which
// lets the leases go.
func (s *Store) failures(batch *pgx.Batch, steps []*step) {
	var source, id, text []string
	var token, started, took []int64
	for _, step := range steps {
		for _, x := range step.settle {
			if x.Error != "" && !x.Released {
				source, id, token, text = append(source, x.Source), append(id, x.ID), append(token, x.Token), append(text, x.Error)
				started, took = append(started, x.Started.UnixMicro()), append(took, x.At.Sub(x.Started).Microseconds())
			}
		}
	}
	if len(source) == 0 {
		return
	}
	batch.Queue(`INSERT INTO ringback_inbox_failures (entry, token, number, started, took, error)
		SELECT e.seq, e.token, e.attempts + 1, v.started, v.took, v.error
		FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[]) AS v (source, id, token, started, took, error)
		JOIN ringback_inbox e ON e.source = v.source AND e.id = v.id AND e.token = v.token
		WHERE e.held AND e.due IS NOT NULL ON CONFLICT DO NOTHING`, source, id, token, started, took, text)
}

// Claim implements inbox.Store.
func (s *Store) Claim(ctx context.Context, source string, now, until time.Time, max int) ([]inbox.Entry, error) {
	if max < 1 {
		return nil, nil
	}
	var claimed []inbox.Entry
	err := s.change(ctx, func(tx statements) error {
		rows, err := tx.Query(ctx, `WITH found AS MATERIALIZED
				(SELECT seq FROM ringback_inbox WHERE source = $1 AND due <= $2 ORDER BY due LIMIT $3 FOR UPDATE SKIP LOCKED)
			UPDATE ringback_inbox SET lost = lost + held::int, held = true, token = token + 1, due = $4
			FROM found WHERE ringback_inbox.seq = found.seq RETURNING `+columns+`, body`,
			source, now.UnixMicro(), max, until.UnixMicro())
		if err == nil {
			claimed, _, err = collect(rows, true)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	return claimed, nil
}

// Extend implements inbox.Store.
func (s *Store) Extend(ctx context.Context, leases []inbox.Lease, until time.Time) error {
	var source, id []string
	var token []int64
	for _, l := range leases {
		source, id, token = append(source, l.Source), append(id, l.ID), append(token, l.Token)
	}
	// What is locked is being settled, or was claimed by somebody else.
	err := s.change(ctx, func(tx statements) error {
		_, err := tx.Exec(ctx, `WITH v AS MATERIALIZED (SELECT e.seq FROM ringback_inbox e
				JOIN unnest($1::text[], $2::text[], $3::bigint[]) AS v (source, id, token)
				ON e.source = v.source AND e.id = v.id AND e.token = v.token AND e.held AND e.due IS NOT NULL FOR UPDATE OF e SKIP LOCKED)
			UPDATE ringback_inbox e SET due = $4 FROM v WHERE e.seq = v.seq`, source, id, token, until.UnixMicro())
		return err
	})
	if err != nil {
		return fmt.Errorf("extend leases: %w", err)
	}
	return nil
}

// chunk is how many entries one statement of a sweep, a purge or a retry changes.
const chunk = 1000

const (
	// emptied is the statement after which only the ids of chosen entries are
	// remembered, from when they ended or, given a time, from then on.
	emptied = `UPDATE ringback_inbox e SET state = 3, held = false, body = NULL, error = NULL, due = NULL, ended = `

	withoutFailures = `failures AS (DELETE FROM ringback_inbox_failures f USING chosen WHERE f.entry = chosen.seq)`
)

// Sweep implements inbox.Store.
func (s *Store) Sweep(ctx context.Context, source string, done, ids time.Time) error {
	// A failure that was stored while its entry was purged is not seen by the purge; it
	// goes with the id.
	for _, x := range []struct {
		state  int
		before time.Time
		change string
	}{
		{1, done, emptied + `e.ended FROM chosen WHERE e.seq = chosen.seq`},
		{3, ids, `DELETE FROM ringback_inbox e USING chosen WHERE e.seq = chosen.seq`},
	} {
		query := fmt.Sprintf(`WITH chosen AS MATERIALIZED (SELECT seq FROM ringback_inbox WHERE source = $1 AND state = %d AND ended < $2
			ORDER BY ended LIMIT %d FOR UPDATE SKIP LOCKED), %s %s`, x.state, chunk, withoutFailures, x.change)
		for more := true; more; {
			err := s.change(ctx, func(tx statements) error {
				tag, err := tx.Exec(ctx, query, source, x.before.UnixMicro())
				more = tag.RowsAffected() > 0
				return err
			})
			if err != nil {
				return fmt.Errorf("sweep: %w", err)
			}
		}
	}
	return nil
}
