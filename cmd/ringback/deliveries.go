package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

type deliveriesCommand struct {
	List    deliveriesList    `cmd:"" help:"List deliveries, newest first."`
	Get     deliveriesGet     `cmd:"" help:"Show one delivery with every attempt."`
	Resend  deliveriesResend  `cmd:"" help:"Send deliveries again, under the same webhook-id."`
	Replay  deliveriesReplay  `cmd:"" help:"Send again all that a filter selects."`
	Replays deliveriesReplays `cmd:"" help:"List the latest replays."`
}

// deliveryAnswer is what is read of a delivery.
type deliveryAnswer struct {
	ID          string `json:"id"`
	Event       string `json:"event"`
	Type        string `json:"type"`
	Job         string `json:"job"`
	Webhook     string `json:"webhook"`
	URI         string `json:"uri"`
	Signature   string `json:"signature"`
	State       string `json:"state"`
	Attempts    int    `json:"attempts"`
	NextAttempt string `json:"next_attempt"`
	Reason      string `json:"reason"`
	Created     string `json:"created"`
	Updated     string `json:"updated"`
	RetryUntil  string `json:"retry_until"`
	AttemptsLog []struct {
		Number  int    `json:"number"`
		Started string `json:"started"`
		Status  int    `json:"status"`
		Reason  string `json:"reason"`
		Error   string `json:"error"`
		Answer  string `json:"answer"`
		Timing  struct {
			Total float64 `json:"total_ms"`
		} `json:"timing"`
	} `json:"attempts_log"`
}

// selection are the flags that select deliveries.
type selection struct {
	Webhook string   `placeholder:"ID" help:"Only to this webhook."`
	Event   string   `placeholder:"ID" help:"Only of this event."`
	Types   []string `placeholder:"TYPE" help:"Only of events of these types, separated by commas."`
	From    string   `placeholder:"TIME" help:"Only of events since then: a time, a date, or an age such as 24h."`
	To      string   `placeholder:"TIME" help:"Only of events before then."`
}

// times reads --from and --to.
func (f *selection) times(now time.Time) (from, to string, err error) {
	if from, err = when("from", f.From, now); err != nil {
		return "", "", err
	}
	to, err = when("to", f.To, now)
	return from, to, err
}

type deliveriesList struct {
	client
	selection
	State string `enum:",pending,delivered,failed" default:"" placeholder:"STATE" help:"pending, delivered or failed."`
	Limit int    `default:"50" help:"At most so many; 0 for all."`
}

// Help shows more than the flags.
func (deliveriesList) Help() string {
	return `  ringback deliveries list --state failed --from 24h
  ringback deliveries list --webhook ID --limit 0 --json`
}

func (c *deliveriesList) Run(ctx context.Context, s *streams) error {
	from, to, err := c.times(time.Now())
	if err != nil {
		return err
	}
	q := url.Values{}
	for name, value := range map[string]string{"state": c.State, "webhook": c.Webhook, "event": c.Event, "types": strings.Join(c.Types, ","), "from": from, "to": to} {
		set(q, name, value)
	}
	if c.JSON {
		all, err := pages[map[string]any](ctx, &c.client, "deliveries", q, "before", "deliveries", c.Limit)
		if err != nil {
			return err
		}
		return printJSON(s, map[string]any{"deliveries": all})
	}
	all, err := pages[deliveryAnswer](ctx, &c.client, "deliveries", q, "before", "deliveries", c.Limit)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		fmt.Fprintln(s.out, "no deliveries")
		return nil
	}
	return printDeliveries(s, all)
}

func printDeliveries(s *streams, all []deliveryAnswer) error {
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TIME\tTYPE\tSTATE\tATTEMPTS\tLAST MET\tTO\tDELIVERY")
	for _, d := range all {
		to := d.Webhook
		if to == "" {
			to = d.URI
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", local(d.Created), d.Type, d.State, d.Attempts, d.Reason, to, d.ID)
	}
	return t.Flush()
}

type deliveriesGet struct {
	client
	ID string `arg:"" help:"The delivery's id, which is the webhook-id."`
}

func (c *deliveriesGet) Run(ctx context.Context, s *streams) error {
	path := "deliveries/" + url.PathEscape(c.ID)
	if c.JSON {
		return c.raw(ctx, s, http.MethodGet, path, nil)
	}
	var d deliveryAnswer
	if err := c.manage(ctx, http.MethodGet, path, nil, &d); err != nil {
		return err
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, value)
		}
	}
	row("id", d.ID)
	row("event", d.Event)
	row("type", d.Type)
	row("job", d.Job)
	row("webhook", d.Webhook)
	row("address", d.URI)
	row("signature", d.Signature)
	row("state", d.State)
	row("created", local(d.Created))
	if d.State == "pending" {
		row("next attempt", local(d.NextAttempt))
		row("retried until", local(d.RetryUntil))
	}
	if err := t.Flush(); err != nil || len(d.AttemptsLog) == 0 {
		return err
	}
	fmt.Fprintln(t, "\n#\tSTARTED\tSTATUS\tTOOK\tMET\tANSWER")
	for _, a := range d.AttemptsLog {
		status := "-"
		if a.Status != 0 {
			status = fmt.Sprint(a.Status)
		}
		said := a.Answer
		if said == "" {
			said = a.Error
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%.1f ms\t%s\t%s\n", a.Number, local(a.Started), status, a.Timing.Total, a.Reason, excerpt(said))
	}
	return t.Flush()
}

