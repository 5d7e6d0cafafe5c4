// Package deliver sends events: it claims deliveries that are due, signs and
// posts them, judges the answer, and records what came of it together with when
// to try again. It decides nothing about who gets an event.
//
// A Dispatcher has lanes (lane.go), one per target, each with a bounded and
// adaptive number of attempts in flight, a breaker and a rate, so that a receiver
// that is slow, dead or flooded holds up nobody else. Targets that have not
// proven themselves share half of what may be in flight at most; the other half
// is always there for those that answer. Deliveries reach the dispatcher in two
// ways: handed over in memory right after the commit that created them (package
// emit), or claimed from the store, woken by a hint, by the earliest due time, or
// by the poll beneath both.
package deliver

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"ringback.dev"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/crash"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
)

// Config is what a Dispatcher needs. Store, Secrets, Transport, Node and Log must be set.
type Config struct {
	Store store.Store
	// Secrets opens the sealed signing secrets.
	Secrets *keyring.Keyring
	// Tokens signs what goes to per-request addresses. Nil if there are none.
	Tokens Signer
	// Transport reaches addresses given by users; it comes from package egress. It
	// is asked directly: a client's cookies and redirects are not wanted. If it is a
	// Certifier, endpoints may have client certificates.
	Transport http.RoundTripper
	// Hints, if not nil, are told of every attempt that is recorded.
	Hints *bus.Bus
	// Node names this process in leases.
	Node    string
	Backoff ringback.Backoff
	// MaxInFlight bounds the requests under way, PerTarget those to one target.
	// Zero means 1024 and 64.
	MaxInFlight, PerTarget int
	// CatchUpRate bounds the attempts per second to an endpoint that was enabled
	// again, until what waited for it is sent. Zero means 100.
	CatchUpRate float64
	// Timeout bounds one attempt, zero means 15 s. Lease must be longer than
	// any endpoint's; zero means four times Timeout, at least two minutes.
	Timeout, Lease time.Duration
	// RequireHTTPS refuses to send to http addresses, even ones registered when
	// that was still allowed.
	RequireHTTPS bool
	// An endpoint is disabled when all its attempts have failed for DisableAfter,
	// and there were DisableFailures. Zero means 24 h and 10.
	DisableAfter    time.Duration
	DisableFailures int
	// Poll is how often the store is asked although nothing hinted at work. It
	// bounds what losing a hint costs. Zero means 1 s.
	Poll time.Duration
	Log  *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Stamp is the clock that receivers compare with theirs: it dates signatures and
	// is what a Retry-After's date means. Nil means Now. The two differ when Now was
	// set forward (ringback dev).
	Stamp func() time.Time
}

// Signer signs messages with the server's own keys.
type Signer interface {
	// Sign returns the value of the webhook-signature header, dated at. audience
	// are those that a token is meant for.
	Sign(scheme ringback.Scheme, id string, at time.Time, body []byte, audience []string) (string, error)
}

// Dispatcher delivers events. Make one with New, start it with Run.
type Dispatcher struct {
	Config
	wake chan struct{} // Holds one element; sent to without blocking; never closed.
	// asleep is until when Run does nothing if it isn't woken, in Unix nanoseconds.
	asleep atomic.Int64

	// workers make the attempts. next hands a delivery to one that waits for it;
	// waiting counts those; they end when stopping is closed. busy counts the
	// deliveries that were handed over and are not over.
	workers  sync.WaitGroup
	busy     sync.WaitGroup
	next     chan handed
	waiting  atomic.Int32
	stopping chan struct{}
	// sending is the context of all attempts; it ends when Run has waited long
	// enough for them.
	sending context.Context
	abandon context.CancelCauseFunc

	mu       sync.Mutex
	open     bool             // Run is claiming; false before it and once it stops.
	held     int              // Places taken, in all.
	inFlight int              // Attempts under way, in all.
	unproven int              // Those of them that began when their lane was not proven.
	lanes    map[string]*lane // By target.
	blocked  []*lane          // Those that wait for others' attempts to end, in turn.
	starved  bool             // Deliveries may be waiting for a place.

	secretsMu sync.Mutex
	opened    map[ringback.ID]*opened // By endpoint.
}

