package work

import (
	"context"
	"errors"
	"sync"
	"time"

	"ringback.dev"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/crash"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/store"
)

// firstStored is the number of the first event that is stored. Those before it
// tell what is known of every interaction, and whoever reads the stream makes them;
// the same is true of the last ones.
const firstStored = 3

// streamGather is how long events gather after some were stored. The first ones of a
// stream don't wait.
const streamGather = 20 * time.Millisecond

// recorder stores the events of a stream in the order in which they come. While
// some are being stored, and for streamGather after, those that come gather, so that
// a fast stream costs few writes. Readers are told of what is durable only:
// what they have heard is still there after a crash.
type recorder struct {
	r      *Runner
	job    *ringback.Job
	lease  ringback.Lease
	cancel context.CancelCauseFunc
	wake   chan struct{} // Holds one element.
	done   chan struct{}
	ending chan struct{} // Closed by close.

	mu      sync.Mutex
	pending store.StreamGroup // First is 0 if nothing waits.
	next    int64
	closed  bool
}

// record returns a recorder that goes on with number next. It ends by close.
func (r *Runner) record(ctx context.Context, j *ringback.Job, lease ringback.Lease, next int64, cancel context.CancelCauseFunc) *recorder {
	x := &recorder{r: r, job: j, lease: lease, next: next, cancel: cancel, wake: make(chan struct{}, 1), done: make(chan struct{}), ending: make(chan struct{})}
	go x.run(ctx)
	return x
}

// tell takes an event. It doesn't wait for it to be stored.
func (x *recorder) tell(e *genai.InteractionEvent) error {
	x.mu.Lock()
	data, err := genai.AppendEvent(x.pending.Data, x.next, e)
	if err != nil {
		x.mu.Unlock()
		return err
	}
	if x.pending.First == 0 {
		x.pending.First = x.next
	}
	x.pending.Data, x.pending.Last = data, x.next
	x.next++
	x.mu.Unlock()
	x.hint()
	return nil
}

func (x *recorder) hint() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// close waits until everything is stored, or can't be.
func (x *recorder) close() {
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	close(x.ending)
	x.hint()
	<-x.done
}

func (x *recorder) run(ctx context.Context) {
	defer close(x.done)
	gather := time.NewTimer(streamGather)
	defer gather.Stop()
	for range x.wake {
		x.mu.Lock()
		group, closed := x.pending, x.closed
		x.pending = store.StreamGroup{}
		x.mu.Unlock()
		if group.First > 0 {
			if err := x.store(ctx, group); err != nil {
				if ringback.CodeOf(err) != ringback.Stale {
					x.r.Log.Error("the stream of an interaction was not recorded; it will be run again", "job", x.job.ID, "error", err)
				}
				x.cancel(errLost)
				return
			}
		}
		if closed {
			return
		}
		gather.Reset(streamGather)
		select {
		case <-gather.C:
		case <-x.ending:
		}
	}
}

func (x *recorder) store(ctx context.Context, g store.StreamGroup) error {
	// A stop gives up on a store that can't be written.
	stopped, done := context.WithCancel(context.WithoutCancel(ctx))
	defer done()
	defer context.AfterFunc(x.r.cutOff, done)()
	write := func() error { return x.r.Store.AppendStream(stopped, x.job.ID, x.lease, g) }
	err := x.r.untilStored(stopped, "the stream of an interaction", x.job.ID, write)
	if b := x.r.birth(x.job.ID); b != nil && errors.Is(err, ringback.Stale) && b.wait() == nil {
		// The job was being stored. As a rule that comes first, and both are one group.
		err = x.r.untilStored(stopped, "the stream of an interaction", x.job.ID, write)
	}
	if err != nil {
		return err
	}
	crash.At(crash.StreamRecorded)
	x.r.Hints.PublishPart(x.job.ID, bus.Part(g))
	return nil
}

// recall gives a talk what earlier runs of its job have told, and returns the
// number of the next event.
func (r *Runner) recall(ctx context.Context, j *ringback.Job, t *talk) (next int64, err error) {
	const page = 256
	next = firstStored
	for {
		groups, _, err := r.Store.StreamAfter(ctx, j.Project, j.ID, next-1, page)
		if err != nil {
			return 0, err
		}
		for _, g := range groups {
			for event, rest := genai.CutEvent(g.Data); len(event) > 0; event, rest = genai.CutEvent(rest) {
				e, err := genai.ReadEvent(event)
				if err == nil {
					err = t.recall(e)
				}
				if err != nil {
					return 0, err
				}
			}
			next = g.Last + 1
		}
		if len(groups) < page {
			return next, nil
		}
	}
}
