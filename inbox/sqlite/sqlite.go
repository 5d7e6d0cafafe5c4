// Package sqlite keeps an inbox in a SQLite file, for the processes of one
// machine.
//
// One goroutine of a process writes: it runs what callers have asked for in one
// transaction and syncs the disk once for all of them (WAL, synchronous=FULL).
// Readers see the last commit. Other processes may open the same file, such as a
// command that looks at the inbox of a running receiver: nothing is held in memory.
package sqlite

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"ringback.dev/inbox"
	"ringback.dev/internal/group"
	"ringback.dev/internal/sqlitefile"
)

//go:embed schema.sql
var schema string

// version is that of the schema, in the file's user_version.
const version = 1

// Store implements inbox.Store and inbox.Desk.
type Store struct {
	write, read *sql.DB // write has one connection, the writer's.
	checkpoints *sqlitefile.Checkpointer
	writer      *group.Writer[*step]

	// These are the writer's goroutine's alone.
	conn  *sqlitefile.Conn
	claim *sql.Stmt // Prepared on conn.

	isDue *sql.Stmt // For everybody.
}

var (
	_ inbox.Store = (*Store)(nil)
	_ inbox.Desk  = (*Store)(nil)

	_ inbox.BatchSettler = (*Store)(nil)
)

// Open opens the file and makes it if it does not exist, readable for its owner
// alone: bodies may be private. The folder must exist.
func Open(ctx context.Context, path string) (_ *Store, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the inbox: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the inbox: %w", err)
	}
	s := &Store{}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if s.write, err = sqlitefile.Open(path, sqlitefile.Options{Busy: busy, Immediate: true}); err != nil {
		return nil, fmt.Errorf("open the inbox: %w", err)
	}
	s.write.SetMaxOpenConns(1)
	if err := create(ctx, s.write); err != nil {
		return nil, err
	}
	if s.read, err = sqlitefile.Open(path, sqlitefile.Options{Busy: busy, ReadOnly: true}); err != nil {
		return nil, fmt.Errorf("open the inbox: %w", err)
	}
	s.read.SetMaxOpenConns(4)
	s.read.SetMaxIdleConns(4)
	if s.conn, err = sqlitefile.NewConn(ctx, s.write); err != nil {
		return nil, fmt.Errorf("open the inbox: %w", err)
	}
	if s.isDue, err = s.read.PrepareContext(ctx, isDueSQL); err != nil {
		return nil, fmt.Errorf("open the inbox: %w", err)
	}
	if s.claim, err = s.conn.PrepareContext(ctx, claimSQL); err != nil {
		return nil, fmt.Errorf("open the inbox: %w", err)
	}
	s.checkpoints = sqlitefile.NewCheckpointer(s.read)
	s.writer = group.New(s.commit)
	return s, nil
}

// busy is how long to wait for another process.
const busy = 10 * time.Second

// create makes the schema. The transaction is IMMEDIATE, so that of two processes
// that start at once the second finds it made.
func create(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("open the inbox: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // Does nothing after the commit.
	var have int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return fmt.Errorf("open the inbox: %w", err)
	}
	switch {
	case have == version:
		return nil
	case have > version:
		return fmt.Errorf("open the inbox: it has schema version %d, this program knows %d; use the newer program that wrote it", have, version)
	}
	if _, err := tx.ExecContext(ctx, schema+fmt.Sprintf("\nPRAGMA user_version = %d;", version)); err != nil {
		return fmt.Errorf("make the inbox: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("make the inbox: %w", err)
	}
	return nil
}

// Close waits for what was begun and closes the file.
func (s *Store) Close() error {
	var errs []error
	if s.writer != nil {
		s.writer.Close()
		s.checkpoints.Close()
	}
	for _, prepared := range []*sql.Stmt{s.isDue, s.claim} {
		if prepared != nil {
			errs = append(errs, prepared.Close())
		}
	}
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// step is what one caller wants done: one of the three.
type step struct {
	accept *inbox.Entry
	first  bool // What came of accept.

	settle []inbox.Settlement
	stale  []int // What came of settle.

	do func(*Store) error // It may run twice, so it sets what it returns anew.
}

// The states as they are stored.
const (
	pending = iota
	done
	dead
	purged
)

var states = [...]inbox.State{pending: inbox.Pending, done: inbox.Done, dead: inbox.Dead}

// errMissed fails a group in which a row of several was not found. The group is then
// done again, each row by itself, so that it is known whose lease is stale.
var errMissed = errors.New("a row of the group is gone")

// commit does a group in one transaction. When a step fails nobody else's work is
// lost for it: each is done again in a transaction of its own.
func (s *Store) commit(steps []*step, errs []error) {
	err := s.try(steps, false)
	if errors.Is(err, errMissed) {
		err = s.try(steps, true)
	}
	if err != nil && len(steps) > 1 && !machine(err) {
		for i := range steps {
			s.commit(steps[i:i+1], errs[i:i+1])
		}
		return
	}
	for i := range errs {
		errs[i] = err
	}
	s.checkpoints.Committed()
}

// machine reports whether an error is about the disk or the lock, and not about
// one step. It goes by SQLite's result codes.
func machine(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return true
	}
	return false
}

func conflict(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE
}

// try does steps once. On an error nothing is changed.
func (s *Store) try(steps []*step, each bool) (err error) {
	if _, err := s.conn.Change("BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if err != nil {
			_, _ = s.conn.Change("ROLLBACK") // SQLite rolls back by itself after some failures.
		}
	}()
	if err := s.accept(steps); err != nil {
		return err
	}
	if err := s.settle(steps, each); err != nil {
		return err
	}
	for _, x := range steps {
		if x.do != nil {
			if err := x.do(s); err != nil {
				return err
			}
		}
	}
	if _, err := s.conn.Change("COMMIT"); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}
