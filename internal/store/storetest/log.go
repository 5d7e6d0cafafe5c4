package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

func testProjectsAndKeys(s *suite) {
	p := ringback.Project{ID: "p2", Name: "two", DynamicSignature: ringback.V1a, Audience: "team", Created: s.now.Add(time.Second)}
	s.ok(s.st.CreateProject(s.ctx, p, nil, s.by()))
	got, err := s.st.Project(s.ctx, "p2")
	s.ok(err)
	s.same(got, p)
	changed := p
	changed.Name, changed.DynamicSignature, changed.Audience = "zwei", ringback.JWT, ""
	s.ok(s.st.UpdateProject(s.ctx, changed, s.by()))
	s.fails(s.st.UpdateProject(s.ctx, ringback.Project{ID: "no such"}, s.by()), ringback.NotFound)
	k := ringback.APIKey{ID: "k2", Project: "p2", Name: "ci", Prefix: "rbk_y", Hash: []byte("h2"), Created: s.now}
	s.ok(s.st.CreateKey(s.ctx, k, s.by()))
	s.fails(s.st.CreateKey(s.ctx, ringback.APIKey{ID: "k3", Project: "no such", Hash: []byte("h3"), Created: s.now}, s.by()), ringback.NotFound)
	operator := ringback.APIKey{ID: "op", Name: "operator", Prefix: "rbo_x", Hash: []byte("ho"), Created: s.now}
	s.ok(s.st.CreateKey(s.ctx, operator, s.by()))
	used := s.now.Add(time.Minute)
	s.ok(s.st.TouchKeys(s.ctx, map[ringback.ID]time.Time{"k2": used, "no such": used}))
	k.LastUsed = used
	for range 2 {
		all, err := s.st.Projects(s.ctx)
		s.ok(err)
		s.same(len(all), 2)
		s.same(all[1], changed)
		keys, err := s.st.APIKeys(s.ctx, "p2")
		s.ok(err)
		s.same(keys, []ringback.APIKey{k})
		keys, err = s.st.APIKeys(s.ctx, "")
		s.ok(err)
		s.same(keys, []ringback.APIKey{operator})
		found, err := s.st.KeyByHash(s.ctx, []byte("h2"))
		s.ok(err)
		s.same(found, k)
		s.reopen()
	}
	s.fails(s.st.RevokeKey(s.ctx, "p1", "k2", s.by()), ringback.NotFound)
	s.ok(s.st.RevokeKey(s.ctx, "p2", "k2", s.by()))
	s.fails(s.st.RevokeKey(s.ctx, "p2", "k2", s.by()), ringback.NotFound)
	_, err = s.st.KeyByHash(s.ctx, []byte("h2"))
	s.fails(err, ringback.NotFound)
}

func testAudit(s *suite) {
	e := s.endpoint("p1")
	name := "new name"
	_, err := s.st.UpdateEndpoint(s.ctx, "p1", e.ID, store.EndpointPatch{Name: &name}, s.by())
	s.ok(err)
	s.ok(s.st.RotateSecrets(s.ctx, "p1", e.ID, []ringback.Secret{{Sealed: []byte("secret"), Truncated: "x", Created: s.now}}, s.now, s.by()))
	s.ok(s.st.DeleteEndpoint(s.ctx, "p1", e.ID, s.by()))
	s.fails(s.st.DeleteEndpoint(s.ctx, "p1", e.ID, s.by()), ringback.NotFound) // What fails leaves no line.
	s.project("p2")
	all, err := s.st.ListAudit(s.ctx, "p1", 0, 100)
	s.ok(err)
	var actions []string
	for _, a := range all {
		actions = append(actions, a.Action)
		if a.Actor != "key_test" || !a.At.Equal(s.now) || strings.Contains(a.Detail, "secret\x00") {
			s.Errorf("unexpected line %+v", a)
		}
	}
	s.same(actions, []string{"webhook.delete", "webhook.rotate", "webhook.update", "webhook.create", "key.create", "project.create"})
	page, err := s.st.ListAudit(s.ctx, "p1", all[1].Seq, 2)
	s.ok(err)
	s.same(page, all[2:4])
	whole, err := s.st.ListAudit(s.ctx, "", 0, 100)
	s.ok(err)
	s.same(len(whole), 8)
}

