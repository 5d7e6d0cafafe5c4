package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"ringback.dev/internal/post"
	"ringback.dev/webhook"
)

type listenCommand struct {
	client
	signing
	ForwardTo string        `required:"" placeholder:"URL" help:"Address of your receiver, such as http://localhost:3000/hook."`
	Only      []string      `placeholder:"TYPE" help:"Only events of these types, separated by commas."`
	Since     string        `placeholder:"WHEN" help:"Where to begin: now, start, an age (2h), a time, or a cursor. Without it: where the earlier run ended, or now."`
	Print     bool          `help:"Print the body of each event too."`
	Record    string        `placeholder:"FILE" help:"Append what was sent to this file, a JSON object per line; ringback replay sends it again."`
	Retries   int           `default:"10" help:"How often an event is tried again that was not accepted. While nobody listens at the address nothing is given up, except with --limit."`
	Timeout   time.Duration `default:"30s" help:"How long your receiver may take."`
	Limit     int           `placeholder:"N" help:"End when so many events were accepted or given up; the exit code is 1 if one was given up."`
	State     string        `placeholder:"FILE" help:"File that remembers where to go on; by default one for each server and receiver, in your configuration folder."`
}

// Help shows more than the flags.
func (listenCommand) Help() string {
	return `Every event of the project goes to your receiver as the server would send it, signed with a development secret, without registering a webhook: a tunnel
is not needed, and the server may be elsewhere. An event has the same webhook-id each time. What is not accepted is tried again; while nobody listens at
the address, listen waits for it. With --json each attempt is a line as in a recording.

  ringback listen --forward-to http://localhost:3000/hook
  ringback listen --forward-to http://localhost:3000/hook --only batch.failed --print
  ringback listen --forward-to http://localhost:3000/hook --since 2h --record events.jsonl

Set up your receiver with the secret that is printed; it stays the same on this machine. ringback trigger makes events happen, ringback replay sends a
recording again, ringback examine grades the receiver.`
}

// listened is what is remembered between runs.
type listened struct {
	// Cursor is behind all events that are settled, Event the id of the last of
	// them: a server that does not know it has other data.
	Cursor string `json:"cursor"`
	Event  string `json:"event,omitempty"`
}

// retryWaits are the waits after the first, second, … attempt; the last repeats.
var retryWaits = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second}

// forwarded is an event on its way to the receiver.
type forwarded struct {
	eventAnswer
	cursor   string
	attempts int
	due      time.Time
	settled  bool // Accepted, or given up.
}

// id is the webhook-id. It is made from the event's, so that it is the same in
// every run.
func (f *forwarded) id() string { return "msg_" + strings.TrimPrefix(f.ID, "evt_") }

// forwarder is one run of listen. Its fields are touched by Run's goroutine only.
type forwarder struct {
	*listenCommand
	s      *streams
	paint  paint
	sender post.Sender
	file   string // Of the state.
	state  listened
	record *os.File
	from   string // A time: older events are passed over. Empty for all.

	open            []*forwarded // Not settled, or behind one that is not; in the order of the feed.
	away            *forwarded   // The one that met nobody at the address; the others wait for it.
	accepted, given int
}

