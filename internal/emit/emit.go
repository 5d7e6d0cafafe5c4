// Package emit turns what happened into events and their deliveries: it builds
// the bodies that will be signed, decides who gets them, and has the store keep
// all of it in one step with the cause. It sends nothing itself.
package emit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"ringback.dev"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/crash"
	"ringback.dev/internal/jsjson"
	"ringback.dev/internal/store"
)

// Handover passes fresh deliveries to the sender in memory, so that no query
// stands between a commit and the first attempt. All of it is a hint: a
// delivery that is not handed over is found by the sender's poll.
type Handover interface {
	// Take reserves a place for one delivery to the target; false if the lane or
	// the sender is full, paused or stopping. e is the target's endpoint, nil if
	// the target is a URI.
	Take(target string, e *ringback.Endpoint) bool
	// Give returns a place that was not used.
	Give(target string)
	// Hand starts the attempt of a delivery for which a place was taken.
	Hand(store.ClaimedDelivery)
	// Wake tells that there are due deliveries in the store.
	Wake()
}

// Emitter records ends, stalls and pings. It may be used by any number of
// goroutines.
type Emitter struct {
	store store.Store
	hand  Handover
	hints *bus.Bus
	node  string
	lease time.Duration
	base  string
}

// New returns an Emitter that leases first attempts to node for lease, and tells
// hints of every event. base is the address under which clients reach the
// server, for the links in events.
func New(st store.Store, hand Handover, hints *bus.Bus, node string, lease time.Duration, base string) *Emitter {
	return &Emitter{store: st, hand: hand, hints: hints, node: node, lease: lease, base: base}
}

// EndJob records that a job ended, with its events and their deliveries, in one
// step of the store; end.Happenings is filled in. Errors are those of
// store.EndJob. A nil lease ends the job whoever runs it.
func (e *Emitter) EndJob(ctx context.Context, job *ringback.Job, lease *ringback.Lease, end *store.End) error {
	data := endData(job, end, e.base)
	to, err := e.audience(ctx, job)
	if err != nil {
		return fmt.Errorf("who hears of the end of job %s: %w", job.ID, err)
	}
	types := ringback.EndEvents(job.Kind, end.State)
	end.Happenings = make([]*store.Happening, len(types))
	for i, t := range types {
		end.Happenings[i] = to.happening(t, job.ID, data, end.At)
	}
	return e.emit(to, end.Happenings, func() error {
		crash.At(crash.EndDecided)
		return e.store.EndJob(ctx, job.ID, lease, end)
	})
}

// Ended makes the event that a job's end causes, the first if there are several,
// for ends that are known from elsewhere. base is the address of the server that
// has the results.
func Ended(job *ringback.Job, end *store.End, base string) (ringback.EventType, []byte) {
	t := ringback.EndEvents(job.Kind, end.State)[0]
	return t, marshalBody(t, end.At, endData(job, end, base))
}

// endData is what the events of a job's end tell.
func endData(job *ringback.Job, end *store.End, base string) eventData {
	data := eventData{id: wireID(job)}
	if len(end.Files) > 0 {
		uri := base + "/v1beta/files/" + string(end.Files[0].ID) + ":download?alt=media"
		data.more = append(data.more, text("output_file_uri", uri), text("file_name", "files/"+string(end.Files[0].ID)))
		if job.Kind == ringback.KindVideo {
			data.more = append(data.more, text("video_uri", uri)) // Samples differ in what they read (§2.3).
		}
	}
	if end.Failure != nil {
		data.more = append(data.more, text("error_code", end.Failure.Code), text("error_message", end.Failure.Message))
	}
	if job.Kind == ringback.KindBatch {
		data.more = append(data.more, counts(end.Rows))
	}
	return data
}

// stallData is what the event of a job that does not move tells.
func stallData(job *ringback.Job) eventData {
	return eventData{id: wireID(job), more: []member{
		text("kind", string(job.Kind)), text("state", string(job.State)), text("create_time", wireTime(job.Created))}}
}

// disabledData is what the event of a webhook that was disabled tells.
func disabledData(which *ringback.Endpoint, state ringback.EndpointState, reason string) eventData {
	return eventData{id: string(which.ID), more: []member{
		text("name", which.Name), text("state", string(state)), text("reason", reason)}}
}

// wireID names a job in a way that the SDKs take (wire contract §2.3).
func wireID(job *ringback.Job) string {
	switch job.Kind {
	case ringback.KindBatch:
		return "batches/" + string(job.ID)
	case ringback.KindVideo:
		return "models/" + job.Model + "/operations/" + string(job.ID)
	}
	return string(job.ID)
}

