package main

import (
	"net/http"

	"ringback.dev/webhook"
)

// good is how it is done: the handler bounds, reads and verifies the raw body; the
// id is claimed in one step with the effect, and free again if that fails; 2xx
// says that the event will not be needed again.
func good(e *env) http.Handler {
	var ids claims
	return webhook.Handler(e.verifier(), func(w http.ResponseWriter, _ *http.Request, m webhook.Message) {
		answer(w, ids.once(m.ID, func() error { return e.act(m.Body) }))
	})
}
