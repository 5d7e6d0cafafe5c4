package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"ringback.dev"
	"ringback.dev/internal/app"
	"ringback.dev/internal/genai"
	"ringback.dev/webhook"
)

type demoCommand struct {
	Model     string        `default:"gemini-3.6-flash" help:"Model to ask."`
	Prompt    string        `default:"Why should a long job call back instead of being polled?" help:"What to ask."`
	MaxTokens int           `default:"128" help:"Longest answer, in tokens."`
	OpenAIURL string        `name:"openai-url" placeholder:"URL" help:"OpenAI-compatible server that runs the model; without it the emulator answers."`
	OpenAIKey string        `name:"openai-key" placeholder:"KEY" help:"API key for --openai-url."`
	Timeout   time.Duration `default:"60s" help:"How long to wait for the callback."`
}

// Help shows more than the flags.
func (demoCommand) Help() string {
	return `Starts a server and a receiver in this process, registers a webhook, submits a background interaction and waits for
the callback. Exit code 0 only if the callback arrived and its signature was verified.

  ringback demo
  ringback demo --openai-url http://127.0.0.1:11434/v1 --model gemma3:270m`
}

// callback is what the demo's receiver noted.
type callback struct {
	header   http.Header
	body     []byte
	received time.Time
	verified time.Time
	answered time.Time
	err      error
}

func (c *demoCommand) Run(ctx context.Context, s *streams) error {
	dir, err := os.MkdirTemp("", "ringback-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	config := app.Config{Listen: "127.0.0.1:0", Data: dir, Dev: true, OpenAIURL: c.OpenAIURL, OpenAIKey: c.OpenAIKey,
		DeliveryTimeout: 15 * time.Second, MaxInFlight: 16, PerTargetInFlight: 16, MaxRunning: 16, MaxRequestBytes: 1 << 20, Grace: time.Second}
	a, err := app.New(ctx, config, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("no callback within %s", c.Timeout))
	defer cancel()
	serving, stop := context.WithCancel(ctx)
	var loops errgroup.Group
	loops.Go(func() error { return a.Run(serving) })
	err = c.roundTrip(ctx, s, a)
	stop()
	if stopped := loops.Wait(); err == nil {
		err = stopped
	}
	return err
}

// roundTrip does what a user would do, over HTTP, and tells the story.
func (c *demoCommand) roundTrip(ctx context.Context, s *streams, a *app.App) error {
	arrived := make(chan callback, 1)
	secret := make(chan webhook.Secret, 1)
	uri, closeReceiver, err := receive(secret, arrived)
	if err != nil {
		return err
	}
	defer closeReceiver()

	server := &client{Server: a.URL(), APIKey: "demo"}
	var hook webhookAnswer
	err = server.call(ctx, http.MethodPost, "/webhooks", map[string]any{"name": "demo", "uri": uri,
		"subscribed_events": []string{"interaction.completed", "interaction.failed", "interaction.requires_action"}}, &hook)
	if err != nil {
		return err
	}
	key, err := webhook.ParseSecret(hook.NewSigningSecret)
	if err != nil {
		return err
	}
	secret <- key

	var job genai.Interaction
	err = server.call(ctx, http.MethodPost, "/interactions", map[string]any{"model": c.Model, "input": c.Prompt,
		"background": true, "generation_config": map[string]any{"max_output_tokens": c.MaxTokens}}, &job)
	if err != nil {
		return err
	}
	var got callback
	select {
	case got = <-arrived:
	case <-ctx.Done():
		return fmt.Errorf("job %s: %w", job.ID, context.Cause(ctx))
	}
	if got.err != nil {
		return fmt.Errorf("a callback arrived but does not verify: %w", got.err)
	}
	if err := server.call(ctx, http.MethodGet, "/interactions/"+job.ID, nil, &job); err != nil {
		return err
	}
	story, err := tell(ctx, a, ringback.ID(job.ID), ringback.ID(hook.ID), got)
	if err != nil {
		return err
	}
	story.print(newPaint(s.out), c, &job, got)
	if job.Status == "failed" {
		return fmt.Errorf("the callback arrived verified, but the job failed: %s", job.Errors[0].Message)
	}
	return nil
}

// receive runs a receiver on a free port. It verifies with the one secret that
// it is told.
func receive(secret <-chan webhook.Secret, arrived chan<- callback) (uri string, closeIt func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := callback{header: r.Header.Clone(), received: time.Now()}
		if c.body, c.err = io.ReadAll(http.MaxBytesReader(w, r.Body, webhook.MaxBody)); c.err == nil {
			_, c.err = (&webhook.Verifier{Secrets: []webhook.Secret{<-secret}}).Verify(r.Header, c.body)
		}
		c.verified = time.Now()
		if c.err != nil {
			w.WriteHeader(http.StatusUnauthorized)
		} else {
			w.WriteHeader(http.StatusNoContent)
		}
		c.answered = time.Now()
		arrived <- c
	})}
	go func() { _ = srv.Serve(l) }() // Ends when closed.
	return "http://" + l.Addr().String() + "/webhook", func() { _ = srv.Close() }, nil
}

// story is the life of one event, as the store and the receiver saw it.
type story struct {
	job      *ringback.Job
	event    ringback.Event
	delivery ringback.Delivery
	attempt  ringback.Attempt
	lines    []line
}

type line struct {
	at   time.Time
	what string
	note string
}