func (c *listenCommand) Run(ctx context.Context, s *streams) (err error) {
	if err := post.Check(c.ForwardTo); err != nil {
		return fmt.Errorf("--forward-to: %w", err)
	}
	if c.Retries < 0 || c.Limit < 0 || c.Timeout <= 0 {
		return errors.New("--retries and --limit can't be negative, and --timeout must be longer than 0s")
	}
	f := &forwarder{listenCommand: c, s: s, paint: newPaint(s.out)}
	f.sender.Timeout = c.Timeout
	var own *webhook.Secret
	if f.sender.Signers, own, err = c.signers(); err != nil {
		return err
	}
	if c.Record != "" {
		if f.record, err = os.OpenFile(c.Record, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			return fmt.Errorf("--record: %w", err)
		}
		defer func() { err = errors.Join(err, f.record.Close()) }()
	}
	from, err := f.begin(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	arrived := make(chan *forwarded)
	ended := make(chan error, 1)
	opened := make(chan struct{}, 1)
	q := url.Values{"after": {f.state.Cursor}}
	set(q, "types", strings.Join(c.Only, ","))
	set(q, "from", f.from)
	on := subscription{
		opened: func() {
			select {
			case opened <- struct{}{}:
			default:
			}
		},
		last: f.state.Event,
		event: func(cursor, _ string, e eventAnswer) error {
			select {
			case arrived <- &forwarded{eventAnswer: e, cursor: cursor}:
			case <-ctx.Done():
			}
			return nil
		},
	}
	go func() { ended <- c.subscribe(ctx, s, q, on); close(ended) }()
	select {
	case <-opened:
	case err := <-ended:
		return err
	}
	f.greet(from, own)
	err = f.loop(ctx, arrived, ended)
	cancel()
	<-ended
	return errors.Join(err, f.end())
}

const (
	// maxOpen bounds how many events wait to be tried again. Beyond it new ones wait
	// at the server.
	maxOpen = 1000
	// lookAgain is the time between two looks whether somebody listens now.
	lookAgain = time.Second
)

// loop forwards events until ctx or the stream ends, or the limit is reached.
func (f *forwarder) loop(ctx context.Context, arrived <-chan *forwarded, ended <-chan error) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for f.Limit == 0 || f.accepted+f.given < f.Limit {
		next := f.next()
		wait := time.Hour
		if next != nil {
			wait = time.Until(next.due)
		}
		timer.Reset(wait)
		arrived := arrived
		if f.away != nil || len(f.open) >= maxOpen {
			arrived = nil
		}
		var e *forwarded
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case e = <-arrived:
			f.open = append(f.open, e)
		case <-timer.C:
			if next == nil {
				continue
			}
			e = next
		}
		if err := f.forward(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// next is the event that is to be tried again first.
func (f *forwarder) next() *forwarded {
	if f.away != nil {
		return f.away
	}
	var next *forwarded
	for _, e := range f.open {
		if !e.settled && (next == nil || e.due.Before(next.due)) {
			next = e
		}
	}
	return next
}

// forward makes one attempt.
func (f *forwarder) forward(ctx context.Context, e *forwarded) error {
	body := []byte(e.Body)
	r := f.sender.Send(ctx, f.ForwardTo, e.id(), body)
	if ctx.Err() != nil && !r.OK() {
		return nil // Interrupted: it is sent again by the next run.
	}
	if r.Unreached() && f.Limit == 0 {
		// Nothing was sent, so that it is no attempt.
		told := f.away != nil
		f.away, e.due = e, time.Now().Add(lookAgain)
		if told {
			return nil
		}
		return f.tell(e, body, &r, r.Why()+"; waiting for it")
	}
	f.away = nil
	e.attempts++
	if f.record != nil {
		if err := post.NewRecord(f.ForwardTo, e.attempts, body, &r).Write(f.record); err != nil {
			return fmt.Errorf("--record: %w", err)
		}
	}
	note := ""
	switch {
	case r.OK():
		f.accepted++
		if e.attempts > 1 {
			note = fmt.Sprintf("attempt %d", e.attempts)
		}
	case e.attempts > f.Retries:
		f.given++
		note = fmt.Sprintf("%s; given up after %s", r.Why(), plural(e.attempts, "attempt"))
	default:
		wait := retryWaits[min(e.attempts, len(retryWaits))-1]
		e.due = time.Now().Add(wait)
		note = fmt.Sprintf("%s; again in %s", r.Why(), wait)
	}
	if err := f.tell(e, body, &r, note); err != nil {
		return err
	}
	if r.OK() || e.attempts > f.Retries {
		return f.settle(e)
	}
	return nil
}

// settle notes that an event is over, and remembers how far all are.
func (f *forwarder) settle(e *forwarded) error {
	e.settled = true
	n := 0
	for n < len(f.open) && f.open[n].settled {
		n++
	}
	if n == 0 {
		return nil
	}
	last := f.open[n-1]
	f.open = slices.Delete(f.open, 0, n)
	f.state = listened{Cursor: last.cursor, Event: last.ID}
	return f.save()
}

// tell prints the line of an attempt.
func (f *forwarder) tell(e *forwarded, body []byte, r *post.Result, note string) error {
	if f.JSON {
		return post.NewRecord(f.ForwardTo, e.attempts, body, r).Write(f.s.out)
	}
	p := f.paint
	_, err := fmt.Fprintf(p.w, "%s  %s  %-27s %s  %s\n", p.dim(r.At.Format("15:04:05")), p.outcome(r), e.Type, p.dim(e.id()), about(body))
	if f.Print {
		fmt.Fprintf(p.w, "          %s\n", body)
	}
	p.remark(note, r)
	return err
}

// remark prints what there is to say of a result, beneath its line: the note, and
// what the receiver answered if it did not accept.
func (p paint) remark(note string, r *post.Result) {
	if said := excerpt(string(r.Answer)); said != "" && !r.OK() {
		if note != "" {
			note += "; "
		}
		note += "it said: " + said
	}
	if note != "" {
		fmt.Fprintf(p.w, "          %s\n", p.dim(note))
	}
}

// about is what an event is about, in the words of its data.
func about(body []byte) string {
	e, err := webhook.ParseEvent(body)
	if err != nil {
		return ""
	}
	d, err := e.ParseData()
	if err != nil {
		return ""
	}
	return excerpt(d.ID)
}

// outcome shows a result's status and how long it took, in a fixed width.
func (p paint) outcome(r *post.Result) string {
	status := "---"
	if r.Status != 0 {
		status = fmt.Sprint(r.Status)
	}
	took := fmt.Sprintf("%8.1f ms", ms(r.Took))
	if r.OK() {
		return p.green("✓ "+status) + " " + took
	}
	return p.red("✗ "+status) + " " + took
}

// plural counts things.
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// begin finds out where to begin, and says it in words.
func (f *forwarder) begin(ctx context.Context) (from string, err error) {
	if f.file = f.State; f.file == "" {
		name := sha256.Sum256([]byte(strings.TrimRight(f.Server, "/") + "\x00" + f.ForwardTo))
		if f.file, err = toolsFile("listen", hex.EncodeToString(name[:6])+".json"); err != nil {
			return "", fmt.Errorf("%w; name a file with --state", err)
		}
	}
	text, err := os.ReadFile(f.file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("--state: %w", err)
	}
	if err == nil {
		if err := json.Unmarshal(text, &f.state); err != nil || f.state.Cursor == "" {
			return "", fmt.Errorf("--state: %s is not a file that listen wrote; remove it", f.file)
		}
	}
	since := f.Since
	switch {
	case since == "" && f.state.Cursor != "":
		known, err := f.knows(ctx, f.state.Event)
		if err != nil {
			return "", err
		}
		if known {
			return "where the earlier run ended", nil
		}
		from = "now: the server does not know where the earlier run ended"
	case since == "" || since == "now":
		from = "now"
	case since == "start":
		f.state = listened{Cursor: "start"}
		return "the first event that the server has", nil
	default:
		if at, err := when("since", since, time.Now()); err == nil {
			f.from, f.state = at, listened{Cursor: "start"}
			return local(at), nil
		}
		f.state = listened{Cursor: since}
		return "the cursor that you gave", nil
	}
	// An own cursor from the first moment on: nothing is missed when the connection
	// breaks before the first event. And the event that it is behind, so that other
	// data are noticed.
	var last struct{ Next, Last string }
	if err := f.manage(ctx, http.MethodGet, "events?after=now", nil, &last); err != nil {
		return "", err
	}
	f.state = listened{Cursor: last.Next, Event: last.Last}
	return from, f.save()
}

func (f *forwarder) save() error {
	text, err := json.Marshal(f.state)
	if err == nil {
		err = os.WriteFile(f.file+".new", append(text, '\n'), 0o600)
	}
	if err == nil {
		err = os.Rename(f.file+".new", f.file)
	}
	if err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	return nil
}

// greet says what goes where. Standard output is for events when they are JSON.
func (f *forwarder) greet(from string, own *webhook.Secret) {
	p := f.paint
	if f.JSON {
		p = newPaint(f.s.err)
	}
	secret := "as given"
	if own != nil {
		secret = own.Reveal() + p.dim("   for development, the same every time")
	}
	fmt.Fprintf(p.w, "\n  %s\n\n", p.bold("ringback listen"))
	for _, line := range [][2]string{{"server", f.Server}, {"receiver", f.ForwardTo}, {"secret", secret}, {"from", from}} {
		fmt.Fprintf(p.w, "  %s %s\n", p.dim(fmt.Sprintf("%-9s", line[0])), line[1])
	}
	fmt.Fprint(p.w, "\n  waiting for events; Ctrl-C ends\n\n")
}

// end sums up.
func (f *forwarder) end() error {
	p := f.paint
	if f.JSON {
		p = newPaint(f.s.err)
	}
	waiting := 0
	for _, e := range f.open {
		if !e.settled {
			waiting++
		}
	}
	text := plural(f.accepted, "event") + " accepted"
	if f.given > 0 {
		text += fmt.Sprintf(", %d given up", f.given)
	}
	if waiting > 0 {
		text += fmt.Sprintf(", %d not accepted yet", waiting)
	}
	fmt.Fprintf(p.w, "\n  %s; the next run goes on from here\n", text)
	if f.given > 0 && f.Limit > 0 {
		return silent(1)
	}
	return nil
}
