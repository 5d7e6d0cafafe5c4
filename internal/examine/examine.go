// Package examine grades a receiver of webhooks: it sends what receivers meet in
// real life, good and bad, and judges what comes back. It sees a receiver from the
// outside, as a sender does: the answers, and a count of effects if there is one.
//
// A case (cases.go and the files beside it) says what is sent, what is right, why
// it matters and how it is done well. Run runs them one after the other.
package examine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ringback.dev"
	"ringback.dev/internal/post"
	"ringback.dev/webhook"
)

// Config says who is examined and with what. URL, Event and a key of Scheme must
// be set.
type Config struct {
	URL string
	// Scheme signs what has no scheme of its own; empty means v1.
	Scheme string
	// Secrets are those that the receiver verifies v1 with, the newest first.
	Secrets []webhook.Secret
	// Key, if not nil, is the one whose public half the receiver verifies v1a with.
	Key *webhook.SigningKey
	// Token, if not nil, is the key that is in the key set that the receiver reads;
	// Issuer is who signs, and Audience the receiver's own name.
	Token    *webhook.TokenKey
	Issuer   string
	Audience string
	// Event makes the body of an event that just happened, with fresh ids, of a type
	// that the receiver acts on. Another makes one of another type about the same
	// job.
	Event   func(at time.Time) ([]byte, error)
	Another func(of []byte, at time.Time) ([]byte, error)
	// FailOnce, if not nil, changes an event so that the receiver fails when it
	// first acts on it.
	FailOnce func(body []byte) ([]byte, error)
	// Effects, if not nil, counts what the receiver did.
	Effects func(ctx context.Context) (int64, error)
	// EffectsWithin is how long an effect may take after the answer, and a receiver be
	// busy with another attempt, zero means 5 s; Settle how long it is watched whether
	// there are too many, zero means 300 ms.
	EffectsWithin, Settle time.Duration
	// Timeout bounds one message, zero means 15 s. Tolerance is how far a timestamp
	// may be from the clock, zero means five minutes.
	Timeout, Tolerance time.Duration
	// Pause is the time between the pieces of a slow body, and before a retry; zero
	// means 300 ms. Huge is the size of a huge body; zero means 32 MiB.
	Pause time.Duration
	Huge  int64
	// Only, if not empty, names the cases to run.
	Only []string
	// Transport reaches the receiver; nil means one that keeps no connection.
	Transport http.RoundTripper
}

// Verdict is the outcome of a case.
type Verdict string

// The verdicts.
const (
	Pass      Verdict = "pass"
	Fail      Verdict = "fail"
	NotJudged Verdict = "not_judged"
)

// Closed is the reason for which a case is not judged whose good message is not
// accepted.
const Closed = "a good message is not accepted, so this would say nothing"

// Exchange is a message that was sent and its answer.
type Exchange struct {
	Headers map[string]string `json:"headers"`
	// Body is the beginning of what was sent, Bytes the size of all.
	Body   string  `json:"body"`
	Bytes  int64   `json:"bytes"`
	Status int     `json:"status,omitempty"`
	Millis float64 `json:"ms"`
	Answer string  `json:"answer,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// Result is what came of one case.
type Result struct {
	Case
	Verdict Verdict `json:"verdict"`
	// Got is what came back, in words; Reason says why the verdict is not a pass.
	Got    string `json:"got,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Effects is how many there were, if they are counted and judged.
	Effects *int64 `json:"effects,omitempty"`
	// StatusOnly: effects would tell more, and are not counted.
	StatusOnly bool       `json:"status_only,omitempty"`
	Millis     float64    `json:"ms"`
	Exchanges  []Exchange `json:"exchanges,omitempty"`
}

// Report is a whole examination.
type Report struct {
	URL       string   `json:"url"`
	Results   []Result `json:"results"`
	Passed    int      `json:"passed"`
	Failed    int      `json:"failed"`
	NotJudged int      `json:"not_judged"`
	Millis    float64  `json:"ms"`
}