// Stalled records that a job passed its deadline without moving. Errors are those
// of store.MarkStalled.
func (e *Emitter) Stalled(ctx context.Context, job *ringback.Job, now time.Time) error {
	to, err := e.audience(ctx, job)
	if err != nil {
		return fmt.Errorf("who hears of the stall of job %s: %w", job.ID, err)
	}
	h := to.happening(ringback.JobStalled, job.ID, stallData(job), now)
	return e.emit(to, []*store.Happening{h}, func() error { return e.store.MarkStalled(ctx, job.ID, h) })
}

// Ping sends a ping event to one endpoint, whatever it subscribes to.
func (e *Emitter) Ping(ctx context.Context, endpoint *ringback.Endpoint, now time.Time) error {
	to := &audience{project: endpoint.Project, endpoints: []*ringback.Endpoint{endpoint}, all: true}
	h := to.happening(ringback.Ping, "", eventData{id: string(endpoint.ID)}, now)
	return e.emit(to, []*store.Happening{h}, func() error { return e.store.AddEvent(ctx, h) })
}

// Trigger records an event that nothing caused, with a body that the caller made,
// for the trial of receivers. It goes to the endpoints that are subscribed to
// its type; a ping goes to all.
func (e *Emitter) Trigger(ctx context.Context, project ringback.ID, t ringback.EventType, body []byte, now time.Time) (ringback.ID, error) {
	endpoints, err := e.store.ProjectEndpoints(ctx, project)
	if err != nil {
		return "", fmt.Errorf("who hears of a %s event: %w", t, err)
	}
	to := &audience{project: project, endpoints: endpoints, all: t == ringback.Ping}
	h := to.hear(t, "", body, now)
	return h.Event.ID, e.emit(to, []*store.Happening{h}, func() error { return e.store.AddEvent(ctx, h) })
}

// Disabled makes the event that tells the project's other endpoints that one was
// disabled by the server. Its deliveries wait in the store.
func Disabled(which *ringback.Endpoint, endpoints []*ringback.Endpoint, state ringback.EndpointState, reason string, at time.Time) *store.Happening {
	to := &audience{project: which.Project}
	for _, e := range endpoints {
		if e.ID != which.ID {
			to.endpoints = append(to.endpoints, e)
		}
	}
	return to.happening(ringback.WebhookDisabled, "", disabledData(which, state, reason), at)
}

// audience are those who may hear of something.
type audience struct {
	project   ringback.ID
	endpoints []*ringback.Endpoint
	all       bool // Whatever they subscribe to.
	// dynamic, if not nil, replaces the endpoints.
	dynamic *ringback.DynamicWebhooks
	scheme  ringback.Scheme // Of dynamic.
}

// audience finds out who may hear of a job.
func (e *Emitter) audience(ctx context.Context, job *ringback.Job) (*audience, error) {
	endpoints, err := e.store.ProjectEndpoints(ctx, job.Project)
	if err != nil {
		return nil, err
	}
	to := &audience{project: job.Project, endpoints: endpoints}
	if job.Webhooks != nil && len(job.Webhooks.URIs) > 0 {
		p, err := e.store.Project(ctx, job.Project)
		if err != nil {
			return nil, err
		}
		to.dynamic, to.scheme = job.Webhooks, p.DynamicSignature
	}
	return to, nil
}

// Target names the lane of a per-request address. Projects don't share lanes.
func Target(project ringback.ID, uri string) string {
	sum := sha256.Sum256([]byte(string(project) + "\x00" + uri))
	return "uri_" + hex.EncodeToString(sum[:16])
}

// happening makes an event and its deliveries.
func (to *audience) happening(t ringback.EventType, job ringback.ID, data eventData, at time.Time) *store.Happening {
	if to.dynamic != nil {
		data.metadata = to.dynamic.UserMetadata
	}
	return to.hear(t, job, marshalBody(t, at, data), at)
}

