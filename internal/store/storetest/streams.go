package storetest

import (
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

func testStream(s *suite) {
	s.createJob()
	c := s.claimJobs(1)[0]
	after := func(n int64, limit int) ([]store.StreamGroup, store.StreamState) {
		s.Helper()
		groups, state, err := s.st.StreamAfter(s.ctx, "p1", c.ID, n, limit)
		s.ok(err)
		return groups, state
	}
	groups, state := after(0, 10)
	s.same(len(groups), 0)
	s.same(state, store.StreamState{})
	a := store.StreamGroup{First: 3, Last: 5, Data: []byte("abc")}
	b := store.StreamGroup{First: 6, Last: 6, Data: []byte("d")}
	s.ok(s.st.AppendStream(s.ctx, c.ID, c.Lease, a))
	s.fails(s.st.AppendStream(s.ctx, c.ID, ringback.Lease{Token: c.Lease.Token + 1}, b), ringback.Stale)
	s.fails(s.st.AppendStream(s.ctx, c.ID, c.Lease, a), ringback.Stale) // The stream is further already.
	s.ok(s.st.AppendStream(s.ctx, c.ID, c.Lease, b))
	s.reopen()
	groups, state = after(0, 10)
	s.same(groups, []store.StreamGroup{a, b})
	s.same(state, store.StreamState{Last: 6})
	groups, _ = after(0, 1)
	s.same(groups, []store.StreamGroup{a})
	groups, _ = after(4, 10) // A group holds some of what was asked for.
	s.same(groups, []store.StreamGroup{a, b})
	groups, _ = after(5, 10)
	s.same(groups, []store.StreamGroup{b})
	groups, state = after(6, 10)
	s.same(len(groups), 0)
	s.same(state, store.StreamState{Last: 6})
	_, _, err := s.st.StreamAfter(s.ctx, "p2", c.ID, 0, 10)
	s.fails(err, ringback.NotFound)
	_, _, err = s.st.StreamAfter(s.ctx, "p1", "none", 0, 10)
	s.fails(err, ringback.NotFound)

	s.ok(s.st.EndJob(s.ctx, c.ID, &c.Lease, &store.End{State: ringback.Completed, At: s.now}))
	s.fails(s.st.AppendStream(s.ctx, c.ID, c.Lease, store.StreamGroup{First: 7, Last: 7, Data: []byte("e")}), ringback.Stale)
	groups, state = after(5, 10)
	s.same(groups, []store.StreamGroup{b})
	s.same(state, store.StreamState{Last: 6, Ended: true})
	s.ok(s.st.DeleteJob(s.ctx, "p1", c.ID))
	_, _, err = s.st.StreamAfter(s.ctx, "p1", c.ID, 0, 10)
	s.fails(err, ringback.NotFound)
}

func testCheckpoint(s *suite) {
	s.createJob()
	c := s.claimJobs(1)[0]
	s.ok(s.st.Checkpoint(s.ctx, c.ID, c.Lease, []byte("half way"), 50))
	s.fails(s.st.Checkpoint(s.ctx, c.ID, ringback.Lease{Token: c.Lease.Token + 1}, []byte("x"), 1), ringback.Stale)
	s.ok(s.st.Checkpoint(s.ctx, c.ID, c.Lease, nil, 60)) // The note stays.
	s.ok(s.st.ReleaseJobs(s.ctx, []store.Held{{ID: c.ID, Token: c.Lease.Token}}, s.now, false))
	s.reopen()
	again := s.claimJobs(1)[0]
	s.same(string(again.Checkpoint), "half way")
	s.same(again.Progress, 60)
	s.fails(s.st.Checkpoint(s.ctx, c.ID, c.Lease, []byte("late"), 99), ringback.Stale)
	j, err := s.st.Job(s.ctx, "p1", c.ID)
	s.ok(err)
	s.same(j.Progress, 60)
	s.ok(s.st.EndJob(s.ctx, c.ID, &again.Lease, &store.End{State: ringback.Completed, Output: []byte(`{"a":1}`), At: s.now}))
	j, err = s.st.Job(s.ctx, "p1", c.ID)
	s.ok(err)
	peeked, err := s.st.PeekJob(s.ctx, "p1", c.ID)
	s.ok(err)
	s.same(len(peeked.Spec), 0)
	peeked.Spec = j.Spec
	s.same(peeked, j)
	_, err = s.st.PeekJob(s.ctx, "p2", c.ID)
	s.fails(err, ringback.NotFound)
	s.fails(s.st.Checkpoint(s.ctx, c.ID, again.Lease, nil, 100), ringback.Stale)
}

func testSweepJobs(s *suite) {
	var ended []ringback.ID
	for range 3 {
		s.createJob()
		c := s.claimJobs(1)[0]
		s.ok(s.st.EndJob(s.ctx, c.ID, &c.Lease, &store.End{State: ringback.Completed, At: s.now}))
		ended = append(ended, c.ID)
		s.now = s.now.Add(time.Hour)
	}
	open := s.createJob()
	sweep := func(kind ringback.Kind, before time.Time, limit, want int) {
		s.Helper()
		n, err := s.st.SweepJobs(s.ctx, kind, before, limit)
		s.ok(err)
		s.same(n, want)
	}
	sweep(ringback.KindBatch, s.now, 10, 0)
	sweep(ringback.KindInteraction, s.now.Add(-3*time.Hour), 10, 0)
	sweep(ringback.KindInteraction, s.now.Add(-time.Hour), 1, 1)
	sweep(ringback.KindInteraction, s.now.Add(-time.Hour), 10, 1)
	for i, id := range ended {
		_, err := s.st.Job(s.ctx, "p1", id)
		if i < 2 {
			s.fails(err, ringback.NotFound)
		} else {
			s.ok(err)
		}
	}
	sweep(ringback.KindInteraction, s.now.Add(time.Hour), 10, 1)
	_, err := s.st.Job(s.ctx, "p1", open.ID)
	s.ok(err)
}
