// Package group lets many callers share one commit: what they ask for at the same
// time is done in one transaction and synced once. A caller that comes alone waits
// for nobody.
package group

import (
	"context"
	"errors"
	"runtime"
	"sync"
)

// ErrClosed is returned once a writer is closed.
var ErrClosed = errors.New("the store is closed")

// maxGroup bounds the steps of one commit, and so how long the first of them
// waits for the last.
const maxGroup = 512

// enough is when no more steps are waited for.
const enough = 128

// Writer commits the steps of its callers in groups, one group after the other.
type Writer[S any] struct {
	commit func(steps []S, errs []error)
	done   chan struct{}

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
	if n == 1 {
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

// gather lets whoever is ready to run queue steps, too. On a machine that is busy that
// makes groups, which cost each caller less than they wait; on one that is not it
// costs nothing, and nobody waits for what may never come.
func (w *Writer[S]) gather() {
	for n := w.queued(); 0 < n && n < enough; {
		runtime.Gosched()
		before := n
		if n = w.queued(); n == before {
			return
		}
	}
}
