package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"ringback.dev/inbox"
	"ringback.dev/internal/app"
)

type edgeInboxCommand struct {
	List  edgeInboxList  `cmd:"" help:"List events and their actions, newest first."`
	Show  edgeInboxShow  `cmd:"" help:"Show one event with its body, its actions and every attempt that failed."`
	Retry edgeInboxRetry `cmd:"" help:"Try again what is dead, and now what waits for another attempt."`
	Purge edgeInboxPurge `cmd:"" help:"Remove for good. Ids stay known, so that doubles are dropped."`
}

// edgeInbox is what all of its commands take.
type edgeInbox struct {
	Config string `env:"RINGBACK_EDGE_CONFIG" default:"edge.yaml" placeholder:"FILE" help:"The edge's configuration, which says where the inbox is."`
	Data   string `env:"RINGBACK_EDGE_DATA" placeholder:"DIR" help:"The edge's data folder, instead of the configuration."`
}

func (c *edgeInbox) open(ctx context.Context, s *streams) (app.InboxDesk, error) {
	desk, err := app.EdgeInbox(ctx, c.Config, c.Data)
	if err != nil {
		return nil, located(s, c.Config, err)
	}
	return desk, nil
}

// entryFilter are the flags that select entries.
type entryFilter struct {
	State  string `enum:",pending,done,dead" default:"" placeholder:"STATE" help:"pending, done or dead."`
	Source string `placeholder:"NAME" help:"Only events of this source."`
	Action string `placeholder:"ROUTE/ACTION" help:"Only this action."`
	Type   string `placeholder:"TYPE" help:"Only events of this type, and their actions."`
	From   string `placeholder:"TIME" help:"Only what came since then: a time, a date, or an age such as 24h."`
	To     string `placeholder:"TIME" help:"Only what came before then."`
}

func (f *entryFilter) filter(now time.Time) (inbox.Filter, error) {
	q := inbox.Filter{State: inbox.State(f.State), Source: f.Source, Type: f.Type}
	switch {
	case f.Action != "" && f.Source != "":
		return q, errors.New("--source and --action exclude each other")
	case f.Action != "" && !strings.Contains(f.Action, "/"):
		return q, fmt.Errorf("--action: %q is not ROUTE/ACTION", f.Action)
	case strings.Contains(f.Source, "/"):
		return q, fmt.Errorf("--source: %q is an action; use --action", f.Source)
	case f.Action != "":
		q.Source = f.Action
	}
	for _, x := range []struct {
		flag, text string
		to         *time.Time
	}{{"from", f.From, &q.From}, {"to", f.To, &q.Before}} {
		text, err := when(x.flag, x.text, now)
		if err != nil {
			return q, err
		}
		if text != "" {
			if *x.to, err = time.Parse(time.RFC3339, text); err != nil {
				return q, err
			}
		}
	}
	return q, nil
}

// shown is an entry as it is printed.
type shown struct {
	Event    string    `json:"event"`            // SOURCE/ID
	Action   string    `json:"action,omitempty"` // Empty of the event itself.
	Type     string    `json:"type"`
	Scheme   string    `json:"scheme"`
	State    string    `json:"state"`
	Attempts int       `json:"attempts"`
	Received time.Time `json:"received"`
	Due      *string   `json:"due,omitempty"`
	Ended    *string   `json:"ended,omitempty"`
	Working  bool      `json:"working,omitempty"`
	Error    string    `json:"error,omitempty"`
	Failures []failure `json:"failures,omitempty"`
}

type failure struct {
	Number  int       `json:"number"`
	Started time.Time `json:"started"`
	Millis  float64   `json:"milliseconds"`
	Error   string    `json:"error"`
}

func show(e *inbox.Entry) shown {
	x := shown{Event: e.Source + "/" + e.ID, Type: e.Type, Scheme: e.Scheme, State: string(e.State), Attempts: e.Attempts, Received: e.Received, Working: e.Working, Error: e.LastError}
	if strings.Contains(e.Source, "/") {
		x.Event, x.Action = e.ID, e.Source
	}
	if !e.Due.IsZero() {
		t := e.Due.Format(time.RFC3339Nano)
		x.Due = &t
	}
	if !e.Ended.IsZero() {
		t := e.Ended.Format(time.RFC3339Nano)
		x.Ended = &t
	}
	for _, f := range e.Failures {
		x.Failures = append(x.Failures, failure{f.Number, f.Started, float64(f.Took.Microseconds()) / 1000, f.Error})
	}
	return x
}

// when is the next thing to happen to an entry, or the last.
func (x *shown) next() string {
	switch {
	case x.State == string(inbox.Pending) && x.Working:
		return "under way"
	case x.Due != nil && x.State == string(inbox.Pending):
		return "due " + local(*x.Due)
	case x.Ended != nil:
		return local(*x.Ended)
	}
	return ""
}

type edgeInboxList struct {
	edgeInbox
	entryFilter
	Limit int  `default:"50" help:"At most so many; 0 for all."`
	JSON  bool `name:"json" help:"Print JSON."`
}