// tell reads the facts. The attempt is recorded just after the receiver has
// answered, so it is waited for.
func tell(ctx context.Context, a *app.App, job, hook ringback.ID, got callback) (*story, error) {
	s := &story{}
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for {
		if err := s.read(ctx, a, job, hook); err != nil {
			return nil, err
		}
		if s.attempt.Number > 0 {
			break
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("the attempt was not recorded: %w", context.Cause(ctx))
		}
	}
	answered := s.attempt.Started.Add(s.attempt.Total)
	s.lines = []line{
		{s.job.Created, "job created", "durable; " + string(s.job.ID)},
		{s.job.Started, "running", "model " + s.job.Model},
		{s.job.Ended, "ended", string(s.job.State)},
		{s.event.Created, "event", string(s.event.Type) + ", stored with the end in one step"},
		{s.attempt.Started, fmt.Sprintf("attempt %d", s.attempt.Number), "POST, signed; " + string(s.delivery.ID)},
		{got.verified, "verified", "by the receiver: HMAC-SHA256, id, age"},
		{answered, "acknowledged", fmt.Sprintf("%d, recorded", s.attempt.Status)},
	}
	return s, nil
}

func (s *story) read(ctx context.Context, a *app.App, job, hook ringback.ID) error {
	var err error
	if s.job, err = a.Store().Job(ctx, a.Project(), job); err != nil {
		return err
	}
	events, err := a.Store().JobEvents(ctx, a.Project(), job)
	if err != nil || len(events) == 0 {
		return err
	}
	s.event = events[0]
	deliveries, err := a.Store().EventDeliveries(ctx, a.Project(), s.event.ID)
	if err != nil {
		return err
	}
	for _, d := range deliveries {
		if d.Endpoint != hook {
			continue
		}
		s.delivery = d
		attempts, err := a.Store().Attempts(ctx, a.Project(), d.ID)
		if err != nil {
			return err
		}
		if len(attempts) > 0 {
			s.attempt = attempts[len(attempts)-1]
		}
	}
	return nil
}

func (s *story) print(p paint, c *demoCommand, job *genai.Interaction, got callback) {
	fmt.Fprintf(p.w, "\n  %s\n\n", p.bold("ringback demo: one job, one callback"))
	by := "the built-in emulator (no model runs)"
	if c.OpenAIURL != "" {
		by = c.OpenAIURL
	}
	fmt.Fprintf(p.w, "  %s  POST /v1/interactions  %s, background, on %s\n\n", p.dim("request"), job.Model, by)
	fmt.Fprintf(p.w, "  %s\n", p.dim("      at ms    step ms"))
	start, last := s.lines[0].at, s.lines[0].at
	for _, l := range s.lines {
		mark := p.dim("·")
		if l.what == "verified" || l.what == "acknowledged" {
			mark = p.green("✓")
		}
		fmt.Fprintf(p.w, "  %12.3f %10.3f  %s %s %s\n", ms(l.at.Sub(start)), ms(l.at.Sub(last)), mark, p.bold(fmt.Sprintf("%-13s", l.what)), p.dim(l.note))
		last = l.at
	}
	fmt.Fprintf(p.w, "\n  %s\n", p.dim("callback"))
	for _, name := range []string{webhook.HeaderID, webhook.HeaderTimestamp, webhook.HeaderSignature} {
		fmt.Fprintf(p.w, "    %s %s\n", p.dim(fmt.Sprintf("%-18s", name+":")), got.header.Get(name))
	}
	fmt.Fprintf(p.w, "    %s\n", got.body)
	fmt.Fprintf(p.w, "\n  %s  %s\n", p.dim("answer"), wrap(outputText(job), 92, "          "))
	fmt.Fprintf(p.w, "\n  %s %.1f ms from the job's end to the verified callback.\n\n", p.green("✓ verified"), ms(got.verified.Sub(s.job.Ended)))
}

// outputText is the text of the answer.
func outputText(job *genai.Interaction) string {
	var b strings.Builder
	for _, step := range job.Steps {
		for _, content := range step.Content {
			b.WriteString(content.Text)
		}
		if step.Type == genai.StepFunctionCall {
			fmt.Fprintf(&b, "%s(%s) ", step.Name, step.Arguments)
		}
	}
	for _, e := range job.Errors {
		fmt.Fprintf(&b, "%s: %s", e.Code, e.Message)
	}
	return strings.TrimSpace(b.String())
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// wrap breaks a text into lines of at most width characters.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	n := 0
	for _, word := range strings.Fields(text) {
		if l := len([]rune(word)); n > 0 && n+1+l > width {
			b.WriteString("\n" + indent)
			n = l
		} else {
			if n > 0 {
				b.WriteByte(' ')
				n++
			}
			n += l
		}
		b.WriteString(word)
	}
	return b.String()
}

// paint writes in colour on a terminal, plainly elsewhere. NO_COLOR and a dumb
// terminal are respected.
type paint struct {
	w      io.Writer
	colour bool
}

func newPaint(w io.Writer) paint {
	f, ok := w.(*os.File)
	return paint{w, ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (p paint) wrap(code, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p paint) bold(text string) string  { return p.wrap("1", text) }
func (p paint) dim(text string) string   { return p.wrap("2", text) }
func (p paint) green(text string) string { return p.wrap("32", text) }
func (p paint) red(text string) string   { return p.wrap("31", text) }

func (p paint) yellow(text string) string { return p.wrap("33", text) }
