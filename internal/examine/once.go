package examine

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"ringback.dev/internal/post"
)

// once are the cases about doubles, order and retries: what at-least-once
// delivery asks of a receiver.
func once() []kase {
	return []kase{
		{Case{"duplicate", groupOnce, "the same message three times, each attempt with its own timestamp",
			"2xx each time, one effect", "Deliveries are at least once: an answer that is lost on its way makes a double. A double that is refused is sent again and again.",
			"Keep the webhook-id (not the signature, not the job's id) and answer 2xx to one that you have."},
			"", false, nil, duplicate},
		{Case{"concurrent", groupOnce, "the same message eight times at once",
			"2xx (409, 425, 429 or 503 while another one is at work), one effect", "A retry can meet an attempt that is still at work; to look first and insert later lets both through.",
			"Claim the id in one step: a unique key and INSERT … ON CONFLICT DO NOTHING, in the transaction of the effect."},
			"", false, nil, concurrent},
		{Case{"same-job", groupOnce, "two events about one job, each with its own webhook-id",
			"2xx both times, and both effects", "One job can have several events; who takes data.id for the key of doubles drops the second.",
			"The key is webhook-id."},
			"", false, nil, sameJob},
		{Case{"reordered", groupOnce, "an event, then one that happened an hour before it",
			"2xx both times, and both effects", "Retries make events overtake each other; there is no order.",
			"Don't compare an event's time with the last one's; when order matters, fetch the job's state."},
			"", false, nil, reordered},
		{Case{"hung-up", groupOnce, "a message whose sender hangs up before the answer, then the same one again",
			"2xx at the second time, one effect", "A sender that gave up waiting does not know what became of it. Work that is cut off with the connection, behind a claim that stays, is lost for good.",
			"Store the event and answer; work outside the request, or give the claim back when the work fails."},
			"", false, nil, hungUp},
		{Case{"failure", groupOnce, "an event at which the receiver's work fails the first time, sent again until it is accepted",
			"2xx in the end, one effect", "To note the id first and work then turns a failure into a double that is dropped; to catch the error and answer 200 drops it at once.",
			"Claim and effect in one transaction, so that a failure takes back both; answer 5xx, or try again yourself."},
			"", false, nil, failure},
	}
}

func duplicate(ctx context.Context, x *exam) error {
	m, err := x.event()
	if err != nil {
		return err
	}
	for i := range 3 {
		m.at = time.Now().Add(time.Duration(i-2) * time.Second)
		r, err := x.send(ctx, m)
		if err != nil {
			return err
		}
		if !r.OK() && i > 0 {
			x.fail("answered %s to a double: the sender takes that for a failure and sends it again for 24 hours", status(&r))
		} else {
			x.accepted(&r)
		}
	}
	return x.acted(ctx, 1)
}

// doubles is how many attempts are made at once.
const doubles = 8

func concurrent(ctx context.Context, x *exam) error {
	m, err := x.event()
	if err != nil {
		return err
	}
	m.at = m.at.Add(-2 * time.Second) // So that the later attempt has another timestamp.
	var all sync.WaitGroup
	results := make([]post.Result, doubles)
	errs := make([]error, doubles)
	for i := range results {
		all.Go(func() { results[i], errs[i] = x.send(ctx, m) })
	}
	all.Wait()
	for i := range results {
		if errs[i] != nil {
			return errs[i]
		}
		if !busy(&results[i]) {
			x.accepted(&results[i])
		}
	}
	if err := x.again(ctx, m); err != nil {
		return err
	}
	return x.acted(ctx, 1)
}

// busy reports whether the receiver asks to come again, such as while another
// attempt is at work.
func busy(r *post.Result) bool {
	switch r.Status {
	case http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return true
	}
	return false
}

// tries is how often a message is sent again until it is accepted.
const tries = 5