func testSigningKeys(s *suite) {
	a := ringback.SigningKey{ID: "a", Algorithm: ringback.RS256, Sealed: []byte{1}, Public: json.RawMessage(`{"kid":"a"}`), Created: s.now, SignsFrom: s.now}
	b := ringback.SigningKey{ID: "b", Algorithm: ringback.EdDSA, Sealed: []byte{2}, Public: json.RawMessage(`{"kid":"b"}`), Created: s.now.Add(time.Second)}
	s.ok(s.st.PutSigningKeys(s.ctx, []ringback.SigningKey{a, b}, "signing_key.create", s.by()))
	old := a
	old.Sealed, old.SignsUntil, old.PublishedUntil = nil, s.now.Add(time.Minute), s.now.Add(time.Hour)
	s.ok(s.st.PutSigningKeys(s.ctx, []ringback.SigningKey{old}, "signing_key.rotate", s.by()))
	s.reopen()
	got, err := s.st.SigningKeys(s.ctx)
	s.ok(err)
	s.same(got, []ringback.SigningKey{old, b})
	s.now = s.now.Add(time.Hour)
	s.ok(s.st.PutSigningKeys(s.ctx, nil, "", s.by()))
	got, err = s.st.SigningKeys(s.ctx)
	s.ok(err)
	s.same(got, []ringback.SigningKey{b})
}

func testReseal(s *suite) {
	e := s.endpoint("p1")
	_, err := s.st.UpdateEndpoint(s.ctx, "p1", e.ID, store.EndpointPatch{Settings: &ringback.Settings{
		Headers: []ringback.Header{{Name: "a", Sealed: []byte("header")}}, Certificate: []byte("certificate")}}, s.by())
	s.ok(err)
	s.ok(s.st.PutSigningKeys(s.ctx, []ringback.SigningKey{{ID: "k", Algorithm: ringback.EdDSA, Sealed: []byte("key"), Public: json.RawMessage("{}"), Created: s.now}}, "x", s.by()))
	broken := errors.New("cut off")
	if _, err := s.st.Reseal(s.ctx, func(sealed []byte, _ string) ([]byte, error) {
		if string(sealed) == "key" {
			return nil, broken
		}
		return []byte("half"), nil
	}, s.by()); !errors.Is(err, broken) {
		s.Fatalf("got %v", err)
	}
	seen := map[string]string{}
	n, err := s.st.Reseal(s.ctx, func(sealed []byte, context string) ([]byte, error) {
		seen[string(sealed)] = context
		if string(sealed) == "header" {
			return nil, nil // It is sealed anew already.
		}
		return append([]byte("new "), sealed...), nil
	}, s.by())
	s.ok(err)
	s.same(n, 3)
	at := store.SealEndpoint + string(e.ID)
	s.same(seen, map[string]string{"\x01\x02\x03": at, "header": at, "certificate": at, "key": store.SealSigning + "k"})
	s.reopen()
	got, err := s.st.Endpoint(s.ctx, "p1", e.ID)
	s.ok(err)
	s.same([]string{string(got.Secrets[0].Sealed), string(got.Settings.Headers[0].Sealed), string(got.Settings.Certificate)}, []string{"new \x01\x02\x03", "header", "new certificate"})
	keys, err := s.st.SigningKeys(s.ctx)
	s.ok(err)
	s.same(string(keys[0].Sealed), "new key")
}

func testEndpointSettings(s *suite) {
	e := s.endpoint("p1")
	set := ringback.Settings{Schemes: []ringback.Scheme{ringback.V1, ringback.V1a}, Timeout: 3 * time.Second, MaxInFlight: 5, Rate: 2.5, Window: time.Hour,
		Schedule: []time.Duration{time.Second, time.Minute}, Headers: []ringback.Header{{Name: "x", Sealed: []byte{9}}}, Certificate: []byte{7}, CertificateName: "CN=x"}
	more := ringback.Secret{Scheme: ringback.V1a, Sealed: []byte{8}, Truncated: "whpk_x", Created: s.now, Expires: s.now.Add(time.Hour)}
	changed, err := s.st.UpdateEndpoint(s.ctx, "p1", e.ID, store.EndpointPatch{Settings: &set, AddSecrets: []ringback.Secret{more}}, s.by())
	s.ok(err)
	s.same(changed.Settings, set)
	s.reopen()
	got, err := s.st.Endpoint(s.ctx, "p1", e.ID)
	s.ok(err)
	s.same(got, changed)
	s.same(len(got.Secrets), 2)
	s.same(got.Secrets[0], more)
	// Expired secrets are really gone.
	s.ok(s.st.DropExpired(s.ctx, s.now.Add(time.Hour)))
	s.reopen()
	got, err = s.st.Endpoint(s.ctx, "p1", e.ID)
	s.ok(err)
	s.same(got.Secrets, e.Secrets)
}

