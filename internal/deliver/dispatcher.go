// Package deliver sends events: it claims deliveries that are due, signs and
// posts them, judges the answer, and records what came of it together with when
// to try again. It decides nothing about who gets an event.
//
// A Dispatcher has lanes, one per target, each with a bounded number of attempts
// in flight, so that a slow receiver holds up nobody else. Deliveries reach it
// in two ways: handed over in memory right after the commit that created them
// (package emit), or claimed from the store, woken by a hint, by the earliest
// due time, or by the poll beneath both.
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
	"ringback.dev/internal/crash"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
)

// Config is what a Dispatcher needs. Store, Secrets, Transport, Node and Log must be set.
type Config struct {
	Store store.Store
	// Secrets opens the sealed signing secrets.
	Secrets *keyring.Keyring
	// Transport reaches addresses given by users; it comes from package egress. It
	// is asked directly: a client's cookies and redirects are not wanted.
	Transport http.RoundTripper
	// Node names this process in leases.
	Node    string
	Backoff ringback.Backoff
	// MaxInFlight bounds the requests under way, PerTarget those to one target.
	// Zero means 512 and 64.
	MaxInFlight, PerTarget int
	// Timeout bounds one attempt, zero means 15 s. Lease must be longer than
	// that; zero means four times Timeout.
	Timeout, Lease time.Duration
	// RequireHTTPS refuses to send to http addresses, even ones registered when
	// that was still allowed.
	RequireHTTPS bool
	Log          *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const (
	// poll is how often the store is asked although nothing hinted at work. It
	// bounds what losing a hint costs.
	poll = time.Second
	// ahead is how many times the requests in flight may be held: some are being
	// stored before, some are next in the lane.
	ahead = 8
)

// Dispatcher delivers events. Make one with New, start it with Run.
type Dispatcher struct {
	Config
	wake chan struct{} // Holds one element; sent to without blocking; never closed.

	// workers make the attempts. next hands a delivery to one that waits for it;
	// waiting counts those; they end when stopping is closed.
	workers  sync.WaitGroup
	next     chan handed
	waiting  atomic.Int32
	stopping chan struct{}
	// sending is the context of all attempts; it ends when Run has waited long
	// enough for them.
	sending context.Context
	abandon context.CancelCauseFunc

	sockets chan struct{} // Holds an element for each request under way.

	mu      sync.Mutex
	open    bool             // Run is claiming; false before it and once it stops.
	held    int              // Places taken, in all.
	lanes   map[string]*lane // By target; only those with places taken.
	starved bool             // Deliveries may be waiting for a place.

	secretsMu sync.Mutex
	opened    map[ringback.ID]openedSecrets // By endpoint.
}

// lane holds the deliveries to one target. A place is taken for each before it
// is claimed or born leased; of those held, PerTarget are sent at once.
type lane struct {
	held    int
	sockets chan struct{} // Holds an element for each request under way.
}

// New returns a Dispatcher that takes nothing before Run.
func New(c Config) *Dispatcher {
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 512
	}
	if c.PerTarget == 0 {
		c.PerTarget = 64
	}
	if c.Timeout == 0 {
		c.Timeout = 15 * time.Second
	}
	if c.Lease == 0 {
		c.Lease = 4 * c.Timeout
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	d := &Dispatcher{Config: c, wake: make(chan struct{}, 1), next: make(chan handed), stopping: make(chan struct{}),
		opened: make(map[ringback.ID]openedSecrets), lanes: make(map[string]*lane), sockets: make(chan struct{}, c.MaxInFlight)}
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
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		case <-timer.C:
		}
		d.claim(ctx)
		timer.Reset(d.idle(ctx))
	}
}

// Stop waits for the attempts under way, after Run has returned and nobody hands
// over any more. It is called once. When ctx ends
// first, they are cut off and their deliveries given back, not counted.
func (d *Dispatcher) Stop(ctx context.Context) {
	close(d.stopping)
	done := make(chan struct{})
	go func() { d.workers.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		d.abandon(errStopping)
		<-done
	}
}

// idle returns how long to wait for a hint: until the next delivery is due, at
// most the poll interval, and at least a little so that rows that can't be
// claimed just now don't make the loop spin.
func (d *Dispatcher) idle(ctx context.Context) time.Duration {
	next, err := d.Store.NextDue(ctx)
	if err != nil || next.IsZero() {
		return poll
	}
	return min(max(next.Sub(d.Now()), 20*time.Millisecond), poll)
}