// FullMarks reports whether every case was judged and passed.
func (r *Report) FullMarks() bool { return r.Passed > 0 && r.Failed == 0 && r.NotJudged == 0 }

// withDefaults sets what is zero.
func (c Config) withDefaults() Config {
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&c.EffectsWithin, 5 * time.Second}, {&c.Settle, 300 * time.Millisecond}, {&c.Timeout, 15 * time.Second},
		{&c.Tolerance, webhook.DefaultTolerance}, {&c.Pause, 300 * time.Millisecond}} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if c.Huge == 0 {
		c.Huge = 32 << 20
	}
	if c.Scheme == "" {
		c.Scheme = webhook.SchemeV1
	}
	if c.Transport == nil {
		// A connection of its own for each message: a receiver that closes one must not
		// be taken for one that does not answer.
		c.Transport = &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
	}
	return c
}

// Check finds what is wrong before anything is sent.
func (c *Config) Check() error {
	if err := post.Check(c.URL); err != nil {
		return err
	}
	have := map[string]bool{webhook.SchemeV1: len(c.Secrets) > 0, webhook.SchemeV1a: c.Key != nil, webhook.SchemeJWT: c.Token != nil}
	if scheme := cmp.Or(c.Scheme, webhook.SchemeV1); !have[scheme] {
		return fmt.Errorf("there is nothing to sign %s with", scheme)
	}
	for _, name := range c.Only {
		if !slices.ContainsFunc(Cases(), func(k Case) bool { return k.Name == name }) {
			return fmt.Errorf("there is no case %q", name)
		}
	}
	return nil
}

