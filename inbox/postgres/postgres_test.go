package postgres_test

import (
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
	inboxtest.Run(t, func(t *testing.T) inboxtest.Store {
		s, err := postgres.New(t.Context(), pool(t, server.Schema(t)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	})
}
