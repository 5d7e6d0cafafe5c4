package sqlite

import (
	"context"
	"fmt"
	"time"

	"ringback.dev/inbox"
	"ringback.dev/internal/sqlitefile"
)

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

const insertHead = `INSERT INTO inbox_entries
	(source, id, type, scheme, sent, received, body, state, attempts, lost, held, token, due) VALUES `

var (
	insert = sqlitefile.Rows{Head: insertHead, Row: "(?, ?, ?, ?, ?, ?, ?, 0, 0, 0, ?, ?, ?)"}
	// For one row, of which there may be a double.
	insertNew = sqlitefile.Rows{Head: insertHead, Row: insert.Row, Tail: " ON CONFLICT DO NOTHING"}
	// A row: source, id, token, state, attempts more, due, ended, error.
	update = sqlitefile.Rows{
		Head: `UPDATE inbox_entries SET state = v.column4, attempts = attempts + v.column5, due = v.column6, ended = v.column7,
			error = coalesce(v.column8, error), held = 0 FROM (VALUES `,
		Row:  sqlitefile.Row(8),
		Tail: `) AS v WHERE source = v.column1 AND id = v.column2 AND token = v.column3 AND held = 1 AND due IS NOT NULL`,
	}
)

func row(e *inbox.Entry) []any {
	body := e.Body
	if body == nil {
		body = []byte{} // nil would be stored as NULL.
	}
	return []any{e.Source, e.ID, e.Type, e.Scheme, e.Sent.UnixMicro(), e.Received.UnixMicro(), body, e.Working, e.Token, e.Due.UnixMicro()}
}

// accept adds the entries of all steps, many at a time as long as all of them are
// new, and else one by one.
func (s *Store) accept(steps []*step) error {
	var all []*step
	for _, x := range steps {
		if x.accept != nil {
			all = append(all, x)
		}
	}
	var args []any
	for _, n := range sqlitefile.Chunks {
		for len(all) >= n {
			some := all[:n]
			all = all[n:]
			if n > 1 {
				args = args[:0]
				for _, x := range some {
					args = append(args, row(x.accept)...)
				}
				_, err := s.conn.ChangeRows(insert, n, args...)
				if err == nil {
					for _, x := range some {
						x.first = true
					}
					continue
				}
				if !conflict(err) {
					return err
				}
			}
			for _, x := range some {
				changed, err := s.conn.ChangeRows(insertNew, 1, row(x.accept)...)
				if err != nil {
					return err
				}
				x.first = changed == 1
			}
		}
	}
	return nil
}

// settle stores the outcomes of all steps, many at a time or each by itself.
func (s *Store) settle(steps []*step, each bool) error {
	type settlement struct {
		*inbox.Settlement
		step  *step
		index int
	}
	var all []settlement
	for _, x := range steps {
		x.stale = nil
		for i := range x.settle {
			all = append(all, settlement{&x.settle[i], x, i})
		}
	}
	sizes := sqlitefile.Chunks[:]
	if each {
		sizes = []int{1}
	}
	var args []any
	for _, n := range sizes {
		for len(all) >= n {
			some := all[:n]
			all = all[n:]
			args = args[:0]
			for _, x := range some {
				if err := s.failure(x.Settlement); err != nil {
					return err
				}
				args = append(args, outcome(x.Settlement)...)
			}
			changed, err := s.conn.ChangeRows(update, n, args...)
			switch {
			case err != nil:
				return err
			case changed == int64(n):
			case n == 1:
				some[0].step.stale = append(some[0].step.stale, some[0].index)
			default:
				return errMissed
			}
		}
	}
	return nil
}

// outcome is the row of a settlement.
func outcome(x *inbox.Settlement) []any {
	var due, ended, text any
	state := pending
	switch x.State {
	case inbox.Pending:
		due = x.Due.UnixMicro()
	case inbox.Done:
		state, ended = done, x.At.UnixMicro()
	case inbox.Dead:
		state, ended = dead, x.At.UnixMicro()
	}
	if x.Error != "" {
		text = x.Error
	}
	return []any{x.Source, x.ID, x.Token, state, !x.Released, due, ended, text}
}

