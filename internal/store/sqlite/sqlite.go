// Package sqlite keeps a store in one SQLite file, for one process. It is the
// engine that ringback uses unless told otherwise.
//
// One goroutine writes (writer.go): it runs what callers have queued in one
// transaction and syncs the disk once for all of them. Readers have connections
// of their own and see the last commit. Because no other process can write, some
// facts are also held in memory, changed only after the commit that stores them
// (memory.go): endpoints and keys, which every job and request asks for, and
// the earliest due time of each target, so that looking for work costs nothing.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"ringback.dev"
	"ringback.dev/internal/sqlitefile"
	"ringback.dev/internal/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// fileName and lockName are the database and the lock in the data folder.
const (
	fileName = "ringback.db"
	lockName = "ringback.lock"
)

// Store implements store.Store.
type Store struct {
	lock   *os.File
	write  *sql.DB // One connection, the writer's.
	read   *sql.DB
	writer *writer
	memory memory

	checkpoints *sqlitefile.Checkpointer
}

var _ store.Store = (*Store)(nil)

// Open opens the database in dir, creating both if they don't exist, and brings
// its schema up to date. Errors: Locked when another process uses dir,
// FailedPrecondition when the database was written by a newer version.
func Open(ctx context.Context, dir string) (_ *Store, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, &ringback.Error{Code: ringback.Unavailable, Message: "the data folder can't be made", Cause: err}
	}
	s := &Store{}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if s.lock, err = lockFolder(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, fileName)
	const busy = 5 * time.Second // Nobody but a person with another program has the file open.
	if s.write, err = sqlitefile.Open(path, sqlitefile.Options{Busy: busy}); err != nil {
		return nil, fmt.Errorf("open %s: %w", fileName, translate(err))
	}
	s.write.SetMaxOpenConns(1)
	if err := migrate(ctx, s.write); err != nil {
		return nil, err
	}
	if s.read, err = sqlitefile.Open(path, sqlitefile.Options{Busy: busy, ReadOnly: true}); err != nil {
		return nil, fmt.Errorf("open %s: %w", fileName, translate(err))
	}
	s.read.SetMaxOpenConns(4)
	s.read.SetMaxIdleConns(4)
	if err := s.memory.load(ctx, s.read); err != nil {
		return nil, fmt.Errorf("load %s: %w", fileName, translate(err))
	}
	s.checkpoints = sqlitefile.NewCheckpointer(s.read)
	if s.writer, err = newWriter(ctx, s.write, s.checkpoints.Committed); err != nil {
		return nil, fmt.Errorf("start the writer: %w", translate(err))
	}
	return s, nil
}

// lockFolder makes sure that this is the only process on the folder. The lock
// vanishes with the process, however it ends.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, &ringback.Error{Code: ringback.Unavailable, Message: "the data folder can't be written", Cause: err}
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &ringback.Error{Code: ringback.Locked,
				Message: fmt.Sprintf("another ringback process uses the data folder %s; stop it or choose another with --data", dir)}
		}
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	return f, nil
}

func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	have, want, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the schema version: %w", translate(err))
	}
	if have > want {
		return &ringback.Error{Code: ringback.FailedPrecondition, Message: fmt.Sprintf(
			"the database has schema version %d, this ringback knows %d; run the newer ringback that wrote it", have, want)}
	}
	if have == want {
		return nil
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate the database: %w", translate(err))
	}
	return nil
}

// Ping implements store.Store.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	return translate(s.read.QueryRowContext(ctx, "SELECT 1 FROM sqlite_schema LIMIT 1").Scan(&one))
}

// Close implements store.Store.
func (s *Store) Close() error {
	var errs []error
	if s.writer != nil {
		errs = append(errs, s.writer.close())
	}
	if s.checkpoints != nil {
		s.checkpoints.Close()
	}
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// translate gives the errors of the driver their code. It goes by SQLite's
// result codes, never by text.
func translate(err error) error {
	var e *sqlite.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return ringback.NotFound
	case !errors.As(err, &e):
		return err
	}
	switch e.Code() {
	case sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE:
		return &ringback.Error{Code: ringback.AlreadyExists, Message: "it exists already", Cause: err}
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return &ringback.Error{Code: ringback.StorageFull, Message: "the disk is full; nothing was changed", Cause: err}
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY:
		return &ringback.Error{Code: ringback.Unavailable, Message: "the database can't be read or written just now (is the disk full or gone?)", Cause: err}
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return &ringback.Error{Code: ringback.FailedPrecondition, Message: "the database file is damaged or not one", Cause: err}
	}
	return err
}

// micros converts a time to how it is stored; the zero time is NULL.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// instant converts back.
func instant(v sql.NullInt64) time.Time {
	if !v.Valid {
		return time.Time{}
	}
	return time.UnixMicro(v.Int64).UTC()
}
