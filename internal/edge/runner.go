package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"ringback.dev/inbox"
	"ringback.dev/internal/crash"
)

// runner does actions. Each action of an event is an entry of its own in the
// inbox, whose source is the action's name (ROUTE/ACTION) and whose id is that of
// the event (SOURCE/WEBHOOK-ID), so that actions are tried again, given up and
// looked at apart from each other.
//
// Each action has a lane with a bounded number of attempts under way, so that one
// that hangs or fails costs the others nothing but places among all. Entries come
// into a lane in memory, right after the commit that made them, or are claimed:
// upon a hint, when one is due, or by the poll beneath both.
type runner struct {
	store   Store
	log     *slog.Logger
	metrics *metrics

	wake  chan struct{} // Holds one element.
	tasks sync.WaitGroup
	ended chan struct{} // Closed when nothing is in hand any more.
	// calls is the context of all attempts; it ends when there was time enough for
	// them to finish.
	calls context.Context
	cut   context.CancelCauseFunc

	mu      sync.Mutex
	open    bool // Run is claiming.
	setup   *setup
	lanes   map[string]*lane
	waiting []*lane // Those whose turn it is when a place among all is free, in turn.
	running int     // Attempts under way, in all.
	max     int
	held    map[name]*inbox.Entry // What is in hand, as of its latest claim.
}

// name is that of an entry.
type name struct{ source, id string }

func nameOf(e *inbox.Entry) name { return name{e.Source, e.ID} }

// lane is what the runner knows of an action.
type lane struct {
	*action
	taken   int            // Places that are reserved, or have an entry that is not settled.
	running int            // Attempts under way.
	queue   []*inbox.Entry // Claimed, and not begun.
	queued  bool           // It is among the waiting.
	more    bool           // There may be something to claim.
	due     time.Time      // When there will be, the zero time if that is not known.
}

// capacity is how many entries a lane holds: more than run at once, so that there is
// always a next one.
func (l *lane) capacity() int { return 2 * l.limit }

const (
	// leaseTime is how long after a crash what was under way is done again. Leases of
	// what is under way are extended, however long that takes.
	leaseTime = 15 * time.Second
	pollTime  = time.Second
	// storeTimeout bounds a call of the store.
	storeTimeout = 10 * time.Second
	// An outcome is offered to the store several times: what was done would be done
	// again for nothing.
	settleTries = 5
	settleWait  = time.Second
	// maxLost is how often the process may die during an action before that is given
	// up: it may be what kills it.
	maxLost = 10
)

// errStopping is why attempts are cut off at the end.
var errStopping = errors.New("the edge is stopping")

func newRunner(store Store, log *slog.Logger, m *metrics) *runner {
	r := &runner{store: store, log: log, metrics: m, wake: make(chan struct{}, 1), ended: make(chan struct{}), lanes: make(map[string]*lane), held: make(map[name]*inbox.Entry)}
	r.calls, r.cut = context.WithCancelCause(context.Background())
	return r
}

// use has the runner go on with another setup, and closes the one before once
// nothing runs by it.
func (r *runner) use(s *setup) {
	r.mu.Lock()
	old := r.setup
	r.setup, r.max = s, s.config.MaxRunning
	var back []*inbox.Entry
	for name, l := range r.lanes {
		if s.actions[name] == nil {
			// Its entries wait until the configuration has the action again.
			back = append(back, r.drop(l)...)
			delete(r.lanes, name)
		}
	}
	for name, a := range s.actions {
		if l := r.lanes[name]; l != nil {
			l.action = a
		} else {
			r.lanes[name] = &lane{action: a, more: true}
		}
	}
	for _, l := range r.lanes {
		r.turns(l) // It may have more places now.
	}
	if old != nil {
		old.retire()
	}
	r.mu.Unlock()
	r.release(back)
	r.hint()
}

func (r *runner) hint() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run claims and does actions until ctx ends. Then it claims no more; what is
// under way goes on until Stop.
func (r *runner) Run(ctx context.Context) error {
	r.mu.Lock()
	r.open = true
	r.mu.Unlock()
	poll := time.NewTicker(pollTime)
	defer poll.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
			r.look()
			continue
		case <-timer.C:
		case <-r.wake:
		}
		r.claim(ctx)
		timer.Reset(r.sleep())
	}
}

// keep extends the leases of what is in hand until Stop has done its work: also
// while Run waits for the store, and while the edge stops, which may take longer
// than a lease.
func (r *runner) keep() {
	tick := time.NewTicker(leaseTime / 3)
	defer tick.Stop()
	for {
		select {
		case <-r.ended:
			return
		case <-tick.C:
			r.extend()
		}
	}
}

