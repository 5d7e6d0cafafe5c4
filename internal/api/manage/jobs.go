package manage

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// job is a job as it is shown. Its id is the one that the wire gave it.
type job struct {
	ID    ringback.ID    `json:"id"`
	Kind  ringback.Kind  `json:"kind"`
	State ringback.State `json:"state"`
	Model string         `json:"model"`
	// Background: an interaction for which no client waited.
	Background bool              `json:"background,omitempty"`
	Created    string            `json:"created"`
	Started    string            `json:"started,omitempty"`
	Ended      string            `json:"ended,omitempty"`
	Runs       int               `json:"runs"`
	Error      *ringback.Failure `json:"error,omitempty"`
}

func renderJob(j *ringback.Job) *job {
	var spec struct {
		Background bool `json:"background"`
	}
	if j.Kind == ringback.KindInteraction {
		_ = json.Unmarshal(j.Spec, &spec) // Of one that can't be read nothing is said.
	}
	return &job{Background: spec.Background, ID: j.ID, Kind: j.Kind, State: j.State, Model: j.Model, Created: wireTime(j.Created), Started: wireTime(j.Started),
		Ended: wireTime(j.Ended), Runs: j.Runs, Error: j.Failure}
}

func (m *manage) listJobs(c *call) (any, error) {
	q, err := c.query("kind", "state", "before", "limit")
	if err != nil {
		return nil, err
	}
	n, err := limit(q)
	if err != nil {
		return nil, err
	}
	before, err := numbered("before", "jobs", q.Get("before"))
	if err != nil {
		return nil, err
	}
	f := store.JobFilter{Kind: ringback.Kind(q.Get("kind")), State: ringback.State(q.Get("state"))}
	if kinds := []ringback.Kind{"", ringback.KindInteraction, ringback.KindBatch, ringback.KindVideo}; !slices.Contains(kinds, f.Kind) {
		return nil, invalid("kind: %q is none of %s", f.Kind, strings.Trim(fmt.Sprint(kinds[1:]), "[]"))
	}
	states := []ringback.State{"", ringback.Pending, ringback.Running, ringback.Completed, ringback.RequiresAction, ringback.Incomplete, ringback.BudgetExceeded, ringback.Failed, ringback.Cancelled, ringback.Expired}
	if !slices.Contains(states, f.State) {
		return nil, invalid("state: %q is none of %s", f.State, strings.Trim(fmt.Sprint(states[1:]), "[]"))
	}
	all, next, err := m.Store.ListJobs(c.Context(), c.project, f, before, n)
	if err != nil {
		return nil, err
	}
	var out struct {
		Jobs []*job `json:"jobs"`
		Next string `json:"next,omitempty"`
	}
	out.Jobs = []*job{}
	for _, j := range all {
		out.Jobs = append(out.Jobs, renderJob(j))
	}
	if next > 0 {
		out.Next = cursor("jobs", strconv.FormatInt(next, 10))
	}
	return out, nil
}

// entry is something that happened to a job.
type entry struct {
	At string `json:"at"`
	// AfterMS is since the first entry.
	AfterMS  float64     `json:"after_ms"`
	What     string      `json:"what"`
	Detail   string      `json:"detail,omitempty"`
	Event    ringback.ID `json:"event,omitempty"`
	Delivery ringback.ID `json:"delivery,omitempty"`
	Attempt  int         `json:"attempt,omitempty"`
	Webhook  ringback.ID `json:"webhook,omitempty"`

	at time.Time
}

// story is what is told of one job.
type story struct {
	*manage
	*call
	entries    []*entry
	deliveries []ringback.Delivery
	events     []ringback.Event
}

func (s *story) add(at time.Time, e entry) {
	if !at.IsZero() {
		e.at, e.At = at, wireTime(at)
		s.entries = append(s.entries, &e)
	}
}

