// Package group lets many callers share one commit: what they ask for at the same
// time is done in one transaction and synced once. A caller that comes alone waits
// for nobody.
package group

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"
)

// ErrClosed is returned once a writer is closed.
var ErrClosed = errors.New("the store is closed")

// maxGroup bounds the steps of one commit, and so how long the first of them
// waits for the last.
const maxGroup = 512

// A group is held back when several steps are queued or were lately, but not once
// it has enough, nor longer than gatherTime.
const (
	several    = 8
	enough     = 128
	gatherTime = time.Millisecond
)

// Writer commits the steps of its callers in groups, one group after the other.
type Writer[S any] struct {
	commit func(steps []S, errs []error)
	done   chan struct{}
	last   int // Steps of the latest group; the goroutine's alone.

	mu     sync.Mutex
	closed bool
	queue  []waiter[S]
	wake   chan struct{} // Holds one element.
}

type waiter[S any] struct {
	step  S
	ready chan error // Holds one element.
}

// New starts a writer. commit does the steps, and sets the error of each for which
// there is one; it runs in one goroutine.
func New[S any](commit func(steps []S, errs []error)) *Writer[S] {
	w := &Writer[S]{commit: commit, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	go w.run()
	return w
}

// Do queues a step and waits until it was committed or refused. When ctx ends
// before that, the step may be done all the same.
func (w *Writer[S]) Do(ctx context.Context, step S) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ready := make(chan error, 1)
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return ErrClosed
	}
	w.queue = append(w.queue, waiter[S]{step, ready})
	n := len(w.queue)
	w.mu.Unlock()
	if n == 1 || n == enough {
		w.hint()
	}
	select {
	case err := <-ready:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close commits what is queued and ends the goroutine.
func (w *Writer[S]) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.hint()
	<-w.done
}

func (w *Writer[S]) hint() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Writer[S]) queued() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue)
}

func (w *Writer[S]) run() {
	defer close(w.done)
	var steps []S
	var errs []error
	for {
		w.gather()
		w.mu.Lock()
		group := w.queue
		if len(group) > maxGroup {
			group, w.queue = group[:maxGroup:maxGroup], group[maxGroup:]
		} else {
			w.queue = nil
		}
		closed := w.closed
		w.mu.Unlock()
		if len(group) == 0 {
			if closed {
				return
			}
			<-w.wake
			continue
		}
		w.last = len(group)
		steps, errs = steps[:0], errs[:0]
		for _, g := range group {
			steps, errs = append(steps, g.step), append(errs, nil)
		}
		w.commit(steps, errs)
		for i, g := range group {
			g.ready <- errs[i]
		}
		clear(steps)
	}
}

// gather waits a little for more steps, but only when several are queued already
// and there were many lately: then a larger group costs each caller less than the
// wait. A lone caller is served at once, and so are a few.
func (w *Writer[S]) gather() {
	n := w.queued()
	if n == 1 {
		// Whoever is ready to run may have more. On a machine that is busy that makes
		// groups; on one that is not it costs nothing.
		runtime.Gosched()
		n = w.queued()
	}
	if n < 2 || n >= enough || n < several && w.last < several {
		return
	}
	timer := time.NewTimer(gatherTime)
	defer timer.Stop()
	for n < enough {
		select {
		case <-timer.C:
			return
		case <-w.wake:
			n = w.queued()
		}
	}
}
