package inbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	_ "modernc.org/sqlite" // The driver "sqlite".

	"ringback.dev/inbox"
	"ringback.dev/inbox/sqlite"
	"ringback.dev/webhook"
)

// database is the caller's own. In real life: a file that stays, or PostgreSQL by
// the driver "pgx".
func database() (*sql.DB, error) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "app.db")+"?_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)")
	if err != nil {
		return nil, err
	}
	if err := inbox.Create(context.Background(), db, inbox.SQLite); err != nil {
		return nil, err
	}
	_, err = db.Exec("CREATE TABLE credits (account TEXT, amount INTEGER)")
	return db, err
}

// The claim of an id and its effect are one transaction of the caller's.
func ExampleOnce() {
	db, err := database()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	ctx := context.Background()
	credit := func(id string) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() // Releases the claim, unless it was committed.
		first, err := inbox.Once(ctx, tx, id, func() error {
			_, err := tx.ExecContext(ctx, "INSERT INTO credits VALUES ('ann', 10)")
			return err
		})
		if err != nil {
			return err
		}
		fmt.Println(id, "first:", first)
		return tx.Commit()
	}
	for _, id := range []string{"msg_1", "msg_2", "msg_1"} { // The sender sent the first again.
		if err := credit(id); err != nil {
			fmt.Println(err)
		}
	}
	var sum int
	if err := db.QueryRow("SELECT sum(amount) FROM credits").Scan(&sum); err != nil {
		fmt.Println(err)
	}
	fmt.Println("credited:", sum)
	// Output:
	// msg_1 first: true
	// msg_2 first: true
	// msg_1 first: false
	// credited: 20
}

// What fails leaves no claim behind: the message can come again.
func ExampleDo() {
	db, err := database()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	ctx := context.Background()
	for _, fails := range []bool{true, false, false} {
		first, err := inbox.Do(ctx, db, "msg_1", func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, "INSERT INTO credits VALUES ('ann', 10)"); err != nil {
				return err
			}
			if fails {
				return errors.New("out of luck")
			}
			return nil
		})
		fmt.Println(first, err)
	}
	// Output:
	// false out of luck
	// true <nil>
	// false <nil>
}

// A receiver whose work takes longer than senders wait: it answers when the message
// is stored, and works in the background.
func ExampleHandler() {
	dir, err := os.MkdirTemp("", "example") // In real life: a folder that stays.
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	store, err := sqlite.Open(ctx, filepath.Join(dir, "inbox.db"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	secret := webhook.NewSecret() // In real life: webhook.ParseSecret(os.Getenv("WEBHOOK_SECRET"))
	worked := make(chan string)
	hook := inbox.Handler(&webhook.Verifier{Secrets: []webhook.Secret{secret}}, store, func(_ context.Context, e *inbox.Entry) error {
		worked <- e.ID + " " + e.Type
		return nil // An error: again later; inbox.Permanent(err): never again.
	})
	ended := make(chan error)
	go func() { ended <- hook.Run(ctx) }()

	body := `{"type":"batch.succeeded","version":"v1","timestamp":"2026-10-01T12:05:00Z","data":{"id":"batches/abc"}}`
	now := time.Now()
	r := httptest.NewRequest(http.MethodPost, "/hook", strings.NewReader(body))
	r.Header.Set(webhook.HeaderID, "msg_1")
	r.Header.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	r.Header.Set(webhook.HeaderSignature, webhook.Sign("msg_1", now, []byte(body), secret))
	w := httptest.NewRecorder()
	hook.ServeHTTP(w, r)
	fmt.Println(w.Code)
	fmt.Println(<-worked)
	stop()
	fmt.Println(<-ended)
	// Output:
	// 204
	// msg_1 batch.succeeded
	// <nil>
}

// Dead letters are kept, and can be tried again when their cause was mended.
func ExampleDesk() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	store, err := sqlite.Open(ctx, filepath.Join(dir, "inbox.db"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	var desk inbox.Desk = store
	dead, _, err := desk.Entries(ctx, inbox.Filter{State: inbox.Dead}, "", 100)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range dead {
		fmt.Println(e.ID, e.Attempts, e.LastError)
	}
	n, err := desk.Retry(ctx, inbox.Filter{State: inbox.Dead, Type: "batch.succeeded"}, time.Now())
	fmt.Println(n, err)
	// Output: 0 <nil>
}
