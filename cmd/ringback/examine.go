package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"ringback.dev"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/examine"
	"ringback.dev/internal/jsjson"
	"ringback.dev/webhook"
)

type examineCommand struct {
	signing
	URL  string   `arg:"" optional:"" help:"Address of the receiver, for example http://localhost:3000/hook."`
	List bool     `short:"l" help:"List the cases."`
	Case []string `placeholder:"NAME" help:"Only these cases, separated by commas; put valid among them."`

	Type string   `default:"interaction.completed" placeholder:"TYPE" help:"Type of the events that are sent: one that the receiver acts on."`
	Set  []string `sep:"none" placeholder:"PATH=VALUE" help:"Set a member of the events, such as data.id to a job that your receiver finds; repeat for each."`

	Effects        string        `placeholder:"URL" help:"Address that counts what the receiver did: a number, a JSON array, or an object with a number count."`
	EffectsCommand string        `placeholder:"COMMAND" help:"Shell command that prints such a count; any other text counts by its lines."`
	EffectsWithin  time.Duration `default:"5s" help:"How long an effect may take after the answer, and your receiver be busy with another attempt."`
	Settle         time.Duration `default:"300ms" help:"How long to look whether there are too many effects."`
	FailSet        []string      `sep:"none" placeholder:"PATH=VALUE" help:"Makes your receiver's work fail at an event's first attempt, such as data.examine_fail=once."`

	Scheme     string        `enum:"v1,v1a,jwt" default:"v1" help:"How the messages are signed: v1 by --secret, v1a by a --secret whsk_…, jwt by a key set."`
	JWKSListen string        `name:"jwks-listen" placeholder:"HOST:PORT" help:"Serve a key set here, which the receiver verifies tokens with, and run the cases of tokens."`
	V1a        bool          `name:"v1a" env:"RINGBACK_V1A" help:"Put an Ed25519 key into that key set, too, and run the cases of v1a."`
	JWTKey     string        `name:"jwt-key" placeholder:"FILE" help:"PEM of the RSA key that tokens are signed with, instead of this machine's own."`
	JWTKid     string        `name:"jwt-kid" placeholder:"KID" help:"Its kid in your key set."`
	Audience   string        `placeholder:"URL" help:"The receiver's own name, which tokens are for; by default its address."`
	Timeout    time.Duration `default:"15s" help:"How long the receiver may take."`

	Verbose bool   `short:"v" help:"Tell of every case what was sent, what is right, why, and how."`
	JSON    bool   `name:"json" help:"Print the report as JSON."`
	JUnit   string `name:"junit" placeholder:"FILE" help:"Write the report for a CI system, too."`
	Strict  bool   `help:"What could not be judged counts as failed."`
}

// Help shows more than the flags.
func (examineCommand) Help() string {
	return `Sends your receiver what receivers meet: good messages in unusual forms, forged ones, old ones, doubles one after the other and at once, events out of
order, broken connections, failures. Each case says what was sent, what came back, and why it matters. The exit code is 1 if a case failed.

  ringback examine http://localhost:3000/hook --secret whsec_…
  ringback examine http://localhost:3000/hook --effects http://localhost:3000/effects
  ringback examine URL --effects-command 'sqlite3 app.db "SELECT count(*) FROM paid"'
  ringback examine URL --fail-set data.fail=once       your work fails at the first attempt
  ringback examine URL --jwks-listen 127.0.0.1:9876    tokens too; your receiver reads this key set
  ringback examine URL --junit report.xml --json       for CI

Whether a double was acted on twice is not in an answer: --effects or --effects-command counts what your receiver did. Without it those cases are judged by
status only, and say so. Examine a receiver that nobody else uses meanwhile, and never one in production: its work is done.`
}

