package inbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Remember is how long ids should be remembered: for as long as a message may
// come again. That is the sender's retry window (ringback and the Gemini API: 24
// hours, at most 7 days) and then the time in which somebody may have it replayed
// (ringback keeps events for 30 days), and a day to spare.
const Remember = (7 + 30 + 1) * 24 * time.Hour

// Tx is the caller's open transaction, such as an *sql.Tx. Commit and Rollback
// are never called here. They are asked for because what has them is a
// transaction: an *sql.DB, with which claim and effect could part, does not fit.
type Tx interface {
	Execer
	Commit() error
	Rollback() error
}

// Dialect is a kind of database.
type Dialect string

// The dialects.
const (
	SQLite     Dialect = "sqlite"
	PostgreSQL Dialect = "postgresql"
)

// The statements are the same for both engines: they and their drivers take
// $1, $2 for the arguments in their order.
const (
	claimSQL   = `INSERT INTO ringback_seen (id, at) VALUES ($1, $2) ON CONFLICT DO NOTHING`
	releaseSQL = `DELETE FROM ringback_seen WHERE id = $1`
	sweepSQL   = `DELETE FROM ringback_seen WHERE id IN (SELECT id FROM ringback_seen WHERE at < $1 ORDER BY at LIMIT 1000)`
)

// Once calls fn if the id was not claimed before, and reports whether it did and
// succeeded. The claim is a row that is written in tx, the caller's own transaction, in which fn
// writes its effect: both are committed or neither. It costs one statement, and one
// more when fn fails.
//
// After an error the caller must roll back, so that the message can come again as
// if it never had. The claim is given up when fn fails or panics: if the caller
// commits all the same, the message still comes again, but what fn has written until
// then is there. An error that fn hides is a success. After a double, which is no
// error, there is nothing to do: commit or roll back, and answer the sender 2xx.
//
// Doubles that come at once wait for each other. On PostgreSQL the second waits
// in the statement until the first transaction ends: it is a double if that was
// committed and the first if it was rolled back; so it is under READ COMMITTED,
// the default. Under REPEATABLE READ and SERIALIZABLE the statement fails with a
// serialization error (40001) instead: roll back and try again. On SQLite the
// second waits for the lock of the database, as any two writers do, for the
// connection's busy_timeout, and fails with SQLITE_BUSY after it. There, call
// Once before anything is read in the transaction, or begin it as IMMEDIATE: one that
// has read before another wrote fails at once (SQLITE_BUSY_SNAPSHOT).
//
// The id is the webhook-id of a verified message. Senders choose theirs
// independently: with several senders on one table put the sender's name before
// it, as in "billing/" + id, so that none can claim what is another's, and with
// several effects of one message the effect's. Claim one id per transaction, or
// several in the order of their text, so that transactions don't wait for each other
// in a ring.
//
// Only what is written in tx happens once. An e-mail or a call to another service
// in fn may happen again, when the commit fails after it.
func Once(ctx context.Context, tx Tx, id string, fn func() error) (first bool, err error) {
	if err := CheckID(id); err != nil {
		return false, err
	}
	result, err := tx.ExecContext(ctx, claimSQL, id, time.Now().UnixMicro())
	if err != nil {
		return false, fmt.Errorf("inbox: claim %s: %w", id, hint(err))
	}
	n, err := result.RowsAffected()
	if err != nil {
		return false, fmt.Errorf("inbox: claim %s: %w", id, err)
	}
	if n == 0 {
		return false, nil
	}
	defer func() {
		if !first { // An error, or fn panics. What can't be done here is done by the rollback.
			_, _ = tx.ExecContext(context.WithoutCancel(ctx), releaseSQL, id)
		}
	}()
	if err := fn(); err != nil {
		return false, err
	}
	return true, nil
}

// hint adds what to do when the table is not there. PostgreSQL has a code for it
// (undefined_table); SQLite's only says that the statement is wrong.
func hint(err error) error {
	var coded interface{ SQLState() string }
	if errors.As(err, &coded) && coded.SQLState() == "42P01" || strings.Contains(err.Error(), "no such table: ringback_seen") {
		return fmt.Errorf("%w; make it with Create, or with Schema in your migrations", err)
	}
	return err
}

