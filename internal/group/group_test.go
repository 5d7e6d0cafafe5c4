package group

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// TestDo: every step is done once, in the order of its caller's, and each caller
// hears of its own.
func TestDo(t *testing.T) {
	odd := errors.New("odd")
	last := make(map[int]int) // Of the goroutine that commits.
	total, most := 0, 0
	type step struct{ caller, n int }
	w := New(func(steps []step, errs []error) {
		most = max(most, len(steps))
		for i, s := range steps {
			if s.n != last[s.caller]+1 {
				t.Errorf("caller %d: step %d after %d", s.caller, s.n, last[s.caller])
			}
			last[s.caller] = s.n
			total++
			if s.n%2 == 1 {
				errs[i] = odd
			}
		}
	})
	const callers, each = 700, 20
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for n := 1; n <= each; n++ {
				if err := w.Do(t.Context(), step{c, n}); (err != nil) != (n%2 == 1) || err != nil && !errors.Is(err, odd) {
					t.Errorf("step %d of %d: %v", n, c, err)
				}
			}
		})
	}
	all.Wait()
	w.Close()
	if total != callers*each || most > maxGroup {
		t.Errorf("%d steps were done, at most %d at once", total, most)
	}
}

// TestGroups: what is asked for during a commit shares the next one.
func TestGroups(t *testing.T) {
	begun, goOn := make(chan int), make(chan struct{})
	w := New(func(steps []int, _ []error) {
		begun <- len(steps)
		<-goOn
	})
	var all sync.WaitGroup
	do := func() {
		if err := w.Do(t.Context(), 1); err != nil {
			t.Error(err)
		}
	}
	all.Go(do)
	<-begun
	for range maxGroup + 3 {
		all.Go(do)
	}
	for w.queued() < maxGroup+3 {
		if t.Context().Err() != nil {
			return
		}
	}
	goOn <- struct{}{}
	for _, want := range []int{maxGroup, 3} {
		if n := <-begun; n != want {
			t.Errorf("a group of %d, not %d", n, want)
		}
		goOn <- struct{}{}
	}
	all.Wait()
	w.Close()
}

// TestEnd: a caller whose context ends goes on at once, and what it asked for is
// done all the same; a closed writer has done what it was asked for, and does no more.
func TestEnd(t *testing.T) {
	begun, goOn := make(chan struct{}, 1), make(chan struct{})
	var done []string
	w := New(func(steps []string, _ []error) {
		begun <- struct{}{}
		<-goOn
		done = append(done, steps...)
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	first := make(chan error)
	go func() { first <- w.Do(ctx, "first") }()
	<-begun
	why := errors.New("enough")
	cancel(why)
	if err := <-first; !errors.Is(err, why) {
		t.Error(err)
	}
	if err := w.Do(ctx, "never"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	second, closed := make(chan error), make(chan struct{})
	go func() { second <- w.Do(t.Context(), "second") }()
	for w.queued() == 0 {
		if t.Context().Err() != nil {
			return
		}
	}
	go func() { w.Close(); close(closed) }()
	close(goOn)
	if err := <-second; err != nil {
		t.Error(err)
	}
	<-closed
	if err := w.Do(t.Context(), "late"); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if len(done) != 2 || done[0] != "first" || done[1] != "second" {
		t.Error(done)
	}
}