// Help shows more than the flags.
func (edgeInboxList) Help() string {
	return `  ringback edge inbox list --state dead
  ringback edge inbox list --action results/row --from 24h --json`
}

func (c *edgeInboxList) Run(ctx context.Context, s *streams) error {
	if c.Limit < 0 {
		return fmt.Errorf("--limit: %d is less than 0", c.Limit)
	}
	q, err := c.filter(time.Now())
	if err != nil {
		return err
	}
	desk, err := c.open(ctx, s)
	if err != nil {
		return err
	}
	defer desk.Close()
	all, more := []shown{}, true
	for after := ""; more && (c.Limit == 0 || len(all) < c.Limit); {
		n := 500
		if c.Limit > 0 {
			n = min(n, c.Limit-len(all))
		}
		page, next, err := desk.Entries(ctx, q, after, n)
		if err != nil {
			return err
		}
		for i := range page {
			all = append(all, show(&page[i]))
		}
		after, more = next, next != ""
	}
	if c.JSON {
		return printJSON(s, map[string]any{"entries": all, "more": more})
	}
	if more {
		defer fmt.Fprintln(s.err, "there is more; --limit 0 lists all")
	}
	if len(all) == 0 {
		fmt.Fprintln(s.out, "nothing in the inbox")
		return nil
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "RECEIVED\tTYPE\tWHAT\tSTATE\tATTEMPTS\tNEXT OR END\tEVENT\tERROR")
	for _, x := range all {
		what := x.Action
		if what == "" {
			what = "(event)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", local(x.Received.Format(time.RFC3339)), x.Type, what, x.State, x.Attempts, x.next(), x.Event, excerpt(x.Error))
	}
	return t.Flush()
}

type edgeInboxShow struct {
	edgeInbox
	Event string `arg:"" placeholder:"SOURCE/ID" help:"The event, as list prints it."`
	JSON  bool   `name:"json" help:"Print JSON."`
}

// cutRef parts an event's source and id.
func cutRef(ref string) (source, id string, err error) {
	source, id, ok := strings.Cut(ref, "/")
	if !ok || source == "" || id == "" {
		return "", "", fmt.Errorf("%q is not SOURCE/ID, as list prints it", ref)
	}
	return source, id, nil
}

func (c *edgeInboxShow) Run(ctx context.Context, s *streams) error {
	source, id, err := cutRef(c.Event)
	if err != nil {
		return err
	}
	desk, err := c.open(ctx, s)
	if err != nil {
		return err
	}
	defer desk.Close()
	var all []shown
	var body []byte
	e, err := desk.Entry(ctx, source, id)
	if err != nil && !errors.Is(err, inbox.ErrNotFound) {
		return err
	}
	if err == nil {
		body, all = e.Body, append(all, show(&e))
	}
	page, _, err := desk.Entries(ctx, inbox.Filter{IDs: []string{c.Event}}, "", 1000)
	if err != nil {
		return err
	}
	slices.Reverse(page)
	for _, x := range page {
		if !strings.Contains(x.Source, "/") {
			continue // A message of another source that has this id.
		}
		full, err := desk.Entry(ctx, x.Source, x.ID)
		if errors.Is(err, inbox.ErrNotFound) {
			continue // Purged just now.
		}
		if err != nil {
			return err
		}
		if all = append(all, show(&full)); body == nil {
			body = full.Body
		}
	}
	if len(all) == 0 {
		return fmt.Errorf("there is no event %s in the inbox", c.Event)
	}
	if c.JSON {
		out := map[string]any{"entries": all, "body": string(body)}
		if json.Valid(body) {
			out["body"] = json.RawMessage(body)
		}
		return printJSON(s, out)
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "event\t%s\ntype\t%s\nsigned with\t%s\nreceived\t%s\n", c.Event, all[0].Type, all[0].Scheme, local(all[0].Received.Format(time.RFC3339)))
	if err := t.Flush(); err != nil {
		return err
	}
	for _, x := range all {
		what := x.Action
		if what == "" {
			what = "(event)"
		}
		fmt.Fprintf(s.out, "\n%s: %s, %d attempts, %s\n", what, x.State, x.Attempts, x.next())
		if x.Error != "" && len(x.Failures) == 0 {
			fmt.Fprintf(s.out, "  %s\n", x.Error)
		}
		for _, f := range x.Failures {
			fmt.Fprintf(s.out, "  #%d  %s  %.0f ms  %s\n", f.Number, local(f.Started.Format(time.RFC3339)), f.Millis, f.Error)
		}
	}
	var pretty bytes.Buffer
	if json.Indent(&pretty, body, "", "  ") != nil {
		pretty.Reset()
		pretty.Write(body)
	}
	if pretty.Len() > 0 {
		fmt.Fprintf(s.out, "\n%s\n", printable(pretty.String()))
	}
	return nil
}

// printable replaces what would steer a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '�'
		}
		return r
	}, text)
}

