package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"ringback.dev/inbox"
)

// columns are those of every entry, in the order of collect.
const columns = `ringback_inbox.seq, source, id, type, scheme, sent, received, state, attempts, lost, held, token, due, ended, error`

// collect reads rows, and their sequence numbers.
func collect(rows pgx.Rows, body bool) (entries []inbox.Entry, seqs []int64, err error) {
	defer rows.Close()
	for rows.Next() {
		var e inbox.Entry
		var seq int64
		var sent, received int64
		var state int
		var due, ended *int64
		var text *string
		to := []any{&seq, &e.Source, &e.ID, &e.Type, &e.Scheme, &sent, &received, &state, &e.Attempts, &e.Lost, &e.Working, &e.Token, &due, &ended, &text}
		if body {
			to = append(to, &e.Body)
		}
		if err := rows.Scan(to...); err != nil {
			return nil, nil, err
		}
		if state < 0 || state >= len(states) {
			return nil, nil, fmt.Errorf("entry %d has state %d, which this program does not know", seq, state)
		}
		e.State = states[state]
		e.Sent, e.Received = time.UnixMicro(sent).UTC(), time.UnixMicro(received).UTC()
		if due != nil {
			e.Due = time.UnixMicro(*due).UTC()
		}
		if ended != nil {
			e.Ended = time.UnixMicro(*ended).UTC()
		}
		if text != nil {
			e.LastError = *text
		}
		entries, seqs = append(entries, e), append(seqs, seq)
	}
	return entries, seqs, rows.Err()
}

// condition is the WHERE of a statement and its arguments.
type condition struct {
	parts []string
	args  []any
}

// add adds a part, in which each %d stands for one more argument.
func (c *condition) add(part string, args ...any) {
	numbers := make([]any, len(args))
	for i := range args {
		numbers[i] = len(c.args) + i + 1
	}
	c.parts, c.args = append(c.parts, fmt.Sprintf(part, numbers...)), append(c.args, args...)
}

func (c *condition) String() string { return strings.Join(c.parts, " AND ") }

// where is the condition of a filter.
func where(f inbox.Filter) (*condition, error) {
	c := &condition{parts: []string{"state < 3"}}
	switch f.State {
	case "":
	case inbox.Pending:
		c.add("due IS NOT NULL")
	case inbox.Done:
		c.add("state = 1")
	case inbox.Dead:
		c.add("state = 2")
	default:
		return nil, fmt.Errorf("inbox: there is no state %q; use pending, done or dead", f.State)
	}
	if f.Source != "" {
		c.add("source = $%d", f.Source)
	}
	if f.Type != "" {
		c.add("type = $%d", f.Type)
	}
	if !f.From.IsZero() {
		c.add("received >= $%d", f.From.UnixMicro())
	}
	if !f.Before.IsZero() {
		c.add("received < $%d", f.Before.UnixMicro())
	}
	if !f.EndedBefore.IsZero() {
		c.add("ended < $%d", f.EndedBefore.UnixMicro())
	}
	if len(f.IDs) > 0 {
		c.add("id = ANY($%d::text[])", f.IDs)
	}
	return c, nil
}

// Entries implements inbox.Desk. A cursor is the sequence number of the last
// entry of a page.
func (s *Store) Entries(ctx context.Context, f inbox.Filter, after string, max int) (page []inbox.Entry, next string, err error) {
	c, err := where(f)
	if err != nil {
		return nil, "", err
	}
	if max < 1 {
		return nil, "", fmt.Errorf("inbox: a page of %d entries; it must be 1 or more", max)
	}
	if after != "" {
		seq, err := strconv.ParseInt(after, 10, 64)
		if err != nil {
			return nil, "", errors.New("inbox: the cursor is not one of a list of entries")
		}
		c.add("seq < $%d", seq)
	}
	rows, err := s.pool.Query(ctx, fmt.Sprintf(`SELECT %s FROM ringback_inbox WHERE %s ORDER BY seq DESC LIMIT $%d`, columns, c, len(c.args)+1), append(c.args, max+1)...)
	if err != nil {
		return nil, "", fmt.Errorf("list entries: %w", err)
	}
	page, seqs, err := collect(rows, false)
	if err != nil {
		return nil, "", fmt.Errorf("list entries: %w", err)
	}
	if len(page) > max {
		page, next = page[:max], strconv.FormatInt(seqs[max-1], 10)
	}
	return page, next, nil
}

// Entry implements inbox.Desk.
func (s *Store) Entry(ctx context.Context, source, id string) (inbox.Entry, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+columns+`, body FROM ringback_inbox WHERE source = $1 AND id = $2 AND state < 3`, source, id)
	if err != nil {
		return inbox.Entry{}, fmt.Errorf("read entry %s: %w", id, err)
	}
	found, seqs, err := collect(rows, true)
	if err != nil {
		return inbox.Entry{}, fmt.Errorf("read entry %s: %w", id, err)
	}
	if len(found) == 0 {
		return inbox.Entry{}, fmt.Errorf("%s: %w", id, inbox.ErrNotFound)
	}
	e := found[0]
	rows, err = s.pool.Query(ctx, `SELECT number, started, took, error FROM ringback_inbox_failures WHERE entry = $1 ORDER BY token`, seqs[0])
	if err != nil {
		return e, fmt.Errorf("read entry %s: %w", id, err)
	}
	defer rows.Close()
	for rows.Next() {
		var f inbox.Failure
		var started, took int64
		if err := rows.Scan(&f.Number, &started, &took, &f.Error); err != nil {
			return e, fmt.Errorf("read entry %s: %w", id, err)
		}
		f.Started, f.Took = time.UnixMicro(started).UTC(), time.Duration(took)*time.Microsecond
		e.Failures = append(e.Failures, f)
	}
	return e, rows.Err()
}

