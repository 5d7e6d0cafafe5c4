package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"ringback.dev/internal/post"
	"ringback.dev/internal/reconcile"
)

type reconcileCommand struct {
	signing
	Server string `default:"http://127.0.0.1:8080" env:"RINGBACK_SERVER,GOOGLE_GEMINI_BASE_URL" placeholder:"URL" help:"Base address of the ringback server."`
	APIKey string `name:"api-key" env:"RINGBACK_API_KEY,GEMINI_API_KEY" placeholder:"KEY" help:"API key of the project."`
	JSON   bool   `name:"json" help:"Print the report as JSON."`

	GeminiKeyEnv string `name:"gemini-key-env" placeholder:"NAME" help:"Ask Google's API instead, with the key in this environment variable: batches that ended and are not in the ledger."`
	GeminiURL    string `name:"gemini-url" placeholder:"URL" help:"Address of Google's API, or of one like it."`
	Since        string `default:"72h" placeholder:"WHEN" help:"How long ago something may have ended: an age such as 72h, a time or a date."`
	Ledger       string `placeholder:"FILE" help:"File of what was collected: a job's name at the beginning of each line. Your own programs may append to it."`
	Waiting      bool   `help:"Show what is still being tried, too; it is no gap yet."`
	Deliver      bool   `help:"Close the gap: send again what was given up, and with --to post what nobody was to hear of."`
	To           string `placeholder:"URL" help:"Address of the receiver that gets, with --deliver, what has no delivery to send again."`
}

// Help shows more than the flags.
func (reconcileCommand) Help() string {
	return `What has ended, and nobody acknowledged? Of a ringback server: deliveries that were given up, or that wait for a disabled webhook, and jobs of which no webhook
was to hear. Of Google's API, which keeps no such log: ended batches that are not in the ledger. The exit code is 1 while there is a gap.

  ringback reconcile --since 24h
  ringback reconcile --deliver
  ringback reconcile --deliver --to https://me.example/hook --secret whsec_…
  ringback reconcile --gemini-key-env GEMINI_API_KEY --ledger collected.txt

An event that is delivered so twice has the same webhook-id twice. What --to has accepted is noted in the ledger.`
}

func (c *reconcileCommand) Run(ctx context.Context, s *streams) error {
	o := reconcile.Options{Waiting: c.Waiting}
	since, err := when("since", c.Since, time.Now())
	if err != nil {
		return err
	}
	if o.Since, err = time.Parse(time.RFC3339, since); err != nil {
		return err
	}
	if c.Ledger != "" {
		if o.Ledger, err = reconcile.OpenLedger(c.Ledger); err != nil {
			return fmt.Errorf("--ledger: %w", err)
		}
	}
	source, err := c.source()
	if err != nil {
		return err
	}
	sender, err := c.sender()
	if err != nil {
		return err
	}
	r, err := source.Find(ctx, o)
	if err != nil {
		return err
	}
	if !c.JSON {
		if err := c.list(s, r, o.Since); err != nil {
			return err
		}
	}
	open := make([]outcome, 0, len(r.Gaps))
	left, closed, posted := 0, 0, 0
	for i := range r.Gaps {
		g := outcome{Gap: r.Gaps[i]}
		if c.Deliver {
			g.close(ctx, source, sender, c.To, o.Ledger)
			if !c.JSON {
				g.tell(newPaint(s.out))
			}
		}
		if g.Closed && g.result != nil {
			posted++
		}
		switch {
		case g.Closed:
			closed++
		case g.Why != reconcile.Waiting:
			left++
		}
		open = append(open, g)
	}
	if c.JSON {
		if err := printJSON(s, map[string]any{"ended": r.Ended, "gaps": open, "open": left}); err != nil {
			return err
		}
	} else if c.Deliver && left+closed > 0 {
		fmt.Fprintf(s.out, "\n%d of %d closed\n", closed, left+closed)
		if posted > 0 && o.Ledger == nil {
			fmt.Fprintln(s.out, "what --to has accepted is remembered with --ledger only: without it, it is found again")
		}
	}
	if left > 0 {
		return silent(1)
	}
	return nil
}

