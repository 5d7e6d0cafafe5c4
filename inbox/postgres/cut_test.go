package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ringback.dev/inbox"
	"ringback.dev/inbox/postgres"
	"ringback.dev/internal/pgtest"
)

// cutter stands between a client and PostgreSQL, and cuts a connection after so many
// more bytes of the client, or of the server.
type cutter struct {
	net.Listener
	asked, answered atomic.Int64
}

func newCutter(t *testing.T, dir string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l}
	c.whole()
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
			pass := func(to, from net.Conn, left *atomic.Int64) {
				defer to.Close()
				defer from.Close()
				buffer := make([]byte, 64<<10)
				for {
					n, err := from.Read(buffer)
					rest := left.Add(-int64(n))
					if rest < 0 {
						n = max(0, n+int(rest))
					}
					if _, failed := to.Write(buffer[:n]); failed != nil || err != nil || rest < 0 {
						return
					}
				}
			}
			wg.Go(func() { pass(server, client, &c.asked) })
			wg.Go(func() { pass(client, server, &c.answered) })
		}
	})
	return c
}

func (c *cutter) whole() {
	c.asked.Store(1 << 40)
	c.answered.Store(1 << 40)
}

// TestCut: a connection that breaks at any byte of a call leaves all of it or
// nothing, and the call can be repeated.
func TestCut(t *testing.T) {
	server := pgtest.Start(t)
	address := server.Schema(t)
	direct, err := postgres.New(t.Context(), pool(t, address))
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	c := newCutter(t, server.Dir)
	broken, err := postgres.New(t.Context(), pool(t, fmt.Sprintf("%s host=127.0.0.1 port=%d sslmode=disable", address, c.Addr().(*net.TCPAddr).Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer broken.Close()
	now := time.Now().Truncate(time.Microsecond)
	until := now.Add(time.Minute)
	entry := func(source string) *inbox.Entry {
		return &inbox.Entry{Source: source, ID: "msg_1", Sent: now, Received: now, Body: []byte("x"), State: inbox.Pending, Due: until, Token: 1, Working: true}
	}
	lease := func(source string) inbox.Lease { return inbox.Lease{Source: source, ID: "msg_1", Token: 1} }
	no := inbox.Outcome{State: inbox.Dead, Started: now, At: now, Error: "no"}
	calls := []struct {
		name string
		// call makes the change, also where it was made before; done says that it was made.
		call func(ctx context.Context, s *postgres.Store, source string) error
		done func(e inbox.Entry) bool
	}{
		{"accept", func(ctx context.Context, s *postgres.Store, source string) error {
			_, err := s.Accept(ctx, entry(source))
			return err
		}, func(e inbox.Entry) bool { return e.Working && e.Attempts == 0 && len(e.Failures) == 0 }},
		{"settle", func(ctx context.Context, s *postgres.Store, source string) error {
			err := s.Settle(ctx, lease(source), no)
			if errors.Is(err, inbox.ErrStale) {
				return nil
			}
			return err
		}, func(e inbox.Entry) bool {
			return e.State == inbox.Dead && e.Attempts == 1 && len(e.Failures) == 1 && !e.Working
		}},
		{"retry", func(ctx context.Context, s *postgres.Store, source string) error {
			_, err := s.Retry(ctx, inbox.Filter{Source: source}, now)
			return err
		}, func(e inbox.Entry) bool { return e.State == inbox.Pending && e.Attempts == 0 && e.Due.Equal(now) }},
		{"claim", func(ctx context.Context, s *postgres.Store, source string) error {
			_, err := s.Claim(ctx, source, now, until, 1)
			return err
		}, func(e inbox.Entry) bool { return e.Working && e.Token == 2 && e.Lost == 0 }},
	}
	get := func(source string) inbox.Entry {
		t.Helper()
		e, err := direct.Entry(t.Context(), source, "msg_1")
		if err != nil && !errors.Is(err, inbox.ErrNotFound) {
			t.Fatal(err)
		}
		return e
	}
	for i, x := range calls {
		errs := 0
		for _, side := range []*atomic.Int64{&c.asked, &c.answered} {
			for n, went := int64(0), false; !went; n += 37 {
				source := fmt.Sprint(x.name, "/", side == &c.asked, "/", n)
				for _, before := range calls[:i] {
					if err := before.call(t.Context(), direct, source); err != nil {
						t.Fatal(err)
					}
				}
				side.Store(n)
				err := x.call(t.Context(), broken, source)
				c.whole()
				went = err == nil
				if err != nil {
					errs++
				}
				e := get(source)
				if err == nil && !x.done(e) {
					t.Errorf("%s: no error, and it has %+v", source, e)
				}
				// What was not done is as before, and is done by another call. The pool may
				// not have noticed yet what was cut.
				for try := 0; !x.done(e); try++ {
					if try == 3 || i == 0 && e.ID != "" || i > 0 && !calls[i-1].done(e) {
						t.Fatalf("%s: half done: %+v", source, e)
					}
					_ = x.call(t.Context(), broken, source)
					e = get(source)
				}
			}
		}
		if errs == 0 {
			t.Errorf("%s: nothing was cut", x.name)
		}
	}
}