// excerpt is the beginning of a text on one line, without control characters.
func excerpt(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }), " ")
	if r := []rune(text); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return text
}

type deliveriesResend struct {
	client
	IDs []string `arg:"" name:"id" help:"Ids of deliveries."`
}

func (c *deliveriesResend) Run(ctx context.Context, s *streams) error {
	for _, id := range c.IDs {
		var d deliveryAnswer
		if err := c.manage(ctx, http.MethodPost, "deliveries/"+url.PathEscape(id)+":resend", nil, &d); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		fmt.Fprintf(s.out, "%s is on its way again, after %d attempts\n", id, d.Attempts)
	}
	return nil
}

// replayAnswer is what is read of a replay.
type replayAnswer struct {
	ID        string `json:"id"`
	State     string `json:"state"`
	CountSent int    `json:"count_sent"`
	Created   string `json:"created"`
	Done      string `json:"done"`
	Count     int    `json:"count"` // Of a dry run.
}

type deliveriesReplay struct {
	client
	selection
	State  string `enum:"failed,delivered,all" default:"failed" help:"What to send again: failed, delivered or all that has ended."`
	DryRun bool   `help:"Only say how many there are."`
	Yes    bool   `short:"y" help:"Don't ask."`
	Wait   bool   `help:"Wait until all are on their way."`
}

// Help shows more than the flags.
func (deliveriesReplay) Help() string {
	return `The receiver gets each event under the webhook-id that it had, so one that acts once per id takes no harm.

  ringback deliveries replay --from 24h --dry-run
  ringback deliveries replay --webhook ID --from 2026-10-01 --yes --wait`
}

func (c *deliveriesReplay) Run(ctx context.Context, s *streams) error {
	from, to, err := c.times(time.Now())
	if err != nil {
		return err
	}
	q := map[string]any{"state": c.State, "dry_run": true}
	for name, value := range map[string]string{"webhook": c.Webhook, "event": c.Event, "from": from, "to": to} {
		if value != "" {
			q[name] = value
		}
	}
	if c.Types != nil {
		q["types"] = c.Types
	}
	var r replayAnswer
	if err := c.manage(ctx, http.MethodPost, "deliveries:replay", q, &r); err != nil {
		return err
	}
	if c.DryRun || r.Count == 0 {
		if c.JSON {
			return printJSON(s, map[string]any{"dry_run": true, "count": r.Count})
		}
		fmt.Fprintf(s.out, "%d deliveries are selected\n", r.Count)
		return nil
	}
	if !c.Yes {
		if err := confirm(s, fmt.Sprintf("Send %d deliveries again? [y/N] ", r.Count)); err != nil {
			return err
		}
	}
	delete(q, "dry_run")
	if err := c.manage(ctx, http.MethodPost, "deliveries:replay", q, &r); err != nil {
		return err
	}
	for c.Wait && r.State != "done" {
		select {
		case <-ctx.Done():
			return fmt.Errorf("interrupted; the replay %s goes on", r.ID)
		case <-time.After(200 * time.Millisecond):
		}
		if err := c.manage(ctx, http.MethodGet, "replays/"+r.ID, nil, &r); err != nil {
			return err
		}
	}
	if c.JSON {
		return c.raw(ctx, s, http.MethodGet, "replays/"+r.ID, nil)
	}
	if r.State == "done" {
		fmt.Fprintf(s.out, "%s: %d deliveries are on their way again\n", r.ID, r.CountSent)
	} else {
		fmt.Fprintf(s.out, "%s has begun\n", r.ID)
	}
	return nil
}

// confirm asks on a terminal; elsewhere nobody can answer.
func confirm(s *streams, question string) error {
	in, ok := s.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return errors.New("nobody can be asked here: give --yes")
	}
	fmt.Fprint(s.err, question)
	line, err := bufio.NewReader(in).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err != nil || answer != "y" && answer != "yes" {
		return errors.New("nothing was sent")
	}
	return nil
}

type deliveriesReplays struct{ client }

func (c *deliveriesReplays) Run(ctx context.Context, s *streams) error {
	if c.JSON {
		return c.raw(ctx, s, http.MethodGet, "replays", nil)
	}
	var list struct{ Replays []replayAnswer }
	if err := c.manage(ctx, http.MethodGet, "replays", nil, &list); err != nil {
		return err
	}
	if len(list.Replays) == 0 {
		fmt.Fprintln(s.out, "no replays")
		return nil
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TIME\tSTATE\tSENT\tREPLAY")
	for _, r := range list.Replays {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", local(r.Created), r.State, r.CountSent, r.ID)
	}
	return t.Flush()
}