// look says that there may be something to claim: others may have put it there.
func (r *runner) look() {
	r.mu.Lock()
	for _, l := range r.lanes {
		l.more = true
	}
	r.mu.Unlock()
	r.hint()
}

// sleep is how long there is nothing to claim, as far as is known here.
func (r *runner) sleep() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait := pollTime
	for _, l := range r.lanes {
		if !l.due.IsZero() && l.room() > 0 {
			wait = min(wait, time.Until(l.due))
		}
	}
	return max(wait, time.Millisecond)
}

// room is how many entries a lane can claim. A few at a time, not one by one.
func (l *lane) room() int {
	if free := l.capacity() - l.taken; free >= (l.capacity()+1)/2 {
		return free
	}
	return 0
}

// claim takes what is due.
func (r *runner) claim(ctx context.Context) {
	now := time.Now()
	var claims sync.WaitGroup
	r.mu.Lock()
	for name, l := range r.lanes {
		if n := l.room(); n > 0 && (l.more || !l.due.IsZero() && !l.due.After(now)) {
			l.more, l.due = false, time.Time{}
			l.taken += n
			claims.Go(func() { r.fill(ctx, name, l, n, now) }) // Together, so that they are one commit.
		}
	}
	r.mu.Unlock()
	claims.Wait()
}

// fill claims entries for the n places of a lane that are reserved for them.
func (r *runner) fill(ctx context.Context, name string, l *lane, n int, now time.Time) {
	// Not cut short by ctx: then nobody would know what was claimed.
	claiming, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	entries, err := r.store.Claim(claiming, name, now, now.Add(leaseTime), n)
	cancel()
	if err != nil {
		r.log.Error("claim actions; trying again", "action", name, "error", err)
	}
	r.mu.Lock()
	l.taken -= n - len(entries)
	l.more = l.more || len(entries) == n
	var back []*inbox.Entry
	for i := range entries {
		if r.lanes[name] == l {
			r.take(l, &entries[i])
			continue
		}
		l.taken-- // The configuration has lost it meanwhile.
		back = append(back, &entries[i])
	}
	r.mu.Unlock()
	r.release(back)
}

// take puts an entry, for which there is a place, into its lane. Called with mu
// held.
func (r *runner) take(l *lane, e *inbox.Entry) {
	if have, ok := r.held[nameOf(e)]; ok {
		// Its lease ran out, as when the machine slept, and we have claimed it from
		// ourselves. It is still under way, now by the newer lease.
		if e.Token > have.Token {
			r.held[nameOf(e)] = e
		}
		l.taken--
		return
	}
	r.held[nameOf(e)] = e
	l.queue = append(l.queue, e)
	r.begin(l)
}

// begin begins what may be begun of a lane. Called with mu held.
func (r *runner) begin(l *lane) {
	for len(l.queue) > 0 && l.running < l.limit && r.open {
		if r.running >= r.max {
			if !l.queued {
				l.queued = true
				r.waiting = append(r.waiting, l)
			}
			return
		}
		e := l.queue[0]
		l.queue[0] = nil
		l.queue = l.queue[1:]
		l.running++
		r.running++
		s, a := r.setup, l.action
		s.users++
		r.tasks.Go(func() { r.run(s, l, a, e) })
	}
}

// turns puts a lane behind those that wait, and gives free places to all in turn.
// Called with mu held.
func (r *runner) turns(l *lane) {
	if len(l.queue) > 0 && !l.queued {
		l.queued = true
		r.waiting = append(r.waiting, l)
	}
	for range len(r.waiting) {
		if r.running >= r.max {
			break
		}
		next := r.waiting[0]
		r.waiting, next.queued = r.waiting[1:], false
		r.begin(next)
	}
}

// add stores an action of an event, to be done. It is durable when add returns;
// one that is there already is left as it is.
func (r *runner) add(ctx context.Context, name string, e *inbox.Entry) error {
	r.mu.Lock()
	l := r.lanes[name]
	born := l != nil && r.open && l.taken < l.capacity()
	if born {
		// Born claimed: no query stands between the commit and the action.
		l.taken++
		e.Token, e.Working, e.Due = 1, true, time.Now().Add(leaseTime)
	}
	r.mu.Unlock()
	first, err := r.store.Accept(ctx, e)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case born && first && err == nil && r.open && r.lanes[name] == l:
		r.take(l, e)
	case born && first && err == nil:
		l.taken--
		r.tasks.Go(func() { r.release([]*inbox.Entry{e}) })
	case born:
		l.taken--
	case first && l != nil:
		l.more = true
		r.hint()
	}
	return err
}