// claim takes due deliveries, as many as there are places for, until the store
// has no more to give.
func (d *Dispatcher) claim(ctx context.Context) {
	for {
		reserved := make(map[string]int)
		now := d.Now()
		claimed, err := d.Store.ClaimDeliveries(ctx, d.Node, now, now.Add(d.Lease), d.MaxInFlight, func(target string) int {
			n := d.reserve(target)
			reserved[target] += n
			return n
		})
		for i := range claimed {
			reserved[claimed[i].Target]--
		}
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

// reserve takes all places that are free for a target.
func (d *Dispatcher) reserve(target string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.take(target, ahead*d.PerTarget)
}

// Take implements emit.Handover.
func (d *Dispatcher) Take(target string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.take(target, 1) == 1
}

// take takes up to n places and returns how many. Called with mu held.
func (d *Dispatcher) take(target string, n int) int {
	if !d.open {
		return 0
	}
	l := d.lanes[target]
	if l == nil {
		l = &lane{sockets: make(chan struct{}, d.PerTarget)}
	}
	n = min(n, ahead*d.PerTarget-l.held, ahead*d.MaxInFlight-d.held)
	if n <= 0 {
		d.starved = true
		return 0
	}
	d.lanes[target] = l
	l.held += n
	d.held += n
	return n
}

// Give implements emit.Handover.
func (d *Dispatcher) Give(target string) {
	d.mu.Lock()
	d.held--
	l := d.lanes[target]
	if l.held--; l.held == 0 {
		delete(d.lanes, target)
	}
	// Places are claimed again by the dozen, not one by one.
	wake := d.starved && d.open && l.held <= ahead*d.PerTarget/2
	if wake {
		d.starved = false
	}
	d.mu.Unlock()
	if wake {
		d.Wake()
	}
}

// Hand implements emit.Handover.
func (d *Dispatcher) Hand(c store.ClaimedDelivery) {
	d.mu.Lock()
	l := d.lanes[c.Target]
	d.mu.Unlock()
	j := handed{l, c}
	select {
	case d.next <- j:
	default:
		d.workers.Go(func() { d.work(j) })
	}
}

// handed is a delivery with its lane.
type handed struct {
	*lane
	store.ClaimedDelivery
}

// maxIdle bounds the workers that wait for a delivery.
const maxIdle = 256

// work makes attempts one after the other. Workers are kept for a while because
// the stack that a request needs is not grown for nothing.
func (d *Dispatcher) work(j handed) {
	for {
		d.deliver(j.lane, j.ClaimedDelivery)
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

// deliver makes one attempt when the lane has room for it, and records it.
func (d *Dispatcher) deliver(l *lane, c store.ClaimedDelivery) {
	crash.At(crash.DeliveryClaimed)
	l.sockets <- struct{}{}
	d.sockets <- struct{}{}
	late := d.Now().Add(d.Timeout).After(c.Lease.Until)
	var r result
	if !late {
		r = d.attempt(d.sending, &c)
	}
	<-d.sockets
	<-l.sockets
	d.Give(c.Target)
	if late || (context.Cause(d.sending) != nil && r.retryable()) {
		// It waited in its lane until the lease could run out under it, or our own
		// stop cut it off: neither says anything about the receiver.
		held := []store.Held{{ID: c.ID, Token: c.Lease.Token}}
		if err := d.Store.ReleaseDeliveries(context.WithoutCancel(d.sending), held, d.Now()); err != nil {
			d.Log.Error("give back delivery", "delivery", c.ID, "error", err)
		}
		return
	}
	now := d.Now()
	o := d.outcome(&c, r, now)
	crash.At(crash.OutcomeJudged)
	// A failure here loses nothing: the lease runs out and the event is sent
	// again under the same id.
	err := d.Store.RecordAttempt(context.WithoutCancel(d.sending), c.Lease, o)
	crash.At(crash.AttemptRecorded)
	d.log(&c, &r, o, err)
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
	if r.err != "" {
		attrs = append(attrs, slog.String("error", r.err))
	}
	if err != nil {
		attrs = append(attrs, slog.Any("not_recorded", err))
	}
	d.Log.LogAttrs(d.sending, level, "attempt", attrs...)
}

// outcome decides what an attempt means for its delivery.
func (d *Dispatcher) outcome(c *store.ClaimedDelivery, r result, now time.Time) *store.Outcome {
	o := &store.Outcome{
		Target: c.Target, At: now,
		Attempt: ringback.Attempt{
			Delivery: c.ID, Number: c.Attempts + 1, Started: r.started, Status: r.status, Answer: r.answer,
			DNS: r.dns, Connect: r.connect, TLS: r.tls, FirstByte: r.firstByte, Total: r.total,
			Reason: string(r.reason), Error: r.err,
		},
	}
	switch {
	case r.reason == accepted:
		o.State = ringback.DeliveryDelivered
	case r.reason == gone:
		o.State, o.DisableEndpoint = ringback.DeliveryFailed, c.Endpoint
	case r.reason == deleted:
		o.State = ringback.DeliveryFailed
	default:
		due, again := d.Backoff.Next(c.Attempts+1, c.Created, now, r.wait, rand.Float64())
		if again {
			o.State, o.Due = ringback.DeliveryPending, due
		} else {
			o.State = ringback.DeliveryFailed
		}
	}
	return o
}
