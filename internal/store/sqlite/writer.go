package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"ringback.dev"
)

// writer is the one goroutine that changes the database. Callers queue steps;
// it runs all that are queued in one transaction, commits it with one sync of
// the disk, and only then answers them.
type writer struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt // By text; prepared on conn. Only the goroutine's.
	done  chan struct{}

	mu     sync.Mutex
	closed bool
	queue  []*step
	wake   chan struct{} // Holds one element.
}

// step is what one caller wants done.
type step struct {
	// do runs the statements. It may be run again if the transaction had to be
	// rolled back because of another step, so it sets what it returns anew. An
	// error that carries a ringback.Code must be returned before anything was
	// written; any other error rolls back.
	do func(*tx) error
	// after runs once the step is durable, before its caller goes on and before
	// any later step: the place to change what is held in memory.
	after func()
	err   error
	ready chan struct{}
}

// maxGroup bounds the steps of one transaction, and so how long the first of
// them waits for the last.
const maxGroup = 512

func newWriter(ctx context.Context, db *sql.DB) (*writer, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	w := &writer{conn: conn, stmts: make(map[string]*sql.Stmt), done: make(chan struct{}), wake: make(chan struct{}, 1)}
	go w.run()
	return w, nil
}

// submit queues a step and waits until it is durable or refused. ctx counts only
// until the step is queued, so that the outcome is always known.
func (w *writer) submit(ctx context.Context, do func(*tx) error, after func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s := &step{do: do, after: after, ready: make(chan struct{})}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return &ringback.Error{Code: ringback.Unavailable, Message: "the store is closed"}
	}
	w.queue = append(w.queue, s)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	<-s.ready
	return s.err
}

func (w *writer) close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	<-w.done
	var errs []error
	for _, s := range w.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, w.conn.Close())...)
}

func (w *writer) run() {
	defer close(w.done)
	for {
		w.mu.Lock()
		group := w.queue
		if len(group) > maxGroup {
			group, w.queue = group[:maxGroup:maxGroup], group[maxGroup:]
		} else {
			w.queue = nil
		}
		closed := w.closed
		w.mu.Unlock()
		if len(group) == 0 {
			if closed {
				return
			}
			<-w.wake
			continue
		}
		w.commit(group)
	}
}

// commit runs a group in one transaction and answers its callers. A step that
// fails in an unexpected way is taken out and the others are run again without
// it; a transaction that can't be committed fails them all.
func (w *writer) commit(group []*step) {
	for len(group) > 0 {
		culprit, err := w.try(group)
		if err == nil {
			break
		}
		err = translate(err)
		if culprit < 0 {
			for _, s := range group {
				s.err = err
				close(s.ready)
			}
			return
		}
		group[culprit].err = err
		close(group[culprit].ready)
		group = append(group[:culprit:culprit], group[culprit+1:]...)
	}
	for _, s := range group {
		if s.err == nil && s.after != nil {
			s.after()
		}
	}
	for _, s := range group {
		close(s.ready)
	}
}

// try runs a group once. On an error nothing is changed; culprit is the index of
// the step to blame, -1 if the transaction as a whole failed.
func (w *writer) try(group []*step) (culprit int, err error) {
	t := &tx{w: w}
	if err := t.exec("BEGIN IMMEDIATE"); err != nil {
		return -1, fmt.Errorf("begin: %w", err)
	}
	for i, s := range group {
		s.err = s.do(t)
		if s.err != nil && ringback.CodeOf(s.err) == "" {
			err := s.err
			t.rollback()
			if full := ringback.CodeOf(translate(err)); full == ringback.StorageFull || full == ringback.Unavailable {
				return -1, err // The others would meet the same.
			}
			return i, err
		}
	}
	if err := t.exec("COMMIT"); err != nil {
		t.rollback()
		return -1, fmt.Errorf("commit: %w", err)
	}
	return 0, nil
}

// tx runs statements inside the writer's transaction.
type tx struct{ w *writer }

// stmt prepares a statement once. The texts are constants of this package, so
// their number is bounded.
func (t *tx) stmt(query string) (*sql.Stmt, error) {
	if s := t.w.stmts[query]; s != nil {
		return s, nil
	}
	s, err := t.w.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	t.w.stmts[query] = s
	return s, nil
}

func (t *tx) exec(query string, args ...any) error {
	s, err := t.stmt(query)
	if err != nil {
		return err
	}
	_, err = s.Exec(args...)
	return err
}

// change is exec that tells how many rows were changed.
func (t *tx) change(query string, args ...any) (int64, error) {
	s, err := t.stmt(query)
	if err != nil {
		return 0, err
	}
	r, err := s.Exec(args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// insert is exec that returns the new row's rowid.
func (t *tx) insert(query string, args ...any) (int64, error) {
	s, err := t.stmt(query)
	if err != nil {
		return 0, err
	}
	r, err := s.Exec(args...)
	if err != nil {
		return 0, err
	}
	return r.LastInsertId()
}

// row runs a query for one row.
func (t *tx) row(query string, args ...any) scanner {
	s, err := t.stmt(query)
	if err != nil {
		return failedRow{err}
	}
	return s.QueryRow(args...)
}

func (t *tx) query(query string, args ...any) (*sql.Rows, error) {
	s, err := t.stmt(query)
	if err != nil {
		return nil, err
	}
	return s.Query(args...)
}

// rollback ignores its error: SQLite rolls back by itself after some failures,
// and then there is no transaction to end.
func (t *tx) rollback() { _ = t.exec("ROLLBACK") }

// scanner is what sql.Row and sql.Rows have in common.
type scanner interface{ Scan(dest ...any) error }

type failedRow struct{ err error }

func (f failedRow) Scan(...any) error { return f.err }