// Run examines the receiver. report, if not nil, is called with each result as it
// comes. An error means that the examination could not be held.
func Run(ctx context.Context, c Config, report func(*Result)) (*Report, error) {
	c = c.withDefaults()
	if err := c.Check(); err != nil {
		return nil, err
	}
	if c.Effects != nil {
		if _, err := c.Effects(ctx); err != nil {
			return nil, fmt.Errorf("count the effects: %w", err)
		}
	}
	begun := time.Now()
	all := &Report{URL: c.URL}
	closed := make(map[string]bool) // Schemes of which the good message was not accepted.
	var slowest time.Duration
	reached, gone := false, "" // Whether anything was answered, and the case that the receiver ended in.
	for _, k := range cases() {
		if len(c.Only) > 0 && !slices.Contains(c.Only, k.Name) || !k.applies(&c) {
			continue
		}
		x := &exam{Config: &c, slowest: &slowest, sender: &post.Sender{Timeout: c.Timeout, Transport: c.Transport}, Result: Result{Case: k.Case}, scheme: k.scheme}
		if x.scheme == "" {
			x.scheme = c.Scheme
		}
		switch {
		case gone != "":
			x.notJudged("the receiver is gone since " + gone)
		case closed[x.scheme]:
			x.notJudged(Closed)
		default:
			x.run(ctx, k.run)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		reached = reached || x.reached
		if x.unreachable != "" {
			if !reached {
				return nil, fmt.Errorf("the receiver can't be reached: %s", x.unreachable)
			}
			x.fail("%s any more: the receiver has ended", x.unreachable)
			gone = k.Name
		}
		if k.gate && x.Verdict == Fail {
			closed[x.scheme] = true
		}
		switch x.Verdict {
		case Pass:
			all.Passed++
		case Fail:
			all.Failed++
		default:
			all.NotJudged++
		}
		all.Results = append(all.Results, x.Result)
		if report != nil {
			report(&x.Result)
		}
	}
	if len(all.Results) == 0 {
		return nil, errors.New("none of the cases can be run with these keys")
	}
	all.Millis = millis(time.Since(begun))
	return all, nil
}

// exam is one case as it runs.
type exam struct {
	*Config
	sender *post.Sender
	scheme string // That signs.

	mu sync.Mutex // Guards Result, while messages are sent at once.
	Result

	before int64 // Effects when the case began.
	// slowest is how long an effect has taken after its answer, at most, in all cases.
	slowest     *time.Duration
	reached     bool   // Something was answered.
	unreachable string // Why nothing can be sent at all.
}

func (x *exam) run(ctx context.Context, do func(context.Context, *exam) error) {
	begun := time.Now()
	x.Verdict = Pass
	var err error
	if x.Config.Effects != nil {
		x.before, err = x.Config.Effects(ctx)
	}
	if err == nil {
		err = do(ctx, x)
	}
	x.Millis = millis(time.Since(begun))
	if err != nil {
		x.notJudged(err.Error())
	}
}

// fail notes why the case failed; the first reason is the one that is told.
func (x *exam) fail(format string, args ...any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.Verdict != Fail {
		x.Verdict, x.Reason = Fail, fmt.Sprintf(format, args...)
	}
}

func (x *exam) notJudged(why string) {
	if x.Verdict != Fail {
		x.Verdict, x.Reason = NotJudged, why
	}
}

// message is what is sent.
type message struct {
	id   string
	at   time.Time // Its timestamp.
	body []byte
	// sent, if not nil, is sent instead of what was signed.
	sent []byte
	// edit changes the headers once they are signed.
	edit func(http.Header)
	note string // Said before what came back.
}

// event makes a message about an event that just happened.
func (x *exam) event() (message, error) {
	body, err := x.Event(time.Now())
	return x.about(body), err
}

// about makes a message of a body.
func (x *exam) about(body []byte) message {
	now := time.Now()
	return message{id: string(ringback.NewID("msg", now)), at: now, body: body}
}

// sign makes the headers of a message.
func (x *exam) sign(m *message) (http.Header, error) {
	var signature string
	var err error
	switch x.scheme {
	case webhook.SchemeV1:
		signature = webhook.Sign(m.id, m.at, m.body, x.Secrets[0])
	case webhook.SchemeV1a:
		signature = webhook.Sign(m.id, m.at, m.body, *x.Key)
	default:
		signature, err = x.Token.Sign(m.id, m.at, m.body, x.Issuer, []string{x.Audience})
	}
	h := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"ringback-examine"},
		"Webhook-Id": {m.id}, "Webhook-Timestamp": {unix(m.at)}, "Webhook-Signature": {signature}}
	if m.edit != nil {
		m.edit(h)
	}
	return h, err
}

// send signs and posts a message.
func (x *exam) send(ctx context.Context, m message) (post.Result, error) {
	h, err := x.sign(&m)
	if err != nil {
		return post.Result{}, err
	}
	body := m.body
	if m.sent != nil {
		body = m.sent
	}
	r := x.sender.SendAs(ctx, x.URL, h, body)
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	x.note(m.note, h, body, int64(len(body)), &r)
	return r, nil
}

