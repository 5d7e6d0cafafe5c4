// Package inboxtest holds the tests that every engine of an inbox passes.
package inboxtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ringback.dev/inbox"
)

// Store is what an engine implements.
type Store interface {
	inbox.Store
	inbox.BatchSettler
	inbox.Desk
}

var t0 = time.Date(2026, 10, 1, 12, 0, 0, 123456000, time.UTC)

func at(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }

func entry(id string) *inbox.Entry {
	return &inbox.Entry{Source: "s", ID: id, Type: "ping", Scheme: "v1", Sent: t0.Truncate(time.Second), Received: t0, Body: []byte(`{"type":"ping"}`), State: inbox.Pending, Due: t0}
}

// Run runs the suite. open returns a new, empty store.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, x := range []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"Accept", testAccept}, {"Doubles", testDoubles}, {"BornClaimed", testBornClaimed}, {"Claim", testClaim}, {"Claimers", testClaimers},
		{"Lost", testLost}, {"Settle", testSettle}, {"SettleAll", testSettleAll}, {"SupersededBeside", testSupersededBeside}, {"Extend", testExtend}, {"Contention", testContention}, {"Released", testReleased}, {"Failures", testFailures},
		{"Entries", testEntries}, {"Pages", testPages}, {"Retry", testRetry}, {"PurgeEnds", testPurgeEnds}, {"Steps", testSteps}, {"Purge", testPurge}, {"PurgeUnderWay", testPurgeUnderWay}, {"Sweep", testSweep}, {"Refused", testRefused},
		{"Group", testGroup},
	} {
		t.Run(x.name, func(t *testing.T) { x.run(t, &suite{t, open(t)}) })
	}
}

type suite struct {
	*testing.T
	Store
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) accept(e *inbox.Entry) bool {
	s.Helper()
	first, err := s.Accept(s.Context(), e)
	s.must(err)
	return first
}

func (s *suite) add(ids ...string) {
	s.Helper()
	for _, id := range ids {
		if !s.accept(entry(id)) {
			s.Fatalf("%s is a double", id)
		}
	}
}

func (s *suite) claim(now, until time.Time, max int) []inbox.Entry {
	s.Helper()
	claimed, err := s.Claim(s.Context(), "s", now, until, max)
	s.must(err)
	return claimed
}

// claimOne claims the only entry that is due.
func (s *suite) claimOne(now, until time.Time) inbox.Entry {
	s.Helper()
	claimed := s.claim(now, until, 10)
	if len(claimed) != 1 {
		s.Fatalf("%d entries were claimed, want 1", len(claimed))
	}
	return claimed[0]
}

func (s *suite) settle(e inbox.Entry, o inbox.Outcome) {
	s.Helper()
	s.must(s.Settle(s.Context(), e.Lease(), o))
}

func (s *suite) get(id string) inbox.Entry {
	s.Helper()
	e, err := s.Entry(s.Context(), "s", id)
	s.must(err)
	return e
}

func (s *suite) counts() map[inbox.State]int64 {
	s.Helper()
	c, err := s.Counts(s.Context())
	s.must(err)
	return c["s"]
}

func (s *suite) list(f inbox.Filter) (ids []string) {
	s.Helper()
	for after := ""; ; {
		page, next, err := s.Entries(s.Context(), f, after, 2)
		s.must(err)
		for _, e := range page {
			if e.Body != nil || e.Failures != nil {
				s.Error("a list has bodies or failures")
			}
			ids = append(ids, e.ID)
		}
		if next == "" {
			return ids
		}
		after = next
	}
}

func done(now time.Time) inbox.Outcome {
	return inbox.Outcome{State: inbox.Done, Started: now, At: now}
}

func failed(state inbox.State, started, now, due time.Time, text string) inbox.Outcome {
	return inbox.Outcome{State: state, Started: started, At: now, Due: due, Error: text}
}

