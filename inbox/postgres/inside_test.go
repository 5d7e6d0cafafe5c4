package postgres

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback.dev/inbox"
	"ringback.dev/internal/pgtest"
)

func opened(t *testing.T) *Store {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), pgtest.Start(t).Schema(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s, err := New(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestFailureBesidePurge: a failure that was stored while its entry was purged, which
// the purge does not see, does not stay for ever.
func TestFailureBesidePurge(t *testing.T) {
	s := opened(t)
	now := time.Now()
	e := &inbox.Entry{ID: "msg_1", Received: now, State: inbox.Pending, Due: now}
	if first, err := s.Accept(t.Context(), e); !first || err != nil {
		t.Fatal(first, err)
	}
	if n, err := s.Purge(t.Context(), inbox.Filter{IDs: []string{"msg_1"}}, now); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := s.pool.Exec(t.Context(), `INSERT INTO ringback_inbox_failures (entry, token, number, started, took, error) SELECT seq, 1, 1, 0, 0, 'no' FROM ringback_inbox`); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context(), "", now, now.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	var left int
	if err := s.pool.QueryRow(t.Context(), `SELECT count(*) FROM ringback_inbox_failures`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d are left, %v", left, err)
	}
}

// TestCountsPlan: counting reads neither bodies nor the ids that are merely
// remembered, which are most of the table after some weeks.
func TestCountsPlan(t *testing.T) {
	s := opened(t)
	for _, statement := range []string{
		`INSERT INTO ringback_inbox (source, id, type, scheme, sent, received, body, state, held, token, due, ended)
			SELECT 's', 'msg_' || n, 't', 'v1', 0, 0, CASE WHEN n <= 300 THEN decode(repeat('00', 400), 'hex') END,
				CASE WHEN n <= 100 THEN 0 WHEN n <= 200 THEN 1 WHEN n <= 300 THEN 2 ELSE 3 END, false, 1, CASE WHEN n <= 100 THEN n END, CASE WHEN n > 100 THEN n END
			FROM generate_series(1, 20000) AS n`,
		`VACUUM ANALYZE ringback_inbox`,
	} {
		if _, err := s.pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := s.pool.Query(t.Context(), `EXPLAIN (ANALYZE, BUFFERS, TIMING off, SUMMARY off, COSTS off) `+countSQL)
	if err != nil {
		t.Fatal(err)
	}
	var plan []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(plan, "\n")
	pages := 0
	if _, err := fmt.Sscanf(regexp.MustCompile(`hit=\d+`).FindString(text), "hit=%d", &pages); err != nil || pages > 50 || strings.Contains(text, "Seq Scan on ringback_inbox") {
		t.Errorf("%d pages: %v\n%s", pages, err, text)
	}
}
