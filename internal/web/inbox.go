// Package web holds the pages that ringback shows to people. For now that is the
// inbox of a development server: a receiver that verifies each callback and
// shows what arrived.
package web

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"html/template"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"ringback.dev"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
	"ringback.dev/webhook"
)

//go:embed inbox.html
var inboxPage string

// inboxSize is how many callbacks the inbox keeps, in memory.
const inboxSize = 200

// Inbox receives callbacks at POST and shows them at GET.
type Inbox struct {
	store    store.Endpoints
	secrets  *keyring.Keyring
	project  ringback.ID
	endpoint ringback.ID
	page     *template.Template
	now      func() time.Time
	closed   chan struct{} // Closed by Close.

	mu       sync.Mutex
	arrived  []Arrival // Oldest first.
	watchers map[chan struct{}]bool
}

// Arrival is a callback that arrived.
type Arrival struct {
	Received time.Time       `json:"received"`
	ID       string          `json:"webhook_id"`
	Type     string          `json:"type"`
	Verified bool            `json:"verified"`
	Reason   string          `json:"reason,omitempty"` // Why it is not verified.
	Again    bool            `json:"again,omitempty"`  // An earlier one had this id.
	Millis   float64         `json:"milliseconds"`     // From the event to its arrival.
	Body     json.RawMessage `json:"body,omitempty"`
}

// NewInbox returns an inbox that verifies with the secrets that an endpoint has by
// the server's clock, now. Timestamps are compared with the real time, as any
// receiver does.
func NewInbox(s store.Endpoints, k *keyring.Keyring, project, endpoint ringback.ID, now func() time.Time) *Inbox {
	return &Inbox{store: s, secrets: k, project: project, endpoint: endpoint, now: now, watchers: make(map[chan struct{}]bool), closed: make(chan struct{}),
		page: template.Must(template.New("inbox").Funcs(template.FuncMap{"pretty": pretty}).Parse(inboxPage))}
}

// Close ends the streams to open pages. It is called once.
func (b *Inbox) Close() { close(b.closed) }

// NewInboxSecret makes the signing secret of an inbox's endpoint.
func NewInboxSecret(k *keyring.Keyring, endpoint ringback.ID, now time.Time) ringback.Secret {
	s := webhook.NewSecret()
	return ringback.Secret{Sealed: k.Seal(s.Reveal(), "endpoint/"+string(endpoint)), Truncated: s.Truncated(), Created: now}
}

// ServeHTTP implements http.Handler.
func (b *Inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPost:
		b.receive(w, r)
	case r.Method == http.MethodGet && r.URL.Query().Get("format") == "json":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"arrived": b.newestFirst()}) // The reader has gone if this fails.
	case r.Method == http.MethodGet && r.URL.Query().Get("format") == "events":
		b.watch(w, r)
	case r.Method == http.MethodGet:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'")
		_ = b.page.Execute(w, map[string]any{"Arrived": b.newestFirst(), "Size": inboxSize})
	default:
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "GET shows the inbox, POST delivers to it", http.StatusMethodNotAllowed)
	}
}

// receive keeps a callback and acknowledges it if it verifies.
func (b *Inbox) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, webhook.MaxBody))
	if err != nil {
		http.Error(w, "the body is too large or broke off", http.StatusRequestEntityTooLarge)
		return
	}
	now := b.now()
	a := Arrival{Received: now.UTC(), ID: r.Header.Get(webhook.HeaderID)}
	if json.Valid(body) {
		a.Body = body
	}
	if err := b.verify(r.Context(), r.Header, body); err != nil {
		a.Reason = err.Error()
	} else {
		a.Verified = true
	}
	if e, err := webhook.ParseEvent(body); err == nil {
		a.Type = e.Type
		if !e.Timestamp.IsZero() {
			a.Millis = float64(now.Sub(e.Timestamp).Microseconds()) / 1000
		}
	}
	b.keep(a)
	if !a.Verified {
		http.Error(w, a.Reason, http.StatusUnauthorized)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (b *Inbox) verify(ctx context.Context, h http.Header, body []byte) error {
	e, err := b.store.Endpoint(ctx, b.project, b.endpoint)
	if err != nil {
		return err
	}
	v := &webhook.Verifier{}
	for _, s := range e.LiveSecrets(b.now()) {
		text, err := b.secrets.Unseal(s.Sealed, "endpoint/"+string(b.endpoint))
		if err != nil {
			return err
		}
		if s.Scheme == ringback.V1a {
			key, err := webhook.ParseSigningKey(string(text))
			if err != nil {
				return err
			}
			v.PublicKeys = append(v.PublicKeys, key.Public())
			continue
		}
		secret, err := webhook.ParseSecret(string(text))
		if err != nil {
			return err
		}
		v.Secrets = append(v.Secrets, secret)
	}
	_, err = v.Verify(h, body)
	return err
}

func (b *Inbox) keep(a Arrival) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.Again = a.ID != "" && slices.ContainsFunc(b.arrived, func(x Arrival) bool { return x.ID == a.ID })
	if len(b.arrived) == inboxSize {
		b.arrived = slices.Delete(b.arrived, 0, 1)
	}
	b.arrived = append(b.arrived, a)
	for c := range b.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (b *Inbox) newestFirst() []Arrival {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := append([]Arrival{}, b.arrived...)
	slices.Reverse(list)
	return list
}

// watch sends an event whenever something arrives, so that an open page follows.
func (b *Inbox) watch(w http.ResponseWriter, r *http.Request) {
	news := make(chan struct{}, 1)
	b.mu.Lock()
	b.watchers[news] = true
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.watchers, news)
		b.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	heartbeat := time.NewTicker(15 * time.Second)
	defer heartbeat.Stop()
	for text := ": open\n\n"; ; {
		_ = control.SetWriteDeadline(time.Now().Add(10 * time.Second)) // Not every writer has deadlines.
		if _, err := io.WriteString(w, text); err != nil || control.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-b.closed:
			return
		case <-news:
			text = "data: arrived\n\n"
		case <-heartbeat.C:
			text = ": still here\n\n"
		}
	}
}

func pretty(raw json.RawMessage) string {
	var b bytes.Buffer
	if json.Indent(&b, raw, "", "  ") != nil {
		return string(raw)
	}
	return b.String()
}
