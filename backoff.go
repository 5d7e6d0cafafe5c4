package ringback

import "time"

// Backoff says when a delivery that failed is tried again.
type Backoff struct {
	// Delays are the waits after the first, second, … failed attempt; the last
	// one repeats.
	Delays []time.Duration
	// Jitter spreads each wait evenly over ± this share of it.
	Jitter float64
	// Window is how long after its creation a delivery is retried; the last
	// attempt starts inside it.
	Window time.Duration
}

// DefaultBackoff tries for 24 hours: at once, then after 5 s, 30 s, 2 min,
// 10 min, 30 min, 1 h, and every 2 h from there, each ± 20 %.
func DefaultBackoff() Backoff {
	return Backoff{
		Delays: []time.Duration{
			5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute,
			30 * time.Minute, time.Hour, 2 * time.Hour,
		},
		Jitter: 0.2,
		Window: 24 * time.Hour,
	}
}

// Next returns when the next attempt is due after the given number of failed
// attempts, and false when there is none. created is the delivery's birth; wait
// is the receiver's own Retry-After, 0 if it sent none: it can lengthen the wait
// but not the window, at whose end there is then a last attempt. random is in [0,1).
func (b Backoff) Next(attempts int, created, now time.Time, wait time.Duration, random float64) (time.Time, bool) {
	if len(b.Delays) == 0 || attempts < 1 {
		return now, attempts < 1
	}
	delay := b.Delays[min(attempts, len(b.Delays))-1]
	delay += time.Duration(float64(delay) * b.Jitter * (2*random - 1))
	end := created.Add(b.Window)
	due := now.Add(max(delay, wait))
	// A receiver that asks for more time than there is gets the last attempt just
	// before the end.
	if last := end.Add(-lastCall); !due.Before(end) && now.Add(delay).Before(last) {
		due = last
	}
	return due, due.Before(end)
}

// lastCall is how long before the end of the window the last attempt is made for
// a receiver that asked to wait beyond it.
const lastCall = time.Minute