func testAccept(t *testing.T, s *suite) {
	e := entry("msg_1")
	if !s.accept(e) {
		t.Error("the first is a double")
	}
	if diff := cmp.Diff(*e, s.get("msg_1")); diff != "" {
		t.Error(diff)
	}
	e.Body = []byte("other")
	if s.accept(e) {
		t.Error("the double is the first")
	}
	other := entry("msg_1")
	other.Source = "t"
	if !s.accept(other) {
		t.Error("another source's is a double")
	}
	if got := s.get("msg_1"); string(got.Body) != `{"type":"ping"}` {
		t.Errorf("the double changed the body to %s", got.Body)
	}
	empty := entry("msg_empty")
	empty.Type, empty.Scheme, empty.Body = "", "", nil
	s.accept(empty)
	if got := s.get("msg_empty"); len(got.Body) != 0 || got.Type != "" {
		t.Errorf("got %+v", got)
	}
	binary := entry("msg_binary")
	binary.Body = []byte{0, 0xff, 0xfe, 0}
	s.accept(binary)
	if got := s.get("msg_binary"); string(got.Body) != string(binary.Body) {
		t.Errorf("got %q", got.Body)
	}
	if _, err := s.Entry(t.Context(), "s", "msg_none"); !errors.Is(err, inbox.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// testDoubles: of many at once exactly one is the first, whatever else is in their
// groups.
func testDoubles(t *testing.T, s *suite) {
	var firsts [40]atomic.Int32
	var wg sync.WaitGroup
	for range 5 {
		for i := range firsts {
			wg.Go(func() {
				first, err := s.Accept(t.Context(), entry(fmt.Sprint("msg_", i)))
				if err != nil {
					t.Error(err)
				}
				if first {
					firsts[i].Add(1)
				}
			})
		}
	}
	wg.Wait()
	for i := range firsts {
		if n := firsts[i].Load(); n != 1 {
			t.Errorf("msg_%d was first %d times", i, n)
		}
	}
	if n := s.counts()[inbox.Pending]; n != int64(len(firsts)) {
		t.Errorf("%d are pending", n)
	}
}

func testBornClaimed(t *testing.T, s *suite) {
	e := entry("msg_1")
	e.Token, e.Working, e.Due = 1, true, at(30)
	s.accept(e)
	if got := s.claim(at(29), at(60), 10); len(got) != 0 {
		t.Errorf("%d were claimed beside the lease", len(got))
	}
	s.settle(*e, done(at(1)))
	if got := s.get("msg_1"); got.State != inbox.Done || got.Attempts != 1 || got.Working || !got.Ended.Equal(at(1)) || !got.Due.IsZero() {
		t.Errorf("got %+v", got)
	}
}

func testClaim(t *testing.T, s *suite) {
	late := entry("msg_late")
	late.Due = at(10)
	s.accept(late)
	later := entry("msg_later")
	later.Due = at(20)
	s.accept(later)
	other := entry("msg_other")
	other.Source = "t"
	s.accept(other)
	s.add("msg_1")
	if got := s.claim(at(-1), at(60), 10); len(got) != 0 {
		t.Errorf("%d are due too early", len(got))
	}
	got := s.claimOne(at(0), at(60))
	want := *entry("msg_1")
	want.Due, want.Token, want.Working = at(60), 1, true
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, s.get("msg_1")); diff != "" {
		t.Error(diff)
	}
	if got := s.claim(at(30), at(90), 1); len(got) != 1 || got[0].ID != "msg_late" {
		t.Errorf("not the one that is due longest: %+v", got)
	}
	if got := s.claim(at(30), at(90), 0); len(got) != 0 {
		t.Errorf("%d were claimed for 0", len(got))
	}
}

// testClaimers: nobody gets what another has.
func testClaimers(t *testing.T, s *suite) {
	const n = 200
	for i := range n {
		s.add(fmt.Sprint("msg_", i))
	}
	var mu sync.Mutex
	claimed := make(map[string]int)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				some, err := s.Claim(t.Context(), "s", at(0), at(60), 7)
				if err != nil {
					t.Error(err)
				}
				if len(some) == 0 {
					return
				}
				mu.Lock()
				for _, e := range some {
					claimed[e.ID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	// One that found nothing because another had locked it may have left early.
	for _, e := range s.claim(at(0), at(60), n) {
		claimed[e.ID]++
	}
	if len(claimed) != n {
		t.Errorf("%d of %d were claimed", len(claimed), n)
	}
	for id, times := range claimed {
		if times != 1 {
			t.Errorf("%s was claimed %d times", id, times)
		}
	}
}

func testLost(t *testing.T, s *suite) {
	s.add("msg_1")
	old := s.claimOne(at(0), at(30))
	got := s.claimOne(at(30), at(60))
	if got.Lost != 1 || got.Attempts != 0 || got.Token != old.Token+1 {
		t.Errorf("got %+v", got)
	}
	if err := s.Settle(t.Context(), old.Lease(), done(at(31))); !errors.Is(err, inbox.ErrStale) {
		t.Errorf("the stale lease settles: %v", err)
	}
	s.settle(got, done(at(70))) // It ran out, but nobody has taken over.
	if got := s.get("msg_1"); got.State != inbox.Done || got.Lost != 1 || got.Attempts != 1 {
		t.Errorf("got %+v", got)
	}
	if err := s.Settle(t.Context(), got.Lease(), done(at(71))); !errors.Is(err, inbox.ErrStale) {
		t.Errorf("it settles twice: %v", err)
	}
	if err := s.Settle(t.Context(), inbox.Lease{Source: "s", ID: "msg_none", Token: 1}, done(at(1))); !errors.Is(err, inbox.ErrStale) {
		t.Errorf("got %v", err)
	}
}

func testSettle(t *testing.T, s *suite) {
	s.add("msg_1")
	s.settle(s.claimOne(at(0), at(30)), failed(inbox.Pending, at(0), at(1), at(5), "no"))
	got := s.get("msg_1")
	if got.State != inbox.Pending || got.Attempts != 1 || got.LastError != "no" || !got.Due.Equal(at(5)) || got.Working || !got.Ended.IsZero() {
		t.Errorf("got %+v", got)
	}
	if n := len(s.claim(at(4), at(30), 10)); n != 0 {
		t.Errorf("%d are due too early", n)
	}
	s.settle(s.claimOne(at(5), at(30)), failed(inbox.Dead, at(5), at(6), time.Time{}, "never"))
	got = s.get("msg_1")
	if got.State != inbox.Dead || got.Attempts != 2 || got.LastError != "never" || !got.Ended.Equal(at(6)) || !got.Due.IsZero() {
		t.Errorf("got %+v", got)
	}
	if n := len(s.claim(at(1000), at(2000), 10)); n != 0 {
		t.Errorf("%d dead letters were claimed", n)
	}
	if s.accept(entry("msg_1")) {
		t.Error("the dead letter's double is the first")
	}
}

// testSettleAll: stale ones cost the others nothing.
func testSettleAll(t *testing.T, s *suite) {
	const n = 90
	for i := range n {
		s.add(fmt.Sprint("msg_", i))
	}
	var all []inbox.Settlement
	var want []int
	for i, e := range s.claim(at(0), at(30), n) {
		x := inbox.Settlement{Lease: e.Lease(), Outcome: done(at(1))}
		switch i % 9 {
		case 0:
			x.Token++
			want = append(want, i)
		case 1:
			x.Outcome = failed(inbox.Dead, at(0), at(1), time.Time{}, "no")
		}
		all = append(all, x)
	}
	for round := range 2 { // The second time all are stale.
		stale, err := s.SettleAll(t.Context(), all)
		if diff := cmp.Diff(want, stale); diff != "" || err != nil {
			t.Error(diff, err)
		}
		if diff := cmp.Diff(map[inbox.State]int64{inbox.Done: n - n/9*2, inbox.Dead: n / 9, inbox.Pending: n / 9}, s.counts()); diff != "" {
			t.Error(diff)
		}
		if round == 0 {
			want = nil
			for i := range all {
				want = append(want, i)
			}
		}
	}
	all[1].State = "lost"
	if _, err := s.SettleAll(t.Context(), all); err == nil {
		t.Error("the state lost passes")
	}
	if stale, err := s.SettleAll(t.Context(), nil); len(stale) != 0 || err != nil {
		t.Error(stale, err)
	}
}

// testSupersededBeside: of two leases of one entry that are settled at once the older
// one is stale.
func testSupersededBeside(t *testing.T, s *suite) {
	s.add("msg_1")
	old := s.claimOne(at(0), at(30))
	now := s.claimOne(at(30), at(60))
	stale, err := s.SettleAll(t.Context(), []inbox.Settlement{{Lease: old.Lease(), Outcome: failed(inbox.Dead, at(0), at(31), time.Time{}, "old")}, {Lease: now.Lease(), Outcome: done(at(32))}})
	if diff := cmp.Diff([]int{0}, stale); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if got := s.get("msg_1"); got.State != inbox.Done || got.Attempts != 1 || len(got.Failures) != 0 {
		t.Errorf("got %+v", got)
	}
}

func testExtend(t *testing.T, s *suite) {
	s.add("msg_1", "msg_2")
	claimed := s.claim(at(0), at(30), 10)
	stale := claimed[0].Lease()
	stale.Token--
	if stale.ID == "msg_2" {
		claimed[0], claimed[1] = claimed[1], claimed[0]
		stale = claimed[0].Lease()
		stale.Token--
	}
	s.must(s.Extend(t.Context(), []inbox.Lease{stale, claimed[1].Lease(), {Source: "s", ID: "msg_none", Token: 1}}, at(60)))
	if got := s.claimOne(at(30), at(90)); got.ID != "msg_1" {
		t.Errorf("%s was claimed beside its lease", got.ID)
	}
	s.must(s.Extend(t.Context(), nil, at(60)))
}

// testContention: those who work on the same entries at once don't wait for each
// other in a ring.
func testContention(t *testing.T, s *suite) {
	const n = 400
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { s.accept(entry(fmt.Sprint("msg_", i))) })
	}
	wg.Wait()
	claimed := s.claim(at(0), at(30), n)
	var leases []inbox.Lease
	for _, i := range rand.Perm(len(claimed)) {
		leases = append(leases, claimed[i].Lease())
	}
	settled := make(chan struct{})
	begin := time.Now()
	var busy sync.WaitGroup
	until := func(do func() error) {
		busy.Go(func() {
			for {
				if err := do(); err != nil {
					t.Error(err)
				}
				select {
				case <-settled:
					return
				default:
				}
			}
		})
	}
	for range 2 {
		until(func() error { return s.Extend(t.Context(), leases, at(60)) })
		until(func() error {
			_, err := s.Retry(t.Context(), inbox.Filter{}, at(2))
			return err
		})
		until(func() error {
			_, err := s.Claim(t.Context(), "s", at(10), at(60), 10)
			return err
		})
		until(func() error { return s.Sweep(t.Context(), "s", at(15), at(5)) })
	}
	for i, l := range leases {
		wg.Go(func() {
			o := done(at(10))
			if i%2 == 0 {
				o = failed(inbox.Dead, at(0), at(10), time.Time{}, "no")
			}
			if err := s.Settle(t.Context(), l, o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(settled)
	busy.Wait()
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

func testReleased(t *testing.T, s *suite) {
	s.add("msg_1")
	s.settle(s.claimOne(at(0), at(30)), inbox.Outcome{State: inbox.Pending, Due: at(1), Started: at(1), At: at(1), Released: true})
	got := s.claimOne(at(1), at(30))
	if got.Attempts != 0 || got.Lost != 0 || got.Token != 2 || got.LastError != "" {
		t.Errorf("got %+v", got)
	}
}

func testFailures(t *testing.T, s *suite) {
	s.add("msg_1", "msg_2")
	for i := range 3 {
		for _, e := range s.claim(at(10*i), at(10*i+5), 10) {
			s.settle(e, failed(inbox.Pending, at(10*i), at(10*i).Add(1500*time.Microsecond), at(10*i+1), fmt.Sprint(e.ID, " ", i)))
		}
	}
	for _, id := range []string{"msg_1", "msg_2"} {
		var want []inbox.Failure
		for i := range 3 {
			want = append(want, inbox.Failure{Number: i + 1, Started: at(10 * i), Took: 1500 * time.Microsecond, Error: fmt.Sprint(id, " ", i)})
		}
		if diff := cmp.Diff(want, s.get(id).Failures); diff != "" {
			t.Error(diff)
		}
	}
}

func testEntries(t *testing.T, s *suite) {
	for i := range 5 {
		e := entry(fmt.Sprint("msg_", i))
		e.Received = at(i)
		if i == 3 {
			e.Type = "other"
		}
		s.accept(e)
	}
	x := entry("msg_x")
	x.Source = "t"
	s.accept(x)
	claimed := s.claim(at(0), at(30), 10)
	for _, e := range claimed {
		switch e.ID {
		case "msg_1":
			s.settle(e, done(at(1)))
		case "msg_2":
			s.settle(e, failed(inbox.Dead, at(1), at(1), time.Time{}, "no"))
		}
	}
	for _, c := range []struct {
		f    inbox.Filter
		want []string
	}{
		{inbox.Filter{}, []string{"msg_x", "msg_4", "msg_3", "msg_2", "msg_1", "msg_0"}},
		{inbox.Filter{Source: "s"}, []string{"msg_4", "msg_3", "msg_2", "msg_1", "msg_0"}},
		{inbox.Filter{State: inbox.Pending}, []string{"msg_x", "msg_4", "msg_3", "msg_0"}},
		{inbox.Filter{State: inbox.Done}, []string{"msg_1"}},
		{inbox.Filter{State: inbox.Dead}, []string{"msg_2"}},
		{inbox.Filter{State: inbox.Dead, Source: "t"}, nil},
		{inbox.Filter{Type: "other"}, []string{"msg_3"}},
		{inbox.Filter{IDs: []string{"msg_0", "msg_x", "msg_none"}}, []string{"msg_x", "msg_0"}},
		{inbox.Filter{Source: "s", From: at(1), Before: at(3)}, []string{"msg_2", "msg_1"}},
		{inbox.Filter{EndedBefore: at(2)}, []string{"msg_2", "msg_1"}},
		{inbox.Filter{State: inbox.Dead, EndedBefore: at(1)}, nil},
	} {
		if diff := cmp.Diff(c.want, s.list(c.f), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%+v: %s", c.f, diff)
		}
	}
	counts, err := s.Counts(t.Context())
	s.must(err)
	want := map[string]map[inbox.State]int64{"s": {inbox.Pending: 3, inbox.Done: 1, inbox.Dead: 1}, "t": {inbox.Pending: 1}}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Error(diff)
	}
}

// testPages: there is a cursor as long as there is more, and no longer.
func testPages(t *testing.T, s *suite) {
	s.add("msg_1", "msg_2", "msg_3", "msg_4")
	for _, c := range []struct{ max, pages int }{{1, 4}, {2, 2}, {3, 2}, {4, 1}, {5, 1}} {
		var pages, entries int
		for after := ""; ; pages++ {
			page, next, err := s.Entries(t.Context(), inbox.Filter{}, after, c.max)
			s.must(err)
			entries += len(page)
			if after = next; next == "" {
				pages++
				break
			}
		}
		if pages != c.pages || entries != 4 {
			t.Errorf("%d entries are %d pages of %d, want %d", entries, pages, c.max, c.pages)
		}
	}
	for _, max := range []int{0, -1} {
		if _, _, err := s.Entries(t.Context(), inbox.Filter{}, "", max); err == nil {
			t.Errorf("pages of %d pass", max)
		}
		if got := s.claim(at(0), at(30), max); len(got) != 0 {
			t.Errorf("%d were claimed for %d", len(got), max)
		}
	}
}

// testPurgeEnds: new entries that match, which come all the time, don't keep Purge.
func testPurgeEnds(t *testing.T, s *suite) {
	const most = 5000
	var added atomic.Int32
	ended, begun := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
				}
				i := added.Add(1)
				if i > most {
					t.Errorf("it goes on after %d entries", most)
					return
				}
				if _, err := s.Accept(t.Context(), entry(fmt.Sprint("msg_", i))); err != nil {
					t.Error(err)
				}
				if i == 32 {
					close(begun)
				}
			}
		})
	}
	<-begun
	if n, err := s.Purge(t.Context(), inbox.Filter{State: inbox.Pending}, at(2)); n == 0 || err != nil {
		t.Errorf("%d were purged, %v", n, err)
	}
	close(ended)
	wg.Wait()
}

