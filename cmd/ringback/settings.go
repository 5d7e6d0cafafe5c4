package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

type webhooksSettings struct {
	named
	Scheme            []string        `placeholder:"v1,v1a" help:"Signature schemes: v1 (HMAC), v1a (Ed25519) or both."`
	Timeout           time.Duration   `placeholder:"10s" help:"How long one attempt may take, 1s to 30s."`
	MaxInFlight       int             `placeholder:"N" help:"Attempts under way at once, 1 to 1000."`
	Rate              float64         `placeholder:"N" help:"Attempts begun in a second, at most."`
	Window            time.Duration   `placeholder:"24h" help:"How long an event is tried again, 1m to 168h."`
	Schedule          []time.Duration `placeholder:"5s,30s,2m" help:"Waits after the first, second, … attempt; the last one repeats."`
	Header            []string        `sep:"none" placeholder:"'NAME: VALUE'" help:"Extra header of every attempt; repeat for each. All are replaced."`
	ClientCertificate string          `placeholder:"FILE" help:"PEM of a certificate chain and its private key, shown to the receiver."`
	Default           []string        `placeholder:"NAME" help:"Settings to reset, separated by commas: scheme, timeout, max-in-flight, rate, window, schedule, header, client-certificate."`
}

// Help shows more than the flags.
func (webhooksSettings) Help() string {
	return `  ringback webhooks settings ID                                  show them
  ringback webhooks settings ID --scheme v1,v1a --timeout 5s --rate 10
  ringback webhooks settings ID --header 'Authorization: Bearer …' --default schedule,window`
}

// fields are the API's names of the settings, by flag.
var fields = map[string]string{"scheme": "signature_schemes", "timeout": "timeout_seconds", "max-in-flight": "max_in_flight", "rate": "rate_per_second",
	"window": "retry_window_seconds", "schedule": "retry_schedule_seconds", "header": "headers", "client-certificate": "client_certificate"}

// change is what the flags ask for.
func (c *webhooksSettings) change() (map[string]any, error) {
	q := make(map[string]any)
	if c.Scheme != nil {
		q["signature_schemes"] = c.Scheme
	}
	if c.Timeout != 0 {
		q["timeout_seconds"] = c.Timeout.Seconds()
	}
	if c.MaxInFlight != 0 {
		q["max_in_flight"] = c.MaxInFlight
	}
	if c.Rate != 0 {
		q["rate_per_second"] = c.Rate
	}
	if c.Window != 0 {
		q["retry_window_seconds"] = c.Window.Seconds()
	}
	if c.Schedule != nil {
		var seconds []float64
		for _, d := range c.Schedule {
			seconds = append(seconds, d.Seconds())
		}
		q["retry_schedule_seconds"] = seconds
	}
	if c.Header != nil {
		headers := make(map[string]string)
		for _, h := range c.Header {
			name, value, ok := strings.Cut(h, ":")
			if !ok {
				return nil, fmt.Errorf("--header: %q is not NAME: VALUE", name)
			}
			headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
		q["headers"] = headers
	}
	if c.ClientCertificate != "" {
		pem, err := os.ReadFile(c.ClientCertificate)
		if err != nil {
			return nil, fmt.Errorf("--client-certificate: %w", err)
		}
		q["client_certificate"] = string(pem)
	}
	for _, name := range c.Default {
		field := fields[name]
		if field == "" {
			return nil, fmt.Errorf("--default: there is no setting %q", name)
		}
		q[field] = nil
	}
	return q, nil
}

func (c *webhooksSettings) Run(ctx context.Context, s *streams) error {
	q, err := c.change()
	if err != nil {
		return err
	}
	method, body := http.MethodGet, any(nil)
	if len(q) > 0 {
		method, body = http.MethodPatch, q
	}
	path := "webhooks/" + url.PathEscape(c.ID)
	if c.JSON {
		return c.raw(ctx, s, method, path, body)
	}
	var w struct {
		ID, URI, State string
		Settings       map[string]any
		PublicKeys     []struct {
			PublicKey  string `json:"public_key"`
			ExpireTime string `json:"expire_time"`
		} `json:"public_keys"`
		FailingSince string `json:"failing_since"`
		Failures     int
	}
	if err := c.manage(ctx, method, path, body, &w); err != nil {
		return err
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "id\t%s\naddress\t%s\nstate\t%s\n", w.ID, w.URI, w.State)
	for _, flag := range []string{"scheme", "timeout", "max-in-flight", "rate", "window", "schedule", "header", "client-certificate"} {
		v := w.Settings[fields[flag]]
		text := fmt.Sprint(v)
		switch flag {
		case "timeout", "window", "schedule":
			text += " s"
		}
		if v == nil {
			text = "the server's"
		}
		fmt.Fprintf(t, "%s\t%s\n", flag, text)
	}
	for _, k := range w.PublicKeys {
		until := ""
		if k.ExpireTime != "" {
			until = " until " + local(k.ExpireTime)
		}
		fmt.Fprintf(t, "public key\t%s%s\n", k.PublicKey, until)
	}
	if w.Failures > 0 {
		fmt.Fprintf(t, "failing\tsince %s, %d attempts\n", local(w.FailingSince), w.Failures)
	}
	return t.Flush()
}
