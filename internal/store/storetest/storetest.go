// Package storetest is the suite that every engine of package store passes.
package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// Open opens the engine on the data of one test. A second call, after the first
// store was closed, must find what the first one kept.
type Open func() store.Store

// Run runs the suite. open is called with each test's own t and returns how to
// open a store on fresh data.
func Run(t *testing.T, open func(t *testing.T) Open) {
	tests := map[string]func(*suite){
		"Projects":              testProjects,
		"JobLife":               testJobLife,
		"JobBornLeased":         testJobBornLeased,
		"StaleJobLease":         testStaleJobLease,
		"RenewAndRelease":       testRenewAndRelease,
		"EndJobIsOneStep":       testEndJobIsOneStep,
		"CancelWinsOnce":        testCancelWinsOnce,
		"DeleteJob":             testDeleteJob,
		"ConcurrentJobClaims":   testConcurrentJobClaims,
		"DeliveryLife":          testDeliveryLife,
		"StaleDeliveryLease":    testStaleDeliveryLease,
		"Lanes":                 testLanes,
		"ConcurrentDeliveries":  testConcurrentDeliveries,
		"Reclaim":               testReclaim,
		"ShiftLeases":           testShiftLeases,
		"Endpoints":             testEndpoints,
		"RotateSecret":          testRotateSecret,
		"DisabledKeepsWaiting":  testDisabledKeepsWaiting,
		"GoneDisables":          testGoneDisables,
		"DeletedEndpointDrains": testDeletedEndpointDrains,
		"EventFeed":             testEventFeed,
		"ProjectsAreApart":      testProjectsAreApart,
		"ReopenKeepsAll":        testReopenKeepsAll,
		"ProjectsAndKeys":       testProjectsAndKeys,
		"Audit":                 testAudit,
		"SigningKeys":           testSigningKeys,
		"Reseal":                testReseal,
		"EndpointSettings":      testEndpointSettings,
		"Health":                testHealth,
		"Redeliver":             testRedeliver,
		"ListDeliveries":        testListDeliveries,
		"ListJobs":              testListJobs,
		"Stalled":               testStalled,
		"Replay":                testReplay,
		"ReplayGoesOn":          testReplayGoesOn,
		"Sweep":                 testSweep,
		"DynamicDeliveries":     testDynamicDeliveries,
		"NextDue":               testNextDue,
		"UploadLife":            testUploadLife,
		"Files":                 testFiles,
		"ExpireFiles":           testExpireFiles,
		"BlobsOfJobs":           testBlobsOfJobs,
		"Stream":                testStream,
		"Checkpoint":            testCheckpoint,
		"SweepJobs":             testSweepJobs,
		"BatchLife":             testBatchLife,
		"ShardLeases":           testShardLeases,
		"BatchCancel":           testBatchCancel,
		"BatchClaimOrder":       testBatchClaimOrder,
		"BatchFollow":           testBatchFollow,
		"Idempotency":           testIdempotency,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := &suite{T: t, open: open(t), ctx: t.Context(), now: time.Date(2026, 10, 1, 12, 0, 0, 123456000, time.UTC)}
			s.st = s.open()
			defer func() { s.ok(s.st.Close()) }()
			s.project("p1")
			test(s)
		})
	}
}

// suite is what the tests share: a store, a clock that they set, and helpers
// that fail the test.
type suite struct {
	*testing.T
	open Open
	st   store.Store
	ctx  context.Context
	now  time.Time
}

const node = "node-1"

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) fails(err error, code ringback.Code) {
	s.Helper()
	if !errors.Is(err, code) {
		s.Fatalf("got error %v, want %v", err, code)
	}
}

func (s *suite) same(got, want any) {
	s.Helper()
	if d := cmp.Diff(want, got); d != "" {
		s.Fatalf("unexpected (-want +got):\n%s", d)
	}
}

func (s *suite) reopen() {
	s.Helper()
	s.ok(s.st.Close())
	s.st = s.open()
}

func (s *suite) by() store.By { return store.By{Actor: "key_test", At: s.now} }