// attempt records an attempt that failed or succeeded.
func (s *suite) attempt(c store.ClaimedDelivery, state ringback.DeliveryState) {
	s.Helper()
	s.ok(s.st.RecordAttempt(s.ctx, c.Lease, &store.Outcome{Target: c.Target, Endpoint: c.Endpoint, State: state, Due: s.now, At: s.now,
		Attempt: ringback.Attempt{Delivery: c.ID, Number: c.Attempts + 1, Started: s.now, Reason: "tested"}}))
}

func testHealth(s *suite) {
	e := s.endpoint("p1")
	s.add(e)
	health := func() ringback.Health {
		s.Helper()
		h, err := s.st.Health(s.ctx, e.ID)
		s.ok(err)
		return h
	}
	since := s.now
	for range 3 {
		s.attempt(s.claim(1, nil)[0], ringback.DeliveryPending)
		s.now = s.now.Add(time.Hour)
	}
	s.same(health(), ringback.Health{FailingSince: since, Failures: 3})
	s.reopen()
	s.same(health(), ringback.Health{FailingSince: since, Failures: 3})
	c := s.claim(1, nil)[0]
	s.ok(s.st.RecordAttempt(s.ctx, c.Lease, &store.Outcome{Target: c.Target, Endpoint: c.Endpoint, State: ringback.DeliveryPending, Due: s.now, At: s.now, NoAttempt: true,
		Attempt: ringback.Attempt{Delivery: c.ID, Number: c.Attempts}}))
	s.same(health().Failures, 3)
	s.attempt(s.claim(1, nil)[0], ringback.DeliveryDelivered)
	s.same(health(), ringback.Health{})
	s.reopen()
	s.same(health(), ringback.Health{})
	// Enabling forgets.
	s.add(e)
	s.attempt(s.claim(1, nil)[0], ringback.DeliveryPending)
	for _, state := range []ringback.EndpointState{ringback.Disabled, ringback.Enabled} {
		_, err := s.st.UpdateEndpoint(s.ctx, "p1", e.ID, store.EndpointPatch{State: &state}, s.by())
		s.ok(err)
	}
	s.same(health(), ringback.Health{})
	got, err := s.st.Endpoint(s.ctx, "p1", e.ID)
	s.ok(err)
	s.same(got.Resumed, s.now)
	// An endpoint is disabled in the step that says why, and only once.
	c = s.claim(1, nil)[0]
	told := s.happening("")
	outcome := &store.Outcome{Target: c.Target, Endpoint: e.ID, State: ringback.DeliveryPending, Due: s.now, At: s.now, Disable: ringback.DisabledDueToFailedDeliveries, Told: told,
		Attempt: ringback.Attempt{Delivery: c.ID, Number: c.Attempts + 1, Started: s.now, Reason: "tested"}}
	s.ok(s.st.RecordAttempt(s.ctx, c.Lease, outcome))
	got, err = s.st.Endpoint(s.ctx, "p1", e.ID)
	s.ok(err)
	s.same(got.State, ringback.DisabledDueToFailedDeliveries)
	_, err = s.st.Event(s.ctx, "p1", told.Event.ID)
	s.ok(err)
	s.same(len(s.claim(1, nil)), 0)
}

func testRedeliver(s *suite) {
	e := s.endpoint("p1")
	id := s.add(e).Deliveries[0].ID
	s.attempt(s.claim(1, nil)[0], ringback.DeliveryDelivered)
	s.same(len(s.claim(1, nil)), 0)
	s.now = s.now.Add(time.Hour)
	s.ok(s.st.Redeliver(s.ctx, "p1", id, s.by()))
	s.fails(s.st.Redeliver(s.ctx, "p2", id, s.by()), ringback.NotFound)
	s.fails(s.st.Redeliver(s.ctx, "p1", "msg_none", s.by()), ringback.NotFound)
	c := s.claim(1, nil)[0]
	s.same([]any{c.ID, c.Attempts, c.Begun}, []any{id, 1, s.now})
	// While it is under way it is left alone.
	s.ok(s.st.Redeliver(s.ctx, "p1", id, s.by()))
	s.same(len(s.claim(1, nil)), 0)
	s.attempt(c, ringback.DeliveryFailed)
	d, err := s.st.Delivery(s.ctx, "p1", id)
	s.ok(err)
	s.same([]any{d.State, d.Attempts}, []any{ringback.DeliveryFailed, 2})
	attempts, err := s.st.Attempts(s.ctx, "p1", id)
	s.ok(err)
	s.same(len(attempts), 2)
}

