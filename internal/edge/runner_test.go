package edge

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ringback.dev/inbox"
	inboxsqlite "ringback.dev/inbox/sqlite"
)

// deed is what an action of a test does.
type deed func(ctx context.Context, t *task) result

func (d deed) do(ctx context.Context, t *task) result { return d(ctx, t) }
func (d deed) preview(*task) ([]string, error)        { return nil, nil }
func (d deed) String() string                         { return "a deed" }

// deeds is a setup of actions, each with a limit of its own.
func deeds(max, limit int, all map[string]deed) *setup {
	s := &setup{config: Config{MaxRunning: max}, actions: make(map[string]*action)}
	for name, d := range all {
		s.actions[name] = &action{name: name, kind: "exec", timeout: time.Hour, delays: []time.Duration{time.Millisecond}, limit: limit, doer: d}
	}
	return s
}

// slowStore is an inbox of which some calls take their time.
type slowStore struct {
	*inboxsqlite.Store
	claim         atomic.Int64 // In nanoseconds.
	settle, after time.Duration
}

func (s *slowStore) Claim(ctx context.Context, source string, now, until time.Time, max int) ([]inbox.Entry, error) {
	time.Sleep(time.Duration(s.claim.Load())) // Of a bubble.
	return s.Store.Claim(ctx, source, now, until, max)
}

func (s *slowStore) Settle(ctx context.Context, l inbox.Lease, o inbox.Outcome) error {
	time.Sleep(s.settle)
	err := s.Store.Settle(ctx, l, o)
	time.Sleep(s.after)
	return err
}

func openStore(t *testing.T) *inboxsqlite.Store {
	t.Helper()
	s, err := inboxsqlite.Open(context.Background(), filepath.Join(t.TempDir(), "inbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// running runs a runner until stop is called with the time that it has.
func running(t *testing.T, store Store, s *setup) (r *runner, stop func(grace time.Duration)) {
	t.Helper()
	r = newRunner(store, slog.New(slog.NewTextHandler(io.Discard, nil)), newMetrics(store))
	r.use(s)
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	loops.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	loops.Go(r.keep)
	return r, func(grace time.Duration) {
		cancel()
		over, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		r.Stop(over)
		loops.Wait()
	}
}

// ask has an action done about an event.
func ask(t *testing.T, r *runner, action, id string) {
	t.Helper()
	now := time.Now()
	if err := r.add(context.Background(), action, &inbox.Entry{Source: action, ID: "s/" + id, Sent: now, Received: now, State: inbox.Pending, Due: now}); err != nil {
		t.Fatal(err)
	}
}

// TestLeasesLast: nobody else gets what is under way, however long the store takes
// to tell of other work, and however long the edge takes to stop.
func TestLeasesLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{Store: openStore(t)}
		defer store.Close()
		r, stop := running(t, store, deeds(8, 8, map[string]deed{
			"r/a": func(ctx context.Context, _ *task) result { <-ctx.Done(); return failure(timedOut, "cut off") },
			"r/b": func(context.Context, *task) result { return success("") },
		}))
		synctest.Wait()
		ask(t, r, "r/a", "1")
		store.claim.Store(int64(20 * time.Second))
		free := func(seconds int) {
			for range seconds {
				time.Sleep(time.Second)
				if got, err := store.Store.Claim(context.Background(), "r/a", time.Now(), time.Now(), 1); len(got) != 0 || err != nil {
					t.Errorf("another edge gets it: %v, %v", got, err)
				}
			}
		}
		free(60)
		var stopped sync.WaitGroup
		stopped.Go(func() { stop(time.Minute) })
		free(59)
		stopped.Wait()
	})
}

// TestGivenBackTogether: what waits is given back at once when the edge stops, and
// not one by one, each as slowly as the store is.
func TestGivenBackTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := openStore(t)
		defer store.Close()
		s := deeds(8, 8, map[string]deed{"r/a": func(ctx context.Context, _ *task) result {
			<-ctx.Done()
			return failure(timedOut, "cut off")
		}})
		r, stop := running(t, &slowStore{Store: store, settle: 5 * time.Second}, s)
		synctest.Wait()
		for i := range 16 {
			ask(t, r, "r/a", fmt.Sprint(i))
		}
		begin := time.Now()
		stop(time.Second)
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("it took %s", took)
		}
		got, err := store.Claim(context.Background(), "r/a", time.Now(), time.Now(), 100)
		if len(got) != 16 || err != nil || got[0].Attempts+got[0].Lost != 0 {
			t.Errorf("%d are free: %v, %v", len(got), got, err)
		}
	})
}

// TestTurns: an action with much to do does not keep the places among all from the
// others.
func TestTurns(t *testing.T) {
	store := openStore(t)
	defer store.Close()
	begun, goOn := make(chan string, 100), make(chan struct{})
	do := func(_ context.Context, t *task) result {
		begun <- t.action
		<-goOn
		return success("")
	}
	s := deeds(1, 4, map[string]deed{"r/much": do, "r/little": do})
	r, stop := running(t, store, s)
	ask(t, r, "r/much", "0")
	<-begun
	for i := range 6 {
		ask(t, r, "r/much", fmt.Sprint(1+i))
	}
	ask(t, r, "r/little", "0")
	var order []string
	for range 3 {
		goOn <- struct{}{}
		order = append(order, <-begun)
	}
	close(goOn)
	stop(time.Minute)
	if !strings.Contains(strings.Join(order, " "), "r/little") {
		t.Errorf("begun: %v", order)
	}
}