// New returns a Dispatcher that takes nothing before Run.
func New(c Config) *Dispatcher {
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 1024
	}
	if c.PerTarget == 0 {
		c.PerTarget = 64
	}
	if c.CatchUpRate == 0 {
		c.CatchUpRate = 100
	}
	if c.Timeout == 0 {
		c.Timeout = 15 * time.Second
	}
	if c.Lease == 0 {
		c.Lease = max(4*c.Timeout, 2*time.Minute)
	}
	if c.DisableAfter == 0 {
		c.DisableAfter = 24 * time.Hour
	}
	if c.DisableFailures == 0 {
		c.DisableFailures = 10
	}
	if c.Poll == 0 {
		c.Poll = time.Second
	}
	if c.Hints == nil {
		c.Hints = &bus.Bus{}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Stamp == nil {
		c.Stamp = c.Now
	}
	d := &Dispatcher{Config: c, wake: make(chan struct{}, 1), next: make(chan handed), stopping: make(chan struct{}),
		opened: make(map[ringback.ID]*opened), lanes: make(map[string]*lane)}
	d.sending, d.abandon = context.WithCancelCause(context.Background())
	return d
}

// errStopping is the cause with which attempts are cut off at the end of Stop.
var errStopping = errors.New("the server is stopping")

// Run claims and delivers until ctx ends. Then it claims no more; attempts under
// way go on until they are done or Stop gives them up.
func (d *Dispatcher) Run(ctx context.Context) error {
	d.mu.Lock()
	d.open = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.open = false
		d.mu.Unlock()
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for swept := d.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		case <-timer.C:
		}
		d.claim(ctx)
		if now := d.Now(); now.Sub(swept) > laneLife/10 || now.Before(swept) {
			d.sweep(now)
			swept = now
		}
		wait := d.idle(ctx)
		d.asleep.Store(d.Now().Add(wait).UnixNano())
		timer.Reset(wait)
	}
}

// Stop waits for the attempts under way, after Run has returned and nobody hands
// over any more. It is called once. When ctx ends first, they are cut off and
// their deliveries given back, not counted.
func (d *Dispatcher) Stop(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		d.busy.Wait()
		close(d.stopping)
		d.workers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		d.abandon(errStopping)
		<-done
	}
}

// idle returns how long to wait for a hint: until the next delivery can be
// taken, at most Poll, and at least a little so that rows that can't
// be claimed just now don't make the loop spin.
func (d *Dispatcher) idle(ctx context.Context) time.Duration {
	now := d.Now()
	next, err := d.Store.NextDue(ctx, func(target string) time.Time {
		d.mu.Lock()
		defer d.mu.Unlock()
		if l := d.lanes[target]; l != nil {
			return l.hold(now)
		}
		return time.Time{}
	})
	if err != nil || next.IsZero() {
		return d.Poll
	}
	return min(max(next.Sub(now), 5*time.Millisecond), d.Poll)
}

// claim takes due deliveries, as many as there are places for, until the store
// has no more to give.
func (d *Dispatcher) claim(ctx context.Context) {
	for {
		reserved := make(map[string]int)
		now := d.Now()
		claimed, err := d.Store.ClaimDeliveries(ctx, d.Node, now, now.Add(d.Lease), d.MaxInFlight, func(target string, e *ringback.Endpoint) int {
			// The database is asked to lease as many as there are places.
			n := d.take(target, e, d.MaxInFlight, true)
			reserved[target] += n
			return n
		})
		d.mu.Lock()
		for i := range claimed {
			c := &claimed[i]
			reserved[c.Target]--
			// The oldest come first: when it is the turn of one that was born after
			// its endpoint was enabled again, nothing is left of the backlog.
			if c.To != nil && c.Created.After(c.To.Resumed) {
				d.lanes[c.Target].caughtUp = c.To.Resumed
			}
		}
		d.mu.Unlock()
		for target, n := range reserved {
			for range n {
				d.Give(target)
			}
		}
		if err != nil {
			if ctx.Err() == nil {
				d.Log.Error("claim deliveries", "error", err)
			}
			return
		}
		for i := range claimed {
			d.Hand(claimed[i])
		}
		if len(claimed) == 0 {
			return
		}
	}
}

// Take implements emit.Handover.
func (d *Dispatcher) Take(target string, e *ringback.Endpoint) bool {
	return d.take(target, e, 1, false) == 1
}

