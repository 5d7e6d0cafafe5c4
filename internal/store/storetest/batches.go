package storetest

import (
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// newBatch stores a batch, leased to node if that is not empty.
func (s *suite) newBatch(node string, priority int64) (*ringback.Job, *ringback.Batch, ringback.Lease) {
	j := &ringback.Job{ID: ringback.NewBatchID(s.now), Project: "p1", Kind: ringback.KindBatch, State: ringback.Pending, Model: "m",
		Spec: []byte("{}"), Created: s.now, Updated: s.now}
	b := &ringback.Batch{DisplayName: "nightly", Priority: priority, InputFile: "in", InputBlob: "blob_of_" + string(j.ID), Expires: s.now.Add(48 * time.Hour)}
	lease := ringback.Lease{Node: node, Token: 1, Until: s.now.Add(30 * time.Second)}
	if node == "" {
		s.ok(s.st.CreateBatch(s.ctx, j, b, nil))
		return j, b, lease
	}
	j.State, j.Started, j.Runs = ringback.Running, s.now, 1
	s.ok(s.st.CreateBatch(s.ctx, j, b, &lease))
	return j, b, lease
}

func someShards() []ringback.Shard {
	return []ringback.Shard{{Number: 0, First: 0, Line: 1, Rows: 3, Offset: 0, Length: 30}, {Number: 1, First: 3, Line: 4, Rows: 2, Offset: 30, Length: 25}}
}

func testBatchLife(s *suite) {
	j, b, lease := s.newBatch(node, 7)
	got, err := s.st.Batch(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same(got, b)
	_, err = s.st.Batch(s.ctx, "p2", j.ID)
	s.fails(err, ringback.NotFound)
	s.fails(s.st.PlanBatch(s.ctx, j.ID, ringback.Lease{Token: 2}, someShards()), ringback.Stale)
	for range 2 { // Planned anew, if the first plan's answer was lost.
		s.ok(s.st.PlanBatch(s.ctx, j.ID, lease, someShards()))
	}
	shards, err := s.st.ClaimShards(s.ctx, j.ID, node, s.now, s.now.Add(30*time.Second), 5)
	s.ok(err)
	s.same(shards, []store.ClaimedShard{{Shard: someShards()[0], Token: 1}, {Shard: someShards()[1], Token: 1}})
	first, second := store.HeldShard{Number: 0, Token: 1}, store.HeldShard{Number: 1, Token: 1}
	s.now = s.now.Add(time.Second)
	s.ok(s.st.RecordRows(s.ctx, j.ID, store.RowGroup{HeldShard: first, Data: []byte("ab"), Succeeded: 1, Failed: 1}, s.now))
	s.fails(s.st.RecordRows(s.ctx, j.ID, store.RowGroup{HeldShard: store.HeldShard{Number: 0, Token: 7}, Data: []byte("x"), Succeeded: 1}, s.now), ringback.Stale)
	s.ok(s.st.RecordRows(s.ctx, j.ID, store.RowGroup{HeldShard: second, Data: []byte("de"), Succeeded: 2, Done: true}, s.now))
	s.fails(s.st.RecordRows(s.ctx, j.ID, store.RowGroup{HeldShard: second, Data: []byte("f"), Succeeded: 1}, s.now), ringback.Stale)
	s.reopen()
	b.Planned, b.Rows, b.Progressed = true, ringback.RowCounts{Total: 5, Succeeded: 3, Failed: 1}, s.now
	got, err = s.st.Batch(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same(got, b)
	s.ok(s.st.RecordRows(s.ctx, j.ID, store.RowGroup{HeldShard: first, Data: []byte("c"), Succeeded: 1, Done: true}, s.now))
	rows, err := s.st.ShardRows(s.ctx, j.ID, 0)
	s.ok(err)
	s.same(rows, [][]byte{[]byte("ab"), []byte("c")})
	all, err := s.st.Shards(s.ctx, j.ID)
	s.ok(err)
	s.same(all, []store.ShardStatus{{Shard: someShards()[0], Recorded: 3, Done: true}, {Shard: someShards()[1], Recorded: 2, Done: true}})

	// The file of the input may be deleted; its bytes stay until the batch has ended.
	f := ringback.File{ID: "out", Project: "p1", DisplayName: "results", MimeType: "application/jsonl", Size: 3, SHA256: []byte("sum"), Blob: "batch_out",
		Generated: true, Created: s.now, Updated: s.now, Expires: s.now.Add(time.Hour)}
	end := &store.End{State: ringback.Completed, At: s.now, Files: []ringback.File{f}, Rows: ringback.RowCounts{Total: 5, Succeeded: 4, Failed: 1}}
	s.ok(s.st.EndJob(s.ctx, j.ID, &lease, end))
	b.Rows, b.OutputFile = end.Rows, "out"
	for more := true; more; {
		more, err = s.st.SweepBatches(s.ctx, 2)
		s.ok(err)
	}
	s.reopen()
	got, err = s.st.Batch(s.ctx, "p1", j.ID)
	s.ok(err)
	b.Progressed = got.Progressed // It was kept.
	s.same(got.Progressed.IsZero(), false)
	s.same(got, b)
	kept, err := s.st.File(s.ctx, "p1", "out", s.now)
	s.ok(err)
	s.same(kept, f)
	rows, err = s.st.ShardRows(s.ctx, j.ID, 0)
	s.ok(err)
	s.same(len(rows), 0)
	listed, _, err := s.st.ListJobs(s.ctx, "p1", store.JobFilter{Kind: ringback.KindBatch}, 0, 10)
	s.ok(err)
	s.same(len(listed), 1)
	s.same(listed[0].State, ringback.Completed)

	name, priority := "renamed", int64(-1)
	s.now = s.now.Add(time.Second)
	s.ok(s.st.UpdateBatch(s.ctx, "p1", j.ID, store.BatchPatch{DisplayName: &name}, s.now))
	s.ok(s.st.UpdateBatch(s.ctx, "p1", j.ID, store.BatchPatch{Priority: &priority}, s.now))
	s.fails(s.st.UpdateBatch(s.ctx, "p2", j.ID, store.BatchPatch{Priority: &priority}, s.now), ringback.NotFound)
	got, err = s.st.Batch(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same(got.DisplayName, name)
	s.same(got.Priority, priority)
	s.ok(s.st.DeleteJob(s.ctx, "p1", j.ID))
	_, err = s.st.Batch(s.ctx, "p1", j.ID)
	s.fails(err, ringback.NotFound)
}

func testShardLeases(s *suite) {
	j, _, lease := s.newBatch(node, 0)
	s.ok(s.st.PlanBatch(s.ctx, j.ID, lease, someShards()))
	claim := func(want int) []store.ClaimedShard {
		c, err := s.st.ClaimShards(s.ctx, j.ID, "other", s.now, s.now.Add(30*time.Second), 1)
		s.ok(err)
		s.same(len(c), want)
		return c
	}
	a, b := claim(1), claim(1)
	claim(0)
	s.ok(s.st.RenewShards(s.ctx, j.ID, []store.HeldShard{{Number: a[0].Number, Token: a[0].Token}, {Number: 99, Token: 1}}, s.now.Add(time.Hour)))
	s.now = s.now.Add(time.Minute)
	again := claim(1) // The one that was not renewed.
	s.same(again[0].Number, b[0].Number)
	s.same(again[0].Token, b[0].Token+1)
	s.fails(s.st.RecordRows(s.ctx, j.ID, store.RowGroup{HeldShard: store.HeldShard{Number: b[0].Number, Token: b[0].Token}, Data: []byte("late"), Succeeded: 1}, s.now), ringback.Stale)
	s.ok(s.st.Reclaim(s.ctx, "other", s.now))
	s.fails(s.st.RecordRows(s.ctx, j.ID, store.RowGroup{HeldShard: store.HeldShard{Number: a[0].Number, Token: a[0].Token}, Data: []byte("late"), Succeeded: 1}, s.now), ringback.Stale)
	s.same(claim(1)[0].Number, 0)
	s.same(claim(1)[0].Number, 1)
}

func testBatchCancel(s *suite) {
	j, _, lease := s.newBatch(node, 0)
	s.fails(s.st.CancelBatch(s.ctx, "p2", j.ID, s.now), ringback.NotFound)
	s.ok(s.st.CancelBatch(s.ctx, "p1", j.ID, s.now))
	first := s.now
	s.now = s.now.Add(time.Second)
	s.ok(s.st.CancelBatch(s.ctx, "p1", j.ID, s.now))
	got, err := s.st.Batch(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same(got.Cancelled, first)
	s.ok(s.st.EndJob(s.ctx, j.ID, &lease, &store.End{State: ringback.Cancelled, At: s.now}))
	s.ok(s.st.CancelBatch(s.ctx, "p1", j.ID, s.now))
	i := s.newJob()
	s.ok(s.st.CreateJob(s.ctx, i, nil))
	s.fails(s.st.CancelBatch(s.ctx, "p1", i.ID, s.now), ringback.NotFound)

	// One that rests comes due.
	rests, _, held := s.newBatch(node, 0)
	s.ok(s.st.ReleaseJobs(s.ctx, []store.Held{{ID: rests.ID, Token: held.Token}}, s.now.Add(time.Hour), true))
	s.ok(s.st.CancelBatch(s.ctx, "p1", rests.ID, s.now))
	c, err := s.st.ClaimJobs(s.ctx, ringback.KindBatch, node, s.now, s.now.Add(time.Minute), 5)
	s.ok(err)
	s.same(len(c), 1)
	s.same(c[0].ID, rests.ID)
}

// testBatchFollow follows a batch that a provider runs.
func testBatchFollow(s *suite) {
	j, _, lease := s.newBatch(node, 0)
	s.ok(s.st.PlanBatch(s.ctx, j.ID, lease, someShards()))
	stalled := func(want int) {
		s.Helper()
		all, err := s.st.StalledJobs(s.ctx, s.now.Add(-time.Hour), 10)
		s.ok(err)
		s.same(len(all), want)
	}
	s.now = s.now.Add(2 * time.Hour)
	stalled(1)
	counts := ringback.RowCounts{Total: 5, Succeeded: 2, Failed: 1}
	s.fails(s.st.FollowBatch(s.ctx, j.ID, ringback.Lease{Token: 2}, counts, s.now), ringback.Stale)
	s.ok(s.st.FollowBatch(s.ctx, j.ID, lease, counts, s.now))
	stalled(0)
	s.reopen()
	b, err := s.st.Batch(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same(b.Rows, counts)
	s.same(b.Progressed, s.now)

	// That it answers forgives runs that were cut off.
	s.ok(s.st.Reclaim(s.ctx, node, s.now))
	c, err := s.st.ClaimJobs(s.ctx, ringback.KindBatch, node, s.now, s.now.Add(time.Minute), 5)
	s.ok(err)
	s.same(c[0].Runs, 2)
	s.ok(s.st.FollowBatch(s.ctx, j.ID, c[0].Lease, counts, s.now))
	got, err := s.st.Job(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same(got.Runs, 1)

	s.ok(s.st.EndJob(s.ctx, j.ID, &c[0].Lease, &store.End{State: ringback.Cancelled, Rows: ringback.RowCounts{Total: 5, Succeeded: 3}, Garbage: []string{"fetched"}, At: s.now}))
	b, err = s.st.Batch(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same(b.Rows, ringback.RowCounts{Total: 5, Succeeded: 3})
	garbage, err := s.st.Garbage(s.ctx, 10)
	s.ok(err)
	s.same(garbage, []string{"fetched"})
	s.fails(s.st.FollowBatch(s.ctx, j.ID, c[0].Lease, counts, s.now), ringback.Stale)
}

func testBatchClaimOrder(s *suite) {
	low, _, _ := s.newBatch("", 0)
	s.now = s.now.Add(time.Second)
	high, _, _ := s.newBatch("", 5)
	i := s.newJob()
	s.ok(s.st.CreateJob(s.ctx, i, nil))
	c, err := s.st.ClaimJobs(s.ctx, ringback.KindBatch, node, s.now, s.now.Add(time.Minute), 1)
	s.ok(err)
	s.same(c[0].ID, high.ID)
	c, err = s.st.ClaimJobs(s.ctx, ringback.KindInteraction, node, s.now, s.now.Add(time.Minute), 5)
	s.ok(err)
	s.same(len(c), 1)
	s.same(c[0].ID, i.ID)
	c, err = s.st.ClaimJobs(s.ctx, ringback.KindBatch, node, s.now, s.now.Add(time.Minute), 5)
	s.ok(err)
	s.same(len(c), 1)
	s.same(c[0].ID, low.ID)
}

func testIdempotency(s *suite) {
	s.project("p2")
	mark := &ringback.Idempotency{Key: "k", Fingerprint: []byte("f")}
	j := s.newJob()
	j.Idempotency = mark
	s.ok(s.st.CreateJob(s.ctx, j, nil))
	again := s.newJob()
	again.Idempotency = mark
	s.fails(s.st.CreateJob(s.ctx, again, nil), ringback.AlreadyExists)
	_, err := s.st.Job(s.ctx, "p1", again.ID)
	s.fails(err, ringback.NotFound)
	s.reopen()
	id, fingerprint, err := s.st.JobByKey(s.ctx, "p1", "k")
	s.ok(err)
	s.same(id, j.ID)
	s.same(fingerprint, []byte("f"))
	_, _, err = s.st.JobByKey(s.ctx, "p2", "k")
	s.fails(err, ringback.NotFound)
	s.ok(s.st.DeleteJob(s.ctx, "p1", j.ID))
	s.ok(s.st.CreateJob(s.ctx, again, nil))
}