// note keeps an exchange, and says in words what came back.
func (x *exam) note(what string, h http.Header, body []byte, size int64, r *post.Result) {
	e := Exchange{Headers: make(map[string]string), Body: string(body[:min(len(body), 2048)]), Bytes: size, Status: r.Status, Millis: millis(r.Took), Answer: excerpt(r.Answer)}
	for name, values := range h {
		e.Headers[strings.ToLower(name)] = strings.Join(values, " ")
	}
	got := "no answer"
	if r.Status != 0 {
		got = strconv.Itoa(r.Status)
	}
	if r.Err != nil {
		e.Error = r.Why()
		got = e.Error
	}
	switch {
	case r.Err == errHungUp:
		got = what
	case what != "":
		got = what + ": " + got
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.Exchanges = append(x.Exchanges, e)
	x.reached = x.reached || r.Status != 0
	if r.Unreached() {
		x.unreachable = r.Why()
	}
	if x.Got != "" {
		x.Got += ", "
	}
	x.Got += got
}

// accepted judges the answer to a message that must be accepted.
func (x *exam) accepted(r *post.Result) bool {
	if r.OK() {
		return true
	}
	x.fail("%s", unaccepted(r))
	return false
}

// unaccepted says what an answer other than 2xx does to a good message.
func unaccepted(r *post.Result) string {
	switch s := r.Status; {
	case s == 0:
		return r.Why() + ": the sender counts that as a failure and tries again"
	case s == http.StatusGone:
		return "answered 410 Gone, which disables the webhook"
	case s == http.StatusUnauthorized, s == http.StatusForbidden:
		return fmt.Sprintf("answered %d: it took a good message for a forged one", s)
	case s == http.StatusNotFound, s == http.StatusMethodNotAllowed:
		return fmt.Sprintf("answered %d: is this the receiver's address, and does it take POST?", s)
	case s >= 300 && s < 400:
		return fmt.Sprintf("answered %d: senders don't follow redirects, so the event is lost", s)
	default:
		return fmt.Sprintf("answered %d: the sender tries again for 24 hours, then gives up", s)
	}
}

// refused judges the answer to a message that must be refused.
func (x *exam) refused(r *post.Result) bool {
	switch s := r.Status; {
	case s >= 400 && s < 500:
		return true
	case r.OK():
		x.fail("answered %d: it accepted the message", s)
	case s == 0:
		x.fail("%s: it did not refuse the message, it broke over it", r.Why())
	case s < 400:
		x.fail("answered %d: a redirect is no refusal", s)
	default:
		x.fail("answered %d: it broke over the message instead of refusing it", s)
	}
	return false
}

// acted judges how many effects the case had. Without a count it notes that only
// the answers were judged.
func (x *exam) acted(ctx context.Context, want int64) error {
	if x.Config.Effects == nil {
		x.StatusOnly = x.Group == groupOnce
		return nil
	}
	n, err := x.effects(ctx, want)
	if err != nil {
		return err
	}
	x.Result.Effects = &n
	switch {
	case n < want && want == 1:
		x.fail("it accepted the message and did nothing: the event is lost")
	case n < want:
		x.fail("it acted %s, %d were due: an event is lost", times(n), want)
	case n > want && want == 0:
		x.fail("it acted on the message, although it refused it")
	case n > want:
		x.fail("it acted %s, %s was due", times(n), times(want))
	}
	return nil
}

// effects waits until there were as many as wanted, then a little longer for more,
// and returns how many there were.
func (x *exam) effects(ctx context.Context, want int64) (int64, error) {
	var n int64
	tick := time.NewTicker(max(x.Settle/10, time.Millisecond))
	defer tick.Stop()
	begun := time.Now()
	end := begun.Add(x.EffectsWithin)
	for {
		now, err := x.Config.Effects(ctx)
		if err != nil {
			return 0, fmt.Errorf("count the effects: %w", err)
		}
		if n = now - x.before; n >= want || time.Now().After(end) {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	if n > 0 && n >= want {
		*x.slowest = max(*x.slowest, time.Since(begun))
	}
	if err := x.settle(ctx); err != nil {
		return 0, err
	}
	now, err := x.Config.Effects(ctx)
	return now - x.before, err
}

// settle waits for as long as an effect may take that is still to come: longer if
// others took long.
func (x *exam) settle(ctx context.Context) error {
	return wait(ctx, max(x.Settle, min(2**x.slowest, x.EffectsWithin)))
}

// wait lets time pass.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func times(n int64) string {
	switch n {
	case 0:
		return "not at all"
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// excerpt is the beginning of an answer on one line.
func excerpt(answer []byte) string {
	text := strings.Join(strings.FieldsFunc(strings.ToValidUTF8(string(answer), "?"), func(r rune) bool { return r <= ' ' || r >= 0x7f && r < 0xa0 }), " ")
	if r := []rune(text); len(r) > 200 {
		return string(r[:200]) + "…"
	}
	return text
}