// take takes up to n places and returns how many. What has just been created
// may not overtake a backlog that is still being sent.
func (d *Dispatcher) take(target string, e *ringback.Endpoint, n int, backlog bool) int {
	now := d.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.open {
		return 0
	}
	l := d.lanes[target]
	if l == nil {
		if len(d.lanes) >= maxLanes {
			d.forget(now, 0)
		}
		l = &lane{target: target, limit: slowStart}
		d.lanes[target] = l
	}
	l.settle(&d.Config, e, now)
	if !backlog && e != nil && !e.Resumed.Equal(l.caughtUp) {
		return 0
	}
	free := ahead*d.MaxInFlight - d.held
	if !l.proven {
		free = min(free, d.MaxInFlight-d.held) // Of the many places most are for those that answer.
	}
	n = min(n, l.room(now), free)
	if n <= 0 {
		d.starved = true
		return 0
	}
	if l.rate > 0 {
		l.tokens -= float64(n)
	}
	l.held += n
	d.held += n
	return n
}

// Give implements emit.Handover.
func (d *Dispatcher) Give(target string) {
	d.mu.Lock()
	wake := d.give(d.lanes[target])
	d.mu.Unlock()
	if wake {
		d.Wake()
	}
}

// give returns a place and reports whether to look for what waits for one.
// Called with mu held.
func (d *Dispatcher) give(l *lane) bool {
	d.held--
	l.held--
	// Places are claimed again by the dozen, not one by one.
	wake := d.starved && d.open && l.held <= l.places()/2
	if wake {
		d.starved = false
	}
	return wake
}

// maxLanes is how many lanes there may be before those of well targets are
// forgotten early: each job may name addresses that are never used again.
const maxLanes = 20_000

// sweep drops what is remembered of targets that nothing was sent to for long.
func (d *Dispatcher) sweep(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forget(now, laneLife)
}

// forget drops the lanes that have been idle for a while; those that matter to
// come stay for laneLife. Called with mu held.
func (d *Dispatcher) forget(now time.Time, idle time.Duration) {
	d.secretsMu.Lock()
	defer d.secretsMu.Unlock()
	for target, l := range d.lanes {
		if l.forgettable(now, idle) {
			delete(d.lanes, target)
			delete(d.opened, ringback.ID(target))
		}
	}
}

// handed is a delivery with its lane.
type handed struct {
	*lane
	store.ClaimedDelivery
	unproven bool // When it began to be sent.
}

// Hand implements emit.Handover.
func (d *Dispatcher) Hand(c store.ClaimedDelivery) {
	d.busy.Add(1)
	var ready [1]handed
	d.mu.Lock()
	l := d.lanes[c.Target]
	l.queue = append(l.queue, c)
	begun := d.begin(l, ready[:0])
	d.mu.Unlock()
	for i := range begun {
		d.run(begun[i])
	}
}

// begin takes from a lane's queue what may be sent now and appends it to begun.
// Called with mu held.
func (d *Dispatcher) begin(l *lane, begun []handed) []handed {
	for len(l.queue) > 0 && l.inFlight < l.sendable() {
		if d.inFlight >= d.MaxInFlight || !l.proven && d.unproven >= max(d.MaxInFlight/2, 1) {
			if !l.blocked {
				l.blocked = true
				d.blocked = append(d.blocked, l)
			}
			break
		}
		j := handed{l, l.queue[0], !l.proven}
		l.queue[0] = store.ClaimedDelivery{}
		if l.queue = l.queue[1:]; len(l.queue) == 0 {
			l.queue = nil
		}
		l.inFlight++
		d.inFlight++
		if j.unproven {
			d.unproven++
		}
		begun = append(begun, j)
	}
	return begun
}

// over notes that an attempt is over, gives its place back, and begins what may be
// sent now.
func (d *Dispatcher) over(j *handed, r *result) {
	var ready [4]handed
	begun := ready[:0]
	d.mu.Lock()
	l := j.lane
	full := l.inFlight >= l.limit
	l.inFlight--
	d.inFlight--
	if j.unproven {
		d.unproven--
	}
	now := d.Now()
	l.learn(r, full, now)
	back := l.drained(r, now)
	l.held -= len(back)
	d.held -= len(back)
	wake := d.give(l)
	begun = d.begin(l, begun)
	// Each lane that waits for others has its turn, once.
	for range len(d.blocked) {
		if d.inFlight >= d.MaxInFlight {
			break
		}
		b := d.blocked[0]
		d.blocked, b.blocked = d.blocked[1:], false
		begun = d.begin(b, begun)
	}
	d.mu.Unlock()
	if wake {
		d.Wake()
	}
	for i := range begun {
		d.run(begun[i])
	}
	if back != nil {
		d.release(back)
		d.busy.Add(-len(back))
	}
}

