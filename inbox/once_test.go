package inbox_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	modernc "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"ringback.dev/inbox"
	"ringback.dev/inbox/postgres"
	"ringback.dev/internal/pgtest"
)

// engine is a way to use Once.
type engine struct {
	// begin begins a transaction.
	begin func(t *testing.T) tx
	// effects counts the rows that fn has written.
	effects func(t *testing.T) int
	// seen are the ids that are remembered.
	sweep func(before time.Time) (int64, error)
}

type tx struct {
	// once is Once with an effect, and then the error.
	once             func(id string, err error) (bool, error)
	commit, rollback func() error
}

// errPanic stands for a panic.
var errPanic = errors.New("a panic")

func result(fails error) error {
	if fails == errPanic {
		panic(fails)
	}
	return fails
}

const (
	makeEffects  = `CREATE TABLE effects (id text)`
	addEffect    = `INSERT INTO effects (id) VALUES ($1)`
	countEffects = `SELECT count(*) FROM effects`
)

func sqlEngine(t *testing.T, db *sql.DB, d inbox.Dialect) engine {
	t.Helper()
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(40) // The server has 60.
	for range 2 {          // The second time it is there.
		if err := inbox.Create(t.Context(), db, d); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.ExecContext(t.Context(), makeEffects); err != nil {
		t.Fatal(err)
	}
	return engine{
		begin: func(t *testing.T) tx {
			t.Helper()
			began, err := db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			once := func(id string, fails error) (bool, error) {
				return inbox.Once(t.Context(), began, id, func() error {
					if _, err := began.ExecContext(t.Context(), addEffect, id); err != nil {
						return err
					}
					return result(fails)
				})
			}
			return tx{once, began.Commit, began.Rollback}
		},
		effects: func(t *testing.T) (n int) {
			t.Helper()
			if err := db.QueryRowContext(t.Context(), countEffects).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		},
		sweep: func(before time.Time) (int64, error) { return inbox.Sweep(t.Context(), db, before) },
	}
}

func pgxEngine(t *testing.T, address string) engine {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	for range 2 {
		if err := postgres.Create(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pool.Exec(t.Context(), makeEffects); err != nil {
		t.Fatal(err)
	}
	return engine{
		begin: func(t *testing.T) tx {
			t.Helper()
			began, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			once := func(id string, fails error) (bool, error) {
				return postgres.Once(t.Context(), began, id, func() error {
					if _, err := began.Exec(t.Context(), addEffect, id); err != nil {
						return err
					}
					return result(fails)
				})
			}
			return tx{once, func() error { return began.Commit(context.Background()) }, func() error { return began.Rollback(context.Background()) }}
		},
		effects: func(t *testing.T) (n int) {
			t.Helper()
			if err := pool.QueryRow(t.Context(), countEffects).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		},
		sweep: func(before time.Time) (int64, error) { return postgres.Sweep(t.Context(), pool, before) },
	}
}

func sqliteDSN(t *testing.T) string {
	return "file:" + filepath.Join(t.TempDir(), "app.db") + "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(30000)"
}

func openDB(t *testing.T, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestOnce(t *testing.T) {
	server := pgtest.Start(t)
	for _, x := range []struct {
		name string
		open func(t *testing.T) engine
	}{
		{"sqlite", func(t *testing.T) engine { return sqlEngine(t, openDB(t, "sqlite", sqliteDSN(t)), inbox.SQLite) }},
		{"postgresql", func(t *testing.T) engine { return sqlEngine(t, openDB(t, "pgx", server.Schema(t)), inbox.PostgreSQL) }},
		{"pgx", func(t *testing.T) engine { return pgxEngine(t, server.Schema(t)) }},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Run("double", func(t *testing.T) { testDouble(t, x.open(t)) })
			t.Run("failure", func(t *testing.T) { testFailure(t, x.open(t)) })
			t.Run("commit after a failure", func(t *testing.T) { testCommitAnyway(t, x.open(t)) })
			t.Run("waits for a commit", func(t *testing.T) { testWaits(t, x.open(t), true) })
			t.Run("waits for a rollback", func(t *testing.T) { testWaits(t, x.open(t), false) })
			t.Run("concurrent", func(t *testing.T) { testConcurrent(t, x.open(t)) })
			t.Run("sweep", func(t *testing.T) { testOnceSweep(t, x.open(t)) })
		})
	}
	t.Run("created at once", func(t *testing.T) { testCreated(t, server.Schema(t)) })
	t.Run("no table", func(t *testing.T) { testNoTable(t, server.Schema(t)) })
	t.Run("may not create", func(t *testing.T) { testMayNotCreate(t, server) })
	t.Run("hidden error", func(t *testing.T) { testHidden(t, server.Schema(t)) })
	t.Run("read before", func(t *testing.T) { testReadBefore(t) })
	t.Run("snapshots", func(t *testing.T) { testSnapshots(t, server.Schema(t)) })
	t.Run("round trips", func(t *testing.T) { testRoundTrips(t, server) })
}

func once(t *testing.T, e engine, id string) bool {
	t.Helper()
	x := e.begin(t)
	first, err := x.once(id, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.commit(); err != nil {
		t.Fatal(err)
	}
	return first
}

func testDouble(t *testing.T, e engine) {
	if !once(t, e, "msg_1") || once(t, e, "msg_1") || !once(t, e, "msg_2") || once(t, e, "msg_1") {
		t.Error("not once each")
	}
	if n := e.effects(t); n != 2 {
		t.Errorf("%d effects", n)
	}
	x := e.begin(t)
	for _, id := range []string{"", "msg\x00", "msg_é", strings.Repeat("x", 513)} {
		if _, err := x.once(id, nil); err == nil {
			t.Errorf("the id %q passes", id)
		}
	}
	if err := x.rollback(); err != nil {
		t.Error(err)
	}
}

func testFailure(t *testing.T, e engine) {
	no := errors.New("no")
	x := e.begin(t)
	if _, err := x.once("msg_1", no); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
	if err := x.rollback(); err != nil {
		t.Fatal(err)
	}
	if n := e.effects(t); n != 0 {
		t.Errorf("%d effects after the rollback", n)
	}
	if !once(t, e, "msg_1") {
		t.Error("the failure kept the claim")
	}
}

// testCommitAnyway: whoever commits although fn failed, or after it panicked, has not
// lost the message.
func testCommitAnyway(t *testing.T, e engine) {
	for id, fails := range map[string]error{"msg_1": errors.New("no"), "msg_2": errPanic} {
		x := e.begin(t)
		func() {
			defer func() { _ = recover() }()
			if first, err := x.once(id, fails); first || !errors.Is(err, fails) {
				t.Errorf("got %v, %v", first, err)
			}
		}()
		if err := x.commit(); err != nil {
			t.Fatal(err)
		}
		if !once(t, e, id) {
			t.Errorf("%s is claimed, and its effect failed", id)
		}
	}
	// The failure of one claim in a transaction is not that of another.
	x := e.begin(t)
	if _, err := x.once("msg_3", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := x.once("msg_4", errors.New("no")); err == nil {
		t.Error("no error")
	}
	if err := x.commit(); err != nil {
		t.Fatal(err)
	}
	if once(t, e, "msg_3") || !once(t, e, "msg_4") {
		t.Error("the failure of one is not its own alone")
	}
}

// testWaits: a double that comes while the first is under way returns only when
// that has ended, and is the first itself if that was rolled back.
func testWaits(t *testing.T, e engine, commit bool) {
	a := e.begin(t)
	if first, err := a.once("msg_1", nil); !first || err != nil {
		t.Fatal(first, err)
	}
	b := e.begin(t)
	var ended atomic.Bool
	begun, result := make(chan struct{}), make(chan error, 1)
	go func() {
		close(begun)
		first, err := b.once("msg_1", nil)
		switch {
		case err != nil:
		case !ended.Load():
			err = errors.New("it did not wait")
		case first == commit:
			err = fmt.Errorf("first is %v", first)
		}
		result <- err
	}()
	<-begun
	// Another writer gets on only on PostgreSQL; a read does on both, and takes a while.
	if n := e.effects(t); n != 0 {
		t.Errorf("%d effects can be seen before the commit", n)
	}
	ended.Store(true)
	end := a.commit
	if !commit {
		end = a.rollback
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
	if err := b.commit(); err != nil {
		t.Error(err)
	}
	if n := e.effects(t); n != 1 {
		t.Errorf("%d effects", n)
	}
}

func testConcurrent(t *testing.T, e engine) {
	const ids, doubles = 20, 5
	var firsts atomic.Int32
	var wg sync.WaitGroup
	for range doubles {
		for i := range ids {
			wg.Go(func() {
				for try := 0; ; try++ {
					x := e.begin(t)
					first, err := x.once(fmt.Sprint("msg_", i), nil)
					if err == nil && (try > 0 || i%3 > 0) {
						if err = x.commit(); err == nil && first {
							firsts.Add(1)
						}
					} else {
						_ = x.rollback() // The first try of some is thought better of.
						err = nil
						if try == 0 {
							continue
						}
					}
					if err != nil {
						t.Error(err)
					}
					return
				}
			})
		}
	}
	wg.Wait()
	if n := e.effects(t); n != ids || firsts.Load() != ids {
		t.Errorf("%d effects, %d firsts, want %d", n, firsts.Load(), ids)
	}
}

func testOnceSweep(t *testing.T, e engine) {
	begin := time.Now()
	for i := range 1100 { // More than one step.
		if i%100 == 0 {
			x := e.begin(t)
			for j := range 100 {
				if first, err := x.once(fmt.Sprint("msg_", i+j), nil); !first || err != nil {
					t.Fatal(first, err)
				}
			}
			if err := x.commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n, err := e.sweep(begin.Add(-time.Second)); n != 0 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if once(t, e, "msg_1") {
		t.Error("it is forgotten")
	}
	if n, err := e.sweep(time.Now().Add(time.Second)); n != 1100 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if !once(t, e, "msg_1") {
		t.Error("it is not forgotten")
	}
}

// testCreated: processes that start at once make one table.
func testCreated(t *testing.T, address string) {
	dsn := sqliteDSN(t)
	var wg sync.WaitGroup
	for range 8 {
		for _, x := range []struct {
			driver, dsn string
			dialect     inbox.Dialect
		}{{"sqlite", dsn, inbox.SQLite}, {"pgx", address, inbox.PostgreSQL}} {
			db := openDB(t, x.driver, x.dsn)
			defer db.Close()
			wg.Go(func() {
				if err := inbox.Create(t.Context(), db, x.dialect); err != nil {
					t.Errorf("%s: %v", x.driver, err)
				}
				if _, err := inbox.Do(t.Context(), db, "msg_1", func(*sql.Tx) error { return nil }); err != nil {
					t.Errorf("%s: %v", x.driver, err)
				}
			})
		}
	}
	wg.Wait()
}

// testNoTable: an error says how to make the table.
func testNoTable(t *testing.T, address string) {
	for driver, dsn := range map[string]string{"sqlite": sqliteDSN(t), "pgx": address} {
		db := openDB(t, driver, dsn)
		defer db.Close()
		_, once := inbox.Do(t.Context(), db, "msg_1", func(*sql.Tx) error { return nil })
		_, swept := inbox.Sweep(t.Context(), db, time.Now())
		for _, err := range []error{once, swept} {
			if err == nil || !strings.Contains(err.Error(), "make it with Create") {
				t.Errorf("%s: %v", driver, err)
			}
		}
	}
}

// testMayNotCreate: a program that may use the table, and make none, starts.
func testMayNotCreate(t *testing.T, server *pgtest.Server) {
	owner := openDB(t, "pgx", server.Schema(t))
	defer owner.Close()
	if err := inbox.Create(t.Context(), owner, inbox.PostgreSQL); err != nil {
		t.Fatal(err)
	}
	var schema string
	if err := owner.QueryRowContext(t.Context(), `SELECT current_schema()`).Scan(&schema); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.ExecContext(t.Context(), `CREATE ROLE app; GRANT USAGE ON SCHEMA `+schema+` TO app; GRANT SELECT, INSERT, DELETE ON ringback_seen TO app`); err != nil {
		t.Fatal(err)
	}
	address := server.Address + " search_path=" + schema + " role=app"
	db := openDB(t, "pgx", address)
	defer db.Close()
	if err := inbox.Create(t.Context(), db, inbox.PostgreSQL); err != nil {
		t.Error(err)
	}
	pool, err := pgxpool.New(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := postgres.Create(t.Context(), pool); err != nil {
		t.Error(err)
	}
	if first, err := inbox.Do(t.Context(), db, "msg_1", func(*sql.Tx) error { return nil }); !first || err != nil {
		t.Error(first, err)
	}
	if n, err := inbox.Sweep(t.Context(), db, time.Now().Add(time.Second)); n != 1 || err != nil {
		t.Error(n, err)
	}
}

// testHidden: on PostgreSQL nothing is committed after a statement has failed, and Do
// says so, though fn does not.
func testHidden(t *testing.T, address string) {
	db := openDB(t, "pgx", address)
	e := sqlEngine(t, db, inbox.PostgreSQL)
	pool, err := pgxpool.New(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	const nonsense = "INSERT INTO nowhere VALUES (1)"
	if first, err := inbox.Do(t.Context(), db, "msg_1", func(tx *sql.Tx) error {
		_, _ = tx.ExecContext(t.Context(), nonsense) // Hidden.
		return nil
	}); first || err == nil {
		t.Errorf("database/sql: %v, %v", first, err)
	}
	if first, err := postgres.Do(t.Context(), pool, "msg_1", func(tx pgx.Tx) error {
		_, _ = tx.Exec(t.Context(), nonsense) // Hidden.
		return nil
	}); first || err == nil {
		t.Errorf("pgx: %v, %v", first, err)
	}
	if !once(t, e, "msg_1") {
		t.Error("the claim was kept")
	}
}

// testReadBefore holds the comment of Once to what SQLite does with a transaction that
// has read before another wrote: waiting is of no use, so it fails at once. One that is
// IMMEDIATE, or claims first, is not troubled.
func testReadBefore(t *testing.T) {
	dsn := sqliteDSN(t)
	db := openDB(t, "sqlite", dsn)
	e := sqlEngine(t, db, inbox.SQLite)
	read := func(db *sql.DB) *sql.Tx {
		t.Helper()
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := tx.QueryRowContext(t.Context(), countEffects).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return tx
	}
	nothing := func() error { return nil }
	tx := read(db)
	if !once(t, e, "msg_1") {
		t.Fatal("a double")
	}
	first, err := inbox.Once(t.Context(), tx, "msg_2", nothing)
	var busy *modernc.Error
	if first || !errors.As(err, &busy) || busy.Code() != sqlite3.SQLITE_BUSY_SNAPSHOT {
		t.Errorf("got %v, %v", first, err)
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	immediate := openDB(t, "sqlite", dsn+"&_txlock=immediate")
	defer immediate.Close()
	tx = read(immediate)
	if first, err := inbox.Once(t.Context(), tx, "msg_2", nothing); !first || err != nil {
		t.Errorf("got %v, %v", first, err)
	}
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
}

// testSnapshots holds the comment of Once to what PostgreSQL does under the
// stricter levels.
func testSnapshots(t *testing.T, address string) {
	db := openDB(t, "pgx", address)
	sqlEngine(t, db, inbox.PostgreSQL)
	for _, level := range []sql.IsolationLevel{sql.LevelRepeatableRead, sql.LevelSerializable} {
		id := "msg_" + level.String()
		tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: level})
		if err != nil {
			t.Fatal(err)
		}
		var one int
		if err := tx.QueryRowContext(t.Context(), "SELECT 1 FROM pg_class LIMIT 1").Scan(&one); err != nil { // Takes the snapshot.
			t.Fatal(err)
		}
		if first, err := inbox.Do(t.Context(), db, id, func(*sql.Tx) error { return nil }); !first || err != nil {
			t.Fatal(first, err)
		}
		first, err := inbox.Once(t.Context(), tx, id, func() error { return nil })
		var refused *pgconn.PgError
		if first || !errors.As(err, &refused) || refused.Code != "40001" {
			t.Errorf("%s: first is %v, error %v", level, first, err)
		}
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
	}
}

func TestDo(t *testing.T) {
	db := openDB(t, "sqlite", sqliteDSN(t))
	e := sqlEngine(t, db, inbox.SQLite)
	add := func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), addEffect, "x")
		return err
	}
	no := errors.New("no")
	if _, err := inbox.Do(t.Context(), db, "msg_1", func(tx *sql.Tx) error { return errors.Join(add(tx), no) }); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = inbox.Do(t.Context(), db, "msg_1", func(tx *sql.Tx) error { panic(add(tx)) })
		t.Error("the panic was swallowed")
	}()
	if n := e.effects(t); n != 0 {
		t.Errorf("%d effects of failures", n)
	}
	for i := range 3 {
		if first, err := inbox.Do(t.Context(), db, "msg_1", add); first != (i == 0) || err != nil {
			t.Errorf("time %d: %v, %v", i, first, err)
		}
	}
	if n := e.effects(t); n != 1 {
		t.Errorf("%d effects", n)
	}
	if _, is := any(db).(inbox.Tx); is {
		t.Error("a database passes for a transaction")
	}
	if _, err := inbox.Schema("mysql"); err == nil || inbox.Create(t.Context(), db, "mysql") == nil {
		t.Error("there is a schema for mysql")
	}
}

// counting is a driver's connector that counts what database/sql asks of it.
type counting struct {
	driver.Connector
	statements, prepared atomic.Int32
}

func (c *counting) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	return &countingConn{conn, c}, err
}

type countingConn struct {
	driver.Conn
	c *counting
}

func (c *countingConn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	c.c.statements.Add(1)
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, q, args)
}

func (c *countingConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	c.c.statements.Add(1)
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, q, args)
}

func (c *countingConn) PrepareContext(ctx context.Context, q string) (driver.Stmt, error) {
	c.c.prepared.Add(1)
	return c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, q)
}