// TestMorePlaces: a reload that allows more at once has it done at once.
func TestMorePlaces(t *testing.T) {
	store := openStore(t)
	defer store.Close()
	begun, goOn := make(chan string, 100), make(chan struct{})
	do := func(_ context.Context, t *task) result {
		begun <- t.action
		<-goOn
		return success("")
	}
	all := map[string]deed{"r/a": do, "r/b": do}
	r, stop := running(t, store, deeds(1, 1, all))
	ask(t, r, "r/a", "0")
	<-begun
	ask(t, r, "r/a", "1")
	ask(t, r, "r/b", "0")
	r.use(deeds(3, 2, all))
	for range 2 { // All hang: nothing else comes along to wake them.
		<-begun
	}
	close(goOn)
	stop(time.Minute)
}

// TestClaimedAgainAtOnce: what is due again before it is known here that it is
// settled is done then, and not when the lease of a claim runs out that nobody knows.
func TestClaimedAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := openStore(t)
		defer store.Close()
		n, again := 0, make(chan time.Time, 1)
		r, stop := running(t, &slowStore{Store: store, after: 3 * time.Second}, deeds(8, 8, map[string]deed{"r/a": func(context.Context, *task) result {
			if n++; n == 1 {
				return failure(failed, "not yet")
			}
			again <- time.Now()
			return success("")
		}}))
		synctest.Wait()
		begin := time.Now()
		ask(t, r, "r/a", "1")
		if took := (<-again).Sub(begin); took > 4*time.Second {
			t.Errorf("the second attempt was made after %s", took)
		}
		stop(time.Minute)
		if e, err := store.Entry(context.Background(), "r/a", "s/1"); err != nil || e.State != inbox.Done || e.Lost != 0 || e.Attempts != 2 {
			t.Errorf("got %+v, %v", e, err)
		}
		if len(r.held) != 0 || r.lanes["r/a"].taken != 0 {
			t.Errorf("%d held, %d taken", len(r.held), r.lanes["r/a"].taken)
		}
	})
}

// TestNewerLease: what was claimed again from ourselves, before it was known to be
// ours, is settled by the newer lease.
func TestNewerLease(t *testing.T) {
	store := openStore(t)
	defer store.Close()
	r := newRunner(store, slog.New(slog.DiscardHandler), newMetrics(store))
	r.use(deeds(1, 1, map[string]deed{"r/a": nil}))
	l := r.lanes["r/a"]
	l.taken = 2
	r.take(l, &inbox.Entry{Source: "r/a", ID: "s/1", Token: 2})
	r.take(l, &inbox.Entry{Source: "r/a", ID: "s/1", Token: 1})
	if got := r.held[name{"r/a", "s/1"}]; got.Token != 2 || l.taken != 1 || len(l.queue) != 1 {
		t.Errorf("held by %+v, %d taken, %d queued", got, l.taken, len(l.queue))
	}
}

// TestRunnerUnderStress: with failures, panics, lanes that come and go and edges that
// share the inbox, each action of each event is done, and nothing stays in hand.
func TestRunnerUnderStress(t *testing.T) {
	const events, lanes = 100, 6
	store := openStore(t)
	defer store.Close()
	var left sync.WaitGroup
	left.Add(events * lanes)
	var doubles atomic.Int32
	seen := new(sync.Map)
	do := func(_ context.Context, t *task) result {
		switch rand.IntN(8) {
		case 0:
			return failure(failed, "not yet")
		case 1:
			panic("now and then")
		}
		if _, twice := seen.LoadOrStore(t.action+t.ID, true); twice {
			doubles.Add(1)
			return success("again")
		}
		left.Done()
		return success("")
	}
	with := func(n int) *setup {
		all := make(map[string]deed)
		for i := range n {
			all[fmt.Sprintf("r/a%d", i)] = do
		}
		s := deeds(5, 3, all)
		for _, a := range s.actions {
			a.delays = make([]time.Duration, 1000)
		}
		return s
	}
	type one struct {
		*runner
		stop func(time.Duration)
	}
	var edges []one
	for range 2 {
		r, stop := running(t, store, with(lanes))
		edges = append(edges, one{r, stop})
	}
	var senders sync.WaitGroup
	for n, e := range edges {
		senders.Go(func() {
			for i := n; i < events; i += len(edges) {
				for lane := range lanes {
					ask(t, e.runner, fmt.Sprintf("r/a%d", lane), fmt.Sprint(i))
				}
				if i%20 < 2 {
					e.use(with(1 + rand.IntN(lanes)))
				}
			}
			e.use(with(lanes))
		})
	}
	senders.Wait()
	left.Wait()
	for _, e := range edges {
		e.stop(time.Minute)
		if e.runner.running != 0 || len(e.held) != 0 {
			t.Errorf("%d under way, %d held", e.runner.running, len(e.held))
		}
		for name, l := range e.lanes {
			if l.taken != 0 || l.running != 0 || len(l.queue) != 0 {
				t.Errorf("%s: %d taken, %d under way, %d queued", name, l.taken, l.running, len(l.queue))
			}
		}
	}
	if n := doubles.Load(); n > 0 {
		t.Errorf("%d were done twice", n)
	}
	counts, err := store.Counts(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for name, states := range counts {
		if states[inbox.Done] != events {
			t.Errorf("%s: %v", name, states)
		}
	}
}