// release gives deliveries back to the store, due at once.
func (d *Dispatcher) release(all []store.ClaimedDelivery) {
	held := make([]store.Held, len(all))
	for i := range all {
		held[i] = store.Held{ID: all[i].ID, Token: all[i].Lease.Token}
	}
	// If this fails the leases run out.
	if err := d.Store.ReleaseDeliveries(context.WithoutCancel(d.sending), held, d.Now()); err != nil {
		d.Log.Error("give back deliveries", "count", len(all), "error", err)
	}
	d.Wake()
}

// run has a worker make an attempt.
func (d *Dispatcher) run(j handed) {
	select {
	case d.next <- j:
	default:
		d.workers.Go(func() { d.work(j) })
	}
}

// maxIdle bounds the workers that wait for a delivery.
const maxIdle = 256

// work makes attempts one after the other. Workers are kept for a while because
// the stack that a request needs is not grown for nothing.
func (d *Dispatcher) work(j handed) {
	for {
		d.deliver(&j)
		d.busy.Done()
		if d.waiting.Add(1) > maxIdle {
			d.waiting.Add(-1)
			return
		}
		select {
		case j = <-d.next:
			d.waiting.Add(-1)
		case <-d.stopping:
			return
		}
	}
}

// Wake implements emit.Handover.
func (d *Dispatcher) Wake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// deliver makes one attempt and records it.
func (d *Dispatcher) deliver(j *handed) {
	c := &j.ClaimedDelivery
	crash.At(crash.DeliveryClaimed)
	r := d.ready(j)
	if r.reason == "" {
		r = d.attempt(d.sending, c)
	}
	now := d.Now()
	back := r.reason == withheld || context.Cause(d.sending) != nil && r.retryable()
	var o *store.Outcome
	if !back {
		o = d.outcome(c, &r, now)
		if o.State == ringback.DeliveryPending {
			r.wait = min(r.wait, o.Due.Sub(now)) // It may be the last call.
		}
	}
	d.over(j, &r)
	if back {
		// It waited until the lease could run out under it, or its endpoint was
		// disabled, or our own stop cut it off: that says nothing about the receiver.
		d.release([]store.ClaimedDelivery{*c})
		return
	}
	crash.At(crash.OutcomeJudged)
	// A failure here loses nothing: the lease runs out and the event is sent
	// again under the same id.
	err := d.Store.RecordAttempt(context.WithoutCancel(d.sending), c.Lease, o)
	crash.At(crash.AttemptRecorded)
	d.Hints.Publish(bus.Hint{Project: c.Project, Kind: bus.Delivery, ID: c.ID})
	if o.State == ringback.DeliveryPending && o.Due.UnixNano() < d.asleep.Load() {
		d.Wake()
	}
	if o.Told != nil {
		d.Hints.Publish(bus.Hint{Project: c.Project, Kind: bus.Event, ID: o.Told.Event.ID})
		d.Wake()
	}
	d.log(c, &r, o, err)
}

// ready looks once more, right before an attempt, whether it may be made. The
// reason is empty if so. The endpoint may have been disabled, changed or deleted
// since the delivery was claimed.
func (d *Dispatcher) ready(j *handed) (r result) {
	c := &j.ClaimedDelivery
	now := d.Now()
	r.started = now
	if c.Endpoint != "" && c.To != nil {
		e, err := d.Store.Endpoint(d.sending, c.Project, c.Endpoint)
		switch {
		case errors.Is(err, ringback.NotFound):
			c.To = nil
		case err == nil:
			c.To = e
		}
	}
	d.mu.Lock()
	goneAt := j.lane.gone
	d.mu.Unlock()
	switch {
	case now.Add(d.timeout(c)).After(c.Lease.Until):
		r.reason = withheld
	case c.To != nil && (c.To.State != ringback.Enabled || !goneAt.IsZero() && !c.To.Resumed.After(goneAt)):
		r.reason = withheld
	case c.To == nil && c.Endpoint == "" && !goneAt.IsZero() && !c.Begun.After(goneAt):
		r.reason, r.err, r.unsent = gone, "the receiver answered another delivery with 410 Gone", true
	}
	return r
}

// timeout is how long an attempt may take.
func (d *Dispatcher) timeout(c *store.ClaimedDelivery) time.Duration {
	if c.To != nil && c.To.Settings.Timeout > 0 {
		return c.To.Settings.Timeout
	}
	return d.Timeout
}

