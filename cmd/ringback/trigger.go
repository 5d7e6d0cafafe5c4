package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"ringback.dev"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/jsjson"
	"ringback.dev/internal/post"
	"ringback.dev/webhook"
)

type triggerCommand struct {
	signing
	Type    string        `arg:"" optional:"" help:"Type of the event, such as batch.succeeded."`
	List    bool          `short:"l" help:"List the types with an example of each."`
	Set     []string      `sep:"none" placeholder:"PATH=VALUE" help:"Set a member of the event: data.id=batches/123, user_metadata.team=\"a\". The value is JSON, or else a text; repeat for each."`
	To      string        `placeholder:"URL" help:"Send it to this address, instead of having a development server send it to its webhooks."`
	ID      string        `name:"id" placeholder:"ID" help:"The webhook-id, with --to; a new one if none is given. The same one twice is a double."`
	Print   bool          `help:"Print the headers and the body that are sent, with --to; else the body."`
	Timeout time.Duration `default:"15s" help:"How long to wait for the receiver."`
	Server  string        `default:"http://127.0.0.1:8080" env:"RINGBACK_SERVER,GOOGLE_GEMINI_BASE_URL" placeholder:"URL" help:"Base address of the development server."`
	APIKey  string        `name:"api-key" default:"any" env:"RINGBACK_API_KEY,GEMINI_API_KEY" placeholder:"KEY" help:"API key; a development server takes any."`
}

// Help shows more than the flags.
func (triggerCommand) Help() string {
	return `An event of any type, now, with the body that the server would send. A development server stores it, signs it with each webhook's own secret, sends it,
retries it and logs it like any other; listen hears it too. With --to it goes straight to an address, signed with --secret, and no server is needed.

  ringback trigger --list
  ringback trigger batch.succeeded
  ringback trigger interaction.failed --set data.error_code=rate_limit_exceeded
  ringback trigger video.generated --to http://localhost:3000/hook
  ringback trigger batch.failed --to URL --secret whsec_… --id msg_same      twice: a double`
}

// when each event is sent, for --list.
var whenSent = map[ringback.EventType]string{
	ringback.BatchSucceeded:            "a batch has ended; rows may have failed",
	ringback.BatchFailed:               "a batch could not be run",
	ringback.BatchExpired:              "a batch was not done in time",
	ringback.BatchCancelled:            "a batch was cancelled",
	ringback.InteractionRequiresAction: "a function must be called",
	ringback.InteractionCompleted:      "an interaction has ended",
	ringback.InteractionFailed:         "an interaction failed",
	ringback.InteractionCancelled:      "an interaction was cancelled",
	ringback.VideoGenerated:            "a video is there",
	ringback.InteractionIncomplete:     "its answer was cut at a limit (ringback's own)",
	ringback.VideoFailed:               "a video came to nothing (ringback's own)",
	ringback.JobStalled:                "a job does not move (ringback's own)",
	ringback.WebhookDisabled:           "another webhook was disabled (ringback's own)",
	ringback.Ping:                      "you asked for it",
}

func (c *triggerCommand) Run(ctx context.Context, s *streams) error {
	if c.List {
		return c.list(s)
	}
	if c.Type == "" {
		return errors.New("which event? ringback trigger --list shows them")
	}
	now := time.Now()
	body, err := c.body(now)
	if err != nil {
		return err
	}
	if c.To == "" {
		return c.ask(ctx, s, body)
	}
	if err := post.Check(c.To); err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	if c.ID == "" {
		c.ID = string(ringback.NewID("msg", now))
	}
	if strings.ContainsFunc(c.ID, func(r rune) bool { return r <= ' ' || r > '~' || r == '.' }) {
		return fmt.Errorf("--id: %q has a character that is not allowed: letters, digits, - and _ are good", c.ID)
	}
	with, own, err := c.signers()
	if err != nil {
		return err
	}
	r := (&post.Sender{Signers: with, Timeout: c.Timeout}).Send(ctx, c.To, c.ID, body)
	return c.told(s, &r, body, own)
}

// body is the event that is sent.
func (c *triggerCommand) body(now time.Time) ([]byte, error) {
	t := ringback.EventType(c.Type)
	if t != ringback.Ping {
		var err error
		if t, err = ringback.ParseEventType(c.Type); err != nil {
			return nil, err
		}
	}
	c.Type = string(t)
	body, err := emit.Sample(t, now, strings.TrimRight(c.Server, "/"))
	if err != nil {
		return nil, err
	}
	return edit("--set", body, c.Set)
}

// edit sets members of an event as a flag's values of the form path=value say.
func edit(flag string, body []byte, changes []string) ([]byte, error) {
	for _, text := range changes {
		path, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("%s: %q is not PATH=VALUE, such as data.id=batches/123", flag, text)
		}
		raw := []byte(value)
		if !json.Valid(raw) {
			raw = jsjson.AppendString(nil, value)
		}
		var err error
		if body, err = jsjson.Set(body, path, raw); err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
	}
	return body, nil
}

