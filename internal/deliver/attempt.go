package deliver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ringback.dev"
	"ringback.dev/internal/crash"
	"ringback.dev/internal/egress"
	"ringback.dev/internal/store"
	"ringback.dev/webhook"
)

// reason classifies in one word what came of an attempt. The list is closed: it
// labels metrics.
type reason string

const (
	accepted   reason = "accepted"   // 2xx
	gone       reason = "gone"       // 410: the receiver wants no more.
	redirected reason = "redirected" // 3xx: never followed.
	throttled  reason = "throttled"  // 429
	refusedBy  reason = "refused"    // other 4xx
	broken     reason = "broken"     // 5xx
	odd        reason = "odd_status" // anything else
	timedOut   reason = "timed_out"  // no complete answer in time
	noName     reason = "no_name"    // the host name can't be resolved
	noConnect  reason = "no_connect" // connection refused, reset or unreachable
	noTLS      reason = "no_tls"     // the certificate or handshake failed
	blocked    reason = "blocked"    // the address is not one we send to
	unsigned   reason = "unsigned"   // no usable signing secret
	deleted    reason = "deleted"    // the endpoint was deleted
	withheld   reason = "withheld"   // not sent now; never recorded
	failed     reason = "failed"     // any other error of the transport
)

// result is what an attempt met.
type result struct {
	reason  reason
	status  int
	wait    time.Duration // The receiver's Retry-After, 0 if none.
	answer  []byte
	err     string
	started time.Time
	unsent  bool // Judged without a request.

	dns, connect, tls, firstByte, total time.Duration
}

// retryable reports whether the result may be due to our own stop.
func (r *result) retryable() bool { return r.status == 0 && r.reason != deleted }

// answerLimit is how much of a receiver's answer is kept.
const answerLimit = 16 << 10

// attempt signs and posts a delivery once.
func (d *Dispatcher) attempt(ctx context.Context, c *store.ClaimedDelivery) (r result) {
	r.started = d.Now()
	raw := c.URI
	if c.Endpoint != "" {
		if c.To == nil {
			r.reason, r.err = deleted, "the webhook was deleted"
			return r
		}
		raw = c.To.URI
	}
	target, err := url.Parse(raw)
	if err != nil || (d.RequireHTTPS && target.Scheme != "https") {
		r.reason, r.err = blocked, "the address is not an https URL (see --allow-http-callbacks)"
		return r
	}
	header, transport, err := d.prepare(c)
	if err != nil {
		r.reason, r.err = unsigned, err.Error()
		return r
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.timeout(c), context.DeadlineExceeded)
	defer cancel()
	begin := time.Now()
	var t trace
	req := (&http.Request{
		Method: http.MethodPost, URL: target, Host: target.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        header,
		ContentLength: int64(len(c.Body)),
		Body:          body{bytes.NewReader(c.Body)},
	}).WithContext(httptrace.WithClientTrace(ctx, t.hooks()))
	resp, err := transport.RoundTrip(req)
	if err == nil {
		r.status = resp.StatusCode
		r.wait = retryAfter(resp.Header.Get("Retry-After"), d.Stamp())
		r.answer, err = egress.ReadBounded(resp, answerLimit)
	}
	crash.At(crash.RequestSent)
	r.total = time.Since(begin)
	t.fill(&r, begin)
	r.reason, r.err = judge(r.status, err)
	return r
}

// prepare makes the headers of an attempt, the signature among them, and finds
// the transport that it goes through.
func (d *Dispatcher) prepare(c *store.ClaimedDelivery) (http.Header, http.RoundTripper, error) {
	at := d.Stamp()
	var signature string
	var err error
	transport := d.Transport
	header := http.Header{
		"Content-Type":      {"application/json"},
		"User-Agent":        {"ringback"},
		"Webhook-Id":        {string(c.ID)},
		"Webhook-Timestamp": {strconv.FormatInt(at.Unix(), 10)},
	}
	if c.Endpoint == "" {
		signature, err = d.signDynamic(c, at)
	} else {
		var o *opened
		if o, err = d.unsealed(c.To); err == nil {
			signature, err = o.sign(c, d.Now(), at)
			for i, h := range c.To.Settings.Headers {
				header[http.CanonicalHeaderKey(h.Name)] = []string{o.headers[i]}
			}
			if o.transport != nil {
				transport = o.transport
			}
		}
	}
	header["Webhook-Signature"] = []string{signature}
	return header, transport, err
}

// signDynamic signs what goes to a per-request address, with the server's own key.
func (d *Dispatcher) signDynamic(c *store.ClaimedDelivery, at time.Time) (string, error) {
	if d.Tokens == nil {
		return "", errors.New("the server has no signing keys")
	}
	audience := []string{c.URI}
	p, err := d.Store.Project(d.sending, c.Project)
	if err != nil {
		return "", err
	}
	if p.Audience != "" {
		audience = append(audience, p.Audience)
	}
	return d.Tokens.Sign(c.Scheme, string(c.ID), at, c.Body, audience)
}

// opened is what was sealed of an endpoint, as it was when it was opened.
type opened struct {
	of        *ringback.Endpoint
	signers   []webhook.Signer // Those of its Secrets, in their order.
	headers   []string         // Those of its Settings.Headers, in their order.
	transport http.RoundTripper
}