// countSQL goes from source to source, and reads nothing but indexes, and in them
// nothing of entries of which only the ids are remembered.
const countSQL = `WITH RECURSIVE sources (source) AS (SELECT min(source) FROM ringback_inbox
		UNION ALL SELECT (SELECT min(e.source) FROM ringback_inbox e WHERE e.source > sources.source) FROM sources WHERE sources.source IS NOT NULL)
	SELECT source, (SELECT count(*) FROM ringback_inbox e WHERE e.source = sources.source AND due IS NOT NULL),
		(SELECT count(*) FROM ringback_inbox e WHERE e.source = sources.source AND state = 1 AND ended IS NOT NULL),
		(SELECT count(*) FROM ringback_inbox e WHERE e.source = sources.source AND state = 2 AND ended IS NOT NULL)
	FROM sources WHERE source IS NOT NULL`

// Counts implements inbox.Desk.
func (s *Store) Counts(ctx context.Context) (map[string]map[inbox.State]int64, error) {
	rows, err := s.pool.Query(ctx, countSQL)
	if err != nil {
		return nil, fmt.Errorf("count entries: %w", err)
	}
	defer rows.Close()
	counts := make(map[string]map[inbox.State]int64)
	for rows.Next() {
		var source string
		var n [len(states)]int64
		if err := rows.Scan(&source, &n[pending], &n[done], &n[dead]); err != nil {
			return nil, fmt.Errorf("count entries: %w", err)
		}
		counts[source] = make(map[inbox.State]int64)
		for i, n := range n {
			if n > 0 {
				counts[source][states[i]] = n
			}
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("count entries: %w", err)
	}
	return counts, nil
}

// Retry implements inbox.Desk.
func (s *Store) Retry(ctx context.Context, f inbox.Filter, now time.Time) (int64, error) {
	if f.State == inbox.Done {
		return 0, errors.New("inbox: what is done is not retried; choose dead or pending entries")
	}
	c, err := where(f)
	if err != nil {
		return 0, err
	}
	c.add("(state = 2 OR NOT held AND due > $%d)", now.UnixMicro())
	total, err := s.eachStep(ctx, c, fmt.Sprintf(`changed AS (UPDATE ringback_inbox e SET attempts = CASE state WHEN 2 THEN 0 ELSE attempts END,
		lost = CASE state WHEN 2 THEN 0 ELSE lost END, state = 0, due = $%d, ended = NULL FROM chosen WHERE e.seq = chosen.seq)`, len(c.args)))
	if err != nil {
		return total, fmt.Errorf("retry: %w", err)
	}
	return total, nil
}

// Purge implements inbox.Desk.
func (s *Store) Purge(ctx context.Context, f inbox.Filter, now time.Time) (int64, error) {
	if f.State == "" && len(f.IDs) == 0 {
		return 0, errors.New("inbox: a purge must name a state or ids")
	}
	c, err := where(f)
	if err != nil {
		return 0, err
	}
	c.args = append(c.args, now.UnixMicro())
	total, err := s.eachStep(ctx, c, fmt.Sprintf(`%s, changed AS (%s$%d FROM chosen WHERE e.seq = chosen.seq)`, withoutFailures, emptied, len(c.args)))
	if err != nil {
		return total, fmt.Errorf("purge: %w", err)
	}
	return total, nil
}

// eachStep changes the entries that match, some at a time in the order of seq, up
// to the newest that is there when it begins: not those that come, or come to match
// again, meanwhile. change is what is done to the chosen.
func (s *Store) eachStep(ctx context.Context, c *condition, change string) (total int64, err error) {
	var newest int64
	if err := s.pool.QueryRow(ctx, `SELECT coalesce(max(seq), 0) FROM ringback_inbox`).Scan(&newest); err != nil {
		return 0, err
	}
	n := len(c.args)
	query := fmt.Sprintf(`WITH chosen AS MATERIALIZED (SELECT seq FROM ringback_inbox WHERE %s AND seq > $%d AND seq <= $%d ORDER BY seq LIMIT %d FOR UPDATE), %s
		SELECT count(*), coalesce(max(seq), $%d) FROM chosen`, c, n+1, n+2, chunk, change, n+2)
	for after := int64(0); after < newest; {
		var changed int64
		err := s.change(ctx, func(tx statements) error {
			return tx.QueryRow(ctx, query, append(c.args[:n:n], after, newest)...).Scan(&changed, &after)
		})
		if err != nil {
			return total, err
		}
		total += changed
	}
	return total, nil
}