// backoff is when a delivery is tried again, and since when its window runs.
func (d *Dispatcher) backoff(c *store.ClaimedDelivery) (b ringback.Backoff, begun time.Time) {
	b, begun = d.Backoff, c.Begun
	if begun.IsZero() {
		begun = c.Created
	}
	if c.To == nil {
		return b, begun
	}
	if c.To.Settings.Window > 0 {
		b.Window = c.To.Settings.Window
	}
	if len(c.To.Settings.Schedule) > 0 {
		b.Delays = c.To.Settings.Schedule
	}
	if c.To.Resumed.After(begun) {
		begun = c.To.Resumed
	}
	return b, begun
}

// log writes the one line of an attempt.
func (d *Dispatcher) log(c *store.ClaimedDelivery, r *result, o *store.Outcome, err error) {
	level := slog.LevelInfo
	if r.reason != accepted {
		level = slog.LevelWarn
	}
	if err != nil {
		level = slog.LevelError
	}
	if !d.Log.Enabled(d.sending, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 11)
	attrs = append(attrs, slog.String("delivery", string(c.ID)), slog.String("type", string(c.Type)),
		slog.String("endpoint", string(c.Endpoint)), slog.Int("attempt", o.Attempt.Number), slog.String("reason", string(r.reason)),
		slog.Int("status", r.status), slog.Duration("took", r.total), slog.String("state", string(o.State)))
	if o.State == ringback.DeliveryPending {
		attrs = append(attrs, slog.Time("next", o.Due))
	}
	if c.Endpoint == "" {
		attrs = append(attrs, slog.String("target", c.Target))
	}
	if r.err != "" {
		attrs = append(attrs, slog.String("error", r.err))
	}
	if err != nil {
		attrs = append(attrs, slog.Any("not_recorded", err))
	}
	d.Log.LogAttrs(d.sending, level, "attempt", attrs...)
}

// outcome decides what an attempt means for its delivery and its endpoint.
func (d *Dispatcher) outcome(c *store.ClaimedDelivery, r *result, now time.Time) *store.Outcome {
	o := &store.Outcome{
		Target: c.Target, Endpoint: c.Endpoint, At: now, NoAttempt: r.unsent,
		Attempt: ringback.Attempt{
			Delivery: c.ID, Number: c.Attempts + 1, Started: r.started, Status: r.status, Answer: r.answer,
			DNS: r.dns, Connect: r.connect, TLS: r.tls, FirstByte: r.firstByte, Total: r.total,
			Reason: string(r.reason), Error: r.err,
		},
	}
	if r.unsent {
		o.Attempt.Number = c.Attempts
	}
	switch r.reason {
	case accepted:
		o.State = ringback.DeliveryDelivered
		return o
	case deleted:
		o.State = ringback.DeliveryFailed
		return o
	case gone:
		o.State = ringback.DeliveryFailed
		d.disable(o, c, ringback.Disabled, "it answered 410 Gone")
		return o
	}
	o.State = ringback.DeliveryFailed
	b, begun := d.backoff(c)
	if due, again := b.Next(c.Attempts+1, begun, now, r.wait, rand.Float64()); again {
		o.State, o.Due = ringback.DeliveryPending, due
	}
	if c.To == nil {
		return o
	}
	h, err := d.Store.Health(d.sending, c.Endpoint)
	if err == nil && !h.FailingSince.IsZero() && now.Sub(h.FailingSince) >= d.DisableAfter && h.Failures+1 >= d.DisableFailures {
		d.disable(o, c, ringback.DisabledDueToFailedDeliveries, "all attempts have failed since "+h.FailingSince.UTC().Format(time.RFC3339))
	}
	return o
}

// disable has the outcome disable its endpoint and tell the project's others.
func (d *Dispatcher) disable(o *store.Outcome, c *store.ClaimedDelivery, state ringback.EndpointState, reason string) {
	if c.To == nil {
		return
	}
	o.Disable = state
	endpoints, err := d.Store.ProjectEndpoints(d.sending, c.Project)
	if err != nil {
		d.Log.Error("who hears that a webhook was disabled", "webhook", c.Endpoint, "error", err)
		return
	}
	o.Told = emit.Disabled(c.To, endpoints, state, reason, o.At)
	d.Log.Warn("webhook disabled", "webhook", c.Endpoint, "project", c.Project, "state", state, "reason", reason)
}
