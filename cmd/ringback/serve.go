package main

import (
	"context"
	"fmt"

	"ringback.dev/internal/app"
)

type serveCommand struct{ settings }

// Help shows more than the flags.
func (serveCommand) Help() string {
	return `On its first start the server makes a project and prints its API key, once.

  ringback serve --openai-url http://127.0.0.1:8000/v1
  export GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:8080 GEMINI_API_KEY=rbk_…

Callbacks go to https addresses that are public; --allow-private-callbacks and --allow-http-callbacks widen that.`
}

func (c *serveCommand) Run(ctx context.Context, s *streams) error {
	if err := c.complete(); err != nil {
		return err
	}
	a, err := app.New(ctx, c.Config, c.Logger(s.err))
	if err != nil {
		return err
	}
	if a.FirstKey != "" {
		fmt.Fprintf(s.out, `
  A project was made. This is its API key; it is not shown again:

      %s

  And this is the operator's key, by which further projects and keys are made
  (ringback projects --help):

      %s

`, a.FirstKey, a.OperatorKey)
	}
	fmt.Fprintf(s.out, "listening on %s\n", a.URL())
	return a.Run(ctx)
}
