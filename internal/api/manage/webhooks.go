package manage

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
	"ringback.dev/webhook"
)

// shownWebhook is what the Gemini API does not show of a webhook.
type shownWebhook struct {
	ID           ringback.ID   `json:"id"`
	Name         string        `json:"name,omitempty"`
	URI          string        `json:"uri"`
	State        string        `json:"state"`
	Settings     shownSettings `json:"settings"`
	PublicKeys   []publicKey   `json:"public_keys"`
	FailingSince string        `json:"failing_since,omitempty"`
	Failures     int           `json:"failures"`
}

// publicKey verifies what a webhook's v1a key signs.
type publicKey struct {
	PublicKey  string `json:"public_key"`
	ExpireTime string `json:"expire_time,omitempty"`
}

// shownSettings are a webhook's settings; null is the server's own.
type shownSettings struct {
	SignatureSchemes  []ringback.Scheme `json:"signature_schemes"`
	Timeout           *float64          `json:"timeout_seconds"`
	MaxInFlight       *int              `json:"max_in_flight"`
	Rate              *float64          `json:"rate_per_second"`
	RetryWindow       *float64          `json:"retry_window_seconds"`
	RetrySchedule     []float64         `json:"retry_schedule_seconds"`
	Headers           []string          `json:"headers"` // Their names.
	ClientCertificate *string           `json:"client_certificate"`
}

func renderSettings(e *ringback.Endpoint) shownSettings {
	s := &e.Settings
	out := shownSettings{SignatureSchemes: e.Schemes(), Headers: []string{}}
	seconds := func(d time.Duration) *float64 {
		if d == 0 {
			return nil
		}
		v := d.Seconds()
		return &v
	}
	out.Timeout, out.RetryWindow = seconds(s.Timeout), seconds(s.Window)
	if s.MaxInFlight > 0 {
		out.MaxInFlight = &s.MaxInFlight
	}
	if s.Rate > 0 {
		out.Rate = &s.Rate
	}
	for _, d := range s.Schedule {
		out.RetrySchedule = append(out.RetrySchedule, d.Seconds())
	}
	for _, h := range s.Headers {
		out.Headers = append(out.Headers, h.Name)
	}
	if s.Certificate != nil {
		out.ClientCertificate = &s.CertificateName
	}
	return out
}

func (m *manage) renderWebhook(c *call, e *ringback.Endpoint) (*shownWebhook, error) {
	h, err := m.Store.Health(c.Context(), e.ID)
	if err != nil {
		return nil, err
	}
	out := &shownWebhook{ID: e.ID, Name: e.Name, URI: e.URI, State: string(e.State), Settings: renderSettings(e), PublicKeys: []publicKey{},
		FailingSince: wireTime(h.FailingSince), Failures: h.Failures}
	for _, s := range e.LiveSecrets(c.now) {
		if s.Scheme == ringback.V1a {
			out.PublicKeys = append(out.PublicKeys, publicKey{s.Truncated, wireTime(s.Expires)})
		}
	}
	return out, nil
}

func (m *manage) webhook(c *call) (*ringback.Endpoint, error) {
	e, err := m.Store.Endpoint(c.Context(), c.project, c.id())
	return e, notFound(err, "webhook", c.id())
}

func (m *manage) getWebhook(c *call) (any, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	e, err := m.webhook(c)
	if err != nil {
		return nil, err
	}
	return m.renderWebhook(c, e)
}

// patchWebhook changes a webhook's settings: what the body holds, null resets.
func (m *manage) patchWebhook(c *call) (any, error) {
	var q map[string]json.RawMessage
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	e, err := m.webhook(c)
	if err != nil {
		return nil, err
	}
	set := e.Settings
	names := make([]string, 0, len(q))
	for name := range q {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		apply := settingsFields[name]
		if apply == nil {
			return nil, invalid("unknown field %q", name)
		}
		raw := q[name]
		if string(raw) == "null" {
			raw = nil
		}
		if err := apply(m, e, &set, raw); err != nil {
			return nil, err
		}
	}
	p := store.EndpointPatch{Settings: &set}
	// A scheme that has no live key or secret yet gets one.
	changed := *e
	changed.Settings = set
	for _, scheme := range changed.Schemes() {
		live := slices.ContainsFunc(e.LiveSecrets(c.now), func(s ringback.Secret) bool { return s.Scheme == scheme || s.Scheme == "" && scheme == ringback.V1 })
		if scheme == ringback.V1a && !live {
			key := webhook.NewSigningKey()
			p.AddSecrets = append(p.AddSecrets, ringback.Secret{Scheme: ringback.V1a, Sealed: m.Secrets.Seal(key.Reveal(), store.SealEndpoint+string(e.ID)),
				Truncated: key.Public().String(), Created: c.now})
		} else if !live {
			return nil, &ringback.Error{Code: ringback.FailedPrecondition, Message: "signature_schemes: the webhook has no live v1 secret; rotate its signing secret first"}
		}
	}
	if e, err = m.Store.UpdateEndpoint(c.Context(), c.project, e.ID, p, c.by()); err != nil {
		return nil, notFound(err, "webhook", c.id())
	}
	return m.renderWebhook(c, e)
}

