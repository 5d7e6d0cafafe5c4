package main

import (
	"net/http"
	"sync"
	"time"

	"ringback.dev/webhook"
)

// The mistake: the signature is good, so the message is. It stays good for ever.
// The fix: refuse what is more than five minutes from now.
func ignoresTime(e *env) http.Handler {
	return e.by(func(h http.Header, body []byte) bool {
		_, ok := distance(h)
		return ok && h.Get("webhook-id") != "" && e.signed(h, body)
	})
}

// The mistake: now - timestamp > 300. It is never true of what is ahead.
// The fix: abs(now - timestamp) > 300.
func pastOnly(e *env) http.Handler {
	return e.by(func(h http.Header, body []byte) bool {
		d, ok := distance(h)
		return ok && d <= 5*time.Minute && h.Get("webhook-id") != "" && e.signed(h, body)
	})
}

// The mistake: “the shorter the safer”. Clocks are off by more, and a proxy that
// retries takes its time.
// The fix: five minutes.
func strictClock(e *env) http.Handler {
	return e.by(func(h http.Header, body []byte) bool {
		d, ok := distance(h)
		return ok && d.Abs() <= 30*time.Second && h.Get("webhook-id") != "" && e.signed(h, body)
	})
}

// The mistake: the tolerance is held against the timestamp in the body. That is
// when the event happened; a retry may come 24 hours later.
// The fix: hold it against the header webhook-timestamp.
func eventTime(e *env) http.Handler {
	return e.by(func(h http.Header, body []byte) bool {
		event, err := webhook.ParseEvent(body)
		return fresh(h) && e.signed(h, body) && err == nil && time.Since(event.Timestamp).Abs() <= 5*time.Minute
	})
}

// The mistake: events are expected in their order, so what happened before the
// last one is taken for outdated.
// The fix: there is no order. Act on each; fetch the job's state if it matters.
func newestOnly(e *env) http.Handler {
	var mu sync.Mutex
	var last time.Time
	return e.by(func(h http.Header, body []byte) bool {
		event, err := webhook.ParseEvent(body)
		if !fresh(h) || !e.signed(h, body) || err != nil {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		if event.Timestamp.Before(last) {
			return false
		}
		last = event.Timestamp
		return true
	})
}
