package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// errStopping is why calls are cancelled at the end of Run.
var errStopping = errors.New("inbox: the receiver is stopping")

// Run works on entries until ctx ends. Then it claims no more, lets the calls
// under way go on for Grace, cancels them, and gives back what is not settled, for
// which no attempt is counted. Ending otherwise, such as by a kill, loses nothing
// either: leases run out, and the entries are worked on again.
//
// Several processes may run receivers of one Source on one store.
func (r *Receiver) Run(ctx context.Context) error {
	w := &r.work
	if !w.start(r.workers()) {
		return errors.New("inbox: Run is running already")
	}
	// Calls outlive ctx for a while.
	calls, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	var workers, settler, beat sync.WaitGroup
	for range r.workers() {
		workers.Go(func() {
			for {
				select {
				case e := <-w.queue:
					r.attempt(calls, e)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	settler.Go(func() { r.settleAll(calls) })
	done := make(chan struct{})
	beat.Go(func() { r.extend(done) })
	beat.Go(func() { r.sweep(ctx) })

	r.claims(ctx)

	timer := time.AfterFunc(orDefault(r.Grace, 10*time.Second), func() { cut(errStopping) })
	defer timer.Stop()
	for _, e := range w.stop() {
		w.ended <- released(e)
	}
	workers.Wait()
	w.wait()
	close(w.ended)
	settler.Wait()
	close(done)
	beat.Wait()
	return nil
}

// claims claims entries, whenever there may be some and there is room, until ctx
// ends.
func (r *Receiver) claims(ctx context.Context) {
	w := &r.work
	poll := orDefault(r.Poll, time.Second)
	timer := time.NewTimer(0)
	defer timer.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(poll)
			w.expect()
			continue
		case <-w.wake:
		}
		// A place is claimed for when many are free, not one by one.
		n := w.claimable()
		if n == 0 {
			continue
		}
		now := time.Now()
		// Not cut short by ctx: then nobody would know what was claimed.
		claiming, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		entries, err := r.store.Claim(claiming, r.Source, now, now.Add(r.lease()), n)
		cancel()
		if err != nil {
			w.free(n)
			if !failed && ctx.Err() == nil { // Once per outage.
				r.log().Error("claim failed; trying again", "source", r.Source, "error", err)
			}
			failed = true
			continue // The timer comes.
		}
		failed = false
		if len(entries) == n {
			w.expect()
		}
		w.free(n - len(entries))
		for i := range entries {
			w.begin(&entries[i]) // It runs: stop comes after this loop.
		}
	}
}

// attempt calls fn on an entry, and has the outcome stored while the worker goes
// on to the next.
func (r *Receiver) attempt(calls context.Context, e *Entry) {
	started := time.Now()
	x := ended{entry: e}
	if e.Lost >= maxLost {
		x.outcome = Outcome{State: Dead, Started: started, At: started,
			Error: fmt.Sprintf("the process died %d times while it worked on this; retry it if it was not the cause", e.Lost)}
	} else {
		err := r.call(calls, e)
		x.outcome = r.judge(e, started, time.Now(), err)
		r.work.took(x.outcome.At.Sub(started))
		if err != nil && errors.Is(context.Cause(calls), errStopping) {
			x = released(e)
		}
	}
	r.work.ended <- x
	r.work.free(1)
}

// ended is an attempt that came to an end, or an entry that is given back.
type ended struct {
	entry   *Entry
	outcome Outcome

	lease  Lease // By which it was offered to the store.
	err    error // Why it is not stored.
	unsure bool  // A store that failed may have stored it.
}

// released gives an entry back.
func released(e *Entry) ended {
	now := time.Now()
	return ended{entry: e, outcome: Outcome{State: Pending, Due: now, Started: now, At: now, Released: true}}
}

// call calls fn. A panic is an error: the other entries are not to suffer for it.
func (r *Receiver) call(ctx context.Context, e *Entry) (err error) {
	ctx, cancel := context.WithTimeout(ctx, orDefault(r.Timeout, time.Minute))
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			r.log().Error("the handler panicked", "source", e.Source, "id", e.ID, "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return r.fn(ctx, e)
}

const (
	// storeTimeout bounds a call of the store.
	storeTimeout = 10 * time.Second
	// An outcome is offered to the store several times: the effect is there, and
	// would be made again for nothing.
	settleTries = 5
	settleWait  = time.Second
	// maxSettling bounds the outcomes that wait to be stored.
	maxSettling = 256
)

// settleAll stores outcomes as they come: each time all that have come meanwhile.
func (r *Receiver) settleAll(calls context.Context) {
	for x := range r.work.ended {
		some := []ended{x}
		for more := len(r.work.ended); more > 0; more-- { // Nobody else takes from it.
			if x, ok := <-r.work.ended; ok {
				some = append(some, x)
			}
		}
		r.settle(calls, some)
	}
}

// settle stores outcomes and tells of them.
func (r *Receiver) settle(calls context.Context, some []ended) {
	left := make([]*ended, len(some))
	for i := range some {
		left[i] = &some[i]
	}
	for try := 0; ; {
		r.offer(left)
		failed := false
		left = slices.DeleteFunc(left, func(x *ended) bool {
			switch {
			case x.err == nil:
				return true
			case !errors.Is(x.err, ErrStale):
				x.unsure, failed = true, true
				return false
			case r.work.latest(x.entry) != x.lease: // We have claimed it from ourselves.
				return false
			case x.unsure: // It was stored the time before.
				x.err = nil
			}
			return true
		})
		if try++; len(left) == 0 || try == settleTries || try > 1 && calls.Err() != nil {
			break
		}
		if failed {
			select {
			case <-time.After(settleWait):
			case <-calls.Done(): // The last try.
			}
		}
	}
	var back []ended
	for _, x := range some {
		if e := r.work.settled(x.entry, x.lease); e != nil && x.err == nil {
			back = append(back, released(e)) // It was due again, and claimed before we knew that it was settled.
		}
		r.tell(x.entry, x.outcome, x.err)
	}
	if len(back) > 0 {
		r.settle(calls, back)
	}
}

// offer offers outcomes to the store once, and notes what came of each.
func (r *Receiver) offer(some []*ended) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	for _, x := range some {
		x.lease = r.work.latest(x.entry)
	}
	if s, ok := r.store.(BatchSettler); ok {
		all := make([]Settlement, len(some))
		for i, x := range some {
			all[i] = Settlement{x.lease, x.outcome}
		}
		stale, err := s.SettleAll(ctx, all)
		for _, x := range some {
			x.err = err
		}
		for _, i := range stale {
			some[i].err = ErrStale
		}
		return
	}
	var wg sync.WaitGroup
	for _, x := range some {
		wg.Go(func() { x.err = r.store.Settle(ctx, x.lease, x.outcome) })
	}
	wg.Wait()
}

// tell logs and reports what came of an attempt. err: its outcome is not stored.
func (r *Receiver) tell(e *Entry, o Outcome, err error) {
	level, text := slog.LevelDebug, "attempt ended"
	switch {
	case errors.Is(err, ErrStale):
		level, text = slog.LevelWarn, "the entry was taken over or purged while it was worked on"
	case err != nil:
		level, text = slog.LevelError, "the outcome could not be stored; the entry will be worked on again"
	case o.State == Dead:
		level, text = slog.LevelError, "dead letter"
	case o.Error != "":
		level, text = slog.LevelWarn, "attempt failed"
	}
	if log := r.log(); log.Enabled(context.Background(), level) {
		attrs := []slog.Attr{slog.String("source", e.Source), slog.String("id", e.ID), slog.String("type", e.Type), slog.Int("attempt", e.Attempts+1),
			slog.String("state", string(o.State)), slog.Duration("took", o.At.Sub(o.Started))}
		if o.Error != "" {
			attrs = append(attrs, slog.String("reason", o.Error))
		}
		if err != nil {
			attrs = append(attrs, slog.Any("error", err))
		}
		log.LogAttrs(context.Background(), level, text, attrs...)
	}
	if err == nil && o.State == Pending {
		r.work.expectAt(o.Due)
	}
	if err == nil && !o.Released && r.OnAttempt != nil {
		r.OnAttempt(e, o)
	}
}

// extend keeps the leases of what is in hand.
func (r *Receiver) extend(end <-chan struct{}) {
	tick := time.NewTicker(r.lease() / 3)
	defer tick.Stop()
	for {
		select {
		case <-end:
			return
		case <-tick.C:
		}
		leases := r.work.held()
		if len(leases) == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), r.lease()/3)
		err := r.store.Extend(ctx, leases, time.Now().Add(r.lease()))
		cancel()
		if err != nil {
			r.log().Error("leases could not be extended; entries may be worked on twice", "source", r.Source, "error", err)
		}
	}
}

// sweepEvery is how often old entries are let go.
const sweepEvery = time.Hour

func (r *Receiver) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		now := time.Now()
		keep, remember := orDefault(r.KeepDone, 7*24*time.Hour), orDefault(r.Remember, Remember)
		err := r.store.Sweep(ctx, r.Source, now.Add(-min(keep, remember)), now.Add(-remember))
		if err != nil && ctx.Err() == nil {
			r.log().Error("old entries could not be let go; trying again in an hour", "source", r.Source, "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// work is what Run has in hand.
type work struct {
	wake  chan struct{} // Holds one element: there may be something to claim.
	queue chan *Entry   // Claimed, and no call has begun; never full.
	ended chan ended    // Waits to be stored.

	mu       sync.Mutex
	running  bool
	workers  int
	average  time.Duration     // Of the latest calls.
	capacity int               // Places for entries; see took.
	taken    int               // Places that are reserved or have an entry whose call has not ended.
	more     bool              // There may be something to claim.
	entries  map[string]*Entry // What is not settled, by ID, as of its latest claim.
	empty    chan struct{}     // Closed when nothing is taken after the end.
	timer    *time.Timer       // Of the retry that is due first.
	soonest  time.Time
}

func (w *work) start(workers int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running || w.empty != nil {
		return false
	}
	w.running, w.workers, w.average = true, workers, ahead
	w.capacity = 2 * workers
	w.queue, w.ended = make(chan *Entry, max(maxCapacity, w.capacity)), make(chan ended, maxSettling)
	w.entries, w.empty = make(map[string]*Entry), make(chan struct{})
	return true
}

// stop ends it and returns the entries of the queue, whose places are free.
func (w *work) stop() (left []*Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = false
	if w.timer != nil {
		w.timer.Stop()
	}
	w.timer, w.soonest = nil, time.Time{}
	for {
		select {
		case e := <-w.queue:
			left = append(left, e)
			continue
		default:
		}
		break
	}
	w.taken -= len(left)
	if w.taken == 0 {
		close(w.empty)
	}
	return left
}

// wait waits until nothing is in hand, and makes another start possible.
func (w *work) wait() {
	<-w.empty
	w.mu.Lock()
	w.empty = nil
	w.mu.Unlock()
}

const (
	// ahead is for how much work ahead of the workers entries are claimed.
	ahead       = 100 * time.Millisecond
	maxCapacity = 512
)

// took learns how long calls take. There are places for what the workers get
// through in the time ahead, so that claiming costs little for each, and twice as
// many as workers at least, but no more: others, too, want to have a share.
func (w *work) took(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.average += (d - w.average) / 8
	w.capacity = max(2*w.workers, min(maxCapacity, w.workers*int(ahead/max(w.average, time.Microsecond))))
}

func (w *work) hint() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// expect says that there may be something to claim.
func (w *work) expect() {
	w.mu.Lock()
	w.more = true
	w.mu.Unlock()
	w.hint()
}

// expectAt says when there will be something.
func (w *work) expectAt(due time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.running || !w.soonest.IsZero() && !due.Before(w.soonest) {
		return
	}
	if w.timer != nil {
		w.timer.Stop()
	}
	w.soonest = due
	w.timer = time.AfterFunc(time.Until(due), func() {
		w.mu.Lock()
		w.soonest = time.Time{}
		w.mu.Unlock()
		w.expect()
	})
}

// reserve takes up to n places; none when nothing runs.
func (w *work) reserve(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.running {
		return 0
	}
	n = max(0, min(n, w.capacity-w.taken))
	w.taken += n
	return n
}

// claimable reserves places if there may be something to claim and half of all
// places are free.
func (w *work) claimable() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.capacity - w.taken
	if !w.running || !w.more || n <= 0 || n < w.capacity/2 {
		return 0
	}
	w.more = false
	w.taken += n
	return n
}

// free gives places back.
func (w *work) free(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.release(n)
}

// release is free, with mu held.
func (w *work) release(n int) {
	w.taken -= n
	if w.running && w.more && w.capacity-w.taken >= w.capacity/2 {
		w.hint()
	}
	if !w.running && w.taken == 0 && w.empty != nil {
		close(w.empty)
	}
}

// begin queues an entry, for which there is a place; false after the end.
func (w *work) begin(e *Entry) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.running {
		return false
	}
	if have, ok := w.entries[e.ID]; ok {
		// Its lease ran out, as when the machine slept, and we have claimed it from
		// ourselves. It is still in hand, now by the newer lease.
		if e.Token > have.Token {
			w.entries[e.ID] = e
		}
		w.release(1)
		return true
	}
	w.entries[e.ID] = e
	w.queue <- e
	return true
}

// latest is the lease of the latest claim of an entry.
func (w *work) latest(e *Entry) Lease {
	w.mu.Lock()
	defer w.mu.Unlock()
	if have, ok := w.entries[e.ID]; ok {
		return have.Lease()
	}
	return e.Lease()
}

// settled lets an entry go that is settled by a lease. It returns the entry if it was
// claimed again since.
func (w *work) settled(e *Entry, by Lease) *Entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	have := w.entries[e.ID]
	delete(w.entries, e.ID)
	if have != nil && have.Lease() != by {
		return have
	}
	return nil
}

// held are the leases of all entries in hand.
func (w *work) held() []Lease {
	w.mu.Lock()
	defer w.mu.Unlock()
	leases := make([]Lease, 0, len(w.entries))
	for _, e := range w.entries {
		leases = append(leases, e.Lease())
	}
	return leases
}
