package manage

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"time"
	"unicode/utf8"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// delivery is a delivery as it is shown.
type delivery struct {
	ID        ringback.ID        `json:"id"` // The webhook-id.
	Event     ringback.ID        `json:"event"`
	Type      ringback.EventType `json:"type,omitempty"`
	Job       ringback.ID        `json:"job,omitempty"`
	Webhook   ringback.ID        `json:"webhook,omitempty"`
	URI       string             `json:"uri,omitempty"`
	Signature ringback.Scheme    `json:"signature,omitempty"`
	State     string             `json:"state"`
	Attempts  int                `json:"attempts"`
	// NextAttempt is given while the delivery waits.
	NextAttempt string     `json:"next_attempt,omitempty"`
	Reason      string     `json:"reason,omitempty"`
	Created     string     `json:"created"`
	Updated     string     `json:"updated"`
	RetryUntil  string     `json:"retry_until,omitempty"`
	AttemptsLog []*attempt `json:"attempts_log,omitempty"`
}

// attempt is an attempt as it is shown.
type attempt struct {
	Number       int    `json:"number"`
	Started      string `json:"started"`
	Status       int    `json:"status,omitempty"`
	Reason       string `json:"reason"`
	Error        string `json:"error,omitempty"`
	Answer       string `json:"answer,omitempty"`
	AnswerBase64 string `json:"answer_base64,omitempty"`
	Timing       timing `json:"timing"`
}

// timing says where an attempt's time went. What did not happen, because a kept
// connection was used, is 0.
type timing struct {
	DNS       float64 `json:"dns_ms"`
	Connect   float64 `json:"connect_ms"`
	TLS       float64 `json:"tls_ms"`
	FirstByte float64 `json:"first_byte_ms"`
	Total     float64 `json:"total_ms"`
}

// maxShownPath is how much of an address's path is shown.
const maxShownPath = 64

// shownURI leaves out of an address what may be a credential.
func shownURI(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(malformed)"
	}
	path := u.EscapedPath()
	if len(path) > maxShownPath {
		path = path[:maxShownPath] + "…"
	}
	if u.RawQuery != "" {
		path += "?…"
	}
	return u.Scheme + "://" + u.Host + path
}

// renderDelivery shows a delivery; e is its event, or nil to look it up.
func (m *manage) renderDelivery(c *call, d *ringback.Delivery, e *ringback.Event) (*delivery, error) {
	out := &delivery{ID: d.ID, Event: d.Event, Webhook: d.Endpoint, Signature: d.Scheme, State: string(d.State), Attempts: d.Attempts,
		Reason: d.Reason, Created: wireTime(d.Created), Updated: wireTime(d.Updated)}
	if e == nil {
		found, err := m.Store.Event(c.Context(), c.project, d.Event)
		if err != nil && !errors.Is(err, ringback.NotFound) {
			return nil, err
		}
		e = &found
	}
	out.Type, out.Job = e.Type, e.Job
	if d.URI != "" {
		out.URI = shownURI(d.URI)
	}
	if d.State == ringback.DeliveryPending {
		out.NextAttempt = wireTime(d.Due)
		out.RetryUntil = wireTime(m.retryUntil(c, d))
	}
	return out, nil
}

// retryUntil is the end of a delivery's retry window.
func (m *manage) retryUntil(c *call, d *ringback.Delivery) time.Time {
	window, begun := m.Backoff.Window, d.Begun
	if ep, err := m.Store.Endpoint(c.Context(), c.project, d.Endpoint); err == nil {
		if ep.Settings.Window > 0 {
			window = ep.Settings.Window
		}
		if ep.Resumed.After(begun) {
			begun = ep.Resumed
		}
	}
	return begun.Add(window)
}