// testSteps: what takes several steps reaches all, and nothing else.
func testSteps(t *testing.T, s *suite) {
	const n = 2500
	var all []inbox.Settlement
	var wg sync.WaitGroup
	for i := range n {
		e := entry(fmt.Sprint("msg_", i))
		e.Token, e.Working, e.Due = 1, true, at(30)
		wg.Go(func() { s.accept(e) })
		o := done(at(1))
		if i%5 == 0 {
			o = failed(inbox.Dead, at(0), at(1), time.Time{}, "no")
		}
		all = append(all, inbox.Settlement{Lease: e.Lease(), Outcome: o})
	}
	wg.Wait()
	if stale, err := s.SettleAll(t.Context(), all); len(stale) != 0 || err != nil {
		t.Fatal(stale, err)
	}
	if got, err := s.Purge(t.Context(), inbox.Filter{State: inbox.Done}, at(2)); got != n-n/5 || err != nil {
		t.Errorf("%d were purged, %v", got, err)
	}
	if got, err := s.Retry(t.Context(), inbox.Filter{}, at(2)); got != n/5 || err != nil {
		t.Errorf("%d were retried, %v", got, err)
	}
	if diff := cmp.Diff(map[inbox.State]int64{inbox.Pending: n / 5}, s.counts()); diff != "" {
		t.Error(diff)
	}
	if got, err := s.Purge(t.Context(), inbox.Filter{State: inbox.Pending}, at(3)); got != n/5 || err != nil {
		t.Errorf("%d were purged, %v", got, err)
	}
	if diff := cmp.Diff(map[inbox.State]int64{}, s.counts()); diff != "" { // Their ids are remembered.
		t.Error(diff)
	}
}

