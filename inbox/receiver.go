package inbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"ringback.dev/webhook"
)

// Func works on a message, in the background. It is called at least once for
// each: again when it fails, and again when the process died before its success
// was stored. With Once, under the entry's id (and its Source, where several share
// a table), its effect is there exactly once.
// It should return when ctx is done. It must not change the entry.
type Func func(ctx context.Context, e *Entry) error

// Receiver takes in messages over HTTP and works on them. Handler makes one; its
// fields are set before it is used, and zero values mean what the comments say.
type Receiver struct {
	// Source names the receiver among those that share a store. A receiver works on
	// its own entries only.
	Source string

	// MaxBody bounds a body's bytes; 0 means webhook.MaxBody, 1 MiB.
	MaxBody int64
	// BodyTimeout is how long a body may take to arrive; 0 means 10 s.
	BodyTimeout time.Duration
	// AcceptTimeout, if not 0, is how long the store may take until the sender is told
	// to come again. The engines give up by themselves after 10 s.
	AcceptTimeout time.Duration

	// Workers is how many calls of Func run at once; 0 means 8.
	Workers int
	// Timeout bounds one call by its context; 0 means 1 min.
	Timeout time.Duration
	// Delays are the waits after the first, second, … failed attempt, each spread
	// by ± 20 %. When there is none left the entry is a dead letter. nil means
	// DefaultDelays.
	Delays []time.Duration
	// Lease is how long after this process died another takes over its entries, or
	// itself when it was started again; 0 means 30 s. Leases of entries that are
	// worked on are extended, however long that takes.
	Lease time.Duration
	// Poll is how often the store is asked for work that nothing tells of: entries
	// that another process accepted, retried or lost, and retries beside the one that
	// is due first; 0 means 1 s.
	Poll time.Duration
	// Grace is how long calls under way may go on when Run is to end; 0 means 10 s.
	Grace time.Duration

	// KeepDone is how long entries that are done can be looked at; 0 means 7 days.
	KeepDone time.Duration
	// Remember is how long the ids of entries that are done or purged are remembered
	// after that; 0 means the constant Remember, 38 days. See there.
	Remember time.Duration

	// Log hears of failures and refusals; nil means slog.Default().
	Log *slog.Logger
	// OnRequest, if not nil, is told of every answered request: its status, and the
	// error behind a refusal, which wraps one of package webhook's when the message
	// did not verify.
	OnRequest func(status int, first bool, took time.Duration, err error)
	// OnAttempt, if not nil, is told of every attempt that came to an end.
	OnAttempt func(e *Entry, o Outcome)

	verifier *webhook.Verifier
	store    Store
	fn       Func
	work     work
}

// DefaultDelays makes 11 attempts, the last one some 16 hours after the first.
func DefaultDelays() []time.Duration {
	return []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour}
}

// Handler returns a receiver of the messages that the verifier accepts. It
// stores them, and answers:
//
//   - 204 when the message is stored, durably, or was stored before;
//   - 401 when it is not signed as it must be, or not just now; 400 when a header
//     is missing or the body broke off; without saying more than that, since a
//     forger would learn from it: the log has the reason;
//   - 405, 408, 413 for another method, a body that takes too long or is too large;
//   - 503 when it can't be stored or the sender's keys can't be had, so that the
//     sender comes again.
//
// Nothing else is on the path of the request. fn is called by Run, which must be
// running, here or in another process with the same store and Source. v may be nil
// if messages come by Accept alone.
//
//	hook := inbox.Handler(verifier, store, fn)
//	go hook.Run(ctx)
//	http.Handle("/hook", hook)
func Handler(v *webhook.Verifier, s Store, fn Func) *Receiver {
	return &Receiver{verifier: v, store: s, fn: fn, work: work{wake: make(chan struct{}, 1)}}
}

func orDefault[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (r *Receiver) log() *slog.Logger {
	if r.Log != nil {
		return r.Log
	}
	return slog.Default()
}

// refusal is an answer other than 204.
type refusal struct {
	status int
	text   string
	cause  error
}

// ServeHTTP implements http.Handler.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	begin := time.Now()
	first, no := r.receive(w, q)
	status, err := http.StatusNoContent, error(nil)
	if no == nil {
		w.WriteHeader(status)
	} else {
		status, err = no.status, no.cause
		r.refuse(w, no)
	}
	if r.OnRequest != nil {
		r.OnRequest(status, first, time.Since(begin), err)
	}
}

func (r *Receiver) refuse(w http.ResponseWriter, no *refusal) {
	level := slog.LevelWarn
	switch no.status {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	case http.StatusRequestTimeout:
		w.Header().Set("Connection", "close")
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
		level = slog.LevelError
	}
	r.log().LogAttrs(context.Background(), level, "message refused", slog.String("source", r.Source), slog.Int("status", no.status), slog.Any("error", no.cause))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(no.status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"message": no.text}}) // The sender has gone if this fails.
}

// retryAfter is in how many seconds a sender is asked to come again.
const retryAfter = 10

