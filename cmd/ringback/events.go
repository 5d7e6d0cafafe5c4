package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"
)

type eventsCommand struct {
	List eventsList `cmd:"" help:"List events, oldest first, or follow them as they happen."`
	Get  eventsGet  `cmd:"" help:"Show one event with its deliveries."`
}

// eventAnswer is what is read of an event.
type eventAnswer struct {
	ID           string `json:"id"`
	Type         string `json:"type"`
	Job          string `json:"job"`
	Created      string `json:"created"`
	Body         string `json:"body"`
	NotDelivered []struct {
		Reason    string   `json:"reason"`
		Endpoints []string `json:"endpoints"`
		Count     int      `json:"count"`
	} `json:"not_delivered"`
	Deliveries []deliveryAnswer `json:"deliveries"`
}

type eventsList struct {
	client
	Types  []string `placeholder:"TYPE" help:"Only events of these types, separated by commas."`
	Job    string   `placeholder:"ID" help:"Only events of this job."`
	After  string   `placeholder:"CURSOR" help:"Go on after this cursor; start: from the first event, now: only what happens from now on."`
	From   string   `placeholder:"TIME" help:"Only events since then: a time, a date, or an age such as 24h."`
	Limit  int      `placeholder:"N" help:"At most so many."`
	Follow bool     `short:"f" help:"Show events as they happen, until interrupted."`
}

// Help shows more than the flags.
func (eventsList) Help() string {
	return `  ringback events list --types interaction.failed --limit 20
  ringback events list --follow                     from now on; goes on by itself after a broken connection
  ringback events list --job v1_… --json`
}

func (c *eventsList) Run(ctx context.Context, s *streams) error {
	q := url.Values{}
	set(q, "types", strings.Join(c.Types, ","))
	set(q, "after", c.After)
	from, err := when("from", c.From, time.Now())
	if err != nil {
		return err
	}
	set(q, "from", from)
	if c.Follow {
		if from != "" && c.After == "" {
			q.Set("after", "start")
		}
		if c.Job != "" || c.Limit > 0 {
			return errors.New("--follow can't be combined with --job or --limit")
		}
		return c.subscribe(ctx, s, q, subscription{event: func(_, data string, e eventAnswer) error { return c.print(s, data, e) }})
	}
	set(q, "job", c.Job)
	all, err := pages[json.RawMessage](ctx, &c.client, "events", q, "after", "events", c.Limit)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s, map[string]any{"events": all})
	}
	if len(all) == 0 {
		fmt.Fprintln(s.out, "no events")
		return nil
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TIME\tTYPE\tJOB\tEVENT")
	for _, raw := range all {
		var e eventAnswer
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("the answer can't be read: %w", err)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", local(e.Created), e.Type, e.Job, e.ID)
	}
	return t.Flush()
}

func (c *eventsList) print(s *streams, data string, e eventAnswer) error {
	if c.JSON {
		_, err := fmt.Fprintln(s.out, data)
		return err
	}
	_, err := fmt.Fprintf(s.out, "%s  %-28s  %s  %s\n", local(e.Created), e.Type, e.Job, e.ID)
	return err
}

// newLines reads lines of any length that an event may have.
func newLines(r io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 8<<20)
	return lines
}

type eventsGet struct {
	client
	ID   string `arg:"" help:"The event's id."`
	Body bool   `help:"Print nothing but the exact body that is signed and sent."`
}

func (c *eventsGet) Run(ctx context.Context, s *streams) error {
	path := "events/" + url.PathEscape(c.ID)
	if c.JSON && !c.Body {
		return c.raw(ctx, s, http.MethodGet, path, nil)
	}
	var e eventAnswer
	if err := c.manage(ctx, http.MethodGet, path, nil, &e); err != nil {
		return err
	}
	if c.Body {
		_, err := io.WriteString(s.out, e.Body)
		return err
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "id\t%s\ntype\t%s\njob\t%s\ncreated\t%s\nbody\t%s\n", e.ID, e.Type, e.Job, local(e.Created), e.Body)
	for _, n := range e.NotDelivered {
		fmt.Fprintf(t, "not to\t%d webhooks: %s (%s)\n", n.Count, n.Reason, strings.Join(n.Endpoints, ", "))
	}
	if err := t.Flush(); err != nil || len(e.Deliveries) == 0 {
		return err
	}
	fmt.Fprintln(s.out)
	return printDeliveries(s, e.Deliveries)
}