func testRetry(t *testing.T, s *suite) {
	s.add("msg_dead", "msg_waits", "msg_done", "msg_busy")
	for _, e := range s.claim(at(0), at(30), 10) {
		switch e.ID {
		case "msg_dead":
			s.settle(e, failed(inbox.Dead, at(0), at(1), time.Time{}, "no"))
		case "msg_waits":
			s.settle(e, failed(inbox.Pending, at(0), at(1), at(100), "no"))
		case "msg_done":
			s.settle(e, done(at(1)))
		}
	}
	n, err := s.Retry(t.Context(), inbox.Filter{IDs: []string{"msg_none"}}, at(2))
	if n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	n, err = s.Retry(t.Context(), inbox.Filter{}, at(2))
	if n != 2 || err != nil {
		t.Errorf("%d were retried, want 2; %v", n, err)
	}
	claimed := s.claim(at(2), at(30), 10)
	if len(claimed) != 2 {
		t.Fatalf("%d were claimed, want 2", len(claimed))
	}
	for _, e := range claimed {
		want := map[string]int{"msg_dead": 0, "msg_waits": 1}[e.ID]
		if e.Attempts != want || e.Lost != 0 || e.State != inbox.Pending || !e.Ended.IsZero() || e.LastError != "no" {
			t.Errorf("got %+v", e)
		}
		s.settle(e, done(at(3)))
	}
	if got := s.get("msg_dead"); len(got.Failures) != 1 || got.State != inbox.Done {
		t.Errorf("got %+v", got)
	}
}

