package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"ringback.dev/inbox"
)

// columns are those of every entry, in the order of scan.
const columns = `seq, source, id, type, scheme, sent, received, state, attempts, lost, held, token, due, ended, error`

func scan(rows interface{ Scan(...any) error }, body bool) (e inbox.Entry, seq int64, err error) {
	var sent, received int64
	var state int
	var due, ended sql.NullInt64
	var text sql.NullString
	to := []any{&seq, &e.Source, &e.ID, &e.Type, &e.Scheme, &sent, &received, &state, &e.Attempts, &e.Lost, &e.Working, &e.Token, &due, &ended, &text}
	if body {
		to = append(to, &e.Body)
	}
	if err := rows.Scan(to...); err != nil {
		return e, 0, err
	}
	if state < 0 || state >= len(states) {
		return e, 0, fmt.Errorf("entry %d has state %d, which this program does not know", seq, state)
	}
	e.State, e.LastError = states[state], text.String
	e.Sent, e.Received = time.UnixMicro(sent).UTC(), time.UnixMicro(received).UTC()
	if due.Valid {
		e.Due = time.UnixMicro(due.Int64).UTC()
	}
	if ended.Valid {
		e.Ended = time.UnixMicro(ended.Int64).UTC()
	}
	return e, seq, nil
}

// where is the condition of a filter.
func where(f inbox.Filter) (text string, args []any, err error) {
	conditions := []string{"state < 3"}
	add := func(condition string, values ...any) {
		conditions, args = append(conditions, condition), append(args, values...)
	}
	switch f.State {
	case "":
	case inbox.Pending:
		add("due IS NOT NULL")
	case inbox.Done:
		add("state = 1")
	case inbox.Dead:
		add("state = 2")
	default:
		return "", nil, fmt.Errorf("inbox: there is no state %q; use pending, done or dead", f.State)
	}
	if f.Source != "" {
		add("source = ?", f.Source)
	}
	if f.Type != "" {
		add("type = ?", f.Type)
	}
	if !f.From.IsZero() {
		add("received >= ?", f.From.UnixMicro())
	}
	if !f.Before.IsZero() {
		add("received < ?", f.Before.UnixMicro())
	}
	if !f.EndedBefore.IsZero() {
		add("ended < ?", f.EndedBefore.UnixMicro())
	}
	if len(f.IDs) > 0 {
		ids := make([]any, len(f.IDs))
		for i, id := range f.IDs {
			ids[i] = id
		}
		add("id IN (?"+strings.Repeat(", ?", len(ids)-1)+")", ids...)
	}
	return strings.Join(conditions, " AND "), args, nil
}

// Entries implements inbox.Desk. A cursor is the sequence number of the last
// entry of a page.
func (s *Store) Entries(ctx context.Context, f inbox.Filter, after string, max int) (page []inbox.Entry, next string, err error) {
	condition, args, err := where(f)
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
		condition, args = condition+" AND seq < ?", append(args, seq)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT `+columns+` FROM inbox_entries WHERE `+condition+` ORDER BY seq DESC LIMIT ?`, append(args, max+1)...)
	if err != nil {
		return nil, "", fmt.Errorf("list entries: %w", err)
	}
	defer rows.Close()
	var last int64
	for rows.Next() {
		if len(page) == max {
			next = strconv.FormatInt(last, 10)
			break
		}
		e, seq, err := scan(rows, false)
		if err != nil {
			return nil, "", fmt.Errorf("list entries: %w", err)
		}
		page, last = append(page, e), seq
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list entries: %w", err)
	}
	return page, next, nil
}

// Entry implements inbox.Desk.
func (s *Store) Entry(ctx context.Context, source, id string) (inbox.Entry, error) {
	e, seq, err := scan(s.read.QueryRowContext(ctx, `SELECT `+columns+`, body FROM inbox_entries WHERE source = ? AND id = ? AND state < 3`, source, id), true)
	if errors.Is(err, sql.ErrNoRows) {
		return e, fmt.Errorf("%s: %w", id, inbox.ErrNotFound)
	}
	if err != nil {
		return e, fmt.Errorf("read entry %s: %w", id, err)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT number, started, took, error FROM inbox_failures WHERE entry = ? ORDER BY token`, seq)
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
const countSQL = `WITH RECURSIVE sources (source) AS (SELECT min(source) FROM inbox_entries
		UNION ALL SELECT (SELECT min(e.source) FROM inbox_entries e WHERE e.source > sources.source) FROM sources WHERE sources.source IS NOT NULL)
	SELECT source, (SELECT count(*) FROM inbox_entries e WHERE e.source = sources.source AND due IS NOT NULL),
		(SELECT count(*) FROM inbox_entries e WHERE e.source = sources.source AND state = 1 AND ended IS NOT NULL),
		(SELECT count(*) FROM inbox_entries e WHERE e.source = sources.source AND state = 2 AND ended IS NOT NULL)
	FROM sources WHERE source IS NOT NULL`

// Counts implements inbox.Desk.
func (s *Store) Counts(ctx context.Context) (map[string]map[inbox.State]int64, error) {
	rows, err := s.read.QueryContext(ctx, countSQL)
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
	at := now.UnixMicro()
	total, err := s.eachStep(ctx, f, func(s *Store, chosen string, args []any) (int64, error) {
		return s.once(`UPDATE inbox_entries SET attempts = iif(state = 2, 0, attempts), lost = iif(state = 2, 0, lost), state = 0, due = ?, ended = NULL
			WHERE (state = 2 OR state = 0 AND held = 0 AND due > ?) AND `+chosen, append([]any{at, at}, args...)...)
	})
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
	total, err := s.eachStep(ctx, f, func(s *Store, chosen string, args []any) (int64, error) {
		if _, err := s.once(`DELETE FROM inbox_failures WHERE entry IN (SELECT seq FROM inbox_entries WHERE `+chosen+`)`, args...); err != nil {
			return 0, err
		}
		return s.once(emptied+`, ended = ? WHERE `+chosen, append([]any{now.UnixMicro()}, args...)...)
	})
	if err != nil {
		return total, fmt.Errorf("purge: %w", err)
	}
	return total, nil
}

// eachStep changes the entries that match, some at a time in the order of seq, up
// to the newest that is there when it begins: not those that come, or come to match
// again, meanwhile.
func (s *Store) eachStep(ctx context.Context, f inbox.Filter, change func(s *Store, chosen string, args []any) (int64, error)) (total int64, err error) {
	condition, args, err := where(f)
	if err != nil {
		return 0, err
	}
	var newest int64
	if err := s.read.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM inbox_entries`).Scan(&newest); err != nil {
		return 0, err
	}
	condition = `seq > ? AND seq <= ? AND ` + condition
	for after := int64(0); after < newest; {
		var last, n int64
		err := s.writer.Do(ctx, &step{do: func(s *Store) error {
			err := s.conn.QueryRowContext(context.Background(), `SELECT coalesce(max(seq), ?) FROM (SELECT seq FROM inbox_entries WHERE `+condition+` ORDER BY seq LIMIT ?)`,
				append(append([]any{newest, after, newest}, args...), batch)...).Scan(&last)
			if err == nil {
				n, err = change(s, condition, append([]any{after, last}, args...))
			}
			return err
		}})
		if err != nil {
			return total, err
		}
		total, after = total+n, last
	}
	return total, nil
}
