package deliver

import (
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// lane is what the dispatcher knows of one target: the deliveries that it holds
// for it, and how the target has fared. It is all in memory: after a restart each
// target is tried again gently, which is what a target deserves that nothing is
// known of. Only the dispatcher touches it, with its mutex held.
//
// A lane begins with few attempts at once and gets one more whenever an attempt
// succeeds while all are in use; a target that is slow or refuses work loses half.
// So a receiver that hangs holds as many connections as it needed before, not
// as many as it could have.
type lane struct {
	target string
	// held counts places taken: one for each delivery from before it is claimed
	// until its attempt is over. inFlight of them are being sent, the rest waits in
	// queue or has not been handed over yet.
	held, inFlight int
	queue          []store.ClaimedDelivery
	blocked        bool // It waits in Dispatcher.blocked.

	limit  int  // How many may be sent at once now.
	max    int  // The most that limit may become.
	proven bool // The latest attempt to say anything about it succeeded.

	// failures counts the failed attempts since the last success. From breakAfter
	// on the breaker is open: until pausedUntil nothing is sent, then one at a time.
	failures int
	// pausedFrom and pausedUntil bound a pause, by the breaker or because the
	// receiver asked for it.
	pausedFrom, pausedUntil time.Time
	// gone is when the receiver answered 410. What is older is not sent any more: an
	// endpoint is disabled by then, or will be in a moment.
	gone time.Time
	uri  bool // The target is a URI, not an endpoint.

	// rate, if not 0, is how many attempts may begin in a second; tokens are those
	// that may begin now, as of filled.
	rate   float64
	tokens float64
	filled time.Time
	// caughtUp is the Resumed of the endpoint whose backlog has been sent.
	caughtUp time.Time

	used time.Time
}

const (
	// slowStart is how many attempts may be under way to a target that nothing is
	// known of.
	slowStart = 4
	// ahead is how many times the attempts under way may be held for a proven
	// target: some are being stored before, some are next in the lane.
	ahead = 8
	// breakAfter is how many attempts must fail in a row for the breaker to open.
	breakAfter = 5
	// The breaker waits firstBreak, then twice as long each time, at most maxBreak.
	firstBreak, maxBreak = time.Second, time.Minute
	// goneFor is how long an endpoint that answered 410 is left alone although it is
	// enabled: the store could not be written.
	goneFor = time.Minute
	// laneLife is how long an idle lane is remembered.
	laneLife = 10 * time.Minute
)

// places is how many deliveries may be held for the target.
func (l *lane) places() int {
	switch {
	case l.failures >= breakAfter:
		return 1
	case !l.proven:
		return l.limit
	}
	return ahead * l.limit
}

// sendable is how many may be under way.
func (l *lane) sendable() int {
	if l.failures >= breakAfter {
		return 1
	}
	return l.limit
}

// paused reports whether nothing may be sent now. A clock that was set back ends
// the pause.
func (l *lane) paused(now time.Time) bool {
	return now.Before(l.pausedUntil) && !now.Before(l.pausedFrom)
}

// settle takes over the settings of the lane's endpoint, nil for a URI.
func (l *lane) settle(c *Config, e *ringback.Endpoint, now time.Time) {
	l.max, l.used, l.uri = c.PerTarget, now, e == nil
	rate := 0.0
	if e != nil {
		if !l.gone.IsZero() && (e.Resumed.After(l.gone) || !l.paused(now)) {
			l.gone, l.pausedUntil = time.Time{}, time.Time{}
		}
		if e.Settings.MaxInFlight > 0 {
			l.max = e.Settings.MaxInFlight
		}
		rate = e.Settings.Rate
		if !e.Resumed.Equal(l.caughtUp) && (rate == 0 || rate > c.CatchUpRate) {
			rate = c.CatchUpRate
		}
	}
	l.limit = max(min(l.limit, l.max), 1)
	if rate != l.rate {
		l.rate, l.tokens, l.filled = rate, burst(rate), now
	}
	if l.rate > 0 {
		if passed := now.Sub(l.filled); passed > 0 {
			l.tokens = min(l.tokens+passed.Seconds()*l.rate, burst(l.rate))
		}
		l.filled = now
	}
}

// burst is how many tokens may gather: those of a tenth of a second, at least one.
func burst(rate float64) float64 { return max(1, rate/10) }

// room is how many more deliveries may be taken for the lane now.
func (l *lane) room(now time.Time) int {
	if l.paused(now) {
		return 0
	}
	n := l.places() - l.held
	if l.rate > 0 {
		n = min(n, int(l.tokens))
	}
	return n
}

// hold is until when nothing will be taken: the zero time if now.
func (l *lane) hold(now time.Time) time.Time {
	switch {
	case l.held >= l.places():
		return now.Add(time.Hour) // Give tells when there is a place again.
	case l.paused(now):
		return l.pausedUntil
	case l.rate > 0 && l.tokens+now.Sub(l.filled).Seconds()*l.rate < 1:
		return l.filled.Add(time.Duration((1 - l.tokens) / l.rate * float64(time.Second)))
	}
	return time.Time{}
}

// learn changes the lane after an attempt. full says that as many were under way
// as the limit allows.
func (l *lane) learn(r *result, full bool, now time.Time) {
	l.used = now
	switch r.reason {
	case accepted:
		if l.failures >= breakAfter {
			l.limit = min(slowStart, l.max)
		} else if full {
			l.limit = min(l.limit+1, l.max)
		}
		l.failures, l.proven = 0, true
		l.pausedUntil = time.Time{}
		return
	case gone:
		if !r.unsent {
			l.gone = now
			if !l.uri {
				l.pause(now, goneFor) // If it can't be disabled just now, it is asked again.
			}
		}
		return
	case deleted, blocked, unsigned, withheld:
		return // Nothing was sent; it says nothing about the receiver.
	case throttled, timedOut, noConnect, noName, noTLS, failed:
		l.limit, l.proven = max(l.limit/2, 1), false
	case broken:
		if r.status == 502 || r.status == 504 || r.status == 503 {
			l.limit, l.proven = max(l.limit/2, 1), false
		}
	}
	l.failures++
	if r.wait > 0 {
		l.pause(now, r.wait)
	}
	if over := l.failures - breakAfter; over >= 0 {
		l.pause(now, min(firstBreak<<min(over, 10), maxBreak))
	}
}

// pause lets nothing be sent for a while; it never shortens a pause.
func (l *lane) pause(now time.Time, d time.Duration) {
	if until := now.Add(d); !l.paused(now) || until.After(l.pausedUntil) {
		l.pausedFrom, l.pausedUntil = now, until
	}
}

// drained empties the queue when what is in it should not be sent soon: the target
// is paused or wants no more.
func (l *lane) drained(r *result, now time.Time) []store.ClaimedDelivery {
	if len(l.queue) == 0 || !l.paused(now) && (r.reason != gone || r.unsent) {
		return nil
	}
	q := l.queue
	l.queue = nil
	return q
}

// forgettable reports whether the lane, which was idle for so long, may be
// dropped. One that has failed of late is remembered longer.
func (l *lane) forgettable(now time.Time, idle time.Duration) bool {
	if l.failures > 0 || !l.gone.IsZero() {
		idle = laneLife
	}
	return l.held == 0 && now.Sub(l.used) >= idle && !l.paused(now)
}