// failure keeps a failed attempt.
func (s *Store) failure(x *inbox.Settlement) error {
	if x.Error == "" || x.Released {
		return nil
	}
	_, err := s.conn.Change(`INSERT INTO inbox_failures (entry, token, number, started, took, error)
		SELECT seq, token, attempts + 1, ?, ?, ? FROM inbox_entries WHERE source = ? AND id = ? AND token = ? AND held = 1 AND due IS NOT NULL`,
		x.Started.UnixMicro(), x.At.Sub(x.Started).Microseconds(), x.Error, x.Source, x.ID, x.Token)
	return err
}

const (
	isDueSQL = `SELECT EXISTS (SELECT 1 FROM inbox_entries WHERE source = ? AND due <= ?)`
	claimSQL = `UPDATE inbox_entries SET lost = lost + held, held = 1, token = token + 1, due = ?
		WHERE seq IN (SELECT seq FROM inbox_entries WHERE source = ? AND due <= ? ORDER BY due LIMIT ?) RETURNING ` + columns + `, body`
)

// Claim implements inbox.Store.
func (s *Store) Claim(ctx context.Context, source string, now, until time.Time, max int) ([]inbox.Entry, error) {
	// Most often there is nothing, and the writer need not be troubled.
	var any bool
	err := s.isDue.QueryRowContext(ctx, source, now.UnixMicro()).Scan(&any)
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	if !any || max <= 0 {
		return nil, nil
	}
	var claimed []inbox.Entry
	err = s.writer.Do(ctx, &step{do: func(s *Store) error {
		claimed = nil
		rows, err := s.claim.QueryContext(context.Background(), until.UnixMicro(), source, now.UnixMicro(), max)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			e, _, err := scan(rows, true)
			if err != nil {
				return err
			}
			claimed = append(claimed, e)
		}
		return rows.Err()
	}})
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	return claimed, nil
}

// Extend implements inbox.Store.
func (s *Store) Extend(ctx context.Context, leases []inbox.Lease, until time.Time) error {
	err := s.writer.Do(ctx, &step{do: func(s *Store) error {
		for _, l := range leases {
			if _, err := s.conn.Change(`UPDATE inbox_entries SET due = ? WHERE source = ? AND id = ? AND token = ? AND held = 1 AND due IS NOT NULL`,
				until.UnixMicro(), l.Source, l.ID, l.Token); err != nil {
				return err
			}
		}
		return nil
	}})
	if err != nil {
		return fmt.Errorf("extend leases: %w", err)
	}
	return nil
}

// batch is how many rows are changed by one step of a sweep or a purge.
const batch = 500

// inSteps runs a change until it changes nothing more.
func (s *Store) inSteps(ctx context.Context, change func(*Store) (int64, error)) (total int64, err error) {
	for {
		var n int64
		if err := s.writer.Do(ctx, &step{do: func(s *Store) (err error) {
			n, err = change(s)
			return err
		}}); err != nil {
			return total, err
		}
		if n == 0 {
			return total, nil
		}
		total += n
	}
}

// emptied begins the statement after which only the id of an entry is remembered.
const emptied = `UPDATE inbox_entries SET state = 3, held = 0, body = NULL, error = NULL, due = NULL`

// Sweep implements inbox.Store.
func (s *Store) Sweep(ctx context.Context, source string, done, ids time.Time) error {
	_, err := s.inSteps(ctx, func(s *Store) (int64, error) {
		const chosen = `SELECT seq FROM inbox_entries WHERE source = ? AND state = 1 AND ended < ? ORDER BY ended LIMIT ?`
		args := []any{source, done.UnixMicro(), batch}
		if _, err := s.conn.Change(`DELETE FROM inbox_failures WHERE entry IN (`+chosen+`)`, args...); err != nil {
			return 0, err
		}
		return s.conn.Change(emptied+` WHERE seq IN (`+chosen+`)`, args...)
	})
	if err == nil {
		_, err = s.inSteps(ctx, func(s *Store) (int64, error) {
			return s.conn.Change(`DELETE FROM inbox_entries WHERE seq IN
				(SELECT seq FROM inbox_entries WHERE source = ? AND state = 3 AND ended < ? ORDER BY ended LIMIT ?)`, source, ids.UnixMicro(), batch)
		})
	}
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	return nil
}

// once is change for a statement that is not kept, since its text varies.
func (s *Store) once(query string, args ...any) (int64, error) {
	r, err := s.conn.ExecContext(context.Background(), query, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}
