package postgres_test

import (
	"context"
	"net/http"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ringback.dev/inbox"
	"ringback.dev/inbox/postgres"
	"ringback.dev/webhook"
)

// The claim of an id and its effect in one transaction of pgx, and an inbox in the
// same database for work that takes longer.
func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return
	}
	defer pool.Close()
	if err := postgres.Create(ctx, pool); err != nil {
		return
	}
	store, err := postgres.New(ctx, pool)
	if err != nil {
		return
	}
	defer store.Close()
	secret, err := webhook.ParseSecret(os.Getenv("WEBHOOK_SECRET"))
	if err != nil {
		return
	}
	hook := inbox.Handler(&webhook.Verifier{Secrets: []webhook.Secret{secret}}, store, func(ctx context.Context, e *inbox.Entry) error {
		_, err := postgres.Do(ctx, pool, e.ID, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "INSERT INTO results (body) VALUES ($1)", e.Body)
			return err
		})
		return err
	})
	http.Handle("/hook", hook)
	_ = hook.Run(ctx)
}