func testListDeliveries(s *suite) {
	a, b := s.endpoint("p1"), s.endpoint("p1")
	var events []ringback.ID
	for range 6 {
		events = append(events, s.add(a, b).Event.ID)
		s.now = s.now.Add(time.Minute)
	}
	for i, c := range s.claim(100, nil) {
		state := []ringback.DeliveryState{ringback.DeliveryDelivered, ringback.DeliveryFailed, ringback.DeliveryPending}[i%3]
		s.attempt(c, state)
	}
	count := func(f store.DeliveryFilter) int {
		s.Helper()
		all, err := s.st.ListDeliveries(s.ctx, "p1", f, "", 100)
		s.ok(err)
		// In pages of any size it is the same list.
		for size := 1; size < 5; size++ {
			var paged []ringback.Delivery
			for before := ringback.ID(""); ; {
				page, err := s.st.ListDeliveries(s.ctx, "p1", f, before, size)
				s.ok(err)
				if len(page) == 0 {
					break
				}
				paged = append(paged, page...)
				before = page[len(page)-1].ID
			}
			s.same(paged, all)
		}
		if !slices.IsSortedFunc(all, func(a, b ringback.Delivery) int { return b.Created.Compare(a.Created) }) {
			s.Errorf("%+v: not newest first", f)
		}
		return len(all)
	}
	s.same([]int{
		count(store.DeliveryFilter{}), count(store.DeliveryFilter{State: ringback.DeliveryFailed}), count(store.DeliveryFilter{State: ringback.DeliveryPending}),
		count(store.DeliveryFilter{Endpoint: a.ID}), count(store.DeliveryFilter{Event: events[2]}), count(store.DeliveryFilter{Types: []ringback.EventType{ringback.BatchFailed}}),
		count(store.DeliveryFilter{Types: []ringback.EventType{ringback.BatchFailed, ringback.InteractionCompleted}, From: s.now.Add(-3 * time.Minute), To: s.now.Add(-time.Minute)}),
	}, []int{12, 4, 4, 6, 2, 0, 4})
	none, err := s.st.ListDeliveries(s.ctx, "p2", store.DeliveryFilter{}, "", 100)
	s.ok(err)
	s.same(len(none), 0)
	_, err = s.st.Delivery(s.ctx, "p2", "msg_none")
	s.fails(err, ringback.NotFound)
	list, err := s.st.EventsAfter(s.ctx, "p1", store.EventFilter{Types: []ringback.EventType{ringback.BatchFailed}}, 0, 100)
	s.ok(err)
	s.same(len(list), 0)
	list, err = s.st.EventsAfter(s.ctx, "p1", store.EventFilter{Types: []ringback.EventType{ringback.InteractionCompleted, ringback.BatchFailed}}, 0, 100)
	s.ok(err)
	s.same(len(list), 6)
}

func testListJobs(s *suite) {
	var ids []ringback.ID
	for range 5 {
		ids = append(ids, s.createJob().ID)
	}
	c := s.claimJobs(2)
	s.ok(s.st.EndJob(s.ctx, c[0].ID, &c[0].Lease, &store.End{State: ringback.Failed, Failure: &ringback.Failure{Code: "c", Message: "m"}, At: s.now}))
	slices.Reverse(ids)
	var got []ringback.ID
	for before := int64(0); ; {
		page, next, err := s.st.ListJobs(s.ctx, "p1", store.JobFilter{}, before, 2)
		s.ok(err)
		for _, j := range page {
			got = append(got, j.ID)
			if j.Spec != nil || j.Output != nil {
				s.Error("a list has large fields")
			}
		}
		if before = next; next == 0 {
			break
		}
	}
	s.same(got, ids)
	for state, want := range map[ringback.State]int{ringback.Pending: 3, ringback.Running: 1, ringback.Failed: 1, ringback.Completed: 0} {
		page, _, err := s.st.ListJobs(s.ctx, "p1", store.JobFilter{Kind: ringback.KindInteraction, State: state}, 0, 10)
		s.ok(err)
		s.same(len(page), want)
	}
	page, _, err := s.st.ListJobs(s.ctx, "p1", store.JobFilter{Kind: "other"}, 0, 10)
	s.ok(err)
	s.same(len(page), 0)
}