// run makes an attempt and records it.
func (r *runner) run(s *setup, l *lane, a *action, e *inbox.Entry) {
	crash.At(crash.EdgeBegun)
	started := time.Now()
	res := r.attempt(a, e)
	ended := time.Now()
	crash.At(crash.EdgeActed)
	o := r.outcome(a, e, &res, started, ended)
	if !res.reason.good() && errors.Is(context.Cause(r.calls), errStopping) {
		// Our own stop cut it off, which says nothing about the action.
		o = inbox.Outcome{State: inbox.Pending, Due: ended, Started: started, At: ended, Released: true}
	}
	r.mu.Lock()
	l.running--
	r.running--
	if s.users--; s.users == 0 && s.retired {
		r.tasks.Go(s.close)
	}
	r.turns(l)
	latest := r.held[nameOf(e)]
	r.mu.Unlock()
	err := r.settle(latest.Lease(), o)
	crash.At(crash.EdgeRecorded)
	r.mu.Lock()
	for errors.Is(err, inbox.ErrStale) && r.held[nameOf(e)] != latest { // By a claim of our own; see take.
		latest = r.held[nameOf(e)]
		r.mu.Unlock()
		err = r.settle(latest.Lease(), o)
		r.mu.Lock()
	}
	again := r.held[nameOf(e)]
	delete(r.held, nameOf(e))
	l.taken--
	if again != latest && err == nil { // It was due again at once, and claimed before we knew that it was settled.
		if own := r.lanes[a.name]; own != nil && r.open {
			own.taken++
			r.take(own, again)
		} else {
			r.tasks.Go(func() { r.release([]*inbox.Entry{again}) })
		}
	}
	if o.State == inbox.Pending && err == nil && (l.due.IsZero() || o.Due.Before(l.due)) {
		l.due = o.Due
	}
	wake := l.room() > 0 && (l.more || !l.due.IsZero())
	r.mu.Unlock()
	if wake {
		r.hint()
	}
	r.note(a, e, &res, o, err)
}

// attempt does an action once.
func (r *runner) attempt(a *action, e *inbox.Entry) (res result) {
	if e.Lost >= maxLost {
		return failure(refused, "the process died %d times while this was done; retry it if it was not the cause", e.Lost)
	}
	source, id, ok := strings.Cut(e.ID, "/")
	if !ok {
		return failure(refused, "the id has no source")
	}
	ctx, cancel := context.WithTimeout(r.calls, a.timeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			r.log.Error("an action panicked", "action", a.name, "event", e.ID, "panic", v, "stack", string(debug.Stack()))
			res = failure(panicked, "panic: %v", v)
		}
	}()
	return a.do(ctx, &task{Event: newEvent(source, id, e), action: a.name, number: e.Attempts + 1, again: e.Token > 1})
}

// outcome decides what comes of an attempt.
func (r *runner) outcome(a *action, e *inbox.Entry, res *result, started, now time.Time) inbox.Outcome {
	o := inbox.Outcome{State: inbox.Done, Started: started, At: now}
	if res.reason.good() {
		return o
	}
	o.Error = string(res.reason) + ": " + res.err
	if res.reason.final() || e.Attempts >= len(a.delays) {
		o.State = inbox.Dead
		return o
	}
	wait := a.delays[e.Attempts]
	wait += time.Duration(float64(wait) * jitter * (2*rand.Float64() - 1))
	o.State, o.Due = inbox.Pending, now.Add(max(wait, res.wait))
	return o
}

// jitter spreads waits by ± this share.
const jitter = 0.2