func testPurge(t *testing.T, s *suite) {
	s.add("msg_dead", "msg_waits", "msg_done")
	for _, e := range s.claim(at(0), at(30), 10) {
		switch e.ID {
		case "msg_dead":
			s.settle(e, failed(inbox.Dead, at(0), at(1), time.Time{}, "no"))
		case "msg_waits":
			s.settle(e, failed(inbox.Pending, at(0), at(1), at(100), "no"))
		case "msg_done":
			s.settle(e, done(at(1)))
		}
	}
	if n, err := s.Purge(t.Context(), inbox.Filter{State: inbox.Dead}, at(2)); n != 1 || err != nil {
		t.Errorf("%d were purged, %v", n, err)
	}
	if n, err := s.Purge(t.Context(), inbox.Filter{IDs: []string{"msg_waits", "msg_dead"}}, at(2)); n != 1 || err != nil {
		t.Errorf("%d were purged, %v", n, err)
	}
	if diff := cmp.Diff([]string{"msg_done"}, s.list(inbox.Filter{})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[inbox.State]int64{inbox.Done: 1}, s.counts()); diff != "" {
		t.Error(diff)
	}
	if _, err := s.Entry(t.Context(), "s", "msg_dead"); !errors.Is(err, inbox.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if n := len(s.claim(at(1000), at(2000), 10)); n != 0 {
		t.Errorf("%d purged entries were claimed", n)
	}
	if n, err := s.Retry(t.Context(), inbox.Filter{}, at(1000)); n != 0 || err != nil {
		t.Errorf("%d were retried, %v", n, err)
	}
	for _, id := range []string{"msg_dead", "msg_waits"} {
		if s.accept(entry(id)) {
			t.Errorf("%s is forgotten", id)
		}
	}
}

func testPurgeUnderWay(t *testing.T, s *suite) {
	s.add("msg_1")
	e := s.claimOne(at(0), at(30))
	if n, err := s.Purge(t.Context(), inbox.Filter{State: inbox.Pending}, at(1)); n != 1 || err != nil {
		t.Errorf("%d were purged, %v", n, err)
	}
	if err := s.Settle(t.Context(), e.Lease(), failed(inbox.Pending, at(0), at(1), at(2), "no")); !errors.Is(err, inbox.ErrStale) {
		t.Errorf("got %v", err)
	}
	s.must(s.Extend(t.Context(), []inbox.Lease{e.Lease()}, at(60)))
	if n := len(s.claim(at(1000), at(2000), 10)); n != 0 {
		t.Errorf("%d purged entries were claimed", n)
	}
}

func testSweep(t *testing.T, s *suite) {
	const n = 1200 // More than one step.
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { s.accept(entry(fmt.Sprint("msg_", i))) })
	}
	wg.Wait()
	for _, e := range s.claim(at(0), at(30), n) {
		wg.Go(func() {
			o := done(at(10))
			switch e.ID {
			case "msg_0":
				o = failed(inbox.Dead, at(0), at(10), time.Time{}, "no")
			case "msg_1":
				o = failed(inbox.Pending, at(0), at(10), at(20), "no")
			case "msg_2":
				o = done(at(20))
			}
			s.settle(e, o)
		})
	}
	wg.Wait()
	rest := map[inbox.State]int64{inbox.Done: 1, inbox.Dead: 1, inbox.Pending: 1}
	s.must(s.Sweep(t.Context(), "other", at(1000), at(1000)))
	s.must(s.Sweep(t.Context(), "s", at(10), at(10)))
	if got := s.counts()[inbox.Done]; got != n-2 {
		t.Errorf("%d are done after the early sweep", got)
	}
	s.must(s.Sweep(t.Context(), "s", at(15), at(10)))
	if diff := cmp.Diff(rest, s.counts()); diff != "" {
		t.Error(diff)
	}
	if s.accept(entry("msg_7")) {
		t.Error("the id is forgotten with the entry")
	}
	s.must(s.Sweep(t.Context(), "s", at(15), at(15)))
	if diff := cmp.Diff(rest, s.counts()); diff != "" {
		t.Error(diff)
	}
	if !s.accept(entry("msg_7")) {
		t.Error("the id is remembered for ever")
	}
	if s.accept(entry("msg_0")) || s.accept(entry("msg_2")) {
		t.Error("an id was forgotten early")
	}
}

