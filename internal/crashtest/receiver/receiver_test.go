package main

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ringback.dev/inbox"
	"ringback.dev/inbox/postgres"
	"ringback.dev/inbox/sqlite"
	"ringback.dev/internal/pgtest"
	"ringback.dev/webhook"
)

// TestMain is the receiver when the environment says so: it is this program again.
func TestMain(m *testing.M) {
	if os.Getenv(secretVar) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// Of each engine. The defaults are together 10,000 events and 100 kills.
var (
	events = flag.Int("events", 5_000, "events")
	kills  = flag.Int("kills", 50, "kills")
)

const (
	senders = 48
	body    = `{"type":"batch.succeeded","version":"v1","timestamp":"2026-01-22T12:00:00Z","data":{"id":"batch_123456"}}`
)

// TestExactlyOnce sends each event one to five times, at once and in any order,
// while the receiver, and its database, are killed at random; every send goes on
// until it is acknowledged. Then each effect is there once.
func TestExactlyOnce(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		w := newWorld(t, folderVar+"="+dir)
		exactlyOnce(t, w, w.killReceiver)
		store, err := sqlite.Open(t.Context(), filepath.Join(dir, "inbox.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		w.drained(store)
		w.stop()
		check(t, "sqlite", "file:"+filepath.Join(dir, "app.db"))
	})
	t.Run("postgresql", func(t *testing.T) {
		t.Parallel()
		server := pgtest.Start(t)
		address := server.Schema(t)
		w := newWorld(t, addressVar+"="+address)
		database := func(kill func() error) {
			if err := kill(); err != nil {
				t.Fatal(err)
			}
			if err := server.Restart(); err != nil {
				t.Fatal(err)
			}
		}
		exactlyOnce(t, w, func() {
			switch rand.N(8) {
			case 0, 1, 2, 3:
				w.killReceiver()
			case 4, 5:
				database(server.Crash)
			case 6:
				database(server.Kill)
			default:
				w.kill()
				database(server.Crash)
				w.start()
			}
		})
		pool, err := pgxpool.New(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		store, err := postgres.New(t.Context(), pool)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		w.drained(store)
		check(t, "pgx", address)
	})
}

// world is the receiver and what is sent to it.
type world struct {
	*testing.T
	secret webhook.Secret
	env    []string
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr *bytes.Buffer
	client *http.Client

	mu      sync.Mutex
	url     string
	changed chan struct{} // Closed and replaced whenever something was started or acknowledged.
	acked   int
}

func newWorld(t *testing.T, env string) *world {
	w := &world{T: t, secret: webhook.NewSecret(), changed: make(chan struct{}),
		client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: senders}}}
	w.env = append(os.Environ(), env, secretVar+"="+w.secret.Reveal())
	w.start()
	return w
}

// start starts the receiver and waits until it listens.
func (w *world) start() {
	w.Helper()
	w.cmd = exec.Command(os.Args[0])
	w.cmd.Env = w.env
	w.stderr = new(bytes.Buffer)
	w.cmd.Stderr = w.stderr
	stdin, err := w.cmd.StdinPipe()
	if err != nil {
		w.Fatal(err)
	}
	w.stdin = stdin
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		w.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		w.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		w.Fatalf("the receiver does not start: %v\n%s", w.cmd.Wait(), w.stderr)
	}
	w.mu.Lock()
	w.url = strings.TrimSpace(line)
	w.mu.Unlock()
	w.news()
}

func (w *world) kill() {
	_ = w.cmd.Process.Kill() // It is running.
	_ = w.cmd.Wait()
}

func (w *world) killReceiver() {
	w.kill()
	w.start()
}

// stop ends the receiver in good order, which shows what the race detector has found.
func (w *world) stop() {
	w.Helper()
	_ = w.stdin.Close()
	if err := w.cmd.Wait(); err != nil {
		w.Errorf("the receiver ended with %v", err)
	}
}

func (w *world) news() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
}

// send sends a message until it is acknowledged.
func (w *world) send(id, path string) error {
	for {
		w.mu.Lock()
		url, changed := w.url, w.changed
		w.mu.Unlock()
		now := time.Now()
		req, err := http.NewRequest(http.MethodPost, url+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set(webhook.HeaderID, id)
		req.Header.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
		req.Header.Set(webhook.HeaderSignature, webhook.Sign(id, now, []byte(body), w.secret))
		resp, err := w.client.Do(req)
		if err == nil {
			_ = resp.Body.Close() // Nothing is read of it.
			switch resp.StatusCode {
			case http.StatusNoContent:
				w.mu.Lock()
				w.acked++
				w.mu.Unlock()
				w.news()
				return nil
			case http.StatusServiceUnavailable:
			default:
				return fmt.Errorf("%s: status %s", id, resp.Status)
			}
		}
		select { // It is no use to try again at once.
		case <-changed:
		case <-time.After(time.Second):
		}
	}
}

// exactlyOnce sends everything while something is killed again and again, which
// happens whenever a random share of the sends was acknowledged.
func exactlyOnce(t *testing.T, w *world, kill func()) {
	type send struct{ id, path string }
	var sends []send
	for i := range *events {
		s := send{fmt.Sprintf("msg_%05d", i), "/direct"}
		if i%2 == 0 {
			s.path = "/hook"
		}
		for range 1 + rand.N(5) {
			sends = append(sends, s)
		}
	}
	rand.Shuffle(len(sends), func(i, j int) { sends[i], sends[j] = sends[j], sends[i] })
	queue := make(chan send, len(sends))
	for _, s := range sends {
		queue <- s
	}
	close(queue)
	begin := time.Now()
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for s := range queue {
				if err := w.send(s.id, s.path); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range *kills {
		// Some time in the i-th of equal parts.
		at := (len(sends)*i + rand.N(len(sends))) / *kills
		for {
			w.mu.Lock()
			acked, changed := w.acked, w.changed
			w.mu.Unlock()
			if acked >= at {
				break
			}
			<-changed
		}
		kill()
	}
	wg.Wait()
	fmt.Printf("crash: %s: %d events in %d messages, %d kills, %s\n", t.Name(), *events, len(sends), *kills, time.Since(begin).Round(time.Second))
}

// drained waits until nothing is pending. Nothing may be dead.
func (w *world) drained(desk inbox.Desk) {
	w.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		counts, err := desk.Counts(w.Context())
		if err != nil {
			w.Fatal(err)
		}
		if counts[""][inbox.Dead] != 0 || counts[""][inbox.Done] == int64(*events/2) {
			if counts[""][inbox.Dead] != 0 || counts[""][inbox.Pending] != 0 {
				w.Errorf("the inbox has %v", counts)
			}
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			_ = w.cmd.Process.Signal(syscall.SIGQUIT) // It says where it is.
			_ = w.cmd.Wait()
			log := w.stderr.String()
			w.Fatalf("the inbox still has %v\n%s", counts, log[max(0, len(log)-15000):])
		}
	}
}

// check looks at the effects.
func check(t *testing.T, driver, dsn string) {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var rows, ids, total int
	if err := db.QueryRowContext(context.Background(), `SELECT count(*), count(DISTINCT id), (SELECT sum(n) FROM totals) FROM effects`).Scan(&rows, &ids, &total); err != nil {
		t.Fatal(err)
	}
	if rows != *events || ids != *events || total != *events {
		t.Errorf("%d effects of %d ids, counted %d; want %d of each", rows, ids, total, *events)
	}
}