// hear makes an event of a body, and its deliveries.
func (to *audience) hear(t ringback.EventType, job ringback.ID, body []byte, at time.Time) *store.Happening {
	h := &store.Happening{Event: ringback.Event{ID: ringback.NewID("evt", at), Project: to.project, Type: t, Job: job, Created: at, Body: body}}
	add := func(d ringback.Delivery) {
		d.ID, d.Event, d.Project, d.State = ringback.NewID("msg", at), h.Event.ID, to.project, ringback.DeliveryPending
		d.Due, d.Begun, d.Created, d.Updated = at, at, at, at
		h.Deliveries = append(h.Deliveries, store.NewDelivery{Delivery: d})
	}
	if to.dynamic != nil {
		h.Event.Skipped = ringback.SkipAll(ringback.Replaced, to.endpoints)
		for _, uri := range to.dynamic.URIs {
			add(ringback.Delivery{Target: Target(to.project, uri), URI: uri, Scheme: to.scheme})
		}
		return h
	}
	chosen := to.endpoints
	if !to.all {
		chosen, h.Event.Skipped = ringback.Route(t, to.endpoints)
	}
	for _, ep := range chosen {
		add(ringback.Delivery{Target: string(ep.ID), Endpoint: ep.ID})
	}
	return h
}

// endpoint returns the one of an id, nil for the empty id.
func (to *audience) endpoint(id ringback.ID) *ringback.Endpoint {
	for _, e := range to.endpoints {
		if e.ID == id {
			return e
		}
	}
	return nil
}

// emit takes places for first attempts, has save store the happenings, and hands
// the deliveries that were born leased to the sender.
func (e *Emitter) emit(to *audience, all []*store.Happening, save func() error) error {
	waiting := false
	for _, h := range all {
		for i := range h.Deliveries {
			d := &h.Deliveries[i]
			ep := to.endpoint(d.Endpoint)
			if ep != nil && ep.State != ringback.Enabled {
				continue // It is kept until the endpoint is enabled again.
			}
			if e.hand.Take(d.Target, ep) {
				d.Lease = &ringback.Lease{Node: e.node, Token: 1, Until: d.Created.Add(e.lease)}
				d.Due = d.Lease.Until
			} else {
				waiting = true
			}
		}
	}
	if err := save(); err != nil {
		for _, h := range all {
			for i := range h.Deliveries {
				if h.Deliveries[i].Lease != nil {
					e.hand.Give(h.Deliveries[i].Target)
				}
			}
		}
		return err
	}
	crash.At(crash.EndCommitted)
	for _, h := range all {
		for i := range h.Deliveries {
			if d := &h.Deliveries[i]; d.Lease != nil {
				e.hand.Hand(store.ClaimedDelivery{Delivery: d.Delivery, Lease: *d.Lease, Type: h.Event.Type, Body: h.Event.Body, To: to.endpoint(d.Endpoint)})
			}
		}
		e.hints.Publish(bus.Hint{Project: to.project, Kind: bus.Event, ID: h.Event.ID})
	}
	if waiting {
		e.hand.Wake()
	}
	crash.At(crash.HintPublished)
	return nil
}

// eventData points to what the event is about; results are not in it.
type eventData struct {
	id       string
	more     []member
	metadata []byte // A JSON object, or nil.
}

// member is a further member of the data, as JSON.
type member struct {
	name  string
	value []byte
}

func text(name, value string) member { return member{name, jsjson.AppendString(nil, value)} }

// counts tells how the rows of a batch fared. It is ours: Google's events don't.
func counts(r ringback.RowCounts) member {
	return member{"batch_stats", fmt.Appendf(nil, `{"request_count":%d,"successful_request_count":%d,"failed_request_count":%d,"pending_request_count":%d}`,
		r.Total, r.Succeeded, r.Failed, r.Pending())}
}

// wireTime prints a time as events show it.
func wireTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999Z") }

// marshalBody builds the exact bytes of a callback (wire contract §2.2), its keys
// in the order of the documentation. It is compact JSON as JavaScript's
// JSON.stringify would print it, since receivers are known to verify the
// signature over a re-serialised body. It is written by hand because it is on
// the path of every event. The metadata of a request stands in it twice, since no
// documentation says where receivers look for it (§2.7).
func marshalBody(t ringback.EventType, at time.Time, data eventData) []byte {
	b := make([]byte, 0, 256+2*len(data.metadata))
	b = jsjson.AppendString(append(b, `{"type":`...), string(t))
	b = append(b, `,"version":"v1","timestamp":"`...)
	b = at.UTC().AppendFormat(b, "2006-01-02T15:04:05.999999Z")
	b = jsjson.AppendString(append(b, `","data":{"id":`...), data.id)
	for _, m := range data.more {
		b = jsjson.AppendString(append(b, ','), m.name)
		b = append(append(b, ':'), m.value...)
	}
	if data.metadata == nil {
		return append(b, "}}"...)
	}
	b = append(append(b, `,"user_metadata":`...), data.metadata...)
	b = append(append(b, `},"user_metadata":`...), data.metadata...)
	return append(b, '}')
}
