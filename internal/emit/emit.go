// Package emit turns what happened into an event and its deliveries: it builds
// the body that will be signed, decides who gets it, and has the store keep all
// of it in one step with the cause. It sends nothing itself.
package emit

import (
	"context"
	"fmt"
	"time"

	"ringback.dev"
	"ringback.dev/internal/crash"
	"ringback.dev/internal/jsjson"
	"ringback.dev/internal/store"
)

// Handover passes fresh deliveries to the sender in memory, so that no query
// stands between a commit and the first attempt. All of it is a hint: a
// delivery that is not handed over is found by the sender's poll.
type Handover interface {
	// Take reserves a place for one delivery to the target; false if the lane or
	// the sender is full or stopping.
	Take(target string) bool
	// Give returns a place that was not used.
	Give(target string)
	// Hand starts the attempt of a delivery for which a place was taken.
	Hand(store.ClaimedDelivery)
	// Wake tells that there are due deliveries in the store.
	Wake()
}

// Emitter records ends and pings. It may be used by any number of goroutines.
type Emitter struct {
	store store.Store
	hand  Handover
	node  string
	lease time.Duration
}

// New returns an Emitter that leases first attempts to node for lease.
func New(st store.Store, hand Handover, node string, lease time.Duration) *Emitter {
	return &Emitter{store: st, hand: hand, node: node, lease: lease}
}

// EndJob records that a job ended, with its event and the event's deliveries,
// in one step of the store; end.Happening is filled in. Errors are those of
// store.EndJob. A nil lease ends the job whoever runs it.
func (e *Emitter) EndJob(ctx context.Context, job *ringback.Job, lease *ringback.Lease, end *store.End) error {
	ev := ringback.Event{
		ID: ringback.NewID("evt", end.At), Project: job.Project, Job: job.ID, Created: end.At,
		Type: ringback.InteractionEvent(end.State),
	}
	data := eventData{ID: string(job.ID)}
	if end.Failure != nil {
		data.ErrorCode, data.ErrorMessage = end.Failure.Code, end.Failure.Message
	}
	endpoints, err := e.store.ProjectEndpoints(ctx, job.Project)
	if err != nil {
		return fmt.Errorf("endpoints for the end of job %s: %w", job.ID, err)
	}
	return e.emit(ev, data, ringback.Route(ev.Type, endpoints), func(h *store.Happening) error {
		end.Happening = h
		crash.At(crash.EndDecided)
		return e.store.EndJob(ctx, job.ID, lease, end)
	})
}

// Ping sends a ping event to one endpoint, whatever it subscribes to.
func (e *Emitter) Ping(ctx context.Context, to *ringback.Endpoint, now time.Time) error {
	ev := ringback.Event{ID: ringback.NewID("evt", now), Project: to.Project, Type: ringback.Ping, Created: now}
	return e.emit(ev, eventData{ID: string(to.ID)}, []*ringback.Endpoint{to}, func(h *store.Happening) error {
		return e.store.AddEvent(ctx, h)
	})
}

// emit builds the happening, has save store it, and hands the deliveries that
// were born leased to the sender.
func (e *Emitter) emit(ev ringback.Event, data eventData, to []*ringback.Endpoint, save func(*store.Happening) error) error {
	body := marshalBody(ev.Type, ev.Created, data)
	ev.Body = body
	h := &store.Happening{Event: ev, Deliveries: make([]store.NewDelivery, len(to))}
	waiting := false
	for i, ep := range to {
		d := &h.Deliveries[i]
		d.Delivery = ringback.Delivery{
			ID: ringback.NewID("msg", ev.Created), Event: ev.ID, Project: ev.Project,
			Target: string(ep.ID), Endpoint: ep.ID, State: ringback.DeliveryPending,
			Due: ev.Created, Created: ev.Created, Updated: ev.Created,
		}
		if e.hand.Take(d.Target) {
			d.Lease = &ringback.Lease{Node: e.node, Token: 1, Until: ev.Created.Add(e.lease)}
			d.Due = d.Lease.Until
		} else {
			waiting = true
		}
	}
	if err := save(h); err != nil {
		for i := range h.Deliveries {
			if h.Deliveries[i].Lease != nil {
				e.hand.Give(h.Deliveries[i].Target)
			}
		}
		return err
	}
	crash.At(crash.EndCommitted)
	for i := range h.Deliveries {
		if d := &h.Deliveries[i]; d.Lease != nil {
			e.hand.Hand(store.ClaimedDelivery{Delivery: d.Delivery, Lease: *d.Lease, Type: ev.Type, Body: body, To: to[i]})
		}
	}
	if waiting {
		e.hand.Wake()
	}
	crash.At(crash.HintPublished)
	return nil
}

// eventData points to what the event is about; results are not in it.
type eventData struct {
	ID           string
	ErrorCode    string
	ErrorMessage string
}

// marshalBody builds the exact bytes of a callback (wire contract §2.2), its keys
// in the order of the documentation. It is compact JSON as JavaScript's
// JSON.stringify would print it, since receivers are known to verify the
// signature over a re-serialised body. It is written by hand because it is on
// the path of every event.
func marshalBody(t ringback.EventType, at time.Time, data eventData) []byte {
	b := make([]byte, 0, 256)
	b = jsjson.AppendString(append(b, `{"type":`...), string(t))
	b = append(b, `,"version":"v1","timestamp":"`...)
	b = at.UTC().AppendFormat(b, "2006-01-02T15:04:05.999999Z")
	b = jsjson.AppendString(append(b, `","data":{"id":`...), data.ID)
	if data.ErrorCode != "" {
		b = jsjson.AppendString(append(b, `,"error_code":`...), data.ErrorCode)
		b = jsjson.AppendString(append(b, `,"error_message":`...), data.ErrorMessage)
	}
	return append(b, "}}"...)
}