// settingsFields reads each member of the request; nil raw resets.
var settingsFields = map[string]func(m *manage, e *ringback.Endpoint, s *ringback.Settings, raw json.RawMessage) error{
	"signature_schemes": func(_ *manage, _ *ringback.Endpoint, s *ringback.Settings, raw json.RawMessage) error {
		s.Schemes = nil
		if raw == nil {
			return nil
		}
		if err := json.Unmarshal(raw, &s.Schemes); err != nil || len(s.Schemes) == 0 || len(s.Schemes) > 2 {
			return invalid("signature_schemes: expected a list of v1, v1a or both")
		}
		for i, x := range s.Schemes {
			if x != ringback.V1 && x != ringback.V1a || slices.Contains(s.Schemes[:i], x) {
				return invalid("signature_schemes: expected a list of v1, v1a or both")
			}
		}
		return nil
	},
	"timeout_seconds": func(_ *manage, _ *ringback.Endpoint, s *ringback.Settings, raw json.RawMessage) (err error) {
		s.Timeout, err = duration("timeout_seconds", raw, time.Second, 30*time.Second)
		return err
	},
	"max_in_flight": func(_ *manage, _ *ringback.Endpoint, s *ringback.Settings, raw json.RawMessage) error {
		v, err := number("max_in_flight", raw, 1, 1000)
		if err == nil && v != math.Trunc(v) {
			err = invalid("max_in_flight: expected a whole number")
		}
		s.MaxInFlight = int(v)
		return err
	},
	"rate_per_second": func(_ *manage, _ *ringback.Endpoint, s *ringback.Settings, raw json.RawMessage) (err error) {
		s.Rate, err = number("rate_per_second", raw, 0.001, 10_000)
		return err
	},
	"retry_window_seconds": func(_ *manage, _ *ringback.Endpoint, s *ringback.Settings, raw json.RawMessage) (err error) {
		s.Window, err = duration("retry_window_seconds", raw, time.Minute, 7*24*time.Hour)
		return err
	},
	"retry_schedule_seconds": func(_ *manage, _ *ringback.Endpoint, s *ringback.Settings, raw json.RawMessage) error {
		s.Schedule = nil
		if raw == nil {
			return nil
		}
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil || len(list) == 0 || len(list) > 50 {
			return invalid("retry_schedule_seconds: expected a list of 1 to 50 numbers")
		}
		for i, item := range list {
			d, err := duration(fmt.Sprintf("retry_schedule_seconds[%d]", i), item, time.Second, 24*time.Hour)
			if err != nil {
				return err
			}
			s.Schedule = append(s.Schedule, d)
		}
		return nil
	},
	"headers": func(m *manage, e *ringback.Endpoint, s *ringback.Settings, raw json.RawMessage) error {
		s.Headers = nil
		if raw == nil {
			return nil
		}
		var all map[string]string
		if err := json.Unmarshal(raw, &all); err != nil {
			return invalid("headers: expected an object of strings")
		}
		if len(all) > maxHeaders {
			return invalid("headers: at most %d are allowed", maxHeaders)
		}
		seen := make(map[string]bool)
		for name, value := range all {
			if err := checkHeader(name, value); err != nil {
				return err
			}
			canonical := http.CanonicalHeaderKey(name)
			if seen[canonical] {
				return invalid("headers: %q is given twice", canonical)
			}
			seen[canonical] = true
			s.Headers = append(s.Headers, ringback.Header{Name: canonical, Sealed: m.Secrets.Seal(value, store.SealEndpoint+string(e.ID))})
		}
		slices.SortFunc(s.Headers, func(a, b ringback.Header) int { return strings.Compare(a.Name, b.Name) })
		return nil
	},
	"client_certificate": func(m *manage, e *ringback.Endpoint, s *ringback.Settings, raw json.RawMessage) error {
		s.Certificate, s.CertificateName = nil, ""
		if raw == nil {
			return nil
		}
		var pem string
		if err := json.Unmarshal(raw, &pem); err != nil {
			return invalid("client_certificate: expected PEM text")
		}
		pair, err := tls.X509KeyPair([]byte(pem), []byte(pem))
		if err != nil {
			return invalid("client_certificate: expected PEM of a certificate chain and its private key: %s", strings.TrimPrefix(err.Error(), "tls: "))
		}
		s.Certificate, s.CertificateName = m.Secrets.Seal(pem, store.SealEndpoint+string(e.ID)), pair.Leaf.Subject.String()
		return nil
	},
}

// number reads a number between two bounds; nil is 0.
func number(field string, raw json.RawMessage, low, high float64) (float64, error) {
	if raw == nil {
		return 0, nil
	}
	var v float64
	if err := json.Unmarshal(raw, &v); err != nil || string(raw) == "null" {
		return 0, invalid("%s: expected a number", field)
	}
	if v < low || v > high {
		return 0, invalid("%s: %g is not between %g and %g", field, v, low, high)
	}
	return v, nil
}

func duration(field string, raw json.RawMessage, low, high time.Duration) (time.Duration, error) {
	v, err := number(field, raw, low.Seconds(), high.Seconds())
	return time.Duration(v * float64(time.Second)), err
}

const (
	maxHeaders     = 20
	maxHeaderValue = 4 << 10
)

// ownHeaders are made by the server or by HTTP itself (RFC 9110 §7.6.1).
var ownHeaders = []string{"host", "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "expect", "http2-settings"}

// checkHeader judges an extra header (RFC 9110 §5.1 and §5.5).
func checkHeader(name, value string) error {
	lower := strings.ToLower(name)
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	}) {
		return invalid("headers: %q is not the name of a header", name)
	}
	if slices.Contains(ownHeaders, lower) || strings.HasPrefix(lower, "content-") || strings.HasPrefix(lower, "webhook-") || strings.HasPrefix(lower, "proxy-") {
		return invalid("headers: %q is set by the server", name)
	}
	if len(value) > maxHeaderValue || strings.TrimSpace(value) != value || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
		return invalid("headers: the value of %q must be at most %d bytes of visible ASCII without space around it", name, maxHeaderValue)
	}
	return nil
}