func (s *suite) project(id ringback.ID) {
	s.Helper()
	s.ok(s.st.CreateProject(s.ctx, ringback.Project{ID: id, Name: "project " + string(id), DynamicSignature: ringback.JWT, Created: s.now},
		&ringback.APIKey{ID: "key_" + id, Project: id, Name: "first", Prefix: "rbk_x", Hash: []byte("hash of " + id), Created: s.now}, s.by()))
}

func (s *suite) newJob() *ringback.Job {
	return &ringback.Job{ID: ringback.NewInteractionID(s.now), Project: "p1", Kind: ringback.KindInteraction,
		State: ringback.Pending, Model: "m", Spec: json.RawMessage(`{"input":"hi"}`), Created: s.now, Updated: s.now}
}

func (s *suite) createJob() *ringback.Job {
	s.Helper()
	j := s.newJob()
	s.ok(s.st.CreateJob(s.ctx, j, nil))
	return j
}

func (s *suite) claimJobs(limit int) []store.ClaimedJob {
	s.Helper()
	c, err := s.st.ClaimJobs(s.ctx, ringback.KindInteraction, node, s.now, s.now.Add(30*time.Second), limit)
	s.ok(err)
	return c
}

func (s *suite) endpoint(project ringback.ID) *ringback.Endpoint {
	s.Helper()
	e := &ringback.Endpoint{ID: ringback.NewEndpointID(s.now), Project: project, Name: "hook", URI: "https://example.com/cb",
		Events: []ringback.EventType{ringback.InteractionCompleted}, State: ringback.Enabled,
		Secrets: []ringback.Secret{{Sealed: []byte{1, 2, 3}, Truncated: "whsec_...abc=", Created: s.now}},
		Created: s.now, Updated: s.now}
	s.ok(s.st.CreateEndpoint(s.ctx, e, s.by()))
	return e
}

// happening makes an event with one waiting delivery to each endpoint.
func (s *suite) happening(job ringback.ID, to ...*ringback.Endpoint) *store.Happening {
	h := &store.Happening{Event: ringback.Event{ID: ringback.NewID("evt", s.now), Project: "p1",
		Type: ringback.InteractionCompleted, Job: job, Body: []byte(`{"type":"interaction.completed"}`), Created: s.now}}
	for _, e := range to {
		h.Deliveries = append(h.Deliveries, store.NewDelivery{Delivery: ringback.Delivery{
			ID: ringback.NewID("msg", s.now), Event: h.Event.ID, Project: e.Project, Target: string(e.ID), Endpoint: e.ID,
			State: ringback.DeliveryPending, Due: s.now, Begun: s.now, Created: s.now, Updated: s.now}})
	}
	return h
}

func (s *suite) add(to ...*ringback.Endpoint) *store.Happening {
	s.Helper()
	h := s.happening("", to...)
	s.ok(s.st.AddEvent(s.ctx, h))
	return h
}

func (s *suite) claim(limit int, room func(string, *ringback.Endpoint) int) []store.ClaimedDelivery {
	s.Helper()
	if room == nil {
		room = func(string, *ringback.Endpoint) int { return limit }
	}
	c, err := s.st.ClaimDeliveries(s.ctx, node, s.now, s.now.Add(30*time.Second), limit, room)
	s.ok(err)
	return c
}

func (s *suite) record(c store.ClaimedDelivery, state ringback.DeliveryState, due time.Time) error {
	return s.st.RecordAttempt(s.ctx, c.Lease, &store.Outcome{Target: c.Target, State: state, Due: due, At: s.now,
		Attempt: ringback.Attempt{Delivery: c.ID, Number: c.Attempts + 1, Started: s.now, Status: 200, Answer: []byte("ok"),
			DNS: 1 * time.Millisecond, Connect: 2 * time.Millisecond, TLS: 3 * time.Millisecond, FirstByte: 4 * time.Millisecond,
			Total: 5 * time.Millisecond, Reason: "accepted"}})
}