// source is who is asked.
func (c *reconcileCommand) source() (reconcile.Source, error) {
	if c.GeminiKeyEnv == "" {
		if c.GeminiURL != "" {
			return nil, errors.New("--gemini-url needs --gemini-key-env")
		}
		if c.APIKey == "" {
			return nil, errors.New("give the project's key, --api-key; or, to ask Google's API, --gemini-key-env")
		}
		return reconcile.Ringback(c.Server, c.APIKey), nil
	}
	key := os.Getenv(c.GeminiKeyEnv)
	if key == "" {
		return nil, fmt.Errorf("--gemini-key-env: the environment variable %s is empty", c.GeminiKeyEnv)
	}
	if c.Deliver && (c.Ledger == "" || c.To == "") {
		return nil, errors.New("--deliver: Google's API sends nothing again; it needs --to, the receiver, and --ledger, which remembers what it has accepted")
	}
	address := c.GeminiURL
	if address == "" {
		address = reconcile.GeminiURL
	}
	return reconcile.Gemini(address, key), nil
}

// sender posts to the receiver that is named; nil if none is.
func (c *reconcileCommand) sender() (*post.Sender, error) {
	switch {
	case c.To == "" && !c.given():
		return nil, nil
	case !c.Deliver:
		return nil, errors.New("--to and --secret are for --deliver")
	case c.To == "":
		return nil, errors.New("--secret is for --to: the server signs by itself what it sends again")
	}
	if err := post.Check(c.To); err != nil {
		return nil, fmt.Errorf("--to: %w", err)
	}
	with, _, err := c.signers()
	return &post.Sender{Signers: with}, err
}

func (c *reconcileCommand) list(s *streams, r *reconcile.Report, since time.Time) error {
	if len(r.Gaps) == 0 {
		fmt.Fprintf(s.out, "no gap: %d ended since %s\n", r.Ended, local(since.Format(time.RFC3339)))
		return nil
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ENDED\tEVENT\tJOB\tGAP\tTO\tDELIVERY")
	for i := range r.Gaps {
		g := &r.Gaps[i]
		to := g.Webhook
		if g.URI != "" {
			to = g.URI
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", local(g.Ended.Format(time.RFC3339)), g.Type, g.Job, g.Why, dash(to), dash(g.Delivery))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(s.out)
	told := make(map[string]bool)
	for i := range r.Gaps {
		if d := r.Gaps[i].Why + ": " + r.Gaps[i].Detail; r.Gaps[i].Detail != "" && !told[d] && len(told) < 10 {
			told[d] = true
			fmt.Fprintln(s.out, d)
		}
	}
	waiting := ""
	n := 0
	for i := range r.Gaps {
		if r.Gaps[i].Why == reconcile.Waiting {
			n++
			waiting = fmt.Sprintf(", %d waiting", n)
		}
	}
	fmt.Fprintf(s.out, "%s%s in %d that ended since %s\n", plural(len(r.Gaps)-n, "gap"), waiting, r.Ended, local(since.Format(time.RFC3339)))
	return nil
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// outcome is what became of a gap.
type outcome struct {
	reconcile.Gap
	Closed bool   `json:"closed"`
	Error  string `json:"error,omitempty"` // Why it is still open.
	result *post.Result
}

// close closes a gap, if that can be done.
func (g *outcome) close(ctx context.Context, from reconcile.Source, sender *post.Sender, to string, l *reconcile.Ledger) {
	switch g.Why {
	case reconcile.Waiting:
		return // It is on its way.
	case reconcile.Held:
		g.Error = "enable the webhook first: ringback webhooks update " + g.Webhook + " --state enabled"
		return
	}
	var err error
	g.Closed, err = from.Close(ctx, &g.Gap)
	if errors.Is(err, reconcile.ErrPost) && sender != nil {
		var r post.Result
		r, err = reconcile.Post(ctx, sender, to, &g.Gap, l)
		g.result, g.Closed = &r, r.OK() && err == nil
		switch {
		case err != nil: // The next run finds it again.
			err = fmt.Errorf("it was accepted, but that can't be noted: %w", err)
		case !r.OK():
			err = errors.New(r.Why())
		}
	}
	if err != nil {
		g.Error = oneLine(err)
	}
}

func (g *outcome) tell(p paint) {
	mark := p.red("✗")
	if g.Closed {
		mark = p.green("✓")
	}
	if g.Why == reconcile.Waiting {
		mark = p.dim("·")
	}
	if g.result != nil {
		mark = p.outcome(g.result)
	}
	fmt.Fprintln(p.w, strings.TrimRight(fmt.Sprintf("%s  %s  %s  %s", mark, g.Type, p.dim(g.ID), g.Error), " "))
}