// settle has an outcome stored.
func (r *runner) settle(lease inbox.Lease, o inbox.Outcome) (err error) {
	for try := range settleTries {
		if try > 0 {
			select {
			case <-time.After(settleWait):
			case <-r.calls.Done(): // The last try.
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		err = r.store.Settle(ctx, lease, o)
		cancel()
		if err == nil || errors.Is(err, inbox.ErrStale) || try > 0 && r.calls.Err() != nil {
			break
		}
	}
	return err
}

// note writes the line of an attempt, and counts it.
func (r *runner) note(a *action, e *inbox.Entry, res *result, o inbox.Outcome, err error) {
	if o.Released {
		r.log.Info("action interrupted", "event", e.ID, "action", a.name)
		return
	}
	r.metrics.attempt(a, res.reason, o)
	level := slog.LevelInfo
	switch {
	case err != nil && !errors.Is(err, inbox.ErrStale), o.State == inbox.Dead:
		level = slog.LevelError
	case !res.reason.good(), err != nil:
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{slog.String("event", e.ID), slog.String("type", e.Type), slog.String("action", a.name), slog.String("kind", a.kind),
		slog.Int("attempt", e.Attempts+1), slog.String("reason", string(res.reason)), slog.Duration("took", o.At.Sub(o.Started)), slog.String("state", string(o.State))}
	if o.State == inbox.Pending {
		attrs = append(attrs, slog.Time("next", o.Due))
	}
	if res.note != "" {
		attrs = append(attrs, slog.String("result", res.note))
	}
	if res.err != "" {
		attrs = append(attrs, slog.String("error", res.err))
	}
	if err != nil {
		attrs = append(attrs, slog.Any("not_recorded", err))
	}
	r.log.LogAttrs(context.Background(), level, "action", attrs...)
}

// drop takes what is not begun out of a lane, to be given back. Called with mu held.
func (r *runner) drop(l *lane) (back []*inbox.Entry) {
	for _, e := range l.queue {
		back = append(back, r.held[nameOf(e)])
		delete(r.held, nameOf(e))
	}
	l.taken -= len(l.queue)
	l.queue = nil
	return back
}

// release gives entries back that were not begun.
func (r *runner) release(all []*inbox.Entry) {
	now := time.Now()
	var given sync.WaitGroup
	for _, e := range all {
		given.Go(func() { // Together, so that they are one commit, or one wait for a store that hangs.
			err := r.settle(e.Lease(), inbox.Outcome{State: inbox.Pending, Due: now, Started: now, At: now, Released: true})
			if err != nil && !errors.Is(err, inbox.ErrStale) {
				r.log.Warn("give back an action; its lease runs out", "event", e.ID, "action", e.Source, "error", err)
			}
		})
	}
	given.Wait()
}

// extend keeps the leases of what is in hand.
func (r *runner) extend() {
	r.mu.Lock()
	leases := make([]inbox.Lease, 0, len(r.held))
	for _, e := range r.held {
		leases = append(leases, e.Lease())
	}
	r.mu.Unlock()
	if len(leases) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	if err := r.store.Extend(ctx, leases, time.Now().Add(leaseTime)); err != nil {
		r.log.Error("extend leases; actions may be done twice at once", "error", err)
	}
}

// Stop ends the runner after Run has returned: what waits is given back, what is
// under way goes on until ctx ends and is then cut off.
func (r *runner) Stop(ctx context.Context) {
	r.mu.Lock()
	r.open = false
	var back []*inbox.Entry
	for _, l := range r.lanes {
		back = append(back, r.drop(l)...)
	}
	r.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { r.cut(errStopping) })
	defer stop()
	r.release(back)
	r.tasks.Wait()
	close(r.ended)
}

// plan stores the actions of an event, and is what the inbox calls for each. An
// event that is planned again, since the process died, gets the same: what is there
// already stays as it is.
func (r *runner) plan(ctx context.Context, e *inbox.Entry) error {
	r.mu.Lock()
	s := r.setup
	r.mu.Unlock()
	event := newEvent(e.Source, e.ID, e)
	if double, err := r.takenIn(ctx, s, event); err != nil || double {
		if double {
			r.log.Info("event that was taken in before", "event", e.Source+"/"+e.ID, "type", e.Type)
		}
		return err
	}
	actions, errs := s.plan(event)
	crash.At(crash.EdgePlanned)
	stored := make([]error, len(actions))
	var all sync.WaitGroup
	for i, a := range actions {
		all.Go(func() { // Together, so that they are one commit.
			stored[i] = r.add(ctx, a.name, &inbox.Entry{Source: a.name, ID: e.Source + "/" + e.ID, Type: e.Type, Scheme: e.Scheme,
				Sent: e.Sent, Received: e.Received, Body: e.Body, State: inbox.Pending, Due: time.Now()})
		})
	}
	all.Wait()
	crash.At(crash.EdgeSpread)
	if err := errors.Join(stored...); err != nil {
		return fmt.Errorf("store the actions: %w", err)
	}
	if err := s.collected(event); err != nil {
		return err
	}
	r.metrics.planned(e.Source, len(actions))
	if r.log.Enabled(ctx, slog.LevelInfo) {
		names := make([]string, len(actions))
		for i, a := range actions {
			names[i] = a.name
		}
		r.log.LogAttrs(ctx, slog.LevelInfo, "event", slog.String("event", e.Source+"/"+e.ID), slog.String("type", e.Type), slog.Int("bytes", len(e.Body)),
			slog.Duration("age", time.Since(e.Received)), slog.String("actions", strings.Join(names, " ")))
	}
	// A condition that can't be worked out is a fault in the file. The event is a dead
	// letter until somebody has mended it and tries again.
	return inbox.Permanent(errors.Join(errs...))
}