// sign makes the signature header, dated at: one token for each secret of the
// endpoint's schemes that lives now, newest first.
func (o *opened) sign(c *store.ClaimedDelivery, now, at time.Time) (string, error) {
	live := make([]webhook.Signer, 0, 4)
	schemes := c.To.Schemes()
	for i := range o.of.Secrets {
		s := &o.of.Secrets[i]
		scheme := s.Scheme
		if scheme == "" {
			scheme = ringback.V1
		}
		if s.Live(now) && slices.Contains(schemes, scheme) {
			live = append(live, o.signers[i])
		}
	}
	if len(live) == 0 {
		return "", errors.New("the webhook has no live signing secret; rotate it")
	}
	return webhook.Sign(string(c.ID), at, c.Body, live...), nil
}

// Certifier is a transport that can show client certificates.
type Certifier interface {
	// With returns a transport that shows the certificate and shares no connection
	// with others.
	With(*tls.Certificate) http.RoundTripper
}

// unsealed unseals all that is sealed of an endpoint. It is kept in memory until the
// endpoint changes, which gives it another pointer.
func (d *Dispatcher) unsealed(e *ringback.Endpoint) (*opened, error) {
	d.secretsMu.Lock()
	known := d.opened[e.ID]
	d.secretsMu.Unlock()
	if known != nil && known.of == e {
		return known, nil
	}
	o := &opened{of: e}
	unseal := func(sealed []byte, what string) (string, error) {
		plain, err := d.Secrets.Unseal(sealed, store.SealEndpoint+string(e.ID))
		if err != nil {
			return "", fmt.Errorf("open the webhook's %s: %w", what, err)
		}
		return string(plain), nil
	}
	for _, s := range e.Secrets {
		plain, err := unseal(s.Sealed, "signing secret")
		if err != nil {
			return nil, err
		}
		var signer webhook.Signer
		if s.Scheme == ringback.V1a {
			signer, err = webhook.ParseSigningKey(plain)
		} else {
			signer, err = webhook.ParseSecret(plain)
		}
		if err != nil {
			return nil, fmt.Errorf("read the webhook's signing secret: %w", err)
		}
		o.signers = append(o.signers, signer)
	}
	for _, h := range e.Settings.Headers {
		value, err := unseal(h.Sealed, "header "+h.Name)
		if err != nil {
			return nil, err
		}
		o.headers = append(o.headers, value)
	}
	if e.Settings.Certificate != nil {
		text, err := unseal(e.Settings.Certificate, "client certificate")
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair([]byte(text), []byte(text))
		if err != nil {
			return nil, fmt.Errorf("read the webhook's client certificate: %w", err)
		}
		certifier, ok := d.Transport.(Certifier)
		if !ok {
			return nil, errors.New("client certificates are not possible with this transport")
		}
		o.transport = certifier.With(&pair)
	}
	d.secretsMu.Lock()
	d.opened[e.ID] = o
	d.secretsMu.Unlock()
	return o, nil
}

// judge turns an answer or the lack of one into a reason. The text never holds
// the address, which may carry a receiver's secret in its path or query.
func judge(status int, err error) (reason, string) {
	if status != 0 {
		switch {
		case status >= 200 && status < 300:
			// The receiver has accepted, even if its answer's body broke off.
			return accepted, ""
		case status == http.StatusGone:
			return gone, "the receiver answered 410 Gone"
		case status >= 300 && status < 400:
			return redirected, fmt.Sprintf("the receiver answered %d; redirects are not followed", status)
		case status == http.StatusTooManyRequests:
			return throttled, "the receiver answered 429 Too Many Requests"
		case status >= 400 && status < 500:
			return refusedBy, fmt.Sprintf("the receiver answered %d", status)
		case status >= 500 && status < 600:
			return broken, fmt.Sprintf("the receiver answered %d", status)
		}
		return odd, fmt.Sprintf("the receiver answered %d", status)
	}
	var (
		dns      *net.DNSError
		cert     *tls.CertificateVerificationError
		record   tls.RecordHeaderError
		alert    tls.AlertError
		asURL    *url.Error
		netError net.Error
	)
	text := err.Error()
	if errors.As(err, &asURL) {
		text = asURL.Err.Error()
	}
	switch {
	case errors.Is(err, egress.ErrBlocked):
		return blocked, "the address is private or otherwise not allowed (see --allow-private-callbacks)"
	case errors.As(err, &netError) && netError.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return timedOut, "no complete answer in time"
	case errors.As(err, &dns):
		return noName, "the host name can't be resolved"
	case errors.As(err, &cert), errors.As(err, &record), errors.As(err, &alert):
		return noTLS, text
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return noConnect, text
	}
	return failed, text
}

// retryAfter reads a Retry-After header (RFC 9110 §10.2.3): seconds or a date.
// What can't be read, lies in the past or is longer than a day counts as none,
// or as a day.
func retryAfter(header string, now time.Time) time.Duration {
	header = strings.TrimSpace(header)
	if header == "" {
		return 0
	}
	var wait time.Duration
	if seconds, err := strconv.ParseUint(header, 10, 32); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(header); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), 24*time.Hour)
}

// body is a reader that the transport need not wrap.
type body struct{ *bytes.Reader }

func (body) Close() error { return nil }
