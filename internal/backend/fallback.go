package backend

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Fallback is a further place for a route's requests. As is the model's name there;
// empty means the same. Name is the back-end's.
type Fallback struct {
	Name    string
	Backend Backend
	As      string
}

// target is a place where a route's requests may run.
type target struct {
	Fallback
	first bool // It is the route's back-end itself.
	gate  *gate

	mu     sync.Mutex // Guards what follows.
	logged time.Time
	missed int // Failures since, which were not logged.
}

// model is the name of a model there.
func (t *target) model(asked string) string {
	if t.As != "" {
		return t.As
	}
	return asked
}

// try is one attempt at a target. begun says that something of the outcome is out
// already, so that nobody else may begin it anew.
type try func(t *target) (begun bool, err error)

// run runs a request at the first of a route's targets that can do it.
//
// A request goes on to the next when one failed for a reason that is not the
// request's own. A target whose back-end can't be used now is passed over: rows don't
// wait there as long as another one can be used, and wait for all of them at once if
// none can; requests that somebody waits for try it last. What a fallback refuses
// says nothing of the request, which the route's own back-end might take: it counts
// only when nobody else is left.
func (r *Router) run(ctx context.Context, route *Route, targets []*target, model string, turn Turn, f try) error {
	if len(route.targets) == 1 {
		return route.through(ctx, turn, func() error {
			_, err := f(targets[0])
			return err
		})
	}
	left := slices.Clone(targets)
	var refused error
	for {
		// The route's own gate knows limits only: the targets' gates know what is down.
		var p pass
		if route.own != nil {
			var err error
			if p, err = route.own.enter(ctx, turn); err != nil {
				return err
			}
		}
		o := r.round(ctx, &left, model, turn, f)
		if route.own != nil {
			route.own.giveBack(p)
		}
		if refused == nil {
			refused = o.refused
		}
		switch {
		case o.final, o.err != nil:
			return o.err
		case !o.held:
			return refused
		}
		if err := await(ctx, left); err != nil {
			return err
		}
	}
}

// outcome is what came of trying the targets once.
type outcome struct {
	final   bool  // Err is the end of it, nil for success.
	err     error // Of the last one that failed for a reason that may pass.
	refused error // Of the first one that can't do it.
	held    bool  // One was passed over.
}

// round tries each of the targets that are left, and drops those that refuse.
func (r *Router) round(ctx context.Context, left *[]*target, model string, turn Turn, f try) (o outcome) {
	order := slices.Clone(*left)
	if turn.Batch == "" {
		usable := slices.DeleteFunc(slices.Clone(order), func(t *target) bool { return t.gate.onHold() })
		order = append(usable, slices.DeleteFunc(order, func(t *target) bool { return slices.Contains(usable, t) })...)
	}
	for i, t := range order {
		begun, err := t.attempt(ctx, turn, f)
		var said *Error
		switch {
		case errors.Is(err, errHeld):
			o.held = true
			continue
		case err == nil, begun, ctx.Err() != nil, !errors.As(err, &said): // The last is nothing that a back-end said.
			return outcome{final: true, err: err}
		}
		switch said.Kind {
		case InvalidRequest:
			if t.first {
				return outcome{final: true, err: err}
			}
			fallthrough
		case ModelNotFound:
			*left = slices.DeleteFunc(*left, func(x *target) bool { return x == t })
			if o.refused == nil {
				o.refused = err
			}
		default:
			o.err = err
		}
		if i < len(order)-1 {
			r.note(t, model, err)
		}
	}
	return o
}

// attempt tries one target when it is the turn's time at its gate.
func (t *target) attempt(ctx context.Context, turn Turn, f try) (begun bool, err error) {
	p, err := t.gate.enterUnlessHeld(ctx, turn)
	if err != nil {
		return false, err
	}
	begun, err = f(t)
	return begun, t.gate.done(ctx, p, err)
}

// await waits until a row may try one of the targets again.
func await(ctx context.Context, targets []*target) error {
	wait := maxHold
	for _, t := range targets {
		wait = min(wait, t.gate.heldFor())
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// noteEvery is how often the log is told that a target fails.
const noteEvery = time.Minute

// note logs that a request went on from a target.
func (r *Router) note(t *target, model string, err error) {
	if r.Log == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if now.Sub(t.logged) < noteEvery {
		t.missed++
		return
	}
	r.Log.Warn("fallback", "model", model, "from", t.Name, "error", err, "not_logged_before", t.missed)
	t.logged, t.missed = now, 0
}
