package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"

	"ringback.dev/webhook"
)

// The mistake: default: return 400. The day on which the sender has something new
// to tell, it counts as your failure.
// The fix: acknowledge what verifies; ignore what you don't know.
func rejectsUnknownTypes(e *env) http.Handler {
	next := good(e)
	return checked(next, func(body []byte) bool {
		event, err := webhook.ParseEvent(body)
		switch event.Type {
		case webhook.BatchSucceeded, webhook.BatchFailed, webhook.BatchExpired, webhook.BatchCancelled,
			webhook.InteractionRequiresAction, webhook.InteractionCompleted, webhook.InteractionFailed, webhook.InteractionCancelled,
			webhook.InteractionIncomplete, webhook.VideoGenerated, webhook.VideoFailed, webhook.JobStalled, webhook.WebhookDisabled, webhook.Ping:
			return err == nil
		}
		return false
	})
}

// The mistake: a schema with additionalProperties: false, or a strict decoder.
// The fix: a schema for what you use; pass over the rest.
func rejectsUnknownMembers(e *env) http.Handler {
	type data struct {
		webhook.Data
		Fail string `json:"examine_fail"` // Of the trial.
	}
	return checked(good(e), func(body []byte) bool {
		var event struct {
			Type, Version string
			Timestamp     time.Time
			Data          data
			UserMetadata  json.RawMessage `json:"user_metadata"`
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		return d.Decode(&event) == nil
	})
}

// checked answers 400 to a body that is not to its taste, before anything else.
func checked(next http.Handler, good func([]byte) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := read(w, r)
		if !ok {
			return
		}
		if !good(body) {
			http.Error(w, "unexpected event", http.StatusBadRequest)
			return
		}
		r.Body = http.NoBody
		r = r.Clone(r.Context())
		r.Body = bodyOf(body)
		next.ServeHTTP(w, r)
	})
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

func bodyOf(b []byte) memory { return memory{bytes.NewReader(b)} }

// The mistake: the framework's router adds the slash at the end by a redirect. A
// browser follows it, a sender of webhooks doesn't.
// The fix: register the address as it is served.
func redirects(e *env) http.Handler {
	next := good(e)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hook/" {
			http.Redirect(w, r, "/hook/", http.StatusPermanentRedirect)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// working is how long the work takes of a receiver that does it first.
const working = 20 * time.Second

// The mistake: the result is fetched, stored and mailed before the answer. The
// sender gives up after 15 seconds, and sends it again.
// The fix: store the event, answer, work then.
func worksFirst(e *env) http.Handler {
	var ids claims
	return webhook.Handler(e.verifier(), func(w http.ResponseWriter, r *http.Request, m webhook.Message) {
		work := time.NewTimer(working)
		defer work.Stop()
		select {
		case <-work.C:
		case <-r.Context().Done():
			return
		}
		answer(w, ids.once(m.ID, func() error { return e.act(m.Body) }))
	})
}
