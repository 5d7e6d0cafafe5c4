package backend

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"ringback.dev/internal/spare"
)

// Turn says whose request it is. The zero Turn is somebody's who waits for the
// answer: it goes ahead of all rows of batches.
type Turn struct {
	// Batch names the batch that a row belongs to. Rows of the higher Priority go
	// first; batches of the same take turns.
	Batch    string
	Priority int64
}

// Limits bound what is under way on one back-end, or for one model. Zero means no
// bound.
type Limits struct {
	// InFlight bounds all requests; Rows those of batches among them.
	InFlight, Rows int
}

// gate keeps the limits of one back-end and decides who is next. It also notices
// when the back-end can't be used: then rows of batches wait, first for as long
// as the back-end asked for or a growing while, then one of them tries. Requests
// that somebody waits for are let through: they have tries of their own. Rows that
// may go to another back-end are turned away instead of waiting.
type gate struct {
	limits Limits
	now    func() time.Time

	mu       sync.Mutex
	inFlight int
	rows     int
	urgent   []*waiter
	lines    map[string]*line // By batch; those with waiters only.
	served   int64            // The place at which a batch that comes now joins the turns.
	answered int64            // Requests that got an answer.
	failures int              // In a row, of the kinds that mean the back-end can't be used.
	holds    int              // In a row, since the last answer.
	hold     time.Time        // Until when rows wait.
	down     bool             // There was a hold since the last answer.
	timer    *time.Timer      // Ends the hold.
}

type waiter struct {
	turn  Turn
	ready chan struct{}
	// elsewhere: it would rather be turned away than wait for the back-end to be
	// usable again. away says that it was; it is set before ready is closed.
	elsewhere, away bool
}

// line is the waiting rows of one batch.
type line struct {
	waiters []*waiter
	served  int64
}

// pass is the right of one request to be under way.
type pass struct {
	turn     Turn
	answered int64
}

func newGate(l Limits) *gate {
	return &gate{limits: l, now: time.Now, lines: make(map[string]*line)}
}

// errHeld is the error of a row that was turned away.
var errHeld = errors.New("the back-end can't be used for now")

// enter waits for the turn's place.
func (g *gate) enter(ctx context.Context, t Turn) (pass, error) {
	return g.queue(ctx, &waiter{turn: t, ready: make(chan struct{})})
}

// enterUnlessHeld is enter, but a row is turned away with errHeld when the back-end
// can't be used, also if that turns out while it waits.
func (g *gate) enterUnlessHeld(ctx context.Context, t Turn) (pass, error) {
	return g.queue(ctx, &waiter{turn: t, ready: make(chan struct{}), elsewhere: true})
}

func (g *gate) queue(ctx context.Context, w *waiter) (pass, error) {
	t := w.turn
	g.mu.Lock()
	if t.Batch == "" {
		spare.Asked()
		g.urgent = append(g.urgent, w)
	} else {
		l := g.lines[t.Batch]
		if l == nil {
			l = &line{served: g.served}
			g.lines[t.Batch] = l
		}
		l.waiters = append(l.waiters, w)
	}
	g.admit()
	p := pass{turn: t, answered: g.answered}
	g.mu.Unlock()
	select {
	case <-w.ready:
		if w.away {
			return pass{}, errHeld
		}
		return p, nil
	default:
	}
	select {
	case <-w.ready:
		if w.away {
			return pass{}, errHeld
		}
		g.mu.Lock()
		p.answered = g.answered
		g.mu.Unlock()
		return p, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-w.ready: // In between; the place goes to the next.
		if !w.away {
			g.leave(p)
		}
	default:
		g.drop(w)
	}
	return pass{}, context.Cause(ctx)
}

// drop takes a waiter out of its line.
func (g *gate) drop(w *waiter) {
	from := &g.urgent
	if w.turn.Batch != "" {
		from = &g.lines[w.turn.Batch].waiters
	}
	for i, x := range *from {
		if x == w {
			*from = append((*from)[:i:i], (*from)[i+1:]...)
			break
		}
	}
	if w.turn.Batch != "" && len(*from) == 0 {
		delete(g.lines, w.turn.Batch)
	}
}

// held reports whether a row would wait for the back-end to be usable again: until
// the hold ends, or until the one that tries then has its answer. g.mu is held.
func (g *gate) held() bool {
	return g.down && g.rows > 0 || !g.hold.IsZero() && g.now().Before(g.hold)
}

