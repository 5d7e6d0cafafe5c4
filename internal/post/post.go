// Package post sends single signed messages to receivers, for the tools of the
// developer loop, and tells what came back. It retries nothing and keeps nothing:
// the server's own sending is package deliver.
package post

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ringback.dev/webhook"
)

// answerLimit is how much of a receiver's answer is kept.
const answerLimit = 16 << 10

// Sender sends messages. It may be used by any number of goroutines. The zero
// value signs nothing.
type Sender struct {
	// Signers sign each message, the newest first.
	Signers []webhook.Signer
	// Timeout bounds one message, zero means 15 s, as the server has it.
	Timeout time.Duration
	// Transport reaches the receiver; nil means http.DefaultTransport.
	Transport http.RoundTripper
}

// Result is what came of one message.
type Result struct {
	// Header is what was sent, with names in the canonical form.
	Header http.Header
	At     time.Time
	Took   time.Duration
	// Status is that of the answer, 0 if there was none; Answer is its beginning.
	Status int
	Answer []byte
	// Err says why there is no answer.
	Err error
}

// OK reports whether the receiver has accepted the message.
func (r *Result) OK() bool { return r.Status >= 200 && r.Status < 300 }

// Unreached reports whether nobody was there to send the message to.
func (r *Result) Unreached() bool {
	var name *net.DNSError
	return errors.Is(r.Err, syscall.ECONNREFUSED) || errors.As(r.Err, &name)
}

// Why says in a few words what is wrong; empty if the message was accepted.
func (r *Result) Why() string {
	var name *net.DNSError
	var timeout net.Error
	switch {
	case r.OK():
		return ""
	case errors.Is(r.Err, context.DeadlineExceeded), errors.As(r.Err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.Is(r.Err, syscall.ECONNREFUSED):
		return "nobody listens there"
	case errors.Is(r.Err, syscall.ECONNRESET), errors.Is(r.Err, io.EOF), errors.Is(r.Err, io.ErrUnexpectedEOF):
		return "the connection was closed without an answer"
	case errors.As(r.Err, &name):
		return "there is no host " + name.Name
	case r.Err != nil:
		return r.Err.Error()
	case r.Status >= 300 && r.Status < 400:
		return "redirects are not followed"
	}
	return http.StatusText(r.Status)
}

// Check finds what is wrong with the address of a receiver.
func Check(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return fmt.Errorf("%q is not the address of a receiver, such as http://localhost:3000/hook", address)
	}
	return nil
}

// Send signs a message as of now and posts it.
func (s *Sender) Send(ctx context.Context, address, id string, body []byte) Result {
	return s.SendWith(ctx, address, id, body, nil)
}

// SendWith is Send with more headers, which do not replace those of the message.
func (s *Sender) SendWith(ctx context.Context, address, id string, body []byte, more http.Header) Result {
	now := time.Now()
	h := more.Clone()
	if h == nil {
		h = make(http.Header)
	}
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	h.Set(webhook.HeaderID, id)
	h.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Del(webhook.HeaderSignature)
	if len(s.Signers) > 0 {
		h.Set(webhook.HeaderSignature, webhook.Sign(id, now, body, s.Signers...))
	}
	return s.SendAs(ctx, address, h, body)
}

// SendAs posts exactly these headers and bytes.
func (s *Sender) SendAs(ctx context.Context, address string, h http.Header, body []byte) Result {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = 15 * time.Second
	}
	within, cancel := context.WithTimeoutCause(ctx, timeout, context.DeadlineExceeded)
	defer cancel()
	if h.Get("User-Agent") == "" {
		h = h.Clone()
		h.Set("User-Agent", "ringback")
	}
	r := Result{Header: h, At: time.Now()}
	req, err := http.NewRequestWithContext(within, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		r.Err = err
		return r
	}
	req.Header = h
	client := &http.Client{Transport: s.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err == nil {
		defer resp.Body.Close()
		r.Status = resp.StatusCode
		r.Answer, err = io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	}
	r.Took = time.Since(r.At)
	if r.Status == 0 { // An answer that broke off is an answer.
		var asURL *url.Error
		if errors.As(err, &asURL) {
			err = asURL.Err
		}
		r.Err = err
	}
	return r
}

// ParseSigner reads a signing secret ("whsec_…") or a private signing key
// ("whsk_…").
func ParseSigner(text string) (webhook.Signer, error) {
	if strings.HasPrefix(text, "whsk_") {
		return webhook.ParseSigningKey(text)
	}
	return webhook.ParseSecret(text)
}