func testRefused(t *testing.T, s *suite) {
	if _, err := s.Purge(t.Context(), inbox.Filter{Source: "s"}, t0); err == nil {
		t.Error("a purge of everything passes")
	}
	if _, err := s.Retry(t.Context(), inbox.Filter{State: inbox.Done}, t0); err == nil {
		t.Error("a retry of what is done passes")
	}
	for _, f := range []inbox.Filter{{State: "lost"}} {
		if _, _, err := s.Entries(t.Context(), f, "", 1); err == nil {
			t.Errorf("%+v passes", f)
		}
		if _, err := s.Purge(t.Context(), f, t0); err == nil {
			t.Errorf("%+v passes", f)
		}
		if _, err := s.Retry(t.Context(), f, t0); err == nil {
			t.Errorf("%+v passes", f)
		}
	}
	if _, _, err := s.Entries(t.Context(), inbox.Filter{}, "x", 1); err == nil {
		t.Error("the cursor x passes")
	}
	s.add("msg_1")
	e := s.claimOne(at(0), at(30))
	if err := s.Settle(t.Context(), e.Lease(), inbox.Outcome{State: "lost"}); err == nil {
		t.Error("the state lost passes")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Accept(ctx, entry("msg_2")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// testGroup: steps that fail cost their neighbours nothing.
func testGroup(t *testing.T, s *suite) {
	const n = 100
	for i := range n {
		s.add(fmt.Sprint("msg_", i))
	}
	var wg sync.WaitGroup
	for i, e := range s.claim(at(0), at(30), n) {
		wg.Go(func() {
			l := e.Lease()
			if i%10 == 0 {
				l.Token += 5
			}
			err := s.Settle(t.Context(), l, done(at(1)))
			if stale := errors.Is(err, inbox.ErrStale); stale != (i%10 == 0) || err != nil && !stale {
				t.Errorf("entry %d: %v", i, err)
			}
		})
		wg.Go(func() {
			if first, err := s.Accept(t.Context(), entry(fmt.Sprint("msg_", 2*i))); err != nil || first != (2*i >= n) {
				t.Errorf("msg_%d: %v, %v", 2*i, first, err)
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(map[inbox.State]int64{inbox.Done: n - n/10, inbox.Pending: n/10 + n/2}, s.counts()); diff != "" {
		t.Error(diff)
	}
}
