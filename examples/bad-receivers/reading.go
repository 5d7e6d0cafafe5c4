package main

import (
	"io"
	"net/http"
	"sync"

	"ringback.dev/webhook"
)

// The mistake: await request.text(), whatever its size.
// The fix: a bound, before the body is read; events are below 20 kB.
func readsAll(e *env) http.Handler {
	next := good(e)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = bodyOf(body)
		next.ServeHTTP(w, r)
	})
}

// The mistake: socket.once("data", …), or one read into a buffer of 64 kB. On the
// own machine the body comes in one piece.
// The fix: read to the end.
func readsOnce(e *env) http.Handler {
	next := good(e)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		buffer := make([]byte, 64<<10)
		n, err := r.Body.Read(buffer)
		if err != nil && err != io.EOF {
			return
		}
		r.Body = bodyOf(buffer[:n])
		next.ServeHTTP(w, r)
	})
}

// The mistake: a development server with one thread, or a lock around the handler:
// who sends slowly stops the others.
// The fix: a server that serves each connection by itself, with time-outs; locks
// only around what is shared.
func oneAtATime(e *env) http.Handler {
	var mu sync.Mutex
	var ids claims
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		webhook.Handler(e.verifier(), func(w http.ResponseWriter, _ *http.Request, m webhook.Message) {
			answer(w, ids.once(m.ID, func() error { return e.act(m.Body) }))
		}).ServeHTTP(w, r)
	})
}