func testStalled(s *suite) {
	j := s.newJob()
	j.Webhooks = &ringback.DynamicWebhooks{URIs: []string{"https://a.example/"}, UserMetadata: json.RawMessage(`{"a":1}`)}
	s.ok(s.st.CreateJob(s.ctx, j, nil))
	old, err := s.st.StalledJobs(s.ctx, s.now, 10)
	s.ok(err)
	s.same(len(old), 0)
	old, err = s.st.StalledJobs(s.ctx, s.now.Add(time.Second), 10)
	s.ok(err)
	s.same(len(old), 1)
	s.same(old[0].Webhooks, j.Webhooks)
	h := s.happening(j.ID, s.endpoint("p1"))
	s.ok(s.st.MarkStalled(s.ctx, j.ID, h))
	s.fails(s.st.MarkStalled(s.ctx, j.ID, s.happening(j.ID)), ringback.FailedPrecondition)
	s.fails(s.st.MarkStalled(s.ctx, "none", s.happening(j.ID)), ringback.NotFound)
	old, err = s.st.StalledJobs(s.ctx, s.now.Add(time.Second), 10)
	s.ok(err)
	s.same(len(old), 0)
	s.same(len(s.claim(10, nil)), 1)
	events, err := s.st.JobEvents(s.ctx, "p1", j.ID)
	s.ok(err)
	s.same(len(events), 1)
}

// replayed stores events of which each has failed for good at a and was
// delivered at b.
func (s *suite) replayed(n int) (a, b *ringback.Endpoint) {
	a, b = s.endpoint("p1"), s.endpoint("p1")
	for range n {
		s.add(a, b)
	}
	for _, c := range s.claim(2*n, nil) {
		if c.Endpoint == a.ID {
			s.attempt(c, ringback.DeliveryFailed)
		} else {
			s.attempt(c, ringback.DeliveryDelivered)
		}
	}
	return a, b
}

func testReplay(s *suite) {
	const n = 25
	a, _ := s.replayed(n)
	failed := store.DeliveryFilter{State: ringback.DeliveryFailed}
	for f, want := range map[*store.DeliveryFilter]int{{}: 2 * n, &failed: n, {Endpoint: a.ID}: n, {Types: []ringback.EventType{ringback.BatchFailed}}: 0, {To: s.now}: 0} {
		got, err := s.st.CountReplay(s.ctx, "p1", *f)
		s.ok(err)
		s.same(got, want)
	}
	r := store.Replay{ID: "replay_1", Project: "p1", Filter: failed, Created: s.now}
	s.ok(s.st.CreateReplay(s.ctx, r, s.by()))
	s.add(a) // What happens from now on is not the replay's.
	later := s.claim(1, nil)[0]
	s.attempt(later, ringback.DeliveryFailed)
	pages := 0
	for more := true; more; pages++ {
		var err error
		more, err = s.st.AdvanceReplay(s.ctx, s.now, 10)
		s.ok(err)
	}
	s.same(pages, 3)
	got, err := s.st.Replay(s.ctx, "p1", r.ID)
	s.ok(err)
	s.same([]any{got.Sent, got.Done}, []any{n, s.now})
	_, err = s.st.Replay(s.ctx, "p2", r.ID)
	s.fails(err, ringback.NotFound)
	list, err := s.st.ListReplays(s.ctx, "p1", 10)
	s.ok(err)
	s.same(list, []store.Replay{got})
	again := s.claim(100, nil)
	s.same(len(again), n)
	for _, c := range again {
		if c.Endpoint != a.ID || c.ID == later.ID || c.Attempts != 1 {
			s.Errorf("unexpected delivery %+v", c)
		}
	}
	more, err := s.st.AdvanceReplay(s.ctx, s.now, 10)
	s.ok(err)
	s.same(more, false)
}