func (c *examineCommand) Run(ctx context.Context, s *streams) (err error) {
	if c.List {
		t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "CASE\tSENT\tRIGHT")
		for _, k := range examine.Cases() {
			fmt.Fprintf(t, "%s\t%s\t%s\n", k.Name, k.Sent, k.Want)
		}
		return t.Flush()
	}
	if c.URL == "" {
		return errors.New("which receiver? ringback examine URL; --list shows the cases")
	}
	e, said, err := c.config()
	if err != nil {
		return err
	}
	if c.JWKSListen != "" {
		stop, address, err := c.publish(&e)
		if err != nil {
			return err
		}
		defer stop()
		said = append(said, [2]string{"key set", address})
	}
	if err := e.Check(); err != nil {
		return err
	}
	var junit *os.File
	if c.JUnit != "" { // Now, and not when all is done.
		if junit, err = os.Create(c.JUnit); err != nil {
			return fmt.Errorf("--junit: %w", err)
		}
		defer junit.Close()
	}
	p := newPaint(s.out)
	if !c.JSON {
		fmt.Fprintf(p.w, "\n  %s\n\n", p.bold("ringback examine "+c.URL))
		for _, line := range said {
			fmt.Fprintf(p.w, "  %s %s\n", p.dim(fmt.Sprintf("%-8s", line[0])), line[1])
		}
	}
	group, closed := "", 0
	tell := func(r *examine.Result) { // Of nil, what is left to tell.
		if closed > 0 && (r == nil || r.Group != group || r.Reason != examine.Closed) {
			fmt.Fprintf(p.w, "  %s %-19s %s\n", p.yellow("-"), plural(closed, "case"), p.yellow("not judged: "+examine.Closed))
			closed = 0
		}
		if r == nil {
			return
		}
		if r.Group != group {
			group = r.Group
			fmt.Fprintf(p.w, "\n  %s\n", p.bold(group))
		}
		if r.Reason == examine.Closed && !c.Verbose {
			closed++ // They have one line together.
			return
		}
		c.show(p, r)
	}
	if c.JSON {
		tell = func(*examine.Result) {}
	}
	report, err := examine.Run(ctx, e, tell)
	if err != nil {
		if junit != nil {
			err = errors.Join(err, os.Remove(c.JUnit)) // An empty file is no report.
		}
		return err
	}
	tell(nil)
	if junit != nil {
		if err := errors.Join(report.JUnit(junit), junit.Close()); err != nil {
			return fmt.Errorf("--junit: %w", err)
		}
	}
	if c.JSON {
		err = printJSON(s, report)
	} else {
		c.sum(p, report)
	}
	if err == nil && (report.Failed > 0 || c.Strict && report.NotJudged > 0) {
		err = silent(1)
	}
	return err
}