// chosen are entries to change: those named, or those that the flags select.
type chosen struct {
	Events []string `arg:"" optional:"" name:"event" placeholder:"SOURCE/ID" help:"Events, with all their actions, or with --action only that."`
	DryRun bool     `help:"Change nothing; print how many it would be."`
	entryFilter
}

// filters are what to pass to the inbox.
func (c *chosen) filters(now time.Time) ([]inbox.Filter, error) {
	q, err := c.filter(now)
	if err != nil {
		return nil, err
	}
	if len(c.Events) == 0 {
		return []inbox.Filter{q}, nil
	}
	if c.Source != "" {
		return nil, errors.New("--source is for all events of a source; the events that are named have theirs")
	}
	var all []inbox.Filter
	for _, ref := range c.Events {
		source, id, err := cutRef(ref)
		if err != nil {
			return nil, err
		}
		of := q
		of.IDs = []string{ref}
		all = append(all, of)
		if c.Action == "" {
			own := q
			own.Source, own.IDs = source, []string{id}
			all = append(all, own)
		}
	}
	return all, nil
}

// mood is that of the report.
func (c *chosen) mood() string {
	if c.DryRun {
		return "would"
	}
	return "will"
}

type edgeInboxRetry struct {
	edgeInbox
	chosen
}

// Help shows more than the flags.
func (edgeInboxRetry) Help() string {
	return `What is done already is left alone: an action that has succeeded is never repeated.

  ringback edge inbox retry gemini/msg_1
  ringback edge inbox retry --state dead --action results/row --dry-run`
}

func (c *edgeInboxRetry) Run(ctx context.Context, s *streams) error {
	if len(c.Events) == 0 && c.State == "" {
		return errors.New("name events, or give --state dead (or pending) for all")
	}
	n, err := c.change(ctx, s, c.chosen, app.InboxDesk.Retry, func(e *inbox.Entry) bool { return e.State == inbox.Dead || e.State == inbox.Pending && !e.Working })
	if err == nil {
		fmt.Fprintf(s.out, "%d %s be tried again\n", n, c.mood())
	}
	return err
}

type edgeInboxPurge struct {
	edgeInbox
	chosen
}

// Help shows more than the flags.
func (edgeInboxPurge) Help() string {
	return `  ringback edge inbox purge gemini/msg_1
  ringback edge inbox purge --state dead --from 2026-10-01 --to 2026-10-02 --dry-run`
}

func (c *edgeInboxPurge) Run(ctx context.Context, s *streams) error {
	if len(c.Events) == 0 && c.State == "" {
		return errors.New("name events, or give --state for all that are in it")
	}
	n, err := c.change(ctx, s, c.chosen, app.InboxDesk.Purge, func(*inbox.Entry) bool { return true })
	switch {
	case err == nil && c.DryRun:
		fmt.Fprintf(s.out, "%d would be removed\n", n)
	case err == nil:
		fmt.Fprintf(s.out, "%d removed\n", n)
	}
	return err
}

// change applies a change to what is chosen and counts the entries. A dry run counts
// those of them that it concerns.
func (c *edgeInbox) change(ctx context.Context, s *streams, what chosen, do func(app.InboxDesk, context.Context, inbox.Filter, time.Time) (int64, error), concerns func(*inbox.Entry) bool) (int64, error) {
	now := time.Now()
	filters, err := what.filters(now)
	if err != nil {
		return 0, err
	}
	desk, err := c.open(ctx, s)
	if err != nil {
		return 0, err
	}
	defer desk.Close()
	for _, ref := range what.Events {
		if err := known(ctx, desk, ref); err != nil {
			return 0, err
		}
	}
	total := int64(0)
	for _, f := range filters {
		var n int64
		if what.DryRun {
			n, err = countEntries(ctx, desk, f, concerns)
		} else {
			n, err = do(desk, ctx, f, now)
		}
		if total += n; err != nil {
			return total, err
		}
	}
	return total, nil
}

// known refuses an event of which nothing is in the inbox: most likely its name is
// mistyped.
func known(ctx context.Context, desk app.InboxDesk, ref string) error {
	source, id, err := cutRef(ref)
	if err != nil {
		return err
	}
	page, _, err := desk.Entries(ctx, inbox.Filter{IDs: []string{ref, id}}, "", 1000)
	if err != nil {
		return err
	}
	for _, x := range page {
		if x.Source == source && x.ID == id || x.ID == ref && strings.Contains(x.Source, "/") {
			return nil
		}
	}
	return fmt.Errorf("there is no event %s in the inbox; nothing was changed", ref)
}

// countEntries counts the entries of a filter that a change concerns.
func countEntries(ctx context.Context, desk app.InboxDesk, f inbox.Filter, concerns func(*inbox.Entry) bool) (n int64, err error) {
	for after := ""; ; {
		page, next, err := desk.Entries(ctx, f, after, 500)
		if err != nil {
			return n, err
		}
		for i := range page {
			if concerns(&page[i]) {
				n++
			}
		}
		if after = next; next == "" {
			return n, nil
		}
	}
}
