package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"ringback.dev"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/genai"
)

const (
	// streamPoll bounds what losing a hint costs, heartbeat how long a stream is
	// silent. streamPage is how many groups of events are read at a time.
	streamPoll = time.Second
	heartbeat  = 15 * time.Second
	streamPage = 64
	// headEvents come before those of the steps.
	headEvents = 2
)

// eventWriter writes server-sent events (the HTML standard §9.2).
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	mu      sync.Mutex // Held while something is sent.
}

// newEventWriter begins a stream. The headers leave at once: until they come the
// SDKs give their callers no stream, and the first event may be long in coming.
func newEventWriter(w http.ResponseWriter) *eventWriter {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // What nginx would gather.
	w.WriteHeader(http.StatusOK)
	x := &eventWriter{w: w, control: http.NewResponseController(w)}
	_ = x.send(nil) // If it can't be sent, the first event can't.
	return x
}

// silence is what is sent so that nobody on the way takes the connection for dead.
const silence = ": still here\n\n"

// beat sends silence from time to time until stop is called.
func (x *eventWriter) beat() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_ = x.send([]byte(silence)) // The next event finds that the client has gone.
			}
		}
	}()
	return func() { close(done); <-ended }
}

// send writes what was made by genai.AppendEvent, and has it leave at once.
func (x *eventWriter) send(events []byte) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	_ = x.control.SetWriteDeadline(time.Now().Add(streamWrite)) // Not every writer has deadlines.
	if _, err := x.w.Write(events); err != nil {
		return err
	}
	return x.control.Flush()
}

// streamed is an interaction whose stream is read.
type streamed struct {
	a    *api
	c    *call
	job  *ringback.Job
	spec *genai.InteractionSpec
	// until is closed when the stream must be cut off; nil for one that may go on as
	// long as its connection does.
	until <-chan struct{}
}

// head are the events before those of the steps.
func (s *streamed) head() ([]byte, error) {
	created := s.resource("in_progress")
	created.Updated = created.Created
	b, err := genai.AppendEvent(nil, 1, &genai.InteractionEvent{Type: genai.EventCreated, Interaction: created})
	if err != nil {
		return nil, err
	}
	return genai.AppendEvent(b, headEvents, &genai.InteractionEvent{Type: genai.EventStatus, InteractionID: string(s.job.ID), Status: "in_progress"})
}

// resource is the interaction as it stands in events: without its steps.
func (s *streamed) resource(status string) *genai.Interaction {
	r := resource(s.job, s.spec)
	r.Status = status
	return r
}