// timeline tells the story of a job, from its creation to the last attempt of its
// callbacks, and says in one sentence why there was a callback or none.
func (m *manage) timeline(c *call) (any, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	j, err := m.Store.Job(c.Context(), c.project, c.id())
	if err != nil {
		return nil, notFound(err, "job", c.id())
	}
	s := &story{manage: m, call: c}
	s.add(j.Created, entry{What: "created", Detail: string(j.Kind) + ", model " + j.Model})
	s.add(j.Started, entry{What: "started", Detail: runs(j.Runs)})
	end := entry{What: "ended", Detail: string(j.State)}
	if j.Failure != nil {
		end.Detail += ": " + j.Failure.Code + ": " + j.Failure.Message
	}
	s.add(j.Ended, end)
	if s.events, err = m.Store.JobEvents(c.Context(), c.project, j.ID); err != nil {
		return nil, err
	}
	for i := range s.events {
		if err := s.event(&s.events[i]); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(s.entries, func(a, b *entry) int { return a.at.Compare(b.at) })
	for _, e := range s.entries {
		e.AfterMS = millis(e.at.Sub(s.entries[0].at))
	}
	why, err := s.why(j)
	return map[string]any{"job": renderJob(j), "timeline": s.entries, "why": why}, err
}

func runs(n int) string {
	if n < 2 {
		return ""
	}
	return fmt.Sprintf("run %d: the earlier ones were cut off", n)
}

// event tells of an event and what became of its deliveries.
func (s *story) event(e *ringback.Event) error {
	s.add(e.Created, entry{What: "event", Detail: string(e.Type), Event: e.ID})
	all, err := s.Store.EventDeliveries(s.Context(), s.project, e.ID)
	if err != nil {
		return err
	}
	for i := range all {
		d := &all[i]
		s.deliveries = append(s.deliveries, *d)
		attempts, err := s.Store.Attempts(s.Context(), s.project, d.ID)
		if err != nil {
			return err
		}
		for _, a := range attempts {
			detail := a.Reason
			if a.Status != 0 {
				detail = fmt.Sprintf("%d %s", a.Status, a.Reason)
			} else if a.Error != "" {
				detail += ": " + a.Error
			}
			s.add(a.Started, entry{What: "attempt", Detail: fmt.Sprintf("%s after %.1f ms, to %s", detail, millis(a.Total), s.address(d)),
				Event: e.ID, Delivery: d.ID, Attempt: a.Number, Webhook: d.Endpoint})
		}
		done := entry{Detail: s.address(d), Event: e.ID, Delivery: d.ID, Webhook: d.Endpoint}
		switch d.State {
		case ringback.DeliveryDelivered:
			done.What = "delivered"
			s.add(d.Updated, done)
		case ringback.DeliveryFailed:
			done.What, done.Detail = "failed", done.Detail+": "+d.Reason
			s.add(d.Updated, done)
		}
	}
	return nil
}

// address names where a delivery goes.
func (s *story) address(d *ringback.Delivery) string {
	if d.URI != "" {
		return shownURI(d.URI)
	}
	if e, err := s.Store.Endpoint(s.Context(), s.project, d.Endpoint); err == nil {
		return shownURI(e.URI)
	}
	return "webhook " + string(d.Endpoint) + " (deleted)"
}

// why answers the question that brings people here.
func (s *story) why(j *ringback.Job) (string, error) {
	const open = "The job has not ended yet; its end will be told."
	switch {
	case !j.State.Final() && len(s.deliveries) == 0:
		return open, nil
	case !j.State.Final():
		return open + " That it stalled: " + s.fared(), nil
	case len(s.events) == 0:
		return "The job has ended, but its events are no longer kept (see --retention).", nil
	case len(s.deliveries) == 0:
		return s.unheard()
	}
	return s.fared(), nil
}

// fared says what became of the deliveries.
func (s *story) fared() string {
	delivered := 0
	var open, lost []string
	for i := range s.deliveries {
		d := &s.deliveries[i]
		switch d.State {
		case ringback.DeliveryDelivered:
			delivered++
		case ringback.DeliveryFailed:
			lost = append(lost, fmt.Sprintf("given up on %s after %s: %s", s.address(d), count(d.Attempts, "attempt"), d.Reason))
		default:
			open = append(open, s.waiting(d))
		}
	}
	parts := []string{fmt.Sprintf("Delivered: %d of %d", delivered, len(s.deliveries))}
	if delivered == len(s.deliveries) && delivered == 1 {
		parts[0] = "Delivered"
	}
	return strings.Join(slices.Concat(parts, open, lost), "; ") + "."
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// waiting says why a delivery has not arrived yet.
func (s *story) waiting(d *ringback.Delivery) string {
	e, err := s.Store.Endpoint(s.Context(), s.project, d.Endpoint)
	if err == nil && e.State != ringback.Enabled {
		return fmt.Sprintf("kept for webhook %s (%s), which is %s since %s; it is sent once that is enabled", e.ID, shownURI(e.URI), e.State, wireTime(e.Updated))
	}
	if d.Attempts == 0 {
		return "on its way to " + s.address(d)
	}
	return fmt.Sprintf("still retrying %s until %s, next at %s; the last of %s met: %s", s.address(d),
		wireTime(s.retryUntil(s.call, d)), wireTime(d.Due), count(d.Attempts, "attempt"), cmp.Or(d.Reason, "nothing"))
}

// unheard says why an event went to nobody.
func (s *story) unheard() (string, error) {
	// The first that its end caused; a stall may have come before.
	end := &s.events[0]
	for i := range s.events {
		if s.events[i].Type != ringback.JobStalled {
			end = &s.events[i]
			break
		}
	}
	if len(end.Skipped) == 0 {
		return "Nothing was sent: the project had no webhook when the job ended. Register one, or name an address in webhook_config.", nil
	}
	var parts []string
	for _, k := range end.Skipped {
		var names []string
		for _, id := range k.Endpoints {
			names = append(names, string(id))
		}
		if k.Count > len(names) {
			names = append(names, "…")
		}
		what := "not subscribed to " + string(end.Type)
		if k.Reason != ringback.NotSubscribed {
			what = string(k.Reason)
		}
		verb := "is"
		if k.Count != 1 {
			verb = "are"
		}
		parts = append(parts, fmt.Sprintf("%s (%s) %s %s", count(k.Count, "webhook"), strings.Join(names, ", "), verb, what))
	}
	return "Nothing was sent: " + strings.Join(parts, "; ") + ".", nil
}