// testReplayGoesOn: a replay that was cut off goes on where it was.
func testReplayGoesOn(s *suite) {
	const n = 12
	s.replayed(n)
	for i := range 2 {
		s.ok(s.st.CreateReplay(s.ctx, store.Replay{ID: ringback.ID(fmt.Sprint("replay_", i)), Project: "p1", Created: s.now.Add(time.Duration(i))}, s.by()))
	}
	for more := true; more; {
		var err error
		more, err = s.st.AdvanceReplay(s.ctx, s.now, 5)
		s.ok(err)
		s.reopen()
	}
	list, err := s.st.ListReplays(s.ctx, "p1", 10)
	s.ok(err)
	// The second finds everything under way already.
	s.same([]int{list[1].Sent, list[0].Sent}, []int{2 * n, 0})
	s.same(len(s.claim(100, nil)), 2*n)
}

func testSweep(s *suite) {
	e := s.endpoint("p1")
	begin := s.now
	for range 10 {
		s.add(e)
		s.now = s.now.Add(time.Hour)
	}
	for _, c := range s.claim(7, nil) {
		s.attempt(c, ringback.DeliveryDelivered)
	}
	// Up to the limit, the oldest first, and nothing younger than asked.
	events, unended, err := s.st.Sweep(s.ctx, begin.Add(8*time.Hour), 5)
	s.ok(err)
	s.same([]int{events, unended}, []int{5, 0})
	events, unended, err = s.st.Sweep(s.ctx, begin.Add(8*time.Hour), 5)
	s.ok(err)
	s.same([]int{events, unended}, []int{3, 1})
	events, _, err = s.st.Sweep(s.ctx, begin.Add(8*time.Hour), 5)
	s.ok(err)
	s.same(events, 0)
	list, err := s.st.EventsAfter(s.ctx, "p1", store.EventFilter{}, 0, 100)
	s.ok(err)
	deliveries, err := s.st.ListDeliveries(s.ctx, "p1", store.DeliveryFilter{}, "", 100)
	s.ok(err)
	s.same([]int{len(list), len(deliveries)}, []int{2, 2})
	s.reopen()
	s.same(len(s.claim(100, nil)), 2)
	next := s.add(e)
	if next.Event.Seq <= list[1].Seq {
		s.Error("a sequence number was given twice")
	}
}

func testDynamicDeliveries(s *suite) {
	h := s.happening("")
	h.Event.Skipped = []ringback.Skipped{{Reason: ringback.Replaced, Endpoints: []ringback.ID{"e"}, Count: 3}}
	d := ringback.Delivery{ID: "msg_uri", Event: h.Event.ID, Project: "p1", Target: "uri_x", URI: "https://a.example/cb?x=1", Scheme: ringback.V1a,
		State: ringback.DeliveryPending, Due: s.now, Begun: s.now, Created: s.now, Updated: s.now}
	h.Deliveries = []store.NewDelivery{{Delivery: d}}
	s.ok(s.st.AddEvent(s.ctx, h))
	s.reopen()
	got, err := s.st.Event(s.ctx, "p1", h.Event.ID)
	s.ok(err)
	s.same(got.Skipped, h.Event.Skipped)
	_, err = s.st.Event(s.ctx, "p2", h.Event.ID)
	s.fails(err, ringback.NotFound)
	all, err := s.st.EventDeliveries(s.ctx, "p1", h.Event.ID)
	s.ok(err)
	s.same(all, []ringback.Delivery{d})
	c := s.claim(1, nil)[0]
	s.same([]any{c.URI, c.Scheme, c.To == nil, c.Endpoint}, []any{d.URI, d.Scheme, true, ringback.ID("")})
}

func testNextDue(s *suite) {
	a, b := s.endpoint("p1"), s.endpoint("p1")
	s.add(a)
	s.now = s.now.Add(time.Minute)
	s.add(b)
	next := func(hold func(string) time.Time) time.Time {
		s.Helper()
		at, err := s.st.NextDue(s.ctx, hold)
		s.ok(err)
		return at
	}
	s.same(next(nil), s.now.Add(-time.Minute))
	later := s.now.Add(time.Hour)
	s.same(next(func(target string) time.Time {
		if target == string(a.ID) {
			return later
		}
		return time.Time{}
	}), s.now)
	s.same(next(func(string) time.Time { return later }), later)
}