// config is the examination that the flags ask for, and what is said of it before.
func (c *examineCommand) config() (e examine.Config, said [][2]string, err error) {
	e = examine.Config{URL: c.URL, Scheme: c.Scheme, Audience: c.Audience, EffectsWithin: c.EffectsWithin, Settle: c.Settle, Timeout: c.Timeout, Only: c.Case}
	if e.Audience == "" {
		e.Audience = c.URL
	}
	with, own, err := c.signers()
	if err != nil {
		return e, nil, err
	}
	for _, s := range with {
		switch s := s.(type) {
		case webhook.Secret:
			e.Secrets = append(e.Secrets, s)
		case webhook.SigningKey:
			if e.Key != nil {
				return e, nil, errors.New("--secret: give one key whsk_… at most")
			}
			e.Key = &s
			said = append(said, [2]string{"v1a", s.Public().String()})
		}
	}
	if own != nil {
		said = append(said, [2]string{"secret", own.Reveal() + ", this machine's development secret"})
	}
	kind := ringback.EventType(c.Type)
	if kind != ringback.Ping {
		if kind, err = ringback.ParseEventType(c.Type); err != nil {
			return e, nil, fmt.Errorf("--type: %w", err)
		}
	}
	e.Event = func(at time.Time) ([]byte, error) {
		body, err := emit.Sample(kind, at, "http://127.0.0.1:8080")
		if err != nil {
			return nil, err
		}
		return edit("--set", body, c.Set)
	}
	sample, err := e.Event(time.Now())
	if err != nil {
		return e, nil, err
	}
	e.Another = func(of []byte, at time.Time) ([]byte, error) {
		other := ringback.JobStalled
		switch kind {
		case ringback.InteractionCompleted:
			other = ringback.InteractionIncomplete // It comes beside it, in real life.
		case ringback.JobStalled:
			other = ringback.InteractionCompleted
		}
		return jsjson.Set(of, "type", jsjson.AppendString(nil, string(other)))
	}
	if len(c.FailSet) > 0 {
		e.FailOnce = func(body []byte) ([]byte, error) { return edit("--fail-set", body, c.FailSet) }
		if _, err := e.FailOnce(sample); err != nil {
			return e, nil, err
		}
	}
	switch {
	case c.Effects != "" && c.EffectsCommand != "":
		return e, nil, errors.New("give one of --effects and --effects-command")
	case c.Effects != "":
		e.Effects = examine.EffectsAt(c.Effects)
		said = append(said, [2]string{"effects", c.Effects})
	case c.EffectsCommand != "":
		e.Effects = examine.EffectsBy(c.EffectsCommand)
		said = append(said, [2]string{"effects", c.EffectsCommand})
	default:
		said = append(said, [2]string{"effects", "not counted: what was done twice, or not at all, is not seen (--effects)"})
	}
	if c.JWTKey != "" || c.JWKSListen != "" {
		if e.Token, err = c.tokenKey(); err != nil {
			return e, nil, err
		}
	}
	switch {
	case c.V1a && c.JWKSListen == "":
		return e, nil, errors.New("--v1a puts a key into the key set: give --jwks-listen too, or a --secret whsk_…")
	case c.Scheme == webhook.SchemeJWT && e.Token == nil:
		return e, nil, errors.New("--scheme jwt needs --jwks-listen or --jwt-key")
	case c.Scheme == webhook.SchemeV1a && e.Key == nil && !c.V1a:
		return e, nil, errors.New("--scheme v1a needs a --secret whsk_…, or --jwks-listen and --v1a")
	case c.Scheme == webhook.SchemeV1 && len(e.Secrets) == 0:
		return e, nil, errors.New("--scheme v1 needs a --secret whsec_…; for a key only, --scheme v1a")
	}
	return e, said, nil
}

// tokenKey is the RSA key of tokens: this machine's own, made once, so that a
// receiver that keeps the key set knows it the next time too.
func (c *examineCommand) tokenKey() (*webhook.TokenKey, error) {
	var text []byte
	var err error
	if c.JWTKey != "" {
		text, err = os.ReadFile(c.JWTKey)
	} else {
		text, err = remembered("dev-rsa.pem", func() []byte {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				return nil
			}
			return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
		})
	}
	if err != nil {
		return nil, fmt.Errorf("--jwt-key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("--jwt-key: the file holds no PEM of an RSA private key")
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		any, e := x509.ParsePKCS8PrivateKey(block.Bytes)
		var ok bool
		if key, ok = any.(*rsa.PrivateKey); e != nil || !ok {
			return nil, errors.New("--jwt-key: the file holds no PEM of an RSA private key")
		}
	}
	kid := c.JWTKid
	if kid == "" {
		sum := sha256.Sum256(key.N.Bytes())
		kid = "examine-" + hex.EncodeToString(sum[:4])
	}
	return &webhook.TokenKey{ID: kid, Key: key}, nil
}

// jwksPath is where ringback and the Gemini API publish their keys.
const jwksPath = "/.well-known/jwks.json"

