package deliver

import (
	"fmt"
	"testing"
	"time"
)

// TestLanesAreBounded: well targets are forgotten early when there are very many;
// one that fails is remembered.
func TestLanesAreBounded(t *testing.T) {
	now := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	d := New(Config{Now: func() time.Time { return now }})
	d.open = true
	if !d.Take("failing", nil) {
		t.Fatal("no place")
	}
	d.lanes["failing"].failures = breakAfter
	d.Give("failing")
	for i := range 3 * maxLanes {
		target := fmt.Sprint("uri_", i)
		if !d.Take(target, nil) {
			t.Fatalf("no place for %s", target)
		}
		d.Give(target)
		if len(d.lanes) > maxLanes {
			t.Fatalf("%d lanes", len(d.lanes))
		}
	}
	if d.lanes["failing"] == nil {
		t.Error("a target that fails was forgotten")
	}
	if d.held != 0 {
		t.Errorf("%d places are taken", d.held)
	}
}

// TestLaneLearns walks a lane through good and bad times.
func TestLaneLearns(t *testing.T) {
	now := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	l := &lane{limit: slowStart, max: 64}
	for range 200 {
		l.learn(&result{reason: accepted}, true, now)
	}
	if l.limit != 64 || !l.proven {
		t.Errorf("after success: %d", l.limit)
	}
	l.learn(&result{reason: accepted}, false, now)
	if l.learn(&result{reason: refusedBy}, true, now); l.limit != 64 {
		t.Errorf("a refusal says nothing about speed: %d", l.limit)
	}
	for i, want := range []int{32, 16, 8, 4} {
		if l.learn(&result{reason: timedOut}, true, now); l.limit != want {
			t.Errorf("after time-out %d: %d", i, l.limit)
		}
	}
	if !l.paused(now) || l.places() != 1 || l.sendable() != 1 {
		t.Error("the breaker is not open after five failures")
	}
	first := l.pausedUntil.Sub(now)
	for range 20 {
		now = l.pausedUntil
		l.learn(&result{reason: noConnect}, true, now)
	}
	if last := l.pausedUntil.Sub(now); first != firstBreak || last != maxBreak {
		t.Errorf("the breaker waits %s, then %s", first, last)
	}
	if l.paused(now.Add(-time.Hour)) {
		t.Error("a clock that was set back prolongs the pause")
	}
	if l.learn(&result{reason: accepted}, true, now); l.paused(now) || l.limit != slowStart || l.failures != 0 {
		t.Errorf("after the probe: %+v", l)
	}
	if l.learn(&result{reason: throttled, wait: time.Hour}, true, now); l.pausedUntil.Sub(now) != time.Hour {
		t.Errorf("Retry-After: paused for %s", l.pausedUntil.Sub(now))
	}
	if l.learn(&result{reason: throttled, wait: time.Second}, true, now); l.pausedUntil.Sub(now) != time.Hour {
		t.Error("a shorter wait shortened the pause")
	}
}