// tail are the events after the last one of the steps, whose number and text are
// given: it may be of a step that was left open.
func (s *streamed) tail(last int64, text []byte) ([]byte, error) {
	out, err := s.a.interactionOutput(s.c, s.job)
	if err != nil {
		return nil, err
	}
	var events []genai.InteractionEvent
	if len(text) > 0 {
		e, err := genai.ReadEvent(text)
		if err != nil {
			return nil, fmt.Errorf("stream of interaction %s: %w", s.job.ID, err)
		}
		if e.Type != genai.EventStepStop {
			events = append(events, genai.InteractionEvent{Type: genai.EventStepStop, Index: e.Index})
		}
	}
	if !s.spec.Stream || s.spec.Video != nil { // Nothing of them was told before.
		for i := range out.Steps {
			events = append(events, genai.StepEvents(i, &out.Steps[i])...)
		}
	}
	if f := s.job.Failure; f != nil {
		events = append(events, genai.InteractionEvent{Type: genai.EventError, Error: &genai.InteractionError{Code: f.Code, Message: f.Message}})
	}
	end := s.resource(string(s.job.State))
	end.Usage = out.Usage
	if s.job.Failure != nil {
		end.Errors = interactionErrors(s.job)
	}
	events = append(events, genai.InteractionEvent{Type: genai.EventCompleted, Interaction: end})
	var b []byte
	for i := range events {
		if b, err = genai.AppendEvent(b, last+1+int64(i), &events[i]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// skip cuts the events off up to number after, the first one of which has the
// number first.
func skip(events []byte, first, after int64) []byte {
	for ; first <= after && len(events) > 0; first++ {
		_, events = genai.CutEvent(events)
	}
	return events
}

// lastEvent is the last one of several.
func lastEvent(events []byte) []byte {
	var last []byte
	for len(events) > 0 {
		last, events = genai.CutEvent(events)
	}
	return last
}

// resumption reads the number of the last event that a client has: 0 if it begins.
func (c *call) resumption() (int64, error) {
	id := c.query("last_event_id")
	if id == "" {
		return 0, nil
	}
	n, ok := genai.ParseEventID(id)
	if !ok {
		return 0, unknownEvent(id)
	}
	return n, nil
}

func unknownEvent(id string) error {
	return invalid("last_event_id: this stream has no event %q", id)
}

// follow sends the stream of a stored interaction after event number after, until
// it has ended. What is sent is durable: whoever loses the connection goes on
// with last_event_id, also after the server was killed. It returns an error only
// before anything is sent. done reports whether the stream came to its end.
func (s *streamed) follow(after int64) (done bool, err error) {
	ctx, c := s.c.Context(), s.c
	parts, stop := s.a.Manage.Bus.ListenParts(s.job.ID)
	defer stop()
	page, err := s.read(after)
	if err != nil {
		return false, err
	}
	if err := s.checkResumption(after, &page); err != nil {
		return false, err
	}
	out := newEventWriter(c.w)
	if after < headEvents {
		head, err := s.head()
		if err != nil || out.send(skip(head, 1, after)) != nil {
			return false, nil
		}
		after = headEvents
	}
	poll, beat := time.NewTicker(streamPoll), time.NewTicker(heartbeat)
	defer poll.Stop()
	defer beat.Stop()
	for {
		if len(page.events) > 0 {
			if out.send(page.events) != nil {
				return false, nil
			}
			after = page.last
			beat.Reset(heartbeat)
		}
		if page.ended && after >= page.stored {
			return s.finish(out, after, page.stored) == nil, nil
		}
		look := page.full
		for page = (streamPart{}); !look && page.events == nil; {
			select {
			case <-ctx.Done():
				return false, nil
			case <-s.until:
				return false, nil
			case <-beat.C:
				if out.send([]byte(silence)) != nil {
					return false, nil
				}
			case <-poll.C:
				look = true
			case p := <-parts:
				poll.Reset(streamPoll)
				page, look = s.fresh(p, parts, after)
			}
		}
		if !look {
			continue
		}
		if page, err = s.read(after); err != nil {
			if errors.Is(err, ringback.NotFound) {
				s.sendDeleted(out, after)
			}
			return false, nil // The client comes again and resumes.
		}
	}
}

// fresh takes what was just stored, as much as there is, if it follows event
// number after. look reports whether the store must be looked at: the stream may
// have ended, or something was lost on the way.
func (s *streamed) fresh(p bus.Part, more <-chan bus.Part, after int64) (page streamPart, look bool) {
	for {
		if p.Data == nil || p.First > after+1 {
			page.full = true
			return page, page.events == nil
		}
		if p.Last > after {
			page.events = append(page.events, skip(p.Data, p.First, after)...)
			page.last, after = p.Last, p.Last
		}
		select {
		case p = <-more:
		default:
			return page, false
		}
	}
}

// streamPart is what was read of a stream.
type streamPart struct {
	events []byte
	last   int64 // Number of the last one of events.
	stored int64 // That of the last one there is; headEvents if there is none.
	full   bool  // The store must be looked at for more.
	ended  bool
}

func (s *streamed) read(after int64) (streamPart, error) {
	groups, state, err := s.a.Store.StreamAfter(s.c.Context(), s.c.project, s.job.ID, after, streamPage)
	if err != nil {
		return streamPart{}, err
	}
	p := streamPart{stored: max(state.Last, headEvents), full: len(groups) == streamPage, ended: state.Ended}
	for i := range groups {
		g := &groups[i]
		p.events = append(p.events, skip(g.Data, g.First, after)...)
		p.last = g.Last
	}
	return p, nil
}

// checkResumption refuses an event that the stream does not have.
func (s *streamed) checkResumption(after int64, p *streamPart) error {
	if after <= p.stored {
		return nil
	}
	if p.ended {
		rest, err := s.end(p.stored)
		if err != nil {
			return err
		}
		n := p.stored
		for ; len(rest) > 0; n++ {
			_, rest = genai.CutEvent(rest)
		}
		if after <= n {
			return nil
		}
	}
	return unknownEvent(genai.EventID(after))
}

// end makes the events after the last stored one, of an interaction that has ended.
func (s *streamed) end(stored int64) ([]byte, error) {
	j, err := s.a.Store.Job(s.c.Context(), s.c.project, s.job.ID)
	if err != nil {
		return nil, err
	}
	s.job = j
	var text []byte
	if stored > headEvents {
		groups, _, err := s.a.Store.StreamAfter(s.c.Context(), s.c.project, s.job.ID, stored-1, 1)
		if err != nil {
			return nil, err
		}
		if len(groups) > 0 {
			text = lastEvent(groups[0].Data)
		}
	}
	return s.tail(stored, text)
}

// finish sends what comes after event number after, and the end of the stream.
func (s *streamed) finish(out *eventWriter, after, stored int64) error {
	rest, err := s.end(stored)
	if err != nil {
		return err
	}
	return out.send(append(skip(rest, stored+1, after), genai.StreamEnd...))
}

// sendDeleted tells that the interaction is gone.
func (s *streamed) sendDeleted(out *eventWriter, after int64) {
	b, err := genai.AppendEvent(nil, after+1, &genai.InteractionEvent{Type: genai.EventError,
		Error: &genai.InteractionError{Code: "not_found", Message: "the interaction was deleted"}})
	if err == nil {
		_ = out.send(append(b, genai.StreamEnd...)) // The client has gone if this fails.
	}
}

// wantsStream reports whether the query asks for a stream (wire contract §0.3, rule
// 8: what the client says it accepts tells nothing).
func (c *call) wantsStream() bool {
	stream, _ := strconv.ParseBool(c.query("stream")) // What is neither asks for nothing.
	return stream || c.query("alt") == "sse"
}

// followInteraction answers GET with stream=true.
func (a *api) followInteraction(c *call, id ringback.ID) (any, error) {
	after, err := c.resumption()
	if err != nil {
		return nil, err
	}
	s, err := a.streamOf(c, id)
	if err != nil {
		return nil, err
	}
	_, err = s.follow(after)
	return nil, err
}

func (a *api) streamOf(c *call, id ringback.ID) (*streamed, error) {
	j, spec, err := a.interactionWithSpec(c, id)
	if err != nil {
		return nil, err
	}
	return &streamed{a, c, j, spec, a.Manage.Closing}, nil
}

// streamForeground sends the stream of an interaction for which the client waits:
// when it goes away, the interaction is cancelled.
func (a *api) streamForeground(c *call, j *ringback.Job, spec *genai.InteractionSpec) (any, error) {
	s := &streamed{a, c, j, spec, nil}
	done, err := s.follow(0)
	select {
	case <-a.Manage.Closing:
		return nil, err // It is run to its end, here or by the next process.
	default:
	}
	if done || c.Context().Err() == nil {
		return nil, err
	}
	if _, e := a.Runner.Cancel(context.WithoutCancel(c.Context()), c.project, j.ID); e != nil && ringback.CodeOf(e) == "" {
		a.Log.Error("cancel an interaction for which nobody waits", "job", j.ID, "error", e)
	}
	return nil, err
}

// streamUnstored runs an interaction that leaves nothing behind and sends what it
// says.
func (a *api) streamUnstored(c *call, j *ringback.Job, spec *genai.InteractionSpec) (any, error) {
	s := &streamed{a, c, j, spec, nil}
	j.Created, j.Updated = c.now, c.now
	head, err := s.head()
	if err != nil {
		return nil, err
	}
	out := newEventWriter(c.w)
	if out.send(head) != nil {
		return nil, nil
	}
	n := int64(headEvents)
	stop := out.beat()
	ended, err := a.Runner.DoUnstored(c.Context(), j, func(e *genai.InteractionEvent) error {
		n++
		b, err := genai.AppendEvent(nil, n, e)
		if err != nil {
			return err
		}
		return out.send(b)
	})
	stop()
	if err != nil {
		return nil, nil // The client has gone, or the server stops.
	}
	s.job = ended
	rest, err := s.tail(n, nil)
	if err == nil {
		_ = out.send(append(rest, genai.StreamEnd...)) // The client has gone if this fails.
	}
	return nil, nil
}

// interactionOutput reads what an interaction has produced. Files of ours have their
// name there, of which an address is made.
func (a *api) interactionOutput(c *call, j *ringback.Job) (genai.InteractionOutput, error) {
	var out genai.InteractionOutput
	if j.Output == nil {
		return out, nil
	}
	if err := json.Unmarshal(j.Output, &out); err != nil {
		return out, fmt.Errorf("output of interaction %s: %w", j.ID, err)
	}
	for i := range out.Steps {
		for k := range out.Steps[i].Content {
			if content := &out.Steps[i].Content[k]; strings.HasPrefix(content.URI, "files/") {
				content.URI = a.base(c.Request) + "/v1beta/" + content.URI + ":download?alt=media"
			}
		}
	}
	return out, nil
}