// again sends a message until it is accepted, as a sender does: for longer while the
// receiver is busy.
func (x *exam) again(ctx context.Context, m message) error {
	m.note = "again"
	end := time.Now().Add(x.EffectsWithin)
	for i := 1; ; i++ {
		m.at = time.Now()
		r, err := x.send(ctx, m)
		if err != nil || r.OK() {
			return err
		}
		if i >= tries && !(busy(&r) && time.Now().Before(end)) {
			x.accepted(&r)
			return nil
		}
		if err := wait(ctx, x.Pause); err != nil {
			return err
		}
	}
}

func status(r *post.Result) string {
	if r.Status == 0 {
		return "nothing (" + r.Why() + ")"
	}
	return strconv.Itoa(r.Status)
}

func sameJob(ctx context.Context, x *exam) error {
	// Whether the receiver acts on the other type at all is found out first, with
	// another job.
	probe, err := x.event()
	if err == nil {
		probe.body, err = x.Another(probe.body, time.Now())
	}
	if err != nil {
		return err
	}
	probe.note = "another type"
	r, err := x.send(ctx, probe)
	if err != nil || !x.accepted(&r) {
		return err
	}
	want := int64(1)
	if x.Config.Effects != nil {
		// Nothing may come of it: it is watched for no longer than for one too many.
		if err := x.settle(ctx); err != nil {
			return err
		}
		now, err := x.Config.Effects(ctx)
		if err != nil {
			return err
		}
		if now > x.before {
			want = 2
		}
		x.before = now
	}
	at := time.Now()
	body, err := x.Event(at)
	if err != nil {
		return err
	}
	other, err := x.Another(body, at)
	if err != nil {
		return err
	}
	first, second := x.about(other), x.about(body)
	first.note, second.note = "first", "second"
	for _, m := range []message{first, second} {
		m.at = time.Now()
		r, err := x.send(ctx, m)
		if err != nil {
			return err
		}
		x.accepted(&r)
	}
	return x.acted(ctx, want)
}

func reordered(ctx context.Context, x *exam) error {
	for _, age := range []time.Duration{0, time.Hour} {
		body, err := x.Event(time.Now().Add(-age))
		if err != nil {
			return err
		}
		m := x.about(body)
		m.note = "now"
		if age > 0 {
			m.note, m.at = "earlier", m.at.Add(-20*time.Second)
		}
		r, err := x.send(ctx, m)
		if err != nil {
			return err
		}
		x.accepted(&r)
	}
	return x.acted(ctx, 2)
}

func hungUp(ctx context.Context, x *exam) error {
	m, err := x.event()
	if err != nil {
		return err
	}
	m.at = m.at.Add(-2 * time.Second) // So that the later attempt has another timestamp.
	c, err := x.dial(ctx, &m, int64(len(m.body)))
	if err != nil {
		return err
	}
	_, err = c.Write(m.body)
	c.hangUp("hung up", x, m.body)
	if err != nil {
		x.fail("the connection broke while the message was sent: %v", err)
	}
	if err := wait(ctx, x.Pause); err != nil {
		return err
	}
	if err := x.again(ctx, m); err != nil {
		return err
	}
	return x.acted(ctx, 1)
}

func failure(ctx context.Context, x *exam) error {
	if x.FailOnce == nil {
		x.notJudged("say how your receiver can be made to fail at an event's first attempt (--fail-set)")
		return nil
	}
	m, err := x.event()
	if err == nil {
		m.body, err = x.FailOnce(m.body)
	}
	if err != nil {
		return err
	}
	r, err := x.send(ctx, m)
	if err != nil {
		return err
	}
	if !r.OK() {
		// Else it tries again itself, or has lost it: the effects tell.
		if err := wait(ctx, x.Pause); err != nil {
			return err
		}
		if err := x.again(ctx, m); err != nil {
			return err
		}
	} else if x.Config.Effects == nil {
		x.notJudged("it accepted the event at once; whether the work is done is seen by --effects only")
		return nil
	}
	return x.acted(ctx, 1)
}
