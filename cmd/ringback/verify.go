package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"ringback.dev/webhook"
)

type verifyCommand struct {
	Body      string        `arg:"" optional:"" default:"-" placeholder:"FILE" help:"File with the raw body as received; - or nothing for standard input."`
	Secret    []string      `env:"RINGBACK_WEBHOOK_SECRET" placeholder:"whsec_…" help:"Signing secret (v1); several during a rotation."`
	PublicKey []string      `placeholder:"whpk_…" help:"Public key of the webhook (v1a); several during a rotation."`
	JWKS      string        `name:"jwks" placeholder:"URL|FILE" help:"Key set of the server that signed (jwt, and v1a to an address of a request), such as https://HOST/.well-known/jwks.json."`
	Audience  []string      `sep:"none" placeholder:"URL" help:"Address of the receiver, which a JWT must be meant for; repeat for others."`
	Issuer    string        `placeholder:"URL" help:"Address of the server that must have issued a JWT."`
	Header    []string      `short:"H" sep:"none" placeholder:"'NAME: VALUE'" help:"A header of the request; repeat for each."`
	Headers   string        `placeholder:"FILE" help:"File with the request's headers, one per line."`
	At        string        `placeholder:"TIME" help:"The receiver's clock when it arrived, Unix seconds or RFC 3339. Default: now."`
	Tolerance time.Duration `default:"5m" help:"How far the timestamp may be from the clock."`
}

// Help shows more than the flags.
func (verifyCommand) Help() string {
	return `Exit code 0 if the message verifies, 1 if not, with the reason.

  ringback verify --secret whsec_… --headers headers.txt body.json
  ringback verify --jwks https://HOST/.well-known/jwks.json --audience https://me.example/hook --headers headers.txt body.json
  ringback verify --secret whsec_… -H 'webhook-id: msg_1' -H 'webhook-timestamp: 1790000000' -H 'webhook-signature: v1,…' < body.json

A message that was saved is old by now: --at 1790000000 sets the clock back to when it arrived.`
}

func (c *verifyCommand) Run(s *streams) error {
	if len(c.Secret) == 0 && len(c.PublicKey) == 0 && c.JWKS == "" {
		return errors.New("give what to verify with: --secret, --public-key or --jwks")
	}
	v := &webhook.Verifier{Tolerance: c.Tolerance, Audience: c.Audience, Issuer: c.Issuer}
	for _, text := range c.PublicKey {
		key, err := webhook.ParsePublicKey(text)
		if err != nil {
			return err
		}
		v.PublicKeys = append(v.PublicKeys, key)
	}
	if c.JWKS != "" {
		var err error
		if v.Keys, err = keySet(c.JWKS); err != nil {
			return err
		}
	}
	for _, text := range c.Secret {
		secret, err := webhook.ParseSecret(text)
		if err != nil {
			return err
		}
		v.Secrets = append(v.Secrets, secret)
	}
	if c.At != "" {
		at, err := parseTime(c.At)
		if err != nil {
			return err
		}
		v.Now = func() time.Time { return at }
	}
	h, err := c.headers()
	if err != nil {
		return err
	}
	body, err := c.body(s.in)
	if err != nil {
		return err
	}
	m, err := v.Verify(h, body)
	if err != nil {
		fmt.Fprintln(s.out, "NOT verified:", strings.TrimPrefix(err.Error(), "webhook: "))
		return silent(1)
	}
	kind := ""
	if e, err := webhook.ParseEvent(body); err == nil {
		kind = " " + e.Type
	}
	fmt.Fprintf(s.out, "verified by %s: %s%s, attempted %s, %d bytes\n", m.Scheme, m.ID, kind, m.Timestamp.UTC().Format(time.RFC3339), len(body))
	return nil
}

// keySet is the set at an address or in a file.
func keySet(from string) (*webhook.KeySet, error) {
	if strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://") {
		return webhook.NewKeySet(from), nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return nil, fmt.Errorf("--jwks: %w", err)
	}
	return webhook.ParseKeySet(data)
}

func parseTime(text string) (time.Time, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(n, 0), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("--at: %q is neither Unix seconds nor RFC 3339", text)
	}
	return t, nil
}

func (c *verifyCommand) headers() (http.Header, error) {
	lines := c.Header
	if c.Headers != "" {
		f, err := os.Open(c.Headers)
		if err != nil {
			return nil, fmt.Errorf("--headers: %w", err)
		}
		defer f.Close()
		for scan := bufio.NewScanner(f); scan.Scan(); {
			lines = append(lines, scan.Text())
		}
	}
	h := make(http.Header)
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			continue // A request line, or the blank line after the headers.
		}
		h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return h, nil
}

func (c *verifyCommand) body(in io.Reader) ([]byte, error) {
	if c.Body == "-" {
		return io.ReadAll(in)
	}
	return os.ReadFile(c.Body)
}
