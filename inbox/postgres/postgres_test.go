package postgres_test

import (
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback.dev/inbox/postgres"
	"ringback.dev/internal/inboxtest"
	"ringback.dev/internal/pgtest"
)

func pool(t *testing.T, address string) *pgxpool.Pool {
	t.Helper()
	p, err := pgxpool.New(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestSuite(t *testing.T) {
	server := pgtest.Start(t)
	for _, x := range []struct{ name, options string }{
		{"prepared", ""},
		// What a pooler between transactions, such as PgBouncer, asks for: no statements
		// that are prepared once and used later.
		{"exec", " default_query_exec_mode=exec"},
		{"simple protocol", " default_query_exec_mode=simple_protocol"},
		{"serializable", " default_transaction_isolation=serializable"},
	} {
		t.Run(x.name, func(t *testing.T) {
			inboxtest.Run(t, func(t *testing.T) inboxtest.Store {
				s, err := postgres.New(t.Context(), pool(t, server.Schema(t)+x.options))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close() })
				return s
			})
		})
	}
}

// TestOpenedAtOnce: processes that start at once make one inbox.
func TestOpenedAtOnce(t *testing.T) {
	address := pgtest.Start(t).Schema(t)
	var wg sync.WaitGroup
	for range 8 {
		p := pool(t, address)
		wg.Go(func() {
			s, err := postgres.New(t.Context(), p)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if _, err := s.Counts(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