func testProjects(s *suite) {
	all, err := s.st.Projects(s.ctx)
	s.ok(err)
	s.same(all, []ringback.Project{{ID: "p1", Name: "project p1", DynamicSignature: ringback.JWT, Created: s.now}})
	k, err := s.st.KeyByHash(s.ctx, []byte("hash of p1"))
	s.ok(err)
	s.same(k.Project, ringback.ID("p1"))
	_, err = s.st.KeyByHash(s.ctx, []byte("no such"))
	s.fails(err, ringback.NotFound)
	s.fails(s.st.CreateProject(s.ctx, ringback.Project{ID: "p1", Created: s.now}, &ringback.APIKey{ID: "key_2", Hash: []byte{1}}, s.by()), ringback.AlreadyExists)
	_, err = s.st.KeyByHash(s.ctx, []byte{1})
	s.fails(err, ringback.NotFound)
}

func testJobLife(s *suite) {
	j := s.createJob()
	got, err := s.st.Job(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same(got, j)
	s.fails(s.st.CreateJob(s.ctx, j, nil), ringback.AlreadyExists)

	s.now = s.now.Add(time.Second)
	claimed := s.claimJobs(10)
	s.same(len(claimed), 1)
	s.same(claimed[0].Lease, ringback.Lease{Node: node, Token: 1, Until: s.now.Add(30 * time.Second)})
	started := s.now
	running, err := s.st.Job(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same([]any{running.State, running.Runs, running.Started}, []any{ringback.Running, 1, started})
	s.same(len(s.claimJobs(10)), 0)

	s.now = s.now.Add(time.Second)
	end := &store.End{State: ringback.Failed, Output: []byte(`{"steps":[]}`), Failure: &ringback.Failure{Code: "api_error", Message: "no"}, At: s.now}
	s.ok(s.st.EndJob(s.ctx, j.ID, &claimed[0].Lease, end))
	ended, err := s.st.Job(s.ctx, "p1", j.ID)
	s.ok(err)
	want := *j
	want.State, want.Runs, want.Started, want.Ended, want.Updated = ringback.Failed, 1, started, s.now, s.now
	want.Output, want.Failure = json.RawMessage(`{"steps":[]}`), end.Failure
	s.same(ended, &want)
	s.fails(s.st.EndJob(s.ctx, j.ID, &claimed[0].Lease, end), ringback.FailedPrecondition)
	s.now = s.now.Add(time.Hour)
	s.same(len(s.claimJobs(10)), 0)
}

func testJobBornLeased(s *suite) {
	j := s.newJob()
	j.State, j.Started, j.Runs = ringback.Running, s.now, 1
	lease := ringback.Lease{Node: node, Token: 1, Until: s.now.Add(30 * time.Second)}
	s.ok(s.st.CreateJob(s.ctx, j, &lease))
	got, err := s.st.Job(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same(got, j)
	s.same(len(s.claimJobs(1)), 0)
	s.now = s.now.Add(time.Minute)
	again := s.claimJobs(1)
	s.same(len(again), 1)
	s.same([]any{again[0].Lease.Token, again[0].Runs}, []any{int64(2), 2})
	s.fails(s.st.EndJob(s.ctx, j.ID, &lease, &store.End{State: ringback.Completed, At: s.now}), ringback.Stale)
}

func testStaleJobLease(s *suite) {
	j := s.createJob()
	first := s.claimJobs(1)[0]
	s.now = s.now.Add(time.Minute)
	second := s.claimJobs(1)[0]
	ep := s.endpoint("p1")
	s.fails(s.st.EndJob(s.ctx, j.ID, &first.Lease, &store.End{State: ringback.Completed, At: s.now, Happenings: []*store.Happening{s.happening(j.ID, ep)}}), ringback.Stale)
	events, err := s.st.JobEvents(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same(len(events), 0)
	s.same(len(s.claim(10, nil)), 0)
	s.ok(s.st.EndJob(s.ctx, j.ID, &second.Lease, &store.End{State: ringback.Completed, At: s.now}))
	s.fails(s.st.EndJob(s.ctx, "v1_none", nil, &store.End{State: ringback.Completed, At: s.now}), ringback.NotFound)
	s.fails(s.st.EndJob(s.ctx, j.ID, nil, &store.End{State: ringback.Running, At: s.now}), ringback.InvalidArgument)
}

func testRenewAndRelease(s *suite) {
	a, b := s.createJob(), s.createJob()
	claimed := s.claimJobs(10)
	s.same(len(claimed), 2)
	held := []store.Held{{ID: a.ID, Token: 1}, {ID: b.ID, Token: 1}}
	lost, err := s.st.RenewJobs(s.ctx, held, s.now.Add(time.Hour))
	s.ok(err)
	s.same(len(lost), 0)
	s.now = s.now.Add(30 * time.Minute)
	s.same(len(s.claimJobs(10)), 0)

	s.ok(s.st.ReleaseJobs(s.ctx, []store.Held{{ID: a.ID, Token: 1}, {ID: b.ID, Token: 7}}, s.now, true))
	again := s.claimJobs(10)
	s.same(len(again), 1)
	s.same([]any{again[0].ID, again[0].Runs, again[0].Lease.Token}, []any{a.ID, 1, int64(2)})
	lost, err = s.st.RenewJobs(s.ctx, held, s.now.Add(time.Hour))
	s.ok(err)
	s.same(lost, []ringback.ID{a.ID})
}

func testEndJobIsOneStep(s *suite) {
	ep := s.endpoint("p1")
	j := s.createJob()
	c := s.claimJobs(1)[0]
	taken := s.add(ep)
	// The event's id is taken: nothing of the end may remain.
	bad := s.happening(j.ID, ep)
	bad.Event.ID = taken.Event.ID
	s.fails(s.st.EndJob(s.ctx, j.ID, &c.Lease, &store.End{State: ringback.Completed, At: s.now, Happenings: []*store.Happening{bad}}), ringback.AlreadyExists)
	got, err := s.st.Job(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same(got.State, ringback.Running)

	h := s.happening(j.ID, ep)
	s.ok(s.st.EndJob(s.ctx, j.ID, &c.Lease, &store.End{State: ringback.Completed, At: s.now, Happenings: []*store.Happening{h}}))
	events, err := s.st.JobEvents(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same(events, []ringback.Event{h.Event})
	list, err := s.st.EventDeliveries(s.ctx, "p1", h.Event.ID)
	s.ok(err)
	s.same(list, []ringback.Delivery{h.Deliveries[0].Delivery})
}

func testCancelWinsOnce(s *suite) {
	ep := s.endpoint("p1")
	for range 20 {
		j := s.createJob()
		c := s.claimJobs(1)[0]
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			lease := &c.Lease
			if i%2 == 0 {
				lease = nil
			}
			h := s.happening(j.ID, ep)
			wg.Go(func() {
				errs[i] = s.st.EndJob(s.ctx, j.ID, lease, &store.End{State: ringback.Cancelled, At: s.now, Happenings: []*store.Happening{h}})
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else {
				s.fails(err, ringback.FailedPrecondition)
			}
		}
		events, err := s.st.JobEvents(s.ctx, "p1", j.ID)
		s.ok(err)
		s.same([]int{won, len(events)}, []int{1, 1})
	}
}

func testDeleteJob(s *suite) {
	j := s.createJob()
	c := s.claimJobs(1)[0]
	s.fails(s.st.DeleteJob(s.ctx, "p2", j.ID), ringback.NotFound)
	s.ok(s.st.DeleteJob(s.ctx, "p1", j.ID))
	_, err := s.st.Job(s.ctx, "p1", j.ID)
	s.fails(err, ringback.NotFound)
	s.fails(s.st.DeleteJob(s.ctx, "p1", j.ID), ringback.NotFound)
	s.fails(s.st.EndJob(s.ctx, j.ID, &c.Lease, &store.End{State: ringback.Completed, At: s.now}), ringback.NotFound)
	s.now = s.now.Add(time.Hour)
	s.same(len(s.claimJobs(1)), 0)
}

func testConcurrentJobClaims(s *suite) {
	const jobs = 200
	var wg sync.WaitGroup
	for range jobs {
		j := s.newJob()
		wg.Go(func() {
			if err := s.st.CreateJob(s.ctx, j, nil); err != nil {
				s.Error(err)
			}
		})
	}
	wg.Wait()
	var mu sync.Mutex
	seen := make(map[ringback.ID]int)
	for range 8 {
		wg.Go(func() {
			for {
				c, err := s.st.ClaimJobs(s.ctx, ringback.KindInteraction, node, s.now, s.now.Add(time.Minute), 7)
				if err != nil {
					s.Error(err)
				}
				if len(c) == 0 {
					return
				}
				mu.Lock()
				for _, j := range c {
					seen[j.ID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s.same(len(seen), jobs)
	for id, n := range seen {
		if n != 1 {
			s.Errorf("job %s was claimed %d times", id, n)
		}
	}
}

func testDeliveryLife(s *suite) {
	ep := s.endpoint("p1")
	h := s.add(ep)
	next, err := s.st.NextDue(s.ctx, nil)
	s.ok(err)
	if next.After(s.now) {
		s.Errorf("next due %v is later than %v", next, s.now)
	}
	c := s.claim(10, nil)
	s.same(len(c), 1)
	s.same([]any{c[0].ID, c[0].Event, c[0].Lease.Token, string(c[0].Body), c[0].Type, c[0].To.ID},
		[]any{h.Deliveries[0].ID, h.Event.ID, int64(1), string(h.Event.Body), h.Event.Type, ep.ID})
	s.same(len(s.claim(10, nil)), 0)

	again := s.now.Add(5 * time.Second)
	s.ok(s.record(c[0], ringback.DeliveryPending, again))
	s.same(len(s.claim(10, nil)), 0)
	s.now = again
	c = s.claim(10, nil)
	s.same(len(c), 1)
	s.same([]any{c[0].Attempts, c[0].Lease.Token}, []any{1, int64(2)})
	s.ok(s.record(c[0], ringback.DeliveryDelivered, time.Time{}))
	s.now = s.now.Add(48 * time.Hour)
	s.same(len(s.claim(10, nil)), 0)

	list, err := s.st.EventDeliveries(s.ctx, "p1", h.Event.ID)
	s.ok(err)
	s.same([]any{len(list), list[0].State, list[0].Attempts, list[0].Reason}, []any{1, ringback.DeliveryDelivered, 2, "accepted"})
	attempts, err := s.st.Attempts(s.ctx, "p1", h.Deliveries[0].ID)
	s.ok(err)
	s.same(len(attempts), 2)
	s.same(attempts[1], ringback.Attempt{Delivery: h.Deliveries[0].ID, Number: 2, Started: again, Status: 200, Answer: []byte("ok"),
		DNS: 1 * time.Millisecond, Connect: 2 * time.Millisecond, TLS: 3 * time.Millisecond, FirstByte: 4 * time.Millisecond,
		Total: 5 * time.Millisecond, Reason: "accepted"})
}

func testStaleDeliveryLease(s *suite) {
	s.add(s.endpoint("p1"))
	first := s.claim(1, nil)[0]
	s.now = s.now.Add(time.Minute)
	second := s.claim(1, nil)[0]
	s.same(second.ID, first.ID)
	s.fails(s.record(first, ringback.DeliveryDelivered, time.Time{}), ringback.Stale)
	s.ok(s.st.ReleaseDeliveries(s.ctx, []store.Held{{ID: first.ID, Token: first.Lease.Token}}, s.now))
	s.same(len(s.claim(1, nil)), 0)
	s.ok(s.record(second, ringback.DeliveryDelivered, time.Time{}))
	s.fails(s.record(second, ringback.DeliveryDelivered, time.Time{}), ringback.Stale)
}

func testLanes(s *suite) {
	loud, quiet, full := s.endpoint("p1"), s.endpoint("p1"), s.endpoint("p1")
	for range 50 {
		s.add(loud)
		s.add(full)
	}
	s.now = s.now.Add(time.Second)
	s.add(quiet)
	got := make(map[ringback.ID]int)
	room := func(target string, _ *ringback.Endpoint) int {
		if target == string(full.ID) {
			return 0
		}
		return 4
	}
	for _, c := range s.claim(100, room) {
		got[c.Endpoint]++
	}
	s.same(got, map[ringback.ID]int{loud.ID: 4, quiet.ID: 1})
	s.same(len(s.claim(3, nil)), 3)
	s.same(len(s.claim(1000, func(string, *ringback.Endpoint) int { return 1000 })), 50+50-4-3)
}

func testConcurrentDeliveries(s *suite) {
	const events, targets = 300, 5
	eps := make([]*ringback.Endpoint, targets)
	for i := range eps {
		eps[i] = s.endpoint("p1")
	}
	var wg sync.WaitGroup
	for i := range events {
		h := s.happening("", eps[i%targets])
		wg.Go(func() {
			if err := s.st.AddEvent(s.ctx, h); err != nil {
				s.Error(err)
			}
		})
	}
	var mu sync.Mutex
	seen := make(map[ringback.ID]int)
	for range 4 {
		wg.Go(func() {
			for {
				mu.Lock()
				done := len(seen) == events
				mu.Unlock()
				if done {
					return
				}
				for _, c := range s.claim(16, nil) {
					if err := s.record(c, ringback.DeliveryDelivered, time.Time{}); err != nil {
						s.Error(err)
					}
					mu.Lock()
					seen[c.ID]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for id, n := range seen {
		if n != 1 {
			s.Errorf("delivery %s was claimed %d times", id, n)
		}
	}
}

func testReclaim(s *suite) {
	ep := s.endpoint("p1")
	h := s.happening("", ep)
	h.Deliveries[0].Lease = &ringback.Lease{Node: node, Token: 1, Until: s.now.Add(30 * time.Second)}
	h.Deliveries[0].Due = h.Deliveries[0].Lease.Until
	s.ok(s.st.AddEvent(s.ctx, h))
	waiting := s.add(ep)
	c := s.claim(1, nil)[0]
	s.same(c.ID, waiting.Deliveries[0].ID)
	s.ok(s.record(c, ringback.DeliveryPending, s.now.Add(10*time.Minute)))
	j := s.createJob()
	s.same(len(s.claimJobs(1)), 1)

	s.reopen()
	s.ok(s.st.Reclaim(s.ctx, "another", s.now))
	s.same([]int{len(s.claim(10, nil)), len(s.claimJobs(10))}, []int{0, 0})
	s.ok(s.st.Reclaim(s.ctx, node, s.now))
	again := s.claim(10, nil)
	s.same(len(again), 1) // The one that waits for its retry goes on waiting.
	s.same([]any{again[0].ID, again[0].Lease.Token}, []any{h.Deliveries[0].ID, int64(2)})
	jobs := s.claimJobs(10)
	s.same(len(jobs), 1)
	s.same([]any{jobs[0].ID, jobs[0].Runs}, []any{j.ID, 2})
}

// testShiftLeases: what a node has leased outlasts a clock that is set forward;
// what waits, or is another's, does not.
func testShiftLeases(s *suite) {
	shifter, ok := s.st.(store.LeaseShifter)
	if !ok {
		s.Skip("the engine can't do it")
	}
	ep := s.endpoint("p1")
	retried := s.add(ep)
	c := s.claim(1, nil)[0]
	s.same(c.ID, retried.Deliveries[0].ID)
	s.ok(s.record(c, ringback.DeliveryPending, s.now.Add(time.Hour)))
	held := s.add(ep)
	c = s.claim(1, nil)[0]
	s.same(c.ID, held.Deliveries[0].ID)
	running := s.createJob()
	job := s.claimJobs(1)[0]
	s.same(job.ID, running.ID)
	s.ok(shifter.ShiftLeases(s.ctx, "another", s.now, 48*time.Hour))
	s.ok(shifter.ShiftLeases(s.ctx, node, s.now, 24*time.Hour))
	s.now = s.now.Add(24 * time.Hour)
	due := s.claim(10, nil)
	s.same(len(due), 1) // The retry that came due meanwhile.
	s.same(due[0].ID, retried.Deliveries[0].ID)
	s.same(len(s.claimJobs(10)), 0)
	s.ok(s.record(c, ringback.DeliveryDelivered, time.Time{}))
	s.now = s.now.Add(time.Hour)
	s.same(len(s.claimJobs(10)), 1) // The lease was prolonged, not made endless.
}

func testEndpoints(s *suite) {
	a := s.endpoint("p1")
	s.now = s.now.Add(time.Millisecond)
	b := s.endpoint("p1")
	got, err := s.st.Endpoint(s.ctx, "p1", a.ID)
	s.ok(err)
	s.same(got, a)
	s.fails(s.st.CreateEndpoint(s.ctx, a, s.by()), ringback.AlreadyExists)

	s.now = s.now.Add(time.Minute)
	name, uri := "new", "https://example.com/new"
	got, err = s.st.UpdateEndpoint(s.ctx, "p1", a.ID, store.EndpointPatch{Name: &name, URI: &uri, Events: []ringback.EventType{ringback.BatchFailed}}, s.by())
	s.ok(err)
	want := *a
	want.Name, want.URI, want.Events, want.Updated = name, uri, []ringback.EventType{ringback.BatchFailed}, s.now
	s.same(got, &want)
	s.reopen()
	list, err := s.st.ProjectEndpoints(s.ctx, "p1")
	s.ok(err)
	s.same(list, []*ringback.Endpoint{&want, b})

	s.ok(s.st.DeleteEndpoint(s.ctx, "p1", a.ID, s.by()))
	s.fails(s.st.DeleteEndpoint(s.ctx, "p1", a.ID, s.by()), ringback.NotFound)
	_, err = s.st.Endpoint(s.ctx, "p1", a.ID)
	s.fails(err, ringback.NotFound)
	_, err = s.st.UpdateEndpoint(s.ctx, "p1", a.ID, store.EndpointPatch{Name: &name}, s.by())
	s.fails(err, ringback.NotFound)
	list, err = s.st.ProjectEndpoints(s.ctx, "p1")
	s.ok(err)
	s.same(len(list), 1)
}

func testRotateSecret(s *suite) {
	e := s.endpoint("p1")
	first := e.Secrets[0]
	second := ringback.Secret{Sealed: []byte{4}, Truncated: "whsec_...2", Created: s.now}
	day := s.now.Add(24 * time.Hour)
	s.ok(s.st.RotateSecrets(s.ctx, "p1", e.ID, []ringback.Secret{second}, day, s.by()))
	got, err := s.st.Endpoint(s.ctx, "p1", e.ID)
	s.ok(err)
	first.Expires = day
	s.same(got.Secrets, []ringback.Secret{second, first})

	// A second rotation doesn't prolong what already expires.
	s.now = s.now.Add(time.Hour)
	third := ringback.Secret{Sealed: []byte{5}, Truncated: "whsec_...3", Created: s.now}
	s.ok(s.st.RotateSecrets(s.ctx, "p1", e.ID, []ringback.Secret{third}, s.now.Add(24*time.Hour), s.by()))
	got, err = s.st.Endpoint(s.ctx, "p1", e.ID)
	s.ok(err)
	second.Expires = s.now.Add(24 * time.Hour)
	s.same(got.Secrets, []ringback.Secret{third, second, first})

	fourth := ringback.Secret{Sealed: []byte{6}, Truncated: "whsec_...4", Created: s.now}
	s.ok(s.st.RotateSecrets(s.ctx, "p1", e.ID, []ringback.Secret{fourth}, s.now, s.by()))
	s.reopen()
	got, err = s.st.Endpoint(s.ctx, "p1", e.ID)
	s.ok(err)
	s.same(got.Secrets, []ringback.Secret{fourth})
}

func testDisabledKeepsWaiting(s *suite) {
	e := s.endpoint("p1")
	h := s.add(e)
	off, on := ringback.Disabled, ringback.Enabled
	_, err := s.st.UpdateEndpoint(s.ctx, "p1", e.ID, store.EndpointPatch{State: &off}, s.by())
	s.ok(err)
	s.same(len(s.claim(10, nil)), 0)
	s.reopen()
	s.now = s.now.Add(time.Hour)
	s.same(len(s.claim(10, nil)), 0)
	_, err = s.st.UpdateEndpoint(s.ctx, "p1", e.ID, store.EndpointPatch{State: &on}, s.by())
	s.ok(err)
	c := s.claim(10, nil)
	s.same(len(c), 1)
	s.same(c[0].ID, h.Deliveries[0].ID)
}

func testGoneDisables(s *suite) {
	e := s.endpoint("p1")
	s.add(e)
	c := s.claim(1, nil)[0]
	s.ok(s.st.RecordAttempt(s.ctx, c.Lease, &store.Outcome{State: ringback.DeliveryFailed, At: s.now, Endpoint: e.ID, Disable: ringback.Disabled,
		Attempt: ringback.Attempt{Delivery: c.ID, Number: 1, Started: s.now, Status: 410, Reason: "gone"}}))
	got, err := s.st.Endpoint(s.ctx, "p1", e.ID)
	s.ok(err)
	s.same(got.State, ringback.Disabled)
}

func testDeletedEndpointDrains(s *suite) {
	e := s.endpoint("p1")
	s.add(e)
	s.ok(s.st.DeleteEndpoint(s.ctx, "p1", e.ID, s.by()))
	c := s.claim(10, nil)
	s.same(len(c), 1)
	if c[0].To != nil {
		s.Errorf("the claim of a deleted endpoint's delivery names it: %v", c[0].To)
	}
	s.ok(s.record(c[0], ringback.DeliveryFailed, time.Time{}))
}

func testEventFeed(s *suite) {
	var want []ringback.Event
	for range 5 {
		s.now = s.now.Add(time.Minute)
		want = append(want, s.add().Event)
	}
	got, err := s.st.EventsAfter(s.ctx, "p1", store.EventFilter{}, 0, 3)
	s.ok(err)
	s.same(got, want[:3])
	got, err = s.st.EventsAfter(s.ctx, "p1", store.EventFilter{}, got[2].Seq, 10)
	s.ok(err)
	s.same(got, want[3:])
	got, err = s.st.EventsAfter(s.ctx, "p1", store.EventFilter{From: want[2].Created}, want[0].Seq, 10)
	s.ok(err)
	s.same(got, want[2:])
}

func testProjectsAreApart(s *suite) {
	s.project("p2")
	e := s.endpoint("p1")
	j := s.createJob()
	h := s.add(e)
	name := "x"
	_, err := s.st.Job(s.ctx, "p2", j.ID)
	s.fails(err, ringback.NotFound)
	_, err = s.st.Endpoint(s.ctx, "p2", e.ID)
	s.fails(err, ringback.NotFound)
	_, err = s.st.UpdateEndpoint(s.ctx, "p2", e.ID, store.EndpointPatch{Name: &name}, s.by())
	s.fails(err, ringback.NotFound)
	s.fails(s.st.RotateSecrets(s.ctx, "p2", e.ID, []ringback.Secret{{}}, s.now, s.by()), ringback.NotFound)
	s.fails(s.st.DeleteEndpoint(s.ctx, "p2", e.ID, s.by()), ringback.NotFound)
	s.fails(s.st.DeleteJob(s.ctx, "p2", j.ID), ringback.NotFound)
	list, err := s.st.ProjectEndpoints(s.ctx, "p2")
	s.ok(err)
	events, err := s.st.EventsAfter(s.ctx, "p2", store.EventFilter{}, 0, 10)
	s.ok(err)
	deliveries, err := s.st.EventDeliveries(s.ctx, "p2", h.Event.ID)
	s.ok(err)
	attempts, err := s.st.Attempts(s.ctx, "p2", h.Deliveries[0].ID)
	s.ok(err)
	s.same([]int{len(list), len(events), len(deliveries), len(attempts)}, []int{0, 0, 0, 0})
}

func testReopenKeepsAll(s *suite) {
	e := s.endpoint("p1")
	const n = 30
	var wg sync.WaitGroup
	for i := range n {
		j := s.newJob()
		j.Model = fmt.Sprint("m", i)
		h := s.happening(j.ID, e)
		wg.Go(func() {
			lease := ringback.Lease{Node: node, Token: 1, Until: s.now.Add(time.Minute)}
			if err := errors.Join(s.st.CreateJob(s.ctx, j, &lease),
				s.st.EndJob(s.ctx, j.ID, &lease, &store.End{State: ringback.Completed, At: s.now, Happenings: []*store.Happening{h}})); err != nil {
				s.Error(err)
			}
		})
	}
	wg.Wait()
	s.reopen()
	k, err := s.st.KeyByHash(s.ctx, []byte("hash of p1"))
	s.ok(err)
	s.same(k.Prefix, "rbk_x")
	events, err := s.st.EventsAfter(s.ctx, "p1", store.EventFilter{}, 0, 100)
	s.ok(err)
	s.same(len(events), n)
	s.same(len(s.claim(100, nil)), n)
}
