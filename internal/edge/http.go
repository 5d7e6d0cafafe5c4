package edge

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"ringback.dev/internal/egress"
	"ringback.dev/webhook"
)

// answerLimit is how much is read of an answer that is only looked at.
const answerLimit = 16 << 10

// forward is an http action.
type forward struct {
	url     *url.URL
	signers []webhook.Signer
	headers []header
	client  *outside
}

// header is a further header: a template, or a secret value.
type header struct {
	name   string
	text   *template
	secret string
}

func (k *kit) http(key string, c *HTTP) doer {
	f := &forward{client: k.other(k.setup, key, c.Egress, k.common)}
	k.address(key+".url", c.URL, f.client)
	f.url, _ = url.Parse(c.URL) // Checked by address.
	k.secrets(key+".secret", c.SecretEnv, c.SecretFile, func(text string) error {
		if strings.HasPrefix(text, "whsk_") {
			signer, err := webhook.ParseSigningKey(text)
			f.signers = append(f.signers, signer)
			return err
		}
		signer, err := webhook.ParseSecret(text)
		f.signers = append(f.signers, signer)
		return err
	})
	switch {
	case len(c.SecretEnv)+len(c.SecretFile) == 0 && !c.Unsigned:
		k.at(key, "the next hop has no secret to verify with; give secret_env or secret_file, or set unsigned: true")
	case len(c.SecretEnv)+len(c.SecretFile) > 0 && c.Unsigned:
		k.at(key+".unsigned", "there is a secret to sign with; remove one of them")
	}
	add := func(key string, h header) {
		k.headerName(key, h.name)
		if slices.ContainsFunc(f.headers, func(o header) bool { return strings.EqualFold(o.name, h.name) }) {
			k.at(key, "the header is set twice; keep one of them")
		}
		f.headers = append(f.headers, h)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		key := key + ".headers." + name
		text := k.text(key, c.Headers[name])
		for _, p := range text.parts {
			k.header(key, p.text)
		}
		add(key, header{name: name, text: text})
	}
	for _, name := range slices.Sorted(maps.Keys(c.HeadersEnv)) {
		key := key + ".headers_env." + name
		secret := k.variable(key, c.HeadersEnv[name], "")
		k.header(key, secret)
		add(key, header{name: name, secret: secret})
	}
	return f
}

// headerName refuses names of headers that are not the file's to set.
func (k *kit) headerName(key, name string) {
	own := []string{"Host", "Content-Length", "Content-Type", "Transfer-Encoding", "Connection", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"}
	switch valid := strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-_") == "" && name != ""; {
	case !valid:
		k.at(key, "%q is not the name of a header", name)
	case slices.Contains(own, http.CanonicalHeaderKey(name)):
		k.at(key, "%s is set by the edge itself", name)
	}
}

func (f *forward) String() string {
	how := "unsigned"
	if len(f.signers) > 0 {
		how = "signed"
	}
	return "forward to " + f.url.Host + ", " + how
}

func (f *forward) do(ctx context.Context, t *task) result {
	now := time.Now()
	h := http.Header{
		"Content-Type":      {"application/json"},
		"User-Agent":        {"ringback-edge"},
		"Webhook-Id":        {t.ID},
		"Webhook-Timestamp": {strconv.FormatInt(now.Unix(), 10)},
	}
	if len(f.signers) > 0 {
		h["Webhook-Signature"] = []string{webhook.Sign(t.ID, now, t.Body, f.signers...)}
	}
	for _, x := range f.headers {
		value := x.secret
		if x.text != nil {
			var err error
			if value, err = x.text.render(t.Event, headerValue); err != nil {
				return unfit(fmt.Errorf("headers.%s: %w", x.name, err))
			}
		}
		h[http.CanonicalHeaderKey(x.name)] = []string{value}
	}
	resp, err := f.client.send(ctx, http.MethodPost, f.url, h, t.Body)
	if err != nil {
		return unreached(err, f.client.key)
	}
	answer, err := egress.ReadBounded(resp, answerLimit)
	if resp.StatusCode/100 == 2 {
		return success("answered %d", resp.StatusCode)
	}
	if err != nil {
		answer = nil // What there is of it says less than the status.
	}
	// After Standard Webhooks only 410 says to stop.
	return status(resp, answer, now, http.StatusGone)
}

// headerValue leaves out what would end a header.
func headerValue(text string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// send makes a request, asking the transport directly: a client's redirects and
// cookies are not wanted.
func (c *outside) send(ctx context.Context, method string, to *url.URL, h http.Header, body []byte) (*http.Response, error) {
	req := (&http.Request{Method: method, URL: to, Host: to.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: h}).WithContext(ctx)
	if len(body) > 0 {
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	return c.Transport.RoundTrip(req)
}