// Do is Once in a transaction of its own: it begins one, commits it when fn
// returns nil, and rolls it back when fn fails or panics.
func Do(ctx context.Context, db *sql.DB, id string, fn func(*sql.Tx) error) (first bool, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, fmt.Errorf("inbox: begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // Does nothing after the commit.
	first, err = Once(ctx, tx, id, func() error { return fn(tx) })
	if err != nil {
		return false, err
	}
	if err := tx.Commit(); err != nil {
		return false, fmt.Errorf("inbox: commit %s: %w", id, err)
	}
	return first, nil
}

// maxID bounds an id; those of senders have some 40 bytes.
const maxID = 512

// CheckID says what is wrong with an id: it must be 1 to 512 printable ASCII
// characters, which every database stores as they are.
func CheckID(id string) error {
	if id == "" {
		return errors.New("inbox: the id is empty; pass the webhook-id of the verified message")
	}
	if len(id) > maxID {
		return fmt.Errorf("inbox: the id has %d bytes, at most %d are allowed", len(id), maxID)
	}
	for i := range len(id) {
		if id[i] < 0x20 || id[i] > 0x7e {
			return fmt.Errorf("inbox: byte %d of the id is not printable ASCII", i+1)
		}
	}
	return nil
}

// Schema is the SQL that makes the table ringback_seen, where Once keeps its
// claims, and does nothing if it is there: for the caller's own migrations.
func Schema(d Dialect) (string, error) {
	const index = "CREATE INDEX IF NOT EXISTS ringback_seen_at ON ringback_seen (at);\n"
	switch d {
	case SQLite:
		return "CREATE TABLE IF NOT EXISTS ringback_seen (id TEXT NOT NULL PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;\n" + index, nil
	case PostgreSQL:
		return "CREATE TABLE IF NOT EXISTS ringback_seen (id text COLLATE \"C\" NOT NULL PRIMARY KEY, at bigint NOT NULL);\n" + index, nil
	}
	return "", fmt.Errorf("inbox: there is no schema for the dialect %q; use inbox.SQLite or inbox.PostgreSQL", d)
}

// Create makes the table of Once, if it is not there. Several processes may call it
// at once, and also who may not make tables, if somebody else has.
func Create(ctx context.Context, db *sql.DB, d Dialect) error {
	schema, err := Schema(d)
	if err != nil {
		return err
	}
	if d == PostgreSQL {
		// IF NOT EXISTS asks for the right to make tables first.
		var there bool
		if err := db.QueryRowContext(ctx, `SELECT to_regclass('ringback_seen') IS NOT NULL`).Scan(&there); err != nil {
			return fmt.Errorf("inbox: create ringback_seen: %w", err)
		}
		if there {
			return nil
		}
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("inbox: create ringback_seen: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // Does nothing after the commit.
	if d == PostgreSQL {
		// Two processes that start at once would both find no table and both make it.
		if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(7827301648)`); err != nil {
			return fmt.Errorf("inbox: create ringback_seen: %w", err)
		}
	}
	if _, err = tx.ExecContext(ctx, schema); err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return fmt.Errorf("inbox: create ringback_seen: %w", err)
	}
	return nil
}

// Execer runs a statement, as an *sql.DB does.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Sweep forgets the ids that were claimed before a time, which should be
// time.Now().Add(-inbox.Remember) or earlier, and returns how many. It deletes
// some at a time, so that claims don't wait long. Call it now and then, such as
// once an hour.
func Sweep(ctx context.Context, db Execer, before time.Time) (removed int64, err error) {
	for {
		result, err := db.ExecContext(ctx, sweepSQL, before.UnixMicro())
		if err != nil {
			return removed, fmt.Errorf("inbox: sweep: %w", hint(err))
		}
		n, err := result.RowsAffected()
		removed += n
		if err != nil || n == 0 {
			return removed, err
		}
	}
}
