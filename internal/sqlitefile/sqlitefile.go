// Package sqlitefile is what ringback's SQLite files have in common: how they are
// opened, how their write-ahead log is copied, and how one goroutine changes many
// rows with few statements.
//
// A commit syncs the disk (WAL, synchronous=FULL), so that what it has stored
// outlives a crash of the machine.
package sqlitefile

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	_ "modernc.org/sqlite" // The driver.
)

// The write-ahead log is copied into the database by a goroutine of its own, while
// commits go on: done by the writer, as is SQLite's default after 1000 pages, it
// keeps everybody waiting for a few milliseconds. The log can start again only when
// all of it was copied and nothing has been added, which may never be so under
// load; then the writer copies the rest, which is little, when the log has walPages.
const (
	walPages = 8192 // 32 MiB.
	// checkpointEvery is after how many commits the log is copied.
	checkpointEvery = 128
)

// Options are how a file is opened.
type Options struct {
	// Busy is how long to wait for another process.
	Busy time.Duration
	// ReadOnly refuses changes.
	ReadOnly bool
	// Immediate has transactions of database/sql begin with the lock to write.
	Immediate bool
}

// Open opens a file.
func Open(path string, o Options) (*sql.DB, error) {
	q := url.Values{"_pragma": {
		"busy_timeout(" + strconv.FormatInt(o.Busy.Milliseconds(), 10) + ")", "journal_mode(WAL)", "synchronous(FULL)",
		"temp_store(MEMORY)", "cache_size(-16384)", "wal_autocheckpoint(" + strconv.Itoa(walPages) + ")",
	}}
	if o.ReadOnly {
		q.Add("_pragma", "query_only(1)")
	}
	if o.Immediate {
		q.Set("_txlock", "immediate")
	}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}
	return sql.Open("sqlite", u.String())
}

// Checkpointer copies the log of a file when enough was committed.
type Checkpointer struct {
	commits int
	asked   chan struct{} // Holds one element; closed at the end.
	done    sync.WaitGroup
}

// NewCheckpointer starts one, which copies by connections of db.
func NewCheckpointer(db *sql.DB) *Checkpointer {
	c := &Checkpointer{asked: make(chan struct{}, 1)}
	c.done.Go(func() {
		for range c.asked {
			// After an error, such as a full disk, the log just stays as long as it is.
			_, _ = db.Exec("PRAGMA wal_checkpoint(PASSIVE)")
		}
	})
	return c
}

// Committed is told of each commit, by one goroutine, and doesn't wait.
func (c *Checkpointer) Committed() {
	if c.commits++; c.commits < checkpointEvery {
		return
	}
	c.commits = 0
	select {
	case c.asked <- struct{}{}:
	default:
	}
}

// Close ends it, after the last call of Committed.
func (c *Checkpointer) Close() {
	close(c.asked)
	c.done.Wait()
}

// Rows is a statement for many rows: what comes before, for, and after them.
type Rows struct{ Head, Row, Tail string }

// Row is a row of n parameters.
func Row(n int) string { return "(" + strings.Repeat("?, ", n-1) + "?)" }

// Chunks are the numbers of rows for which statements are kept, largest first.
var Chunks = [...]int{64, 16, 4, 1}

// Conn is the connection of the one goroutine that changes a file. It speaks to the
// driver without database/sql in between, which would copy the hundreds of arguments
// of a statement for many rows, and keeps every statement prepared: there must be
// a bounded number of texts.
type Conn struct {
	*sql.Conn
	changes map[string]driver.Stmt // By text.
	texts   map[chunk]string
	args    []driver.NamedValue // Those of the change that runs.
}

type chunk struct {
	of   Rows
	rows int
}

// NewConn takes a connection of db for good.
func NewConn(ctx context.Context, db *sql.DB) (*Conn, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &Conn{Conn: conn, changes: make(map[string]driver.Stmt), texts: make(map[chunk]string)}, nil
}

// Close frees the statements and the connection.
func (c *Conn) Close() error {
	var errs []error
	for _, s := range c.changes {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.Conn.Close())...)
}

// Change runs a statement and tells how many rows it changed. Arguments are what
// a driver takes, and ints.
func (c *Conn) Change(query string, args ...any) (n int64, err error) {
	err = c.Raw(func(connection any) error {
		s, err := c.prepare(connection, query)
		if err != nil {
			return err
		}
		named := c.args[:0]
		for i, a := range args {
			if small, ok := a.(int); ok {
				a = int64(small)
			}
			named = append(named, driver.NamedValue{Ordinal: i + 1, Value: a})
		}
		c.args = named
		r, err := s.ExecContext(context.Background(), named)
		clear(named)
		if err != nil {
			return err
		}
		n, err = r.RowsAffected()
		return err
	})
	return n, err
}

// ChangeRows is Change of a statement for so many rows, one of Chunks.
func (c *Conn) ChangeRows(of Rows, rows int, args ...any) (int64, error) {
	key := chunk{of, rows}
	text := c.texts[key]
	if text == "" {
		text = of.Head + strings.Repeat(of.Row+", ", rows-1) + of.Row + of.Tail
		c.texts[key] = text
	}
	return c.Change(text, args...)
}

func (c *Conn) prepare(connection any, query string) (driver.StmtExecContext, error) {
	s := c.changes[query]
	if s == nil {
		p, ok := connection.(driver.ConnPrepareContext)
		if !ok {
			return nil, fmt.Errorf("the driver's %T can't prepare", connection)
		}
		var err error
		if s, err = p.PrepareContext(context.Background(), query); err != nil {
			return nil, fmt.Errorf("prepare: %w", err)
		}
		c.changes[query] = s
	}
	e, ok := s.(driver.StmtExecContext)
	if !ok {
		return nil, fmt.Errorf("the driver's %T can't run", s)
	}
	return e, nil
}
