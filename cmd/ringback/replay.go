package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"ringback.dev/internal/post"
	"ringback.dev/webhook"
)

type replayCommand struct {
	signing
	File       string        `arg:"" help:"Recording that ringback listen --record made; - for standard input."`
	To         string        `placeholder:"URL" help:"Send to this address instead of the recorded one."`
	Only       []string      `placeholder:"TYPE" help:"Only events of these types, separated by commas."`
	AsRecorded bool          `help:"Send the recorded headers and bytes as they are: old timestamps, old signatures."`
	All        bool          `help:"Send further attempts of an event too; else each webhook-id is sent once."`
	Print      bool          `help:"Print the headers and the body that are sent."`
	Timeout    time.Duration `default:"30s" help:"How long the receiver may take."`
	JSON       bool          `name:"json" help:"Print a record of each message that was sent."`
}

// Help shows more than the flags.
func (replayCommand) Help() string {
	return `Each message is signed anew, as of now, and keeps its webhook-id and body: a receiver that acts once per id takes no harm. The exit code is 1 if one was
not accepted.

  ringback listen --forward-to http://localhost:3000/hook --record events.jsonl
  ringback replay events.jsonl
  ringback replay events.jsonl --to http://localhost:4000/hook --only interaction.failed
  ringback replay events.jsonl --as-recorded      a good receiver refuses what is older than five minutes`
}

func (c *replayCommand) Run(ctx context.Context, s *streams) error {
	if c.To != "" {
		if err := post.Check(c.To); err != nil {
			return fmt.Errorf("--to: %w", err)
		}
	}
	if c.AsRecorded && c.given() {
		return errors.New("--as-recorded sends the old signatures; leave out --secret")
	}
	in := io.Reader(s.in)
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	sender := post.Sender{Timeout: c.Timeout}
	how := "as recorded: with old signatures and timestamps"
	if !c.AsRecorded {
		with, own, err := c.signers()
		if err != nil {
			return err
		}
		sender.Signers, how = with, "signed anew, as of now"
		if own != nil {
			how += ", with this machine's development secret, " + own.Reveal()
		}
	}
	p := newPaint(s.out)
	seen := make(map[string]bool)
	sent, failed, passed := 0, 0, 0
	err := post.ReadRecords(in, func(line int, rec *post.Record) error {
		h, body, err := rec.Message()
		if err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		kind := ""
		if e, err := webhook.ParseEvent(body); err == nil {
			kind = e.Type
		}
		if seen[rec.ID()] && !c.All || len(c.Only) > 0 && !slices.Contains(c.Only, kind) {
			passed++
			return nil
		}
		seen[rec.ID()] = true
		to := rec.URL
		if c.To != "" {
			to = c.To
		}
		var r post.Result
		if c.AsRecorded {
			r = sender.SendAs(ctx, to, h, body)
		} else {
			r = sender.SendWith(ctx, to, rec.ID(), body, h)
		}
		if ctx.Err() != nil && !r.OK() {
			return fmt.Errorf("interrupted at line %d", line) // What became of it is unknown.
		}
		sent++
		if !r.OK() {
			failed++
		}
		if c.JSON {
			return post.NewRecord(to, 1, body, &r).Write(s.out)
		}
		fmt.Fprintf(p.w, "%s  %-27s %s  %s\n", p.outcome(&r), kind, p.dim(rec.ID()), about(body))
		if c.Print {
			printMessage(p, r.Header, body)
		}
		p.remark(r.Why(), &r)
		return nil
	})
	if !c.JSON {
		note := ""
		if passed > 0 {
			note = fmt.Sprintf(", %d passed over", passed)
		}
		fmt.Fprintf(p.w, "\n%s sent, %d accepted%s\n", plural(sent, "message"), sent-failed, note)
		if sent > 0 {
			fmt.Fprintln(p.w, p.dim(how))
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	if failed > 0 {
		return silent(1)
	}
	return nil
}