// publish serves the key set until stop is called.
func (c *examineCommand) publish(e *examine.Config) (stop func(), address string, err error) {
	if c.V1a && e.Key == nil {
		text, err := remembered("dev-ed25519", func() []byte { return []byte(webhook.NewSigningKey().Reveal() + "\n") })
		if err != nil {
			return nil, "", err
		}
		key, err := webhook.ParseSigningKey(strings.TrimSpace(string(text)))
		if err != nil {
			return nil, "", err
		}
		e.Key = &key
	}
	var published *webhook.SigningKey
	if c.V1a {
		published = e.Key
	}
	set, err := examine.JWKS(e.Token, published)
	if err != nil {
		return nil, "", err
	}
	l, err := net.Listen("tcp", c.JWKSListen)
	if err != nil {
		return nil, "", fmt.Errorf("--jwks-listen: %w", err)
	}
	e.Issuer = "http://" + l.Addr().String()
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(set) // The reader has gone if this fails.
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }() // Ends when closed.
	return func() { _ = srv.Close(); <-done }, e.Issuer + jwksPath, nil
}

// show prints one result.
func (c *examineCommand) show(p paint, r *examine.Result) {
	mark, note := p.green("✓"), gathered(r.Got)
	switch {
	case r.Verdict == examine.Fail:
		mark, note = p.red("✗"), p.red(r.Reason)
	case r.Verdict == examine.NotJudged:
		mark, note = p.yellow("-"), p.yellow("not judged: "+r.Reason)
	case r.StatusOnly:
		note += p.dim("  by status only")
	case r.Effects != nil:
		note += p.dim("  " + plural(int(*r.Effects), "effect"))
	}
	fmt.Fprintf(p.w, "  %s %-19s %s\n", mark, r.Name, note)
	if r.Verdict != examine.Fail && !c.Verbose {
		return
	}
	lines := [][2]string{{"sent", r.Sent}, {"right", r.Want}, {"back", gathered(r.Got)}, {"why", r.Why}, {"how", r.Fix}}
	if said := answered(r); said != "" && r.Verdict == examine.Fail {
		lines = append(lines, [2]string{"answer", excerpt(said)})
	}
	for _, line := range lines {
		if line[1] != "" {
			fmt.Fprintf(p.w, "      %s %s\n", p.dim(fmt.Sprintf("%-6s", line[0])), wrap(line[1], 92, "             "))
		}
	}
}

// answered is the text of the last answer that has one.
func answered(r *examine.Result) string {
	for i := len(r.Exchanges) - 1; i >= 0; i-- {
		if r.Exchanges[i].Answer != "" {
			return r.Exchanges[i].Answer
		}
	}
	return ""
}

// gathered puts equal answers that follow each other together.
func gathered(got string) string {
	var out []string
	parts := strings.Split(got, ", ")
	for i := 0; i < len(parts); {
		n := 1
		for i+n < len(parts) && parts[i+n] == parts[i] {
			n++
		}
		if n > 1 {
			out = append(out, fmt.Sprintf("%d × %s", n, parts[i]))
		} else {
			out = append(out, parts[i])
		}
		i += n
	}
	return strings.Join(out, ", ")
}

// sum prints the marks.
func (c *examineCommand) sum(p paint, r *examine.Report) {
	text := fmt.Sprintf("%d of %d passed", r.Passed, len(r.Results))
	if r.Failed > 0 {
		text += ", " + p.red(fmt.Sprintf("%d failed", r.Failed))
	}
	if r.NotJudged > 0 {
		text += ", " + p.yellow(fmt.Sprintf("%d not judged", r.NotJudged))
	}
	statusOnly := 0
	for i := range r.Results {
		if r.Results[i].StatusOnly && r.Results[i].Verdict == examine.Pass {
			statusOnly++
		}
	}
	switch {
	case statusOnly > 0:
		text += fmt.Sprintf(", %d of them by status only", statusOnly)
	case r.FullMarks() && len(c.Case) == 0:
		text = p.green("✓ full marks: ") + text
	}
	fmt.Fprintf(p.w, "\n  %s\n\n", text)
}
