package main

import (
	"context"
	"fmt"

	"ringback.dev/internal/app"
)

type devCommand struct {
	Server devServer `cmd:"" name:"run" default:"withargs" help:"Run the server on this machine for development: any API key, loopback callbacks, an inbox. The word run may be left out."`
	Clock  devClock  `cmd:"" help:"Set the clock of a server for development forward: retries, expiry and rotation in seconds."`
}

type devServer struct{ settings }

// Help shows more than the flags.
func (devServer) Help() string {
	return `Nothing needs to be configured: any API key is taken, callbacks may go to this machine, and models that are not
configured are answered by the emulator, which says that no model ran. Callbacks arrive at /inbox as well.

  ringback dev
  ringback dev --openai-url http://127.0.0.1:11434/v1     a real model, here by Ollama
  ringback dev --scenario scenario.yaml                   scripted answers (docs/emulator.md)

While it runs, in another terminal (docs/receiving-tools.md):

  ringback listen --forward-to http://localhost:3000/hook    every event to your own receiver
  ringback trigger batch.succeeded                           an event now, without a job
  ringback dev clock +24h                                    let a day pass`
}

func (c *devServer) Run(ctx context.Context, s *streams) error {
	if err := c.complete(); err != nil {
		return err
	}
	c.Dev = true
	a, err := app.New(ctx, c.Config, c.Logger(s.err))
	if err != nil {
		return err
	}
	models := "the emulator: no model runs"
	if c.OpenAIURL != "" || len(c.Models) > 0 {
		models = "as configured; the emulator answers the rest"
	}
	fmt.Fprintf(s.out, `
  ringback dev: for development only. Any API key is taken; callbacks may use
  http and private addresses. Do not expose this server.

  SDKs      export GOOGLE_GEMINI_BASE_URL=%[1]s GEMINI_API_KEY=any
  inbox     %[1]s/inbox
  models    %[2]s
  data      %[3]s

  Try it:   curl %[1]s/v1beta/interactions -H 'x-goog-api-key: any' \
              -d '{"model":"gemini-3.6-flash","input":"hello","background":true}'

`, a.URL(), models, c.Data)
	if ahead := a.Ahead(); ahead > 0 {
		fmt.Fprintf(s.out, "  The clock is ahead by %s (ringback dev clock).\n\n", brief(ahead))
	}
	fmt.Fprintf(s.out, "listening on %s\n", a.URL())
	return a.Run(ctx)
}
