package sqlitefile

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c=d%20#&.db")
	write, err := Open(path, Options{Busy: time.Second, Immediate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	if _, err := write.Exec("CREATE TABLE t (n INTEGER)"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "busy_timeout": "1000", "wal_autocheckpoint": "8192"} {
		var got string
		if err := write.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v", pragma, got, err)
		}
	}
	read, err := Open(path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	if _, err := read.Exec("INSERT INTO t VALUES (1)"); err == nil {
		t.Error("a reader could write")
	}
}

func TestConn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := NewConn(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Change("CREATE TABLE t (n INTEGER PRIMARY KEY, s TEXT, b BLOB) STRICT"); err != nil {
		t.Fatal(err)
	}
	insert := Rows{Head: "INSERT INTO t VALUES ", Row: Row(3), Tail: " ON CONFLICT DO NOTHING"}
	next := 0
	for _, rows := range Chunks {
		var args []any
		for range rows {
			args = append(args, next, "text", []byte{0})
			next++
		}
		for _, want := range []int64{int64(rows), 0} {
			if n, err := c.ChangeRows(insert, rows, args...); err != nil || n != want {
				t.Errorf("%d rows: %d were changed, %v", rows, n, err)
			}
		}
	}
	if n, err := c.Change("UPDATE t SET s = NULL WHERE n >= ?", 80); err != nil || n != int64(next-80) {
		t.Errorf("%d were changed, %v", n, err)
	}
	if _, err := c.Change("INSERT INTO t VALUES (?, ?, ?)", "not a number", "", []byte{}); err == nil {
		t.Error("a column took what it must not")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestCheckpointer: the log does not grow as long as commits go on.
func TestCheckpointer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE t (b BLOB)"); err != nil {
		t.Fatal(err)
	}
	copied := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	c := NewCheckpointer(db)
	before := copied()
	for range checkpointEvery {
		if _, err := db.Exec("INSERT INTO t VALUES (zeroblob(5000))"); err != nil {
			t.Fatal(err)
		}
		c.Committed()
	}
	c.Close()
	if now := copied(); now < before+checkpointEvery*5000 {
		t.Errorf("the file has %d bytes, before it was %d", now, before)
	}
}