func (m *manage) listDeliveries(c *call) (any, error) {
	q, err := c.query("state", "event", "webhook", "endpoint", "types", "from", "to", "before", "limit")
	if err != nil {
		return nil, err
	}
	n, err := limit(q)
	if err != nil {
		return nil, err
	}
	before, err := position("before", "deliveries", q.Get("before"))
	if err != nil {
		return nil, err
	}
	webhook := q.Get("webhook")
	if webhook == "" {
		webhook = q.Get("endpoint")
	}
	f, err := filter(q.Get("state"), q.Get("event"), webhook, split(q.Get("types")), q.Get("from"), q.Get("to"))
	if err != nil {
		return nil, err
	}
	all, err := m.Store.ListDeliveries(c.Context(), c.project, f, ringback.ID(before), n)
	if err != nil {
		return nil, err
	}
	var out struct {
		Deliveries []*delivery `json:"deliveries"`
		Next       string      `json:"next,omitempty"`
	}
	out.Deliveries = []*delivery{}
	for i := range all {
		d, err := m.renderDelivery(c, &all[i], nil)
		if err != nil {
			return nil, err
		}
		out.Deliveries = append(out.Deliveries, d)
	}
	if len(all) == n {
		out.Next = cursor("deliveries", string(all[n-1].ID))
	}
	return out, nil
}

// filter reads what selects deliveries.
func filter(state, event, webhook string, names []string, from, to string) (f store.DeliveryFilter, err error) {
	switch s := ringback.DeliveryState(state); s {
	case "", ringback.DeliveryPending, ringback.DeliveryDelivered, ringback.DeliveryFailed:
		f.State = s
	default:
		return f, invalid("state: %q is none of pending, delivered, failed", state)
	}
	f.Event, f.Endpoint = ringback.ID(event), ringback.ID(webhook)
	if f.Types, err = types(names); err != nil {
		return f, err
	}
	if f.From, err = instant("from", from); err != nil {
		return f, err
	}
	f.To, err = instant("to", to)
	return f, err
}

func (m *manage) getDelivery(c *call) (any, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	return m.delivery(c, c.id())
}

// delivery shows one delivery with its attempts.
func (m *manage) delivery(c *call, id ringback.ID) (*delivery, error) {
	d, err := m.Store.Delivery(c.Context(), c.project, id)
	if err != nil {
		return nil, notFound(err, "delivery", id)
	}
	out, err := m.renderDelivery(c, &d, nil)
	if err != nil {
		return nil, err
	}
	attempts, err := m.Store.Attempts(c.Context(), c.project, d.ID)
	if err != nil {
		return nil, err
	}
	for i := range attempts {
		out.AttemptsLog = append(out.AttemptsLog, renderAttempt(&attempts[i]))
	}
	return out, nil
}

func renderAttempt(a *ringback.Attempt) *attempt {
	out := &attempt{Number: a.Number, Started: wireTime(a.Started), Status: a.Status, Reason: a.Reason, Error: a.Error,
		Timing: timing{millis(a.DNS), millis(a.Connect), millis(a.TLS), millis(a.FirstByte), millis(a.Total)}}
	if utf8.Valid(a.Answer) {
		out.Answer = string(a.Answer)
	} else {
		out.AnswerBase64 = base64.StdEncoding.EncodeToString(a.Answer)
	}
	return out
}

// resend has a delivery sent again, under the same id.
func (m *manage) resend(c *call) (any, error) {
	if err := c.decode(&struct{}{}); err != nil {
		return nil, err
	}
	d, err := m.Store.Delivery(c.Context(), c.project, c.id())
	if err != nil {
		return nil, notFound(err, "delivery", c.id())
	}
	if d.Endpoint != "" {
		switch ep, err := m.Store.Endpoint(c.Context(), c.project, d.Endpoint); {
		case errors.Is(err, ringback.NotFound):
			return nil, &ringback.Error{Code: ringback.FailedPrecondition, Message: fmt.Sprintf("the webhook %q was deleted", d.Endpoint)}
		case err != nil:
			return nil, err
		case ep.State != ringback.Enabled:
			return nil, &ringback.Error{Code: ringback.FailedPrecondition, Message: fmt.Sprintf("the webhook %q is %s; set its state to enabled first, which sends what waits for it", d.Endpoint, ep.State)}
		}
	}
	if err := m.Store.Redeliver(c.Context(), c.project, d.ID, c.by()); err != nil {
		return nil, notFound(err, "delivery", c.id())
	}
	m.Wake()
	return m.delivery(c, d.ID)
}
