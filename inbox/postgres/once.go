package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"ringback.dev/inbox"
)

// DB is a *pgxpool.Pool or a *pgx.Conn.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error)
}

// Once is inbox.Once for the transactions of pgx: it calls fn if the id was not
// claimed before, and reports whether it did and succeeded. After an error the
// caller must roll back. All that is said there about PostgreSQL holds.
func Once(ctx context.Context, tx pgx.Tx, id string, fn func() error) (first bool, err error) {
	return inbox.Once(ctx, transaction{execer{tx}, tx}, id, fn)
}

// Do is Once in a transaction of its own: it begins one, commits it when fn
// returns nil, and rolls it back when fn fails or panics.
func Do(ctx context.Context, db DB, id string, fn func(pgx.Tx) error) (first bool, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		first, err = Once(ctx, tx, id, func() error { return fn(tx) })
		return err
	})
	return first && err == nil, err
}

// Create is inbox.Create: it makes the table of Once, if it is not there.
func Create(ctx context.Context, db DB) error {
	schema, err := inbox.Schema(inbox.PostgreSQL)
	if err != nil {
		return err
	}
	err = create(ctx, db, func(tx pgx.Tx) error {
		// IF NOT EXISTS asks for the right to make tables first.
		var there bool
		err := tx.QueryRow(ctx, `SELECT to_regclass('ringback_seen') IS NOT NULL`).Scan(&there)
		if err == nil && !there {
			_, err = tx.Exec(ctx, schema)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("inbox: create ringback_seen: %w", err)
	}
	return nil
}

// Sweep forgets the ids that were claimed before a time, as inbox.Sweep does.
func Sweep(ctx context.Context, db DB, before time.Time) (int64, error) {
	return inbox.Sweep(ctx, execer{db}, before)
}

// create runs f in a transaction, one process at a time: two that start at once
// would both find no table and both make it.
func create(ctx context.Context, db DB, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(7827301648)`); err != nil {
			return err
		}
		return f(tx)
	})
}

// execer runs statements as database/sql would.
type execer struct {
	to interface {
		Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error)
	}
}

func (e execer) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	tag, err := e.to.Exec(ctx, query, args...)
	return driver.RowsAffected(tag.RowsAffected()), err
}

// transaction makes an inbox.Tx of one of pgx.
type transaction struct {
	execer
	tx pgx.Tx
}

func (t transaction) Commit() error   { return t.tx.Commit(context.Background()) }
func (t transaction) Rollback() error { return t.tx.Rollback(context.Background()) }
