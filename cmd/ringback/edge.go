package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"ringback.dev/internal/app"
)

type edgeCommand struct {
	Run   edgeRun          `cmd:"" default:"withargs" help:"Run the receiver."`
	Check edgeCheck        `cmd:"" help:"Say what is wrong with a file, or what it does; try an event."`
	Inbox edgeInboxCommand `cmd:"" help:"See and change what is in the inbox."`
}

type edgeRun struct {
	Config string `env:"RINGBACK_EDGE_CONFIG" default:"edge.yaml" placeholder:"FILE" help:"The configuration."`
}

// Help shows more than the flags.
func (edgeRun) Help() string {
	return `Webhooks after Standard Webhooks are verified, stored and answered 2xx; then the actions of the file are done about them: forwarded, run,
written to a database, followed by the next job, told to people, downloaded. docs/edge.md has the file.

  ringback edge check edge.yaml
  ringback edge --config edge.yaml
  kill -HUP PID                       reads the file again`
}

func (c *edgeRun) Run(ctx context.Context, s *streams) error {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // One that comes before the edge is ready waits.
	defer signal.Stop(hangups)
	e, err := app.NewEdge(ctx, c.Config, s.err)
	if err != nil {
		return located(s, c.Config, err)
	}
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-hangups:
			}
			if err := e.Reload(); err != nil {
				for _, line := range app.EdgeProblems(c.Config, err) {
					e.Log.Error("the configuration is not good; the old one goes on", "why", line)
				}
				continue
			}
			e.Log.Info("the configuration was read again", "file", c.Config)
		}
	}()
	defer func() {
		close(done)
		<-ended
	}()
	if admin := e.Admin(); admin != "" {
		fmt.Fprintf(s.out, "inbox and metrics on %s\n", admin)
	}
	fmt.Fprintf(s.out, "listening on %s\n", e.URL())
	return e.Run(ctx)
}

// located prints what is wrong with a file, each with its line.
func located(s *streams, file string, err error) error {
	lines := app.EdgeProblems(file, err)
	if len(lines) == 1 && lines[0] == err.Error() {
		return err
	}
	for _, line := range lines {
		fmt.Fprintln(s.err, line)
	}
	return silent(1)
}

type edgeCheck struct {
	File   string `arg:"" help:"The configuration."`
	Event  string `placeholder:"FILE" help:"Body of an event, - for standard input: print what would be done about it, and do nothing."`
	Source string `placeholder:"NAME" help:"The source that the event comes from, if the file has several."`
	ID     string `name:"id" placeholder:"ID" help:"The event's webhook-id."`
}

// Help shows more than the flags.
func (edgeCheck) Help() string {
	return `Exit code 0 if the file is good, 1 if not; each problem is a line FILE:LINE: KEY: what is wrong and what would be right. Variables and files
with secrets must be there; nobody is connected to.

  ringback edge check edge.yaml
  ringback edge check edge.yaml --event event.json --source gemini`
}

func (c *edgeCheck) Run(s *streams) error {
	var sample *app.EdgeSample
	if c.Event != "" {
		body, err := readFile(c.Event, s.in)
		if err != nil {
			return fmt.Errorf("--event: %w", err)
		}
		sample = &app.EdgeSample{Source: c.Source, ID: c.ID, Body: body}
	} else if c.Source != "" || c.ID != "" {
		return errors.New("--source and --id belong to --event")
	}
	if err := app.CheckEdge(c.File, sample, s.out); err != nil {
		return located(s, c.File, err)
	}
	return nil
}

// readFile reads a file, - for standard input.
func readFile(name string, in io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(in)
	}
	return os.ReadFile(name)
}
