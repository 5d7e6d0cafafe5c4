// Command receiver is a receiver of webhooks that is killed again and again, with
// its database, while messages and their doubles arrive (receiver_test.go). It has
// two ways to act once: /direct claims the id and acts in the request, /hook
// accepts, answers, and acts in the background.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib" // The driver "pgx".
	_ "modernc.org/sqlite"             // The driver "sqlite".

	"ringback.dev/inbox"
	"ringback.dev/inbox/postgres"
	"ringback.dev/inbox/sqlite"
	"ringback.dev/webhook"
)

// The environment tells the receiver what it needs.
const (
	secretVar  = "RECEIVER_SECRET"
	addressVar = "RECEIVER_DATABASE" // A connection string of PostgreSQL, or
	folderVar  = "RECEIVER_FOLDER"   // a folder for SQLite.
)

func main() {
	if err := receive(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "receiver:", err)
		os.Exit(1)
	}
}

// shards are the rows that are counted in, so that not everybody waits for one.
const shards = 16

// tables are what the effects are: a row and a count. Neither is unique, so that
// an effect that is there twice shows.
var tables = []string{
	`CREATE TABLE IF NOT EXISTS effects (id text NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS totals (shard integer PRIMARY KEY, n integer NOT NULL)`,
}

// act is the effect of a message.
func act(ctx context.Context, tx *sql.Tx, id string) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO effects (id) VALUES ($1)`, id); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `UPDATE totals SET n = n + 1 WHERE shard = $1`, int(id[len(id)-1])%shards)
	return err
}

// databases are the receiver's own and its inbox.
func databases(ctx context.Context) (*sql.DB, inbox.Store, error) {
	if address := os.Getenv(addressVar); address != "" {
		db, err := sql.Open("pgx", address)
		if err != nil {
			return nil, nil, err
		}
		db.SetMaxOpenConns(16)
		pool, err := pgxpool.New(ctx, address)
		if err != nil {
			return nil, nil, err
		}
		store, err := postgres.New(ctx, pool)
		if err != nil {
			return nil, nil, err
		}
		return db, store, inbox.Create(ctx, db, inbox.PostgreSQL)
	}
	dir := os.Getenv(folderVar)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "app.db")+"?_txlock=immediate&_pragma=busy_timeout(30000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(4)
	store, err := sqlite.Open(ctx, filepath.Join(dir, "inbox.db"))
	if err != nil {
		return nil, nil, err
	}
	return db, store, inbox.Create(ctx, db, inbox.SQLite)
}

func receive(ctx context.Context) error {
	secret, err := webhook.ParseSecret(os.Getenv(secretVar))
	if err != nil {
		return err
	}
	db, store, err := databases(ctx)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if _, err := db.ExecContext(ctx, t); err != nil {
			return err
		}
	}
	for i := range shards {
		if _, err := db.ExecContext(ctx, `INSERT INTO totals (shard, n) VALUES ($1, 0) ON CONFLICT DO NOTHING`, i); err != nil {
			return err
		}
	}
	verifier := &webhook.Verifier{Secrets: []webhook.Secret{secret}}
	once := func(ctx context.Context, id string) error {
		_, err := inbox.Do(ctx, db, id, func(tx *sql.Tx) error { return act(ctx, tx, id) })
		return err
	}
	hook := inbox.Handler(verifier, store, func(ctx context.Context, e *inbox.Entry) error { return once(ctx, e.ID) })
	// A kill is soon got over, and an outage of the database makes no dead letters.
	hook.Lease, hook.Poll = time.Second, 100*time.Millisecond
	for range 1000 {
		hook.Delays = append(hook.Delays, 200*time.Millisecond)
	}
	hook.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	http.Handle("/hook", hook)
	http.Handle("/direct", webhook.Handler(verifier, func(w http.ResponseWriter, r *http.Request, m webhook.Message) {
		if err := once(r.Context(), m.ID); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // Ends with the test.
		os.Exit(0)
	}()
	ended := make(chan error, 2)
	go func() { ended <- hook.Run(ctx) }()
	go func() { ended <- http.Serve(l, nil) }()
	return <-ended
}