func (c *countingConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	return c.Conn.(driver.ConnBeginTx).BeginTx(ctx, o)
}

// sqliteConnector opens a file with the driver itself.
type sqliteConnector struct{ dsn string }

func (s sqliteConnector) Connect(context.Context) (driver.Conn, error) { return s.Driver().Open(s.dsn) }
func (sqliteConnector) Driver() driver.Driver                          { return &modernc.Driver{} }

// testRoundTrips: Once adds one statement to a transaction, which is one round
// trip, for firsts and doubles alike.
func testRoundTrips(t *testing.T, server *pgtest.Server) {
	address := server.Schema(t)
	config, err := pgx.ParseConfig(address)
	if err != nil {
		t.Fatal(err)
	}
	proxy := newProxy(t, server.Dir)
	config.Host, config.Port = "127.0.0.1", uint16(proxy.Addr().(*net.TCPAddr).Port)
	for _, x := range []struct {
		name      string
		dialect   inbox.Dialect
		connector driver.Connector
	}{
		{"sqlite", inbox.SQLite, sqliteConnector{sqliteDSN(t)}},
		{"postgresql", inbox.PostgreSQL, stdlib.GetConnector(*config)},
	} {
		c := &counting{Connector: x.connector}
		db := sql.OpenDB(c)
		defer db.Close()
		db.SetMaxOpenConns(1)
		if err := inbox.Create(t.Context(), db, x.dialect); err != nil {
			t.Fatal(err)
		}
		trips := func(ids ...string) (statements, trips int32) {
			tx, err := db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			before, prepared, trip := c.statements.Load(), c.prepared.Load(), proxy.trips.Load()
			for _, id := range ids {
				if _, err := inbox.Once(t.Context(), tx, id, func() error { return nil }); err != nil {
					t.Fatal(err)
				}
			}
			statements, trips = c.statements.Load()-before+c.prepared.Load()-prepared, proxy.trips.Load()-trip
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			return statements, trips
		}
		trips("msg_0") // pgx prepares a statement when a connection runs it first.
		for _, ids := range [][]string{{"msg_1"}, {"msg_1"}, {"msg_2", "msg_3", "msg_1"}} {
			statements, over := trips(ids...)
			if n := int32(len(ids)); statements != n || x.name == "postgresql" && over != n {
				t.Errorf("%s: %d calls are %d statements and %d round trips", x.name, n, statements, over)
			}
		}
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for i, id := range []string{"msg_4", "msg_4", "msg_5"} {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		before := proxy.trips.Load()
		if _, err := postgres.Once(t.Context(), tx, id, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		if n := proxy.trips.Load() - before; i > 0 && n != 1 {
			t.Errorf("pgx: %d round trips", n)
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// proxy stands between a client and PostgreSQL and counts the messages for which
// the client waits: Query and Sync.
type proxy struct {
	net.Listener
	trips atomic.Int32
}

func newProxy(t *testing.T, dir string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", filepath.Join(dir, ".s.PGSQL.5432"))
			if err != nil {
				t.Error(err)
				_ = client.Close()
				return
			}
			wg.Go(func() {
				defer server.Close()
				p.forward(server, client)
			})
			wg.Go(func() {
				defer client.Close()
				_, _ = io.Copy(client, server) // Ends with either side.
			})
		}
	})
	return p
}

// forward passes on the client's messages: the first has no type, then each has
// one byte for it and four for its length.
func (p *proxy) forward(server io.Writer, client io.Reader) {
	first := true
	for {
		head := make([]byte, 5)
		if first {
			head = head[1:]
		}
		if _, err := io.ReadFull(client, head); err != nil {
			return
		}
		rest := make([]byte, binary.BigEndian.Uint32(head[len(head)-4:])-4)
		if _, err := io.ReadFull(client, rest); err != nil {
			return
		}
		if !first && bytes.IndexByte([]byte("QS"), head[0]) >= 0 {
			p.trips.Add(1)
		}
		// A request for TLS is answered with one byte, and the real first message follows.
		first = first && len(rest) == 4
		if _, err := server.Write(append(head, rest...)); err != nil {
			return
		}
	}
}
