package main

import (
	"net/http"
	"sync"
	"time"

	"ringback.dev/webhook"
)

// The mistake: “it comes once”. It comes at least once.
// The fix: claim webhook-id together with the effect.
func forgets(e *env) http.Handler {
	return webhook.Handler(e.verifier(), func(w http.ResponseWriter, _ *http.Request, m webhook.Message) {
		answer(w, e.act(m.Body))
	})
}

// The mistake: SELECT, then the work, then INSERT. Two attempts that come at once
// both find nothing.
// The fix: INSERT … ON CONFLICT DO NOTHING first, in the transaction of the effect.
func checksThenActs(e *env) http.Handler {
	var mu sync.Mutex
	seen := make(map[string]bool)
	return webhook.Handler(e.verifier(), func(w http.ResponseWriter, _ *http.Request, m webhook.Message) {
		mu.Lock()
		known := seen[m.ID]
		mu.Unlock()
		if known {
			answer(w, nil)
			return
		}
		<-time.After(30 * time.Millisecond) // The work takes a while.
		err := e.act(m.Body)
		if err == nil {
			mu.Lock()
			seen[m.ID] = true
			mu.Unlock()
		}
		answer(w, err)
	})
}

// The mistake: the job's id is the key. A job can have several events.
// The fix: webhook-id is the key.
func keyIsJob(e *env) http.Handler {
	var jobs claims
	return webhook.Handler(e.verifier(), func(w http.ResponseWriter, _ *http.Request, m webhook.Message) {
		event, err := webhook.ParseEvent(m.Body)
		if err == nil {
			var data webhook.Data
			if data, err = event.ParseData(); err == nil {
				err = jobs.once(data.ID, func() error { return e.act(m.Body) })
			}
		}
		answer(w, err)
	})
}

// The mistake: the signature is the key. Each attempt has its own timestamp, and so
// its own signature.
// The fix: webhook-id is the key.
func keyIsSignature(e *env) http.Handler {
	var signatures claims
	return webhook.Handler(e.verifier(), func(w http.ResponseWriter, r *http.Request, m webhook.Message) {
		answer(w, signatures.once(r.Header.Get("webhook-signature"), func() error { return e.act(m.Body) }))
	})
}

// The mistake: a double is a conflict, so it is answered 409. The sender only sees
// that it was not accepted, and comes again.
// The fix: what was done already is a success.
func refusesDoubles(e *env) http.Handler {
	var mu sync.Mutex
	seen := make(map[string]bool)
	return webhook.Handler(e.verifier(), func(w http.ResponseWriter, _ *http.Request, m webhook.Message) {
		mu.Lock()
		known := seen[m.ID]
		seen[m.ID] = true
		mu.Unlock()
		if known {
			http.Error(w, "already processed", http.StatusConflict)
			return
		}
		err := e.act(m.Body)
		if err != nil {
			mu.Lock()
			delete(seen, m.ID)
			mu.Unlock()
		}
		answer(w, err)
	})
}

// The mistake: the id is noted first, so that no double gets through; then the work
// fails. The sender comes again, and is told that all is done.
// The fix: note and work in one transaction, or take the note back.
func marksFirst(e *env) http.Handler {
	var mu sync.Mutex
	seen := make(map[string]bool)
	return webhook.Handler(e.verifier(), func(w http.ResponseWriter, _ *http.Request, m webhook.Message) {
		mu.Lock()
		known := seen[m.ID]
		seen[m.ID] = true
		mu.Unlock()
		if known {
			answer(w, nil)
			return
		}
		answer(w, e.act(m.Body))
	})
}

// The mistake: try { … } catch (e) { log(e) } and 200 in any case. Nobody will send
// that event again.
// The fix: 5xx when the work failed, or a queue of your own that tries again.
func swallowsErrors(e *env) http.Handler {
	var ids claims
	return webhook.Handler(e.verifier(), func(w http.ResponseWriter, _ *http.Request, m webhook.Message) {
		_ = ids.once(m.ID, func() error {
			_ = e.act(m.Body)
			return nil
		})
		w.WriteHeader(http.StatusOK)
	})
}

// The mistake: the work runs under the request's context, or in a worker that the
// server kills with the connection; the id is noted outside of it.
// The fix: work that does not depend on the connection, or a note that goes with it.
func stopsWithRequest(e *env) http.Handler {
	var mu sync.Mutex
	seen := make(map[string]bool)
	return webhook.Handler(e.verifier(), func(w http.ResponseWriter, r *http.Request, m webhook.Message) {
		mu.Lock()
		known := seen[m.ID]
		seen[m.ID] = true
		mu.Unlock()
		if known {
			answer(w, nil)
			return
		}
		select {
		case <-r.Context().Done():
			return // The query was cancelled.
		case <-time.After(50 * time.Millisecond):
		}
		if r.Context().Err() != nil {
			return
		}
		err := e.act(m.Body)
		if err != nil {
			mu.Lock()
			delete(seen, m.ID)
			mu.Unlock()
		}
		answer(w, err)
	})
}
