package sqlite

import (
	"database/sql"
	"sync"
)

// The write-ahead log is copied into the database by a goroutine of its own, while
// commits go on: done by the writer, as is SQLite's default after 1000 pages, it
// keeps everybody waiting for a few milliseconds. The log can start again only when
// all of it was copied and nothing has been added, which may never be so under
// load; then the writer copies the rest, which is little, when the log has walPages.
const (
	walPages = "8192" // 32 MiB.
	// checkpointEvery is after how many commits the log is copied.
	checkpointEvery = 128
)

// checkpointer copies the log whenever it is asked to.
type checkpointer struct {
	asked chan struct{} // Holds one element; closed at the end.
	done  sync.WaitGroup
}

func (c *checkpointer) start(db *sql.DB) {
	c.asked = make(chan struct{}, 1)
	c.done.Go(func() {
		for range c.asked {
			// After an error, such as a full disk, the log just stays as long as it is.
			_, _ = db.Exec("PRAGMA wal_checkpoint(PASSIVE)")
		}
	})
}

// ask has the log copied soon. It must not be called after stop.
func (c *checkpointer) ask() {
	select {
	case c.asked <- struct{}{}:
	default:
	}
}

func (c *checkpointer) stop() {
	if c.asked != nil {
		close(c.asked)
		c.done.Wait()
	}
}
