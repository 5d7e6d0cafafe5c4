package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// arrivals lets requests into a gate one after the other and notes their order.
type arrivals struct {
	t   *testing.T
	g   *gate
	let map[string]chan error // What comes of those that are in.

	mu sync.Mutex
	in []string
}

func (a *arrivals) order() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.in)
}

func (a *arrivals) enter(name string, turn Turn) {
	done := make(chan error, 1)
	a.let[name] = done
	go func() {
		p, err := a.g.enter(a.t.Context(), turn)
		if err != nil {
			a.t.Errorf("%s: %v", name, err)
			return
		}
		a.mu.Lock()
		a.in = append(a.in, name)
		a.mu.Unlock()
		_ = a.g.done(a.t.Context(), p, <-done)
	}()
	synctest.Wait()
}

func (a *arrivals) end(name string, err error) {
	a.let[name] <- err
	synctest.Wait()
}

func gateTest(t *testing.T, l Limits, test func(a *arrivals)) {
	synctest.Test(t, func(t *testing.T) {
		a := &arrivals{t: t, g: newGate(l), let: make(map[string]chan error)}
		test(a)
		for _, c := range a.let { // Let go who is in.
			select {
			case c <- nil:
			default:
			}
		}
		synctest.Wait()
	})
}

func TestInteractionsGoFirst(t *testing.T) {
	gateTest(t, Limits{InFlight: 1}, func(a *arrivals) {
		a.enter("first", Turn{Batch: "b"})
		a.enter("row", Turn{Batch: "b", Priority: 100})
		a.enter("interaction", Turn{})
		a.end("first", nil)
		a.end("interaction", nil)
		if want := []string{"first", "interaction", "row"}; !slices.Equal(a.order(), want) {
			t.Errorf("got %v, want %v", a.order(), want)
		}
	})
}

func TestRowsLeaveRoom(t *testing.T) {
	gateTest(t, Limits{InFlight: 3, Rows: 2}, func(a *arrivals) {
		for i := range 3 {
			a.enter(fmt.Sprint("row", i), Turn{Batch: "b"})
		}
		a.enter("interaction", Turn{})
		if want := []string{"row0", "row1", "interaction"}; !slices.Equal(a.order(), want) {
			t.Errorf("got %v, want %v", a.order(), want)
		}
	})
}

// TestBatchesTakeTurns: equal batches alternate, whenever they came; a higher
// priority goes before them.
func TestBatchesTakeTurns(t *testing.T) {
	gateTest(t, Limits{Rows: 1}, func(a *arrivals) {
		a.enter("begin", Turn{Batch: "a"})
		for i := range 4 {
			a.enter(fmt.Sprint("a", i), Turn{Batch: "a"})
		}
		for i := range 2 {
			a.enter(fmt.Sprint("b", i), Turn{Batch: "b"})
		}
		a.enter("urgent", Turn{Batch: "c", Priority: 5})
		for len(a.order()) < 8 {
			in := a.order()
			a.end(in[len(in)-1], nil)
		}
		got := fmt.Sprint(a.order())
		if got != "[begin urgent b0 a0 b1 a1 a2 a3]" && got != "[begin urgent a0 b0 a1 b1 a2 a3]" {
			t.Errorf("got %v", got)
		}
	})
}

// TestRowsWaitForTheBackEnd: when the back-end can't be used, rows wait, then one
// of them tries; requests that somebody waits for are let through.
func TestRowsWaitForTheBackEnd(t *testing.T) {
	gateTest(t, Limits{Rows: 8}, func(a *arrivals) {
		down := &Error{Kind: Unavailable}
		for i := range 8 {
			a.enter(fmt.Sprint(i), Turn{Batch: "b"})
		}
		for i := range 8 {
			a.end(fmt.Sprint(i), down)
		}
		for i := 8; i < 12; i++ {
			a.enter(fmt.Sprint(i), Turn{Batch: "b"})
		}
		a.enter("interaction", Turn{})
		if len(a.order()) != 9 || a.order()[8] != "interaction" {
			t.Fatalf("while it is down: %v", a.order())
		}
		begin := time.Now()
		wait := func(n int) time.Duration {
			for len(a.order()) < n {
				time.Sleep(10 * time.Millisecond)
			}
			return time.Since(begin)
		}
		if took := wait(10); took < minHold-10*time.Millisecond || took > 2*minHold {
			t.Errorf("the first one tried after %s", took)
		}
		begin = time.Now()
		a.end(a.order()[9], down)
		if took := wait(11); took < 2*minHold-20*time.Millisecond || took > 3*minHold {
			t.Errorf("the second one tried after %s", took)
		}
		a.end(a.order()[10], nil)
		if len(a.order()) != 13 {
			t.Errorf("when it is back: %v", a.order())
		}
	})
}

func TestRetryAfterHoldsRows(t *testing.T) {
	gateTest(t, Limits{Rows: 1}, func(a *arrivals) {
		a.enter("one", Turn{Batch: "b"})
		a.end("one", &Error{Kind: RateLimited, RetryAfter: time.Minute})
		begin := time.Now()
		a.enter("two", Turn{Batch: "b"})
		for len(a.order()) < 2 {
			time.Sleep(time.Second)
		}
		if took := time.Since(begin); took < time.Minute-time.Second || took > time.Minute+2*time.Second {
			t.Errorf("it waited for %s", took)
		}
	})
}

// TestOthersAnswered: a failure says whether the back-end answered others
// meanwhile.
func TestOthersAnswered(t *testing.T) {
	g := newGate(Limits{Rows: 8})
	enter := func() pass {
		t.Helper()
		p, err := g.enter(t.Context(), Turn{Batch: "b"})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	alone, other := enter(), enter()
	var e *Error
	if err := g.done(t.Context(), alone, &Error{Kind: Unavailable}); !errors.As(err, &e) || e.OthersAnswered {
		t.Errorf("got %+v", e)
	}
	if err := g.done(t.Context(), other, nil); err != nil {
		t.Error(err)
	}
	late, quick := enter(), enter()
	if err := g.done(t.Context(), quick, nil); err != nil {
		t.Error(err)
	}
	if err := g.done(t.Context(), late, &Error{Kind: Unavailable}); !errors.As(err, &e) || !e.OthersAnswered {
		t.Errorf("got %+v", e)
	}
}

// TestGivenUpWaiting: a request that is given up while it waits leaves no trace.
func TestGivenUpWaiting(t *testing.T) {
	g := newGate(Limits{InFlight: 1})
	p, err := g.enter(t.Context(), Turn{})
	if err != nil {
		t.Fatal(err)
	}
	for _, turn := range []Turn{{}, {Batch: "b"}} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := g.enter(ctx, turn); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	if len(g.urgent) > 0 || len(g.lines) > 0 || g.inFlight != 1 {
		t.Errorf("left: %d urgent, %d lines, %d in flight", len(g.urgent), len(g.lines), g.inFlight)
	}
	_ = g.done(t.Context(), p, nil)
	if g.inFlight != 0 {
		t.Errorf("%d in flight", g.inFlight)
	}
}