func (r *Receiver) receive(w http.ResponseWriter, q *http.Request) (first bool, no *refusal) {
	if q.Method != http.MethodPost {
		return false, &refusal{http.StatusMethodNotAllowed, "webhooks are sent with POST", errors.New("method " + q.Method)}
	}
	body, no := r.read(w, q)
	if no != nil {
		return false, no
	}
	m, err := r.verifier.VerifyContext(q.Context(), q.Header, body)
	switch {
	case err == nil:
	case errors.Is(err, webhook.ErrKeySet):
		return false, &refusal{http.StatusServiceUnavailable, "the message can't be verified just now", err}
	case errors.Is(err, webhook.ErrMissingHeader):
		return false, &refusal{http.StatusBadRequest, "webhook-id, webhook-timestamp and webhook-signature are needed", err}
	default:
		return false, &refusal{http.StatusUnauthorized, "the message is not signed as it must be", err}
	}
	if err := CheckID(m.ID); err != nil {
		return false, &refusal{http.StatusBadRequest, "webhook-id must be printable ASCII, 512 bytes at most", err}
	}
	// A sender that hangs up has no say in whether the message is stored, and one that
	// is stored is worked on at once.
	ctx := context.WithoutCancel(q.Context())
	if r.AcceptTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.AcceptTimeout)
		defer cancel()
	}
	first, err = r.Accept(ctx, m)
	if err != nil {
		return false, &refusal{http.StatusServiceUnavailable, "the message can't be stored just now", err}
	}
	return first, nil
}

// read reads the raw body.
func (r *Receiver) read(w http.ResponseWriter, q *http.Request) ([]byte, *refusal) {
	limit := orDefault(r.MaxBody, webhook.MaxBody)
	tooLarge := &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", limit), errors.New("the body is too large")}
	if q.ContentLength > limit {
		return nil, tooLarge
	}
	// Not every ResponseWriter has deadlines; then the server's own must do.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(orDefault(r.BodyTimeout, 10*time.Second)))
	reader := http.MaxBytesReader(w, q.Body, limit)
	// A large body gets its memory as it comes: a header costs a forger nothing.
	var b bytes.Buffer
	b.Grow(int(min(max(q.ContentLength, 0), 16<<10)) + bytes.MinRead)
	_, err := b.ReadFrom(reader)
	body := b.Bytes()
	if err == nil && int64(len(body)) < q.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return body, nil
	case errors.As(err, &large):
		return nil, tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &refusal{http.StatusRequestTimeout, "the body takes too long", err}
	}
	return nil, &refusal{http.StatusBadRequest, "the body broke off", err}
}

// Accept stores a verified message that came by another way than ServeHTTP, to be
// worked on by Run, and reports whether it is the first of its id. It is durable
// when Accept returns.
func (r *Receiver) Accept(ctx context.Context, m webhook.Message) (first bool, err error) {
	if err := CheckID(m.ID); err != nil {
		return false, err
	}
	now := time.Now()
	e := &Entry{Source: r.Source, ID: m.ID, Type: eventType(m.Body), Scheme: m.Scheme, Sent: m.Timestamp, Received: now, Body: m.Body, State: Pending, Due: now}
	// With room in memory the entry is born claimed, and is worked on without being
	// searched for.
	taken := r.work.reserve(1) == 1
	if taken {
		e.Token, e.Working, e.Due = 1, true, now.Add(r.lease())
	}
	first, err = r.store.Accept(ctx, e)
	switch {
	case taken && first && err == nil:
		if !r.work.begin(e) { // Run has ended meanwhile.
			r.settle(context.Background(), []ended{released(e)})
			r.work.free(1)
		}
	case taken:
		r.work.free(1)
	case first:
		r.work.expect()
	}
	return first, err
}

// eventType reads the event's type; what is not one that a database stores as it
// is has none.
func eventType(body []byte) string {
	// Events of ringback and the Gemini API begin with it.
	if rest, ok := bytes.CutPrefix(body, []byte(`{"type":"`)); ok {
		if text, _, ok := bytes.Cut(rest[:min(len(rest), maxID)], []byte{'"'}); ok && bytes.IndexByte(text, '\\') < 0 && CheckID(string(text)) == nil {
			return string(text)
		}
	}
	var e struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(body, &e) != nil || CheckID(e.Type) != nil {
		return ""
	}
	return e.Type
}

// maxError bounds the text of an error that is kept.
const maxError = 4 << 10

// errorText is the text of an error as every database stores it.
func errorText(err error) string {
	text := strings.ToValidUTF8(strings.ReplaceAll(err.Error(), "\x00", ""), "?")
	if len(text) > maxError {
		text = strings.ToValidUTF8(text[:maxError], "") + "…"
	}
	if text == "" {
		return "an error without text"
	}
	return text
}

func (r *Receiver) lease() time.Duration { return orDefault(r.Lease, 30*time.Second) }
func (r *Receiver) workers() int         { return orDefault(r.Workers, 8) }

// permanent is an error that another attempt would not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks an error of Func as one that another attempt would not mend:
// the entry is a dead letter at once.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

// later is an error that says when to try again.
type later struct {
	error
	wait time.Duration
}

func (l later) Unwrap() error { return l.error }

// RetryAfter gives an error of Func the wait until the next attempt, in place of
// the delay that the Receiver has for it. It does not add attempts.
func RetryAfter(err error, wait time.Duration) error {
	if err == nil {
		return nil
	}
	return later{err, wait}
}

// maxLost is how often an entry may be under way when the process dies before it
// is a dead letter: it may well be what kills it.
const maxLost = 10

// judge decides what comes of an attempt that ended with err.
func (r *Receiver) judge(e *Entry, started, now time.Time, err error) Outcome {
	o := Outcome{State: Done, Started: started, At: now}
	if err == nil {
		return o
	}
	o.Error = errorText(err)
	delays := r.Delays
	if delays == nil {
		delays = DefaultDelays()
	}
	if p := (permanent{}); errors.As(err, &p) || e.Attempts >= len(delays) {
		o.State = Dead
		return o
	}
	wait := delays[e.Attempts]
	wait += time.Duration(float64(wait) * 0.2 * (2*rand.Float64() - 1))
	if l := (later{}); errors.As(err, &l) {
		wait = max(l.wait, 0)
	}
	o.State, o.Due = Pending, now.Add(wait)
	return o
}