func (c *triggerCommand) list(s *streams) error {
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TYPE\tWHEN\tDATA")
	for _, kind := range append(ringback.EventTypes(), ringback.Ping) {
		body, err := emit.Sample(kind, time.Now(), "")
		if err != nil {
			return err
		}
		e, err := webhook.ParseEvent(body)
		if err != nil {
			return err
		}
		names, err := members(e.Data)
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", kind, whenSent[kind], strings.Join(names, " "))
	}
	return t.Flush()
}

// members are the names in a JSON object, in their order.
func members(object []byte) (names []string, err error) {
	d := json.NewDecoder(strings.NewReader(string(object)))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		names = append(names, fmt.Sprint(t))
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// told prints what became of a message; one that was not accepted is a failure.
func (c *triggerCommand) told(s *streams, r *post.Result, body []byte, own *webhook.Secret) error {
	p := newPaint(s.out)
	fmt.Fprintf(p.w, "%s  %s  %s\n", p.outcome(r), c.Type, p.dim(c.ID))
	if c.Print {
		printMessage(p, r.Header, body)
	}
	p.remark(r.Why(), r)
	if r.OK() {
		return nil
	}
	if own != nil && (r.Status == http.StatusUnauthorized || r.Status == http.StatusForbidden || r.Status == http.StatusBadRequest) {
		fmt.Fprintf(p.w, "          %s\n", p.dim("signed with this machine's development secret, "+own.Reveal()+": does the receiver verify with it? If not, give --secret"))
	}
	return silent(1)
}

// printMessage prints what was sent, the headers of Standard Webhooks first.
func printMessage(p paint, h http.Header, body []byte) {
	for _, name := range []string{webhook.HeaderID, webhook.HeaderTimestamp, webhook.HeaderSignature, "content-type"} {
		fmt.Fprintf(p.w, "          %s %s\n", p.dim(fmt.Sprintf("%-18s", name+":")), h.Get(name))
	}
	fmt.Fprintf(p.w, "          %s\n", body)
}

// ask has a development server make the event happen, and tells what came of the
// first attempts.
func (c *triggerCommand) ask(ctx context.Context, s *streams, body []byte) error {
	if c.ID != "" || c.given() {
		return errors.New("--id and --secret need --to: without it the server gives the webhook-id and signs with each webhook's own secret")
	}
	server := client{Server: c.Server, APIKey: c.APIKey}
	var e eventAnswer
	if err := server.manage(ctx, http.MethodPost, "events:trigger", map[string]any{"type": c.Type, "body": json.RawMessage(body)}, &e); err != nil {
		return err
	}
	p := newPaint(s.out)
	fmt.Fprintf(p.w, "%s  %s  to %s\n", p.bold(e.Type), p.dim(e.ID), plural(len(e.Deliveries), "webhook"))
	if c.Print {
		fmt.Fprintf(p.w, "          %s\n", e.Body)
	}
	if len(e.Deliveries) == 0 {
		fmt.Fprintln(p.w, "no webhook is subscribed to it; it is in the feed, where ringback listen hears it")
		return nil
	}
	bad, err := c.follow(ctx, &server, p, &e)
	if err == nil && bad {
		err = silent(1)
	}
	return err
}

// follow waits for the first attempt of each delivery and prints it.
func (c *triggerCommand) follow(ctx context.Context, server *client, p paint, e *eventAnswer) (bad bool, err error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(ctx, c.Timeout+time.Second)
	defer cancel()
	for _, d := range e.Deliveries {
		for d.Attempts == 0 && d.State == "pending" {
			if err := server.manage(ctx, http.MethodGet, "deliveries/"+url.PathEscape(d.ID), nil, &d); err != nil && ctx.Err() == nil {
				return false, err
			}
			if ctx.Err() != nil {
				break
			}
			if d.Attempts > 0 || d.State != "pending" {
				continue
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		if err := server.manage(context.WithoutCancel(ctx), http.MethodGet, "deliveries/"+url.PathEscape(d.ID), nil, &d); err != nil {
			return false, err
		}
		var r post.Result
		note := d.Reason
		if n := len(d.AttemptsLog); n > 0 {
			a := d.AttemptsLog[n-1]
			r.Status, r.Took = a.Status, time.Duration(a.Timing.Total*float64(time.Millisecond))
			if a.Error != "" {
				note = a.Error
			}
		} else {
			note = "no attempt yet"
		}
		if r.OK() {
			note = ""
		} else {
			bad = true
			if d.State == "pending" && d.NextAttempt != "" {
				note += "; next attempt " + local(d.NextAttempt)
			}
		}
		to := d.Webhook
		if d.URI != "" {
			to = d.URI
		}
		fmt.Fprintf(p.w, "%s  %s  %s\n", p.outcome(&r), p.dim(d.ID), to)
		p.remark(note, &r)
	}
	return bad, nil
}
