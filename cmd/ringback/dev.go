package main

import (
	"context"
	"fmt"

	"ringback.dev/internal/app"
)

type devCommand struct{ settings }

// Help shows more than the flags.
func (devCommand) Help() string {
	return `Nothing needs to be configured: any API key is taken, callbacks may go to this machine, and models that are not
configured are answered by the emulator, which says that no model ran. Callbacks arrive at /inbox as well.

  ringback dev
  ringback dev --openai-url http://127.0.0.1:11434/v1     a real model, here by Ollama
  ringback dev --scenario scenario.yaml                   scripted answers (docs/emulator.md)`
}

func (c *devCommand) Run(ctx context.Context, s *streams) error {
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
	fmt.Fprintf(s.out, "listening on %s\n", a.URL())
	return a.Run(ctx)
}
