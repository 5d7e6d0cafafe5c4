package edge

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/expr-lang/expr/vm"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // The driver "sqlite".

	"ringback.dev/inbox"
)

// database is where sql actions write.
type database struct {
	name    string
	dialect inbox.Dialect
	db      *sql.DB

	turn  chan struct{} // Has room for who prepares.
	ready atomic.Bool   // The table of claims is there.
}

// openDatabases prepares the databases. Nothing is connected yet: one that is
// down now is tried again like any action.
func (f *file) openDatabases(s *setup) {
	for _, name := range slices.Sorted(maps.Keys(f.Databases)) {
		c, key := f.Databases[name], "databases."+name
		raw, own := c.URL, key+".url"
		if c.URLEnv != "" || c.URLFile != "" {
			if raw != "" {
				f.at(own, "url_env or url_file is set as well; keep one of them")
			}
			raw, own = f.secret(key+".url", c.URLEnv, c.URLFile), key
			if raw == "" {
				s.databases[name] = &database{name: name}
				continue
			}
		}
		d, err := openDatabase(name, raw)
		if err != nil {
			f.at(own, "%v", err)
			s.databases[name] = &database{name: name}
			continue
		}
		if u, err := url.Parse(c.URL); err == nil && u.User != nil {
			if _, has := u.User.Password(); has {
				f.at(own, "it holds a password; put the whole address into a variable and name it in url_env")
			}
		}
		if c.MaxOpen < 0 || c.MaxOpen > 1000 {
			f.at(key+".max_open", "%d is not between 1 and 1000", c.MaxOpen)
		}
		if c.MaxOpen == 0 {
			c.MaxOpen = 4
		}
		d.db.SetMaxOpenConns(c.MaxOpen)
		d.db.SetMaxIdleConns(c.MaxOpen)
		d.db.SetConnMaxIdleTime(5 * time.Minute)
		s.databases[name] = d
	}
}

// openDatabase reads an address. The errors don't hold it.
func openDatabase(name, raw string) (*database, error) {
	d := &database{name: name, turn: make(chan struct{}, 1)}
	if file, ok := strings.CutPrefix(raw, "sqlite:"); ok && file != "" && !strings.HasPrefix(file, "//") {
		// A transaction that reads before it writes could not get the lock later.
		dsn := "file:" + (&url.URL{Path: file}).EscapedPath() + "?_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)"
		db, err := sql.Open("sqlite", dsn)
		if err != nil {
			return nil, errors.New("the file can't be opened")
		}
		d.dialect, d.db = inbox.SQLite, db
		return d, nil
	}
	if strings.HasPrefix(raw, "postgres://") || strings.HasPrefix(raw, "postgresql://") {
		c, err := pgx.ParseConfig(raw)
		if err != nil {
			return nil, errors.New("it is no address such as postgres://user@host/database")
		}
		if c.ConnectTimeout == 0 {
			c.ConnectTimeout = 10 * time.Second
		}
		if c.RuntimeParams["application_name"] == "" {
			c.RuntimeParams["application_name"] = "ringback edge"
		}
		d.dialect, d.db = inbox.PostgreSQL, stdlib.OpenDB(*c)
		return d, nil
	}
	return nil, errors.New("it is neither postgres://… nor sqlite:PATH")
}

func (d *database) close() {
	if d.db != nil {
		_ = d.db.Close() // Nobody uses it any more.
	}
}

// prepare makes the table of claims, once.
func (d *database) prepare(ctx context.Context) error {
	if d.ready.Load() {
		return nil
	}
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if d.ready.Load() {
		return nil
	}
	err := inbox.Create(ctx, d.db, d.dialect)
	d.ready.Store(err == nil)
	return err
}

// sweep forgets claims that no event can come back for.
func (d *database) sweep(ctx context.Context, before time.Time) error {
	if !d.ready.Load() {
		return nil
	}
	_, err := inbox.Sweep(ctx, d.db, before)
	return err
}

// statements is an sql action.
type statements struct {
	database *database
	texts    []string
	args     [][]*vm.Program
	sources  [][]string
}

func (k *kit) sql(key string, c *SQL) doer {
	s := &statements{database: k.databases[c.Database]}
	if s.database == nil {
		k.at(key+".database", "%q is not among databases; add it there, with url or url_env", c.Database)
	}
	if len(c.Statements) == 0 {
		k.at(key+".statements", "there is none; give at least one, with sql and args")
	}
	for i, x := range c.Statements {
		key := fmt.Sprintf("%s.statements[%d]", key, i)
		if strings.TrimSpace(x.SQL) == "" {
			k.at(key+".sql", "it is required")
		}
		if strings.Contains(x.SQL, "{{") {
			k.at(key+".sql", "values of an event don't belong in the text of a statement; write a placeholder ($1) and put the expression into args")
		}
		var programs []*vm.Program
		for j, text := range x.Args {
			p, err := compile(text)
			if err != nil {
				k.at(fmt.Sprintf("%s.args[%d]", key, j), "%v", err)
			}
			programs = append(programs, p)
		}
		s.texts, s.args, s.sources = append(s.texts, x.SQL), append(s.args, programs), append(s.sources, x.Args)
	}
	return s
}

func (s *statements) String() string {
	n := "1 statement"
	if len(s.texts) != 1 {
		n = fmt.Sprintf("%d statements", len(s.texts))
	}
	return fmt.Sprintf("run %s on %s, exactly once", n, s.database.name)
}

// values works out the arguments of a statement.
func (s *statements) values(e *Event, i int) ([]any, error) {
	args := make([]any, len(s.args[i]))
	for j, p := range s.args[i] {
		v, err := eval(p, e)
		if err != nil {
			return nil, fmt.Errorf("statements[%d].args[%d] (%s): %w", i, j, s.sources[i][j], err)
		}
		switch v.(type) {
		case nil, bool, string, int, int64, float64, time.Time:
		default:
			text, err := asJSON(v)
			if err != nil {
				return nil, fmt.Errorf("statements[%d].args[%d] (%s): %w", i, j, s.sources[i][j], err)
			}
			v = string(text)
		}
		args[j] = v
	}
	return args, nil
}

// claimID names an action about an event among the claims of its database.
func claimID(t *task) string {
	id := "edge/" + t.Source + "/" + t.action + "/" + t.ID
	if inbox.CheckID(id) == nil {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "edge/" + hex.EncodeToString(sum[:])
}

func (s *statements) do(ctx context.Context, t *task) result {
	args := make([][]any, len(s.texts))
	for i := range s.texts {
		var err error
		if args[i], err = s.values(t.Event, i); err != nil {
			return unfit(err)
		}
	}
	err := s.database.prepare(ctx)
	first, rows := false, int64(0)
	if err == nil {
		first, err = inbox.Do(ctx, s.database.db, claimID(t), func(tx *sql.Tx) error {
			for i, text := range s.texts {
				r, err := tx.ExecContext(ctx, text, args[i]...)
				if err != nil {
					return fmt.Errorf("statements[%d]: %w", i, err)
				}
				if n, err := r.RowsAffected(); err == nil {
					rows += n
				}
			}
			return nil
		})
	}
	var connect *pgconn.ConnectError
	switch {
	case err == nil && first:
		return success("%d rows", rows)
	case err == nil:
		return result{reason: doneAgo, note: "an earlier attempt had committed it"}
	case ctx.Err() != nil:
		return failure(timedOut, "the database did not answer in time")
	case errors.As(err, &connect):
		return failure(failed, "the database %s can't be reached", s.database.name) // The error names hosts and users.
	}
	return failure(failed, "%v", err)
}