// heldFor is how long it is worth waiting before the back-end is tried again, 0 if
// rows may enter.
func (g *gate) heldFor() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.held() {
		return 0
	}
	if wait := g.hold.Sub(g.now()); wait > 0 {
		return wait
	}
	return minHold
}

// onHold reports whether the back-end is believed to be of no use now.
func (g *gate) onHold() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now().Before(g.hold)
}

// admit lets in whoever may, and turns away who rather goes elsewhere. g.mu is held.
func (g *gate) admit() {
	g.letIn()
	if !g.held() {
		return
	}
	for batch, l := range g.lines {
		l.waiters = slices.DeleteFunc(l.waiters, func(w *waiter) bool {
			if w.away = w.elsewhere; w.away {
				close(w.ready)
			}
			return w.away
		})
		if len(l.waiters) == 0 {
			delete(g.lines, batch)
		}
	}
}

func (g *gate) letIn() {
	free := func() bool { return g.limits.InFlight == 0 || g.inFlight < g.limits.InFlight }
	for len(g.urgent) > 0 && free() {
		close(g.urgent[0].ready)
		g.urgent = g.urgent[1:]
		g.inFlight++
	}
	if len(g.urgent) > 0 || len(g.lines) == 0 {
		return
	}
	if wait := g.hold.Sub(g.now()); wait > 0 {
		if g.timer == nil {
			g.timer = time.AfterFunc(wait, func() {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.timer = nil
				g.admit()
			})
		}
		return
	}
	most := g.limits.Rows
	if g.failures > 0 {
		most = 1 // Until one is answered.
	}
	for len(g.lines) > 0 && free() && (most == 0 || g.rows < most) {
		next := g.next()
		l := g.lines[next]
		close(l.waiters[0].ready)
		if l.waiters = l.waiters[1:]; len(l.waiters) == 0 {
			delete(g.lines, next)
		}
		l.served++
		g.served = max(g.served, l.served-1)
		g.inFlight++
		g.rows++
	}
}

// next is the batch whose turn it is: of the highest priority, and among those
// the one that was served least.
func (g *gate) next() (batch string) {
	var best *line
	for name, l := range g.lines {
		if best != nil {
			p, q := l.waiters[0].turn.Priority, best.waiters[0].turn.Priority
			if p < q || p == q && (l.served > best.served || l.served == best.served && name > batch) {
				continue
			}
		}
		batch, best = name, l
	}
	return batch
}

// giveBack gives a place back without noting what came of the request.
func (g *gate) giveBack(p pass) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leave(p)
}

// leave gives a place back. g.mu is held.
func (g *gate) leave(p pass) {
	g.inFlight--
	if p.turn.Batch != "" {
		g.rows--
	}
	g.admit()
}

const (
	// tolerated is how many failures in a row hold nobody up: a connection may break.
	tolerated = 2
	minHold   = 500 * time.Millisecond
	maxHold   = 30 * time.Second
)

// done gives a place back and notes what came of the request. It returns err, with
// a note whether others were answered meanwhile.
func (g *gate) done(ctx context.Context, p pass, err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var e *Error
	if err != nil && !errors.As(err, &e) {
		g.leave(p) // It was cut off; that says nothing.
		return err
	}
	if err != nil && ctx.Err() == nil && (e.Kind == Unavailable || e.Kind == Unauthorized || e.Kind == RateLimited || e.Kind == OutOfBudget) {
		own := *e
		own.OthersAnswered = own.OthersAnswered || g.answered > p.answered
		err = &own
		g.failures++
		g.suspend(&own)
	} else {
		g.answered++
		g.failures, g.holds, g.down = 0, 0, false
		if p.turn.Batch == "" {
			spare.Asked() // The answer is still to be handed out.
		}
	}
	g.leave(p)
	return err
}

// suspend makes rows wait. Those that were under way together fail together, which
// counts once.
func (g *gate) suspend(e *Error) {
	wait := e.RetryAfter
	if wait == 0 {
		if g.failures <= tolerated && e.Kind == Unavailable || g.now().Before(g.hold) {
			return
		}
		wait = min(minHold<<min(g.holds, 10), maxHold)
		g.holds++
	}
	g.down = true
	if until := g.now().Add(wait); until.After(g.hold) {
		g.hold = until
	}
}
