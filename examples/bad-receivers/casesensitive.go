package main

import (
	"net"
	"net/http"
	"strings"
	"sync"
)

// The mistake: event.headers["Webhook-Signature"], as functions behind a gateway
// get them: a map, with the names as the sender wrote them.
// The fix: put all names into lower case first.
//
// Package net/http asks for headers without regard to case, so this example has to
// look at the request's bytes to do it wrong.
func caseSensitive(e *env) http.Handler {
	var ids claims
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := read(w, r)
		if !ok {
			return
		}
		headers := make(map[string]string)
		head, _, _ := strings.Cut(r.Context().Value(connKey{}).(*noted).head(), "\r\n\r\n")
		for line := range strings.SplitSeq(head, "\r\n") {
			name, value, _ := strings.Cut(line, ": ")
			headers[name] = value
		}
		h := http.Header{"Webhook-Id": {headers["Webhook-Id"]}, "Webhook-Timestamp": {headers["Webhook-Timestamp"]}, "Webhook-Signature": {headers["Webhook-Signature"]}}
		if !fresh(h) || !e.signed(h, body) {
			refuse(w, "the signature does not verify")
			return
		}
		answer(w, ids.once(h.Get("webhook-id"), func() error { return e.act(body) }))
	})
}

type connKey struct{}

// noting is a listener whose connections note how their requests begin.
type noting struct{ net.Listener }

func (l *noting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &noted{Conn: c}, nil
}

type noted struct {
	net.Conn
	mu    sync.Mutex
	begun []byte
}

func (c *noted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = append(c.begun, p[:min(n, 16<<10-len(c.begun))]...)
	return n, err
}

func (c *noted) head() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.begun)
}
